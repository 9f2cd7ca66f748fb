"""A lowered program without order as TensorIR over whole tensors, a block for each contraction and pointwise step.

This is not how kernels of this library are written: nothing is fused, and sizes are fixed.  It is the form in which
TVM's MetaSchedule takes contractions, which finds tiles, vectors and threads for each block by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import ONES, Expr, Index, Param, Program, Read, Statement, indices_of, sum_of, terms_of
from dtn_core.printer import print_statement

from .expressions import value_of

FLOAT = "float32"
HEADS = "... n h d"


def lower_whole(
    program: Program,
    axis: str,
    inputs: Sequence[Param],
    outputs: Sequence[Param],
    sizes: Mapping[str, int],
    dtype: str,
    layout: str = "... n d",
    constants: Mapping[str, float] | None = None,
) -> tvm.IRModule:
    """A module whose ``main(*inputs, *outputs)`` computes ``program`` at ``sizes``.

    Parameters
    ----------
    program : Program
        Straight-line, lowered.
    axis : str
        Of the tokens.
    inputs, outputs : sequence of Param
        Of the function: parameters that are no constants, and those of the program's outputs that are wanted.
    sizes : Mapping[str, int]
        Of every axis, of ``"batch"`` and of ``"heads"``.
    dtype : str
        Of tensors; sums are float32, and so are scalars, ``[batch, heads]``.
    layout : {"... n d", "... n h d"}
        Tensors are ``[batch, heads, n, d]``, or ``[batch, n, heads, d]`` where they have two axes and the first is
        ``axis``.
    constants : Mapping[str, float], optional
        Values of the other scalar parameters.

    Raises
    ------
    CompileError
        Names the statement that is no contraction of whole tensors.
    """
    return _Whole(program, axis, sizes, dtype, layout, constants or {}).module(inputs, outputs)


class _Whole:
    def __init__(
        self,
        program: Program,
        axis: str,
        sizes: Mapping[str, int],
        dtype: str,
        layout: str,
        constants: Mapping[str, float],
    ) -> None:
        self.program = program
        self.axis = axis
        self.sizes = sizes
        self.dtype = dtype
        self.is_headed = layout == HEADS
        self.constants = constants
        self.buffers: dict[str, Any] = {}
        self.swapped: set[str] = set()  # arguments with the tokens before the heads
        self.direct: dict[str, Any] = {}  # results that are computed where they are handed out

    def module(self, inputs: Sequence[Param], outputs: Sequence[Param]) -> tvm.IRModule:
        """The function in a module."""
        with IRBuilder() as made, T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
            params = [*inputs, *outputs]
            handles = [T.arg(f"{param.name}_handle", T.handle()) for param in params]
            given = [self.argument(param, handle) for param, handle in zip(params, handles, strict=True)]
            self.buffers = {param.name: buffer for param, buffer in zip(inputs, given, strict=False)}
            self.swapped = {param.name for param in inputs if self.swaps(param)}
            results = dict(zip(outputs, given[len(inputs) :], strict=True))
            self.direct = {param.name: buffer for param, buffer in results.items() if self.is_direct(param)}
            for statement in self.program.statements:
                self.statement(statement)
            for param, buffer in results.items():
                if param.name not in self.direct:
                    self.result(param, buffer)
        return tvm.IRModule({"main": made.get()})

    def argument(self, param: Param, handle: Any) -> Any:
        """The buffer of an argument or result."""
        kind = self.dtype if param.axes else FLOAT
        # frameworks align to 16 bytes at best, slices to an element
        buffer = T.match_buffer(handle, self.shape(param), kind, align=tvm.DataType(kind).bits // 8)
        IRBuilder.name(param.name, buffer)
        return buffer

    def swaps(self, param: Param) -> bool:
        """Whether the head axis of an argument or result is between its two axes."""
        return self.is_headed and len(param.axes) > 1 and param.axes[0] == self.axis

    def is_direct(self, param: Param) -> bool:
        """Whether a result is handed out as it is computed."""
        return not self.swaps(param) and (self.dtype == FLOAT or not param.axes)

    def shape(self, param: Param) -> tuple[int, ...]:
        """The shape of an argument or result."""
        extents = [self.sizes[axis] for axis in ("batch", "heads", *param.axes)]
        return tuple(_placed(extents, swapped=self.swaps(param)))

    def statement(self, statement: Statement) -> None:
        """The blocks of a statement: where several sums are added, each is one of its own."""
        if statement.order:
            said = print_statement(statement)
            raise CompileError(f"{self.program.name}: {said} is no contraction of whole tensors")
        left = set(statement.indices)
        terms = terms_of(statement.value)
        added: list[Expr] = []
        for place, term in enumerate(terms):
            if len(terms) == 1 or set(indices_of(term)) <= left:
                added.append(term)
                continue
            name = f"{statement.name}_term_{place}"
            self.block(name, statement.indices, term)
            added.append(Read(name, statement.indices))
        self.block(statement.name, statement.indices, sum_of(*added))

    def block(self, name: str, indices: Sequence[Index], value: Expr) -> None:
        """``name[batch, heads, *indices] = Σ value``, in float32."""
        summed = [index for index in dict.fromkeys(indices_of(value)) if index not in indices]
        shape = [self.sizes["batch"], self.sizes["heads"], *(self.sizes[index.axis] for index in indices)]
        inner = [self.sizes[index.axis] for index in summed]
        target = self.direct[name] if name in self.direct else T.sblock_alloc_buffer(shape, FLOAT)
        IRBuilder.name(name, target)
        self.buffers[name] = target
        with T.grid(*shape, *inner) as loops, T.sblock(name):
            outer = [T.axis.spatial(extent, at) for extent, at in zip(shape, loops, strict=False)]
            places = [T.axis.reduce(extent, at) for extent, at in zip(inner, loops[len(shape) :], strict=True)]
            at = {**dict(zip(indices, outer[2:], strict=True)), **dict(zip(summed, places, strict=True))}
            found = value_of(value, lambda read: self.load(read, outer[:2], at), self.size)
            if summed:
                with T.init():
                    T.buffer_store(target, T.float32(0), outer)
                found = target[tuple(outer)] + found
            T.buffer_store(target, found, outer)

    def load(self, read: Read, leading: Sequence[Any], at: Mapping[Index, Any]) -> Any:
        """An element of a tensor, as float32."""
        if read.tensor == ONES:
            return T.float32(1)
        if read.tensor in self.constants:
            return T.float32(self.constants[read.tensor])
        places = _placed([*leading, *(at[index] for index in read.indices)], swapped=read.tensor in self.swapped)
        return T.cast(self.buffers[read.tensor][tuple(places)], FLOAT)

    def size(self, axis: str) -> Any:
        """The size of an axis as a number."""
        return T.float32(self.sizes[axis])

    def result(self, param: Param, target: Any) -> None:
        """An output as it is handed out: in the dtype of tensors, and with the heads where they belong."""
        source = self.buffers[param.name]
        extents = [self.sizes[axis] for axis in ("batch", "heads", *param.axes)]
        with T.grid(*extents) as loops, T.sblock(f"{param.name}_result"):
            at = [T.axis.spatial(extent, loop) for extent, loop in zip(extents, loops, strict=True)]
            value = T.cast(source[tuple(at)], self.dtype if param.axes else FLOAT)
            T.buffer_store(target, value, _placed(at, swapped=self.swaps(param)))


def _placed(at: list[Any], *, swapped: bool) -> list[Any]:
    """``[batch, heads, i, ...]`` as it is in memory."""
    return [at[0], at[2], at[1], *at[3:]] if swapped else at
