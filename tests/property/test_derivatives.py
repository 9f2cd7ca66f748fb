"""The gradient of random programs against exact differences, in rational numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

from dtn_core.passes.differentiate import differentiate
from dtn_core.passes.flatten import flatten
from dtn_core.printer import to_notation
from oracle.differences import exactly_along
from oracle.exact import outputs
from oracle.programs import SIZES, programs


def generic(seed, axes):
    """Fractions of both signs with a large denominator: no sum of their products is 0 by accident."""
    rng = np.random.default_rng(seed)
    shape = tuple(SIZES[axis] for axis in axes)
    count = int(np.prod(shape, dtype=int))
    found = [
        Fraction(int(n) * int(s), 1009)
        for n, s in zip(rng.integers(1, 1009, count), rng.choice([-1, 1], count), strict=True)
    ]
    return np.array(found, dtype=object).reshape(shape)


def assert_gradient(program, gradient, seed):
    """Along one random direction of each parameter."""
    arguments = [generic(seed + place, param.axes) for place, param in enumerate(program.params)]
    cotangents = [generic(seed + 50 + place, output.axes) for place, output in enumerate(program.outputs)]
    names = [param.name for param in program.params]
    found = outputs(gradient, [*arguments, *cotangents])
    for output, slope in zip(gradient.outputs, found, strict=True):
        place = names.index(output.name.removeprefix("d_"))
        direction = generic(seed + 100 + place, program.params[place].axes)

        def loss(t, place=place, direction=direction):
            moved = [x + t * direction if p == place else x for p, x in enumerate(arguments)]
            return sum(np.sum(c * y) for c, y in zip(cotangents, outputs(program, moved), strict=True))

        expected = exactly_along(loss)
        assume(expected is not None)  # at a kink or a pole there is no derivative to compare with
        assert abs(np.sum(slope * direction) - expected) < Fraction(1, 10**50), names[place]


@settings(max_examples=80)
@given(programs(max_statements=3), st.integers(0, 9))
def test_the_gradient_of_a_program(program, seed):
    note(to_notation(program))
    assert_gradient(program, differentiate(program), seed)


@settings(max_examples=50)
@given(programs(max_statements=3), st.integers(0, 9))
def test_the_flattened_gradient_of_a_flattened_program(program, seed):
    note(to_notation(program))
    flat = flatten(program)
    assert_gradient(program, flatten(differentiate(flat)), seed)
