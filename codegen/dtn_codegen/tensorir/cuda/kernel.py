"""A plan as a TVM function: one thread block walks the chunks of a sequence, states and temporaries on chip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tvm
from dtn_core.ir.nodes import ONES, Index, Number, Param, Read, Relation, Sum, sum_of, terms_of
from dtn_core.passes.stream import State
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as tir

from .elements import Values, real
from .multiply_add import MultiplyAdd
from .operations import Map, Matmul, Operation, Reduce, read_by, tile_indices
from .plan import BYTES, Plan
from .tensorcore import TensorCores
from .tiles import Element, Expression, Fragment, SharedTile, local, named, ptx


def kernel(plan: Plan) -> Any:
    """The function of one pass.

    Its arguments are, in order: the tokens ``[batch, n, features]`` in the plan's dtype, the scalar constants
    ``[batch]`` in float32, the states that each segment begins with ``[batch, segments, *axes]`` in float32, then
    the results ``[batch, n, features]`` and the states that each segment ends with.  The batch, n and the number
    of segments are symbolic.

    Parameters
    ----------
    plan : Plan
        A plan that passed its check.

    Returns
    -------
    tvm.tirx.PrimFunc
    """
    with IRBuilder() as builder, tir.prim_func():
        tir.func_name(plan.part.name)
        _Walk(plan).run()
    return builder.get()


class _Walk:
    """Emits the function, statement by statement, into the current builder."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.schedule = plan.schedule
        self.values = Values(self.schedule.chunk, plan.chunked.stream.weights)
        self.written: set[str] = set()
        self.read: set[str] = set()
        self.arguments: dict[str, Any] = {}

    def run(self) -> None:
        self.declare()
        tir.device_entry()
        blocks = 1
        if self.plan.blocked is not None:
            blocks = self.plan.size(self.plan.blocked) // self.plan.extent(self.plan.blocked)
        grid = tir.cta_id([tir.cast(self.batch, "int32"), blocks, tir.cast(self.segments, "int32")])
        self.sequence, self.column_block, self.segment = (
            named(name, value) for name, value in zip(("sequence", "column_block", "segment"), grid, strict=True)
        )
        self.thread = named("thread", tir.thread_id([32 * self.schedule.warps]))
        self.engine = TensorCores(self.plan.dtype, self.thread) if self.plan.tensor_cores else MultiplyAdd(self.thread)
        self.allocate()
        self.begin()
        chunks = (self.length + (self.schedule.chunk - 1)) // self.schedule.chunk
        share = (chunks + self.segments - 1) // self.segments
        self.first = named("first", tir.Bind(tir.cast(self.segment * share, "int32")))
        self.stop = named("stop", tir.Bind(tir.cast(tir.min(self.segment * share + share, chunks), "int32")))
        for ahead in range(self.schedule.stages - 1):
            self.fetch(self.first + ahead, ahead)
        with tir.serial(tir.max(self.stop - self.first, 0)) as turn:
            IRBuilder.name("turn", turn)
            self.await_tokens(turn)
            for operation in self.plan.operations:
                self.compute(operation)
            for state in self.plan.part.states:
                self.update(state)
        self.finish()

    # ------------------------------------------------------------------ arguments and memory

    def declare(self) -> None:
        """The arguments of the function."""
        plan = self.plan
        self.batch, self.length = named("batch", tir.int64()), named("n", tir.int64())
        self.segments: Any = tir.int64(1)
        if plan.part.starts or plan.part.ends:
            self.segments = named("segments", tir.int64())
        for param in plan.tokens:
            shape = (self.batch, *(self.length if a == plan.axis else plan.size(a) for a in param.axes))
            self.argument(param.name, shape, plan.dtype)
        for param in plan.constants:
            self.argument(param.name, (self.batch,), "float32")
        axes = {state.name: state.axes for state in plan.part.states}
        for suffix, names in (("start", plan.part.starts),):
            for name in names:
                self.argument(f"{name}_{suffix}", self.state_shape(axes[name]), "float32")
        for param in plan.part.results:
            shape = (self.batch, *(self.length if a == plan.axis else plan.size(a) for a in param.axes))
            self.argument(f"{param.name}_result", shape, plan.dtype)
        for name in plan.part.ends:
            self.argument(f"{name}_end", self.state_shape(axes[name]), "float32")

    def state_shape(self, axes: tuple[str, ...]) -> tuple[Any, ...]:
        return (self.batch, self.segments, *(self.plan.size(axis) for axis in axes))

    def argument(self, name: str, shape: tuple[Any, ...], dtype: str) -> None:
        self.arguments[name] = tir.arg(name, tir.buffer(shape, dtype))

    def allocate(self) -> None:
        """Shared memory, and the registers of the states."""
        plan = self.plan
        from tvm.backend.cuda.lang.alloc_pool import SMEMPool

        pool = SMEMPool()

        def tile(name: str, copies: int) -> Any:
            rows, columns = plan.shape(name)
            made = pool.alloc((copies, rows, plan.stride(columns)), plan.dtype, align=128)
            return named(f"{name}_shared", made)

        self.token_tiles = {p.name: tile(p.name, self.schedule.stages) for p in plan.tokens if len(p.axes) == 2}
        for name in plan.staged:
            self.values.tiles[name] = SharedTile(tile(name, plan.copies(name)), 0, plan.copies(name))
        for name in plan.vectors:
            self.values.vectors[name] = named(f"{name}_shared", pool.alloc(plan.shape(name), "float32", align=128))
        if plan.partials:
            self.partials = named("partials", pool.alloc((plan.partials,), "float32", align=128))
        pool.commit()
        for state in plan.part.states:
            shape = plan.shape(state.name)
            if len(shape) == 2:
                self.values.fragments[state.name] = self.engine.fragment(plan.layout(*shape), state.name)
            elif not shape:
                self.values.scalars[state.name] = local((1,), "float32", state.name)

    def begin(self) -> None:
        """Scalars, decays, and the states before the first chunk."""
        for param in self.plan.constants:
            scalar = self.values.scalars[param.name] = local((1,), "float32", param.name)
            tir.buffer_store(scalar, self.arguments[param.name][self.sequence], [0])
            logarithm = local((1,), "float32", f"log_{param.name}")
            tir.buffer_store(logarithm, tir.log2(scalar[0]), [0])
            self.values.log_decays[Read(param.name)] = logarithm[0]
        for state in self.plan.part.states:
            start = self.arguments.get(f"{state.name}_start")
            if start is None:
                self.set(state.name, lambda place: real(0))
            else:
                self.set(state.name, lambda place, start=start, state=state: start[self.state_place(state, place)])
            self.stage(state.name)

    def state_place(self, state: State, place: tuple[Expression, ...]) -> tuple[Expression, ...]:
        return (self.sequence, self.segment, *map(self.column, state.axes, place))

    def column(self, axis: str, place: Expression) -> Expression:
        """A feature of the thread block as one of the whole problem."""
        return place + self.column_block * self.plan.extent(axis) if axis == self.plan.blocked else place

    def set(self, name: str, value: Callable[..., Expression]) -> None:
        """Set a state of any rank from ``value(place)``."""
        if name in self.values.fragments:
            fragment = self.values.fragments[name]
            with self.engine.each(fragment.layout) as element:
                fragment.put(element, value((element.row, element.column)))
        elif name in self.values.vectors:
            with self.vector(name) as place:
                tir.buffer_store(self.values.vectors[name], value((place,)), [place])
        else:
            tir.buffer_store(self.values.scalars[name], value(()), [0])

    def finish(self) -> None:
        """Write the states after the last chunk."""
        self.read_fence(*(name for name in self.plan.part.ends if name in self.values.vectors))
        for state in self.plan.part.states:
            if state.name not in self.plan.part.ends:
                continue
            end, name = self.arguments[f"{state.name}_end"], state.name
            if name in self.values.fragments:
                fragment = self.values.fragments[name]
                with self.engine.each(fragment.layout) as element:
                    place = self.state_place(state, (element.row, element.column))
                    tir.buffer_store(end, fragment.at(element), list(place))
            elif name in self.values.vectors:
                with self.each_of(self.plan.shape(name)[0]) as feature:
                    vector = self.values.vectors[name]
                    tir.buffer_store(end, vector[feature], list(self.state_place(state, (feature,))))
            else:
                tir.buffer_store(end, self.values.scalars[name][0], list(self.state_place(state, ())))

    # ------------------------------------------------------------------ barriers

    def barrier(self) -> None:
        """Wait for all threads of the block."""
        tir.evaluate(tir.cuda.cta_sync())
        self.written.clear()
        self.read.clear()

    def read_fence(self, *names: str) -> None:
        """Before reading shared memory: a barrier if it was written since the last one."""
        if self.written.intersection(names):
            self.barrier()
        self.read.update(names)

    def write_fence(self, name: str) -> None:
        """Before writing shared memory: a barrier if it was read or written since the last one."""
        if name in self.read | self.written:
            self.barrier()
        self.written.add(name)

    # ------------------------------------------------------------------ tokens

    def fetch(self, chunk: Expression, slot: Expression) -> None:
        """Start copying the tokens of a chunk to shared memory; those past the end of the sequence are zero."""
        plan = self.plan
        width = 16 // BYTES[plan.dtype]
        threads = 32 * self.schedule.warps
        for param in plan.tokens:
            argument = self.arguments[param.name]
            if len(param.axes) == 1:
                continue
            rows, columns = plan.shape(param.name)
            vectors = rows * columns // width
            with self.strided(vectors, threads) as place:
                row, column = place // (columns // width), place % (columns // width) * width
                token = chunk * self.schedule.chunk + row
                inside = token < tir.cast(self.length, "int32")
                source = argument[
                    self.sequence, tir.Select(inside, token, 0), self.column(param.axes[1], column)
                ]
                size = tir.Select(inside, tir.uint32(16), tir.uint32(0))
                target = tir.address_of(self.token_tiles[param.name][slot, row, column])
                ptx("cp.async.cg.shared.global", target, tir.address_of(source), 16, size)
        ptx("cp.async.commit_group")

    @contextmanager
    def strided(self, count: int, threads: int) -> Iterator[Expression]:
        """A loop over ``count`` places shared out over the threads."""
        with tir.unroll(-(-count // threads)) as step:
            place = step * threads + self.thread
            if count % threads:
                with tir.If(place < count), tir.Then():
                    yield place
            else:
                yield place

    def await_tokens(self, turn: Expression) -> None:
        """Wait for the tokens of a chunk, and start on those of a later one."""
        stages = self.schedule.stages
        self.origin = named("origin", tir.Bind((self.first + turn) * self.schedule.chunk))
        if stages == 1:
            self.barrier()
            self.fetch(self.first + turn, 0)
        ptx("cp.async.wait_group", max(0, stages - 2))
        self.barrier()
        slot = turn % stages if stages > 1 else 0
        for name, buffer in self.token_tiles.items():
            self.values.tiles[name] = SharedTile(buffer, slot)
        for param in self.plan.tokens:
            if len(param.axes) == 1:
                self.load_vector(param)
        if stages > 1:
            self.fetch(self.first + turn + (stages - 1), (turn + (stages - 1)) % stages)

    def load_vector(self, param: Param) -> None:
        argument = self.arguments[param.name]
        with self.vector(param.name) as place:
            token = self.origin + place
            inside = token < tir.cast(self.length, "int32")
            element = argument[self.sequence, tir.Select(inside, token, 0)]
            tir.buffer_store(
                self.values.vectors[param.name], tir.Select(inside, tir.cast(element, "float32"), real(0)), [place]
            )

    # ------------------------------------------------------------------ operations

    def compute(self, operation: Operation) -> None:
        """One operation, and what is kept of its result."""
        if operation.name in self.plan.deferred:
            return
        if isinstance(operation, Matmul):
            fragment = self.new_fragment(operation)
            self.fill(fragment, lambda element: real(0))
            self.multiply(fragment, operation)
            if operation.scale != 1:
                self.fill(fragment, lambda element: fragment.at(element) * real(float(operation.scale)))
        elif isinstance(operation, Reduce):
            self.reduce(operation)
        elif len(operation.indices) == 2:
            self.map_tile(operation)
        else:
            self.map_narrow(operation)
        self.stage(operation.name)
        for param in self.plan.part.results:
            if param.name == operation.name:
                self.write(param)

    def new_fragment(self, operation: Matmul | Map) -> Fragment:
        layout = self.plan.layout(*(self.plan.extent(axis) for axis in operation.axes))
        made = self.values.fragments[operation.name] = self.engine.fragment(layout, operation.name)
        return made

    def fill(self, fragment: Fragment, value: Callable[[Element], Expression]) -> None:
        """Set every element of a fragment."""
        with self.engine.each(fragment.layout) as element:
            fragment.put(element, value(element))

    def multiply(self, out: Fragment, product: Matmul) -> None:
        """``out += product``."""
        left: Fragment | SharedTile
        if self.plan.in_registers(product):
            left = self.values.fragments[product.left.name]
        else:
            left = self.values.tiles[product.left.name]
            self.read_fence(product.left.name)
        self.read_fence(product.right.name)
        self.engine.multiply(
            out,
            left,
            self.values.tiles[product.right.name],
            self.plan.extent(product.inner),
            left_transposed=product.left.transposed,
            right_transposed=product.right.transposed,
        )

    def map_tile(self, operation: Map) -> None:
        """A tile element by element; products that only it reads are then added in place."""
        terms = terms_of(operation.value)
        products = [
            self.plan.deferred[term.tensor]
            for term in terms
            if isinstance(term, Read) and term.tensor in self.plan.deferred
        ]
        names = {product.name for product in products}
        rest = [term for term in terms if not (isinstance(term, Read) and term.tensor in names)]
        fragment = self.new_fragment(operation)
        value = sum_of(*rest) if rest else Number(_zero())
        self.fence_reads(operation, names)
        row, column = operation.indices

        def at(element: Element) -> Expression:
            place = {row: element.row, column: element.column}
            made = self.values.evaluate(value, place, element, operation.indices)
            return self.values.ordered(made, operation.order, place)

        self.fill(fragment, at)
        for product in products:
            self.multiply(fragment, product)

    def fence_reads(self, operation: Map | Reduce, without: set[str]) -> None:
        """A barrier if an element is read that another thread wrote."""
        names = {read.tensor for read in read_by(operation)} - without
        shared = {name for name in names if name in self.values.vectors}
        order = tile_indices(operation)
        shared |= {r.tensor for r in read_by(operation) if self.plan.crosses(r, order)} - without
        shared |= names & set(self.token_tiles)
        self.read_fence(*shared)

    def map_narrow(self, operation: Map) -> None:
        """A vector, an element a thread; or a scalar, in every thread."""
        self.fence_reads(operation, set())
        if not operation.indices:
            scalar = self.values.scalars[operation.name] = local((1,), "float32", operation.name)
            tir.buffer_store(scalar, self.values.evaluate(operation.value, {}, None, ()), [0])
            return
        (index,) = operation.indices
        with self.vector(operation.name) as place:
            value = self.values.evaluate(operation.value, {index: place}, None, operation.indices)
            tir.buffer_store(self.values.vectors[operation.name], value, [place])

    @contextmanager
    def vector(self, name: str) -> Iterator[Expression]:
        """A loop over the elements of a vector, to write them."""
        self.write_fence(name)
        with self.each_of(self.plan.shape(name)[0]) as place:
            yield place

    @contextmanager
    def each_of(self, count: int) -> Iterator[Expression]:
        with self.strided(count, 32 * self.schedule.warps) as place:
            yield place

    def reduce(self, operation: Reduce) -> None:
        """A sum over the columns of a tile, or over a vector."""
        self.fence_reads(operation, set())
        order = tile_indices(operation)
        if not operation.kept:
            scalar = self.values.scalars[operation.name] = local((1,), "float32", operation.name)
            tir.buffer_store(scalar, real(0), [0])
            with tir.serial(self.plan.extent(operation.summed.axis)) as place:
                value = self.values.evaluate(operation.value, {operation.summed: place}, None, order)
                tir.buffer_store(scalar, scalar[0] + value, [0])
            return
        rows, columns = (self.plan.extent(index.axis) for index in order)
        layout = self.plan.layout(rows, columns)
        self.write_fence("partials")
        with self.engine.each_row(layout) as (row, slot, each_column):
            total = local((1,), "float32", "total")
            tir.buffer_store(total, real(0), [0])
            with each_column() as element:
                place: Mapping[Index, Expression] = dict(zip(order, (element.row, element.column), strict=True))
                value = self.values.evaluate(operation.value, place, element, order)
                value = self.values.ordered(value, operation.order, place)
                tir.buffer_store(total, total[0] + value, [0])
            tir.buffer_store(self.partials, total[0], [slot * rows + row])
        self.read_fence("partials")
        with self.vector(operation.name) as kept:
            total = local((1,), "float32", "total")
            tir.buffer_store(total, real(0), [0])
            with tir.serial(layout.row_slots) as slot:
                tir.buffer_store(total, total[0] + self.partials[slot * rows + kept], [0])
            tir.buffer_store(self.values.vectors[operation.name], total[0], [kept])

    # ------------------------------------------------------------------ what is kept

    def stage(self, name: str) -> None:
        """Copy a tile to shared memory if the plan keeps one there."""
        if name in self.plan.staged:
            self.write_fence(name)
            self.engine.stage(self.values.fragments[name], self.values.tiles[name])

    def write(self, param: Param) -> None:
        """Write a result of the chunk's tokens."""
        result = self.arguments[f"{param.name}_result"]

        def inside(row: Expression) -> Expression:
            return self.origin + row < tir.cast(self.length, "int32")

        if len(param.axes) == 1:
            self.read_fence(param.name)
            with self.each_of(self.schedule.chunk) as row, tir.If(inside(row)), tir.Then():
                value = tir.cast(self.values.vectors[param.name][row], self.plan.dtype)
                tir.buffer_store(result, value, [self.sequence, self.origin + row])
            return

        def address(row: Expression, column: Expression) -> Expression:
            return tir.address_of(result[self.sequence, self.origin + row, self.column(param.axes[1], column)])

        self.engine.store(self.values.fragments[param.name], address, inside)

    def update(self, state: State) -> None:
        """``state = whole · state + added``."""
        name = state.name
        kept = None if state.weights is None else self.values.power(state.weights.decay, self.schedule.chunk)
        product = self.plan.update_of(state)
        if name in self.values.fragments:
            fragment = self.values.fragments[name]
            added = None if product is not None else self.values.fragments[state.added]
            if kept is not None or added is not None:

                def grown(element: Element) -> Expression:
                    value = fragment.at(element) if kept is None else fragment.at(element) * kept
                    return value if added is None else value + added.at(element)

                self.fill(fragment, grown)
            if product is not None:
                self.multiply(fragment, product)
            self.stage(name)
        elif name in self.values.vectors:
            self.read_fence(state.added)
            with self.vector(name) as place:
                vector, more = self.values.vectors[name], self.values.vectors[state.added]
                value = vector[place] if kept is None else vector[place] * kept
                tir.buffer_store(vector, value + more[place], [place])
        else:
            scalar, more = self.values.scalars[name], self.values.scalars[state.added]
            value = scalar[0] if kept is None else scalar[0] * kept
            tir.buffer_store(scalar, value + more[0], [0])


def _zero() -> Any:
    from fractions import Fraction

    return Fraction(0)


__all__ = ["kernel", "ONES", "Relation", "Sum", "tvm"]
