"""``padding_mask``: tokens where it is False count for nothing, give 0, and whatever they hold never leaks."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import sampled

from dtn_core.errors import ShapeError
from dtn_core.interpret import interpret
from dtn_core.operators import tensor_attention, tensor_interaction
from oracle.knobs import attention_knobs, interaction_knobs, shown

KEEP = np.array([True, False, True, True, False])
N, D, E = 5, 3, 2


def inputs(rng, *widths, batch=(2,)):
    tensors = [0.3 + 0.3 * rng.normal(size=(*batch, N, width)) for width in widths]
    tensors[1] = tensors[0] + 0.3 * tensors[1]
    return tensors


def plain(combinations):
    """γ counts places, padded ones too, so a decay is not the same as leaving tokens out."""
    return [knobs for knobs in combinations if "decay" not in knobs and knobs["activation"] != "exp"]


def assert_dropping(backend, run, operator, tensors, knobs):
    keep = backend.array(np.broadcast_to(KEEP, (2, N)))
    got = backend.numpy(run(*map(backend.array, tensors), padding_mask=keep, **knobs))
    alone = interpret(operator.program, *(x[..., KEEP, :] for x in tensors), **operator.scalars)
    assert np.max(np.abs(got[..., KEEP, :] - alone)) <= 1e-8 * np.max(np.abs(alone))
    assert np.array_equal(got[..., ~KEEP, :], np.zeros_like(got[..., ~KEEP, :]))


@pytest.mark.parametrize("knobs", sampled(plain(attention_knobs()), 60, seed=13), ids=shown)
def test_tensor_attention_equals_dropping_the_tokens(backend, rng, knobs):
    assert_dropping(backend, backend.dtn.tensor_attention, tensor_attention(**knobs), inputs(rng, D, D, E), knobs)


@pytest.mark.parametrize("knobs", sampled(plain(interaction_knobs()), 25, seed=13), ids=shown)
def test_tensor_interaction_equals_dropping_the_tokens(backend, rng, knobs):
    assert_dropping(backend, backend.dtn.tensor_interaction, tensor_interaction(**knobs), inputs(rng, D, D, D), knobs)


def test_heads_after_tokens(backend, rng):
    tensors = [rng.normal(size=(2, N, 4, D)) for _ in range(3)]
    keep = backend.array(np.broadcast_to(KEEP, (2, 1, N)))  # a value per leading axis, heads included, and token
    run = backend.dtn.tensor_attention
    got = backend.numpy(run(*map(backend.array, tensors), padding_mask=keep, layout="... n h d"))
    alone = interpret(tensor_attention().program, *(x[:, KEEP].swapaxes(1, 2) for x in tensors)).swapaxes(1, 2)
    assert np.allclose(got[:, KEEP], alone, rtol=1e-9)
    assert np.array_equal(got[:, ~KEEP], np.zeros((2, 2, 4, D)))


POISON = [np.nan, np.inf, -np.inf]
VARIANTS = {
    "default": {}, "row": {"normalize": "row"}, "expm": {"activation": "expm"}, "relu": {"activation": "relu"},
    "tril": {"mask": "tril"}, "causal": {"mask": "causal"}, "causal with decay": {"mask": "causal", "decay": 0.9}, "hadamard": {"product": "hadamard"},
    "residual": {"residual": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("knobs", VARIANTS.values(), ids=VARIANTS.keys())
def test_what_padded_positions_hold_does_not_change_the_result(backend, rng, knobs, poison):
    tensors, keep = inputs(rng, D, D, E), backend.array(np.broadcast_to(KEEP, (2, N)))
    clean = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), padding_mask=keep, **knobs))
    for tensor in tensors:
        tensor[..., ~KEEP, :] = poison
    got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), padding_mask=keep, **knobs))
    assert np.array_equal(got, clean)


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("knobs", VARIANTS.values(), ids=VARIANTS.keys())
def test_what_padded_positions_hold_does_not_change_the_gradients(gradients, rng, knobs, poison):
    tensors, keep = inputs(rng, D, D, E), gradients.array(np.broadcast_to(KEEP, (2, N)))
    ones, run = np.ones((2, N, E)), gradients.dtn.tensor_attention
    loss = lambda *t: gradients.loss(run(*t, padding_mask=keep, **knobs), ones)  # noqa: E731
    clean = gradients.gradients(loss, tensors)
    for tensor in tensors:
        tensor[..., ~KEEP, :] = poison
    for got, expected in zip(gradients.gradients(loss, tensors), clean, strict=True):
        assert np.array_equal(got, expected)
        assert np.array_equal(got[..., ~KEEP, :], np.zeros_like(got[..., ~KEEP, :]))


STREAMING = {
    "decay": {"decay": 0.9}, "order 3": {"order": 3, "decay": 0.9}, "row": {"normalize": "row", "eps": 0.3}, "scalars": {"scale": 0.5, "residual": 0.3},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["bool", "int32"])
@pytest.mark.parametrize("knobs", STREAMING.values(), ids=STREAMING.keys())
def test_chunks_and_their_gradients_are_those_of_the_tokens_alone(gradients, rng, knobs, dtype):
    """Scalars and what has no tokens are in the dtype of the tokens, and not in the mask's."""
    tensors, keep = inputs(rng, D, D, E), np.arange(N) < N - 1
    ones, run = np.ones((2, N, E)), gradients.dtn.tensor_attention
    names = list(knobs)[-1:]
    arguments = [*tensors, np.array(knobs[names[0]])]
    mask = gradients.array(np.broadcast_to(keep, (2, N)).astype(dtype))

    def loss(kept, weights, q, k, v, scalar, **options):
        given = {**knobs, names[0]: scalar}
        return gradients.loss(run(*(x[:, :kept] for x in (q, k, v)), mask="causal", **given, **options), weights)

    alone = gradients.gradients(lambda *t: loss(N - 1, ones[:, 1:], *t), arguments)
    got = gradients.gradients(lambda *t: loss(N, ones, *t, padding_mask=mask, chunk_size=2), arguments)
    for a, b in zip(got, alone, strict=True):
        assert np.max(np.abs(a - b)) <= 1e-9 * np.max(np.abs(b))


