"""What a person sees of a search: the best so far, how far it is from what the device can do, and what failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from .tune import Progress

PLAIN_WIDTH = 140


def console() -> Console:
    """Standard error: standard output is for results."""
    made = Console(stderr=True, markup=False, highlight=False, emoji=False)
    if made.is_terminal:
        return made
    return Console(stderr=True, markup=False, highlight=False, emoji=False, width=PLAIN_WIDTH)


class View:
    """A progress bar on a terminal; elsewhere a line whenever there is a new best."""

    def __init__(self, to: Console, what: str) -> None:
        self._console = to
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}"),
            console=to,
            transient=True,
        )
        self._task = self._bar.add_task(what, total=None, said="")
        self._best: float | None = None

    def __call__(self, progress: Progress) -> None:
        """Show where the search stands."""
        self._bar.update(self._task, total=progress.total, completed=progress.done, said=summary(progress))
        best = progress.best.seconds if progress.best else None
        if not self._console.is_terminal and best != self._best:
            self._console.print(f"{progress.done}/{progress.total}  {summary(progress)}", soft_wrap=True)
        self._best = best

    @contextmanager
    def shown(self) -> Iterator[View]:
        """While the search runs."""
        if self._console.is_terminal:
            with self._bar:
                yield self
        else:
            yield self


def summary(progress: Progress) -> str:
    """The best time, its fraction of the roofline, and the failures by reason.

    Examples
    --------
    >>> progress = Progress(3, "a device")
    >>> progress.failures.update(["hung", "crashed", "hung"])
    >>> summary(progress)
    'failed: 2 hung, 1 crashed'
    """
    parts = []
    if progress.best is not None and progress.best.seconds is not None:
        parts.append(f"best {duration(progress.best.seconds)}")
    if progress.roofline is not None:
        parts.append(f"{progress.roofline:.0%} of the roofline")
    if progress.failures:
        counted = ", ".join(f"{count} {reason}" for reason, count in progress.failures.most_common())
        parts.append(f"failed: {counted}")
    return ", ".join(parts)


def counted(number: int, noun: str) -> str:
    """A number of things.

    Examples
    --------
    >>> counted(1, "record"), counted(0, "record")
    ('1 record', '0 records')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """A time in the unit that reads best.

    Examples
    --------
    >>> duration(0.0174), duration(2.5e-5)
    ('17.4 ms', '25 µs')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
