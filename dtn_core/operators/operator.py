"""An operator: a program, the scalars bound to it, and the knobs it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..ir.nodes import Program
from ..notation import parse
from ..printer import to_notation


@dataclass(frozen=True)
class Operator:
    """What every ``compile`` takes: index notation with some scalars bound.

    Attributes
    ----------
    program : Program
        The definition.
    scalars : Mapping[str, float]
        Values of scalar parameters, used when a call gives none.
    knobs : Mapping[str, Any]
        The catalogue knobs, empty for an operator written by hand.

    Examples
    --------
    >>> from dtn_core.operators import tensor_attention
    >>> print(tensor_attention(normalize=None).notation)
    tensor_attention(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
        T[i,j] = q[i,a] * conj(k[l,a]) * k[l,b] * conj(q[j,b])
        o[i,c] = T[i,j] * v[j,c]
    """

    program: Program
    scalars: Mapping[str, float] = field(default_factory=dict)
    knobs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The operator's name."""
        return self.program.name

    @cached_property
    def notation(self) -> str:
        """The definition as index notation."""
        return to_notation(self.program)

    def __hash__(self) -> int:
        return hash((self.program, tuple(sorted(self.scalars.items()))))


def as_operator(definition: Operator | Program | str) -> Operator:
    """An operator from an operator, a program or index notation."""
    if isinstance(definition, Operator):
        return definition
    if isinstance(definition, Program):
        return Operator(definition)
    if isinstance(definition, str):
        return Operator(parse(definition))
    raise TypeError(f"expected index notation, a Program or an Operator, got {type(definition).__name__}")
