"""The algebra of order between indices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..errors import VerificationError
from .nodes import Index, Relation


def cycle(relations: Iterable[Relation]) -> tuple[Relation, ...] | None:
    """Relations ``<=`` and ``<`` that lead back to where they begin, or None; an equality is no cycle."""
    above: dict[Index, list[Relation]] = {}
    for relation in relations:
        if not relation.equal:
            above.setdefault(relation.lower, []).append(relation)
    done: set[Index] = set()
    for start in above:
        path: dict[Index, Relation | None] = {}  # the indices being visited, in order, and what led to each
        stack: list[tuple[Index, Relation | None, bool]] = [(start, None, False)]
        while stack:
            current, by, leaving = stack.pop()
            if leaving:
                path.pop(current)
                done.add(current)
            elif current in path:
                indices = tuple(path)
                ways = [path[index] for index in indices[indices.index(current) + 1 :]]
                return tuple(way for way in (*ways, by) if way is not None)
            elif current not in done:
                path[current] = by
                stack.append((current, by, True))
                stack.extend((way.upper, way, False) for way in above.get(current, ()))
    return None


def nothing_holds(order: Iterable[Relation]) -> bool:
    """Whether no indices fulfil the relations: one that is strict lies on a cycle."""
    relations = tuple(order)
    return any(r.strict and (r.lower == r.upper or on_cycle(r, relations)) for r in relations)


def on_cycle(relation: Relation, order: Iterable[Relation]) -> bool:
    """Whether ``order``, equalities both ways, leads from the upper index of one of its relations back to the lower."""
    above: dict[Index, set[Index]] = {}
    for other in order:
        above.setdefault(other.lower, set()).add(other.upper)
        if other.equal:
            above.setdefault(other.upper, set()).add(other.lower)
    seen, stack = {relation.upper}, [relation.upper]
    while stack:
        for following in above.get(stack.pop(), ()):
            if following == relation.lower:
                return True
            if following not in seen:
                seen.add(following)
                stack.append(following)
    return False


def restrict(relations: tuple[Relation, ...], indices: Iterable[Index]) -> tuple[Relation, ...]:
    """The order that ``relations`` imply between ``indices`` alone.

    An index a term does not carry is eliminated: ``i <= j <= t`` without j is ``i <= t``, ``i < j <= t`` is ``i < t``.

    Raises
    ------
    VerificationError
        If an eliminated index joins two different decays, so that no single weight is implied, or lies strictly
        between two others, which says that they are two apart.
    """
    kept = set(indices)
    rest = list(relations)
    left = list(dict.fromkeys(i for r in relations for i in (r.lower, r.upper) if i not in kept))
    while left:
        missing = next((i for i in left if _joins_nothing(rest, i)), left[0])
        left.remove(missing)
        same = next((r for r in rest if r.equal and missing in (r.lower, r.upper) and r.lower != r.upper), None)
        if same is not None:  # the other one stands for it: a decay must not weigh twice
            other = same.upper if same.lower == missing else same.lower
            names = {missing: other}
            rest = [replace(r, lower=names.get(r.lower, r.lower), upper=names.get(r.upper, r.upper)) for r in rest]
            rest = _once([r for r in rest if r.lower != r.upper])
            continue
        implied = []
        for first in (r for r in rest if r.upper == missing):
            for second in (r for r in rest if r.lower == missing):
                if first.lower == second.upper:
                    continue
                if first.decay != second.decay:
                    raise VerificationError(
                        f"a term without index {missing.name} is ordered through it with two different decays; "
                        f"order {first.lower.name} and {second.upper.name} directly"
                    )
                if first.strict and second.strict:
                    raise VerificationError(
                        f"a term without index {missing.name} is ordered through it by {first} and {second}, "
                        f"so {first.lower.name} and {second.upper.name} are two apart; order those two directly"
                    )
                sign = second.sign if second.strict else first.sign
                implied.append(Relation(first.lower, second.upper, first.decay, sign))
        rest = _once([r for r in rest if missing not in (r.lower, r.upper)] + implied)
    return tuple(_once(rest))


def _joins_nothing(relations: list[Relation], index: Index) -> bool:
    """Whether no two others are ordered through ``index``: without it nothing is implied."""
    return not any(r.upper == index for r in relations) or not any(r.lower == index for r in relations)


def _once(relations: list[Relation]) -> list[Relation]:
    """``relations`` without repetitions; one with a decay weighs again each time."""
    return [r for place, r in enumerate(relations) if r.decay is not None or r not in relations[:place]]
