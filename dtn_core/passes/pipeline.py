"""The passes, one after another, each verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ..cost import score
from ..ir.axes import sequence_axes
from ..ir.nodes import Program
from .contract import contract
from .divide import divide
from .flatten import flatten
from .low_rank import low_rank, why_not

LONG = 65_536
FEATURES = 64
SHORT = 16


@dataclass(frozen=True)
class Lowered:
    """A program as it is computed: straight-line steps of at most two tensors each.

    Attributes
    ----------
    definition, program : Program
        As written, and as computed.
    rules : Mapping[str, str]
        For each step, the rule that produced it.
    complex_input : bool
        Whether it is for complex arguments.
    dense_reasons : Mapping[str, str]
        For each n×n matrix function left, why it has no linear form.
    """

    definition: Program
    program: Program
    rules: Mapping[str, str]
    complex_input: bool = False
    dense_reasons: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.program, self.complex_input))


def assumed_sizes(program: Program, given: Mapping[str, int] | None = None, long: int = LONG) -> dict[str, int]:
    """Axis sizes to optimise for: the given ones, else long sequences and narrow features (n ≫ d)."""
    sequences = sequence_axes(program)
    sizes = {axis: long if axis in sequences else FEATURES for axis in program.axes}
    sizes.update({axis: size for axis, size in (given or {}).items() if axis in sizes})
    return sizes


def lower(program: Program, sizes: Mapping[str, int] | None = None, *, complex_input: bool = False) -> Lowered:
    """Run every pass.

    Parameters
    ----------
    program : Program
        The definition.
    sizes : Mapping[str, int], optional
        Axis sizes to optimise for; the result is correct at any.
    complex_input : bool
        Whether arguments are complex; ``conj`` of a real argument is dropped.
    """
    flat = flatten(program, complex_input=complex_input)
    ranked = low_rank(flat)
    added = {s.name for s in ranked.statements} - {s.name for s in flat.statements}
    reasons = why_not(ranked)
    flat = flatten(ranked, complex_input=complex_input) if ranked is not flat else flat
    final = divide(contract(flat, assumed_sizes(program, sizes)))
    written = {statement.name for statement in program.statements}
    stages = {statement.name for statement in flat.statements}
    rules = {}
    for statement in final.statements:
        name = statement.name
        if name in added:
            rules[name] = "low-rank matrix exponential"
        elif name in stages:
            rules[name] = "as written" if name in written else "simplify"
        elif statement.order:
            rules[name] = "order, evaluated densely"
        else:
            rules[name] = "contraction path"
    return Lowered(program, final, rules, complex_input, reasons)


@lru_cache(maxsize=512)
def candidates(program: Program, complex_input: bool = False) -> tuple[Lowered, ...]:
    """The lowered forms worth choosing from: the best for long sequences first, then for short ones."""
    found: dict[Program, Lowered] = {}
    for length in (LONG, SHORT):
        lowered = lower(program, assumed_sizes(program, long=length), complex_input=complex_input)
        found.setdefault(lowered.program, lowered)
    return tuple(found.values())


def choose(forms: tuple[Lowered, ...], sizes: Mapping[str, int]) -> Lowered:
    """The cheapest of ``forms`` at ``sizes``; the first, made for long sequences, wins a draw."""
    if len(forms) == 1:
        return forms[0]
    return min(forms, key=lambda form: score(form.program, sizes))
