"""The command line, ``python -m bench``."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dtn_core.demo.atomic import replaced

from . import causal, ceilings, gpu, kernels, layers, machine, startup, unmasked
from .case import CEILING, DECODING, GRADIENTS, MODULE, START, TRAINING, Race, Task, UnavailableError
from .compare import compare, comparison_table
from .oracle import check_oracle, write_references
from .plots import draw
from .report import machine_line, machine_name, markdown, name, summary_table
from .results import Result, UnreadableError, figures_of, merged, read, write
from .runners import FRAMEWORKS
from .session import Session

SUITES = {suite.NAME: suite for suite in (unmasked, causal, kernels, layers, startup, gpu)}
DAILY = ("unmasked", "causal", "kernels", "layers", "startup")
BLOCK_SECONDS = {"quick": 0.02, "usual": 0.05, "full": 0.2}
PLAIN_WIDTH = 160
RESULTS = Path("bench/results")
NO_REFERENCE = (MODULE, TRAINING, DECODING, START, CEILING)

Framework = StrEnum("Framework", list(FRAMEWORKS))
Suite = StrEnum("Suite", {name: name for name in SUITES})

app = typer.Typer(help="Timings, side by side with what a user would pick instead.", add_completion=False)

Out = Annotated[
    Path | None,
    typer.Option(help="Results; by default bench/results/MACHINE.json.", show_default=False, dir_okay=False),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        help="Where report.md and the plots go; by default beside the results, in a folder named like them.",
        show_default=False,
        file_okay=False,
    ),
]


def terminal(*, stderr: bool = False) -> Console:
    """Where text goes; as wide as its tables where it is not a terminal."""
    console = Console(stderr=stderr, highlight=False, markup=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, markup=False, width=PLAIN_WIDTH)


@app.callback(invoke_without_command=True)
def run_all(context: typer.Context) -> None:
    """Timings, side by side with what a user would pick instead; without a command: run."""
    if context.invoked_subcommand is None:
        run_suites(None)


@app.command("run")
def run_suites(
    suites: Annotated[list[Suite] | None, typer.Argument(help="Which; all but gpu by default.")] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Short sequences, few peers: under three minutes.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Longer sequences and more rounds.")] = False,
    race: Annotated[list[str] | None, typer.Option(help="Only races with this in the name; may be repeated.")] = None,
    framework: Annotated[list[Framework] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    out: Out = None,
    folder: Folder = None,
) -> None:
    """Measure, and take the results into those that are there: a race that runs again replaces itself.

    For example: python -m bench run causal --race "forward, n = 8192"
    """
    if quick and full:
        raise typer.BadParameter("--quick and --full exclude each other")
    scale = "quick" if quick else "full" if full else "usual"
    chosen = [str(each) for each in framework] if framework else list(FRAMEWORKS)
    picked = [
        (str(suite), each)
        for suite in suites or DAILY
        for each in SUITES[str(suite)].races(scale)
        if not race or any(text in each.name for text in race)
    ]
    if not picked:
        raise typer.BadParameter("no race has such a name; python -m bench list shows them")
    _measure_and_write(picked, scale, chosen, _path(out), folder)


@app.command("gpu")
def run_gpu(
    *,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="On the processor, short; nothing is kept.")] = False,
    out: Out = None,
    folder: Folder = None,
) -> None:
    """Everything worth running on one CUDA machine, in under eight minutes; needs torch, no network.

    JAX, Triton, flash-linear-attention and TVM take part where they are there.
    """
    races = gpu.races("usual")
    for line in gpu.missing():
        terminal(stderr=True).print(line)
    if rehearse:
        with tempfile.TemporaryDirectory() as scratch:
            picked = [(gpu.NAME, each) for each in gpu.rehearsal(races)]
            _measure_and_write(picked, "quick", ["torch", "jax"], Path(scratch) / "gpu.json", Path(scratch))
    try:
        name_of_device = gpu.device_name()
    except UnavailableError as error:
        terminal(stderr=True).print(f"{error}; nothing is measured. --rehearse runs the same on the processor")
        raise typer.Exit(2) from error
    path = _path(out, name_of_device)
    picked = [(gpu.NAME, each) for each in races]
    _measure_and_write(picked, "usual", ["torch", "jax"], path, folder, accelerator=name_of_device, seconds=gpu.SECONDS)


@app.command("list")
def list_races(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="As of run.")] = False,
    full: Annotated[bool, typer.Option("--full", help="As of run.")] = False,
) -> None:
    """Name every race."""
    for suite_name, suite in SUITES.items():
        for each in suite.races("quick" if quick else "full" if full else "usual"):
            terminal().print(f"{suite_name}: {each.name}")


@app.command("report")
def run_report(*, out: Out = None, folder: Folder = None) -> None:
    """Write report.md and the plots again from results."""
    path = _path(out)
    folder = folder or _beside(path)
    _write_report(_results(path), path.name, folder)
    terminal().print(f"written to {folder / 'report.md'}")


@app.command("summary")
def run_summary(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Results; by default all in bench/results.", exists=True, dir_okay=False),
    ] = None,
) -> None:
    """Print what was promised and what every machine found, as Markdown: the README's section on speed."""
    every = [found for path in files or sorted(RESULTS.glob("*.json")) if (found := _results(path))]
    if not every:
        raise typer.BadParameter(f"no results in {RESULTS}; python -m bench run makes some")
    last = [max(results, key=lambda result: str(result.about["date"])).about for results in every]
    for suite_name, suite in SUITES.items():
        found = [suite.targets(figures_of(results, suite_name)) for results in every]
        table = summary_table(suite.HEADING, list(zip(map(machine_name, last), found, strict=True)))
        if table.rows:
            typer.echo(table.markdown())
    typer.echo("The last race of each machine:")
    for about in last:
        typer.echo(f"- {machine_line(about)}")


