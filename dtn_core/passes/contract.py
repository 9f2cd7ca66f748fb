"""contract: choose the order of evaluation of every flat contraction (opt_einsum), over flops and peak bytes.

Every contraction becomes binary steps.  Several of opt_einsum's searches propose an order; each proposal
is built on top of the steps that exist already, so that a shared product is paid for once, and the
cheapest at the given sizes is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from opt_einsum.paths import DynamicProgramming, greedy, optimal

from ..cost import BALANCE, elements, flops, traffic
from ..ir.build import Builder
from ..ir.nodes import ONES, Expr, Index, Program, Read, Relation, map_statement, product
from ..ir.terms import Factor, Term, single_term

MAX_OPTIMAL = 5
MAX_DYNAMIC = 12
NAME_LENGTH = 16


@dataclass(frozen=True)
class Operand:
    """Something still to be multiplied: a tensor, or an order between two indices."""

    indices: tuple[Index, ...]
    factor: Factor | None = None
    relation: Relation | None = None


def contract(program: Program, sizes: Mapping[str, int]) -> Program:
    """Break every contraction of a flattened program into binary steps.

    Parameters
    ----------
    program : Program
        Output of ``flatten``.
    sizes : Mapping[str, int]
        Axis sizes to optimise for; the result is correct for all sizes.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> from dtn_core.printer import to_notation
    >>> program = parse("f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[i,c] = q[i,a] * k[j,a] * v[j,c]")
    >>> print(to_notation(contract(program, {"n": 4096, "d": 64, "e": 64})))
    f(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
        k_v[a,c] = k[j,a] * v[j,c]
        o[i,c] = q[i,a] * k_v[a,c]
    """
    builder = Builder(program)
    for statement in program.statements:
        resolved = map_statement(statement, builder.resolve)
        term = single_term(resolved)
        if term is None or (len(term.factors) == 1 and not term.order):
            read = builder.define(resolved.name, resolved.indices, resolved.value, resolved.order)
        else:
            read = Contraction(resolved.name, resolved.indices, term, sizes).add_to(builder)
        builder.alias(statement.name, statement.indices, read)
    return builder.finish()


class Contraction:
    """One contraction to break up: scalars set aside, private indices summed first, the rest ordered."""

    def __init__(self, name: str, out: tuple[Index, ...], term: Term, sizes: Mapping[str, int]) -> None:
        self.name = name
        self.out = out
        self.sizes = sizes
        self.coefficient = term.coefficient
        self.scalars = tuple(factor for factor in term.factors if not factor.indices)
        self.operands = [Operand(_distinct(f), factor=f) for f in term.factors if f.indices]
        self.operands += [Operand((r.upper, r.lower), relation=r) for r in term.order]

    def add_to(self, builder: Builder) -> Read:
        """Build the cheapest order of evaluation and return the read of the result."""
        best: tuple[int, Builder, Read] | None = None
        for path in self.paths():
            trial = copy.copy(builder)
            trial.statements, trial.known = list(builder.statements), dict(builder.known)
            trial.taken = set(builder.taken)
            read = Attempt(self, trial).follow(path)
            added = trial.statements[len(builder.statements) :]
            price = sum((flops(s).at(self.sizes) + BALANCE * traffic(s).at(self.sizes)) for s in added)
            price += max((elements(s.indices).at(self.sizes) for s in added), default=0)
            if best is None or price < best[0]:
                best = (price, trial, read)
        assert best is not None
        builder.statements, builder.known, builder.taken = best[1].statements, best[1].known, best[1].taken
        return best[2]

    def paths(self) -> list[tuple[tuple[int, ...], ...]]:
        """Distinct proposals for the order of evaluation."""
        inputs = [frozenset(index.name for index in operand.indices) for operand in self.operands]
        output = frozenset(index.name for index in self.out)
        extents = {i.name: max(2, self.sizes[i.axis]) for o in self.operands for i in o.indices}
        if len(inputs) < 3:
            return [((0, 1),) if len(inputs) == 2 else ()]
        searches = [greedy]
        if len(inputs) <= MAX_DYNAMIC:
            searches = [DynamicProgramming(minimize=goal) for goal in ("flops", "size", "write")]
        if len(inputs) <= MAX_OPTIMAL:
            searches.append(optimal)
        found: dict[tuple[tuple[int, ...], ...], None] = {}
        for search in searches:
            path = tuple(tuple(sorted(pair)) for pair in search(inputs, output, extents))
            found[tuple(pair for pair in path if len(pair) > 1)] = None
        return list(found)


class Attempt:
    """Follows one order of evaluation, writing statements to a builder."""

    def __init__(self, contraction: Contraction, builder: Builder) -> None:
        self.goal = contraction
        self.builder = builder
        self.operands = list(contraction.operands)
        self.scalar = self.scalar_factor()
        self.smallest_size = 0

    def follow(self, path: tuple[tuple[int, ...], ...]) -> Read:
        """Combine operands pairwise along ``path``, then apply what scalars are left."""
        for position, operand in enumerate(self.operands):
            self.operands[position] = self.reduced(
                operand, others=self.operands[:position] + self.operands[position + 1 :]
            )
        pairs = [*path]
        smallest = self.smallest_result(pairs)
        if pairs and self.scale_operand(pairs):
            smallest = -1
        if not pairs:
            return self.last_unary()
        for number, pair in enumerate(pairs):
            chosen = [self.operands[position] for position in pair]
            for position in sorted(pair, reverse=True):
                del self.operands[position]
            final = number == len(pairs) - 1
            here = self.combine(chosen, final, scale=number == smallest)
            self.operands.append(Operand(here.indices, factor=Factor(here)))
        result = self.operands[0].factor
        assert result is not None
        return result.read

    # ------------------------------------------------------------- scalars

    def scalar_factor(self) -> Read | None:
        """All scalar tensors of the contraction as one scalar."""
        scalars = self.goal.scalars
        if not scalars:
            return None
        if len(scalars) == 1 and not scalars[0].conj:
            return scalars[0].read
        value = product(*(factor.expression() for factor in scalars))
        return self.builder.define("_".join(dict.fromkeys(f.read.tensor for f in scalars)), (), value)

    def smallest_result(self, pairs: list[tuple[int, ...]]) -> int:
        """Which step has the smallest result, the last of equals: scalars are multiplied in there."""
        remaining = list(self.operands)
        best, best_size = len(pairs) - 1, None
        for number, pair in enumerate(pairs):
            chosen = [remaining[position] for position in pair]
            for position in sorted(pair, reverse=True):
                del remaining[position]
            kept = self.kept(chosen, remaining)
            remaining.append(Operand(kept))
            size = elements(kept).at(self.goal.sizes)
            if best_size is None or size <= best_size:
                best, best_size = number, size
        self.smallest_size = best_size or 0
        return best

    def scale_operand(self, pairs: list[tuple[int, ...]]) -> bool:
        """Multiply the scalars into an operand that is smaller than every result; whether one was."""
        if self.scalar is None and not self.goal.coefficient:
            return False
        sizes = [elements(o.indices).at(self.goal.sizes) if o.factor is not None else None for o in self.operands]
        known = [size for size in sizes if size is not None]
        if not known or min(known) * 2 > self.smallest_size:
            return False
        place = sizes.index(min(known))
        factor = self.operands[place].factor
        assert factor is not None
        value = product(
            *self.goal.coefficient, *([self.scalar] if self.scalar is not None else []), factor.expression()
        )
        made = self.builder.define(f"{factor.read.tensor}_scaled", self.operands[place].indices, value)
        self.operands[place] = Operand(made.indices, factor=Factor(made))
        return True

    def scaled(self, read: Read, hint: str) -> Read:
        """``read`` times the contraction's scalars and numbers."""
        factors: list[Expr] = [
            *self.goal.coefficient,
            *([self.scalar] if self.scalar is not None else []),
            read,
        ]
        return self.builder.define(hint, read.indices, product(*factors))

    # --------------------------------------------------------------- steps

    def reduced(self, operand: Operand, others: list[Operand]) -> Operand:
        """Sum the indices that only this operand has."""
        if operand.factor is None:
            return operand
        needed = {index for other in others for index in other.indices} | set(self.goal.out)
        kept = tuple(index for index in operand.indices if index in needed)
        if kept == operand.factor.indices or not others:
            return operand
        read = operand.factor.read
        hint = read.tensor + ("_sum" if set(kept) != set(operand.indices) else "_diag")
        made = self.builder.define(hint, kept, operand.factor.expression())
        return Operand(made.indices, factor=Factor(made))

    def kept(self, chosen: list[Operand], remaining: list[Operand]) -> tuple[Index, ...]:
        needed = {index for other in remaining for index in other.indices} | set(self.goal.out)
        own = dict.fromkeys(index for operand in chosen for index in operand.indices)
        return tuple(index for index in own if index in needed)

    def combine(self, chosen: list[Operand], final: bool, scale: bool) -> Read:
        """One binary step."""
        left, right = chosen
        kept = self.goal.out if final else self.kept(chosen, self.operands)
        if left.relation is not None and right.relation is None:
            left, right = right, left
        scale = scale and (self.scalar is not None or bool(self.goal.coefficient))
        hint = self.goal.name if final and not scale else _joined(left, right)
        if left.factor is not None and right.relation is not None and set(right.indices) <= set(left.indices):
            masked = self.builder.define(
                f"{_name(left)}_masked", left.indices, left.factor.expression(), (right.relation,)
            )
            made = masked if kept == masked.indices else self.builder.define(hint, kept, masked)
        else:
            made = self.builder.define(hint, kept, product(self.value(left), self.value(right)))
        if not scale:
            return made
        return self.scaled(made, self.goal.name if final else f"{hint}_scaled")

    def value(self, operand: Operand) -> Expr:
        """An operand as an expression; an order becomes a matrix of ones and zeros."""
        if operand.factor is not None:
            return operand.factor.expression()
        assert operand.relation is not None
        relation = operand.relation
        hint = "same" if relation.equal else "before" if relation.decay is None else "decayed"
        return self.builder.define(hint, operand.indices, Read(ONES, operand.indices), (relation,))

    def last_unary(self) -> Read:
        """A contraction of at most one tensor: sum, transpose, order and scale it."""
        out, name = self.goal.out, self.goal.name
        if not self.operands:
            value = product(*self.goal.coefficient, *([self.scalar] if self.scalar is not None else []))
            return self.builder.define(name, out, value)
        operand = self.operands[0]
        scale = self.scalar is not None or bool(self.goal.coefficient)
        plain = self.value(operand)
        if scale and isinstance(plain, Read) and set(plain.indices) == set(out) and len(plain.indices) == len(out):
            return self.scaled(plain, name)
        made = self.builder.define(f"{_name(operand)}_sum" if scale else name, out, plain)
        return self.scaled(made, name) if scale else made


def _distinct(factor: Factor) -> tuple[Index, ...]:
    return tuple(dict.fromkeys(factor.indices))


def _name(operand: Operand) -> str:
    return operand.factor.read.tensor if operand.factor is not None else "order"


def _joined(left: Operand, right: Operand) -> str:
    """A readable name for a product: ``k_v`` for k times v, ``chain`` when that grows long."""
    name = f"{_name(left)}_{_name(right)}"
    return name if len(name) <= NAME_LENGTH else "chain"
