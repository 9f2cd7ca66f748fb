"""Timers, and what many blocks of timings say. Times are in seconds."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import stats


class Timer(Protocol):
    """Runs a call for a while."""

    def block(self, seconds: float) -> float:
        """Time of one call, from a block of calls that takes about ``seconds``, or one call where that takes longer."""


class TimeitTimer:
    """A timer over the standard library's :mod:`timeit`; the call has to wait for its own result."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.timer = timeit.Timer(call)

    def block(self, seconds: float) -> float:
        """As :meth:`Timer.block`; the first call, which finds cold caches, only sets the number of the others."""
        first = self.timer.timeit(1)
        number = max(1, int(seconds / first))
        return self.timer.timeit(number) / number


@dataclass(frozen=True)
class Estimate:
    """A value, and the interval that it lies in with some confidence."""

    value: float
    low: float
    high: float


def median(rounds: Sequence[float]) -> float:
    """Median of the blocks."""
    return statistics.median(rounds)


def spread(rounds: Sequence[float]) -> float:
    """Interquartile range divided by the median."""
    low, high = np.quantile(rounds, (0.25, 0.75))
    return float((high - low) / median(rounds))


def ratios(ours: Sequence[float], peers: Sequence[float]) -> list[float]:
    """Of blocks that were measured one after the other."""
    return [a / b for a, b in zip(ours, peers, strict=True)]


def differences(ours: Sequence[float], peers: Sequence[float], factor: float) -> list[float]:
    """By how much longer ours took in each round, in units of which a second has ``factor``."""
    return [factor * (a - b) for a, b in zip(ours, peers, strict=True)]


def ratio(ours: Sequence[float], peers: Sequence[float]) -> float:
    """Median of the :func:`ratios`.

    Examples
    --------
    >>> ratio([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])   # the machine slowed down for both
    0.5
    """
    return statistics.median(ratios(ours, peers))


def middle(rounds: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The median, and an interval for it that assumes nothing of the distribution.

    Parameters
    ----------
    rounds : sequence of float
        Independent, one for each round.  The interval leaves out as many of the smallest and of the largest as it may:
        none of up to eight, which is 94 % of confidence for five and less for fewer.
    confidence : float
        Of the interval.

    Examples
    --------
    >>> middle([1.2, 0.9, 1.0, 1.1, 3.0, 1.05, 1.15, 0.8, 1.3])
    Estimate(value=1.1, low=0.9, high=1.3)
    """
    ranked = sorted(rounds)
    spare = max(0, int(stats.binom.ppf((1 - confidence) / 2, len(ranked), 0.5)) - 1)
    return Estimate(median(ranked), ranked[spare], ranked[-1 - spare])


def change(old: Sequence[float], new: Sequence[float], confidence: float = 0.95) -> Estimate:
    """How many times larger ``new`` is than ``old``, by Welch's t interval of the logarithms.

    Parameters
    ----------
    old, new : sequence of float
        Positive, at least two each.
    confidence : float
        Of the interval.

    Examples
    --------
    >>> found = change([1.00, 1.01, 0.99], [2.00, 2.02, 1.98])
    >>> round(found.value, 2), found.low > 1.9, found.high < 2.1
    (2.0, True, True)
    """
    test = stats.ttest_ind(np.log(new), np.log(old), equal_var=False)
    interval = test.confidence_interval(confidence)
    value = float(np.exp(np.mean(np.log(new)) - np.mean(np.log(old))))
    return Estimate(value, float(np.exp(interval.low)), float(np.exp(interval.high)))
