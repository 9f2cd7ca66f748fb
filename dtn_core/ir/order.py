"""The algebra of order between indices."""

from __future__ import annotations

from collections.abc import Iterable

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
    for missing in dict.fromkeys(i for r in relations for i in (r.lower, r.upper) if i not in kept):
        below = [r for r in rest if r.upper == missing or (r.equal and r.lower == missing)]
        above = [r for r in rest if r.lower == missing or (r.equal and r.upper == missing)]
        implied = []
        for first in below:
            for second in above:
                start = first.lower if first.upper == missing else first.upper
                stop = second.upper if second.lower == missing else second.lower
                if first is second or start == stop:
                    continue
                decays = [r.decay for r in (first, second) if not r.equal]
                if len(set(decays)) > 1:
                    raise VerificationError(
                        f"a term without index {missing.name} is ordered through it with two different decays; "
                        f"order {start.name} and {stop.name} directly"
                    )
                implied.append(Relation(start, stop, decays[0] if decays else None, first.equal and second.equal))
        rest = _once([r for r in rest if missing not in (r.lower, r.upper)] + implied)
    return tuple(_once(rest))


def _once(relations: list[Relation]) -> list[Relation]:
    """``relations`` without repetitions; one with a decay weighs again each time."""
    return [r for place, r in enumerate(relations) if r.decay is not None or r not in relations[:place]]
