"""The matrix from start to end: what is to run, in processes, into files."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .backends import Backend
from .cells import Cell, Choice, matrix, sampled
from .operators import Case
from .process import Worker
from .record import Sources, read, write
from .report import print_summary, write_pages

SAVED_EVERY = 30.0  # seconds
PLAIN_WIDTH = 120


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes
    ----------
    backends : sequence of Backend
        From :func:`dtn_core.conform.backends.chosen`.
    cases : sequence of Case
        The operators.
    choice : Choice
        The other axes.
    device : str
        ``"cpu"`` or ``"cuda"``.
    jobs : int
        Processes at a time.
    sample : int or None
        Cells of each backend that are drawn; None for all.
    seed : int
        Of what is drawn.
    """

    backends: Sequence[Backend]
    cases: Sequence[Case]
    choice: Choice
    device: str = "cpu"
    jobs: int = 1
    sample: int | None = None
    seed: int = 0


@dataclass
class Matrix:
    """The cells by key, and the sources; shared by the threads that wait for processes."""

    cells: dict[tuple[str, ...], Cell] = field(default_factory=dict)
    sources: Sources = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, cells: Iterable[Cell]) -> None:
        """Add cells, or replace what is known of them."""
        with self.lock:
            self.cells.update({cell.key: cell for cell in cells})


def run(request: Request, out: Path) -> int:
    """Compute, print a summary, and write ``matrix.json``, ``matrix.md`` and ``matrix.html`` into ``out``.

    Cells that an earlier run left there with the same versions are kept, unless they failed.

    Returns
    -------
    int
        Exit status: 1 if a cell of the matrix is a fail, else 0.

    Raises
    ------
    ConformError
        If an adapter cannot be loaded, or the folder holds another version's matrix.
    """
    earlier, sources = read(out)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PLAIN_WIDTH)
    found = Matrix(sources=sources)
    found.put(earlier)
    started = time.monotonic()
    try:
        _run_all(request, found, out, console)
    finally:  # after Ctrl-C too: what was done is kept
        _save(found, out, request)
    cells = ordered(found.cells.values())
    write_pages(out, cells, found.sources, request.seed)
    print_summary(console, cells, time.monotonic() - started, request.seed)
    console.print(f"Wrote {out / 'matrix.json'}, {out / 'matrix.md'} and {out / 'matrix.html'}", soft_wrap=True)
    return 1 if any(cell.status == "fail" for cell in cells) else 0


def ordered(cells: Iterable[Cell]) -> list[Cell]:
    """By backend, then as the matrix lists them."""
    return sorted(cells, key=lambda cell: (cell.backend, cell.text, cell.form, cell.mode, cell.check, cell.dtype))


def _run_all(request: Request, found: Matrix, out: Path, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(*columns, console=console))
        shards: queue.Queue[_Shard] = queue.Queue()
        for backend in request.backends:
            task = progress.add_task(backend.name, total=None, state="lowering")
            with Worker(backend.module, request.device) as worker:
                name, versions, missing = worker.name, worker.versions, worker.missing
                drawn, also = worker.drawn, worker.also
            cells = matrix(request.cases, name, request.choice, request.seed, drawn, also)
            cells = sampled(cells, request.sample, request.seed)
            if missing:
                console.print(f"{name} is skipped: {missing}")
                cells = [cell if cell.status else replace(cell, status="skip", reason=missing) for cell in cells]
            todo = _todo(cells, found, name, versions)
            progress.update(task, description=name, total=len(cells), completed=len(cells) - len(todo), state="")
            for place in range(request.jobs):
                part = _part(todo, place, request.jobs)
                if part:
                    shards.put(_Shard(backend.module, request.device, part, task))
        _work(shards, request.jobs, found, progress, out, request)


@dataclass
class _Shard:
    """Cells that one process runs."""

    module: str
    device: str
    cells: list[Cell]
    task: int


def _part(cells: Sequence[Cell], place: int, count: int) -> list[Cell]:
    """Every ``count``-th operator of ``cells``: an operator is compiled in one process."""
    texts = list(dict.fromkeys(cell.text for cell in cells))
    own = set(texts[place::count])
    return [cell for cell in cells if cell.text in own]


def _todo(cells: Sequence[Cell], found: Matrix, backend: str, versions: str) -> list[Cell]:
    """The cells to run; forgets what is known from other versions, and marks what needs no run."""
    stale = [
        key for key, cell in found.cells.items() if cell.backend == backend and cell.versions not in ("", versions)
    ]
    for key in stale:
        del found.cells[key]
    if stale:
        prefix = f"{backend} "
        found.sources = {key: source for key, source in found.sources.items() if not key.startswith(prefix)}
    known = {key for key, cell in found.cells.items() if cell.versions == versions and cell.status != "fail"}
    found.put(cell for cell in cells if cell.status)
    return [cell for cell in cells if not cell.status and cell.key not in known]


def _work(
    shards: queue.Queue[_Shard], jobs: int, found: Matrix, progress: Progress, out: Path, request: Request
) -> None:
    """Run the shards in ``jobs`` threads, each of which waits for a process; save now and then."""
    workers: list[Worker] = []
    failures: list[BaseException] = []
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            try:
                shard = shards.get_nowait()
            except queue.Empty:
                return
            try:
                _run_shard(shard, workers, found, progress, stopping)
            except BaseException as error:  # noqa: BLE001 - raised again by the main thread
                failures.append(error)
                stopping.set()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    try:
        saved = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            if time.monotonic() - saved > SAVED_EVERY:
                _save(found, out, request)
                saved = time.monotonic()
    finally:
        stopping.set()
        for worker in workers:
            worker.close()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def _run_shard(
    shard: _Shard, workers: list[Worker], found: Matrix, progress: Progress, stopping: threading.Event
) -> None:
    """Run cells in a process, and in another one when that dies."""
    rest = {cell.key: cell for cell in shard.cells}
    while rest and not stopping.is_set():
        with Worker(shard.module, shard.device) as worker:
            workers.append(worker)
            for result in worker.results(list(rest.values())):
                if stopping.is_set():
                    return
                if isinstance(result, tuple):
                    text, form, source = result
                    found.sources[f"{worker.name} {form} {text}"] = source
                    continue
                del rest[result.key]
                found.put([result])
                progress.update(shard.task, advance=1, state=result.text[:40])  # type: ignore[arg-type]
            workers.remove(worker)


def _save(found: Matrix, out: Path, request: Request) -> None:
    with found.lock:
        cells = ordered(found.cells.values())
    counts = dict(Counter(cell.status for cell in cells))
    write(out, cells, found.sources, {"seed": request.seed, "counts": counts})
