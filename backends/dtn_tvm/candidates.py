"""Candidates of one problem: built by one process, run by another, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .measuring.process import Child, CrashError, HangError, StartError
from .recipe import checked, recipe, to_json
from .record import Receipt, Record, toolchain
from .targets import Ceilings, Target
from .trials import Trial

if TYPE_CHECKING:
    from .kernels import Problem

FAMILY = "dtn_tvm.kernels"


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
    seed : int
        Of the inputs.
    """

    trials: int = 64
    time_budget: float | None = None
    build_timeout: float = 120.0
    measure_timeout: float = 60.0
    family: str = FAMILY
    seed: int = 0


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
        self.checked = checked(problem)
        self._folder, self._compiler, self._site = folder, compiler, site
        answer = site.ask({"job": "device"}, options.measure_timeout)
        self.device = str(answer["name"])
        if target.device and target.device not in self.device:
            raise StartError(f"the device there is {self.device}")
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
        return {"engine": "grid", "family": self.options.family, "seed": self.options.seed}

    def prepare(self) -> None:
        """Compute the reference, once."""
        self._timed = recipe(self.problem, self._folder, self.options.seed)
        same = self.checked is self.problem
        self._check = self._timed if same else recipe(self.checked, self._folder, self.options.seed)
        self._say("prepare", 600.0, recipe=self._check)

    def shortest(self) -> float:
        """Seconds in which the device could do the work: its own rates, measured now; a card's flops as documented."""
        found = self._say("ceilings", 600.0)
        documented = self.target.ceilings.flops if self.target.ceilings else {}
        flops = found.get("flops") or documented.get(self.problem.dtype, float("inf"))
        ceilings = Ceilings(found["bandwidth"], {self.problem.dtype: flops}, "measured")
        return ceilings.seconds(self.problem.dtype, self.problem.flops, self.problem.bytes)

    def measure(self, schedule: Mapping[str, Any], best: Trial | None) -> Trial:
        """Build and measure one."""
        self._number += 1
        library, failure = self._build(self.problem, schedule, "kernel")
        check_library = library
        if failure is None and self.checked is not self.problem:
            check_library, failure = self._build(self.checked, schedule, "check")
        if failure is not None:
            return failure
        job = {
            "job": "measure",
            "folder": str(self._folder),
            "recipe": self._timed,
            "check": self._check,
            "library": library,
            "check_library": check_library,
            "best": best.seconds if best else None,
        }
        try:
            return judged(schedule, self._site, job, self.options.measure_timeout)
        finally:
            for name in {library, check_library}:
                (self._folder / name).unlink(missing_ok=True)

    def _build(self, problem: Problem, schedule: Mapping[str, Any], role: str) -> tuple[str, Trial | None]:
        library = f"{role}{self._number}.so"
        job = {
            "family": self.options.family,
            "problem": to_json(problem),
            "schedule": schedule,
            "target": self.target.to_json(),
            "library": str(self._folder / library),
        }
        return library, built(schedule, self._compiler, job, self.options.build_timeout)

    def _say(self, job: str, timeout: float, **about: Any) -> dict[str, Any]:
        try:
            answer = self._site.ask({"job": job, "folder": str(self._folder), **about}, timeout)
        except (CrashError, HangError) as error:
            raise StartError(f"{job} failed: {error}") from None
        if "error" in answer:
            raise StartError(f"{job} failed: {answer['error']}")
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


def built(schedule: Mapping[str, Any], compiler: Child, job: Mapping[str, Any], timeout: float) -> Trial | None:
    """None, or why a candidate could not be built."""
    try:
        answer = compiler.ask(job, timeout)
    except CrashError as error:
        return Trial(schedule, failure="the compiler crashed", detail=str(error))
    except HangError as error:
        return Trial(schedule, failure="the compiler hung", detail=str(error))
    if "error" in answer:
        return Trial(schedule, failure="does not build", detail=answer["error"])
    return None


def judged(schedule: Mapping[str, Any], site: Child, job: Mapping[str, Any], timeout: float) -> Trial:
    """A candidate that was built, after it was run."""
    try:
        answer = site.ask(job, timeout)
    except CrashError as error:
        return Trial(schedule, failure="crashed", detail=str(error))
    except HangError as error:
        return Trial(schedule, failure="hung", detail=str(error))
    if "error" in answer:
        site.end()  # after a fault a card refuses whatever the same process asks of it
        return Trial(schedule, failure="does not run", detail=answer["error"])
    if "wrong" in answer:
        said = ", ".join(f"{name} error {value:.1e}" for name, value in answer["wrong"].items())
        return Trial(schedule, failure="wrong result", detail=said)
    return Trial(schedule, answer["seconds"], answer["errors"])
