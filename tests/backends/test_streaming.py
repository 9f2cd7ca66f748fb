"""Causal operators computed in chunks, in pieces and token by token, against dense matrices written from the papers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from frameworks import chosen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dtn_core.errors import ShapeError
from dtn_core.operators import PARAMETER, catalogue, tensor_attention, tensor_interaction
from oracle import definitions

D, E = 3, 2
ATTENTION = {
    "order 1": {"order": 1, "normalize": None},
    "order 2": {"normalize": None},
    "order 3": {"order": 3, "normalize": None, "scale": 0.3},
    "order 4": {"order": 4, "normalize": None, "scale": 0.3},
    "asymmetric": {"asymmetric": True, "normalize": None},
    "hadamard": {"product": "hadamard"},
    "trace": {},
    "trace, side k": {"side": "k", "residual": 0.4, "eps": 0.1},
    "diag": {"normalize": "diag"},
    "row": {"normalize": "row"},
}
DECAYS = (None, 1.0, 0.99, 0.7, 1e-4)
RESUMABLE = [(name, decay) for name in ATTENTION for decay in DECAYS]
EXAMPLES = {"numpy": 300, "torch": 150, "jax": 8, "tensorflow": 20}[chosen()]


def positive(n, seed, *widths):
    """Tensors whose sums of products do not cancel."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(0.3, 1.0, (2, n, width)) for width in widths]


def simplicial(q, k, l, v, w):
    """``o_t = Σ_{i,j <= t} (Σ_a q k l) v w`` by its n×n×n definition."""
    lower = np.tril(np.ones((q.shape[-2],) * 2))
    return np.einsum("zta,zia,zja,zic,zjc,ti,tj->ztc", q, k, l, v, w, lower, lower, optimize=True)


def assert_equal(found, expected, tolerance=1e-9):
    assert found.shape == expected.shape
    assert np.max(np.abs(found - expected), initial=0) <= tolerance * np.max(np.abs(expected), initial=0)


def in_pieces(backend, compiled, tensors, cuts, **options):
    """Pieces of a sequence one after another, the state of each given to the next."""
    found, state = [], None
    for start, stop in zip((0, *cuts), (*cuts, tensors[0].shape[-2]), strict=True):
        piece = [backend.array(x[..., start:stop, :]) for x in tensors]
        o, state = compiled(*piece, initial_state=state, return_state=True, **options)
        found.append(backend.numpy(o))
    return np.concatenate(found, axis=-2)


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_chunks_and_pieces_of_any_lengths_are_the_dense_form(backend, data):
    name, decay = data.draw(st.sampled_from(RESUMABLE))
    n = data.draw(st.integers(1, 300))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    chunk_size = data.draw(st.none() | st.integers(1, 90))
    tensors = positive(n, data.draw(st.integers(0, 9)), D, D, E)
    knobs = {**ATTENTION[name], "mask": "causal", "decay": decay}
    compiled = backend.dtn.compile(tensor_attention(**knobs))
    expected = definitions.tensor_attention(*tensors, **knobs)
    assert_equal(backend.numpy(compiled(*map(backend.array, tensors), chunk_size=chunk_size)), expected)
    assert_equal(in_pieces(backend, compiled, tensors, cuts, chunk_size=chunk_size), expected)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("normalize", ["trace", "diag", "row", None])
def test_interaction_in_pieces(backend, normalize, decay):
    tensors = positive(41, 1, D, D, D)
    knobs = {"mask": "causal", "normalize": normalize, "decay": decay}
    compiled = backend.dtn.compile(tensor_interaction(**knobs))
    expected = definitions.tensor_interaction(*tensors, **knobs)
    assert_equal(in_pieces(backend, compiled, tensors, (1, 14), chunk_size=8), expected)


def test_two_simplicial_in_pieces(backend):
    tensors = positive(41, 2, D, D, D, E, E)
    compiled = backend.dtn.compile(catalogue["two_simplicial"].build())
    assert_equal(in_pieces(backend, compiled, tensors, (9, 10, 33), chunk_size=8), simplicial(*tensors))


@pytest.mark.parametrize("name", ATTENTION)
def test_token_by_token(backend, name):
    n, knobs = 12, {**ATTENTION[name], "mask": "causal", "decay": 0.9}
    tensors = positive(n, 3, D, D, E)
    compiled = backend.dtn.compile(tensor_attention(**knobs))
    state, found = compiled.init_state(*map(backend.array, tensors)), []
    for t in range(n):
        o, state = compiled.step(state, *(backend.array(x[:, t]) for x in tensors))
        found.append(backend.numpy(o))
    assert_equal(np.stack(found, axis=-2), definitions.tensor_attention(*tensors, **knobs))


