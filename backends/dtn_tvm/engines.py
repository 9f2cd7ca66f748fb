"""Where candidates come from: a grid of this library's own schedules, or TVM's MetaSchedule.

An engine only proposes.  Its candidates are built, checked, measured and filed all the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from dtn_core.errors import CompileError, DtnError

from .measuring.process import Child, CrashError, HangError, StartError
from .recipe import to_json
from .search import Search
from .trace_schedule import KIND

if TYPE_CHECKING:
    from .candidates import Options
    from .problem import Problem
    from .targets import Target

PATIENCE = 600.0
"""Seconds that MetaSchedule may think, on a busy machine."""


class TuneError(DtnError):
    """Tuning that cannot start, or that found nothing."""


class Engine(Protocol):
    """A source of candidates."""

    def __len__(self) -> int:
        """Candidates at most."""

    def propose(self) -> dict[str, Any] | None:
        """The next candidate, or None when there is none left."""

    def tell(self, schedule: Mapping[str, Any], seconds: float | None) -> bool:
        """What a candidate took; None if it is not valid.  False for one that is none of this search's."""


def new_search(family: ModuleType, problem: Problem, target: Target) -> Search:
    """A search of the family's schedules for a problem.

    Raises
    ------
    TuneError
        If the family has none.
    """
    space = family.space(problem, target)
    if not space:
        raise TuneError(f"{problem.operator.name} {problem.direction}: there is no kernel of it for {target.name}")
    return Search([schedule.to_json() for schedule in space], family.default(problem, target).to_json())


@contextmanager
def _grid(family: ModuleType, problem: Problem, target: Target, options: Options) -> Iterator[Search]:
    yield new_search(family, problem, target)


@contextmanager
def _metaschedule(family: ModuleType, problem: Problem, target: Target, options: Options) -> Iterator[MetaSchedule]:
    if target.kind != "cpu":
        raise TuneError(
            f"the engine metaschedule is for processors, not for {target.name}; the engine grid is for both"
        )
    from .trace import unscheduled

    try:
        unscheduled(problem)
    except CompileError as error:
        raise TuneError(f"{error}; the engine grid has kernels of it") from None
    with Child(["-P", "-m", "dtn_tvm.metaschedule"]) as child:
        yield MetaSchedule(child, problem, target, options)


class MetaSchedule:
    """TVM's MetaSchedule, for the exact shape of a problem, in a process of its own.

    Parameters
    ----------
    child : Child
        The process, of :mod:`dtn_tvm.metaschedule`.
    problem, target, options
        As :func:`dtn_tvm.tune.tune` takes them.

    Raises
    ------
    StartError
        From every method, if the process crashes, hangs, or cannot work.
    """

    def __init__(self, child: Child, problem: Problem, target: Target, options: Options) -> None:
        self._child = child
        self._trials = options.trials
        self._begin: dict[str, Any] | None = {
            "job": "begin",
            "problem": to_json(problem),
            "target": target.to_json(),
            "trials": options.trials,
            "seed": options.seed,
        }

    def __len__(self) -> int:
        return self._trials

    def propose(self) -> dict[str, Any] | None:
        """The next candidate, or None when the search has ended."""
        trace = self._ask({"job": "propose"})["trace"]
        return None if trace is None else {"kind": KIND, "trace": trace}

    def tell(self, schedule: Mapping[str, Any], seconds: float | None) -> bool:
        """What a candidate took; those of an earlier run too."""
        if schedule.get("kind") != KIND:
            return False
        return bool(self._ask({"job": "tell", "trace": schedule["trace"], "seconds": seconds})["is_known"])

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        begin, self._begin = self._begin, None
        answer: dict[str, Any] = {}
        for question in (begin, job) if begin is not None else (job,):
            try:
                answer = self._child.ask(question, PATIENCE)
            except (CrashError, HangError) as error:
                raise StartError(f"MetaSchedule: {error}") from None
            if "error" in answer:
                raise StartError(f"MetaSchedule: {answer['error']}")
        return answer


ENGINES: dict[str, Callable[[ModuleType, Problem, Target, Options], AbstractContextManager[Engine]]] = {
    "grid": _grid,
    KIND: _metaschedule,
}
"""By name: what is open while a search of the family's schedules, or of traces, runs."""