@app.command("compare")
def run_compare(
    old: Annotated[Path, typer.Argument(help="Results from before a change.", exists=True, dir_okay=False)],
    new: Annotated[Path, typer.Argument(help="Results from after it.", exists=True, dir_okay=False)],
    *,
    least: Annotated[float, typer.Option(help="Differences below this factor are not called any.")] = 1.03,
) -> None:
    """Say what became slower between two runs, beyond noise; the exit status is 1 if anything did."""
    try:
        before, after = read(old), read(new)
    except UnreadableError as error:
        raise typer.BadParameter(str(error)) from error
    console = terminal()
    if before and after:
        for key in ("machine", "versions"):
            one, other = before[-1].about[key], after[-1].about[key]
            different = {part for part, value in other.items() if one.get(part) != value} - {"load"}
            if different:
                console.print(f"{key} differ in {', '.join(sorted(different))}: compare with care")
    comparisons = compare(figures_of(before), figures_of(after))
    if not comparisons:
        raise typer.BadParameter("the two runs have nothing in common")
    console.print(comparison_table(comparisons, least).rich())
    raise typer.Exit(any(found.slower(least) for found in comparisons))


def _path(out: Path | None, accelerator: str | None = None) -> Path:
    if out is not None and out.suffix != ".json":
        raise typer.BadParameter(f"{out} does not end in .json")
    return out or RESULTS / f"{machine.slug(accelerator)}.json"


def _beside(path: Path) -> Path:
    """Where the report of the results at ``path`` goes: no machine's report takes the place of another's."""
    return path.with_suffix("")


def _results(path: Path) -> list[Result]:
    try:
        return read(path)
    except (OSError, UnreadableError) as error:
        raise typer.BadParameter(str(error)) from error


