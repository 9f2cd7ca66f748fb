"""Steps of a tile program as loops: register-tiled products, sums and pointwise values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dtn_core.ir.nodes import ONE, Index

from .buffers import FLOAT, vectors_of
from .layout import sums_along
from .matrix_functions import MatrixFunctions
from .pairs import PairIndex
from .prefetch import Prefetch
from .steps import RANK, Contraction, Step


class Loops(MatrixFunctions):
    """Emits the loops of steps."""

    prefetch: Prefetch | None = None

    def registers(self) -> None:
        """Accumulators; each is small enough to stay in registers."""
        self.accumulators: dict[tuple[int, int], Any] = {}
        for matmul in (step for step in self.program.steps if step.is_matmul):
            tile = self.tile(matmul)
            if tile not in self.accumulators:
                self.accumulators[tile] = T.alloc_buffer(tile, FLOAT, scope="local")
                IRBuilder.name(f"tile_{tile[0]}x{tile[1]}", self.accumulators[tile])
        self.lanes = T.alloc_buffer((1, self.schedule.vector), FLOAT, scope="local")
        self.total = T.alloc_buffer((1,), FLOAT, scope="local")
        IRBuilder.name("lanes", self.lanes)
        IRBuilder.name("total", self.total)

    def step(self, step: Step) -> None:
        """Compute one tensor, in every form that is read."""
        if step.is_matrix_function:
            self.matrix_function(step)
        elif step.is_matmul:
            self.matmul(step)
        elif step.groups:
            self.reduce(step)
        else:
            self.pointwise(step)
        if step.name not in self.program.totals:  # nothing reads them before the walk is over
            self.turn(step.name)

    def tile(self, step: Step) -> tuple[int, int]:
        """Rows and columns of the accumulator of a product."""
        along = self.layout.vector(step)
        tokens = along.axis in (self.program.axis, self.program.rows)
        rows, columns = self.schedule.tokens if tokens else self.schedule.features
        extent = self.extents[along.axis]
        while extent % columns:
            columns -= self.schedule.vector
        return rows, columns

    def tiles(self, step: Step) -> int:
        """Tiles of a product."""
        rows, columns = self.tile(step)
        along, across = self.directions(step)
        return self.extents[along.axis] // columns * (self.extents[across.axis] // rows)

    def directions(self, step: Step) -> tuple[Index, Index]:
        """The index that the vectors of a product run along, and the other."""
        along = self.layout.vector(step)
        return along, step.indices[0] if step.indices[1] == along else step.indices[1]

    def matmul(self, step: Step) -> None:
        """Products into one accumulator a tile; tiles and parts of sums that are 0 are left out."""
        along, across = self.directions(step)
        rows, columns = self.tile(step)
        target = self.buffers[step.name, self.native(step.name)]
        with T.serial(self.extents[along.axis] // columns) as block:
            left = block * columns
            low: Any = 0
            high: Any = self.extents[across.axis] // rows
            order = None if self.program.rows else step.order  # the diagonal is in one chunk of many
            if order is not None and order.lower == across:
                high = T.min(T.ceildiv(left + columns, rows), high)
            elif order is not None:
                low = left // rows
            with T.serial(high - low) as part:
                if self.prefetch is not None:
                    self.prefetch.before(step.name, block * (self.extents[across.axis] // rows) + part)
                top = (low + part) * rows
                spans = {along: (left, columns), across: (top, rows)}
                self.accumulate(step, along, across, spans)
                accumulator = self.accumulators[rows, columns]
                vector = self.schedule.vector
                with T.unroll(rows) as i, T.unroll(columns // vector) as j, T.vectorized(vector) as lane:
                    column = j * vector + lane
                    at = {across: top + i, along: left + column}
                    value = self.finished(step, at, along, accumulator[i, column])
                    T.buffer_store(target, value, [top + i, left + column])

    def accumulate(self, step: Step, along: Index, across: Index, spans: Mapping[Index, tuple[Any, int]]) -> None:
        """The sums of one tile."""
        rows, columns = spans[across][1], spans[along][1]
        accumulator = self.accumulators[rows, columns]
        vector = self.schedule.vector
        with T.unroll(rows) as i, T.unroll(columns // vector) as j, T.vectorized(vector) as lane:
            T.buffer_store(accumulator, T.float32(0), [i, j * vector + lane])
        for group in step.groups:
            for contraction in group.contractions:
                self.product(contraction, along, across, spans)
            if group.factor == ONE:
                continue
            with T.unroll(rows) as i, T.unroll(columns // vector) as j, T.vectorized(vector) as lane:
                column = j * vector + lane
                at = {across: spans[across][0] + i, along: spans[along][0] + column}
                scaled = accumulator[i, column] * self.value(group.factor, at, along)
                T.buffer_store(accumulator, scaled, [i, column])

    def product(
        self, contraction: Contraction, along: Index, across: Index, spans: Mapping[Index, tuple[Any, int]]
    ) -> None:
        """``acc[i, j] += Σ_k A[i, k] · B[k, j]``."""
        (k,) = contraction.summed
        rows, columns = spans[across][1], spans[along][1]
        accumulator = self.accumulators[rows, columns]
        vector, unroll = self.schedule.vector, self.schedule.unroll
        first, second = contraction.factors
        row_of, column_of = (first, second) if along in second.indices else (second, first)
        low, high = self.nonzero(contraction, k, spans)
        for factor in contraction.factors:
            if factor.tensor in self.empty:
                high = low + (high - low) * self.empty[factor.tensor]
        with T.serial((high - low) // unroll) as block, T.unroll(unroll) as part:
            at_k = low + block * unroll + part
            with T.unroll(rows) as i, T.unroll(columns // vector) as j, T.vectorized(vector) as lane:
                column = j * vector + lane
                at = {across: spans[across][0] + i, along: spans[along][0] + column, k: at_k}
                term = self.load(row_of, at, k) * self.load(column_of, at, along)
                T.buffer_store(accumulator, accumulator[i, column] + term, [i, column])

    def nonzero(self, contraction: Contraction, k: Index, spans: Mapping[Index, tuple[Any, int]]) -> tuple[Any, Any]:
        """The range of a sum outside which a triangular factor is 0, in whole tiles."""
        low: Any = 0
        high: Any = self.extents[k.axis]
        for factor in contraction.factors:
            triangle = self.program.is_triangular(factor.tensor)
            if triangle is None or triangle.order is None:
                continue
            places = [triangle.indices.index(i) for i in (triangle.order.lower, triangle.order.upper)]
            lower, upper = (factor.indices[place] for place in places)
            if upper == k and lower in spans:
                low = spans[lower][0] if isinstance(low, int) else T.max(low, spans[lower][0])
            elif lower == k and upper in spans:
                end = spans[upper][0] + spans[upper][1]
                high = end if isinstance(high, int) else T.min(high, end)
        return low, high

    def reduce(self, step: Step) -> None:
        """Sums that are no matrix products: in the lanes of the result, or of what is summed."""
        k = sums_along(step, self.layout)
        along = self.layout.vector(step) if step.indices and k is None else None
        target = self.buffers[step.name, self.native(step.name)]
        vector = self.schedule.vector
        with ExitStack() as loops:
            at: dict[Index, Any] = {}
            for index in step.indices:
                width = vector if index == along else 1
                at[index] = loops.enter_context(T.serial(self.extents[index.axis] // width)) * width
            with T.vectorized(vector) as lane:
                T.buffer_store(self.lanes, T.float32(0), [0, lane])
            T.buffer_store(self.total, T.float32(0), [0])
            for group in step.groups:
                for contraction in group.contractions:
                    self.sum(contraction, at, along, k)
                if along is None:
                    T.buffer_store(self.total, self.total[0] * self.value(group.factor, at, None), [0])
                    continue
                with T.vectorized(vector) as lane:
                    lanes = {**at, along: at[along] + lane}
                    T.buffer_store(self.lanes, self.lanes[0, lane] * self.value(group.factor, lanes, along), [0, lane])
            if along is None:
                T.buffer_store(target, self.finished(step, at, None, self.total[0]), self.place(step, at))
                return
            with T.vectorized(vector) as lane:
                lanes = {**at, along: at[along] + lane}
                value = self.finished(step, lanes, along, self.lanes[0, lane])
                T.buffer_store(target, value, self.place(step, lanes))

    def sum(self, contraction: Contraction, at: Mapping[Index, Any], along: Index | None, k: Index | None) -> None:
        """Add a contraction to the lanes (of the result, ``along``), or to the total (through lanes of ``k``)."""
        vector = self.schedule.vector
        with ExitStack() as loops:
            inner = dict(at)
            for index in contraction.summed:
                if index != k:
                    inner[index] = loops.enter_context(T.serial(self.extents[index.axis]))
            if along is not None:
                with T.vectorized(vector) as lane:
                    term = self.term(contraction, {**inner, along: at[along] + lane}, along)
                    T.buffer_store(self.lanes, self.lanes[0, lane] + term, [0, lane])
                return
            if k is None:
                T.buffer_store(self.total, self.total[0] + self.term(contraction, inner, None), [0])
                return
            with T.serial(self.extents[k.axis] // vector) as block, T.vectorized(vector) as lane:
                term = self.term(contraction, {**inner, k: block * vector + lane}, k)
                T.buffer_store(self.lanes, self.lanes[0, lane] + term, [0, lane])
        if along is None and k is not None:
            with T.unroll(vector) as lane:
                T.buffer_store(self.total, self.total[0] + self.lanes[0, lane], [0])
                T.buffer_store(self.lanes, T.float32(0), [0, lane])

    def term(self, contraction: Contraction, at: Mapping[Index, Any], along: Index | None) -> Any:
        value = self.load(contraction.factors[0], at, along)
        for factor in contraction.factors[1:]:
            value = value * self.load(factor, at, along)
        return value

    def place(self, step: Step, at: Mapping[Index, Any]) -> list[Any]:
        """Where in the buffer of a step's tensor its element is."""
        places = [at[index] for index in step.indices]
        if len(places) == RANK:
            return places[::-1] if self.native(step.name) else places
        return [0, places[0] if places else 0]

    def pointwise(self, step: Step) -> None:
        """No sums."""
        target = self.buffers[step.name, self.native(step.name)]
        if not step.indices:
            T.buffer_store(target, self.finished(step, {}, None, None), [0, 0])
            return
        along = self.layout.vector(step)
        with ExitStack() as loops:
            at: dict[Index, Any] = {}
            for index in step.indices:
                if isinstance(index, PairIndex):  # along it, vectors run over the second of a pair
                    first, second = index.parts
                    at[first] = loops.enter_context(T.serial(self.extents[first.axis]))
                    if index != along:
                        at[second] = loops.enter_context(T.serial(self.extents[second.axis]))
                        at[index] = at[first] * self.extents[second.axis] + at[second]
                elif index != along:
                    at[index] = loops.enter_context(T.serial(self.extents[index.axis]))
            inner = along.parts[1] if isinstance(along, PairIndex) else along
            for column, lane in vectors_of(self.extents[inner.axis], self.schedule.vector):
                lanes = {**at, inner: column + lane}
                if isinstance(along, PairIndex):
                    lanes[along] = at[along.parts[0]] * self.extents[inner.axis] + column + lane
                T.buffer_store(target, self.finished(step, lanes, inner, None), self.place(step, lanes))
