"""``matrix.json`` and ``sources.json``: what was found, kept between runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path

from ..demo.atomic import replaced
from .backends import ConformError
from .cells import FORMS, STATUSES, Cell

Sources = dict[str, str]
"""Generated source by ``"backend form operator"``."""

FIELDS = {field.name for field in fields(Cell)}


def read(out: Path) -> tuple[list[Cell], Sources]:
    """What an earlier run left in a folder; nothing if there was none.

    Raises
    ------
    ConformError
        If the file is not a matrix.
    """
    path = out / "matrix.json"
    if not path.exists():
        return [], {}
    try:
        cells = [Cell(**cell) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConformError(
            f"{path} is not a matrix of this version ({error}); remove it or give another --out"
        ) from None
    if any(cell.status not in STATUSES or cell.form not in FORMS for cell in cells):
        raise ConformError(f"{path} has cells that this version does not know; remove it or give another --out")
    beside = out / "sources.json"
    sources: Sources = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
    return cells, sources


def write(out: Path, cells: Iterable[Cell], sources: Mapping[str, str], about: Mapping[str, object]) -> None:
    """Write both files; a cell a line, so that two matrices can be compared line by line."""
    lines = ",\n".join(json.dumps(cell.as_dict(), ensure_ascii=False) for cell in cells)
    head = ", ".join(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in about.items())
    with replaced(out / "matrix.json") as beside:
        beside.write_text(f'{{{head}, "cells": [\n{lines}\n]}}\n', encoding="utf-8")
    with replaced(out / "sources.json") as beside:
        beside.write_text(json.dumps(dict(sorted(sources.items())), ensure_ascii=False, indent=0), encoding="utf-8")
