"""Every backend computes the catalogue as the dense interpreter does."""

from __future__ import annotations

import numpy as np
import pytest
from oracle.knobs import attention_knobs, interaction_knobs, sample, shown

from dtn_core.interpret import interpret
from dtn_core.operators import tensor_attention, tensor_interaction

SEED = 11
N, D, E = 5, 3, 2


def related(rng, kind, *shapes):
    """Arrays of both signs around 0.2, k near q, so that denominators stay well away from 0."""
    made = [0.2 + 0.3 * rng.normal(size=shape) for shape in shapes]
    if kind == "complex":
        made = [x + 0.3j * rng.normal(size=x.shape) for x in made]
    made[1] = made[0] + 0.3 * made[1]
    return made


def expected(build, tensors, knobs):
    operator = build(**knobs)
    return interpret(operator.program, *tensors, **operator.scalars)


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


@pytest.mark.parametrize(("knobs", "kind"), kinds(sample(attention_knobs(), 300, SEED)))
def test_tensor_attention_in_double_precision(backend, rng, knobs, kind):
    tensors = related(rng, kind, (2, N, D), (2, N, D), (2, N, E))
    got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), **knobs))
    assert_close(got, expected(tensor_attention, tensors, knobs), 1e-9)


@pytest.mark.parametrize(("knobs", "kind"), kinds(sample(interaction_knobs(), 80, SEED)))
def test_tensor_interaction_in_double_precision(backend, rng, knobs, kind):
    tensors = related(rng, kind, (2, N, D), (2, N, D), (2, N, D))
    got = backend.numpy(backend.dtn.tensor_interaction(*map(backend.array, tensors), **knobs))
    assert_close(got, expected(tensor_interaction, tensors, knobs), 1e-9)


@pytest.mark.parametrize(("knobs", "kind"), kinds(sample(attention_knobs(), 40, SEED + 1)))
def test_tensor_attention_in_single_precision(backend, rng, knobs, kind):
    dtype = "float32" if kind == "real" else "complex64"
    tensors = [x.astype(dtype) for x in related(rng, kind, (2, N, D), (2, N, D), (2, N, E))]
    result = backend.dtn.tensor_attention(*map(backend.array, tensors), **knobs)
    assert backend.dtype(result) == dtype
    assert_close(backend.numpy(result), expected(tensor_attention, tensors, knobs), 2e-5)


@pytest.mark.parametrize(("knobs", "kind"), kinds(sample(interaction_knobs(), 30, SEED + 1)))
def test_tensor_interaction_in_single_precision(backend, rng, knobs, kind):
    dtype = "float32" if kind == "real" else "complex64"
    tensors = [x.astype(dtype) for x in related(rng, kind, (2, N, D), (2, N, D), (2, N, D))]
    result = backend.dtn.tensor_interaction(*map(backend.array, tensors), **knobs)
    assert backend.dtype(result) == dtype
    assert_close(backend.numpy(result), expected(tensor_interaction, tensors, knobs), 2e-5)


@pytest.mark.parametrize("n", [200, 513])
@pytest.mark.parametrize(
    "knobs",
    [{}, {"normalize": "row"}, {"order": 3}, {"mask": "tril"}, {"mask": "causal"}, {"mask": "causal", "decay": 0.97}, {"activation": "expm"},
     {"product": "hadamard"}, {"mask": "causal", "order": 3, "normalize": "diag"}, {"mask": "causal", "asymmetric": True}],
    ids=shown,
)  # fmt: skip
def test_long_sequences_where_other_forms_are_chosen(backend, rng, knobs, n):
    tensors = related(rng, "real", (n, D), (n, D), (n, E))
    got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), **knobs))
    assert_close(got, expected(tensor_attention, tensors, knobs), 1e-9)


@pytest.mark.parametrize("d", [17, 40])
def test_wide_features_where_the_dense_form_is_chosen(backend, rng, d):
    tensors = related(rng, "real", (4, d), (4, d), (4, d))
    got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), order=1, normalize="row"))
    assert_close(got, expected(tensor_attention, tensors, {"order": 1, "normalize": "row"}), 1e-9)


@pytest.mark.parametrize("knobs", sample(attention_knobs(), 30, SEED + 2)[:30], ids=shown)
def test_a_compiled_operator_equals_the_function(backend, rng, knobs):
    tensors = [backend.array(x) for x in related(rng, "real", (N, D), (N, D), (N, E))]
    compiled = backend.dtn.compile(tensor_attention(**knobs))
    got, reference = backend.numpy(compiled(*tensors)), backend.numpy(backend.dtn.tensor_attention(*tensors, **knobs))
    assert_close(got, reference, 1e-12)


def test_the_result_does_not_depend_on_earlier_calls(backend, rng):
    first = [backend.array(x) for x in related(rng, "real", (N, D), (N, D), (N, E))]
    other = [backend.array(x) for x in related(rng, "complex", (3, 4, 2), (3, 4, 2), (3, 4, 2))]
    before = backend.numpy(backend.dtn.tensor_attention(*first))
    backend.dtn.tensor_attention(*other)
    assert np.array_equal(backend.numpy(backend.dtn.tensor_attention(*first)), before)


def test_arguments_are_left_as_they_are(backend, rng):
    tensors = related(rng, "real", (N, D), (N, D), (N, E))
    natives = [backend.array(x) for x in tensors]
    backend.dtn.tensor_attention(*natives, mask="causal", residual=0.5)
    for native, original in zip(natives, tensors, strict=True):
        assert np.array_equal(backend.numpy(native), original)
