"""Which candidate to measure next: a model of the cost first, what was measured second.

The family's own estimate orders the candidates before anything is known.  Then a ridge regression of the logarithm of
the time, on that estimate and on the value of every parameter, is fitted to what was measured: parameters of a
schedule act mostly one by one, and a factor in time is a term in its logarithm.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
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
        The candidates, as JSON.
    default : Mapping
        Measured first.
    estimate : callable, optional
        Seconds that a candidate is expected to take, only compared with one another.

    Examples
    --------
    >>> search = Search([{"tile": 4}, {"tile": 8}, {"tile": 16}], default={"tile": 8})
    >>> search.propose()
    {'tile': 8}
    """

    def __init__(
        self,
        space: Sequence[Mapping[str, Any]],
        default: Mapping[str, Any],
        estimate: Callable[[Mapping[str, Any]], float] | None = None,
    ) -> None:
        candidates = {canonical(schedule): dict(schedule) for schedule in [default, *space]}
        self._names = list(candidates)
        self._candidates = list(candidates.values())
        self._prior = np.array([math.log(estimate(c)) if estimate else 0.0 for c in self._candidates])
        self._features = _one_hot(self._candidates, self._prior if estimate else None)
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
            chosen = rest[int(np.argmax(self._distance(rest) - self._prior[rest]))]
        else:
            chosen = rest[int(np.argmin(self._predicted(rest)))]
        self._open.remove(chosen)
        return self._candidates[chosen]

    def tell(self, schedule: Mapping[str, Any], seconds: float | None) -> bool:
        """What a candidate took; None if it is not valid.  False for one that is not of this space."""
        name = canonical(schedule)
        if name not in self._names:
            return False
        place = self._names.index(name)
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


def _one_hot(candidates: Sequence[Mapping[str, Any]], prior: np.ndarray | None) -> np.ndarray:
    values = [{(name, json.dumps(value)) for name, value in c.items()} for c in candidates]
    varying = sorted(set().union(*values) - set.intersection(*values))
    columns = [np.array([float(feature in own) for own in values]) for feature in varying]
    if prior is not None:
        columns.append(prior - prior.mean())
    return np.stack(columns, -1) if columns else np.zeros((len(candidates), 1))
