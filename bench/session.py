"""Runs races: a process for each framework, everything held to the oracle first, then blocks of calls in turn."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import Progress, TaskID

from . import machine, memory, worker
from .case import CEILING, Contender, Figures, Race, Task, UnavailableError
from .runners import installed

TRIAL_BLOCKS = 2
SETTLE = 0.06
"""Seconds between two frameworks."""

TENSORS_AT_ONCE = 16
"""Tensors of the largest size that may be in memory at once, as a guess before a race."""


class CallFailedError(Exception):
    """A call in another process did not return; the text is for a reader.

    Parameters
    ----------
    text : str
        One line.
    fault : bool
        Whether something is wrong; not where an optional contender is not there.
    """

    def __init__(self, text: str, *, fault: bool = True) -> None:
        super().__init__(text)
        self.fault = fault


class Process:
    """A fresh Python process that calls functions one after the other.

    Parameters
    ----------
    log : Path
        What it prints goes there, and not between our own lines.
    environment : mapping, optional
        Variables that it has beside those of this process.
    """

    def __init__(self, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        self.environment = environment or {}
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), worker.print_to, (log,))
        self.number: int | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's value.

        Raises
        ------
        CallFailedError
            If it raised, or the process is gone.
        """
        if self.number is None:
            with _variables(self.environment):  # of which it starts with a copy
                self.number = self.pool.submit(os.getpid).result()
        future: Future[Any] = self.pool.submit(function, *arguments)
        error = future.exception()
        if error is None:
            return future.result()
        if not isinstance(error, Exception):
            raise error
        if isinstance(error, UnavailableError):
            raise CallFailedError(str(error), fault=False) from error
        told = [str(error).strip()] if not isinstance(error, BrokenProcessPool) else [str(error), self.last_words()]
        lines = [line for text in told for line in text.splitlines()[:1]]
        raise CallFailedError(f"{type(error).__name__}: {' '.join(lines)}") from error

    def last_words(self) -> str:
        """The last line that it printed."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else ""

    def close(self, *, at_once: bool = False) -> None:
        """End the process, when it has done what it does or ``at_once``."""
        if at_once and self.number is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.number, signal.SIGKILL)
        self.pool.shutdown(wait=not at_once, cancel_futures=True)


@dataclass
class _Runner:
    """An entry of a race that is under way."""

    contender: Contender
    n: int
    figures: Figures
    number: int = 0


@dataclass
class Session:
    """The processes, and where the references lie.

    Parameters
    ----------
    frameworks : sequence of str
        Others are left out.
    references : Path
        The folder that ``oracle.write_references`` wrote to.
    progress : rich.progress.Progress
        Shows what is being done.
    seconds : float
        How long a block of calls takes at least.
    """

    frameworks: Sequence[str]
    references: Path
    progress: Progress
    seconds: float
    processes: dict[tuple[str, tuple[tuple[str, str], ...]], Process] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    latest: str = ""
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1 << 31)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.close(at_once=error is not None)  # Ctrl-C does not wait for a compiler

    def run(self, race: Race) -> list[Figures]:
        """Measure a race.

        Returns
        -------
        list of Figures
            One for each entry, in order; rounds of the same number were measured one after the other.
        """
        bar = self.progress.add_task(race.case, total=_steps(race))
        runners = [_Runner(contender, n, _empty(race, contender, n)) for contender, n in race.entries]
        for runner in runners:
            runner.figures.absent = self.why_not(race, runner.contender, runner.n)
            if runner.figures.absent is None:
                with self.recorded(runner.figures):
                    self.choose(race, runner, runners, bar)
        for number in range(race.rounds):
            turn = number % len(runners)
            for runner in runners[turn:] + runners[:turn]:
                if runner.figures.absent is None:
                    with self.recorded(runner.figures):
                        runner.figures.rounds.append(self.block(race, runner.contender.framework, runner.number))
                self.tell(bar, f"{race.case}, n = {runner.n}: round {number + 1}")
        for runner in runners:
            if runner.contender.memory and runner.figures.absent is None and memory.measurable(race.device):
                task = runner.contender.task(race, runner.n, runner.figures.settings)
                self.tell(bar, f"{race.case}: memory of {task.label}")
                with (
                    self.recorded(runner.figures),
                    contextlib.closing(Process(self.references / "memory.log")) as process,
                ):
                    runner.figures.peak_memory = process.call(memory.peak, task)
        self.release()
        self.progress.remove_task(bar)
        return [runner.figures for runner in runners]

    def why_not(self, race: Race, contender: Contender, n: int) -> str | None:
        """Why an entry does not take part."""
        if contender.framework not in self.frameworks:
            return "not asked for"
        if not installed(contender.framework):
            return f"{contender.framework} is not installed"
        if contender.stops is not None and n > contender.stops:
            return contender.why
        if not contender.grid and not contender.like:
            return "no setting fits this length"
        if any(variable.startswith("MALLOC_") for variable, _ in race.environment) and not glibc():
            return "the C library is not glibc, which can be told to keep what is freed"
        shape, there = race.shape, machine.memory()
        needed = TENSORS_AT_ONCE * shape.batch * shape.heads * max(shape.size("d"), shape.size("e")) * 4 * n
        if race.kind != CEILING and there is not None and needed > there:
            return f"would need about {needed / 2**30:.0f} GiB"
        return None

    def process(self, race: Race, framework: str) -> Process:
        """The framework's process, started when it is first needed."""
        key = framework, race.environment
        if key not in self.processes:
            log = self.references / f"{framework}{' of a race' if race.environment else ''}.log"
            process = Process(log, dict(race.environment))
            self.details[framework] = process.call(worker.start, framework)
            self.processes[key] = process
        return self.processes[key]

    def release(self) -> None:
        """Have the processes forget what was measured; those of a race of its own environment end."""
        for key, process in [*self.processes.items()]:
            _, environment = key
            ended = bool(environment)
            try:
                process.call(worker.release)
            except CallFailedError:  # it is gone, and what it was measuring has said so; the next race starts another
                ended = True
            if ended:
                self.processes.pop(key).close()

    def block(self, race: Race, framework: str, number: int) -> float:
        """Time of one call, when the threads of the framework before it have gone to sleep and its own are awake.

        Those of OpenBLAS look for work for 25 ms after the last one, on a core that the next framework needs; a first
        call after another framework finds cold caches, which would always count against the first of its entries.
        """
        process = self.process(race, framework)
        if framework != self.latest:
            time.sleep(SETTLE)
            process.call(worker.block, number, self.seconds)
        self.latest = framework
        seconds: float = process.call(worker.block, number, self.seconds)
        return seconds

    def choose(self, race: Race, runner: _Runner, others: Iterable[_Runner], bar: TaskID) -> None:
        """Prepare every candidate of an entry, and take the fastest."""
        contender, n, figures = runner.contender, runner.n, runner.figures
        grid = contender.grid
        if contender.like:
            grid = tuple(
                other.figures.settings
                for other in others
                if other.n == n
                and other.contender.mode == contender.like
                and (other.contender.framework, other.contender.implementation)
                == (contender.framework, contender.implementation)
                and other.figures.absent is None
            )
        if not grid:
            figures.absent = f"there is no choice of {contender.like} to take over"
            return
        tried: list[tuple[Task, int, float | None, list[float]]] = []
        for settings in grid:
            task = contender.task(race, n, settings)
            self.tell(bar, f"{race.case}: {task.label}", 0)
            number = next(self.numbers)
            error = self.process(race, contender.framework).call(worker.prepare, number, task, self.references)
            tried.append((task, number, error, []))
            self.tell(bar)
        if len(tried) > 1:
            for _ in range(TRIAL_BLOCKS):
                for _, number, _, times in tried:
                    times.append(self.block(race, contender.framework, number))
                    self.tell(bar)
            figures.candidates = [{"settings": dict(task.settings), "blocks": times} for task, _, _, times in tried]
        task, runner.number, figures.error, _ = min(tried, key=lambda candidate: min(candidate[3], default=0.0))
        figures.settings = dict(task.settings)

    @contextlib.contextmanager
    def recorded(self, figures: Figures) -> Iterator[None]:
        """A failure ends this entry, not the session; it is written down, and the exit status tells."""
        try:
            yield
        except CallFailedError as failure:
            figures.absent, figures.failed = str(failure), failure.fault
            figures.rounds.clear()

    def tell(self, bar: TaskID, description: str | None = None, steps: int = 1) -> None:
        """Move the progress bar."""
        self.progress.update(bar, advance=steps, description=description)


@contextlib.contextmanager
def _variables(environment: Mapping[str, str]) -> Iterator[None]:
    """These variables beside those of this process."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def glibc() -> bool:
    """Whether the C library is glibc, which reads ``MALLOC_*``."""
    return platform.libc_ver()[0] == "glibc"


def _empty(race: Race, contender: Contender, n: int) -> Figures:
    return Figures(
        race.case,
        contender.framework,
        contender.implementation,
        contender.mode,
        n,
        contender.ours,
        contender.computes,
        {},
        shape=race.shape,
        device=race.device,
    )


def _steps(race: Race) -> int:
    """Steps of the progress bar."""
    total = 0
    for contender, _ in race.entries:
        candidates = max(1, len(contender.grid))
        total += candidates * (1 + TRIAL_BLOCKS * (candidates > 1)) + race.rounds + contender.memory
    return total
