"""causal: order between token indices becomes prefix sums and causal contractions, one relation each.

The token indices that ``where`` orders form a tree rooted at the output token.  It is eliminated from
the leaves: the factors at leaf i, summed over ``i <= p``, are a state that node p reads.  Where p reads it
through scores (``q[p,a] * k[i,a]``) the step is a causal contraction, queries at p times keys and values
at i; where it does not, a prefix sum.  What is left of order 2, for example, is ::

    x[j,a] = q[j,b] * k[i,b] * k[i,a]   where i <= j
    o[t,c] = q[t,a] * x[j,a] * v[j,c]   where j <= t

A factor that ties two token indices (an n×n argument, or ``relu`` of a score) has no linear form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir.build import Builder
from ..ir.nodes import ONES, Index, Number, Program, Read, Relation, map_statement, product
from ..ir.terms import Factor, Term, single_term


@dataclass(frozen=True)
class Dense:
    """Why a term has no linear form."""

    reason: str


def causal(program: Program) -> tuple[Program, dict[str, str]]:
    """Rewrite every ordered contraction of a flat program that has a linear form.

    Returns
    -------
    Program
        Every order that could be is a single relation between two token indices.
    dict
        For each statement left dense, why.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> from dtn_core.printer import to_notation
    >>> text = "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*q[i,b]*k[j,b]*v[j,c] where j <= i <= t"
    >>> print(to_notation(causal(parse(text))[0]))
    f(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
        o_state[i,c] = q[i,b] * k[j,b] * v[j,c]   where j <= i
        o[t,c] = q[t,a] * k[i,a] * o_state[i,c]   where i <= t
    """
    builder = Builder(program)
    reasons: dict[str, str] = {}
    for statement in program.statements:
        resolved = map_statement(statement, builder.resolve)
        term = single_term(resolved) if resolved.order else None
        made: Read | Dense | None = None
        if term is not None:
            trial = Elimination(resolved.name, resolved.indices, term, builder)
            made = trial.refused() or trial.run()
        if isinstance(made, Dense):
            reasons[statement.name] = made.reason
        if not isinstance(made, Read):
            made = builder.define(resolved.name, resolved.indices, resolved.value, resolved.order)
        builder.alias(statement.name, statement.indices, made)
    return builder.finish(), reasons


class Elimination:
    """Takes one term's tree of tokens apart, leaves first."""

    def __init__(self, name: str, out: tuple[Index, ...], term: Term, builder: Builder) -> None:
        self.name = name
        self.out = out
        self.builder = builder
        self.coefficient = term.coefficient
        self.edges = self.reduced(term.order)
        self.tokens = tuple(dict.fromkeys(i for r in self.edges for i in (r.lower, r.upper)))
        self.factors = list(term.factors)

    def reduced(self, order: tuple[Relation, ...]) -> list[Relation]:
        """The relations without those that others imply, which then have their decay and, of the same two, sign."""
        kept, place = list(order), 0
        while place < len(kept):
            edge = kept[place]
            others = kept[:place] + kept[place + 1 :]
            path = [] if edge.equal else _path(edge, others)
            if not path:
                place += 1
                continue
            weighed = {id(other): self.weighed(other, edge.decay) for other in path}
            kept = [weighed.get(id(other), other) for other in others]
            if len(path) == 1 and edge.strict:
                kept = [replace(other, sign="<") if other is weighed[id(path[0])] else other for other in kept]
        return kept

    def weighed(self, relation: Relation, decay: Number | Read | None) -> Relation:
        """``relation`` weighed by ``decay`` as well."""
        if decay is None or relation.decay is None:
            return replace(relation, decay=relation.decay or decay)
        both = product(relation.decay, decay)
        return replace(relation, decay=both if isinstance(both, Number) else self.builder.define("decay", (), both))

    def refused(self) -> Dense | None:
        """Why the term cannot be taken apart, or None."""
        for factor in self.factors:
            tied = [index for index in dict.fromkeys(factor.indices) if index in self.tokens]
            if len(tied) > 1 and factor.read.tensor != ONES:
                return Dense(f"{factor.read.tensor} ties token {tied[0].name} to token {tied[1].name}")
        if any(edge.equal for edge in self.edges):
            return Dense("two output tokens are equated")
        seen: set[Index] = set()
        for token in self.tokens:
            if token in seen:
                continue
            component, edges = self.component(token)
            seen |= component
            if edges != len(component) - 1:
                return Dense(f"the order of {', '.join(sorted(i.name for i in component))} is not a tree")
            if len(component & set(self.out)) > 1:
                return Dense("two ordered tokens are on the left")
        return None

    def component(self, start: Index) -> tuple[set[Index], int]:
        """The tokens connected to ``start``, and how many relations connect them."""
        found, stack = {start}, [start]
        while stack:
            current = stack.pop()
            for edge in self.edges:
                if current in (edge.lower, edge.upper):
                    other = edge.upper if edge.lower == current else edge.lower
                    if other not in found:
                        found.add(other)
                        stack.append(other)
        return found, sum(edge.lower in found for edge in self.edges)

    def run(self) -> Read:
        """Eliminate every leaf; the last step writes the result."""
        self.absorb_free()
        while len(self.edges) > 1 or (self.edges and not self.final(self.edges[0])):
            leaf, parent, edge = self.next_leaf()
            self.factors, made = self.eliminate(leaf, parent, edge)
            self.edges.remove(edge)
            self.factors.append(Factor(made))
        value = Term(self.coefficient, tuple(self.factors)).expression()
        return self.builder.define(self.name, self.out, value, tuple(self.edges))

    def absorb_free(self) -> None:
        """Contract factors without an ordered token into ones that have one: full sums come first."""
        while True:  # by place: a factor may be there twice
            tied = {place: set(factor.indices) for place, factor in enumerate(self.factors)}
            free = [place for place, indices in tied.items() if indices and not indices & set(self.tokens)]
            if not free:
                return
            group = {free[0]}
            reached = set(tied[free[0]])
            while grown := [place for place in free if place not in group and tied[place] & reached]:
                group.update(grown)
                reached.update(index for place in grown for index in tied[place])
            hosts = [place for place, indices in tied.items() if place not in free and indices & reached]
            if not hosts:
                return
            hosts.sort(key=lambda place: not tied[place] & set(self.out))
            taken = [self.factors[place] for place in (hosts[0], *sorted(group))]
            rest = [f for place, f in enumerate(self.factors) if place != hosts[0] and place not in group]
            needed = {index for f in rest for index in f.indices} | set(self.out) | set(self.tokens)
            found = dict.fromkeys(index for f in taken for index in f.indices)
            left = tuple(index for index in found if index in needed)
            made = self.builder.define(f"{self.name}_whole", left, Term((), tuple(taken)).expression())
            self.factors = [*rest, Factor(made)]

    def next_leaf(self) -> tuple[Index, Index, Relation]:
        """The leaf whose state leaves the fewest features behind, its neighbour and their relation."""
        best: tuple[int, int, Index, Index, Relation] | None = None
        for place, token in enumerate(self.tokens):
            touching = [edge for edge in self.edges if token in (edge.lower, edge.upper)]
            if len(touching) != 1 or token in self.out:
                continue
            edge = touching[0]
            parent = edge.upper if edge.lower == token else edge.lower
            parts = self.parts(token, parent)
            taken = (*parts.queries, *parts.keys, *parts.values)
            kept = {index for f in taken for index in f.indices} - parts.scores - {token, parent}
            later = token == edge.upper and parent not in self.out  # of two free tokens the earlier one first
            candidate = (len(kept), 2 * place + later * len(self.tokens), token, parent, edge)
            if best is None or candidate[:2] < best[:2]:
                best = candidate
        assert best is not None, "a tree has a leaf besides its root"
        return best[2:]

    def final(self, edge: Relation) -> bool:
        """Whether the one relation left can stay on the result: one causal contraction or prefix sum."""
        root = edge.upper if edge.upper in self.out else edge.lower
        leaf = edge.lower if root == edge.upper else edge.upper
        if root not in self.out or leaf in self.out:
            return False
        parts = self.parts(leaf, root)
        free = [f for f in self.factors if f not in (*parts.queries, *parts.keys, *parts.values)]
        return not free and not self.coefficient and not parts.waiting

    def eliminate(self, leaf: Index, parent: Index, edge: Relation) -> tuple[list[Factor], Read]:
        """Sum the leaf: returns the factors that stay, and the new one at the parent."""
        parts = self.parts(leaf, parent)
        taken = [*parts.queries, *parts.keys, *parts.values]
        rest = [factor for factor in self.factors if not any(factor is other for other in taken)]
        factors = taken if any(leaf in f.indices for f in taken) else [*taken, Factor(Read(ONES, (leaf,)))]
        inner = {*parts.scores}
        found = dict.fromkeys(index for f in factors for index in f.indices if index not in (leaf, parent))
        left = (parent, *(index for index in found if index not in inner))
        value = Term((), tuple(factors)).expression()
        return rest, self.builder.define(f"{self.name}_state", left, value, (edge,))

    def parts(self, leaf: Index, parent: Index) -> Parts:
        """Sort the factors at a leaf and its parent into queries, keys and values."""
        self.merge_private(leaf)
        own = [f for f in self.factors if leaf in f.indices]
        others = [f for f in self.factors if leaf not in f.indices]
        at_parent = [f for f in others if parent in f.indices]
        away = {index for f in others if parent not in f.indices for index in f.indices} | set(self.out)
        scores = {index for f in at_parent for index in f.indices if index not in away and index != parent}
        while True:
            keys = [f for f in own if len(f.indices) > 1 and set(f.indices) - {leaf} <= scores]
            values = [f for f in own if f not in keys]
            clash = {index for f in values for index in f.indices} & scores
            if not clash:
                break
            scores -= clash
        if not values and len(keys) > 1:  # (q·k)(p·l) is p · Σ (q·k) l: often the state of another step
            values, keys = keys[:1], keys[1:]
            if {index for f in values for index in f.indices} & {i for f in keys for i in f.indices} - {leaf}:
                values, keys = [*values, *keys], []
        scores = {index for f in keys for index in f.indices} - {leaf}
        carried = {index for f in values for index in f.indices} - {leaf}
        if not carried and len(scores) < 2:  # nothing is read through the score: a prefix sum of the keys
            return Parts([], [], own, set(), bool(scores))
        queries = [f for f in at_parent if set(f.indices) & scores]
        return Parts(queries, keys, values, scores, len(queries) < len(at_parent))

    def merge_private(self, leaf: Index) -> None:
        """Multiply out the features that only factors at the leaf have, token by token."""
        while True:
            own = [f for f in self.factors if leaf in f.indices]
            elsewhere = {i for f in self.factors if leaf not in f.indices for i in f.indices} | set(self.out)
            private = next((i for f in own for i in f.indices if i != leaf and i not in elsewhere), None)
            if private is None:
                return
            group = [f for f in own if private in f.indices]
            found = dict.fromkeys(index for f in group for index in f.indices)
            needed = elsewhere | {i for f in own if f not in group for i in f.indices} | {leaf}
            left = tuple(index for index in found if index in needed and index != private)
            made = self.builder.define(f"{self.name}_token", left, Term((), tuple(group)).expression())
            self.factors = [f for f in self.factors if f not in group] + [Factor(made)]


@dataclass(frozen=True)
class Parts:
    """The factors of one elimination; ``waiting`` says that the parent has factors besides the queries."""

    queries: list[Factor]
    keys: list[Factor]
    values: list[Factor]
    scores: set[Index]
    waiting: bool


def _path(edge: Relation, others: list[Relation]) -> list[Relation]:
    """The ``others`` that imply ``edge``, if any do: one of the same two, or a chain that is strict where it is."""
    paths = [[other] for other in others if not other.equal and other.lower == edge.lower]
    while paths:
        path = paths.pop()
        if path[-1].upper == edge.upper:
            if len(path) == 1 or not edge.strict or any(other.strict for other in path):
                return path
            continue
        paths += [[*path, other] for other in others if not other.equal and other.lower == path[-1].upper]
    return []
