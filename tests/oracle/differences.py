"""Derivatives by differences, the oracle of every gradient test."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

STENCIL = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))  # central, exact for polynomials of degree 6
TINY = Fraction(1, 10**40)


def along(function, step=1e-4):
    """``d/dt function(t)`` at 0 for a real function of a float, to about 1e-11 of its size."""
    return sum(weight * (function(k * step) - function(-k * step)) for k, weight in STENCIL) / step


def twice_along(function, step=3e-3):
    """``d²/(ds dt) function(s, t)`` at 0."""
    return along(lambda s: along(lambda t: function(s, t), step), step)


def exactly_along(function):
    """``d/dt function(t)`` at 0 for a rational function evaluated in fractions, with an error below 1e-70.

    Returns None where two steps disagree: at a kink or a pole.
    """
    slopes = [(function(h) - function(-h)) / (2 * h) for h in (TINY, TINY / 7)]
    return slopes[1] if abs(slopes[0] - slopes[1]) < Fraction(1, 10**60) else None


def inner(a, b):
    """``Re Σ conj(a) b``: the pairing of a cotangent ``∂L/∂Re + i ∂L/∂Im`` with a direction."""
    return float(np.real(np.sum(np.conj(a) * b)))


def direction_like(rng, x):
    """A random direction of the shape and kind of ``x``."""
    x = np.asarray(x)
    real = rng.normal(size=x.shape)
    return real + 1j * rng.normal(size=x.shape) if np.iscomplexobj(x) else real
