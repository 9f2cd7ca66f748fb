"""A tile program as one TVM function for a GPU: its passes one after another, and the memory between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as tir

from dtn_core.ir.nodes import Read

from ..walks import TileProgram
from .arguments import Arguments
from .elements import Values
from .fold import Fold
from .kernel import Kernel
from .passes import passes
from .placement import MATRIX
from .plan import Plan
from .schedule import CudaSchedule


@dataclass(frozen=True)
class Scratch:
    """Memory between passes: ``[sequences, count, *shape]``, where ``count`` are spans, segments, or nothing."""

    name: str
    count: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Launches:
    """What a program launches, in order, and the memory that passes from one to the next.

    Attributes
    ----------
    stages : tuple[Plan or Fold, ...]
    scratch : tuple[Scratch, ...]
    """

    stages: tuple[Plan | Fold, ...]
    scratch: tuple[Scratch, ...]

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The passes over the tokens."""
        return tuple(stage for stage in self.stages if isinstance(stage, Plan))


def launches(program: TileProgram, schedule: CudaSchedule, sizes: Mapping[str, int], dtype: str) -> Launches:
    """What a program becomes under a schedule.

    Raises
    ------
    CompileError
        If it has no kernel, or the schedule does not fit it, saying why.
    """
    stages: list[Plan | Fold] = []
    scratch: dict[str, Scratch] = {}

    def remember(name: str, count: str, axes: tuple[str, ...], kind: str) -> None:
        shape = tuple(map(plan.size, axes))
        scratch.setdefault(name, Scratch(name, count, shape, kind))

    for part in passes(program, split=bool(schedule.split)):
        plan = Plan(part, program, schedule, dtype, sizes)
        plan.check()
        stages.append(plan)
        for name in plan.outgoing.values():
            axes = program.axes[name]
            remember(f"{name}_saved", "spans", axes, plan.tile_dtype if len(axes) == MATRIX else "float32")
            if plan.scaled and len(axes) == MATRIX:
                remember(f"{name}_scales", "spans", (), "float32")
        for name in part.replayed:
            memory = f"{name}_replayed"
            scratch[memory] = Scratch(memory, "", (plan.span, *map(plan.size, program.axes[name])), "float32")
        for name in part.ends:
            carried = plan.carried[name]
            fold = Fold(carried, part.walk.reverse, plan.chunk, prod(map(plan.size, carried.axes)))
            stages.append(fold)
            remember(fold.source, "segments", carried.axes, "float32")
            if carried.total:
                remember(f"{name}_total", "", carried.axes, "float32")
    return Launches(tuple(stages), tuple(scratch.values()))


def lower_cuda(
    program: TileProgram, schedule: CudaSchedule, sizes: Mapping[str, int], dtype: str, layout: str = "... n d"
) -> tvm.IRModule:
    """A module whose ``main(*inputs, *outputs)`` computes ``program`` for any batch, heads and tokens.

    Build it with the pipeline ``"tirx"``. Memory between passes comes from TVM's workspace, which belongs to the
    calling thread and is used again by its next call: calls that overlap on several streams need a thread each.

    Parameters
    ----------
    program : TileProgram
        What to compute.
    schedule : CudaSchedule
        How.
    sizes : Mapping[str, int]
        Sizes of the feature axes.
    dtype : str
        Of tensors; scalars are float32 ``[batch, heads]``.
    layout : {"... n d", "... n h d"}
        Tensors are ``[batch, heads, n, d]``, or ``[batch, n, heads, d]``.

    Raises
    ------
    CompileError
        If the program has no kernel, or the schedule does not fit it, saying why.
    """
    made = launches(program, schedule, sizes, dtype)
    with IRBuilder() as builder, tir.prim_func():
        tir.func_name("main")
        arguments = Arguments(program, schedule, sizes, dtype, layout)
        for scratch in made.scratch:
            arguments.allocate(scratch.name, scratch.count, scratch.shape, scratch.dtype)
        for stage in made.stages:
            # A thread may have all the registers there are: ptxas would rather spill than have fewer blocks resident.
            with (
                tir.attr({"tirx.device_entry": tvm.tirx.const(True, "bool")}),
                tir.attr({"tirx.launch_bounds_min_blocks_per_sm": tvm.tirx.const(1, "int32")}),
            ):
                if isinstance(stage, Plan):
                    Kernel(stage, arguments).run()
                else:
                    _fold(stage, program, arguments)
    return tvm.IRModule({"main": builder.get()})


def _fold(fold: Fold, program: TileProgram, arguments: Arguments) -> None:
    count, share = arguments.segments, arguments.share
    flat = (arguments.sequences, count, fold.elements)
    source = arguments.buffers[fold.source]
    segments = tir.decl_buffer(flat, "float32", data=source.data, scope="global")

    def whole(name: str) -> Any:
        data = arguments.buffers[name].data
        return tir.decl_buffer((arguments.sequences, fold.elements), "float32", data=data, scope="global")

    first = whole(fold.carried.first) if fold.carried.first else None
    target = whole(f"{fold.carried.name}_total") if fold.carried.total else None

    weights = fold.carried.weights
    values = Values(program.axis, (), program.constants)

    def log_decay(sequence: Any) -> Any:
        assert weights is not None
        if isinstance(weights.decay, Read) and weights.decay.tensor not in program.constants:
            return tir.log2(arguments.given(weights.decay.tensor, sequence, ()))
        return values.log_decay(weights.decay)

    fold.emit(segments, first, target, None if weights is None else log_decay, count, share, arguments.length)
