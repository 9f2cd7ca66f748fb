"""What a statement costs, as polynomials in the axis sizes.

A cost is a mapping from monomials (sorted axis names) to coefficients, quick to evaluate at given sizes
and to turn into a closed form.  One flop is one real addition or multiplication on real input; a
contraction that sums costs two per point of its index space, one that does not costs one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .ir.axes import sequence_axes
from .ir.nodes import (
    Index,
    MatrixFunction,
    Number,
    Program,
    Read,
    Statement,
    all_indices,
    reads,
    remembered,
    terms_of,
)

if TYPE_CHECKING:
    import sympy

Monomial = tuple[str, ...]

EXPM_MULTIPLICATIONS = 15
"""Matrix products counted for one matrix exponential: a [13/13] Padé approximant, its solve and squarings."""


@dataclass(frozen=True)
class Polynomial:
    """A polynomial in axis sizes; an axis ``1/C`` divides by the size of C.

    Examples
    --------
    >>> cost = Polynomial.of(["n", "d", "d"], 2) + Polynomial.of(["d"])
    >>> print(cost)
    d*(2*d*n + 1)
    >>> cost.at({"n": 10, "d": 3})
    183
    """

    terms: tuple[tuple[Monomial, int], ...] = ()

    @classmethod
    def of(cls, axes: Iterable[str], coefficient: int = 1) -> Polynomial:
        """``coefficient`` times the product of the sizes of ``axes``."""
        return cls(((tuple(sorted(axes)), coefficient),))

    def __add__(self, other: Polynomial) -> Polynomial:
        total = dict(self.terms)
        for monomial, coefficient in other.terms:
            total[monomial] = total.get(monomial, 0) + coefficient
        return Polynomial(tuple((m, c) for m, c in sorted(total.items()) if c))

    def __mul__(self, factor: int) -> Polynomial:
        return Polynomial(tuple((m, c * factor) for m, c in self.terms))

    def rename(self, axis: str, name: str) -> Polynomial:
        """The polynomial with one axis called something else."""
        return Polynomial(tuple((tuple(sorted(name if a == axis else a for a in m)), c) for m, c in self.terms))

    def times_count(self, part: str, whole: str) -> Polynomial:
        """The polynomial times ``whole / part``, the number of parts."""
        terms = []
        for monomial, coefficient in self.terms:
            axes = list(monomial)
            if part in axes:
                axes.remove(part)
            else:
                axes.append(f"1/{part}")
            terms.append((tuple(sorted([*axes, whole])), coefficient))
        return sum((Polynomial((term,)) for term in terms), Polynomial())

    def at(self, sizes: Mapping[str, int]) -> int:
        """The value at the given axis sizes."""
        total = 0
        for monomial, coefficient in self.terms:
            parts = 1
            for axis in monomial:
                if axis.startswith("1/"):
                    parts = parts * sizes[axis[2:]]
                else:
                    coefficient = coefficient * sizes[axis]
            total = total + (coefficient if parts == 1 else -(-coefficient // parts))
        return total

    def closed_form(self) -> sympy.Expr:
        """The polynomial as a sympy expression in positive integer symbols."""
        import sympy

        total = sympy.Integer(0)
        for monomial, coefficient in self.terms:
            total += sympy.Integer(coefficient) * sympy.Mul(*(_symbol(sympy, axis) for axis in monomial))
        return sympy.factor_terms(total) if len(self.terms) < 4 else total

    def __str__(self) -> str:
        return str(self.closed_form()) if self.terms else "0"


def _symbol(sympy: Any, axis: str) -> Any:
    symbol = sympy.Symbol(axis.removeprefix("1/"), positive=True, integer=True)
    return 1 / symbol if axis.startswith("1/") else symbol


def elements(indices: Iterable[Index]) -> Polynomial:
    """Number of elements of a tensor over ``indices``."""
    return Polynomial.of(index.axis for index in indices)


@remembered
def flops(statement: Statement) -> Polynomial:
    """Floating-point operations of one statement, evaluated as it stands."""
    value = statement.value
    if isinstance(value, MatrixFunction):
        size = len(value.grid) * (2 if value.function == "phi1" else 1)
        batch = [index.axis for index in value.indices[:-2]]
        return Polynomial.of([*batch, *[value.indices[-1].axis] * 3], 2 * EXPM_MULTIPLICATIONS * size**3)
    if isinstance(value, Read) and set(value.indices) == set(statement.indices) and not statement.order:
        return Polynomial()
    total = Polynomial()
    terms = [term for term in terms_of(value) if not isinstance(term, Number) or statement.order]
    for term in terms:
        own = {index for read in reads(term) for index in read.indices}
        carried = own if len(terms) > 1 else set(all_indices(statement))
        summed = carried - set(statement.indices)
        tensors = len(reads(term))
        plain = isinstance(term, Read) and (not statement.order or bool(summed))
        operations = 0 if plain else max(1, tensors - 1)
        total = total + Polynomial.of((index.axis for index in carried), operations + bool(summed))
    additions = len(terms_of(value)) - 1
    return total + Polynomial.of(statement.axes, additions) if additions else total


@remembered
def traffic(statement: Statement) -> Polynomial:
    """Elements read and written by one statement."""
    total = elements(statement.indices)
    for read in dict.fromkeys(reads(statement.value)):
        total = total + elements(read.indices)
    return total


def freed_after(program: Program) -> list[tuple[str, ...]]:
    """For each statement, the computed tensors along a sequence that no later statement reads.

    Generated source deletes these, so that what is reported is what is held; tensors without a sequence
    axis are small and stay.
    """
    long = sequence_axes(program)
    last: dict[str, int] = {}
    for position, statement in enumerate(program.statements):
        if any(axis in long for axis in statement.axes):
            last[statement.name] = position
        for read in reads(statement.value):
            if read.tensor in last:
                last[read.tensor] = position
    kept = {output.name for output in program.outputs}
    freed: list[list[str]] = [[] for _ in program.statements]
    for name, position in last.items():
        if name not in kept:
            freed[position].append(name)
    return [tuple(names) for names in freed]


def live_elements(program: Program) -> list[Polynomial]:
    """Elements held by computed tensors (outputs included, arguments not) while each statement runs."""
    size = {statement.name: elements(statement.indices) for statement in program.statements}
    live: dict[str, Polynomial] = {}
    result = []
    for statement, freed in zip(program.statements, freed_after(program), strict=True):
        live[statement.name] = size[statement.name]
        total = Polynomial()
        for held in live.values():
            total = total + held
        result.append(total)
        for name in freed:
            live.pop(name, None)
    return result


def peak_elements(program: Program, sizes: Mapping[str, int]) -> Polynomial:
    """The largest of :func:`live_elements` at ``sizes``, in closed form."""
    return max(live_elements(program), key=lambda held: held.at(sizes), default=Polynomial())


BALANCE = 8
"""Flops one element of memory traffic is worth when evaluation orders are compared."""


def score(program: Program, sizes: Mapping[str, int]) -> int:
    """What the compiler minimises at ``sizes``: flops, plus memory traffic, plus peak memory."""
    total = 0
    for statement in program.statements:
        total = total + flops(statement).at(sizes) + BALANCE * traffic(statement).at(sizes)
    return total + peak_elements(program, sizes).at(sizes)
