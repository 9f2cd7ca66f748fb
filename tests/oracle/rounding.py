"""How far rounding may move a value: measured on the definition, not guessed.

Every number that a program reads, each time it reads it, is disturbed by a relative 1e-9 of either sign, and every
value of a function by as much.  What that does to the result, scaled down from 1e-9 to the rounding of float64, is
what a sound evaluation in float64 may be wrong by, in whatever order it multiplies and adds; a program that is not,
has no digits to compare.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dtn_core.interpret import Interpreter
from dtn_core.ir.nodes import ONES, Apply, Param, Product, Program, Read, Sum, product

CHANGE = 1e-9
DRAWS = 3
ROUNDINGS = 2000
"""Units in the last place that a sound evaluation may lose on top: the longest sums have hundreds of terms."""

WORST = 1e7
"""A relative change of the result this many times that of what was read leaves too few digits to compare."""


def disturbed(program):
    """``program`` with a tensor ``disturbance_k`` multiplied to its k-th read."""
    noises = []

    def noisy(expr):
        match expr:
            case Read(tensor, indices) if tensor != ONES:
                noises.append(Param(f"disturbance_{len(noises)}", tuple(index.axis for index in indices)))
                return product(expr, Read(noises[-1].name, indices))
            case Apply(function, operands):
                return Apply(function, tuple(map(noisy, operands)))
            case Product(factors):
                return product(*map(noisy, factors))
            case Sum(terms):
                return Sum(tuple(map(noisy, terms)))
        return expr

    statements = tuple(replace(s, value=noisy(s.value)) for s in program.statements)
    return Program(program.name, program.params + tuple(noises), program.outputs, statements), tuple(noises)


class Disturbed(Interpreter):
    """Functions whose values are disturbed; frameworks compute ``gelu`` as ``x (1 + erf(x/√2)) / 2``, which cancels."""

    def pointwise(self, function, operands):
        if function == "gelu":
            (x,) = operands
            return x * (1 + self.pointwise("erf", [x / math.sqrt(2)])) / 2
        return super().pointwise(function, operands) * (1 + CHANGE)


def as_tuple(value):
    """The outputs as a tuple, one or several."""
    return value if isinstance(value, tuple) else (value,)


class Rounding:
    """What rounding may do to ``program`` at arguments of these sizes."""

    def __init__(self, program, sizes, rng):
        self.noisy, noises = disturbed(program)
        self.draws = [
            {p.name: 1 + CHANGE * rng.choice([-1.0, 1.0], [sizes[axis] for axis in p.axes]) for p in noises}
            for _ in range(DRAWS)
        ]

    def evaluate(self, arguments, draw=0):
        """The outputs with one draw of the disturbance."""
        return as_tuple(Disturbed(self.noisy).evaluate((), {**arguments, **self.draws[draw]}))

    def bounds(self, arguments, values):
        """For each of ``values`` at ``arguments`` how wrong it may be; None where there is nothing to compare."""
        spread = [0.0] * len(values)
        for draw in range(DRAWS):
            for place, (moved, value) in enumerate(zip(self.evaluate(arguments, draw), values, strict=True)):
                with np.errstate(all="ignore"):
                    spread[place] = max(spread[place], largest(moved - value))
        found = []
        for value, moved in zip(values, spread, strict=True):
            size = largest(value)
            if not np.isfinite(size + moved) or moved > WORST * CHANGE * size:
                return None
            found.append(ROUNDINGS * np.finfo(float).eps * (size + moved / CHANGE))
        return found


def largest(x):
    """The largest absolute value; NaN if there is one, 0 of nothing."""
    return float(np.max(np.abs(x), initial=0.0))
