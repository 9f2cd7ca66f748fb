"""The tuner: proposes candidates, has them built and measured by other processes, keeps what was found.

A candidate that does not build, crashes, hangs or computes something else costs itself and is counted; nothing that it
does reaches the tuner.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import records
from .builder import builder
from .candidates import Candidates, Options
from .engines import ENGINES, TuneError
from .measuring.process import Child, StartError
from .record import Record
from .targets import Target
from .trials import Log, Trial, trials_path

if TYPE_CHECKING:
    from .problem import Problem


@dataclass
class Progress:
    """Where a search stands.

    Attributes
    ----------
    total, done, resumed : int
        Candidates that will be measured, that were, and how many of those by an earlier run.
    best : Trial or None
        The fastest valid one.
    failures : Counter
        How many were not valid, by reason.
    details : dict
        For each reason, what was said the first time.
    shortest : float or None
        Seconds in which the device could do the work at best.
    device : str
        Its name.
    interrupted : bool
        Whether Ctrl-C ended the search.
    """

    total: int
    device: str
    shortest: float | None = None
    done: int = 0
    resumed: int = 0
    best: Trial | None = None
    failures: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def roofline(self) -> float | None:
        """The best candidate's fraction of the roofline."""
        if self.best is None or self.best.seconds is None or self.shortest is None:
            return None
        return self.shortest / self.best.seconds

    def add(self, trial: Trial) -> None:
        """Count a candidate."""
        self.done += 1
        if trial.seconds is None:
            self.failures[trial.failure] += 1
            self.details.setdefault(trial.failure, trial.detail)
        elif self.best is None or self.best.seconds is None or trial.seconds < self.best.seconds:
            self.best = trial


def tune(
    problem: Problem,
    target: Target,
    site: Child,
    path: Path,
    options: Options | None = None,
    watch: Callable[[Progress], object] = lambda progress: None,
) -> tuple[Record, Progress]:
    """Search the fastest schedule and file its record.

    Parameters
    ----------
    problem : Problem
        Operator, direction, dtype and sizes.
    target : Target
        What candidates are compiled for.
    site : Child
        The process that measures: of :func:`dtn_tvm.site.local` or :func:`dtn_tvm.site.remote`.
    path : Path
        The file of records; trials are kept beside it.
    options : Options, optional
    watch : callable
        Told after every candidate.

    Returns
    -------
    Record, Progress
        After Ctrl-C too, with ``progress.interrupted``: of what was measured until then.

    Raises
    ------
    TuneError
        If no candidate was valid: with the commonest reason; or if the device is lost: what was measured is kept.
    """
    options = options or Options()
    family = importlib.import_module(options.family)
    lost = ""
    with (
        ENGINES[options.engine](family, problem, target, options) as search,
        tempfile.TemporaryDirectory(prefix="dtn-tune-") as name,
        builder() as compiler,
    ):
        try:
            candidates = Candidates(problem, target, options, Path(name), compiler, site)
        except StartError as error:
            elsewhere = "; for a card that is elsewhere, see dtn tune build" if target.kind == "cuda" else ""
            raise TuneError(f"{target.name}: {error}{elsewhere}") from None
        try:
            candidates.prepare()
            shortest = candidates.shortest()
        except StartError as error:
            raise TuneError(f"{target.name}: {error}") from None
        progress = Progress(min(options.trials, len(search)), candidates.device, shortest)
        log = Log(trials_path(path), candidates.search_key)
        started = time.monotonic()
        try:
            for trial in filter(options.settles, log.read()):
                if progress.done < progress.total and search.tell(trial.schedule, trial.seconds):
                    progress.add(trial)
                    progress.resumed += 1
            watch(progress)
            while progress.done < progress.total and not _over(options, started):
                schedule = search.propose()
                if schedule is None:
                    break
                trial = candidates.measure(schedule, progress.best)
                log.append(trial)
                search.tell(schedule, trial.seconds)
                progress.add(trial)
                watch(progress)
        except KeyboardInterrupt:
            progress.interrupted = True
        except StartError as error:
            lost = str(error)
    if progress.best is not None:
        record = candidates.record(progress.best, shortest)
        records.add(path, [record])
    if lost:
        raise TuneError(f"{target.name}: {lost}; what was measured is kept, run again to go on")
    if progress.best is None:
        if progress.interrupted:
            raise KeyboardInterrupt
        raise TuneError(nothing_valid(progress))
    return record, progress


def nothing_valid(progress: Progress) -> str:
    """Why nothing was found."""
    if not progress.failures:
        return "no candidate was measured in the time given"
    reason, count = progress.failures.most_common(1)[0]
    detail = progress.details[reason]
    said = f"{reason}: {detail}" if detail else reason
    earlier = f", {progress.resumed} of them measured by an earlier run" if progress.resumed else ""
    of = f"none of {progress.done} candidates is valid{earlier}"
    return f"{of}; the commonest reason ({count} of {progress.done}): {said}"


def _over(options: Options, started: float) -> bool:
    return options.time_budget is not None and time.monotonic() - started >= options.time_budget
