"""A statement's right side as a list of plain products, the form the rewriting passes work on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .nodes import (
    ONES,
    ZERO,
    Apply,
    Expr,
    Extent,
    Index,
    Number,
    Read,
    Relation,
    Statement,
    Sum,
    factors_of,
    product,
)
from .order import nothing_holds, on_cycle, restrict


@dataclass(frozen=True)
class Factor:
    """A tensor read, conjugated or not."""

    read: Read
    conj: bool = False
    resolved: bool = False
    """Whether the read already speaks of the program being built, not of the one it is built from."""

    @property
    def indices(self) -> tuple[Index, ...]:
        """The indices of the read."""
        return self.read.indices

    def expression(self) -> Expr:
        """The factor as an IR expression."""
        return Apply("conj", (self.read,)) if self.conj else self.read


@dataclass(frozen=True)
class Term:
    """``coefficient * factors where order``; the coefficient holds numbers and axis sizes only."""

    coefficient: tuple[Expr, ...]
    factors: tuple[Factor, ...]
    order: tuple[Relation, ...] = ()

    def indices(self) -> tuple[Index, ...]:
        """The distinct indices of the factors, in order of appearance."""
        return tuple(dict.fromkeys(index for factor in self.factors for index in factor.indices))

    def expression(self) -> Expr:
        """The term as an IR expression (its order is the statement's)."""
        return product(*self.coefficient, *(factor.expression() for factor in self.factors))

    def conjugate(self) -> Term:
        """The complex conjugate (coefficients are real)."""
        return replace(self, factors=tuple(replace(factor, conj=not factor.conj) for factor in self.factors))

    def rename(self, names: Mapping[Index, Index]) -> Term:
        """The term with indices replaced."""
        factors = tuple(
            replace(f, read=Read(f.read.tensor, tuple(names.get(index, index) for index in f.indices)))
            for f in self.factors
        )
        order = tuple(
            replace(r, lower=names.get(r.lower, r.lower), upper=names.get(r.upper, r.upper)) for r in self.order
        )
        return Term(self.coefficient, factors, order)

    def simplified(self, out: Iterable[Index]) -> Term:
        """Merge equal indices, drop order that says nothing; 0 where no indices fulfil the order.

        Indices on a cycle of ``<=`` are equal (``T[x,x]`` of a causal T makes such cycles); those on the left stay
        apart and are ordered by ``==``.
        """
        kept = tuple(out)
        if nothing_holds(self.order):
            return Term((ZERO,), (Factor(Read(ONES, kept), resolved=True),) if kept else ())
        term = replace(self, order=tuple(r for r in self.order if r.lower != r.upper))
        while True:
            pair = _equal_pair(term.order, kept)
            if pair is None:
                break
            keep, drop = pair
            term = term.rename({drop: keep})
            term = replace(term, order=tuple(r for r in term.order if r.lower != r.upper))
        carried = {*term.indices(), *kept}
        order = tuple(replace(r, decay=None, sign="==") if on_cycle(r, term.order) else r for r in term.order)
        return replace(term, order=restrict(order, carried))

    def without_ones(self, out: Iterable[Index]) -> Term:
        """Drop ones over indices that other factors carry; those nothing else carries give their axis size."""
        kept_out = set(out)
        ordered = {index for relation in self.order for index in (relation.lower, relation.upper)}
        carried = {index for f in self.factors if f.read.tensor != ONES for index in f.indices}
        coefficient, factors = list(self.coefficient), []
        for factor in self.factors:
            if factor.read.tensor != ONES:
                factors.append(factor)
                continue
            left = []
            for index in dict.fromkeys(factor.indices):
                if index in carried:
                    continue
                if index in kept_out or index in ordered:
                    left.append(index)
                else:
                    coefficient.append(Extent(index.axis))
                carried.add(index)
            if left:
                factors.append(Factor(Read(ONES, tuple(left))))
        return Term(tuple(coefficient), tuple(factors), self.order)


def _equal_pair(order: tuple[Relation, ...], out: tuple[Index, ...]) -> tuple[Index, Index] | None:
    """Two indices that must be equal, the second one not an output; or None."""
    for relation in order:
        if on_cycle(relation, order):
            for keep, drop in ((relation.upper, relation.lower), (relation.lower, relation.upper)):
                if drop not in out:
                    return keep, drop
    return None


def multiply(left: Term, right: Term) -> Term:
    """The product of two terms over disjoint or shared indices."""
    return Term(left.coefficient + right.coefficient, left.factors + right.factors, left.order + right.order)


def single_term(statement: Statement) -> Term | None:
    """The statement as one product of (conjugated) reads, or None when it is something else."""
    coefficient: list[Expr] = []
    factors: list[Factor] = []
    if isinstance(statement.value, Sum):
        return None
    for factor in factors_of(statement.value):
        match factor:
            case Number() | Extent() | Apply("recip", (Extent(),)):
                coefficient.append(factor)
            case Read():
                factors.append(Factor(factor))
            case Apply("conj", (Read() as read,)):
                factors.append(Factor(read, conj=True))
            case _:
                return None
    return Term(tuple(coefficient), tuple(factors), statement.order)
