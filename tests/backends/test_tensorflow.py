"""What TensorFlow's own machinery asks of an operator."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import frameworks
import numpy as np
import pytest

if frameworks.chosen() != "tensorflow":
    pytest.skip("DTN_BACKEND is not tensorflow", allow_module_level=True)

import tensorflow as tf

import dtn_tensorflow as dtn
from dtn_core.cpuinfo import CPUINFO
from dtn_core.errors import ShapeError
from dtn_core.operators import tensor_attention, tensor_interaction
from dtn_tensorflow import advice

VARIANTS = {
    "default": {}, "row": {"normalize": "row"}, "order 3": {"order": 3, "normalize": "diag"}, "hadamard": {"product": "hadamard"},
    "relu": {"activation": "relu"}, "expm": {"activation": "expm"}, "tril": {"mask": "tril"}, "causal": {"mask": "causal"},
    "decay": {"mask": "causal", "decay": 0.9}, "scalars": {"scale": 0.5, "residual": 0.5, "eps": 0.1},
}  # fmt: skip
every_variant = pytest.mark.parametrize("knobs", VARIANTS.values(), ids=VARIANTS.keys())


@pytest.fixture
def tensors(rng):
    q, k, v = 0.3 + 0.3 * rng.normal(size=(3, 2, 5, 3))
    return [tf.constant(x) for x in (q, q + 0.3 * k, v)]


def close(a, b, tolerance=1e-9):
    return np.allclose(a, b, rtol=tolerance, atol=1e-12)


def unknown(*shape, dtype=tf.float64):
    return tf.TensorSpec(shape, dtype)


class TestFunction:
    @every_variant
    def test_known_shapes(self, tensors, knobs):
        run = tf.function(lambda q, k, v: dtn.tensor_attention(q, k, v, **knobs))
        assert close(run(*tensors), dtn.tensor_attention(*tensors, **knobs))

    @every_variant
    def test_an_unknown_number_of_tokens(self, rng, knobs):
        signature = [unknown(None, None, 3)] * 3
        run = tf.function(lambda q, k, v: dtn.tensor_attention(q, k, v, **knobs), input_signature=signature)
        for n in (1, 5, 9):
            q, k, v = 0.3 + 0.3 * rng.normal(size=(3, 2, n, 3))
            k = q + 0.3 * k
            assert close(run(q, k, v), dtn.tensor_attention(q, k, v, **knobs))

    def test_one_trace_for_all_lengths(self, rng):
        run = tf.function(lambda *t: dtn.tensor_attention(*t), input_signature=[unknown(None, 3)] * 3)
        for n in (1, 5, 9):
            run(*rng.normal(size=(3, n, 3)))
        assert run.experimental_get_tracing_count() == 1

    def test_an_unknown_number_of_leading_axes(self, tensors):
        run = tf.function(lambda *t: dtn.tensor_attention(*t), input_signature=[unknown(None, None, None, None)] * 3)
        four = [x[None] for x in tensors]
        assert close(run(*four), dtn.tensor_attention(*four))

    @pytest.mark.parametrize("knobs", [{"normalize": "row"}, {"product": "hadamard"}], ids=str)
    def test_leading_axes_of_unknown_size_broadcast(self, tensors, knobs):
        q, k, v = tensors
        run = tf.function(lambda *t: dtn.tensor_attention(*t, **knobs), input_signature=[unknown(None, None, 3)] * 3)
        for three in ((q, k[:1], v), (q[:1], k, v[:1]), (q, k, v)):
            assert close(run(*three), dtn.tensor_attention(*three, **knobs))

    def test_decays_of_unknown_number_broadcast(self, tensors):
        run = tf.function(
            lambda decay, *t: dtn.tensor_attention(*t, mask="causal", decay=decay),
            input_signature=[unknown(None), *[unknown(None, None, 3)] * 3],
        )
        for decay in ([0.9], [0.9, 0.5]):
            decay = tf.constant(decay, tf.float64)
            assert close(run(decay, *tensors), dtn.tensor_attention(*tensors, mask="causal", decay=decay))

    @pytest.mark.parametrize("size", [0, 2])
    def test_no_tokens_of_unknown_features(self, size):
        knobs = {"mask": "causal", "product": "hadamard"}
        signature = [unknown(None, 3), unknown(None, 3), unknown(None, None)]
        run = tf.function(lambda *t: dtn.tensor_attention(*t, **knobs), input_signature=signature)
        for n in (0, 4):
            assert run(*np.ones((2, n, 3)), np.ones((n, size))).shape == (n, size)

    def test_an_operator_that_is_compiled_in_a_graph(self, rng):
        text = "traced(x[n,d]) -> o[n,d]: o[t,a] = x[i,a] where i < t"
        x = rng.normal(size=(5, 3))

        @tf.function
        def run(x):
            return dtn.compile(text)(x)

        assert np.allclose(run(x), np.cumsum(x, 0) - x)

    @pytest.mark.parametrize("jit_compile", [False, True])
    @pytest.mark.parametrize("length", [None, 11])
    @pytest.mark.parametrize("product", ["matmul", "hadamard"])
    def test_a_state_that_a_batch_goes_on_from(self, rng, product, length, jit_compile):
        function = dtn.compile(tensor_attention(mask="causal", decay=0.9, product=product))
        _, state = function(*rng.normal(size=(3, 5, 3)), return_state=True)

        def resumed(*t):
            return function(*t, initial_state=state, chunk_size=4)

        x = rng.normal(size=(3, 2, 11, 3))
        signature = [unknown(2, length, 3)] * 3
        assert close(tf.function(resumed, jit_compile=jit_compile, input_signature=signature)(*x), resumed(*x))

    def test_the_static_shape_of_the_result_is_known_where_the_arguments_are(self):
        run = tf.function(lambda *t: dtn.tensor_attention(*t), input_signature=[unknown(2, None, 3)] * 3)
        assert run.get_concrete_function().structured_outputs.shape.as_list() == [2, None, 3]

    @pytest.mark.parametrize("length", [1024, 1025])
    @pytest.mark.parametrize(
        "text", ["x[n,d]) -> c[n,d,d]: c[t,a,b] = x[i,a] * x[i,b]", "x[d,n]) -> c[d,d,n]: c[a,b,t] = x[a,i] * x[b,i]"]
    )
    def test_as_many_tokens_as_fill_their_chunks(self, rng, text, length):
        """An empty product that broadcasts kills the process, in a graph."""
        x = rng.normal(size=(length, 2))
        wanted = np.cumsum(x[:, :, None] * x[:, None, :], 0)
        first = "x[n" in text
        got = tf.function(dtn.compile(f"cov({text} where i <= t"), autograph=False)(tf.constant(x if first else x.T))
        assert close(got, wanted if first else np.moveaxis(wanted, 0, -1))

    def test_a_scalar_that_is_a_tensor(self, tensors):
        run = tf.function(lambda s, *t: dtn.tensor_attention(*t, scale=s, normalize=None))
        assert close(
            run(tf.constant(0.5, tf.float64), *tensors), dtn.tensor_attention(*tensors, scale=0.5, normalize=None)
        )

    def test_a_padding_mask(self, tensors):
        keep = tf.constant([True, True, False, True, False])
        run = tf.function(lambda m, *t: dtn.tensor_attention(*t, padding_mask=m))
        assert close(run(keep, *tensors), dtn.tensor_attention(*tensors, padding_mask=keep))

    def test_a_wrong_shape_is_refused_while_tracing(self, tensors):
        q, k, v = tensors
        with pytest.raises(ShapeError, match="axis d has size 3 in q"):
            tf.function(lambda *t: dtn.tensor_attention(*t))(q, k[..., :2], v)

    def test_gradients_inside(self, tensors):
        @tf.function
        def gradient(q, k, v):
            with tf.GradientTape() as tape:
                tape.watch(q)
                loss = tf.reduce_sum(dtn.tensor_attention(q, k, v))
            return tape.gradient(loss, q)

        with tf.GradientTape() as tape:
            tape.watch(tensors[0])
            loss = tf.reduce_sum(dtn.tensor_attention(*tensors))
        assert close(gradient(*tensors), tape.gradient(loss, tensors[0]))

    def test_no_n_by_n_tensor_is_in_the_graph(self):
        run = tf.function(lambda *t: dtn.tensor_attention(*t), input_signature=[unknown(4096, 8)] * 3)
        shapes = [out.shape for op in run.get_concrete_function().graph.get_operations() for out in op.outputs]
        assert not any(shape.rank is not None and list(shape).count(4096) > 1 for shape in shapes)


class TestXla:
    @every_variant
    def test_jit_compile(self, tensors, knobs):
        run = tf.function(lambda q, k, v: dtn.tensor_attention(q, k, v, **knobs), jit_compile=True)
        assert close(run(*tensors), dtn.tensor_attention(*tensors, **knobs))

    def test_jit_compile_with_an_unknown_number_of_tokens(self, rng):
        run = tf.function(lambda *t: dtn.tensor_attention(*t), jit_compile=True, input_signature=[unknown(None, 3)] * 3)
        for n in (3, 8):
            tensors = rng.normal(size=(3, n, 3))
            assert close(run(*tensors), dtn.tensor_attention(*tensors))

    @pytest.mark.parametrize("knobs", [{}, {"mask": "causal"}, {"normalize": "row", "mask": "tril"}], ids=str)
    def test_gradients(self, tensors, knobs):
        def gradient(q, k, v):
            with tf.GradientTape() as tape:
                tape.watch(q)
                loss = tf.reduce_sum(dtn.tensor_attention(q, k, v, **knobs) ** 2)
            return tape.gradient(loss, q)

        assert close(tf.function(gradient, jit_compile=True)(*tensors), gradient(*tensors), 1e-8)


class TestGradientTape:
    def test_a_variable(self, tensors):
        variable = tf.Variable(tensors[0])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(dtn.tensor_attention(variable, *tensors[1:]))
        assert tape.gradient(loss, variable).shape == variable.shape

    def test_only_one_input_is_watched(self, tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors[1])
            loss = tf.reduce_sum(dtn.tensor_attention(*tensors))
        found = tape.gradient(loss, tensors)
        assert [x is not None for x in found] == [False, True, False]

    @pytest.mark.parametrize("knobs", [{}, {"mask": "causal"}], ids=str)
    def test_forward_mode_equals_the_jacobian(self, tensors, knobs):
        q, k, v = (x[0] for x in tensors)
        tangent = tf.ones_like(q)
        with tf.autodiff.ForwardAccumulator(q, tangent) as forward:
            value = dtn.tensor_attention(q, k, v, **knobs)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(q)
            again = dtn.tensor_attention(q, k, v, **knobs)
        jacobian = tape.jacobian(again, q, experimental_use_pfor=False)
        assert close(forward.jvp(value), tf.einsum("ijkl,kl->ij", jacobian, tangent))

    def test_per_example_gradients(self, tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors[0])
            losses = tf.reduce_sum(dtn.tensor_attention(*tensors), axis=(1, 2))
        jacobian = tape.jacobian(losses, tensors[0])
        assert close(jacobian[0, 1], np.zeros((5, 3)))


def test_vectorized_map(tensors):
    got = tf.vectorized_map(lambda t: dtn.tensor_attention(*t), tuple(tensors))
    assert close(got, dtn.tensor_attention(*tensors))


def test_map_fn(tensors):
    got = tf.map_fn(lambda t: dtn.tensor_attention(*t), tuple(tensors), fn_output_signature=tf.float64)
    assert close(got, dtn.tensor_attention(*tensors))


def test_numpy_arrays_are_taken(tensors):
    got = dtn.tensor_attention(*(x.numpy() for x in tensors))
    assert tf.is_tensor(got)
    assert close(got, dtn.tensor_attention(*tensors))


@pytest.mark.parametrize("make", [tf.RaggedTensor.from_tensor, tf.sparse.from_dense])
def test_tensors_that_are_not_dense_are_refused_by_name(tensors, make):
    q, k, v = tensors
    dtn.tensor_attention(q, k, v)  # a plan for dense tensors is not for others of their shape
    function = dtn.compile(tensor_attention(mask="causal"))
    state = function.init_state(q, k, v)
    for refused in (
        lambda: dtn.tensor_attention(q, make(k), v),
        lambda: dtn.tensor_attention(q, k=make(k), v=v),
        lambda: function.init_state(q, make(k), v),
        lambda: function.step(state, q[:, 0], make(k[:, 0]), v[:, 0]),
    ):
        with pytest.raises(TypeError, match="tensor_attention: k is a (Ragged|Sparse)Tensor, expected a dense tensor"):
            refused()
    with pytest.raises(TypeError, match="tensor_attention: padding_mask is a (Ragged|Sparse)Tensor"):
        dtn.tensor_attention(q, k, v, padding_mask=make(q[..., 0]))


def test_a_tensor_of_unknown_rank_is_refused_by_name(tensors):
    q, k, v = tensors

    def run(q):
        return dtn.tensor_attention(q, k, v)

    traced = tf.function(run, input_signature=[tf.TensorSpec(None, q.dtype)])
    with pytest.raises(
        ShapeError, match="tensor_attention: q has axes that are not known, say how many with tf.ensure_shape"
    ):
        traced(q)


def test_a_saved_model(tensors, tmp_path):
    class Model(tf.Module):
        @tf.function(input_signature=[unknown(None, None, 3)] * 3)
        def __call__(self, q, k, v):
            return dtn.tensor_attention(q, k, v)

    tf.saved_model.save(Model(), str(tmp_path))
    assert close(tf.saved_model.load(str(tmp_path))(*tensors), dtn.tensor_attention(*tensors))


def test_pickle(tensors):
    operator = dtn.compile(tensor_attention(order=3))
    again = pickle.loads(pickle.dumps(operator))  # noqa: S301 - made one line above
    assert close(again(*tensors), operator(*tensors))


def test_a_device_scope(tensors):
    with tf.device("/CPU:0"):
        result = dtn.tensor_attention(*tensors)
    assert "CPU:0" in result.device


def test_xla_computes_chunks_of_complex_numbers(rng):
    x = [tf.constant(part[0] + 1j * part[1]) for part in rng.normal(size=(3, 2, 11, 3))]
    run = dtn.compile(tensor_attention(mask="causal"))
    compiled = tf.function(lambda *t: run(*t, chunk_size=4), jit_compile=True)
    assert close(compiled(*x), run(*x, chunk_size=11))


class TestChunksOneAfterAnother:
    """A causal operator whose tensors of tokens have two feature axes walks its chunks in a loop."""

    run = staticmethod(dtn.compile(tensor_interaction(mask="causal", product="hadamard", normalize="diag", decay=0.9)))

    def test_xla_compiles_the_loop(self, rng):
        x = [tf.constant(part) for part in rng.normal(size=(3, 2, 11, 3))]
        compiled = tf.function(lambda *t: self.run(*t, chunk_size=4), jit_compile=True)
        assert close(compiled(*x), self.run(*x, chunk_size=11))

    def test_with_a_padding_mask_in_a_graph(self, rng):
        x = [tf.constant(part) for part in rng.normal(size=(3, 2, 11, 3))]
        keep = tf.constant([True] * 8 + [False] * 3)
        graph = tf.function(lambda *t: self.run(*t, padding_mask=keep, chunk_size=4))
        assert close(graph(*x), self.run(*x, padding_mask=keep, chunk_size=11))


@pytest.mark.parametrize("dtype", [tf.float64, tf.complex128])
def test_xla_computes_and_differentiates_matrix_exponentials(rng, dtype):
    q, k, v = (tf.cast(0.5 * part, dtype) for part in rng.normal(size=(3, 5, 3)))
    run = dtn.compile(tensor_attention(activation="expm"))

    def gradient(q):
        with tf.GradientTape() as tape:
            tape.watch(q)
            loss = tf.math.real(tf.reduce_sum(run(q, k, v)))
        return tape.gradient(loss, q)

    assert close(tf.function(gradient, jit_compile=True)(q), gradient(q))


@pytest.mark.parametrize(
    ("text", "environment", "lines"),
    [
        ("flags\t\t: fpu avx2 fma\n", {}, 1),
        ("flags\t\t: fpu avx2 fma\n", {"TF_ENABLE_ONEDNN_OPTS": "0"}, 0),
        ("flags\t\t: fpu avx2 avx512_vnni\n", {}, 0),
        ("Features\t: fp asimd\n", {}, 0),
    ],
)
def test_advice_where_tensorflow_leaves_out_a_library_that_nobody_chose(
    text, environment, lines, tmp_path, monkeypatch
):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("dtn_core.cpuinfo.CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(text)
    assert len(advice.advice(environment)) == lines


@pytest.mark.skipif(not CPUINFO.exists(), reason="says nothing of its processor")
def test_advice_is_right_about_what_tensorflow_does():
    child = "from tensorflow.python.util._pywrap_util_port import IsMklEnabled; print(IsMklEnabled())"
    environment = {name: value for name, value in os.environ.items() if name != advice.SWITCH}
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split()[-1] == str(not advice.advice(environment))
