"""An operator: a program, the scalars bound to it, and the knobs it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..ir.nodes import Program
from ..notation import parse
from ..printer import print_signature, to_notation
from .knobs import KNOBS


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
    >>> tensor_attention(order=3, residual=0.5)
    <Operator tensor_attention(q[n,d], k[n,d], v[n,e], residual) -> o[n,e], order=3, residual=0.5>
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

    @property
    def signature(self) -> str:
        """What it is called with and what it gives: ``"f(x[n,d]) -> y[n]"``."""
        return print_signature(self.program)

    @cached_property
    def notation(self) -> str:
        """The definition as index notation."""
        return to_notation(self.program)

    def __repr__(self) -> str:
        usual = {name: knob.default for name, knob in KNOBS.items()}
        chosen = {name: value for name, value in self.knobs.items() if name not in usual or value != usual[name]}
        shown = [self.signature, *(f"{name}={value!r}" for name, value in {**chosen, **self.scalars}.items())]
        return f"<Operator {', '.join(shown)}>"

    def __hash__(self) -> int:
        return hash((self.program, tuple(sorted(self.scalars.items()))))


def as_operator(definition: Operator | Program | str) -> Operator:
    """An operator from an operator, a program or index notation.

    Raises
    ------
    NotationError
        Names operator, line and column.
    TypeError
        For anything else.

    Examples
    --------
    >>> as_operator("gram(x[n,d]) -> g[d,d]:  g[a,b] = x[i,a] * x[i,b]")
    <Operator gram(x[n,d]) -> g[d,d]>
    """
    if isinstance(definition, Operator):
        return definition
    if isinstance(definition, Program):
        return Operator(definition)
    if isinstance(definition, str):
        return Operator(parse(definition))
    raise TypeError(f"expected index notation, a Program or an Operator, got {type(definition).__name__}")
