"""Which candidate to measure next: a model of the cost first, what was measured second.

A family lists its candidates by its own model of their cost, the best first, and that is all that is known before
anything is measured.  Then a ridge regression of the logarithm of the time, on that rank and on the value of every
parameter, is fitted to what was measured: parameters act mostly one by one, and a factor in time is a term in its
logarithm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FIRST = 4
"""Candidates measured before the model is believed."""

EXPLORE = 4
"""Every so many candidates one is taken far from all that was measured."""

RIDGE = 0.3


class Search:
    """Proposes candidates of a finite space, each once.

    Parameters
    ----------
    space : sequence of Mapping
        The candidates as JSON, the best predicted first.
    default : Mapping
        Measured first.

    Examples
    --------
    >>> search = Search([{"tile": 4}, {"tile": 8}, {"tile": 16}], default={"tile": 8})
    >>> search.propose()
    {'tile': 8}
    """

    def __init__(self, space: Sequence[Mapping[str, Any]], default: Mapping[str, Any]) -> None:
        candidates = {canonical(schedule): dict(schedule) for schedule in [default, *space]}
        self._names = list(candidates)
        self._candidates = list(candidates.values())
        self._rank = np.linspace(0, 1, len(self._candidates))
        self._features = _features(self._candidates, self._rank)
        self._open = set(range(len(self._candidates)))
        self._measured: dict[int, float | None] = {}

    def __len__(self) -> int:
        return len(self._candidates)

    def propose(self) -> dict[str, Any] | None:
        """The next candidate, or None when all were taken."""
        if not self._open:
            return None
        rest = sorted(self._open)
        valid = sum(seconds is not None for seconds in self._measured.values())
        if not self._measured:
            chosen = 0
        elif valid < FIRST or len(self._measured) % EXPLORE == 0:
            chosen = rest[int(np.argmax(self._distance(rest) - self._rank[rest]))]
        else:
            chosen = rest[int(np.argmin(self._predicted(rest)))]
        self._open.remove(chosen)
        return self._candidates[chosen]

    def tell(self, schedule: Mapping[str, Any], seconds: float | None) -> bool:
        """What a candidate took; None if it is not valid.  False for one outside this space, or known already."""
        name = canonical(schedule)
        if name not in self._names:
            return False
        place = self._names.index(name)
        if place in self._measured:
            return False
        self._open.discard(place)
        self._measured[place] = seconds
        return True

    def _distance(self, rest: list[int]) -> np.ndarray:
        """In how many parameters a candidate differs from the measured one it is most like."""
        known = self._features[list(self._measured)]
        return np.abs(self._features[rest][:, None, :] - known[None]).sum(-1).min(-1)

    def _predicted(self, rest: list[int]) -> np.ndarray:
        valid = [(place, seconds) for place, seconds in self._measured.items() if seconds is not None]
        places, times = zip(*valid, strict=True)
        worst = 2 * max(times)
        failed = [place for place, seconds in self._measured.items() if seconds is None]
        x = self._features[[*places, *failed]]
        y = np.log([*times, *[worst] * len(failed)])
        mean = y.mean()
        weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ (y - mean))
        return np.asarray(self._features[rest] @ weights)


def canonical(schedule: Mapping[str, Any]) -> str:
    """A schedule as one line of text, the same for equal ones."""
    return json.dumps(schedule, sort_keys=True)


def _features(candidates: Sequence[Mapping[str, Any]], rank: np.ndarray) -> np.ndarray:
    """A column for each value that some candidates have, and one for the rank."""
    values = [{(name, json.dumps(value)) for name, value in candidate.items()} for candidate in candidates]
    varying = sorted(set().union(*values) - set.intersection(*values))
    columns = [np.array([float(feature in own) for own in values]) for feature in varying]
    return np.stack([*columns, rank - rank.mean()], -1)
