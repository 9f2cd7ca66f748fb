"""Exact comparison of two programs on small rational inputs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from dtn_core.interpret import interpret


def rationals(rng, *shape):
    """Fractions with small numerators and denominators, zeros among them."""
    size = int(np.prod(shape, dtype=int))
    values = [
        Fraction(int(a), int(b)) for a, b in zip(rng.integers(-3, 4, size), rng.integers(1, 4, size), strict=True)
    ]
    return np.array(values, dtype=object).reshape(shape)


def arguments_for(program, rng, sizes):
    """Rational arguments of a program's parameters, scalars included."""
    return [rationals(rng, *(sizes[axis] for axis in param.axes)) for param in program.params]


def outputs(program, arguments):
    """The program's outputs in rational arithmetic, as a tuple."""
    result = interpret(program, *arguments, exact=True)
    return result if isinstance(result, tuple) else (result,)


def assert_same_value(before, after, rng, sizes, times=3):
    """Both programs give the same fractions for several arguments; returns nothing."""
    for _ in range(times):
        arguments = arguments_for(before, rng, sizes)
        for a, b in zip(outputs(before, arguments), outputs(after, arguments), strict=True):
            assert a.shape == b.shape
            assert np.array_equal(a, b), f"{a}\n{b}"
            assert all(isinstance(x, int | Fraction) for x in b.flat), "the comparison was not exact"