def test_a_step_from_what_is_no_state_of_the_operator_is_refused_however_many_went_well(backend):
    tensors = positive(1, 6, D, D, E)
    compiled, other = (
        backend.dtn.compile(tensor_attention(mask="causal", normalize=normalize)) for normalize in (None, "trace")
    )
    whole, one = map(backend.array, tensors), [backend.array(x[:, 0]) for x in tensors]
    first, second = compiled.init_state(*map(backend.array, tensors)), other.init_state(*whole)
    for _ in range(2):
        _, state = compiled.step(first, *one)
    with pytest.raises(TypeError, match="the state of another operator"):
        compiled.step(second, *one)
    with pytest.raises(TypeError, match="is a tuple of 1, expected 2 tensors"):
        compiled.step(tuple(state)[:1], *one)
    with pytest.raises(TypeError, match="expected 2 tensors"):
        compiled.step(None, *one)
    with pytest.raises(TypeError, match="expected the tuple of init_state, first"):
        compiled.step(*one, state)
    with pytest.raises(ShapeError, match=r"has shape \(2, 3, 1\)"):
        compiled.step(type(state)(state[0][..., :1], state[1]), *one)
    assert_equal(backend.numpy(compiled.step(state, *one)[0]), backend.numpy(compiled.step(tuple(state), *one)[0]))


def test_a_state_does_not_make_the_batch_larger(backend):
    tensors = positive(1, 6, D, D, E)
    compiled = backend.dtn.compile(tensor_attention(mask="causal"))
    state = compiled.init_state(*map(backend.array, tensors))
    for one in ([x[:1, 0] for x in tensors], [x[:, :1] for x in tensors]):
        with pytest.raises(ShapeError, match="state .* has shape"):
            compiled.step(state, *map(backend.array, one))
    with pytest.raises(ShapeError, match="state .* has shape"):
        compiled(*(backend.array(x[:1]) for x in tensors), initial_state=state)
    shared = [x[0] for x in (backend.numpy(part) for part in state)]
    compiled.step(tuple(map(backend.array, shared)), *(backend.array(x[:, 0]) for x in tensors))


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex128"])
def test_a_state_of_another_dtype_is_refused(backend, dtype):
    tensors = list(map(backend.array, positive(3, 6, D, D, E)))
    compiled = backend.dtn.compile(tensor_attention(mask="causal", normalize=None))
    state = [backend.array(backend.numpy(part), dtype) for part in compiled.init_state(*tensors)]
    with pytest.raises(TypeError, match=rf"state \w+ has dtype {dtype}, expected float64 for these tensors"):
        compiled(*tensors, initial_state=tuple(state))
    with pytest.raises(TypeError, match=rf"state \w+ has dtype {dtype}, expected float64 for these tensors"):
        compiled.step(tuple(state), *(x[:, 0] for x in tensors))


def test_a_state_with_the_heads_of_a_decay(backend):
    q, k, v = (backend.array(x[0]) for x in positive(1, 6, D, D, E))
    compiled, decay = (
        backend.dtn.compile(tensor_attention(mask="causal", decay=PARAMETER)),
        backend.array(np.array([0.9, 0.8])),
    )
    whole, _ = compiled(q, k, v, decay=decay, return_state=True)
    _, state = compiled(q[:4], k[:4], v[:4], decay=decay, return_state=True)
    end = compiled(q[4:], k[4:], v[4:], decay=decay, initial_state=state)
    assert_equal(backend.numpy(end), backend.numpy(whole)[:, 4:])


def test_a_state_goes_through_a_pickle(backend):
    tensors = [backend.array(x) for x in positive(1, 6, D, D, E)]
    compiled = backend.dtn.compile(tensor_attention(mask="causal"))
    _, state = compiled(*tensors, return_state=True)
    again = pickle.loads(pickle.dumps(state))  # noqa: S301 - its own
    assert type(again) is type(state)
    expected = compiled(*tensors, initial_state=state)
    assert_equal(backend.numpy(compiled(*tensors, initial_state=again)), backend.numpy(expected))


@pytest.mark.parametrize(
    ("decay", "message"), [([0.9, 1.1], r"outside \(0, 1\]"), ([0.9] * 3, "one value per leading")]
)
def test_a_decay_of_a_step_is_checked_as_that_of_a_call(backend, decay, message):
    q, k, v = positive(1, 7, D, D, E)
    compiled = backend.dtn.compile(tensor_attention(mask="causal", decay=PARAMETER))
    good = backend.array(np.array([0.9, 0.8]))
    state = compiled.init_state(*map(backend.array, (q, k, v)), decay=good)
    one = [backend.array(x[:, 0]) for x in (q, k, v)]
    compiled.step(state, *one, decay=good)
    with pytest.raises(ValueError, match=message):
        compiled.step(state, *one, decay=backend.array(np.array(decay)))