def test_a_mask_per_batch_entry(backend, rng):
    tensors = inputs(rng, D, D, E)
    masks = np.array([[True, True, False, False, False], [True, True, True, True, False]])
    got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), padding_mask=backend.array(masks)))
    for entry in range(2):
        alone = interpret(tensor_attention().program, *(x[entry][masks[entry]] for x in tensors))
        assert np.allclose(got[entry][masks[entry]], alone, rtol=1e-9)


def test_one_mask_for_the_whole_batch(backend, rng):
    tensors = [backend.array(x) for x in inputs(rng, D, D, E)]
    one = backend.dtn.tensor_attention(*tensors, padding_mask=backend.array(KEEP))
    each = backend.dtn.tensor_attention(*tensors, padding_mask=backend.array(np.broadcast_to(KEEP, (2, N))))
    assert np.array_equal(backend.numpy(one), backend.numpy(each))


def test_a_mask_of_floating_numbers_is_refused(backend, rng):
    """Elsewhere such a mask is added to scores, 0 at real tokens."""
    tensors = [backend.array(x) for x in inputs(rng, D, D, E)]
    with pytest.raises(TypeError, match="padding_mask has dtype float64; expected booleans"):
        backend.dtn.tensor_attention(*tensors, padding_mask=backend.array(np.zeros(N)))


def test_all_tokens_kept_changes_nothing(backend, rng):
    tensors = [backend.array(x) for x in inputs(rng, D, D, E)]
    kept = backend.dtn.tensor_attention(*tensors, padding_mask=backend.array(np.ones((2, N), bool)))
    assert np.allclose(backend.numpy(kept), backend.numpy(backend.dtn.tensor_attention(*tensors)), rtol=1e-12)


@pytest.mark.parametrize("knobs", VARIANTS.values(), ids=VARIANTS.keys())
def test_no_token_kept_gives_zero(backend, rng, knobs):
    tensors = [backend.array(x) for x in inputs(rng, D, D, E)]
    got = backend.dtn.tensor_attention(*tensors, padding_mask=backend.array(np.zeros((2, N), bool)), **knobs)
    assert np.array_equal(backend.numpy(got), np.zeros((2, N, E)))


def test_a_wrong_length_names_the_axis_and_both_sizes(backend, rng):
    tensors = [backend.array(x) for x in inputs(rng, D, D, E)]
    with pytest.raises(ShapeError, match=r"axis n has size 5 in q .* but 4 in padding_mask \(shape \(4,\)\)"):
        backend.dtn.tensor_attention(*tensors, padding_mask=backend.array(np.ones(4, bool)))


def test_half_precision_keeps_its_dtype(backend, rng):
    tensors = [backend.array(x, "float16") for x in inputs(rng, D, D, E)]
    assert backend.dtype(backend.dtn.tensor_attention(*tensors, padding_mask=backend.array(KEEP))) == "float16"


def test_an_operator_of_ones_own(backend, rng):
    x, w = rng.normal(size=(N, D)), rng.normal(size=(D, E))
    run = backend.dtn.compile(
        "f(x[n,d], w[d,e]) -> y[n,e]: h[i,c] = x[i,a]*w[a,c]; m[c] = h[i,c]; y[i,c] = h[i,c] - m[c]"
    )
    got = backend.numpy(run(backend.array(x), backend.array(w), padding_mask=backend.array(KEEP)))
    h = x[KEEP] @ w
    assert np.allclose(got[KEEP], h - h.sum(0), rtol=1e-12)


def test_softmax_of_ones_own(backend, rng):
    text = (
        "f(q[n,d], v[n,d]) -> o[n,d]: S[i,j]=q[i,a]*q[j,a]; E[i,j]=exp(S[i,j]); r[i]=E[i,j]; o[i,c]=E[i,j]*v[j,c]/r[i]"
    )
    q, v = rng.normal(size=(2, N, D))
    got = backend.numpy(backend.dtn.compile(text)(backend.array(q), backend.array(v), padding_mask=backend.array(KEEP)))
    e = np.exp(q[KEEP] @ q[KEEP].T)
    assert np.allclose(got[KEEP], e / e.sum(1, keepdims=True) @ v[KEEP], rtol=1e-9)
