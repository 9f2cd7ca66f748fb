"""A plan as a kernel: one thread block walks the chunks of a sequence, states and temporaries on chip."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial, reduce
from operator import mul

from tvm.tirx.script.builder import ir as tir

from dtn_core.ir.nodes import ONE, ZERO, Expr, Index, product, sum_of, terms_of

from ..pairs import PairIndex
from ..steps import ACC, Contraction, Step
from ..walks import Rows
from .along import Along
from .elements import Place, real
from .matrix_functions import MatrixFunctions
from .passes import in_place
from .placement import MATRIX, Product
from .tiles import Expression, Fragment, SharedTile, local


class Kernel(Along, MatrixFunctions):
    """Emits the kernel of one pass, step by step, into the current builder."""

    def run(self) -> None:
        """Emit all of it."""
        self.enter()
        self.begin()
        for step in self.walk.setup:
            self.compute(step)
        for name in self.plan.part.written:
            self.put(name, self.arguments.buffers[name], partial(self.sequence_at, name))
        if self.plan.part.written:
            return
        if self.plan.part.replayed:
            self.walk_back(self.plan.part.replayed)
            self.finish()
            return
        with self.chunks():
            self.leave_states(self.walk.saved)
            for step in self.walk.body:
                self.compute(step)
            self.leave(self.walk.stored)
        if self.walk.rows is not None:
            self.end_rows(self.walk.rows)
        self.finish()

    def walk_back(self, states: Collection[str]) -> None:
        """A pass from the last token to the first; the states before each are computed anew from those of its span."""
        with self.spans() as count:
            for name in states:
                self.set(name, partial(self.saved, name))
            with self.tokens(count, self.walk.replay) as token:
                for name in states:
                    self.put(name, self.arguments.buffers[f"{name}_replayed"], partial(self.token_at, name, token))
                for step in self.walk.replay:
                    self.compute(step)
            with self.tokens(count, self.walk.body, reverse=True) as token:
                for name in states:
                    self.set(name, partial(self.recalled, name, token))
                for step in self.walk.body:
                    self.compute(step)

    def end_rows(self, rows: Rows) -> None:
        """What follows from the sums of the rows of the thread block, and what is written of them."""
        self.at, self.origin = self.segment, self.rows_origin
        for name in self.plan.carried:
            self.keep(name)
        for step in rows.tail:
            self.compute(step)
        self.leave(rows.stored)
        for result, name in rows.results.items():
            self.write_result(result, name)

    def compute(self, step: Step) -> None:
        """One step, and what is kept of its result."""
        if len(step.indices) == MATRIX:
            self.matrix(step)
        elif step.indices:
            self.vector_step(step)
        else:
            self.scalar_step(step)
        if self.walk.rows is None or step.name not in self.plan.carried:  # nothing reads sums before the last chunk
            self.keep(step.name)
        if step.name in self.walk.results:
            self.write_result(step.name, step.name)

    # ------------------------------------------------------------------ matrices

    def matrix(self, step: Step) -> None:
        """Products accumulated in registers, scaled, finished and masked there."""
        layout = self.plan.layout(*self.plan.shape(step.name))
        own = self.values.fragments.get(step.name)
        if step.is_matrix_function:
            self.values.fragments[step.name] = self.engine.fragment(layout, step.name)
            self.matrix_function(step, self.values.fragments[step.name])
            return
        self.fence_reads(step)
        masked = self.must_mask(step)
        if in_place(step) and not masked:
            rest = sum_of(*(term for term in terms_of(step.finish) if term != ACC))
            target = own or self.engine.fragment(layout, step.name)
            self.set_matrix(target, step, rest)
            self.accumulate(target, step)
        else:
            target = self.engine.fragment(layout, f"{step.name}_next" if own else step.name)
            if step.groups:
                self.set_matrix(target, step, ZERO)
                self.accumulate(target, step)
            if not step.groups or step.finish != ACC or step.order is not None or masked:
                self.set_matrix(target, step, step.finish, final=True)
        if own and target is not own:
            with self.engine.each(layout) as element:
                own.put(element, target.at(element))
        self.values.fragments[step.name] = own or target

    def accumulate(self, target: Fragment, step: Step) -> None:
        """Add the products of a step, scaling after each group."""
        for group in step.groups:
            for contraction in group.contractions:
                self.multiply(target, self.plan.product(step, contraction))
            if group.factor != ONE:
                self.set_matrix(target, step, _times(group.factor))

    def set_matrix(self, target: Fragment, step: Step, value: Expr, *, final: bool = False) -> None:
        """Set every element; ``ACC`` in ``value`` is what it was.  A ``final`` value is ordered and masked."""
        row, column = step.indices
        with self.engine.each(target.layout) as element:
            places = {row: element.row, column: element.column}
            at = Place(self.taken_apart(places), step.indices, element, target.at(element))
            found = self.values.evaluate(value, at)
            if final:
                found = self.masked(step, self.values.ordered(found, step.order, at), at)
            target.put(element, found)

    def must_mask(self, step: Step) -> tuple[Index, ...]:
        """The indices along tokens past the end of which a step has to see to it that its value is 0."""
        return tuple(i for i in step.indices if i.axis in self.values.counts and self.padding.must_mask(step, i))

    def masked(self, step: Step, value: Expression, at: Place) -> Expression:
        """``value``, 0 at tokens past the end."""
        for index in self.must_mask(step):
            value = tir.Select(at.indices[index] < self.values.counts[index.axis], value, real(0))
        return value

    def taken_apart(self, places: Mapping[Index, Expression]) -> dict[Index, Expression]:
        """Places, and for an index over pairs those of the two that it is made of."""
        found = dict(places)
        for index, place in places.items():
            if isinstance(index, PairIndex):
                first, second = index.parts
                count = self.plan.size(second.axis)
                found |= {first: place // count, second: place % count}
        return found

    def multiply(self, out: Fragment, factors: Product) -> None:
        """``out += left · right``; where these are scaled, so is ``out`` meanwhile."""
        left: Fragment | SharedTile
        if self.plan.in_registers(factors):
            left = self.values.fragments[factors.left.name]
        else:
            left = self.values.tiles[factors.left.name]
            self.read_fence(factors.left.name)
        self.read_fence(factors.right.name)
        scales = [self.scales[o.name] for o in (factors.left, factors.right) if o.name in self.scales]
        self.rescale(out, [scale.factor[0] for scale in scales])
        self.engine.multiply(
            out,
            left,
            self.values.tiles[factors.right.name],
            self.plan.extent(factors.inner),
            left_transposed=factors.left.transposed,
            right_transposed=factors.right.transposed,
            scale=self.factor(factors.left.name) if isinstance(left, Fragment) else None,
        )
        self.rescale(out, [scale.inverse[0] for scale in scales])

    def rescale(self, out: Fragment, scales: list[Expression]) -> None:
        """Multiply accumulators by powers of two."""
        if scales:
            with self.engine.each(out.layout) as element:
                out.put(element, reduce(mul, scales, out.at(element)))

    # ------------------------------------------------------------------ vectors and scalars

    def vector_step(self, step: Step) -> None:
        """A vector, an element a thread; sums are taken over the columns of a tile first."""
        (index,) = step.indices
        vector = self.values.vectors[step.name]
        for number, (contraction, factor) in enumerate(_scaled(step)):
            slots, rows = self.sum_columns(step, contraction)
            self.write_fence("sums")
            with self.each_of(rows) as place:
                total = self.sum_of(range_start=place, stride=rows, count=slots)
                before = real(0) if number == 0 else self.values.sums[place]
                at = Place({index: place}, step.indices, None, before + total)
                tir.buffer_store(self.values.sums, self.values.evaluate(_times(factor), at), [place])
        self.fence_reads(step)
        if step.groups:
            self.read_fence("sums")
        self.write_fence(step.name)
        with self.each_of(self.plan.shape(step.name)[0]) as place:
            at = Place({index: place}, step.indices, None, self.values.sums[place] if step.groups else None)
            tir.buffer_store(vector, self.masked(step, self.values.evaluate(step.finish, at), at), [place])

    def scalar_step(self, step: Step) -> None:
        """A scalar, the same in every thread."""
        total = local((1,), "float32", f"{step.name}_sum")
        tir.buffer_store(total, real(0), [0])
        for contraction, factor in _scaled(step):
            if len(contraction.summed) == MATRIX:
                slots, rows = self.sum_columns(step, contraction)
                with tir.serial(slots * rows) as place:
                    tir.buffer_store(total, total[0] + self.partials[place], [0])
            else:
                self.fence_reads(step)
                (index,) = contraction.summed
                with tir.serial(self.plan.extent(index.axis)) as place:
                    at = Place({index: place}, (index,))
                    tir.buffer_store(total, total[0] + self.values.evaluate(_product(contraction), at), [0])
            scaled = self.values.evaluate(_times(factor), Place({}, (), None, total[0]))
            tir.buffer_store(total, scaled, [0])
        self.fence_reads(step)
        if step.name not in self.values.scalars:
            self.values.scalars[step.name] = local((1,), "float32", step.name)
        value = self.values.evaluate(step.finish, Place({}, (), None, total[0]))
        tir.buffer_store(self.values.scalars[step.name], value, [0])

    def sum_columns(self, step: Step, contraction: Contraction) -> tuple[int, int]:
        """Sum a tile over its columns into ``partials[slots, rows]``."""
        order = (*step.indices, *contraction.summed)
        rows, columns = (self.plan.extent(index.axis) for index in order)
        layout = self.plan.layout(rows, columns)
        self.fence_reads(step)
        self.write_fence("partials")
        with self.engine.each_row(layout) as (row, slot, each_column):
            total = local((1,), "float32", "total")
            tir.buffer_store(total, real(0), [0])
            with each_column() as element:
                at = Place(dict(zip(order, (element.row, element.column), strict=True)), order, element)
                tir.buffer_store(total, total[0] + self.values.evaluate(_product(contraction), at), [0])
            tir.buffer_store(self.partials, total[0], [slot * rows + row])
        self.read_fence("partials")
        return layout.row_slots, rows

    def sum_of(self, range_start: Expression, stride: int, count: int) -> Expression:
        """The sum of a few partial sums, in a register."""
        total = local((1,), "float32", "total")
        tir.buffer_store(total, real(0), [0])
        with tir.serial(count) as slot:
            tir.buffer_store(total, total[0] + self.partials[slot * stride + range_start], [0])
        return total[0]


def _scaled(step: Step) -> list[tuple[Contraction, Expr]]:
    """The contractions of a step, each with what the sum so far is multiplied by after it."""
    return [
        (contraction, group.factor if place == len(group.contractions) - 1 else ONE)
        for group in step.groups
        for place, contraction in enumerate(group.contractions)
    ]


def _product(contraction: Contraction) -> Expr:
    return product(*contraction.factors)


def _times(factor: Expr) -> Expr:
    return product(factor, ACC)