def test_a_decay_of_numpy_is_checked(backend):
    q, k, v = map(backend.array, positive(2, 7, D, D, E))
    compiled = backend.dtn.compile(tensor_attention(mask="causal", decay=PARAMETER))
    compiled(q, k, v, decay=np.array([0.9, 0.8]))
    with pytest.raises(ValueError, match=r"outside \(0, 1\]"):
        compiled(q, k, v, decay=np.array([0.9, 1.1]))


def test_a_decay_a_head(backend):
    decays = np.array([1.0, 0.9, 1e-3])
    q, k, v = (np.stack([x, 0.5 * x, x**2], axis=1) for x in positive(150, 4, D, D, E))
    found = backend.numpy(
        backend.dtn.tensor_attention(*map(backend.array, (q, k, v)), mask="causal", decay=backend.array(decays))
    )
    for head, decay in enumerate(decays):
        expected = definitions.tensor_attention(q[:, head], k[:, head], v[:, head], mask="causal", decay=decay)
        assert_equal(found[:, head], expected)


@pytest.mark.parametrize("name", ["order 2", "order 3", "hadamard", "row"])
def test_a_token_changes_nothing_before_it(backend, name):
    n, chunk, token = 40, 8, 21
    compiled = backend.dtn.compile(tensor_attention(**ATTENTION[name], mask="causal", decay=0.9))
    tensors = positive(n, 5, D, D, E)
    before = backend.numpy(compiled(*map(backend.array, tensors), chunk_size=chunk))
    for x in tensors:
        x[:, token] *= -3
    after = backend.numpy(compiled(*map(backend.array, tensors), chunk_size=chunk))
    first = token // chunk * chunk
    assert np.array_equal(before[:, :first], after[:, :first])
    assert_equal(after[:, :token], before[:, :token], 1e-15)
    assert not np.allclose(before[:, token], after[:, token])


def recurrent_second_order(q, k, v):
    """``Lin(Q, Lin(Q, K, K), V)`` token by token, of matrices ``[n, d]`` in float64."""
    keys, values = np.zeros((k.shape[1], k.shape[1])), np.zeros((k.shape[1], v.shape[1]))
    out = np.empty_like(v)
    for t in range(len(q)):
        keys += np.outer(k[t], k[t])
        values += np.outer(q[t] @ keys, v[t])
        out[t] = q[t] @ values
    return out


def test_float32_over_16384_tokens(backend):
    rng = np.random.default_rng(6)
    tensors = [(rng.normal(size=(16_384, 64)) / 8).astype(np.float32) for _ in range(3)]
    found = backend.dtn.tensor_attention(*map(backend.array, tensors), mask="causal", normalize=None)
    assert backend.dtype(found) == "float32"
    assert_equal(backend.numpy(found), recurrent_second_order(*(x.astype(np.float64) for x in tensors)), 1e-4)


@pytest.mark.parametrize("normalize", [None, "trace"])
def test_bfloat16_stays_finite_over_65536_tokens(backend, normalize):
    rng = np.random.default_rng(7)
    tensors = [backend.array(rng.normal(size=(65_536, 16)), "bfloat16") for _ in range(3)]
    found = backend.dtn.tensor_attention(*tensors, mask="causal", normalize=normalize)
    assert backend.dtype(found) == "bfloat16"
    assert np.isfinite(backend.numpy(found)).all()


@pytest.mark.parametrize("name", ["tensor_attention", "tensor_interaction"])
def test_the_functional_interface_hands_states_on(backend, name):
    function = getattr(backend.dtn, name)
    tensors = positive(70, 5, D, D, D)
    whole = backend.numpy(function(*map(backend.array, tensors), mask="causal", decay=0.9))
    found, state = [], None
    for start, stop in ((0, 1), (1, 33), (33, 70)):
        piece = [backend.array(x[..., start:stop, :]) for x in tensors]
        o, state = function(
            *piece, mask="causal", decay=0.9, initial_state=state, return_state=True, chunk_size=1 + start
        )
        found.append(backend.numpy(o))
    assert_equal(np.concatenate(found, axis=-2), whole)
    with pytest.raises(ValueError, match="state"):
        function(*map(backend.array, tensors), return_state=True)
