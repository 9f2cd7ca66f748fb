"""What can be chosen about a kernel: a family of schedules for each kind of device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar

from dtn_core.errors import CompileError


class Schedule:
    """A member of a family of schedules; each family is a frozen dataclass that names its ``kind`` of device.

    Those that are ``by_rows`` go through n×n matrices by chunks of their rows, in place of states.
    """

    kind: ClassVar[str]
    by_rows: ClassVar[bool] = False
    families: ClassVar[dict[str, type[Schedule]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Schedule.families[cls.kind] = cls

    def to_json(self) -> dict[str, Any]:
        """The schedule as JSON values."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Schedule:
        """The schedule that :meth:`to_json` wrote.

        Raises
        ------
        ValueError
            For a kind, a parameter or a combination that is not known.
        """
        family = Schedule.families.get(str(found.get("kind")))
        if family is None:
            raise ValueError(f"schedule {dict(found)}: kind is not one of {', '.join(sorted(Schedule.families))}")
        known = {field.name for field in fields(family)}  # type: ignore[arg-type]
        if set(found) - {"kind"} != known:
            raise ValueError(f"schedule {dict(found)}: expected {', '.join(sorted(known))}")
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
        del values["kind"]
        for name, default in ((field.name, field.default) for field in fields(family)):  # type: ignore[arg-type]
            if _types(default) not in (None, _types(values[name])):
                raise ValueError(f"schedule {dict(found)}: {name}={values[name]!r} is not like {default!r}")
        try:
            return family(**values)
        except TypeError as error:
            raise ValueError(f"schedule {dict(found)}: {error}") from None


def _types(value: Any) -> object:
    """The type of a parameter, of each of its parts where it is a pair; None where there is no default to be like."""
    return None if value is MISSING else tuple(map(type, value)) if isinstance(value, tuple) else type(value)


MAX_ACCUMULATOR = 1024
"""Bytes of an accumulator; a larger one leaves the registers, and then the stack."""

PARALLEL = ("heads", "split", "serial")


@dataclass(frozen=True)
class CpuSchedule(Schedule):
    """Parameters of a CPU kernel.

    Attributes
    ----------
    chunk : int
        Tokens a chunk.
    tokens, features : tuple[int, int]
        Rows and columns of the accumulator of products whose vectors run along the tokens, and along features.
    unroll : int
        Steps of a sum that are written out.
    vector : int
        Lanes.
    parallel : {"heads", "split", "serial"}
        A head a task; parts of a sequence of every head; everything on one core.
    parts : int
        Parts of a sequence, where it is split.
    """

    chunk: int = 32
    tokens: tuple[int, int] = (16, 16)
    features: tuple[int, int] = (8, 32)
    unroll: int = 2
    vector: int = 16
    parallel: str = "heads"
    parts: int = 1

    kind: ClassVar[str] = "cpu"

    def __post_init__(self) -> None:
        for name, value in (("chunk", self.chunk), ("unroll", self.unroll), ("parts", self.parts)):
            if value < 1:
                raise CompileError(f"{name}={value}: expected at least 1")
        if self.vector < 1 or self.vector & (self.vector - 1):
            raise CompileError(f"vector={self.vector} is not a power of two")
        for name, (rows, columns) in (("tokens", self.tokens), ("features", self.features)):
            if (
                min(rows, columns) < 1
                or rows * columns * 4 > MAX_ACCUMULATOR
                or columns % self.vector
                or rows & (rows - 1)
            ):
                raise CompileError(
                    f"{name}={rows}×{columns}: expected a power of two times a multiple of {self.vector}, "
                    f"at most {MAX_ACCUMULATOR} bytes of float32"
                )
            if self.chunk % rows or self.chunk % self.vector or rows % self.unroll or self.vector % rows:
                raise CompileError(
                    f"chunk={self.chunk} is not a multiple of {name}={rows}×{columns} and vector={self.vector}, "
                    f"or unroll={self.unroll} and the rows do not divide them"
                )
        if self.parallel not in PARALLEL:
            raise CompileError(f"parallel={self.parallel!r} is not one of {', '.join(PARALLEL)}")
        if (self.parts > 1) != (self.parallel == "split"):
            raise CompileError(f"parts={self.parts} clashes with parallel={self.parallel!r}")


@dataclass(frozen=True)
class CpuRows(CpuSchedule):
    """Parameters of a CPU kernel that goes through n×n matrices by chunks of their rows, in place of states."""

    kind: ClassVar[str] = "cpu-rows"
    by_rows: ClassVar[bool] = True
