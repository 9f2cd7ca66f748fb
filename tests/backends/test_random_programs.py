"""Random programs, of every construct of the notation, in every backend against the dense interpreter."""

from __future__ import annotations

import frameworks
import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

from dtn_core.interpret import interpret
from dtn_core.printer import to_notation
from oracle.programs import PARAMS, SIZES, programs

FUNCTIONS = ("conj", "real", "relu", "abs", "tanh", "sigmoid", "silu", "gelu", "erf")
EXAMPLES = {"numpy": 120, "torch": 80, "jax": 25, "tensorflow": 25}[frameworks.chosen()]
fixtures_are_fine = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def values(seed, batch=()):
    """One array a parameter, none near 0, the scalar below 1."""
    rng = np.random.default_rng(seed)
    found = {}
    for param in PARAMS:
        shape = (*batch, *(SIZES[axis] for axis in param.axes))
        found[param.name] = rng.choice([-1, 1], shape) * rng.uniform(0.3, 1.0, shape) if param.axes else 0.7
    return found


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


@fixtures_are_fine
@given(programs(functions=FUNCTIONS), st.integers(0, 9), st.sampled_from([(), (2,)]))
def test_value(backend, program, seed, batch):
    given_values = values(seed, batch)
    expected = as_tuple(interpret(program, **given_values))
    assume(all(np.max(np.abs(x), initial=0) < 1e6 for x in expected))
    note(to_notation(program))
    tensors = {name: backend.array(x) for name, x in given_values.items() if name != "g"}
    got = as_tuple(backend.dtn.compile(program)(**tensors, g=backend.array(np.array(0.7))))
    for a, b in zip(map(backend.numpy, got), expected, strict=True):
        a = np.broadcast_to(
            a, np.broadcast_shapes(a.shape, b.shape)
        )  # an output that reads no batched tensor has no batch
        assert np.allclose(a, b, rtol=1e-8, atol=1e-8 * max(1.0, np.max(np.abs(b), initial=0)))
