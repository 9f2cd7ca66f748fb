"""What became slower between two runs, beyond noise.

A figure of ours is divided, round by round, by the geometric mean of the others that ran beside it with the same
settings in both runs: a machine that was slower the second time was slower for them too. Where nobody ran beside it,
times are compared as they are. What differs between any two processes (where memory happens to lie) is not in the
interval; ``--least`` is there for that.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .case import Figures
from .measure import Estimate, change
from .report import Row, Table, name

CONFIDENCE = 0.95
"""That none of the intervals printed misses its value."""


@dataclass(frozen=True)
class Comparison:
    """A figure in both runs."""

    figures: Figures
    others: int
    estimate: Estimate

    def slower(self, least: float) -> bool:
        """Whether the whole interval, and the value by at least the factor ``least``, is above 1."""
        return self.estimate.low > 1 and self.estimate.value >= least

    def faster(self, least: float) -> bool:
        """Whether the whole interval, and the value by at least the factor ``least``, is below 1."""
        return self.estimate.high < 1 and self.estimate.value <= 1 / least


def _key(figures: Figures) -> tuple[str, str, str, str, str, str, int]:
    names = figures.case, figures.framework, figures.implementation, figures.mode
    return (*names, str(figures.shape), figures.device, figures.n)


def _relative(ours: Figures, others: Sequence[Figures]) -> list[float]:
    """Our rounds, divided by those of the others."""
    beside = [
        statistics.fmean(math.log(t) for t in times) for times in zip(*(f.rounds for f in others), strict=True)
    ] or [0.0] * len(ours.rounds)
    return [seconds / math.exp(log) for seconds, log in zip(ours.rounds, beside, strict=True)]


def compare(old: Iterable[Figures], new: Iterable[Figures]) -> list[Comparison]:
    """Every figure of ours that both runs have.

    Returns
    -------
    list of Comparison
        The intervals hold together with 95 % confidence (Bonferroni).
    """
    before = {_key(f): f for f in old if len(f.rounds) > 1}
    after = {_key(f): f for f in new if len(f.rounds) > 1}
    both = [key for key in after if key in before]
    ours = [key for key in both if after[key].ours]
    found = []
    for key in ours:
        beside = [
            other
            for other in both
            if (other[0], *other[4:]) == (key[0], *key[4:])
            and not after[other].ours
            and before[other].settings == after[other].settings
            and len(after[other].rounds) == len(after[key].rounds)
            and len(before[other].rounds) == len(before[key].rounds)
        ]
        estimate = change(
            _relative(before[key], [before[other] for other in beside]),
            _relative(after[key], [after[other] for other in beside]),
            1 - (1 - CONFIDENCE) / len(ours),
        )
        found.append(Comparison(after[key], len(beside), estimate))
    return found


def comparison_table(comparisons: Sequence[Comparison], least: float) -> Table:
    """New ÷ old with its interval; what became slower in bold."""
    rows = []
    for found in comparisons:
        verdict = "slower" if found.slower(least) else "faster" if found.faster(least) else ""
        estimate = found.estimate
        cells = (
            found.figures.case,
            str(found.figures.n),
            name(found.figures),
            f"{estimate.value:.3f}",
            f"{estimate.low:.3f} – {estimate.high:.3f}",
            str(found.others) if found.others else "the clock",
            verdict,
        )
        rows.append(Row(cells, found.slower(least)))
    columns = ("case", "n", "ours", "new ÷ old", "interval", "relative to", "")
    note = "Relative to: how many others ran beside it in both runs with the same settings."
    return Table("new ÷ old", columns, tuple(rows), note)
