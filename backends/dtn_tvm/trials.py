"""What was measured, candidate by candidate: a tuner that is interrupted goes on from here.

A file beside the records, appended to a line at a time; a line that the end of a process cut short is skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .records import RecordsError, locked
from .search import canonical


@dataclass(frozen=True)
class Trial:
    """A candidate and what became of it.

    Attributes
    ----------
    schedule : Mapping
        The candidate.
    seconds : float or None
        Median of one run, if it is valid.
    errors : Mapping or None
        Against the reference.
    failure, detail : str
        Otherwise: one of a few reasons, which are counted, and what was said.
    limit : float or None
        The seconds that it was given, if it did not end in them.
    """

    schedule: Mapping[str, Any]
    seconds: float | None = None
    errors: Mapping[str, float] | None = None
    failure: str = ""
    detail: str = ""
    limit: float | None = None


def trials_path(records: Path) -> Path:
    """The file of the trials beside a file of records.

    Examples
    --------
    >>> str(trials_path(Path("kernels.jsonl")))
    'kernels.trials.jsonl'
    """
    return records.with_name(f"{records.stem}.trials.jsonl")


class Log:
    """The trials of one search in a file that many searches share.

    Parameters
    ----------
    path : Path
    search : Mapping
        Problem, device, toolchain and options: only trials of an equal search are of use.
    """

    def __init__(self, path: Path, search: Mapping[str, Any]) -> None:
        self._path = path
        self._search = json.dumps(search, sort_keys=True)

    def read(self) -> list[Trial]:
        """The trials of this search so far: of each candidate the last."""
        if not self._path.exists():
            return []
        found: dict[str, Trial] = {}
        for line in self._path.read_bytes().splitlines():
            try:
                trial = json.loads(line)
                if json.dumps(trial.pop("search"), sort_keys=True) == self._search:
                    read = Trial(**trial)
                    found[canonical(read.schedule)] = read
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # cut short; its candidate is measured again
        return list(found.values())

    def append(self, trial: Trial) -> None:
        """Add one.

        Raises
        ------
        RecordsError
            If the file cannot be written, as on a disk that is full.
        """
        line = json.dumps({"search": json.loads(self._search), **asdict(trial)}) + "\n"
        try:
            with locked(self._path), self._path.open("ab") as file:
                if file.tell() and not _ends_with_newline(self._path):
                    line = "\n" + line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RecordsError(f"trials {self._path}: {error.strerror}") from None


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
