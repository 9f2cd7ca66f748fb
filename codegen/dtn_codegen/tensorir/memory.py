"""Memory of a kernel on a CPU: its arguments and results, what walks hand on to later ones, and powers of decays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dtn_core.ir.nodes import Number, Param, Read

from .buffers import FLOAT
from .products import Loops
from .schedule import CpuSchedule
from .steps import RANK
from .walks import TileProgram, Walk

HEADS = "... n h d"


class Memory(Loops):
    """Loops over what lies outside of the buffers of a chunk.

    Parameters
    ----------
    program : TileProgram
    schedule : CpuSchedule
    sizes : Mapping[str, int]
        Of the feature axes.
    dtype : str
        Of tensors; scalars are float32.
    layout : {"... n d", "... n h d"}
    """

    head_index: Any

    def __init__(
        self, program: TileProgram, schedule: CpuSchedule, sizes: Mapping[str, int], dtype: str, layout: str
    ) -> None:
        super().__init__(program, schedule, sizes)
        self.dtype = dtype
        self.is_headed = layout == HEADS
        self.arguments: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}
        self.sums: dict[str, Any] = {}

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
            kind = self.kind(param)
            # frameworks align to 16 bytes at best, slices to an element
            buffer = T.match_buffer(handle, shape, kind, align=tvm.DataType(kind).bits // 8)
            IRBuilder.name(param.name, buffer)
            matched.append(buffer)
        for param, buffer in zip(params, matched, strict=True):
            columns = self.extent(param.axes[-1]) if len(param.axes) >= RANK else 1
            rows = self.batch * self.heads
            for axis in param.axes[: max(1, len(param.axes) - 1)]:
                rows = rows * self.extent(axis)
            self.arguments[param.name] = T.decl_buffer((rows, columns), buffer.dtype, data=buffer.data)

    def workspace(self) -> None:
        """Memory for what walks hand on to later ones: tensors of every chunk, and sums of parts of a sequence."""
        self.chunks = T.ceildiv(self.length, self.chunk)
        self.segments = T.ceildiv(self.length, self.segment)
        count = self.batch * self.heads
        for walk in self.program.walks:
            handed = {name: name for name in (*walk.saved, *walk.stored)}
            if walk.rows is not None:
                handed |= {name: name for name in walk.rows.gathered} | dict(walk.rows.stored)
            for name, of in handed.items():
                rows, columns = self.shape(name, transposed=self.native(name))
                self.kept[of] = T.alloc_buffer((count * self.segments * rows, columns), FLOAT)
            for carried in walk.carried:
                if carried.partial:
                    rows, columns = self.shape(carried.name, transposed=self.native(carried.name))
                    self.sums[carried.name] = T.alloc_buffer((count * self.schedule.parts * rows, columns), FLOAT)

    def kind(self, param: Param) -> str:
        """The dtype of an argument or result."""
        return FLOAT if self.program.is_wide(param) else self.dtype

    def is_interleaved(self, param: Param) -> bool:
        """Whether the head axis is between the two axes of a tensor."""
        return self.is_headed and len(param.axes) == RANK and param.axes[0] == self.program.axis

    def row(self, param: Param, head: Any, first: Any) -> Any:
        """The row of an argument's alias for index ``first`` of its first axis."""
        if self.is_interleaved(param):
            return ((head // self.heads) * self.length + first) * self.heads + head % self.heads
        return head * self.extent(param.axes[0]) + first if param.axes else head

    def hand_over(self, memory: Mapping[str, Any], of: str, place: Any, *, load: bool, name: str = "") -> None:
        """Write a tensor (the one called ``name``) to its ``place`` in memory, or read it from there."""
        name = name or of
        form = self.native(name)
        rows, columns = self.shape(name, transposed=form)
        buffer, outside = self.buffers[name, form], memory[of]
        with T.serial(rows) as row:
            for column, lane in self.vectors(columns):
                inner, outer = [row, column + lane], [place * rows + row, column + lane]
                if load:
                    T.buffer_store(buffer, outside[tuple(outer)], inner)
                else:
                    T.buffer_store(outside, buffer[tuple(inner)], outer)
        if load:
            self.turn(name)

    # -------------------------------------------------------------- arguments

    def stage(self, param: Param, head: Any, first: Any, name: str = "") -> None:
        """The tokens of a chunk as float32 in the buffer of ``name``, zeros past the end."""
        source, name = self.arguments[param.name], name or param.name
        chunk = self.chunk
        if len(param.axes) < RANK:
            target = self.buffers[name, False]
            with T.serial(chunk) as t:
                inside = T.if_then_else(
                    t < self.tokens, T.cast(source[self.row(param, head, first + t), 0], FLOAT), T.float32(0)
                )
                T.buffer_store(target, inside, [0, t])
            return
        target = self.buffers[name, False]
        size = self.sizes[param.axes[1]]
        with T.serial(self.tokens) as t:
            row = T.bind(self.row(param, head, first + t))
            for column, lane in self.pieces(size):
                T.buffer_store(target, T.cast(source[row, column + lane], FLOAT), [t, column + lane])
        with T.serial(chunk - self.tokens) as t:
            for column, lane in self.vectors(self.extents[param.axes[1]]):
                T.buffer_store(target, T.float32(0), [self.tokens + t, column + lane])
        self.turn(name)

    def stage_constant(self, param: Param, head: Any, name: str) -> None:
        """A tensor without tokens, or a scalar, as float32 in the buffer of ``name``."""
        source, target = self.arguments[param.name], self.buffers[name, self.native(name)]
        for outside, inside in self.elements(param, head, name):
            T.buffer_store(target, T.cast(source[outside], FLOAT), list(inside))
        self.turn(name)

    def write(self, param: Param, head: Any, first: Any, name: str = "") -> None:
        """The results of a chunk's tokens, from the buffer of ``name``."""
        target, source = self.arguments[param.name], self.buffers[name or param.name, False]
        with T.serial(self.tokens) as t:
            row = T.bind(self.row(param, head, first + t))
            if len(param.axes) < RANK:
                T.buffer_store(target, T.cast(source[0, t], self.dtype), [row, 0])
                return
            for column, lane in self.pieces(self.sizes[param.axes[1]]):
                T.buffer_store(target, T.cast(source[t, column + lane], self.dtype), [row, column + lane])

    def write_constant(self, param: Param, head: Any, name: str) -> None:
        """A result without tokens, from the buffer of ``name``."""
        source, target = self.buffers[name, self.native(name)], self.arguments[param.name]
        for outside, inside in self.elements(param, head, name):
            T.buffer_store(target, T.cast(source[inside], self.kind(param)), list(outside))

    def elements(self, param: Param, head: Any, name: str) -> Iterator[tuple[Any, Any]]:
        """Loops over a tensor without tokens: where an element is in the argument, and in the buffer of ``name``."""
        with ExitStack() as loops:
            at = [loops.enter_context(T.serial(self.sizes[axis])) for axis in param.axes]
            row = head
            for place, axis in zip(at[: max(1, len(at) - 1)], param.axes, strict=False):
                row = row * self.sizes[axis] + place
            places = list(at)
            for order, axis in enumerate(self.program.axes[name]):
                if axis in self.program.pairs:
                    second = self.program.pairs[axis][1]
                    places[order : order + 2] = [places[order] * self.extents[second] + places[order + 1]]
            inside = [0] * (RANK - len(places)) + places
            yield (row, at[-1] if len(at) >= RANK else 0), tuple(inside[::-1] if self.native(name) else inside)

    # -------------------------------------------------------------- decays

    def powers(self) -> None:
        """Tables of the powers of each decay: ``γ^x`` at ``C + x`` (0 for x < 0) in both directions, and γ^(p+1)."""
        self.tables = {}
        chunk = self.chunk
        orders = [step.order.decay for step in self.program.steps if step.order is not None]
        decays = dict.fromkeys([*(w.decay for w in self.program.weights), *(d for d in orders if d is not None)])
        for of in decays:
            table = T.alloc_buffer((2, 2 * chunk + self.schedule.vector), FLOAT)
            running = T.alloc_buffer((1,), "float64", scope="local")
            self.fill(table, 2, 2 * chunk + self.schedule.vector)
            self.decays[of] = decay = T.cast(self.decay(of), "float64")
            T.buffer_store(running, T.float64(1), [0])
            with T.serial(chunk + 1) as x:
                T.buffer_store(table, T.cast(running[0], FLOAT), [0, chunk + x])
                T.buffer_store(table, T.cast(running[0], FLOAT), [1, chunk - x])
                T.buffer_store(running, running[0] * decay, [0])
            self.tables[of] = table
        for weight in self.program.weights:
            if (weight.rise, False) in self.buffers:
                table = self.tables[weight.decay]
                with T.serial(chunk) as t:
                    T.buffer_store(self.buffers[weight.rise, False], table[0, chunk + 1 + t], [0, t])

    def decay(self, decay: Number | Read) -> Any:
        """A decay as float64."""
        if isinstance(decay, Number):
            return T.float64(float(decay.value))
        if decay.tensor in self.program.constants:
            return T.float64(self.program.constants[decay.tensor])
        return self.arguments[decay.tensor][self.head_index, 0]

    def falling(self, walk: Walk) -> None:
        """γ^(m−1−p) for the p-th of a chunk's m tokens, and γ^m."""
        chunk = self.chunk
        for weight in self.program.weights:
            if not walk.reads([weight.fall, weight.whole]):
                continue
            table = self.tables[weight.decay]
            if (weight.whole, False) in self.buffers:
                T.buffer_store(self.buffers[weight.whole, False], table[0, chunk + self.tokens], [0, 0])
            if (weight.fall, False) in self.buffers:
                with T.serial(chunk) as t:
                    T.buffer_store(self.buffers[weight.fall, False], table[0, chunk + self.tokens - 1 - t], [0, t])
