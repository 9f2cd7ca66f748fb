"""What ``dtn records`` does, after its arguments were read."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from dtn_core.errors import DtnError

from . import records
from .record import Record, shape
from .view import PLAIN_WIDTH, counted, duration


def run_list(paths: Sequence[Path]) -> int:
    """``dtn records list``: one line a record."""
    names = ("", "operator", "shape", "dtype", "target", "time", "roofline", "tvm")
    table = Table(*names, box=box.SIMPLE_HEAD, pad_edge=False)
    number = 0
    for record in _read(paths):
        number += 1
        receipt = record.receipt
        table.add_row(
            str(number),
            record.operator if record.direction == "forward" else f"{record.operator}, gradient",
            shape(record.sizes),
            record.dtype,
            record.target if len(record.target) < 30 else f"{record.target[:29]}…",
            duration(receipt.seconds),
            "–" if receipt.roofline is None else f"{receipt.roofline:.0%}",
            record.versions.get("tvm", "?"),
        )
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=PLAIN_WIDTH)
    console.print(table if number else "no records")
    return 0


def run_show(path: Path, number: int) -> int:
    """``dtn records show``: all of one record."""
    found = _read([path])
    if not 1 <= number <= len(found):
        raise DtnError(f"{path} has {counted(len(found), 'record')}; there is no number {number}")
    print(json.dumps(found[number - 1].to_json(), indent=2))
    return 0


def run_merge(paths: Sequence[Path], to: Path) -> int:
    """``dtn records merge``: one file of several; of two records with the same key the faster one."""
    found = _read(paths)
    merged = records.add(to, found)
    whole, parts = (counted(len(x), "record") for x in (merged.records, found))
    print(f"{to}: {whole}, from {parts} in {counted(len(paths), 'file')}")
    return 0


def run_prune(path: Path) -> int:
    """``dtn records prune``: drop what is never used."""
    dropped, corrupt = records.prune(path)
    for record in dropped:
        why = f"tvm {record.versions.get('tvm', '?')}, {duration(record.receipt.seconds)}"
        print(f"dropped: {record.operator} {record.direction}, {record.dtype}, {shape(record.sizes)}: {why}")
    for bad in corrupt:
        print(f"dropped: line {bad.line}: {bad.reason}")
    print(f"{path}: {counted(len(records.read(path).records), 'record')} left")
    return 0


def run_export(path: Path, folder: Path) -> int:
    """``dtn records export``: the fastest record of every kernel, compiled."""
    from .commands import target

    target("cpu")  # says what is missing
    from .export import export
    from .record import toolchain

    best: dict[tuple[str, ...], Record] = {}
    for record in _read([path]):
        known = best.get(record.kernel)
        if record.versions == toolchain() and (known is None or record.cost < known.cost):
            best[record.kernel] = record
    if not best:
        raise DtnError(f"{path} has no record of the installed toolchain; nothing is exported")
    names = export(list(best.values()), folder)
    for name in names:
        print(f"{folder / name}.so")
    print(f"{counted(len(names), 'kernel')}; in Python: from kernels import load, with {folder} on the path")
    return 0


def _read(paths: Sequence[Path]) -> list[Record]:
    """Records of some files; lines that are none are said on standard error."""
    found: list[Record] = []
    for path in paths:
        contents = records.read(path)
        for bad in contents.corrupt:
            print(f"{path}, line {bad.line}: skipped, {bad.reason}", file=sys.stderr)
        found += contents.records
    return found
