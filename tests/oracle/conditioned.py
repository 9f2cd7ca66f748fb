"""Inputs at which an operator is well conditioned, so that its value can be held to a tight tolerance.

Whether a combination of knobs divides by something near 0, or takes the exponential of something large,
depends on the numbers; inputs are drawn until a small relative change of them changes the value little.
"""

from __future__ import annotations

import numpy as np

CHANGE = 1e-8
CONDITION = 50


def draw(rng, kind, shapes, size=1.0):
    """Arrays of both signs around 0.3, with k near q, all times ``size``."""
    made = [size * (0.3 + 0.4 * rng.normal(size=shape)) for shape in shapes]
    if kind == "complex":
        made = [x + size * 0.3j * rng.normal(size=x.shape) for x in made]
    made[1] = made[0] + 0.3 * made[1]
    return made


def well_conditioned(rng, kind, shapes, evaluate, size=1.0):
    """Tensors, and ``evaluate(*tensors)``, whose relative change is at most 50 times that of the tensors."""
    for _ in range(100):
        tensors = draw(rng, kind, shapes, size)
        value = evaluate(*tensors)
        moved = evaluate(*(x * (1 + CHANGE * rng.choice([-1, 1], x.shape)) for x in tensors))
        with np.errstate(invalid="ignore"):
            change = np.max(np.abs(moved - value), initial=0)
        if np.all(np.isfinite(value)) and change <= CONDITION * CHANGE * np.max(np.abs(value), initial=0):
            return tensors, value
    raise AssertionError("no well-conditioned input in 100 draws")
