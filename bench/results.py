"""Results as files, a race after another: written whole or not at all, read back as figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dtn_core.demo.atomic import replaced

from .case import Figures, Shape

SCHEMA = 2


class UnreadableError(Exception):
    """A file is not a result of this version."""


@dataclass
class Result:
    """A race that was run.

    Parameters
    ----------
    suite, race : str
        Their names; a race that is run again takes the place of the one before.
    about : dict
        From ``machine.describe``: machine, versions, commit, date; and the machine's ceilings in that run.
    figures : list of Figures
        In the order of the race.
    """

    suite: str
    race: str
    about: dict[str, Any]
    figures: list[Figures] = field(default_factory=list)


def merged(old: Sequence[Result], new: Sequence[Result]) -> list[Result]:
    """``old`` with those races replaced that are in ``new``, and the others of ``new`` after it."""
    fresh = {(result.suite, result.race): result for result in new}
    kept = [fresh.pop((result.suite, result.race), result) for result in old]
    return [*kept, *fresh.values()]


def figures_of(results: Iterable[Result], suite: str | None = None) -> list[Figures]:
    """All figures, or those of a suite."""
    return [found for result in results if suite in (None, result.suite) for found in result.figures]


def write(path: Path, results: Sequence[Result]) -> None:
    """Write results; the file is replaced when all of it is written."""
    races = [
        {
            "suite": result.suite,
            "race": result.race,
            "about": result.about,
            "figures": [found.as_json() for found in result.figures],
        }
        for result in results
    ]
    text = json.dumps({"schema": SCHEMA, "races": races}, indent=1)
    with replaced(path) as beside:
        beside.write_text(text + "\n")


def read(path: Path) -> list[Result]:
    """What :func:`write` wrote.

    Raises
    ------
    UnreadableError
        If it is something else.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise UnreadableError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UnreadableError(f"{path} is not a result of this bench (schema {SCHEMA})")
    return [
        Result(race["suite"], race["race"], race["about"], [_figures(each) for each in race["figures"]])
        for race in found["races"]
    ]


def _figures(found: dict[str, Any]) -> Figures:
    return Figures(**{**found, "shape": Shape(**found["shape"])})
