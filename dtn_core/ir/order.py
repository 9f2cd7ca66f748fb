"""The algebra of order between indices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..errors import VerificationError
from .nodes import Index, Relation


def cycle(relations: Iterable[Relation]) -> tuple[Index, ...] | None:
    """Indices of a cycle of ``<=`` relations, or None; an equality is written ``==``, never as a cycle."""
    above: dict[Index, list[Index]] = {}
    for relation in relations:
        if not relation.equal:
            above.setdefault(relation.lower, []).append(relation.upper)
    done: set[Index] = set()
    for start in above:
        path: dict[Index, None] = {}  # the indices being visited, in order
        stack = [(start, False)]
        while stack:
            current, leaving = stack.pop()
            if leaving:
                path.pop(current)
                done.add(current)
            elif current in path:
                found = tuple(path)
                return found[found.index(current) :]
            elif current not in done:
                path[current] = None
                stack.append((current, True))
                stack.extend((following, False) for following in above.get(current, ()))
    return None


def restrict(relations: tuple[Relation, ...], indices: Iterable[Index]) -> tuple[Relation, ...]:
    """The order that ``relations`` imply between ``indices`` alone.

    An index a term does not carry is eliminated: ``i <= j <= t`` without j is ``i <= t``.

    Raises
    ------
    VerificationError
        If an eliminated index joins two different decays, so that no single weight is implied.
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
                implied.append(Relation(first.lower, second.upper, first.decay))
        rest = _once([r for r in rest if missing not in (r.lower, r.upper)] + implied)
    return tuple(_once(rest))


def _joins_nothing(relations: list[Relation], index: Index) -> bool:
    """Whether no two others are ordered through ``index``: without it nothing is implied."""
    return not any(r.upper == index for r in relations) or not any(r.lower == index for r in relations)


def _once(relations: list[Relation]) -> list[Relation]:
    """``relations`` without repetitions; one with a decay weighs again each time."""
    return [r for place, r in enumerate(relations) if r.decay is not None or r not in relations[:place]]
