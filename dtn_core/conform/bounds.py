"""The one policy for how far a result may be from the oracle.

- **Oracle.** The dense interpreter (:mod:`dtn_core.interpret`) in float64 or complex128, at inputs that the dtype
  under test holds exactly. Gradients are held to the interpreter's value of the gradient program, which is itself
  held to differences of the interpreter first (to ``RULES``); second gradients to differences of that.
- **Yardstick.** The same program evaluated as written by a plain einsum of the same framework in the same dtype
  (:mod:`dtn_core.conform.dense`), at the same inputs. What it is off by is what the dtype costs anybody: the most of
  six evaluations with the features in another order, as how a short sum rounds is luck, and other on another machine.
- **Bound.** The largest error, relative to the largest element, may be a factor of the yardstick's, plus ``ROUNDING``
  units in the last place; the root mean square of the errors half that factor of the yardstick's, plus as many units.
  The factor is the largest in ``FACTORS`` that applies. Where the yardstick itself overflows (float16), that of
  float32 takes its place. In double precision the oracle rounds as much as what it judges: there the yardstick is at
  least what a change of the arguments by ``OWN`` units makes of it (units of the tensor's largest element, where a
  matrix exponential is taken).
- **No way out.** A bound that is missed is a fail; nothing is downgraded to a warning, nothing is retried. TF32 and
  fast-math are off. Inputs are seeded; ones at which even float64 has lost all but ``DIGITS`` of the dtype's digits,
  or whose result times what it is divided by leaves the dtype's range (linear forms divide last), are left out and
  named in the cell, the well scaled one never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FACTORS = {
    "value": 4.0,
    "gradient": 16.0,
    "matrix exponential": 64.0,
    "state at ill scaled inputs": 256.0,
}
"""Of the yardstick's largest error: for a result; for a gradient, which sums more often; where a matrix exponential is
taken, by a Padé approximant with a linear solve, and not by a series as in the yardstick; and in linear, chunked
and recurrent forms at ill scaled inputs, as a state adds up features that scores have already cancelled."""

ROUNDING = {"float64": 64.0, "complex128": 64.0, "float32": 16.0, "complex64": 16.0, "bfloat16": 1.0, "float16": 1.0}
"""Units in the last place of the largest element: results of 16 bits are rounded once, wider ones after every sum."""

OWN = 8.0
"""Units in the last place by which the oracle's arguments are changed to see what its own rounding may be."""

SECOND = 1e-6
"""Bound of second gradients, whose oracle is a difference."""

RULES = 1e-6
"""How far the oracle's gradient program may be from differences of the oracle."""

EPSILON = {
    "float64": 2.0**-52, "complex128": 2.0**-52, "float32": 2.0**-23, "complex64": 2.0**-23,
    "bfloat16": 2.0**-7, "float16": 2.0**-10,
}  # fmt: skip


@dataclass(frozen=True)
class Errors:
    """Of one result: the largest error and the root mean square, both relative to the largest element."""

    largest: float
    rms: float


@dataclass(frozen=True)
class Verdict:
    """An error and its bound: of the largest errors, or of the root mean squares where those are nearer to theirs."""

    error: float
    bound: float
    what: str

    @property
    def ratio(self) -> float:
        """Above 1 is a fail."""
        return self.error / self.bound if self.bound else (0.0 if self.error == 0 else np.inf)


def errors(got: np.ndarray, expected: np.ndarray) -> Errors:
    """How far ``got`` is from ``expected``; infinitely where it is not finite or has another shape."""
    if got.shape != expected.shape or not np.all(np.isfinite(got)):
        return Errors(np.inf, np.inf)
    scale = float(np.max(np.abs(expected), initial=0.0)) or 1.0
    apart = np.abs(got - expected) / scale
    return Errors(float(np.max(apart, initial=0.0)), float(np.sqrt(np.mean(apart**2))) if apart.size else 0.0)


def judge(got: np.ndarray, expected: np.ndarray, yardstick: Errors, dtype: str, factor: float) -> Verdict:
    """Hold one result to the policy.

    Parameters
    ----------
    got, expected : numpy.ndarray
        What was computed, and the oracle's value.
    yardstick : Errors
        Those of the plain dense evaluation.
    dtype : str
        The dtype computed in.
    factor : float
        One of ``FACTORS``.

    Examples
    --------
    >>> judge(np.array([1.0, 2.1]), np.array([1.0, 2.0]), Errors(1e-7, 1e-7), "float32", 4.0).ratio > 1
    True
    """
    found = errors(got, expected)
    rounding = ROUNDING[dtype] * EPSILON[dtype]
    largest = Verdict(found.largest, factor * yardstick.largest + rounding, "largest")
    rms = Verdict(found.rms, factor / 2 * yardstick.rms + rounding, "rms")
    return largest if largest.ratio >= rms.ratio else rms


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The one that is nearest to its bound, or farthest beyond."""
    return max(verdicts, key=lambda verdict: verdict.ratio)
