"""Schedules that TVM's MetaSchedule proposes: a trace of transformations of a kernel's contractions.

Such a kernel is for the shape that it was tuned at; :mod:`dtn_codegen.tensorir.whole` is what the trace starts from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tvm
from tvm.s_tir.schedule import Trace

from dtn_codegen.tensorir.schedule import Schedule
from dtn_codegen.tensorir.whole import lower_whole
from dtn_core.errors import CompileError
from dtn_core.passes.pipeline import candidates

from .problem import Problem
from .recipe import computed
from .targets import Target
from .trace_schedule import TraceSchedule


def written(trace: Trace) -> str:
    """A trace as text, the same for equal ones."""
    return json.dumps(trace.as_json(), default=_plain, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """A number as TVM holds it, as JSON has it."""
    if isinstance(value, tvm.tirx.IntImm):
        return int(value)
    if isinstance(value, tvm.tirx.FloatImm):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a trace holds a {type(value).__name__}")


def unscheduled(problem: Problem) -> tvm.IRModule:
    """What a trace starts from: a block for each contraction of the problem.

    Raises
    ------
    CompileError
        If the problem is more than contractions of whole tensors, as every causal one is.
    """
    program = problem.operator.program
    lowered = candidates(computed(program, problem.direction))[0]
    if lowered.chunked is not None:
        relation = next(r for s in lowered.definition.statements for r in s.order)
        raise CompileError(
            f"{program.name} {problem.direction} walks along {problem.axis} ({relation.lower.name} <= "
            f"{relation.upper.name}); MetaSchedule takes contractions without an order"
        )
    return lower_whole(
        lowered.program,
        problem.axis,
        problem.inputs,
        [output for output in lowered.definition.outputs if output.axes or problem.direction == "forward"],
        problem.sizes,
        problem.dtype,
        problem.layout,
        problem.operator.scalars,
    )


def scheduled(problem: Problem, schedule: TraceSchedule) -> tvm.s_tir.Schedule:
    """The trace, carried out.

    Raises
    ------
    CompileError
        If it is of another kernel.
    """
    made = tvm.s_tir.Schedule(unscheduled(problem))
    try:
        Trace.apply_json_to_schedule(json.loads(schedule.trace), made)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:  # TVM's are RuntimeErrors
        raise CompileError(f"{problem.operator.name}: the trace does not fit this kernel: {_said(error)}") from None
    return made


def _said(error: Exception) -> str:
    """What TVM says of a transformation that is not possible, without the program that it prints before."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    marked = [line for line in lines if line.startswith("Error message:")]
    return (marked or lines)[-1].removeprefix("Error message:").strip()


def lower(problem: Problem, schedule: Schedule, target: Target) -> Any:
    """The module of a candidate, for the shape of ``problem`` alone."""
    if not isinstance(schedule, TraceSchedule) or target.kind != "cpu":
        raise CompileError(f"a {schedule.kind} schedule cannot be compiled for {target.name}")
    return scheduled(problem, schedule).mod