def _measure_and_write(
    picked: Sequence[tuple[str, Race]],
    scale: str,
    frameworks: list[str],
    path: Path,
    folder: Path | None,
    *,
    accelerator: str | None = None,
    seconds: float | None = None,
) -> None:
    console = terminal()
    folder = folder or _beside(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        before = read(path) if path.exists() else []
    except UnreadableError as error:
        raise typer.BadParameter(str(error)) from error
    results: list[Result] = []

    def keep(result: Result) -> None:
        results.append(result)
        write(path, merged(before, results))  # whatever ends the run afterwards

    try:
        measure(picked, scale, frameworks, keep, accelerator=accelerator, seconds=seconds)
    finally:
        if results:
            _write_report(merged(before, results), path.name, folder)
    for suite_name in dict.fromkeys(result.suite for result in results):
        for table in SUITES[suite_name].tables(figures_of(results, suite_name)):
            if table.rows:
                console.print(table.rich())
    failed = [found for found in figures_of(results) if found.failed]
    for found in failed:
        console.print(f"{found.case}, n = {found.n}, {name(found)}: {found.absent}")
    console.print(f"written to {path} and {folder / 'report.md'}")
    raise typer.Exit(bool(failed))


def measure(
    picked: Sequence[tuple[str, Race]],
    scale: str,
    frameworks: list[str],
    keep: Callable[[Result], None],
    *,
    accelerator: str | None = None,
    seconds: float | None = None,
) -> None:
    """Run races.

    Parameters
    ----------
    picked : sequence of (str, Race)
        The suite and the race.
    scale : str
        How long blocks are.
    frameworks : list of str
        Where.
    keep : callable
        Called with the result of each race when it is over.
    accelerator : str, optional
        The name of the CUDA device that is measured, and whose ceilings are.
    seconds : float, optional
        No race starts later than this after the first.
    """
    about = {"scale": scale, **machine.describe(accelerator)}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(*columns, console=terminal(stderr=True)) as progress,
        Session(frameworks, Path(folder), progress, BLOCK_SECONDS[scale]) as session,
    ):
        bar = progress.add_task("all", total=len(picked) + 1)
        reference = progress.add_task("references in float64", total=None)
        tasks = _gated([race for _, race in picked], session)
        about["oracle_error"] = check_oracle(gradients={task.computes for task in tasks if task.kind == GRADIENTS})
        write_references(tasks, Path(folder))
        progress.remove_task(reference)
        progress.advance(bar)
        about["ceilings"] = ceilings.ceilings(session.run(ceilings.race("cuda" if accelerator else "cpu")))
        for suite_name, race in picked:
            if seconds is not None and (progress.tasks[0].elapsed or 0.0) > seconds:
                terminal(stderr=True).print(f"left out, {seconds:.0f} s are over: {race.name}")
                continue
            figures = session.run(race)
            keep(Result(suite_name, race.name, {**about, "frameworks": dict(session.details)}, figures))
            progress.advance(bar)
            if not progress.console.is_terminal:  # where a bar is only drawn at the end
                progress.console.print(f"{suite_name}: {race.name}: done after {progress.tasks[0].elapsed:.0f} s")


def _gated(races: Iterable[Race], session: Session) -> list[Task]:
    """The calls whose outputs are held to references of their own."""
    return [
        contender.task(race, n, {})
        for race in races
        if race.kind not in NO_REFERENCE
        for contender, n in race.entries
        if session.why_not(race, contender, n) is None
    ]


def _write_report(results: Sequence[Result], source: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    written = f"Written by `python -m bench` from `{source}`; do not edit. Rows in which we lose are bold."
    sections = ["# Measured", "", written, ""]
    sections += [f"![{title}]({path.name})\n" for title, path in draw(results, folder)]
    for suite_name, suite in SUITES.items():
        own: list[dict[str, Any]] = [result.about for result in results if result.suite == suite_name]
        if own:
            tables = suite.tables(figures_of(results, suite_name))
            sections.append(markdown(suite.HEADING, suite.INTRODUCTION, own, tables))
    with replaced(folder / "report.md") as beside:
        beside.write_text("\n".join(sections))


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("jax").setLevel(logging.ERROR)
    app(prog_name="python -m bench")


if __name__ == "__main__":
    main()
