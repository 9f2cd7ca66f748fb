"""Tile programs as TensorIR for a CPU: one function that walks the chunks of every head.

Everything between arguments and results lives in buffers of a chunk, padded to whole vectors with zeros; tokens past
the end of a sequence are zeros as well, so that no product needs to know of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import ONE, ONES, Expr, Index, Number, Param, Read

from .expressions import value_of
from .layout import choose, sums_along
from .schedule import CpuSchedule
from .steps import ACC, RANK, Contraction, Step
from .tiles import Carried, TileProgram, Walk
from .zeros import Padding

HEADS = "... n h d"
FLOAT = "float32"
MAX_WORKING_SET = 32 * 2**20
"""Bytes of a head's buffers beyond which there is no point in a kernel that holds them in a cache."""

Key = tuple[str, bool]


def lower_cpu(
    program: TileProgram, schedule: CpuSchedule, sizes: Mapping[str, int], dtype: str, layout: str = "... n d"
) -> tvm.IRModule:
    """A module whose ``main(*inputs, *outputs)`` computes ``program`` for any batch, heads and tokens.

    Parameters
    ----------
    program : TileProgram
        What to compute.
    schedule : CpuSchedule
        How.
    sizes : Mapping[str, int]
        Sizes of the feature axes.
    dtype : str
        Of tensors; scalars are float32 ``[batch, heads]``.
    layout : {"... n d", "... n h d"}
        Tensors are ``[batch, heads, n, d]``, or ``[batch, n, heads, d]`` where they have two axes.

    Raises
    ------
    CompileError
        If a head's buffers do not fit, or sizes and schedule do not.
    """
    return tvm.IRModule({"main": _Kernel(program, schedule, sizes, dtype, layout).function()})


