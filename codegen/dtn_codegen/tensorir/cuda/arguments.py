"""The arguments of a function, the memory between its passes, and where an element of them is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm.tirx.script.builder import ir as tir

from ..walks import TileProgram
from .placement import MATRIX
from .schedule import CudaSchedule
from .tiles import Expression, named

HEADS = "... n h d"


class Arguments:
    """Declares a function's arguments, in order: inputs, then outputs.

    Parameters
    ----------
    program : TileProgram
    schedule : CudaSchedule
    sizes : Mapping[str, int]
    dtype, layout : str
    """

    def __init__(
        self, program: TileProgram, schedule: CudaSchedule, sizes: Mapping[str, int], dtype: str, layout: str
    ) -> None:
        self.axis = program.axis
        self.interleaved = layout == HEADS
        self.batch, self.heads = named("batch", tir.int64()), named("heads", tir.int64())
        self.length = named("n", tir.int64())
        self.buffers: dict[str, Any] = {}
        self.scratch: set[str] = set()
        for param in (*program.inputs, *program.outputs):
            shape = [self.length if axis == self.axis else sizes[axis] for axis in param.axes]
            full = (self.batch, self.heads, *shape)
            if self.interleaved and len(shape) == MATRIX and param.axes[0] == self.axis:
                full = (self.batch, shape[0], self.heads, shape[1])
            kind = "float32" if program.is_wide(param) else dtype
            self.buffers[param.name] = tir.arg(param.name, tir.buffer(full, kind))
        chunk = 1 if program.by_token else schedule.chunk
        self.chunks = (self.length + (chunk - 1)) // chunk
        self.spans = (self.length + (schedule.chunk - 1)) // schedule.chunk
        self.sequences = self.batch * self.heads
        self.segments: Expression = tir.int64(1)
        if schedule.split:
            wanted = tir.int64(schedule.split) // tir.max(self.sequences, tir.int64(1))
            self.segments = tir.max(tir.min(wanted, self.chunks), tir.int64(1))
        self.share = (self.chunks + self.segments - 1) // self.segments

    def allocate(self, name: str, count: str, shape: tuple[int, ...], dtype: str) -> None:
        """Memory between passes."""
        counts = {"spans": (self.spans,), "segments": (self.segments,), "": ()}[count]
        self.buffers[name] = named(name, tir.alloc_buffer((self.sequences, *counts, *shape), dtype, scope="global"))
        self.scratch.add(name)

    def token(self, name: str, sequence: Expression, token: Expression, *feature: Expression) -> Any:
        """An element along the tokens."""
        return self.buffers[name][self.place(sequence, token, *feature)]

    def write_token(
        self, name: str, value: Expression, sequence: Expression, token: Expression, *feature: Expression
    ) -> None:
        """Write an element along the tokens, in the dtype of the argument."""
        buffer = self.buffers[name]
        tir.buffer_store(buffer, tir.cast(value, buffer.dtype), list(self.place(sequence, token, *feature)))

    def place(self, sequence: Expression, token: Expression, *feature: Expression) -> tuple[Expression, ...]:
        """Where an element along the tokens is in its argument."""
        batch, head = sequence // self.heads, sequence % self.heads
        return (batch, token, head, *feature) if self.interleaved and feature else (batch, head, token, *feature)

    def given(self, name: str, sequence: Expression, places: tuple[Expression, ...]) -> Any:
        """An element of an argument or a total without tokens."""
        if f"{name}_total" in self.scratch:
            return self.buffers[f"{name}_total"][(sequence, *places)]
        return self.buffers[name][(sequence // self.heads, sequence % self.heads, *places)]
