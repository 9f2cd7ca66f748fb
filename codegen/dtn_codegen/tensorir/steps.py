"""Steps of a tile program: statements merged into as few passes over tiles as their uses allow.

A step computes one tensor tile by tile.  Products that are added together share one accumulator::

    acc = (acc + Σ products of the group) · factor        for each group in turn
    out[i, j] = finish(acc)                               where the order allows it, else 0

so ``X = X_within + γ^(p+1) · X_before``, the mask of a score, a division by a normaliser or the update of a state
costs nothing of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import (
    ONE,
    ONES,
    Apply,
    Expr,
    Index,
    MatrixFunction,
    Read,
    Relation,
    Statement,
    factors_of,
    indices_of,
    map_reads,
    product,
    reads,
    statement_reads,
    sum_of,
    terms_of,
)

from .pairs import parts_of, taken_apart

ACC = Read("(accumulator)")
"""The accumulated value, in ``Step.finish``."""

NOTHING: Mapping[Index, Index] = {}

RANK = 2
"""A tile has rows and columns."""


@dataclass(frozen=True)
class Contraction:
    """``Σ over summed of Π factors``: one or two tensors."""

    factors: tuple[Read, ...]
    summed: tuple[Index, ...]


@dataclass(frozen=True)
class Group:
    """Contractions accumulated one after another, and what the accumulator is multiplied by then."""

    contractions: tuple[Contraction, ...]
    factor: Expr = ONE


@dataclass(frozen=True)
class Step:
    """One tensor, computed tile by tile.

    Attributes
    ----------
    name, indices
        The tensor, and the indices its tile runs over.
    groups
        What is accumulated; empty where nothing is summed.
    finish
        The value, from :data:`ACC` and tensors read at the tile's own indices.
    order
        Where the value is kept (and weighted, with a decay); elsewhere it is 0.
    """

    name: str
    indices: tuple[Index, ...]
    groups: tuple[Group, ...]
    finish: Expr
    order: Relation | None = None

    @property
    def contractions(self) -> tuple[Contraction, ...]:
        """All of them, in the order they are accumulated."""
        return tuple(c for group in self.groups for c in group.contractions)

    @property
    def reads(self) -> tuple[Read, ...]:
        """Every read of a tensor."""
        found = [read for c in self.contractions for read in c.factors]
        for expr in (*(g.factor for g in self.groups), self.finish):
            found += [read for read in reads(expr) if read != ACC]
        if self.order is not None and isinstance(self.order.decay, Read):
            found.append(self.order.decay)
        return tuple(read for read in found if read.tensor != ONES)

    @property
    def is_matrix_function(self) -> bool:
        """Whether it is a function of a whole matrix, which no other step is merged with."""
        return isinstance(self.finish, MatrixFunction)

    @property
    def splits(self) -> bool:
        """Whether it reads what pairs of its indices are made of."""
        own = {index for read in self.reads for index in read.indices}
        return any(part in own for part in parts_of(self.indices)[len(self.indices) :]) or self.takes_apart

    @property
    def takes_apart(self) -> bool:
        """Whether it sums over one index of a pair."""
        read = {index for c in self.contractions for factor in c.factors for index in factor.indices}
        return not read.issubset({*self.indices, *(index for c in self.contractions for index in c.summed)})

    @property
    def is_matmul(self) -> bool:
        """Whether it is made of matrix products: two tile indices, each from a factor of its own."""
        return bool(self.groups) and len(self.indices) == RANK and all(map(self._is_matmul, self.contractions))

    def _is_matmul(self, contraction: Contraction) -> bool:
        if len(contraction.factors) != RANK or len(contraction.summed) != 1:
            return False
        k = contraction.summed[0]
        i, j = self.indices
        kinds = [set(f.indices) for f in contraction.factors]
        return kinds in ([{i, k}, {k, j}], [{k, j}, {i, k}]) and all(
            len(f.indices) == RANK for f in contraction.factors
        )


def fuse(
    statements: Sequence[Statement], kept: Iterable[str], updates: Mapping[str, str] | None = None
) -> tuple[Step, ...]:
    """Merge statements into steps.

    Parameters
    ----------
    statements : sequence of Statement
        Straight-line, as lowered; those that update a state are named as in ``updates``.
    kept : iterable of str
        Names that something outside reads: they stay tensors.
    updates : mapping, optional
        For a statement that is the new value of a state, the state: it is written over the old value, after
        everything that reads that and before what reads the new one.

    Raises
    ------
    CompileError
        For a statement that no step can hold, saying why.
    """
    updates = dict(updates or {})
    uses = Counter(read.tensor for s in statements for read in statement_reads(s))
    wanted = {*kept, *updates, *updates.values()}
    steps: dict[str, Step] = {}
    for statement in statements:
        step = _step(statement)
        for read in reads(statement.value):
            inner = steps.get(read.tensor)
            if inner is None or uses[read.tensor] > 1 or read.tensor in wanted:
                continue
            if step.is_matrix_function or inner.is_matrix_function or step.splits or inner.splits:
                continue
            merged = _merged(step, read, inner)
            if merged is not None and _may_merge(merged, updates):
                step = merged
                del steps[read.tensor]
        steps[statement.name] = step
    return tuple(_overwriting(step, updates) for step in _ordered(tuple(steps.values()), updates))


def _step(statement: Statement) -> Step:
    """A statement as a step of its own."""
    if len(statement.indices) > RANK:
        raise CompileError(f"{statement.name} has {len(statement.indices)} axes; a tile has {RANK}")
    if isinstance(statement.value, MatrixFunction):
        return Step(statement.name, statement.indices, (), statement.value)
    if len(set(statement.indices)) < len(statement.indices):
        raise CompileError(f"{statement.name} is a diagonal")
    if len(statement.order) > 1 or any(r.equal for r in statement.order):
        raise CompileError(f"{statement.name} has more than one order; a tile has one triangle")
    order = statement.order[0] if statement.order else None
    if order is not None and {order.lower, order.upper} != set(statement.indices):
        raise CompileError(f"{statement.name}: a sum under an order has no tile form")
    left = set(parts_of(statement.indices))
    groups: list[Group] = []
    plain: list[Expr] = []
    for term in terms_of(statement.value):
        apart = taken_apart((*indices_of(term), *left))
        summed = tuple(index for index in indices_of(term) if index not in left | apart)
        if not summed:
            plain.append(term)
            continue
        if left & {part for index in summed for part in parts_of((index,))[1:]}:
            raise CompileError(f"{statement.name} sums one of a pair of features that nothing else reads")
        inside, outside = _split(statement, term, set(summed))
        groups.append(Group((Contraction(inside, summed),), outside))
    accumulated = _gathered(groups)
    if accumulated is None:
        raise CompileError(f"{statement.name} adds sums that are scaled differently")
    finish = sum_of(ACC, *plain) if groups else statement.value
    return Step(statement.name, statement.indices, accumulated, finish, order)


def _split(statement: Statement, term: Expr, summed: set[Index]) -> tuple[tuple[Read, ...], Expr]:
    """Factors of a sum that depend on what is summed, and the product of those that do not."""
    inside: list[Read] = []
    outside: list[Expr] = []
    for factor in factors_of(term):
        if not summed & set(parts_of(indices_of(factor))):
            outside.append(factor)
        elif not isinstance(factor, Read):
            raise CompileError(f"{statement.name} sums a function of a tensor in place")
        elif factor.tensor != ONES:
            inside.append(factor)
    if not inside or len(inside) > RANK:
        raise CompileError(f"{statement.name} sums {len(inside)} tensors at once; a step takes one or two")
    found = {index for read in inside for index in parts_of(read.indices)}
    if not summed <= found:
        raise CompileError(f"{statement.name} counts an axis")
    return tuple(inside), product(*outside)


def _gathered(groups: Sequence[Group]) -> tuple[Group, ...] | None:
    """Groups of one factor together, the scaled one first; None where two are scaled differently."""
    by_factor: dict[Expr, list[Contraction]] = {}
    for group in groups:
        by_factor.setdefault(group.factor, []).extend(group.contractions)
    scaled = [factor for factor in by_factor if factor != ONE]
    if len(scaled) > 1:
        return None
    order = [*scaled, *([ONE] if ONE in by_factor else [])]
    return tuple(Group(tuple(by_factor[factor]), factor) for factor in order)


def _merged(outer: Step, read: Read, inner: Step) -> Step | None:
    """``outer`` with ``inner`` in place of ``read``; None where an accumulator cannot hold both."""
    if any(read in c.factors for c in outer.contractions) or set(read.indices) != set(outer.indices):
        return None
    if inner.order is not None or len(set(read.indices)) < len(read.indices):
        return None
    inner = _renamed(inner, dict(zip(inner.indices, read.indices, strict=True)))
    if not inner.groups:
        scaled = tuple(replace(g, factor=map_expression(g.factor, read, inner.finish)) for g in outer.groups)
        return replace(outer, groups=scaled, finish=map_expression(outer.finish, read, inner.finish))
    if any(read in reads(group.factor) for group in outer.groups):
        return None
    if not outer.groups:
        linear = _linear(outer.finish, read)
        if inner.finish == ACC and linear is not None:
            factor, rest = linear
            groups = _scaled(inner.groups, factor)
            if groups is not None:
                return replace(outer, groups=groups, finish=sum_of(ACC, *rest) if rest else ACC)
        return replace(outer, groups=inner.groups, finish=map_expression(outer.finish, read, inner.finish))
    if inner.finish != ACC:
        return None
    linear = _linear(outer.finish, read)
    if linear is None or linear[0] != ONE:
        return None
    rest = linear[1]
    if ACC not in rest:
        return None
    groups = _together(inner.groups, outer.groups)
    return None if groups is None else replace(outer, groups=groups, finish=sum_of(*rest))


def _linear(finish: Expr, read: Read) -> tuple[Expr, tuple[Expr, ...]] | None:
    """``finish`` as ``factor · read + rest``."""
    factor: Expr | None = None
    rest: list[Expr] = []
    for term in terms_of(finish):
        if read not in reads(term):
            rest.append(term)
            continue
        others = [f for f in factors_of(term) if f != read]
        if factor is not None or len(others) != len(factors_of(term)) - 1 or any(read in reads(f) for f in others):
            return None
        factor = product(*others)
    return None if factor is None else (factor, tuple(rest))


def _scaled(groups: tuple[Group, ...], factor: Expr) -> tuple[Group, ...] | None:
    """The accumulator of ``groups`` times ``factor``."""
    if factor == ONE:
        return groups
    last = groups[-1]
    return (*groups[:-1], replace(last, factor=product(last.factor, factor)))


def _together(first: tuple[Group, ...], second: tuple[Group, ...]) -> tuple[Group, ...] | None:
    """Two accumulators added: all that is scaled comes first, so only one of them may be."""
    for scaled, plain in ((first, second), (second, first)):
        if all(group.factor == ONE for group in plain):
            last = scaled[-1]
            if last.factor == ONE:
                joined = replace(last, contractions=(*last.contractions, *(c for g in plain for c in g.contractions)))
                return (*scaled[:-1], joined)
            return (*scaled, *plain)
    return None


def _renamed(step: Step, names: Mapping[Index, Index]) -> Step:
    """``step`` at other indices, its summed ones out of the way of theirs."""
    taken = {index.name for index in names.values()}
    full = dict(names)
    for contraction in step.contractions:
        for index in contraction.summed:
            name = index.name
            while name in taken:
                name += "_"
            full[index] = Index(name, index.axis)

    def change(read: Read) -> Read:
        return Read(read.tensor, tuple(full.get(index, index) for index in read.indices))

    indices = tuple(full[index] for index in step.indices)
    return replace(_with_reads(step, change, full), indices=indices)


def _with_reads(step: Step, change: Callable[[Read], Read], summed: Mapping[Index, Index] = NOTHING) -> Step:
    """``step`` with every read changed, and its ``summed`` indices."""
    groups = tuple(
        Group(
            tuple(
                Contraction(tuple(map(change, c.factors)), tuple(summed.get(i, i) for i in c.summed))
                for c in group.contractions
            ),
            map_reads(group.factor, change),
        )
        for group in step.groups
    )
    return replace(step, groups=groups, finish=map_reads(step.finish, change))


def map_expression(expr: Expr, read: Read, value: Expr) -> Expr:
    """``expr`` with ``value`` in place of ``read``."""
    if expr == read:
        return value
    if isinstance(expr, Apply):
        return Apply(expr.function, tuple(map_expression(operand, read, value) for operand in expr.operands))
    if len(factors_of(expr)) > 1:
        return product(*(map_expression(factor, read, value) for factor in factors_of(expr)))
    if len(terms_of(expr)) > 1:
        return sum_of(*(map_expression(term, read, value) for term in terms_of(expr)))
    return expr


def _may_merge(step: Step, updates: Mapping[str, str]) -> bool:
    """Whether no state is overwritten that is an operand of the products, or read before and after it is."""
    state = updates.get(step.name)
    if any(factor.tensor == state for c in step.contractions for factor in c.factors):
        return False
    found = {read.tensor for read in step.reads}
    return not any(new in found and old in found for new, old in updates.items())


def _ordered(steps: tuple[Step, ...], updates: Mapping[str, str]) -> tuple[Step, ...]:
    """Steps in an order in which a state is overwritten after the last read of its old value."""
    made = {step.name for step in steps}
    waiting = list(steps)
    done: set[str] = set()
    order: list[Step] = []
    while waiting:
        for step in waiting:
            needs = {read.tensor for read in step.reads} & made
            state = updates.get(step.name)
            readers = [s for s in waiting if s is not step and state in {read.tensor for read in s.reads}]
            if needs <= done and not readers:
                break
        else:
            raise CompileError("its states are updated from one another in a circle")
        waiting.remove(step)
        done.add(step.name)
        order.append(step)
    return tuple(order)


def _overwriting(step: Step, updates: Mapping[str, str]) -> Step:
    """``step`` where new values have the names of the states that they are written over."""
    made = _with_reads(step, lambda read: Read(updates.get(read.tensor, read.tensor), read.indices))
    return replace(made, name=updates.get(step.name, step.name))


__all__ = ["ACC", "Contraction", "Group", "Step", "fuse"]