class _Kernel:
    def __init__(
        self, program: TileProgram, schedule: CpuSchedule, sizes: Mapping[str, int], dtype: str, layout: str
    ) -> None:
        self.program = program
        self.schedule = schedule
        self.sizes = {axis: sizes[axis] for axis in program.features}
        self.dtype = dtype
        self.layout = layout
        self.forms = choose(program)
        self.padding = Padding(program)
        vector = schedule.vector
        self.extents = {axis: -(-size // vector) * vector for axis, size in self.sizes.items()}
        self.extents[program.axis] = schedule.chunk
        self.buffers: dict[Key, Any] = {}
        self.accumulators: dict[tuple[int, int], Any] = {}
        self.arguments: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}
        self.tokens: Any = None
        used = {read.tensor for step in program.steps for read in step.reads} | {s.name for s in program.steps}
        self.names = [name for name in program.axes if name in used]
        size = sum(4 * self.elements(name) * len(self.forms.forms.get(name, (False,))) for name in self.names)
        if size > MAX_WORKING_SET:
            raise CompileError(
                f"{program.name}: a head's chunk and states take {size >> 20} MiB; a kernel holds {MAX_WORKING_SET >> 20}"
            )

    def elements(self, name: str) -> int:
        """Elements of a tensor's buffer."""
        total = 1
        for axis in self.program.axes[name]:
            total *= self.extents[axis]
        return total

    # -------------------------------------------------------------- the function

    def function(self) -> Any:
        with IRBuilder() as made, T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
            self.signature()
            if self.schedule.parallel == "serial":
                loop = T.serial(self.batch * self.heads)
            else:
                loop = T.parallel(self.batch * self.heads)
            with loop as head:
                self.head(head)
        return made.get()

    def signature(self) -> None:
        """The arguments, and for each an alias whose rows are tokens (or a head's first axis)."""
        params = [*self.program.inputs, *self.program.outputs]
        handles = [T.arg(f"{param.name}_handle", T.handle()) for param in params]
        self.batch, self.heads, self.length = T.int64(), T.int64(), T.int64()
        for name, var in (("batch", self.batch), ("heads", self.heads), ("tokens", self.length)):
            IRBuilder.name(name, var)
        matched = []
        for param, handle in zip(params, handles, strict=True):
            shape: tuple[Any, ...] = (self.batch, self.heads, *(self.extent(axis) for axis in param.axes))
            if self.is_interleaved(param):
                shape = (self.batch, self.length, self.heads, self.extent(param.axes[1]))
            kind = self.dtype if param.axes else FLOAT
            # frameworks align to 16 bytes at best, slices to an element
            buffer = T.match_buffer(handle, shape, kind, align=tvm.DataType(kind).bits // 8)
            IRBuilder.name(param.name, buffer)
            matched.append(buffer)
        for param, buffer in zip(params, matched, strict=True):
            columns = self.extent(param.axes[1]) if len(param.axes) == RANK else 1
            rows = self.batch * self.heads * (self.extent(param.axes[0]) if param.axes else 1)
            self.arguments[param.name] = T.decl_buffer((rows, columns), buffer.dtype, data=buffer.data)
        chunks = T.ceildiv(self.length, self.schedule.chunk)
        for walk in self.program.walks:
            for name in walk.saved:
                rows, columns = self.shape(name, transposed=self.native(name))
                self.kept[name] = T.alloc_buffer((self.batch * self.heads * chunks * rows, columns), FLOAT)
        self.chunks = chunks

    def is_interleaved(self, param: Param) -> bool:
        """Whether the head axis is between the two axes of a tensor."""
        return self.layout == HEADS and len(param.axes) == RANK and param.axes[0] == self.program.axis

    def extent(self, axis: str) -> Any:
        """The size of an axis, as it is in memory."""
        return self.length if axis == self.program.axis else self.sizes[axis]

    def row(self, param: Param, head: Any, first: Any) -> Any:
        """The row of an argument's alias for index ``first`` of its first axis."""
        if self.is_interleaved(param):
            return ((head // self.heads) * self.length + first) * self.heads + head % self.heads
        return head * self.extent(param.axes[0]) + first if param.axes else head

    # -------------------------------------------------------------- buffers

    def native(self, name: str) -> bool:
        """Whether a tensor is computed transposed."""
        return self.forms.forms[name][0] if name in self.forms.forms else False

    def shape(self, name: str, *, transposed: bool) -> tuple[int, int]:
        """Rows and columns of a tensor's buffer; a vector is one row."""
        extents = [self.extents[axis] for axis in self.program.axes[name]]
        if len(extents) == RANK:
            return (extents[1], extents[0]) if transposed else (extents[0], extents[1])
        return 1, extents[0] if extents else 1

    def allocate(self) -> None:
        """The buffers of a head, filled with zeros: what is never written counts for nothing."""
        for name in self.names:
            for form in self.forms.forms.get(name, (False,)):
                rows, columns = self.shape(name, transposed=form)
                buffer = T.alloc_buffer((rows, columns), FLOAT)
                IRBuilder.name(f"{name}_transposed" if form else name, buffer)
                self.buffers[name, form] = buffer
                self.fill(buffer, rows, columns)
        for matmul in (step for step in self.program.steps if step.is_matmul):
            tile = self.tile(matmul)
            if tile not in self.accumulators:
                self.accumulators[tile] = T.alloc_buffer(tile, FLOAT, scope="local")
                IRBuilder.name(f"tile_{tile[0]}x{tile[1]}", self.accumulators[tile])
        self.lanes = T.alloc_buffer((1, self.schedule.vector), FLOAT, scope="local")
        self.total = T.alloc_buffer((1,), FLOAT, scope="local")
        IRBuilder.name("lanes", self.lanes)
        IRBuilder.name("total", self.total)

    def fill(self, buffer: Any, rows: Any, columns: int) -> None:
        """Zeros everywhere."""
        with T.serial(rows) as row:
            for column, lane in self.vectors(columns):
                T.buffer_store(buffer, T.float32(0), [row, column + lane])

    def vectors(self, columns: int) -> Iterator[tuple[Any, Any]]:
        """Loops over whole vectors of a row; yields where one starts, and the lane."""
        width = self.schedule.vector if columns % self.schedule.vector == 0 else 1
        return _vectors(columns, width)

    def load(self, read: Read, at: Mapping[Index, Any], along: Index | None = None) -> Any:
        """One element (or a vector) of a tensor."""
        if read.tensor == ONES:
            return T.float32(1)
        places = [at[index] for index in read.indices]
        form = self.forms.form(read, along) if len(places) == RANK else False
        row, column = (places[::-1] if form else places) if len(places) == RANK else (0, places[0] if places else 0)
        return self.buffers[read.tensor, form][row, column]

    def value(self, expr: Expr, at: Mapping[Index, Any], along: Index | None, accumulated: Any = None) -> Any:
        """An expression at the indices of a tile."""

        def leaf(read: Read) -> Any:
            return accumulated if read == ACC else self.load(read, at, along)

        return value_of(expr, leaf, self.size)

    def size(self, axis: str) -> Any:
        """The size of an axis as a number."""
        return T.cast(self.extent(axis), FLOAT)

    def finished(self, step: Step, at: Mapping[Index, Any], along: Index | None, accumulated: Any) -> Any:
        """The value that a step stores: 0 outside its order and past the end of an axis."""
        value = self.value(step.finish, at, along, accumulated)
        if step.order is not None:
            low, high = at[step.order.lower], at[step.order.upper]
            if step.order.decay is not None:
                value = value * self.power(step.order.decay, high - low)
            value = T.Select(low <= high, value, T.float32(0))
        for index in step.indices:
            if self.padding.must_mask(step, index):
                end = self.tokens if index.axis == self.program.axis else self.sizes[index.axis]
                value = T.Select(at[index] < end, value, T.float32(0))
        return value

    # -------------------------------------------------------------- a head

    def head(self, head: Any) -> None:
        """All walks of one head."""
        self.head_index = head
        self.allocate()
        self.tokens = self.length
        for param in self.program.inputs:
            if self.program.axis not in param.axes and (param.name, self.native(param.name)) in self.buffers:
                self.stage_constant(param, head)
        for name, value in self.program.constants.items():
            if (name, False) in self.buffers:
                T.buffer_store(self.buffers[name, False], T.float32(value), [0, 0])
        self.powers()
        for walk in self.program.walks:
            for step in walk.setup:
                self.step(step)
            if walk.body:
                self.walk(walk, head)
        for step in self.program.tail:
            self.step(step)
        for output in self.program.outputs:
            if self.program.axis not in output.axes:
                self.write_constant(output, head)

    def walk(self, walk: Walk, head: Any) -> None:
        """One pass over the chunks."""
        for carried in walk.carried:  # an earlier walk may have used the buffer
            self.clear(carried)
        inputs = [p for p in self.program.inputs if self.program.axis in p.axes and p.name in walk.reads([p.name])]
        with T.serial(self.chunks) as turn:
            chunk = T.bind(self.chunks - 1 - turn if walk.reverse else T.cast(turn, "int64"))
            first = T.bind(chunk * self.schedule.chunk)
            self.tokens = T.bind(T.min(self.length - first, T.int64(self.schedule.chunk)))
            for param in inputs:
                self.stage(param, head, first)
            self.falling(walk)
            for name in walk.saved:
                self.keep(name, head, chunk, load=False)
            for name in walk.loaded:
                self.keep(name, head, chunk, load=True)
            for step in walk.body:
                self.step(step)
            for param in self.program.outputs:
                if param.name in walk.results:
                    self.write(param, head, first)
        self.tokens = self.length

    def clear(self, carried: Carried) -> None:
        for form in self.forms.forms.get(carried.name, (False,)):
            rows, columns = self.shape(carried.name, transposed=form)
            self.fill(self.buffers[carried.name, form], rows, columns)

    def keep(self, name: str, head: Any, chunk: Any, *, load: bool) -> None:
        """Write a state to memory before a chunk, or read it from there."""
        form = self.native(name)
        rows, columns = self.shape(name, transposed=form)
        start = (head * self.chunks + chunk) * rows
        with T.serial(rows) as row:
            for column, lane in self.vectors(columns):
                outside, inside = (
                    (self.kept[name], [start + row, column + lane]),
                    (
                        self.buffers[name, form],
                        [row, column + lane],
                    ),
                )
                (target, place), (source, origin) = (inside, outside) if load else (outside, inside)
                T.buffer_store(target, source[tuple(origin)], place)
        if load:
            self.turn(name)

    # -------------------------------------------------------------- arguments

    def stage(self, param: Param, head: Any, first: Any) -> None:
        """The tokens of a chunk as float32, zeros past the end."""
        source = self.arguments[param.name]
        chunk = self.schedule.chunk
        if len(param.axes) < RANK:
            target = self.buffers[param.name, False]
            with T.serial(chunk) as t:
                inside = T.if_then_else(
                    t < self.tokens, T.cast(source[self.row(param, head, first + t), 0], FLOAT), T.float32(0)
                )
                T.buffer_store(target, inside, [0, t])
            return
        target = self.buffers[param.name, False]
        size = self.sizes[param.axes[1]]
        with T.serial(self.tokens) as t:
            row = T.bind(self.row(param, head, first + t))
            for column, lane in self.pieces(size):
                T.buffer_store(target, T.cast(source[row, column + lane], FLOAT), [t, column + lane])
        with T.serial(chunk - self.tokens) as t:
            for column, lane in self.vectors(self.extents[param.axes[1]]):
                T.buffer_store(target, T.float32(0), [self.tokens + t, column + lane])
        self.turn(param.name)

    def pieces(self, size: int) -> Iterator[tuple[Any, Any]]:
        """Loops over the elements of a row that need not be whole vectors."""
        whole = size - size % self.schedule.vector
        if whole:
            yield from _vectors(whole, self.schedule.vector)
        if size > whole:
            with T.serial(size - whole) as rest:
                yield whole, rest

    def stage_constant(self, param: Param, head: Any) -> None:
        """A tensor without tokens, or a scalar, as float32."""
        source = self.arguments[param.name]
        target = self.buffers[param.name, False]
        if not param.axes:
            T.buffer_store(target, source[head, 0], [0, 0])
            return
        with T.serial(self.sizes[param.axes[0]]) as i:
            row = self.row(param, head, i)
            if len(param.axes) < RANK:
                T.buffer_store(target, T.cast(source[row, 0], FLOAT), [0, i])
                return
            for column, lane in self.pieces(self.sizes[param.axes[1]]):
                T.buffer_store(target, T.cast(source[row, column + lane], FLOAT), [i, column + lane])
        self.turn(param.name)

    def write(self, param: Param, head: Any, first: Any) -> None:
        """The results of a chunk's tokens."""
        target, source = self.arguments[param.name], self.buffers[param.name, False]
        with T.serial(self.tokens) as t:
            row = T.bind(self.row(param, head, first + t))
            if len(param.axes) < RANK:
                T.buffer_store(target, T.cast(source[0, t], self.dtype), [row, 0])
                return
            for column, lane in self.pieces(self.sizes[param.axes[1]]):
                T.buffer_store(target, T.cast(source[t, column + lane], self.dtype), [row, column + lane])

    def write_constant(self, param: Param, head: Any) -> None:
        """A result without tokens."""
        target = self.arguments[param.name]
        kind = self.dtype if param.axes else FLOAT
        if not param.axes:
            T.buffer_store(target, T.cast(self.buffers[param.name, False][0, 0], kind), [head, 0])
            return
        names = [Index(f"place{place}", axis) for place, axis in enumerate(param.axes)]
        with T.serial(self.sizes[param.axes[0]]) as i:
            row = self.row(param, head, i)
            if len(param.axes) < RANK:
                T.buffer_store(target, T.cast(self.buffers[param.name, False][0, i], kind), [row, 0])
                return
            with T.serial(self.sizes[param.axes[1]]) as j:
                value = self.load(Read(param.name, tuple(names)), {names[0]: i, names[1]: j}, names[1])
                T.buffer_store(target, T.cast(value, kind), [row, j])

    # -------------------------------------------------------------- decays

    def powers(self) -> None:
        """Tables of the powers of each decay: ``γ^x`` at ``C + x`` (0 for x < 0) in both directions, and γ^(p+1)."""
        self.tables: dict[Expr, Any] = {}
        chunk = self.schedule.chunk
        for weight in self.program.weights:
            table = T.alloc_buffer((2, 2 * chunk + self.schedule.vector), FLOAT)
            running = T.alloc_buffer((1,), "float64", scope="local")
            self.fill(table, 2, 2 * chunk + self.schedule.vector)
            decay = T.cast(self.decay(weight.decay), "float64")
            T.buffer_store(running, T.float64(1), [0])
            with T.serial(chunk + 1) as x:
                T.buffer_store(table, T.cast(running[0], FLOAT), [0, chunk + x])
                T.buffer_store(table, T.cast(running[0], FLOAT), [1, chunk - x])
                T.buffer_store(running, running[0] * decay, [0])
            self.tables[weight.decay] = table
            if (weight.rise, False) in self.buffers:
                with T.serial(chunk) as t:
                    T.buffer_store(self.buffers[weight.rise, False], table[0, chunk + 1 + t], [0, t])

    def decay(self, decay: Number | Read) -> Any:
        if isinstance(decay, Number):
            return T.float64(float(decay.value))
        if decay.tensor in self.program.constants:
            return T.float64(self.program.constants[decay.tensor])
        return self.arguments[decay.tensor][self.head_index, 0]

    def power(self, decay: Number | Read, distance: Any) -> Any:
        """``γ^distance``."""
        return self.tables[decay][0, distance + self.schedule.chunk]

    def falling(self, walk: Walk) -> None:
        """γ^(m−1−p) for the p-th of a chunk's m tokens, and γ^m."""
        chunk = self.schedule.chunk
        for weight in self.program.weights:
            if not walk.reads([weight.fall, weight.whole]):
                continue
            table = self.tables[weight.decay]
            if (weight.whole, False) in self.buffers:
                T.buffer_store(self.buffers[weight.whole, False], table[0, chunk + self.tokens], [0, 0])
            if (weight.fall, False) in self.buffers:
                with T.serial(chunk) as t:
                    T.buffer_store(self.buffers[weight.fall, False], table[0, chunk + self.tokens - 1 - t], [0, t])

    # -------------------------------------------------------------- steps

    def step(self, step: Step) -> None:
        """Compute one tensor, in every form that is read."""
        if step.is_matmul:
            self.matmul(step)
        elif step.groups:
            self.reduce(step)
        else:
            self.pointwise(step)
        self.turn(step.name)

    def turn(self, name: str) -> None:
        """The other form of a tensor that is read both ways."""
        forms = self.forms.forms.get(name, (False,))
        if len(forms) == 1:
            return
        source, target = (self.buffers[name, form] for form in forms)
        rows, columns = self.shape(name, transposed=forms[0])
        step = 4
        with T.serial(rows // step) as block, T.serial(columns) as column, T.unroll(step) as part:
            row = block * step + part
            T.buffer_store(target, source[row, column], [column, row])

    def tile(self, step: Step) -> tuple[int, int]:
        """Rows and columns of the accumulator of a product."""
        along = self.forms.vector(step)
        rows, columns = self.schedule.tokens if along.axis == self.program.axis else self.schedule.features
        extent = self.extents[along.axis]
        while extent % columns:
            columns -= self.schedule.vector
        return rows, columns

    def matmul(self, step: Step) -> None:
        """Products into one accumulator a tile; tiles and parts of sums that are 0 are left out."""
        along = self.forms.vector(step)
        across = step.indices[0] if step.indices[1] == along else step.indices[1]
        rows, columns = self.tile(step)
        target = self.buffers[step.name, self.native(step.name)]
        with T.serial(self.extents[along.axis] // columns) as block:
            left = block * columns
            low: Any = 0
            high: Any = self.extents[across.axis] // rows
            if step.order is not None and step.order.lower == across:
                high = T.min(T.ceildiv(left + columns, rows), high)
            elif step.order is not None:
                low = left // rows
            with T.serial(high - low) as part:
                top = (low + part) * rows
                spans = {along: (left, columns), across: (top, rows)}
                self.accumulate(step, along, across, spans)
                accumulator = self.accumulators[rows, columns]
                with T.unroll(rows) as i, T.unroll(columns // self.schedule.vector) as j:
                    with T.vectorized(self.schedule.vector) as lane:
                        column = j * self.schedule.vector + lane
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
        k = sums_along(step, self.forms)
        along = self.forms.vector(step) if step.indices and k is None else None
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
        along = self.forms.vector(step)
        with ExitStack() as loops:
            at: dict[Index, Any] = {}
            for index in step.indices:
                if index != along:
                    at[index] = loops.enter_context(T.serial(self.extents[index.axis]))
            for column, lane in _vectors(self.extents[along.axis], self.schedule.vector):
                lanes = {**at, along: column + lane}
                T.buffer_store(target, self.finished(step, lanes, along, None), self.place(step, lanes))


def _vectors(columns: int, width: int) -> Iterator[tuple[Any, Any]]:
    """Loops over ``columns`` by vectors: where each starts, and the lane."""
    with T.serial(columns // width) as block, T.vectorized(width) as lane:
        yield block * width, lane
