"""Every backend computes the catalogue as the dense interpreter does."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import sampled

from dtn_core.interpret import interpret
from dtn_core.operators import tensor_attention, tensor_interaction
from oracle import definitions
from oracle.conditioned import draw, well_conditioned
from oracle.knobs import attention_knobs, interaction_knobs, shown

SEED = 11
N, D, E = 5, 3, 2


def inputs(rng, kind, build, knobs, *shapes, size=1.0):
    """Well-conditioned tensors and the interpreter's value of the operator."""
    operator = build(**knobs)
    evaluate = lambda *tensors: interpret(operator.program, *tensors, **operator.scalars)  # noqa: E731
    return well_conditioned(rng, kind, shapes, evaluate, size)


def assert_close(got, reference, tolerance):
    """Largest difference relative to the largest value."""
    assert got.shape == reference.shape
    assert np.max(np.abs(got - reference), initial=0) <= tolerance * np.max(np.abs(reference), initial=0)


def kinds(combinations):
    """Real and complex input in turn; relu is for real numbers only."""
    found = []
    for place, knobs in enumerate(combinations):
        kind = "real" if knobs["activation"] == "relu" or place % 2 else "complex"
        found.append(pytest.param(knobs, kind, id=f"{kind},{shown(knobs)}"))
    return found


@pytest.mark.parametrize(("knobs", "kind"), kinds(sampled(attention_knobs(), 200, SEED)))
def test_tensor_attention_in_double_precision(backend, rng, knobs, kind):
    tensors, expected = inputs(rng, kind, tensor_attention, knobs, (2, N, D), (2, N, D), (2, N, E))
    assert_close(backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), **knobs)), expected, 1e-9)


@pytest.mark.parametrize(("knobs", "kind"), kinds(sampled(interaction_knobs(), 60, SEED)))
def test_tensor_interaction_in_double_precision(backend, rng, knobs, kind):
    tensors, expected = inputs(rng, kind, tensor_interaction, knobs, (2, N, D), (2, N, D), (2, N, D))
    assert_close(backend.numpy(backend.dtn.tensor_interaction(*map(backend.array, tensors), **knobs)), expected, 1e-9)


@pytest.mark.parametrize(("knobs", "kind"), kinds(sampled(attention_knobs(), 40, SEED + 1)))
def test_tensor_attention_in_single_precision(backend, rng, knobs, kind):
    dtype = "float32" if kind == "real" else "complex64"
    # half the size: some frameworks' own matrix exponential loses digits at larger norms
    tensors, expected = inputs(rng, kind, tensor_attention, knobs, (2, N, D), (2, N, D), (2, N, E), size=0.5)
    result = backend.dtn.tensor_attention(*(backend.array(x, dtype) for x in tensors), **knobs)
    assert backend.dtype(result) == dtype
    assert_close(backend.numpy(result), expected, 2e-5)


@pytest.mark.parametrize(("knobs", "kind"), kinds(sampled(interaction_knobs(), 1, SEED + 1)))
def test_tensor_interaction_in_single_precision(backend, rng, knobs, kind):
    dtype = "float32" if kind == "real" else "complex64"
    # half the size: some frameworks' own matrix exponential loses digits at larger norms
    tensors, expected = inputs(rng, kind, tensor_interaction, knobs, (2, N, D), (2, N, D), (2, N, D), size=0.5)
    result = backend.dtn.tensor_interaction(*(backend.array(x, dtype) for x in tensors), **knobs)
    assert backend.dtype(result) == dtype
    assert_close(backend.numpy(result), expected, 2e-5)


@pytest.mark.parametrize(
    "knobs",
    [{}, {"normalize": "row"}, {"order": 3}, {"mask": "tril"}, {"mask": "causal"}, {"mask": "causal", "decay": 0.97}, {"activation": "expm"},
     {"product": "hadamard"}, {"mask": "causal", "order": 3, "normalize": "diag"}, {"mask": "causal", "asymmetric": True}],
    ids=shown,
)  # fmt: skip
def test_long_sequences_where_other_forms_are_chosen(backend, rng, knobs):
    # the interpreter would take n³ here; the definitions as matrices are held to it in tests/core
    tensors = draw(rng, "real", [(300, D), (300, D), (300, E)])
    got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), **knobs))
    assert_close(got, definitions.tensor_attention(*tensors, **knobs), 1e-9)


@pytest.mark.parametrize("d", [17, 40])
def test_wide_features_where_the_dense_form_is_chosen(backend, rng, d):
    knobs = {"order": 1, "normalize": "row"}
    tensors, expected = inputs(rng, "real", tensor_attention, knobs, (4, d), (4, d), (4, d))
    assert_close(backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), **knobs)), expected, 1e-9)


@pytest.mark.parametrize("knobs", sampled(attention_knobs(), 1, SEED + 2)[:12], ids=shown)
def test_a_compiled_operator_equals_the_function(backend, rng, knobs):
    tensors = [backend.array(x) for x in inputs(rng, "real", tensor_attention, knobs, (N, D), (N, D), (N, E))[0]]
    compiled = backend.dtn.compile(tensor_attention(**knobs))
    got, reference = backend.numpy(compiled(*tensors)), backend.numpy(backend.dtn.tensor_attention(*tensors, **knobs))
    assert_close(got, reference, 1e-12)


def test_the_result_does_not_depend_on_earlier_calls(backend, rng):
    first = [backend.array(x) for x in draw(rng, "real", [(N, D), (N, D), (N, E)])]
    other = [backend.array(x) for x in draw(rng, "complex", [(3, 4, 2), (3, 4, 2), (3, 4, 2)])]
    before = backend.numpy(backend.dtn.tensor_attention(*first))
    backend.dtn.tensor_attention(*other)
    assert np.array_equal(backend.numpy(backend.dtn.tensor_attention(*first)), before)


def test_arguments_are_left_as_they_are(backend, rng):
    tensors = draw(rng, "real", [(N, D), (N, D), (N, E)])
    natives = [backend.array(x) for x in tensors]
    backend.dtn.tensor_attention(*natives, mask="causal", residual=0.5)
    for native, original in zip(natives, tensors, strict=True):
        assert np.array_equal(backend.numpy(native), original)
