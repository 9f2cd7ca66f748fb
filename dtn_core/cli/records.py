"""``dtn records``: files of tuned kernels, looked at, merged, pruned and compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .groups import HelpByDefault
from .kernel_tools import kernel_tools

app = typer.Typer(
    name="records",
    cls=HelpByDefault,
    help="Look at, merge, prune and export the records of tuned kernels.",
    epilog="Example: dtn records list records.jsonl",
)

File = Annotated[Path, typer.Argument(metavar="PATH", help="A file of records.", show_default=False)]
Files = Annotated[list[Path], typer.Argument(metavar="PATH…", help="Files of records.", show_default=False)]


@app.command("list", epilog="Example: dtn records list records.jsonl")
def list_(paths: Files) -> None:
    """List records, one a line."""
    raise typer.Exit(kernel_tools("record_commands").run_list(paths))


@app.command(epilog="Example: dtn records show records.jsonl 1")
def show(
    path: File,
    number: Annotated[int, typer.Argument(min=1, metavar="N", help="As dtn records list counts.")] = 1,
) -> None:
    """Show all of one record: schedule, versions, and the receipt of its measurement."""
    raise typer.Exit(kernel_tools("record_commands").run_show(path, number))


@app.command(epilog="Example: dtn records merge mine.jsonl theirs.jsonl -o records.jsonl")
def merge(
    paths: Files,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PATH", help="Where they are merged into.")],
) -> None:
    """Merge files; of two records of the same kernel and search the faster one is kept."""
    raise typer.Exit(kernel_tools("record_commands").run_merge(paths, output))


@app.command(epilog="Example: dtn records prune records.jsonl")
def prune(path: File) -> None:
    """Drop records that are never used: of another toolchain, slower ones, and lines that are none."""
    raise typer.Exit(kernel_tools("record_commands").run_prune(path))


@app.command(epilog="Example: dtn records export records.jsonl -o kernels")
def export(
    path: File,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A new folder.")] = Path("kernels"),
) -> None:
    """Compile records into a folder that loads with apache-tvm-ffi alone."""
    raise typer.Exit(kernel_tools("record_commands").run_export(path, output))
