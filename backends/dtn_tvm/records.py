"""Files of records: read, merged, pruned, and searched for the record of a kernel.

A file holds one JSON object a line.  Records come only from where the user says: the environment variable
``DTN_RECORDS`` (paths, separated as in PATH) or :func:`use_records`.  What is read is data: nothing of it is ever run.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dtn_core.demo.atomic import replaced
from dtn_core.errors import DtnError
from dtn_core.ir.axes import sequence_axes

from .record import Record, from_json, shape, toolchain

if TYPE_CHECKING:
    from .problem import Problem
    from .targets import Target

VARIABLE = "DTN_RECORDS"
_BEGINNING = b'{"format": '
"""Of the line of a record, of any version."""


class RecordsError(DtnError):
    """A file of records that is not there, or cannot be read or written."""


@dataclass(frozen=True)
class Corrupt:
    """A line that is no record: its number, counted from 1, and what is wrong with it."""

    line: int
    reason: str
    text: bytes = field(repr=False)


@dataclass(frozen=True)
class Contents:
    """A file of records, as it was read."""

    records: tuple[Record, ...] = ()
    corrupt: tuple[Corrupt, ...] = ()


def read(path: Path) -> Contents:
    """The records of a file, and the lines that are none.

    Raises
    ------
    RecordsError
        If there is no such file, or it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordsError(f"records {path}: {error.strerror}") from None
    records, corrupt = [], []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(from_json(json.loads(line)))
        except (ValueError, RecursionError) as error:
            corrupt.append(Corrupt(number, str(error) or type(error).__name__, line))
    return Contents(tuple(records), tuple(corrupt))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file's folder: two tuners wait for each other."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise RecordsError(f"records {path}: {path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def add(path: Path, records: Iterable[Record]) -> Contents:
    """Merge records into a file, which is made if it is not there.

    Returns
    -------
    Contents
        Of the file afterwards.  Lines that could not be read are kept as they are, at the end.

    Raises
    ------
    RecordsError
        If the file cannot be read or written, or is none of records: it is as it was then.
    """
    with locked(path):
        before = to_change(path) if path.exists() else Contents()
        merged = merge([*before.records, *records])
        _write(path, merged, before.corrupt)
    return Contents(tuple(merged), before.corrupt)


def to_change(path: Path) -> Contents:
    """What is in a file that will be written to.

    Raises
    ------
    RecordsError
        If it cannot be read, or holds lines and none of them is, or began as, a record: it is somebody's other file.
    """
    found = read(path)
    if found.corrupt and not found.records and not any(bad.text.startswith(_BEGINNING) for bad in found.corrupt):
        first = found.corrupt[0]
        raise RecordsError(f"{path} is no file of records (line {first.line}: {first.reason}) and stays as it is")
    return found


def merge(records: Iterable[Record]) -> list[Record]:
    """One record a key, the fastest by an element, in the order of their first appearance."""
    best: dict[tuple[str, ...], Record] = {}
    for record in records:
        known = best.get(record.key)
        if known is None or record.cost < known.cost:
            best[record.key] = record
    return list(best.values())


def prune(path: Path, versions: Mapping[str, str] | None = None) -> tuple[list[Record], tuple[Corrupt, ...]]:
    """Drop what is never used: records of another toolchain, slower ones of the same kernel, lines that are none.

    Parameters
    ----------
    path : Path
    versions : Mapping[str, str], optional
        The toolchain whose records are kept; by default the installed one.

    Returns
    -------
    list of Record, tuple of Corrupt
        What was dropped.

    Raises
    ------
    RecordsError
        If there is no such file, it cannot be read or written, or is none of records: it is as it was then.
    """
    current = toolchain() if versions is None else versions
    with locked(path):
        before = to_change(path)
        best: dict[tuple[str, ...], Record] = {}
        for record in before.records:
            known = best.get(record.kernel)
            if record.versions == current and (known is None or record.cost < known.cost):
                best[record.kernel] = record
        kept = list(best.values())
        _write(path, kept, ())
    return [record for record in before.records if all(record is not one for one in kept)], before.corrupt


def _write(path: Path, records: Sequence[Record], corrupt: Sequence[Corrupt]) -> None:
    lines = [json.dumps(record.to_json()).encode() for record in records]
    try:
        with replaced(path) as beside:
            beside.write_bytes(b"".join(line + b"\n" for line in [*lines, *(bad.text for bad in corrupt)]))
    except OSError as error:
        raise RecordsError(f"records {path}: {error.strerror}") from None


