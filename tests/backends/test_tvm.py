"""`implementation="tvm"` in every framework, against its own generated source."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util

import numpy as np
import pytest

from dtn_core.operators import catalogue, tensor_attention

HAS_TVM = any(found.name == "apache-tvm" for found in importlib.metadata.distributions())  # tests/tvm is a "tvm" too
CAUSAL = {"mask": "causal", "normalize": None}


@pytest.fixture
def kernels(backend):
    """The framework, if kernels can run in it."""
    if not HAS_TVM:
        pytest.skip("Apache TVM is not installed")
    if backend.name == "jax" and importlib.util.find_spec("jax_tvm_ffi") is None:
        pytest.skip("jax-tvm-ffi is not installed")
    return backend


def given(backend, *shapes):
    rng = np.random.default_rng(0)
    return [backend.array(rng.uniform(0.1, 1.1, shape).astype(np.float32) / shape[-1] ** 0.5) for shape in shapes]


def close(backend, found, wanted, tolerance=1e-5):
    found, wanted = backend.numpy(found), backend.numpy(wanted)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_arrays_of_another_byte_order(kernels):
    if kernels.name != "numpy":
        pytest.skip("only NumPy has arrays of another byte order")
    tensors = given(kernels, *[(2, 16, 4)] * 3)
    other = [x.astype(x.dtype.newbyteorder()) for x in tensors]
    found, wanted = (kernels.dtn.tensor_attention(*x, implementation="tvm") for x in (other, tensors))
    close(kernels, found, wanted, 0)


@pytest.mark.parametrize(
    "knobs",
    [CAUSAL, {"mask": "causal", "decay": 0.9, "residual": 0.5}, {}, {"mask": "tril"}, {"activation": "expm"}],
    ids=str,
)
def test_values(kernels, knobs):
    q, k, v = given(kernels, (2, 3, 70, 16), (2, 3, 70, 16), (2, 3, 70, 20))
    attend = kernels.dtn.tensor_attention
    close(kernels, attend(q, k, v, implementation="tvm", **knobs), attend(q, k, v, implementation="native", **knobs))


@pytest.mark.parametrize("layout", ["... n d", "... n h d"])
def test_layouts_and_leading_axes_that_broadcast(kernels, layout):
    q, k, v = given(kernels, (2, 20, 3, 16), (1, 20, 3, 16), (20, 3, 8))
    attend = kernels.dtn.tensor_attention
    if layout == "... n d":
        q, k, v = given(kernels, (2, 3, 20, 16), (1, 3, 20, 16), (3, 20, 8))
    found = attend(q, k, v, layout=layout, implementation="tvm", **CAUSAL)
    close(kernels, found, attend(q, k, v, layout=layout, **CAUSAL))


def test_a_scalar_for_every_head(kernels):
    q, k, v = given(kernels, *[(2, 3, 20, 8)] * 3)
    (decay,) = given(kernels, (2, 3))
    attend = kernels.dtn.tensor_attention
    found = attend(q, k, v, decay=decay, implementation="tvm", **CAUSAL)
    close(kernels, found, attend(q, k, v, decay=decay, **CAUSAL))


def test_a_scalar_for_every_head_of_tensors_without_heads(kernels):
    q, k, v = given(kernels, *[(20, 8)] * 3)
    (decay,) = given(kernels, (3,))
    run = kernels.dtn.tensor_attention
    options = {"mask": "causal", "decay": decay, "return_state": True}
    (found, after), (wanted, before) = (run(q, k, v, implementation=name, **options) for name in ("tvm", "native"))
    for a, b in zip((found, *after), (wanted, *before), strict=True):
        close(kernels, a, b)


def test_an_input_is_left_as_it_was(kernels):
    tensors = given(kernels, *[(2, 20, 8)] * 3)
    before = [np.array(kernels.numpy(x)) for x in tensors]
    first = np.array(kernels.numpy(kernels.dtn.tensor_attention(*tensors, implementation="tvm", **CAUSAL)))
    second = kernels.dtn.tensor_attention(*tensors, implementation="tvm", **CAUSAL)
    assert all(np.array_equal(kernels.numpy(x), y) for x, y in zip(tensors, before, strict=True))
    assert np.array_equal(kernels.numpy(second), first)


@pytest.mark.parametrize("knobs", [CAUSAL, {"mask": "tril"}], ids=str)
def test_gradients(kernels, gradients, knobs):
    shape = (2, 20, 8)
    tensors = [np.asarray(kernels.numpy(x)) for x in given(kernels, *[shape] * 3)]
    weights = np.ones(shape, np.float32)

    def by(implementation):
        def loss(q, k, v):
            output = kernels.dtn.tensor_attention(q, k, v, implementation=implementation, **knobs)
            return gradients.loss(output, weights)

        return gradients.gradients(loss, tensors)

    for found, wanted in zip(by("tvm"), by("native"), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def both(function, *tensors, **options):
    """What kernels and generated source return, results and states side by side."""
    found = []
    for implementation in ("tvm", "native"):
        result = function(implementation)(*tensors, **options)
        found.append([result[0], *result[1]] if options.get("return_state") else [result])
    return zip(*found, strict=True)


def compiled(backend, layout="... n d", **knobs):
    operator = tensor_attention(**{**CAUSAL, **knobs})
    return lambda implementation: backend.dtn.compile(operator, layout=layout, implementation=implementation)


DECAYED = {"decay": 0.9, "normalize": "trace"}
"""With a state that is a number, and states that decay."""


def test_forward_mode_in_tensorflow_is_refused(kernels):
    if kernels.name != "tensorflow":
        pytest.skip("ForwardAccumulator is TensorFlow's")
    q, k, v, tangent = given(kernels, *[(1, 2, 40, 16)] * 4)
    with (
        kernels.tf.autodiff.ForwardAccumulator(q, tangent),
        pytest.raises(NotImplementedError, match="no forward mode"),
    ):
        kernels.dtn.tensor_attention(q, k, v, implementation="tvm", **CAUSAL)


@pytest.mark.parametrize("kind", ["numpy", "keras"])
def test_what_tensorflow_makes_tensors_of_is_taken_again_and_again(kernels, kind):
    if kernels.name != "tensorflow":
        pytest.skip("no other framework converts its arguments")
    keras = importlib.import_module("keras")
    tensors = given(kernels, *[(2, 8, 16)] * 3)
    others = [x.numpy() if kind == "numpy" else keras.Variable(x) for x in tensors]
    function = compiled(kernels, **DECAYED)
    _, state = function("native")(*tensors, return_state=True)
    options = {"padding_mask": MASK, "initial_state": type(state)(*(x.numpy() for x in state))}
    wanted = function("native")(*tensors, **options)
    run = function("tvm")
    for _ in range(2):
        close(kernels, run(*others, **options), wanted)


@pytest.mark.parametrize("size", [8, 700], ids=["a kernel", "no kernel"])
@pytest.mark.parametrize("known", [(2, 9, None), (None, None, None)], ids=str)
def test_gradients_of_tensors_whose_features_a_graph_does_not_know(kernels, known, size):
    if kernels.name != "tensorflow":
        pytest.skip("TensorSpec is TensorFlow's")
    (x,) = given(kernels, (2, 9, size))

    def gradient(x, implementation):
        with kernels.tf.GradientTape() as tape:
            tape.watch(x)
            loss = kernels.tf.reduce_sum(kernels.dtn.tensor_attention(x, x, x, implementation=implementation, **CAUSAL))
        return tape.gradient(loss, x)

    graph = kernels.tf.function(lambda x: gradient(x, "tvm"), input_signature=[kernels.tf.TensorSpec(known)])
    close(kernels, graph(x), gradient(x, "native"), 1e-4)


class TestStates:
    """A sequence in pieces: states go into kernels and come out of them."""

    def test_two_halves_are_the_whole(self, kernels):
        tensors = given(kernels, *[(2, 3, 70, 16)] * 3)
        function = compiled(kernels, **DECAYED)("tvm")
        head, state = function(*(x[:, :, :41] for x in tensors), return_state=True)
        tail, last = function(*(x[:, :, 41:] for x in tensors), initial_state=state, return_state=True)
        whole, wanted = compiled(kernels, **DECAYED)("native")(*tensors, return_state=True)
        assert type(last) is type(wanted)
        for found, expected in zip(last, wanted, strict=True):
            close(kernels, found, expected)
        joined = np.concatenate([kernels.numpy(head), kernels.numpy(tail)], axis=-2)
        np.testing.assert_allclose(joined, kernels.numpy(whole), rtol=0, atol=1e-5 * np.abs(joined).max())

    def test_a_state_whose_leading_axes_broadcast_in_the_other_layout(self, kernels):
        q, k, v, first = given(kernels, (2, 20, 3, 16), (1, 20, 3, 16), (20, 3, 16), (3, 16, 16))
        function = compiled(kernels, layout="... n h d")
        for found, wanted in both(function, q, k, v, initial_state=(first, first), return_state=True):
            found, wanted = kernels.numpy(found), kernels.numpy(wanted)
            assert found.shape[0] == 2  # every state has all leading axes, those that do not depend on them as well
            np.testing.assert_allclose(found, np.broadcast_to(wanted, found.shape), rtol=1e-5)

    def test_tokens_one_at_a_time(self, kernels):
        tensors = given(kernels, *[(3, 5, 16)] * 3)
        function = compiled(kernels)("tvm")
        state, rows = function.init_state(*tensors), []
        for t in range(5):
            row, state = function.step(state, *(x[:, t] for x in tensors))
            rows.append(kernels.numpy(row))
        wanted = kernels.numpy(compiled(kernels)("native")(*tensors))
        np.testing.assert_allclose(np.stack(rows, 1), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())

    def test_gradients_reach_the_initial_state(self, kernels, gradients):
        shapes = [(2, 20, 8)] * 3 + [(2, 8, 8), (2,), (2, 8, 8)]
        tensors = [np.asarray(kernels.numpy(x)) for x in given(kernels, *shapes)]

        def by(implementation):
            function = compiled(kernels, **DECAYED)(implementation)

            def loss(q, k, v, *first):
                output, last = function(q, k, v, initial_state=first, return_state=True)
                return sum(gradients.loss(part, np.ones(part.shape, np.float32)) for part in (output, *last))

            return gradients.gradients(loss, tensors)

        for found, wanted in zip(by("tvm"), by("native"), strict=True):
            assert np.abs(wanted).max() > 0
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())

    def test_no_tokens_leave_a_state_as_it_is(self, kernels):
        tensors = given(kernels, *[(2, 8, 16)] * 3)
        function = compiled(kernels)("tvm")
        _, state = function(*tensors, return_state=True)
        result, same = function(*(x[:, :0] for x in tensors), initial_state=state, return_state=True)
        assert tuple(result.shape) == (2, 0, 16)
        for found, wanted in zip(same, state, strict=True):
            close(kernels, found, wanted)

    def test_an_operator_that_needs_the_whole_has_none(self, kernels):
        tensors = given(kernels, *[(8, 4)] * 3)
        with pytest.raises(ValueError, match="tensor_attention has no state: nothing in it is ordered"):
            compiled(kernels, mask=None)("tvm")(*tensors, return_state=True)
        with pytest.raises(ValueError, match="needs the whole sequence at once"):
            compiled(kernels, mask="tril")("tvm")(*tensors, return_state=True)


MASK = np.array([[1, 1, 0, 1, 0, 1, 1, 0], [0, 1, 1, 1, 1, 0, 0, 0]], bool)


class TestPadding:
    """Tokens that count for nothing."""

    @pytest.mark.parametrize(
        "knobs", [{}, {"normalize": "row"}, {"mask": None, "normalize": "trace"}, {"mask": "tril"}], ids=str
    )
    def test_values(self, kernels, knobs):
        tensors = given(kernels, *[(2, 8, 16)] * 3)
        for found, wanted in both(compiled(kernels, **knobs), *tensors, padding_mask=kernels.array(MASK)):
            close(kernels, found, wanted)

    def test_what_padded_tokens_hold_is_not_looked_at(self, kernels):
        tensors = [np.array(kernels.numpy(x)) for x in given(kernels, *[(2, 8, 16)] * 3)]
        function = compiled(kernels)("tvm")
        wanted = function(*map(kernels.array, tensors), padding_mask=kernels.array(MASK))
        for x in tensors:
            x[~MASK] = np.nan
        close(kernels, function(*map(kernels.array, tensors), padding_mask=kernels.array(MASK)), wanted)

    def test_with_states_and_heads_that_share_the_mask(self, kernels):
        tensors = given(kernels, *[(2, 3, 8, 16)] * 3)
        options = {"padding_mask": kernels.array(MASK[:, None]), "return_state": True}
        _, state = compiled(kernels, **DECAYED)("native")(*tensors, return_state=True)
        for found, wanted in both(compiled(kernels, **DECAYED), *tensors, initial_state=state, **options):
            close(kernels, found, wanted)

    def test_gradients(self, kernels, gradients):
        tensors = [np.asarray(kernels.numpy(x)) for x in given(kernels, *[(2, 8, 16)] * 3)]

        def by(implementation):
            function = compiled(kernels)(implementation)

            def loss(q, k, v):
                output = function(q, k, v, padding_mask=kernels.array(MASK))
                return gradients.loss(output, np.ones(output.shape, np.float32))

            return gradients.gradients(loss, tensors)

        for found, wanted in zip(by("tvm"), by("native"), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


class TestPacked:
    """Sequences one after another, each by itself."""

    starts = (0, 3, 3, 10, 21)

    @pytest.mark.parametrize("layout", ["... n d", "... n h d"])
    def test_values(self, kernels, layout):
        tensors = given(kernels, *[(3, 21, 16) if layout == "... n d" else (21, 3, 16)] * 3)
        function = compiled(kernels, layout=layout)
        for found, wanted in both(function, *tensors, cu_seqlens=self.starts, return_state=True):
            close(kernels, found, wanted)

    def test_from_states(self, kernels):
        tensors = given(kernels, *[(21, 16)] * 3)
        function = compiled(kernels, **DECAYED)
        _, states = function("native")(*tensors, cu_seqlens=self.starts, return_state=True)
        for found, wanted in both(function, *tensors, cu_seqlens=self.starts, initial_state=states):
            close(kernels, found, wanted)


def test_a_token_at_a_time(kernels):
    tensors = given(kernels, *[(2, 20, 8)] * 5)

    def function(implementation):
        return kernels.dtn.compile(catalogue["two_simplicial"].build(), implementation=implementation)

    for found, wanted in both(function, *tensors, return_state=True):
        close(kernels, found, wanted)


def test_a_number_of_tokens_a_chunk(kernels):
    tensors = given(kernels, *[(2, 70, 16)] * 3)
    for found, wanted in both(compiled(kernels), *tensors, chunk_size=64):
        close(kernels, found, wanted)
    with pytest.raises(ValueError, match="with chunk_size=5: chunk=5 is not a multiple of"):
        compiled(kernels)("tvm")(*tensors, chunk_size=5)
    with pytest.raises(ValueError, match="is not computed in chunks"):
        compiled(kernels, mask=None)("tvm")(*tensors, chunk_size=64)


@pytest.mark.skipif(HAS_TVM, reason="Apache TVM is installed")
def test_what_to_install(backend):
    with pytest.raises(
        ValueError, match=r"implementation='tvm' cannot run .*: pip install 'deep-tensor-network\[tvm\]'"
    ):
        backend.dtn.tensor_attention(*given(backend, *[(5, 3)] * 3), implementation="tvm")
