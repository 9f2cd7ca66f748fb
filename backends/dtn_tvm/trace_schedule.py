"""The schedule that is a trace, as records hold it; :mod:`dtn_tvm.trace` carries it out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

from dtn_codegen.tensorir.schedule import Schedule
from dtn_core.errors import CompileError

KIND = "metaschedule"

_PRAGMAS = {"pragma_auto_unroll_max_step", "pragma_unroll_explicit"}
"""MetaSchedule's annotations besides those of its own name; others would make the compiler read code from a record."""


@dataclass(frozen=True)
class TraceSchedule(Schedule):
    """A trace, as JSON text.

    Attributes
    ----------
    trace : str
        Instructions and decisions, as ``tvm.s_tir.schedule.Trace`` writes them.
    """

    trace: str

    kind: ClassVar[str] = KIND

    def __post_init__(self) -> None:
        try:
            instructions, decisions = json.loads(self.trace)
            for name, _, attributes, _ in instructions:
                if name == "Annotate" and not _is_known(str(attributes[0])):
                    raise CompileError(f"trace: the annotation {attributes[0]!r} is not one that MetaSchedule makes")
            list(decisions)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise CompileError(f"trace {str(self.trace)[:60]!r} is not one of MetaSchedule's: {error}") from None


def _is_known(annotation: str) -> bool:
    return annotation.startswith("meta_schedule.") or annotation in _PRAGMAS
