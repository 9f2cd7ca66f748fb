"""Values of operators computed in chunks, where a short sequence of ordinary numbers would not show a fault."""

from __future__ import annotations

import numpy as np
import pytest

from dtn_core.interpret import interpret
from dtn_core.operators import catalogue, tensor_attention, tensor_interaction

N, D, CHUNK = 11, 3, 4
OPERATORS = {
    "trace": tensor_attention(mask="causal"),
    "decay": tensor_attention(mask="causal", decay=0.9),
    "one after another": tensor_attention(mask="causal", product="hadamard", normalize=None, decay=0.9),
    "interaction": tensor_interaction(mask="causal", normalize=None),
    "ahla": catalogue["ahla"].build(),
}
every_operator = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def computed(backend, operator, tensors):
    return backend.numpy(backend.dtn.compile(operator)(*map(backend.array, tensors), chunk_size=CHUNK))


@every_operator
def test_a_huge_token_does_not_cost_the_tokens_before_it_their_digits(backend, rng, operator):
    tensors = list(rng.normal(size=(3, N, D)))
    expected = interpret(operator.program, *tensors, **operator.scalars)[: CHUNK + 2]
    for x in tensors:
        x[CHUNK + 2] *= 1e6  # in the chunk of the last tokens that are compared
    got = computed(backend, operator, tensors)[: CHUNK + 2]
    assert np.max(np.abs(got - expected)) <= 1e-12 * np.max(np.abs(expected))


@every_operator
def test_leading_axes_that_broadcast(backend, rng, operator):
    tensors = [rng.normal(size=shape) for shape in ((3, 1, N, D), (2, N, D), (N, D))]
    expected = interpret(operator.program, *tensors, **operator.scalars)
    assert np.max(np.abs(computed(backend, operator, tensors) - expected)) <= 1e-10 * np.max(np.abs(expected))


@pytest.mark.parametrize("axes", [(), (1,)], ids=str)
@every_operator
def test_a_state_that_all_sequences_of_a_batch_go_on_from(backend, rng, operator, axes):
    head, tail = rng.normal(size=(3, *axes, CHUNK, D)), rng.normal(size=(3, 2, N, D))
    wholes = np.concatenate([np.broadcast_to(head.reshape(3, 1, CHUNK, D), (3, 2, CHUNK, D)), tail], axis=-2)
    expected = interpret(operator.program, *wholes, **operator.scalars)[:, CHUNK:]
    function = backend.dtn.compile(operator)
    _, state = function(*map(backend.array, head), return_state=True)
    got = backend.numpy(function(*map(backend.array, tail), initial_state=state, chunk_size=CHUNK))
    assert np.max(np.abs(got - expected)) <= 1e-10 * np.max(np.abs(expected))


@every_operator
def test_the_gradient_of_such_a_state_is_the_sum_over_the_batch(gradients, rng, operator):
    function = gradients.dtn.compile(operator)
    tail = rng.normal(size=(3, 2, N, D))
    _, state = function(*map(gradients.array, rng.normal(size=(3, CHUNK, D))), return_state=True)
    state = [np.array(gradients.numpy(part)) for part in state]
    weights = rng.normal(size=(2, N, D))

    def loss(*state):
        return gradients.loss(function(*map(gradients.array, tail), initial_state=state, chunk_size=CHUNK), weights)

    each = gradients.gradients(loss, [np.stack([part, part]) for part in state])
    for found, wanted in zip(gradients.gradients(loss, state), each, strict=True):
        assert np.max(np.abs(found - wanted.sum(0))) <= 1e-10 * np.max(np.abs(wanted))


def test_a_matrix_exponential_of_a_token_does_not_depend_on_the_size_of_others(backend, rng):
    operator = tensor_interaction(mask="causal", normalize=None, activation="expm")
    q, k, v = 0.7 * rng.normal(size=(3, N, D))
    k = q + 0.1 * k
    short = interpret(operator.program, q[:5], k[:5], v[:5])
    q[5:] *= 3
    got = backend.numpy(backend.dtn.compile(operator)(*map(backend.array, (q, k, v))))[:5]
    assert np.max(np.abs(got - short)) <= 1e-14 * np.max(np.abs(short)) * 30


@pytest.mark.parametrize("norm", [3, 7, 12])
def test_matrix_exponentials_keep_their_digits_at_every_norm(backend, rng, norm):
    text = "f(x[d,d]) -> y[d,d]: E[i,j] = expm(x[i,j]); y[i,j] = E[i,j]"
    compiled = backend.dtn.compile(text)
    x = rng.normal(size=(4, 4))
    x *= norm / np.max(np.sum(np.abs(x), axis=0))
    expected = interpret(compiled.operator.program, x)
    assert np.max(np.abs(backend.numpy(compiled(backend.array(x))) - expected)) <= 1e-13 * np.max(np.abs(expected))
