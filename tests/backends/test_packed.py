"""``cu_seqlens``: sequences packed one after another, each as if it were computed by itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from frameworks import sampled

from dtn_core.errors import ShapeError
from dtn_core.interpret import interpret
from dtn_core.notation import parse
from dtn_core.operators import catalogue, tensor_attention, tensor_interaction
from oracle.differences import along, inner
from oracle.knobs import attention_knobs, interaction_knobs, shown

D, E = 3, 2
LENGTHS = {
    "ragged": (3, 1, 0, 2),
    "one": (6,),
    "of one length": (4, 4, 4),
    "of one token": (1, 1, 1),
    "empty at both ends": (0, 3, 0),
    "all empty": (0, 0),
    "none": (),
    "long and short": (40, 1, 17),
}
VARIANTS = {
    "default": {}, "row": {"normalize": "row"}, "expm": {"activation": "expm"}, "exp": {"activation": "exp"},
    "relu": {"activation": "relu"}, "tril": {"mask": "tril"}, "causal": {"mask": "causal"}, "order 3": {"mask": "causal", "order": 3},
    "causal with decay": {"mask": "causal", "decay": 0.9}, "causal relu": {"mask": "causal", "activation": "relu"}, "hadamard": {"product": "hadamard"},
}  # fmt: skip
every_variant = pytest.mark.parametrize("knobs", VARIANTS.values(), ids=VARIANTS.keys())


def ends(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def inputs(rng, count, *widths, batch=(2,)):
    tensors = [0.3 + 0.3 * rng.normal(size=(*batch, count, width)) for width in widths]
    tensors[1] = tensors[0] + 0.3 * tensors[1]
    return tensors


def one_by_one(program, tensors, lengths, **scalars):
    """The dense interpreter on every sequence, packed again."""
    pieces = [np.split(x, np.cumsum(lengths)[:-1], axis=-2) if lengths else [x] for x in tensors]
    return np.concatenate([interpret(program, *each, **scalars) for each in zip(*pieces, strict=True)], axis=-2)


def assert_close(got, expected, tolerance=1e-9):
    assert got.shape == expected.shape
    assert np.max(np.abs(got - expected), initial=0) <= tolerance * np.max(np.abs(expected), initial=0)


def assert_packed(backend, run, operator, tensors, lengths, knobs):
    got = backend.numpy(run(*map(backend.array, tensors), cu_seqlens=ends(lengths), **knobs))
    assert_close(got, one_by_one(operator.program, tensors, lengths, **operator.scalars), 1e-8)


class TestValues:
    @pytest.mark.parametrize("knobs", sampled(attention_knobs(), 30, seed=14), ids=shown)
    def test_tensor_attention(self, backend, rng, knobs):
        lengths = LENGTHS["ragged"]
        tensors = inputs(rng, sum(lengths), D, D, E)
        assert_packed(backend, backend.dtn.tensor_attention, tensor_attention(**knobs), tensors, lengths, knobs)

    @pytest.mark.parametrize("knobs", sampled(interaction_knobs(), 12, seed=14), ids=shown)
    def test_tensor_interaction(self, backend, rng, knobs):
        lengths = LENGTHS["ragged"]
        tensors = inputs(rng, sum(lengths), D, D, D)
        assert_packed(backend, backend.dtn.tensor_interaction, tensor_interaction(**knobs), tensors, lengths, knobs)

    @pytest.mark.parametrize(
        "knobs", [{}, {"normalize": "row"}, {"mask": "tril"}, {"mask": "causal", "decay": 0.9}], ids=shown
    )
    @pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
    def test_lengths(self, backend, rng, lengths, knobs):
        tensors = inputs(rng, sum(lengths), D, D, E)
        assert_packed(backend, backend.dtn.tensor_attention, tensor_attention(**knobs), tensors, lengths, knobs)

    @pytest.mark.parametrize("name", ["linear_attention", "ahla", "second_order", "two_simplicial"])
    def test_written_operators(self, backend, rng, name):
        operator, lengths = catalogue[name].build(), LENGTHS["ragged"]
        widths = [E if param.axes[-1] == "e" else D for param in operator.program.tensors]
        tensors = inputs(rng, sum(lengths), *widths)
        assert_packed(backend, backend.dtn.compile(operator), operator, tensors, lengths, {})

    def test_an_output_of_each_sequence_is_at_its_place(self, backend, rng):
        x = rng.normal(size=(9, D))
        run = backend.dtn.compile("f(x[n,d]) -> y[n,d], s[d]: y[i,a] = 2 * x[i,a]; s[a] = x[i,a]")
        _, sums = run(backend.array(x), cu_seqlens=[0, 5, 6, 9])  # computed in the order of their lengths: 1, 3, 5
        assert_close(backend.numpy(sums), np.add.reduceat(x, [0, 5, 6]))

    def test_complex(self, backend, rng):
        lengths = LENGTHS["ragged"]
        tensors = [x + 1j * rng.normal(size=x.shape) for x in inputs(rng, sum(lengths), D, D, E)]
        knobs = {"mask": "causal", "normalize": "diag"}
        assert_packed(backend, backend.dtn.tensor_attention, tensor_attention(**knobs), tensors, lengths, knobs)

    def test_half_precision_keeps_its_dtype(self, backend, rng):
        tensors = [backend.array(x, "float16") for x in inputs(rng, 5, D, D, E)]
        assert backend.dtype(backend.dtn.tensor_attention(*tensors, cu_seqlens=[0, 2, 5])) == "float16"

    @pytest.mark.parametrize("dtype", ["int32", "int64"])
    def test_the_framework_s_own_vector(self, backend, rng, dtype):
        tensors = [backend.array(x) for x in inputs(rng, 5, D, D, E)]
        listed = backend.dtn.tensor_attention(*tensors, cu_seqlens=[0, 2, 5])
        own = backend.dtn.tensor_attention(*tensors, cu_seqlens=backend.array(np.array([0, 2, 5]), dtype))
        assert np.array_equal(backend.numpy(own), backend.numpy(listed))

    def test_a_range(self, backend, rng):
        tensors = [backend.array(x) for x in inputs(rng, 4, D, D, E)]
        listed = backend.dtn.tensor_attention(*tensors, cu_seqlens=[0, 2, 4])
        ranged = backend.dtn.tensor_attention(*tensors, cu_seqlens=range(0, 6, 2))
        assert np.array_equal(backend.numpy(ranged), backend.numpy(listed))

    @pytest.mark.parametrize("starts", ["0, 2, 5", 5, {0: 2}])
    def test_what_is_no_vector_is_named(self, backend, rng, starts):
        tensors = [backend.array(x) for x in inputs(rng, 5, D, D, E)]
        kind = type(starts).__name__
        with pytest.raises(TypeError, match=rf"cu_seqlens is a {kind}, expected integers \[N \+ 1\]"):
            backend.dtn.tensor_attention(*tensors, cu_seqlens=starts)

    def test_arguments_by_name(self, backend, rng):
        q, k, v = (backend.array(x) for x in inputs(rng, 5, D, D, E))
        run = backend.dtn.compile(tensor_attention())
        named = backend.numpy(run(v=v, q=q, k=k, cu_seqlens=[0, 2, 5]))
        assert np.array_equal(named, backend.numpy(run(q, k, v, cu_seqlens=[0, 2, 5])))


class TestAxes:
    @every_variant
    def test_heads_after_tokens(self, backend, rng, knobs):
        lengths, operator = LENGTHS["ragged"], tensor_attention(**knobs)
        tensors = inputs(rng, sum(lengths), D, D, E, batch=(2, 4))
        got = backend.dtn.tensor_attention(
            *(backend.array(x.swapaxes(-2, -3)) for x in tensors), cu_seqlens=ends(lengths), layout="... n h d", **knobs
        )
        expected = one_by_one(operator.program, tensors, lengths, **operator.scalars)
        assert_close(backend.numpy(got), expected.swapaxes(-2, -3), 1e-8)

    @pytest.mark.parametrize("layout", ["... n d", "... n h d"])
    def test_without_a_batch(self, backend, rng, layout):
        axes = ("h",) if layout == "... n h d" else ()
        tensors = inputs(rng, 6, D, D, E, batch=(4,) if axes else ())
        given = [backend.array(x.swapaxes(-2, -3) if axes else x) for x in tensors]
        got = backend.numpy(backend.dtn.tensor_attention(*given, cu_seqlens=[0, 1, 6], layout=layout))
        expected = one_by_one(tensor_attention().program, tensors, (1, 5))
        assert_close(got, expected.swapaxes(-2, -3) if axes else expected)

    def test_keys_and_values_shared_by_the_batch(self, backend, rng):
        q = 0.3 + rng.random((2, 4, 6, D))
        k, v = 0.3 + rng.random((6, D)), rng.normal(size=(4, 6, E))
        got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, (q, k, v)), cu_seqlens=[0, 2, 6]))
        full = [np.broadcast_to(x, (2, 4, *x.shape[-2:])) for x in (q, k, v)]
        assert_close(got, one_by_one(tensor_attention().program, full, (2, 4)))

    @pytest.mark.parametrize("layout", ["... n d", "... n h d"])
    def test_a_decay_a_head(self, backend, rng, layout):
        decay, tensors = np.array([0.5, 0.9, 1.0]), inputs(rng, 6, D, D, E, batch=(2, 3))
        swap = layout == "... n h d"
        given = [backend.array(x.swapaxes(-2, -3) if swap else x) for x in tensors]
        got = backend.dtn.tensor_attention(
            *given, mask="causal", decay=backend.array(decay), cu_seqlens=[0, 2, 6], layout=layout
        )
        each = [
            one_by_one(tensor_attention(mask="causal", decay=g).program, [x[:, h] for x in tensors], (2, 4), decay=g)
            for h, g in enumerate(decay)
        ]
        expected = np.stack(each, axis=1)
        assert_close(backend.numpy(got), expected.swapaxes(-2, -3) if swap else expected)

    @pytest.mark.parametrize("batch", [(), (2,)], ids=["shared", "a batch of them"])
    def test_weights_have_no_tokens(self, backend, rng, batch):
        text = "f(x[n,d], w[d,e]) -> y[n,e]: h[i,c] = x[i,a]*w[a,c]; m[c] = h[i,c] / n; y[i,c] = h[i,c] - m[c]"
        x, w = rng.normal(size=(2, 7, D)), rng.normal(size=(*batch, D, E))
        got = backend.dtn.compile(text)(backend.array(x), backend.array(w), cu_seqlens=[0, 3, 3, 7])
        pieces = [x[:, :3] @ w, x[:, 3:] @ w]
        assert_close(backend.numpy(got), np.concatenate([h - h.mean(-2, keepdims=True) for h in pieces], axis=-2))

    @pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=["shared", "a batch of them", "of two axes"])
    @pytest.mark.parametrize("lengths", [(3, 3), (2, 4), (1, 1, 2, 2)])
    def test_a_result_of_weights_alone(self, backend, rng, batch, lengths):
        text = "f(x[n,d], w[d,d]) -> o[n,d], s[d]: o[t,b] = x[i,a]*w[a,b] where i <= t; s[a] = w[a,a]"
        x, w = rng.normal(size=(2, 3, 6, D)), rng.normal(size=(*batch, D, D))
        x = x[0, 0] if not batch else x[:, 0] if len(batch) == 1 else x
        _, s = backend.dtn.compile(text)(backend.array(x), backend.array(w), cu_seqlens=ends(lengths))
        expected = np.repeat(np.einsum("...aa->...a", w)[..., None, :], len(lengths), -2)
        assert_close(backend.numpy(s), expected)

    def test_tokens_on_the_last_axis(self, backend, rng):
        text = "f(x[n,d], g[n]) -> y[d,n], z[n]: y[a,t] = g[i]*x[i,a] where i <= t; z[t] = g[i] where i <= t"
        x, g = rng.normal(size=(2, 5, D)), rng.normal(size=5)
        y, z = backend.dtn.compile(text)(backend.array(x), backend.array(g), cu_seqlens=[0, 2, 5])
        terms = g[:, None] * x
        expected = np.concatenate([terms[:, :2].cumsum(1), terms[:, 2:].cumsum(1)], axis=1)
        assert_close(backend.numpy(y), expected.swapaxes(1, 2))
        sums = np.concatenate([g[:2].cumsum(), g[2:].cumsum()])
        assert_close(backend.numpy(z), np.broadcast_to(sums, (2, 5)))  # the leading axes of all arguments

    def test_a_result_without_tokens_is_one_a_sequence(self, backend, rng):
        run = backend.dtn.compile("f(x[n,d], y[n,e]) -> o[n,e], s[d,e]: s[a,c] = x[i,a]*y[i,c]; o[i,c] = x[i,a]*s[a,c]")
        x, y = rng.normal(size=(2, 6, D)), rng.normal(size=(2, 6, E))
        o, s = run(backend.array(x), backend.array(y), cu_seqlens=[0, 1, 1, 6])
        pieces = [(x[:, a:b], y[:, a:b]) for a, b in ((0, 1), (1, 1), (1, 6))]
        states = [a.swapaxes(1, 2) @ b for a, b in pieces]
        assert_close(backend.numpy(s), np.stack(states, axis=1))
        assert_close(
            backend.numpy(o), np.concatenate([a @ s for (a, _), s in zip(pieces, states, strict=True)], axis=1)
        )


class TestLeaks:
    # a batch of matrix exponentials is scaled by the largest of them, in TensorFlow even if that is not a number
    @pytest.mark.parametrize("knobs", [knobs for knobs in VARIANTS.values() if knobs != VARIANTS["expm"]], ids=shown)
    def test_what_one_sequence_holds_does_not_reach_another(self, backend, rng, knobs):
        tensors = inputs(rng, 9, D, D, E)

        def others():
            value = backend.dtn.tensor_attention(*map(backend.array, tensors), cu_seqlens=[0, 3, 5, 9], **knobs)
            return np.delete(backend.numpy(value), [3, 4], axis=-2)

        clean = others()
        for tensor in tensors:
            tensor[..., 3:5, :] = np.nan
        assert np.array_equal(others(), clean)

    @pytest.mark.parametrize("knobs", [{}, {"mask": "causal"}], ids=str)
    def test_nor_do_its_gradients(self, gradients, rng, knobs):
        tensors = inputs(rng, 9, D, D, E)
        weights = np.zeros((2, 9, E))
        weights[:, 3:5] = 1
        run = lambda *t: gradients.dtn.tensor_attention(*t, cu_seqlens=[0, 3, 5, 9], **knobs)  # noqa: E731
        for found in gradients.gradients(lambda *t: gradients.loss(run(*t), weights), tensors):
            assert np.all(np.delete(found, [3, 4], axis=-2) == 0)
            assert np.any(found[:, 3:5] != 0)


class TestGradients:
    @every_variant
    def test_are_those_of_each_sequence(self, gradients, rng, knobs):
        lengths, operator = LENGTHS["ragged"], tensor_attention(**knobs)
        starts, tensors = ends(lengths), inputs(rng, sum(lengths), D, D, E)
        weights, run = rng.normal(size=tensors[2].shape), gradients.dtn.tensor_attention
        found = gradients.gradients(lambda *t: gradients.loss(run(*t, cu_seqlens=starts, **knobs), weights), tensors)
        directions = [rng.normal(size=x.shape) for x in tensors]

        def loss(t):
            moved = [x + t * direction for x, direction in zip(tensors, directions, strict=True)]
            return inner(weights, one_by_one(operator.program, moved, lengths, **operator.scalars))

        slope = sum(inner(g, direction) for g, direction in zip(found, directions, strict=True))
        assert abs(slope - along(loss)) <= 1e-7 * sum(np.linalg.norm(g) for g in found)

    def test_twice(self, gradients, rng):
        tensors, directions = inputs(rng, 6, D, D, E), [rng.normal(size=(2, 6, w)) for w in (D, D, E)]
        weights, run = rng.normal(size=(2, 6, E)), gradients.dtn.tensor_attention
        packed = gradients.second(
            lambda *t: gradients.loss(run(*t, cu_seqlens=[0, 2, 6]), weights), tensors, directions
        )
        for start, end in ((0, 2), (2, 6)):
            rows = (..., slice(start, end), slice(None))
            alone = gradients.second(
                lambda *t, rows=rows: gradients.loss(run(*t), weights[rows]),
                [x[rows] for x in tensors],
                [x[rows] for x in directions],
            )
            for got, expected in zip(packed, alone, strict=True):
                assert_close(got[rows], expected, 1e-7)


STREAMED = {
    "no decay": {}, "decay": {"decay": 0.8}, "row": {"normalize": "row", "decay": 0.8}, "order 3": {"order": 3},
    "hadamard": {"product": "hadamard", "decay": 0.8},
}  # fmt: skip
every_stream = pytest.mark.parametrize("knobs", STREAMED.values(), ids=STREAMED.keys())


class TestStates:
    """States have an axis of the sequences, after the batch axes and before the heads."""

    @every_stream
    @pytest.mark.parametrize("chunk_size", [None, 2])
    def test_the_states_are_those_of_each_sequence(self, backend, rng, knobs, chunk_size):
        lengths = LENGTHS["ragged"]
        starts, run = ends(lengths), backend.dtn.compile(tensor_attention(mask="causal", **knobs))
        tensors = [backend.array(x) for x in inputs(rng, sum(lengths), D, D, E)]
        value, states = run(*tensors, cu_seqlens=starts, return_state=True, chunk_size=chunk_size)
        for number, (start, end) in enumerate(pairwise(starts)):
            alone, after = run(*(x[:, start:end] for x in tensors), return_state=True)
            assert_close(backend.numpy(value)[:, start:end], backend.numpy(alone))
            for name, got, expected in zip(after._fields, states, after, strict=True):
                assert np.allclose(backend.numpy(got)[:, number], backend.numpy(expected), rtol=1e-9, atol=1e-12), name

    @every_stream
    @pytest.mark.parametrize("layout", ["... n d", "... n h d"])
    def test_two_pieces_of_every_sequence_are_the_whole(self, backend, rng, knobs, layout):
        run = backend.dtn.compile(tensor_attention(mask="causal", **knobs), layout=layout)
        tensors = [x.swapaxes(-2, -3) if layout == "... n h d" else x for x in inputs(rng, 12, D, D, E, batch=(2, 2))]
        token = 1 if layout == "... n h d" else 2
        whole = backend.numpy(run(*map(backend.array, tensors), cu_seqlens=[0, 5, 5, 12]))
        early, late = [0, 1, 2, 5, 6, 7], [3, 4, 8, 9, 10, 11]
        parts = [[backend.array(np.take(x, rows, axis=token)) for x in tensors] for rows in (early, late)]
        head, state = run(*parts[0], cu_seqlens=[0, 3, 3, 6], return_state=True)
        tail, _ = run(*parts[1], cu_seqlens=[0, 2, 2, 6], initial_state=state, return_state=True)
        assert_close(backend.numpy(head), np.take(whole, early, axis=token))
        assert_close(backend.numpy(tail), np.take(whole, late, axis=token))

    @pytest.mark.parametrize("build", [tensor_attention, tensor_interaction])
    def test_of_complex_sequences(self, backend, rng, build):
        run = backend.dtn.compile(build(mask="causal", decay=0.8))
        tensors = [x + 1j * rng.normal(size=x.shape) for x in inputs(rng, 7, D, D, D)]
        whole = backend.numpy(run(*map(backend.array, tensors), cu_seqlens=[0, 3, 7]))
        first, last = ([backend.array(x[:, rows]) for x in tensors] for rows in ([0, 1, 3, 4, 5], [2, 6]))
        _, state = run(*first, cu_seqlens=[0, 2, 5], return_state=True)
        assert_close(backend.numpy(run(*last, cu_seqlens=[0, 1, 2], initial_state=state)), whole[:, [2, 6]])

    def test_an_empty_sequence_hands_its_state_on(self, backend, rng):
        run = backend.dtn.compile(tensor_attention(mask="causal", decay=0.8))
        tensors = [backend.array(x) for x in inputs(rng, 6, D, D, E)]
        _, before = run(*tensors, cu_seqlens=[0, 2, 6], return_state=True)
        _, after = run(*tensors, cu_seqlens=[0, 6, 6], initial_state=before, return_state=True)
        for a, b in zip(before, after, strict=True):
            assert np.array_equal(backend.numpy(a)[:, 1], backend.numpy(b)[:, 1])

    def test_a_step_follows(self, backend, rng):
        run = backend.dtn.compile(tensor_attention(mask="causal", decay=0.8))
        tensors = inputs(rng, 8, D, D, E)
        whole = backend.numpy(run(*map(backend.array, tensors), cu_seqlens=[0, 3, 8]))
        first = [backend.array(np.delete(x, [2, 7], axis=1)) for x in tensors]
        _, state = run(*first, cu_seqlens=[0, 2, 6], return_state=True)
        last, _ = run.step(state, *(backend.array(x[:, [2, 7]]) for x in tensors))
        assert_close(backend.numpy(last), whole[:, [2, 7]])

    def test_gradients_reach_the_initial_state(self, gradients, rng):
        run = gradients.dtn.compile(tensor_attention(mask="causal", order=1, normalize=None, decay=0.8))
        tensors, state = inputs(rng, 5, D, D, E), rng.normal(size=(2, 2, D, E))
        weights = rng.normal(size=(2, 5, E))

        def loss(s, *t):
            return gradients.loss(run(*t, cu_seqlens=[0, 2, 5], initial_state=(s,)), weights)

        found = gradients.gradients(loss, [state, *tensors], wrt=(0,))[0]
        for number, (start, end) in enumerate(((0, 2), (2, 5))):
            rows = (..., slice(start, end), slice(None))
            decays = 0.8 ** np.arange(1, 1 + end - start)[:, None]
            expected = np.swapaxes(decays * tensors[0][rows], 1, 2) @ weights[rows]
            assert_close(found[:, number], expected)

    def test_one_state_for_all_is_refused(self, backend, rng):
        run = backend.dtn.compile(tensor_attention(mask="causal"))
        tensors = [backend.array(x) for x in inputs(rng, 6, D, D, E)]
        _, state = run(*tensors, return_state=True)
        message = r"state \w+ has shape \(2,.*\), expected \[..., 3.*one for each of 3 packed sequences"
        with pytest.raises(ShapeError, match=message):
            run(*tensors, cu_seqlens=[0, 2, 3, 6], initial_state=state)

    def test_an_operator_without_a_state_is_refused(self, backend, rng):
        run = backend.dtn.compile(tensor_attention())
        with pytest.raises(ValueError, match="tensor_attention has no state"):
            run(*(backend.array(x) for x in inputs(rng, 6, D, D, E)), cu_seqlens=[0, 6], return_state=True)


WRONG = {
    "a number": (5, "cu_seqlens has shape"),
    "a matrix": (np.zeros((2, 2), int), r"cu_seqlens has shape \(2, 2\), expected \[N \+ 1\]"),
    "nothing": ([], r"cu_seqlens has shape \(0,\)"),
    "another start": ([1, 2, 5], r"cu_seqlens\[0\] is 1, expected 0"),
    "negative": ([0, -2, 5], r"cu_seqlens\[1\] is -2, less than cu_seqlens\[0\], which is 0"),
    "decreasing": ([0, 3, 2, 5], r"cu_seqlens\[2\] is 2, less than cu_seqlens\[1\], which is 3"),
    "too short": ([0, 2, 4], "cu_seqlens ends with 4, but there are 5 tokens"),
    "too long": ([0, 2, 6], "cu_seqlens ends with 6, but there are 5 tokens"),
}


class TestRefusals:
    @pytest.mark.parametrize("native", [False, True], ids=["numpy", "native"])
    @pytest.mark.parametrize(("wrong", "message"), WRONG.values(), ids=WRONG.keys())
    def test_one_clear_error(self, backend, wrong, message, native):
        tensors = [backend.array(np.ones((5, D)))] * 3
        given = backend.array(np.asarray(wrong)) if native else wrong
        if np.ndim(wrong) == 0 and not native:
            given = np.asarray(wrong)
        with pytest.raises(ValueError, match=f"tensor_attention: {message}"):
            backend.dtn.tensor_attention(*tensors, cu_seqlens=given)

    @pytest.mark.parametrize("native", [False, True], ids=["numpy", "native"])
    @pytest.mark.parametrize(("dtype", "wrong"), [("float64", [0.0, 2.0, 5.0]), ("bool", [False, True])])
    def test_a_wrong_dtype_is_a_type_error_as_of_a_padding_mask(self, backend, dtype, wrong, native):
        tensors = [backend.array(np.ones((5, D)))] * 3
        given = backend.array(np.array(wrong)) if native else wrong
        with pytest.raises(TypeError, match=f"tensor_attention: cu_seqlens has dtype {dtype}, expected integers"):
            backend.dtn.tensor_attention(*tensors, cu_seqlens=given)

    def test_a_padding_mask_too(self, backend):
        tensors = [backend.array(np.ones((5, D)))] * 3
        with pytest.raises(ValueError, match="cu_seqlens clashes with padding_mask"):
            backend.dtn.tensor_attention(*tensors, cu_seqlens=[0, 5], padding_mask=backend.array(np.ones(5, bool)))

    def test_a_wrong_shape(self, backend):
        tensors = [backend.array(np.ones(shape)) for shape in ((5, 3), (4, 3), (5, 3))]
        with pytest.raises(ShapeError, match="axis n has size 5 in q"):
            backend.dtn.tensor_attention(*tensors, cu_seqlens=[0, 5])

    @pytest.mark.parametrize(
        ("text", "message"),
        {
            "f(B[n,n], v[n,e]) -> o[n,e]: o[t,c] = B[t,i]*v[i,c]": "f: B has axis n twice, it cannot be packed",
            "f(x[n], y[n]) -> s: s = x[i]*y[i]": "f: cu_seqlens needs one sequence axis, found 0",
        }.items(),
    )
    def test_an_operator_that_cannot_be_packed(self, backend, text, message):
        run = backend.dtn.compile(text)
        program = parse(text)
        tensors = [backend.array(np.ones((5,) * len(param.axes))) for param in program.tensors]
        with pytest.raises(ValueError, match=message):
            run(*tensors, cu_seqlens=[0, 2, 5])
