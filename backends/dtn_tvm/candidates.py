"""Candidates of one problem: built by one process, run by another, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import ceiling
from .measuring.fit import misfit
from .measuring.outcome import HUNG, outcome
from .measuring.process import START, Child, CrashError, HangError, StartError
from .measuring.values import check_memory
from .recipe import recipes, to_json
from .record import Receipt, Record, toolchain
from .targets import Ceilings, Target
from .trials import Trial

if TYPE_CHECKING:
    from .problem import Problem

FAMILY = "dtn_tvm.kernels"
COMPILER_HUNG = "the compiler hung"


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes
    ----------
    trials : int
        Candidates measured at most, those of an interrupted run included.
    time_budget : float or None
        Seconds.
    build_timeout, measure_timeout : float
        Seconds that one candidate may take.
    family : str
        The module of the schedules.
    engine : str
        Where candidates come from: one of :data:`dtn_tvm.engines.ENGINES`.
    seed : int
        Of the inputs, and of MetaSchedule.
    ceilings : bool
        Whether the device's own rates are measured first, which takes seconds, so that the fraction of the roofline can
        be said.
    """

    trials: int = 64
    time_budget: float | None = None
    build_timeout: float = 120.0
    measure_timeout: float = 60.0
    family: str = FAMILY
    engine: str = "grid"
    seed: int = 0
    ceilings: bool = True

    def settles(self, trial: Trial) -> bool:
        """Whether it would end no other way now: one that was given up on may, if it is given more time."""
        limits = {HUNG: self.measure_timeout, COMPILER_HUNG: self.build_timeout}
        return limits.get(trial.failure, 0.0) <= (trial.limit or 0.0)


class Candidates:
    """The candidates of one problem: built by one process, measured by another.

    Parameters
    ----------
    problem, target, options
        As :func:`tune` takes them.
    folder : Path
        For libraries and the reference.
    compiler, site : Child
    """

    def __init__(
        self, problem: Problem, target: Target, options: Options, folder: Path, compiler: Child, site: Child
    ) -> None:
        self.problem, self.target, self.options = problem, target, options
        self._folder, self._compiler, self._site = folder, compiler, site
        device = self._say("device", START)
        self.device = str(device["name"])
        unlike = misfit(target.described, device)
        if unlike:
            raise StartError(f"the kernels would be {unlike}")
        self._number = 0

    @property
    def search_key(self) -> dict[str, Any]:
        """What trials have to agree in to be of use to each other."""
        return {
            **to_json(self.problem),
            "target": self.target.key,
            "device": self.device,
            "versions": toolchain(),
            **self.described_options,
        }

    @property
    def described_options(self) -> dict[str, Any]:
        """The options that are part of a record's key."""
        return {"engine": self.options.engine, "family": self.options.family, "seed": self.options.seed}

    def prepare(self) -> None:
        """Compute the reference, once."""
        self._timed, self._check = recipes(self.problem, self._folder, self.options.seed)
        try:
            check_memory(self._timed)
        except MemoryError as error:
            raise StartError(f"{error}; give a smaller shape") from None
        self._say("prepare", 600.0, recipe=self._check)

    def shortest(self) -> float | None:
        """Seconds in which the device could do the work: at its own rates, measured now, else at those documented."""
        found = self._say("ceilings", 600.0, ceiling=self._ceiling()) if self.options.ceilings else {}
        documented, dtype = self.target.ceilings, self.problem.dtype
        bandwidth = found.get("bandwidth") or (documented.bandwidth if documented else None)
        flops = found.get("flops") or (documented.flops[dtype] if documented else None)
        if bandwidth is None or flops is None:
            return None
        return Ceilings(bandwidth, {dtype: flops}).seconds(dtype, self.problem.flops_at(1), self.problem.bytes)

    def _ceiling(self) -> dict[str, Any] | None:
        made = build_ceiling(self._compiler, self.target, self._folder, self.options.build_timeout)
        if isinstance(made, Trial):
            raise StartError(f"ceilings failed: {made.failure}: {made.detail}")
        return made

    def measure(self, schedule: Mapping[str, Any], best: Trial | None) -> Trial:
        """Build and measure one."""
        self._number += 1
        library = self._folder / f"kernel{self._number}.so"
        failure = built(schedule, self._compiler, self.build_job(schedule, library), self.options.build_timeout)
        if failure is not None:
            return failure
        job = {
            "job": "measure",
            "folder": str(self._folder),
            "recipe": self._timed,
            "check": self._check,
            "library": library.name,
            "best": best.seconds if best else None,
        }
        found = outcome(self._site, job, self.options.measure_timeout)
        library.unlink()
        return Trial(schedule, **found)

    def build_job(self, schedule: Mapping[str, Any], library: Path) -> dict[str, Any]:
        """What the compiler is asked."""
        return {
            "family": self.options.family,
            "problem": to_json(self.problem),
            "schedule": schedule,
            "target": self.target.to_json(),
            "library": str(library),
        }

    def _say(self, job: str, timeout: float, **about: Any) -> dict[str, Any]:
        try:
            answer = self._site.ask({"job": job, "folder": str(self._folder), **about}, timeout)
        except (CrashError, HangError) as error:
            raise StartError(f"{job} failed: {error}") from None
        problem = answer.get("error") or answer.get("lost")
        if problem:
            raise StartError(f"{job} failed: {problem}")
        return answer

    def record(self, best: Trial, shortest: float | None) -> Record:
        """The record of a candidate that is valid, on a device that could do the work in ``shortest`` seconds."""
        assert best.seconds is not None
        assert best.errors is not None
        receipt = Receipt(
            device=self.device,
            seconds=best.seconds,
            errors=best.errors,
            tolerance=self._check["tolerance"],
            checked=self._check["sizes"],
            roofline=None if shortest is None else shortest / best.seconds,
        )
        return record_of(self.problem, self.target, best.schedule, self.described_options, receipt)


def record_of(
    problem: Problem, target: Target, schedule: Mapping[str, Any], options: Mapping[str, Any], receipt: Receipt
) -> Record:
    """The record of a schedule that was measured."""
    return Record(
        operator=problem.operator.name,
        ir=problem.ir_hash,
        direction=problem.direction,
        target=target.key,
        dtype=problem.dtype,
        bucket=problem.bucket,
        sizes=dict(problem.sizes),
        versions=toolchain(),
        options=dict(options),
        schedule=dict(schedule),
        receipt=receipt,
        notation=problem.operator.notation,
        scalars=dict(problem.operator.scalars),
        target_options=dict(target.options),
    )


def build_ceiling(compiler: Child, target: Target, folder: Path, timeout: float) -> dict[str, Any] | Trial | None:
    """The processor's own ceiling, compiled into ``folder``; None for a card, or why it could not be built."""
    if target.kind != "cpu":
        return None
    job = {"family": None, "target": target.to_json(), "library": str(folder / "ceiling.so")}
    return built({}, compiler, job, timeout) or {**ceiling.described(target), "library": "ceiling.so"}


def built(schedule: Mapping[str, Any], compiler: Child, job: Mapping[str, Any], timeout: float) -> Trial | None:
    """None, or why a candidate could not be built."""
    try:
        answer = compiler.ask(job, timeout)
    except CrashError as error:
        return Trial(schedule, failure="the compiler crashed", detail=str(error))
    except HangError as error:
        return Trial(schedule, failure=COMPILER_HUNG, detail=str(error), limit=error.seconds)
    if "error" in answer:
        return Trial(schedule, failure="does not build", detail=answer["error"])
    return None
