"""A record: which schedule was fastest for a kernel on a device, with the receipt of its measurement there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import metadata
from typing import Any

from dtn_codegen.tensorir.cuda import schedule as _cuda  # noqa: F401  # adds its kinds to Schedule's
from dtn_codegen.tensorir.schedule import Schedule
from dtn_core.errors import CompileError
from dtn_core.ir.verify import NAME

from .measuring.form import Number
from .trace_schedule import KIND

FORMAT = 1
WIDTH = 60
"""Characters of a parameter that are shown."""
_PACKAGES = {"dtn": "deep-tensor-network", "tvm": "apache-tvm", "tvm_ffi": "apache-tvm-ffi"}


@dataclass(frozen=True)
class Receipt:
    """What was measured, on the device itself.

    Attributes
    ----------
    device : str
        The name its driver gives.
    seconds : float
        Median of one run.
    errors, tolerance : Mapping[str, float]
        Against the float64 reference, and what was allowed.
    checked : Mapping[str, int]
        The sizes at which the values were compared.
    roofline : float or None
        The fraction of what the device can do at best.
    """

    device: str
    seconds: float
    errors: Mapping[str, float]
    tolerance: Mapping[str, float]
    checked: Mapping[str, int]
    roofline: float | None = None


@dataclass(frozen=True)
class Record:
    """One tuned kernel.

    Attributes
    ----------
    operator, ir, direction, dtype, bucket, sizes
        The problem: its name, the hash of its IR, and the shape it was tuned at.
    notation, scalars
        The definition.
    target, options_of_target
        The key of the device and TVM's description of it.
    versions : Mapping[str, str]
        The toolchain.
    options : Mapping[str, Any]
        How the search was done.
    schedule : Mapping[str, Any]
        What it found.
    receipt : Receipt
    """

    operator: str
    ir: str
    direction: str
    target: str
    dtype: str
    bucket: str
    sizes: Mapping[str, int]
    versions: Mapping[str, str]
    options: Mapping[str, Any]
    schedule: Mapping[str, Any]
    receipt: Receipt
    notation: str
    scalars: Mapping[str, float] = field(default_factory=dict)
    target_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kernel(self) -> tuple[str, ...]:
        """What the record is of, whoever found it."""
        shape = json.dumps(self.sizes, sort_keys=True) if self.is_for_one_shape else self.bucket
        return (self.ir, self.direction, self.target, self.dtype, shape, json.dumps(self.scalars, sort_keys=True))

    @property
    def cost(self) -> float:
        """Seconds by an element of the axes, which records of one bucket are compared by: their lengths may differ."""
        return self.receipt.seconds / math.prod(max(1, size) for size in self.sizes.values())

    @property
    def is_for_one_shape(self) -> bool:
        """Whether its kernel is for the tuned shape alone, as MetaSchedule's are; others serve any number of tokens."""
        return self.schedule.get("kind") == KIND

    @property
    def key(self) -> tuple[str, ...]:
        """What the record is filed under: of two with the same key the faster one is kept."""
        how = json.dumps([self.versions, self.options], sort_keys=True)
        return (*self.kernel, how)

    def to_json(self) -> dict[str, Any]:
        """A description that :func:`from_json` reads."""
        return {"format": FORMAT, **asdict(self)}


def from_json(found: Any) -> Record:
    """The record that :meth:`Record.to_json` described.

    Raises
    ------
    ValueError
        Says what is missing, of the wrong type, or not acceptable: a record has to come with its receipt.
    """
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    if found.get("format") != FORMAT:
        raise ValueError(f"format {found.get('format')!r}; this version reads {FORMAT}")
    words = {name: _typed(found, name, str) for name in _WORDS}
    for name in ("operator", "direction", "dtype"):  # of which files are named
        if not NAME.fullmatch(words[name]):
            raise ValueError(f"{name} {words[name]!r} is not a name")
    parts = {name: _typed(found, name, dict) for name in _PARTS}
    if not all(isinstance(version, str) for version in parts["versions"].values()):
        raise ValueError(f"versions {parts['versions']!r} are not all text")
    if not all(map(_number, parts["scalars"].values())):
        raise ValueError(f"scalars {parts['scalars']!r} are not all numbers")
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in parts["sizes"].values()):
        raise ValueError(f"sizes {parts['sizes']!r} are not all integers")
    try:
        Schedule.from_json(parts["schedule"])
    except CompileError as error:
        raise ValueError(f"schedule {shortened(parts['schedule'])}: {error}") from None
    return Record(**words, **parts, receipt=_receipt(_typed(found, "receipt", dict)))


_WORDS = ("operator", "ir", "direction", "target", "dtype", "bucket", "notation")
_PARTS = ("sizes", "versions", "options", "schedule", "scalars", "target_options")


def _typed(found: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(found.get(name), kind):
        raise ValueError(f"{name!r} is {'missing' if name not in found else f'not of type {kind.__name__}'}")
    return found[name]


def _receipt(found: Mapping[str, Any]) -> Receipt:
    errors, tolerance = _typed(found, "errors", dict), _typed(found, "tolerance", dict)
    seconds = found.get("seconds")
    if not _number(seconds) or seconds <= 0:
        raise ValueError(f"the receipt's seconds are {seconds!r}")
    for name, limit in tolerance.items():
        error = errors.get(name)
        if not _number(error) or not _number(limit) or error < 0:
            raise ValueError(f"the receipt does not say how far off the values were: {name} is {error!r}")
        if error > limit:
            raise ValueError(f"the receipt's {name} error {error:.1e} is above {limit:.1e}")
    if not tolerance:
        raise ValueError("the receipt holds no conformance errors")
    roofline = found.get("roofline")
    if roofline is not None and not _number(roofline):
        raise ValueError(f"the receipt's roofline is {roofline!r}")
    checked = _typed(found, "checked", dict)
    return Receipt(_typed(found, "device", str), float(seconds), errors, tolerance, checked, roofline)


def _number(value: Any) -> bool:
    return Number().fits(value)


@lru_cache(maxsize=1)
def toolchain() -> dict[str, str]:
    """The versions that decide what a schedule compiles to."""
    return {name: metadata.version(package) for name, package in _PACKAGES.items()}


def shape(sizes: Mapping[str, int]) -> str:
    """Sizes as ``--shape`` takes them.

    Examples
    --------
    >>> shape({"batch": 1, "heads": 8, "n": 8192})
    'b=1,h=8,n=8192'
    """
    short = {"batch": "b", "heads": "h"}
    return ",".join(f"{short.get(axis, axis)}={size}" for axis, size in sizes.items())


def shortened(value: object) -> str:
    """A parameter of a schedule; a trace is long.

    Examples
    --------
    >>> shortened([8, 16]), shortened("x" * 4000)   # JSON has no tuples
    ('(8, 16)', 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… (4000 characters)')
    """
    text = str(tuple(value) if isinstance(value, list) else value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH // 2]}… ({len(text)} characters)"
