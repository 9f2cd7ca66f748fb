"""Results as files: written whole or not at all, read back as figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dtn_core.demo.atomic import replaced

from .case import Figures

SCHEMA = 1


class UnreadableError(Exception):
    """A file is not a result of this version."""


def write(path: Path, result: dict[str, Any], figures: Sequence[Figures]) -> None:
    """Write figures with what belongs to them.

    Parameters
    ----------
    path : Path
        Replaced when all of it is written.
    result : dict
        From ``machine.describe``, with the suite's name.
    figures : sequence of Figures
        All that were measured.
    """
    text = json.dumps({"schema": SCHEMA, **result, "figures": [found.as_json() for found in figures]}, indent=1)
    with replaced(path) as beside:
        beside.write_text(text + "\n")


def read(path: Path) -> tuple[dict[str, Any], list[Figures]]:
    """What :func:`write` wrote.

    Raises
    ------
    UnreadableError
        If it is something else.
    """
    try:
        result = json.loads(path.read_text())
    except ValueError as error:
        raise UnreadableError(f"{path} is not JSON: {error}") from error
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        raise UnreadableError(f"{path} is not a result of this bench (schema {SCHEMA})")
    return result, [Figures(**found) for found in result.pop("figures")]
