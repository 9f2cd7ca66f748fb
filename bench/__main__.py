"""The command line, ``python -m bench``."""

from __future__ import annotations

import logging
import os
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dtn_core.demo.atomic import replaced

from . import causal, machine
from .case import Figures, Task
from .compare import compare, comparison_table
from .oracle import check_oracle, write_references
from .report import markdown, name
from .results import UnreadableError, read, write
from .runners import FRAMEWORKS
from .session import Session

SUITES = {suite.NAME: suite for suite in (causal,)}
BLOCK_SECONDS = {"quick": 0.02, "usual": 0.05, "full": 0.2}
PLAIN_WIDTH = 160

Framework = StrEnum("Framework", list(FRAMEWORKS))

app = typer.Typer(help="Timings, side by side with what a user would write by hand.", add_completion=False)


def terminal(*, stderr: bool = False) -> Console:
    """Where text goes; as wide as its tables where it is not a terminal."""
    console = Console(stderr=stderr, highlight=False, markup=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, markup=False, width=PLAIN_WIDTH)


@app.command("causal")
def run_causal(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Short sequences.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Longer sequences and more rounds.")] = False,
    framework: Annotated[list[Framework] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Figures, as JSON.")] = Path("bench/results/causal.json"),
    report: Annotated[Path, typer.Option(help="Tables, as Markdown.")] = Path("bench/report.md"),
) -> None:
    """Measure the causal second-order operator."""
    if quick and full:
        raise typer.BadParameter("--quick and --full exclude each other")
    scale = "quick" if quick else "full" if full else "usual"
    chosen = [str(each) for each in framework] if framework else list(FRAMEWORKS)
    for path in (out, report):
        path.parent.mkdir(parents=True, exist_ok=True)
    result, figures = measure(causal.NAME, scale, chosen)
    write(out, result, figures)
    with replaced(report) as beside:
        beside.write_text(_report(causal.NAME, result, figures, out.parent))
    console = terminal()
    for table in causal.tables(figures):
        console.print(table.rich())
    failed = [found for found in figures if found.failed]
    for found in failed:
        console.print(f"{found.case}, n = {found.n}, {name(found)}: {found.absent}")
    console.print(f"written to {out} and {report}")
    raise typer.Exit(bool(failed))


@app.command("compare")
def run_compare(
    old: Annotated[Path, typer.Argument(help="Figures from before a change.", exists=True, dir_okay=False)],
    new: Annotated[Path, typer.Argument(help="Figures from after it.", exists=True, dir_okay=False)],
    *,
    least: Annotated[float, typer.Option(help="Differences below this factor are not called any.")] = 1.03,
) -> None:
    """Say what became slower between two runs, beyond noise; the exit status is 1 if anything did."""
    try:
        (before, old_figures), (after, new_figures) = read(old), read(new)
    except UnreadableError as error:
        raise typer.BadParameter(str(error)) from error
    console = terminal()
    for key in ("machine", "versions"):
        different = {part for part, value in after[key].items() if before[key].get(part) != value} - {"load"}
        if different:
            console.print(f"{key} differ in {', '.join(sorted(different))}: compare with care")
    comparisons = compare(old_figures, new_figures)
    if not comparisons:
        raise typer.BadParameter("the two runs have nothing in common")
    console.print(comparison_table(comparisons, least).rich())
    raise typer.Exit(any(found.slower(least) for found in comparisons))


def measure(suite: str, scale: str, frameworks: list[str]) -> tuple[dict[str, Any], list[Figures]]:
    """Run a suite.

    Parameters
    ----------
    suite, scale : str
        Which, and how much of it.
    frameworks : list of str
        Where.

    Returns
    -------
    tuple
        What belongs to the figures (machine, versions, ...), and the figures.
    """
    races = SUITES[suite].races(scale)
    result: dict[str, Any] = {"suite": suite, "scale": scale, **machine.describe()}
    figures: list[Figures] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(*columns, console=terminal(stderr=True)) as progress,
        Session(frameworks, Path(folder), progress, BLOCK_SECONDS[scale]) as session,
    ):
        bar = progress.add_task("all", total=len(races) + 1)
        reference = progress.add_task("references, token by token in float64", total=None)
        result["oracle_error"] = check_oracle()
        asked = [(race, contender, n) for race in races for contender, n in race.entries]
        write_references(
            [
                Task(race.kind, c.framework, c.implementation, c.mode, n, c.computes)
                for race, c, n in asked
                if session.why_not(c, n) is None
            ],
            Path(folder),
        )
        progress.remove_task(reference)
        progress.advance(bar)
        for race in races:
            figures += session.run(race)
            progress.advance(bar)
        result["frameworks"] = session.details
    return result, figures


def _report(newest: str, result: dict[str, Any], figures: list[Figures], folder: Path) -> str:
    """The report on a suite that has just run, and on the others whose results lie in the folder."""
    found = {name: read(path) for name in SUITES if (path := folder / f"{name}.json").exists()}
    found[newest] = (result, figures)
    sections = ["# Measured", "", "Written by `python -m bench`; do not edit. Rows in which we lose are bold.", ""]
    for suite_name, (about, measured) in found.items():
        suite = SUITES[suite_name]
        sections.append(markdown(suite.HEADING, suite.INTRODUCTION, about, suite.tables(measured)))
    return "\n".join(sections)


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("jax").setLevel(logging.ERROR)
    app(prog_name="python -m bench")


if __name__ == "__main__":
    main()
