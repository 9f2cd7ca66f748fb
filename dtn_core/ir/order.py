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
        path: list[Index] = []
        stack: list[tuple[Index, int]] = [(start, 0)]
        while stack:
            current, depth = stack.pop()
            del path[depth:]
            if current in path:
                return tuple(path[path.index(current) :])
            if current in done:
                continue
            path.append(current)
            successors = above.get(current, [])
            if not successors:
                done.add(current)
            stack.extend((successor, depth + 1) for successor in successors)
        done.add(start)
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
        rest = [r for r in rest if missing not in (r.lower, r.upper)] + implied
    return tuple(dict.fromkeys(rest))
