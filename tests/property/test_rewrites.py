"""Every rewriting pass keeps the value of random programs, exactly, in rational numbers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

from dtn_core.interpret import interpret
from dtn_core.ir.axes import sequence_axes
from dtn_core.passes.contract import contract
from dtn_core.passes.flatten import flatten
from dtn_core.passes.padding import pad
from dtn_core.passes.pipeline import lower
from dtn_core.printer import to_notation
from oracle.exact import arguments_for
from oracle.programs import SIZES, programs

REGIMES = (
    {"n": 65_536, "d": 64, "e": 64},
    {"n": 16, "d": 64, "e": 64},
    {"n": 4, "d": 1024, "e": 2},
    {"n": 3, "d": 2, "e": 2},
)


def rational_arguments(program, seed):
    """Small rational arguments of both signs, zeros among them."""
    return arguments_for(program, np.random.default_rng(seed), SIZES)


def exactly(program, arguments):
    """The outputs as a tuple of arrays of fractions."""
    result = interpret(program, *arguments, exact=True)
    return result if isinstance(result, tuple) else (result,)


def assert_same_value(first, second, arguments):
    """Both programs have the same outputs, to the last digit."""
    note(to_notation(first))
    note(to_notation(second))
    for a, b in zip(exactly(first, arguments), exactly(second, arguments), strict=True):
        assert np.array_equal(a, b)


@settings(max_examples=150)
@given(programs(), st.booleans(), st.integers(0, 9))
def test_flatten(program, complex_input, seed):
    assert_same_value(program, flatten(program, complex_input=complex_input), rational_arguments(program, seed))


@settings(max_examples=100)
@given(programs(), st.sampled_from(REGIMES), st.integers(0, 9))
def test_contract_after_flatten(program, sizes, seed):
    assert_same_value(program, contract(flatten(program), sizes), rational_arguments(program, seed))


@settings(max_examples=100)
@given(programs(), st.sampled_from(REGIMES), st.booleans(), st.integers(0, 9))
def test_the_whole_pipeline(program, sizes, complex_input, seed):
    lowered = lower(program, sizes, complex_input=complex_input).program
    assert_same_value(program, lowered, rational_arguments(program, seed))


@settings(max_examples=60)
@given(programs(), st.integers(0, 9))
def test_flatten_twice_is_flatten_once(program, seed):
    once = flatten(program)
    assert_same_value(once, flatten(once), rational_arguments(program, seed))


@settings(max_examples=60)
@given(programs(), st.integers(0, 9))
def test_padding_that_keeps_every_token_changes_nothing(program, seed):
    assume(sequence_axes(program) == ("n",))
    arguments = rational_arguments(program, seed)
    kept = interpret(pad(program), *arguments, np.ones(3, int), exact=True)
    for a, b in zip(exactly(program, arguments), kept if isinstance(kept, tuple) else (kept,), strict=True):
        assert np.array_equal(a, b)
