"""Kernels: what can be chosen for a problem, the TensorIR of a choice, and the compiled function.

Every kind of device is a family of schedules (``FAMILIES``): a module with the functions of :class:`Family`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from . import threads
from .toolchain import check_toolchain

check_toolchain()
threads.use_every_core()

import tvm  # noqa: E402 - after the check, whose message names what to install
import tvm_ffi  # noqa: E402, F401

from dtn_codegen.tensorir.schedule import Schedule  # noqa: E402
from dtn_core.operators import Operator  # noqa: E402

from . import cpu, cuda, trace  # noqa: E402
from .problem import Problem  # noqa: E402
from .targets import Target  # noqa: E402
from .trace_schedule import KIND  # noqa: E402


class Family(Protocol):
    """The schedules of one kind of device."""

    def space(self, problem: Problem, target: Target) -> tuple[Schedule, ...]:
        """Valid candidates, the best predicted first."""

    def default(self, problem: Problem, target: Target) -> Schedule:
        """What to take without measuring."""

    def lacks(self, operator: Operator, sizes: Mapping[str, int], dtype: str, target: Target, *, resumed: bool) -> str:
        """Why a gradient has no kernel at these sizes; empty where it has one."""

    def lower(self, problem: Problem, schedule: Schedule, target: Target) -> tvm.IRModule:
        """The module of a candidate."""


FAMILIES: dict[str, Any] = {"cpu": cpu, "cuda": cuda}
"""Modules that implement :class:`Family`, by the kind of device."""


class Kernel:
    """A compiled kernel: call it with inputs, then outputs, contiguous and on its device, through DLPack.

    Outputs are written in place; give it none that a framework believes to be immutable.
    """

    def __init__(self, problem: Problem, schedule: Schedule, target: Target, executable: Any) -> None:
        self.problem = problem
        self.schedule = schedule
        self.target = target
        self.executable = executable
        self.function = executable["main"]

    def __call__(self, *tensors: Any) -> None:
        self.function(*tensors)

    def export(self, path: Path) -> None:
        """Write it as a shared library, which needs a C++ compiler; ``tvm_ffi.load_module`` loads it."""
        self.executable.export_library(str(path))

    def __repr__(self) -> str:
        return f"<kernel of {self.problem.operator.name} {self.problem.direction} on {self.target.name}>"


def space(problem: Problem, target: Target) -> tuple[Schedule, ...]:
    """The schedules worth measuring, the best predicted first.

    Raises
    ------
    CompileError
        If the problem has no kernel on this kind of device, saying why.
    """
    return tuple(FAMILIES[target.kind].space(problem, target))


def default(problem: Problem, target: Target) -> Schedule:
    """The schedule to take without measuring.

    Raises
    ------
    CompileError
        As :func:`space`.
    """
    return FAMILIES[target.kind].default(problem, target)  # type: ignore[no-any-return]


def lower(problem: Problem, schedule: Schedule, target: Target) -> tvm.IRModule:
    """The TensorIR of ``problem``; its ``main(*inputs, *outputs)`` serves any batch, heads and number of tokens."""
    return _family(schedule, target).lower(problem, schedule, target)


def compile(problem: Problem, schedule: Schedule, target: Target) -> Kernel:
    """The compiled kernel, remembered: problems that differ in batch, heads and tokens share one of the grid's.

    Raises
    ------
    CompileError
        If the schedule does not fit the problem.
    """
    return _compiled(problem if schedule.kind == KIND else _shared(problem), schedule, target)


def _family(schedule: Schedule, target: Target) -> Any:
    """The module that lowers a schedule: MetaSchedule's are a family beside that of the kind of device."""
    return trace if schedule.kind == KIND else FAMILIES[target.kind]


def _shared(problem: Problem) -> Problem:
    """``problem`` at the sizes that kernels do not depend on."""
    sizes = {**problem.sizes, "batch": 1, "heads": 1, problem.axis: 1}
    return replace(problem, sizes=sizes)


@lru_cache(maxsize=1024)
def _compiled(problem: Problem, schedule: Schedule, target: Target) -> Kernel:
    family = _family(schedule, target)
    if target.kind == "cpu":
        threads.share_openmp()
        threads.outlive_forks()
    module = family.lower(problem, schedule, target)
    build = getattr(family, "build", tvm.compile)
    return Kernel(problem, schedule, target, build(module, target.tvm))


__all__: Sequence[str] = ("FAMILIES", "Kernel", "Problem", "Schedule", "compile", "default", "lower", "space")
