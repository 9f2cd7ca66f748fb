"""What the matrix says: a summary on the terminal, ``matrix.md`` and ``matrix.html``."""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from rich import box
from rich.console import Console
from rich.table import Table

from ..demo.atomic import replaced
from .cells import CHECKS, DTYPES, FORMS, MODES, STATUSES, Cell

AXES = ("operator", "knobs", "backend", "form", "mode", "check", "dtype", "status")
COLUMNS = ("backend", *STATUSES, "cells", "largest error / bound")
"""Of :func:`counted`."""

SHOWN = 40


def print_summary(console: Console, cells: Sequence[Cell], seconds: float, seed: int) -> None:
    """Counts by backend and status, and the fails."""
    table = Table(*COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in counted(cells):
        table.add_row(*row)
    console.print(table)
    failed = [cell for cell in cells if cell.status == "fail"]
    for cell in failed[:SHOWN]:
        console.print(f"{where(cell)}: {cell.reason}; {command(cell)}", soft_wrap=True)
    if len(failed) > SHOWN:
        console.print(f"… and {len(failed) - SHOWN} more fails")
    console.print(f"{len(cells):,} cells, {len(failed)} fail; seed {seed}; {seconds:.0f} s")


def counted(cells: Sequence[Cell]) -> list[list[str]]:
    """A row of ``COLUMNS`` for each backend and one for all; the ratio is the largest among cells that pass."""
    rows = [_row(name, [cell for cell in cells if cell.backend == name]) for name in sorted({c.backend for c in cells})]
    return [*rows, _row("all", cells)]


def _row(name: str, cells: Sequence[Cell]) -> list[str]:
    found = Counter(cell.status for cell in cells)
    ratios = [cell.error / cell.bound for cell in cells if cell.status == "pass" and cell.error and cell.bound]
    counts = [f"{count:,}" for count in (*(found[status] for status in STATUSES), len(cells))]
    return [name, *counts, f"{max(ratios, default=0.0):.2f}"]


def reasons(cells: Sequence[Cell]) -> list[tuple[str, str, str, int]]:
    """Status, backends, reason and count of everything that did not pass, the rarest statuses first."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for cell in cells:
        if cell.status != "pass":
            found.setdefault((cell.status, cell.reason), Counter())[cell.backend] += 1
    order = ("fail", "xfail", "gap", "skip")
    rows = [
        (status, ", ".join(sorted(backends)), reason, sum(backends.values()))
        for (status, reason), backends in found.items()
    ]
    return sorted(rows, key=lambda row: (order.index(row[0]), -row[3], row[2]))


def where(cell: Cell) -> str:
    """The cell in words."""
    return f"{cell.backend} {cell.text} {cell.form} {cell.mode} {cell.check} {cell.dtype}"


def command(cell: Cell) -> str:
    """The command that computes this cell alone."""
    check = f"'{cell.check}'" if " " in cell.check else cell.check
    return (
        f"dtn conform --backends {cell.backend} --ops '{cell.text}' --forms {cell.form} --modes {cell.mode} "
        f"--checks {check} --dtypes {cell.dtype} --out one"
    )


def write_pages(out: Path, cells: Sequence[Cell], sources: Mapping[str, str], seed: int) -> None:
    """Write ``matrix.md`` and ``matrix.html``."""
    with replaced(out / "matrix.md") as beside:
        beside.write_text(markdown(cells, seed), encoding="utf-8")
    with replaced(out / "matrix.html") as beside:
        beside.write_text(page(cells, sources, seed), encoding="utf-8")


def markdown(cells: Sequence[Cell], seed: int) -> str:
    """Counts, the axes, and every reason."""
    lines = ["# The conformance matrix", "", f"{len(cells):,} cells, seed {seed}.", ""]
    lines += _table(COLUMNS, counted(cells))
    passed = Counter((cell.form, cell.mode, cell.check) for cell in cells if cell.status == "pass")
    lines += ["", "Cells that pass, by check, form and mode:", ""]
    places = [(form, mode) for form in FORMS for mode in MODES]
    lines += _table(
        ["check", *(f"{form}, {mode}" for form, mode in places)],
        [[check, *(passed[form, mode, check] for form, mode in places)] for check in CHECKS],
    )
    lines += ["", "Everything that did not pass:", ""]
    lines += _table(["status", "backends", "reason", "cells"], reasons(cells))
    versions = sorted({(cell.backend, cell.device, cell.versions) for cell in cells if cell.versions})
    lines += ["", "Computed with:", "", *_table(["backend", "device", "versions"], versions), ""]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    text = [[str(value).replace("|", "\\|").replace("\n", " ") for value in row] for row in (head, *rows)]
    made = ["| " + " | ".join(row) + " |" for row in text]
    return [made[0], "|" + "---|" * len(head), *made[1:]]


def page(cells: Sequence[Cell], sources: Mapping[str, str], seed: int) -> str:
    """One file that needs nothing else: filters for every axis, and the details of a cell on a click."""
    environment = Environment(loader=PackageLoader("dtn_core.conform", "."), autoescape=True)
    return environment.get_template("page.html.j2").render(
        total=len(cells),
        seed=seed,
        statuses=STATUSES,
        columns=COLUMNS,
        rows=counted(cells),
        data=_packed(cells, sources),
        axes=AXES,
    )


def _packed(cells: Sequence[Cell], sources: Mapping[str, str]) -> str:
    """The cells by column, equal values stored once, deflated and in base 64."""
    tables: dict[str, dict[str, int]] = {}
    order: dict[str, Sequence[str]] = {
        "form": tuple(FORMS), "mode": tuple(MODES), "check": tuple(CHECKS), "dtype": DTYPES, "status": tuple(STATUSES)
    }  # fmt: skip
    columns: dict[str, list[Any]] = {}
    for name in (
        "operator",
        "text",
        "backend",
        "form",
        "mode",
        "check",
        "dtype",
        "status",
        "reason",
        "device",
        "versions",
    ):
        table = tables.setdefault(name, {value: place for place, value in enumerate(order.get(name, ()))})
        columns[name] = [table.setdefault(getattr(cell, name), len(table)) for cell in cells]
    columns["error"] = [cell.error for cell in cells]
    columns["bound"] = [cell.bound for cell in cells]
    texts: dict[str, int] = {}
    places = {key: texts.setdefault(source, len(texts)) for key, source in sources.items()}
    content = {
        "columns": columns,
        "tables": {name: list(table) for name, table in tables.items()},
        "sources": {"texts": list(texts), "places": places},
    }
    return base64.b64encode(zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 9)).decode()