# ---------------------------------------------------------------------------------------------------- look-up


@dataclass(frozen=True)
class Found:
    """The record for a problem, if there is one, and why this one."""

    record: Record | None
    reason: str
    exact: bool = False


_USED: list[Path] = []


def use_records(*paths: str | os.PathLike[str]) -> None:
    """Read records from these files, besides those of ``DTN_RECORDS``; without any, only from those.

    It is for the whole process, and for kernels that are called from now on, compiled operators' too; ``explain`` says
    which record a call uses.  A file that changes later is read again.

    Parameters
    ----------
    *paths : str or path
        Files that ``dtn tune`` or ``dtn records merge`` wrote; of the folder that is the current one now.

    Raises
    ------
    RecordsError
        If a file cannot be read.

    Examples
    --------
    >>> use_records("records.jsonl")
    Traceback (most recent call last):
    dtn_tvm.records.RecordsError: records records.jsonl: No such file or directory
    >>> use_records()  # none but those of DTN_RECORDS
    """
    for path in paths:
        read(Path(path))
    _USED[:] = [Path(path).absolute() for path in paths]


def sources() -> tuple[Path, ...]:
    """The files that records are read from."""
    named = [Path(text) for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    return tuple(dict.fromkeys([*named, *_USED]))


def versions() -> tuple[tuple[Path, int], ...]:
    """Those files, and when each was changed."""
    return tuple((path, path.stat().st_mtime_ns if path.exists() else 0) for path in sources())


def find(problem: Problem, target: Target) -> Found:
    """The record to compile ``problem`` by: of its own bucket, else of the nearest one with the same features.

    Returns
    -------
    Found
        With the reason in words, which ``explain`` prints.

    Raises
    ------
    RecordsError
        If a file of records that the user named cannot be read.
    """
    files = sources()
    if not files:
        return Found(None, f"no records: neither {VARIABLE} nor use_records names a file")
    records = [record for path, changed in versions() for record in _cached(path, changed)]
    what = f"{problem.operator.name} {problem.direction}, {problem.dtype} on {target.key}"
    wanted = (problem.ir_hash, problem.direction, target.key, problem.dtype)  # scalars change no schedule
    same = [record for record in records if (record.ir, record.direction, record.target, record.dtype) == wanted]
    if not same:
        return Found(None, f"no record of {what}")
    current = [record for record in same if record.versions == toolchain()]
    if not current:
        others = ", ".join(f"{name} {version}" for name, version in same[0].versions.items())
        return Found(None, f"the records of {what} are of another toolchain ({others})")
    serving = [r for r in current if not r.is_for_one_shape or dict(r.sizes) == dict(problem.sizes)]
    if not serving:
        return Found(None, f"the records of {what} are MetaSchedule's, for {shape(current[0].sizes)} alone")
    exact = [record for record in serving if record.bucket == problem.bucket]
    if exact:
        best = min(exact, key=lambda record: (dict(record.sizes) != dict(problem.sizes), record.cost))
        return Found(best, f"tuned at {shape(best.sizes)}", exact=True)
    long = {"batch", "heads", *sequence_axes(problem.operator.program)}
    near = [(_distance(record.sizes, problem.sizes, long), record) for record in serving]
    reachable = [(distance, record) for distance, record in near if distance < math.inf]
    if not reachable:
        return Found(None, f"the records of {what} are for other feature sizes: {shape(current[0].sizes)}")
    best = min(reachable, key=lambda pair: (pair[0], pair[1].cost))[1]
    return Found(best, f"nearest tuned shape: {shape(best.sizes)}")


def _distance(a: Mapping[str, int], b: Mapping[str, int], long: set[str]) -> float:
    """How many doublings lie between two shapes; feature sizes have to be equal."""
    if a.keys() != b.keys() or any(a[axis] != b[axis] for axis in a if axis not in long):
        return math.inf
    return sum(abs(math.log2(max(a[axis], 1) / max(b[axis], 1))) for axis in a if axis in long)


@lru_cache(maxsize=16)
def _cached(path: Path, changed: int) -> tuple[Record, ...]:
    found = read(path)
    for bad in found.corrupt:
        warnings.warn(f"records {path}: line {bad.line} is skipped: {bad.reason}", stacklevel=2)
    return found.records
