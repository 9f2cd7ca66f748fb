"""What JAX's own transformations ask of an operator."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys

import frameworks
import numpy as np
import pytest

if frameworks.chosen() != "jax":
    pytest.skip("DTN_BACKEND is not jax", allow_module_level=True)

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import dtn_jax as dtn
from dtn_core.cpuinfo import cores
from dtn_core.errors import ShapeError
from dtn_core.operators import tensor_attention
from dtn_jax import advice

VARIANTS = {
    "default": {}, "row": {"normalize": "row"}, "order 3": {"order": 3, "normalize": "diag"}, "hadamard": {"product": "hadamard"},
    "relu": {"activation": "relu"}, "expm": {"activation": "expm"}, "tril": {"mask": "tril"}, "causal": {"mask": "causal"},
    "decay": {"mask": "causal", "decay": 0.9}, "scalars": {"scale": 0.5, "residual": 0.5, "eps": 0.1},
}  # fmt: skip
every_variant = pytest.mark.parametrize("knobs", VARIANTS.values(), ids=VARIANTS.keys())
Auto, Explicit = AxisType.Auto, AxisType.Explicit
pytestmark = pytest.mark.usefixtures("backend")  # float64 is on


@pytest.fixture
def tensors(backend, rng):
    q, k, v = 0.3 + 0.3 * rng.normal(size=(3, 2, 5, 3))
    return [jnp.asarray(x) for x in (q, q + 0.3 * k, v)]


def close(a, b, tolerance=1e-9):
    return np.allclose(a, b, rtol=tolerance, atol=1e-12)


class TestJit:
    @every_variant
    def test_the_functional_interface(self, tensors, knobs):
        run = jax.jit(lambda q, k, v: dtn.tensor_attention(q, k, v, **knobs))
        assert close(run(*tensors), dtn.tensor_attention(*tensors, **knobs))

    def test_a_compiled_operator(self, tensors):
        operator = dtn.compile(tensor_attention())
        assert close(jax.jit(operator)(*tensors), operator(*tensors))

    def test_one_trace_a_shape(self, tensors):
        traces = []

        @jax.jit
        def run(q, k, v):
            traces.append(q.shape)
            return dtn.tensor_attention(q, k, v)

        for _ in range(3):
            run(*tensors)
        assert traces == [(2, 5, 3)]

    def test_a_traced_scalar(self, tensors):
        run = jax.jit(lambda s, *t: dtn.tensor_attention(*t, scale=s, normalize=None))
        assert close(run(0.5, *tensors), dtn.tensor_attention(*tensors, scale=0.5, normalize=None))

    def test_a_traced_decay(self, tensors):
        run = jax.jit(lambda g, *t: dtn.tensor_attention(*t, decay=g, mask="causal"))
        assert close(run(0.9, *tensors), dtn.tensor_attention(*tensors, decay=0.9, mask="causal"))

    def test_a_traced_padding_mask(self, tensors):
        keep = jnp.array([True, True, False, True, False])
        run = jax.jit(lambda m, *t: dtn.tensor_attention(*t, padding_mask=m))
        assert close(run(keep, *tensors), dtn.tensor_attention(*tensors, padding_mask=keep))

    def test_a_wrong_shape_is_refused_while_tracing(self, tensors):
        q, k, v = tensors
        with pytest.raises(ShapeError, match="axis d has size 3 in q"):
            jax.jit(dtn.tensor_attention)(q, k[..., :2], v)

    def test_eval_shape_runs_nothing(self):
        shape = jax.ShapeDtypeStruct((2, 10**6, 64), jnp.float32)
        assert jax.eval_shape(dtn.tensor_attention, shape, shape, shape).shape == (2, 10**6, 64)

    def test_the_default_operator_makes_no_n_by_n_array(self):
        shape = jax.ShapeDtypeStruct((4096, 8), jnp.float32)
        text = str(jax.make_jaxpr(dtn.tensor_attention)(shape, shape, shape))
        assert "4096,4096" not in text
        assert "4096,8" in text

    def test_an_abstract_batch_in_vmap_of_jit(self, tensors):
        run = jax.vmap(jax.jit(dtn.tensor_attention))
        assert close(run(*tensors), dtn.tensor_attention(*tensors))


class TestAnyLength:
    """Exported with a length that is a symbol: one program serves all, the oracle being what knows the length."""

    @pytest.mark.parametrize("knobs", ["default", "tril", "causal", "decay"])
    def test_values_and_gradients(self, rng, knobs):
        def loss(q, k, v):
            result = dtn.tensor_attention(q, k, v, **VARIANTS[knobs])
            return (result**2).sum(), result

        run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
        self.same(rng, run)

    def test_states(self, rng):
        operator = dtn.compile(tensor_attention(mask="causal", decay=0.9))
        self.same(rng, jax.jit(lambda *tensors: operator(*tensors, return_state=True)))

    @staticmethod
    def same(rng, run):
        length = jax.export.symbolic_shape("n", constraints=["n >= 1"])[0]
        exported = jax.export.export(run)(*[jax.ShapeDtypeStruct((2, length, 3), "float64")] * 3)
        for n in (1, 31, 64, 100):
            tensors = 0.2 + rng.uniform(size=(3, 2, n, 3))
            found, expected = jax.tree.leaves(exported.call(*tensors)), jax.tree.leaves(run(*tensors))
            for a, b in zip(found, expected, strict=True):
                assert jnp.abs(a - b).max() <= 1e-10 * (1 + jnp.abs(b).max())


class TestVmap:
    @every_variant
    def test_over_the_batch(self, tensors, knobs):
        run = dtn.compile(tensor_attention(**knobs))
        assert close(jax.vmap(run)(*tensors), run(*tensors))

    def test_over_one_tensor(self, tensors):
        q, k, v = tensors
        got = jax.vmap(dtn.tensor_attention, in_axes=(0, None, None))(q, k[0], v[0])
        assert close(got, dtn.tensor_attention(q, k[0], v[0]))

    def test_over_a_scalar(self, tensors):
        scales = jnp.array([0.5, 1.0, 2.0])
        run = lambda s: dtn.tensor_attention(*tensors, scale=s, normalize=None)  # noqa: E731
        got = jax.vmap(run)(scales)
        assert close(got[2], run(2.0))

    def test_over_the_last_axis(self, tensors):
        moved = [jnp.moveaxis(x, 0, -1) for x in tensors]
        got = jax.vmap(dtn.tensor_attention, in_axes=-1)(*moved)
        assert close(got, dtn.tensor_attention(*tensors))


class TestDerivatives:
    @pytest.mark.parametrize(
        "knobs", [{}, {"normalize": "row"}, {"mask": "tril"}, {"mask": "causal", "decay": 0.9}], ids=str
    )
    def test_jacfwd_equals_jacrev(self, tensors, knobs):
        q, k, v = (x[0, :3, :2] for x in tensors)
        run = lambda q: dtn.tensor_attention(q, k, v, **knobs)  # noqa: E731
        assert close(jax.jit(jax.jacfwd(run))(q), jax.jit(jax.jacrev(run))(q), 1e-8)

    def test_jvp_is_the_adjoint_of_vjp(self, tensors, rng):
        tangents = [jnp.asarray(rng.normal(size=x.shape)) for x in tensors]
        value, moved = jax.jvp(dtn.tensor_attention, tensors, tangents)
        cotangent = jnp.asarray(rng.normal(size=value.shape))
        _, pull = jax.vjp(dtn.tensor_attention, *tensors)
        backward = sum((g * t).sum() for g, t in zip(pull(cotangent), tangents, strict=True))
        assert close((moved * cotangent).sum(), backward)

    def test_grad_of_jit_equals_jit_of_grad(self, tensors):
        loss = lambda *t: dtn.tensor_attention(*t).sum()  # noqa: E731
        inside, outside = jax.grad(jax.jit(loss))(*tensors), jax.jit(jax.grad(loss))(*tensors)
        assert close(inside, outside)

    def test_hessian_is_symmetric(self, tensors):
        q, k, v = (x[0, :3, :2] for x in tensors)
        hessian = jax.jit(jax.hessian(lambda q: dtn.tensor_attention(q, k, v).sum()))(q).reshape(6, 6)
        assert close(hessian, hessian.T, 1e-8)

    def test_checkpoint(self, tensors):
        loss = lambda run: jax.grad(lambda q: run(q, *tensors[1:]).sum())(tensors[0])  # noqa: E731
        assert close(loss(jax.checkpoint(dtn.tensor_attention)), loss(dtn.tensor_attention))

    def test_no_nan_arises_on_the_way(self, tensors):
        with jax.debug_nans(True):
            zero = jnp.zeros_like(tensors[0])
            jax.grad(lambda q: dtn.tensor_attention(q, zero, tensors[2]).sum())(zero)


class TestDtypes:
    def test_without_x64_the_result_is_single_precision(self, tensors):
        with jax.enable_x64(False):
            x = jnp.ones((5, 3))
            assert dtn.tensor_attention(x, x, x).dtype == jnp.float32

    def test_numpy_arrays_are_taken(self, tensors):
        got = dtn.tensor_attention(*map(np.asarray, tensors))
        assert isinstance(got, jax.Array)
        assert close(got, dtn.tensor_attention(*tensors))

    def test_matmul_precision_is_left_to_the_user(self, tensors):
        with jax.default_matmul_precision("float32"):
            assert close(dtn.tensor_attention(*tensors), dtn.tensor_attention(*tensors))


class TestCopies:
    def test_pickle(self, tensors):
        operator = dtn.compile(tensor_attention(order=3))
        again = pickle.loads(pickle.dumps(operator))  # noqa: S301 - made one line above
        assert close(again(*tensors), operator(*tensors))

    def test_an_operator_can_be_a_static_argument(self, tensors):
        run = jax.jit(lambda operator, *t: operator(*t), static_argnums=0)
        operator = dtn.compile(tensor_attention())
        assert close(run(operator, *tensors), operator(*tensors))


def test_scan_over_layers(tensors):
    q, k, v = tensors

    def layer(x, _):
        return x + dtn.tensor_attention(q, k, x), None

    scanned, _ = jax.lax.scan(layer, v, None, length=3)
    looped = v
    for _ in range(3):
        looped = looped + dtn.tensor_attention(q, k, looped)
    assert close(scanned, looped)


@pytest.mark.skipif(jax.device_count() < 2, reason="JAX has one device; see tests/backends/conftest.py")
class TestMeshes:
    """Tokens of one sequence and head stay together, so that devices have nothing to say to each other."""

    KNOBS = (
        {},
        {"mask": "causal"},
        {"mask": "causal", "decay": 0.9},
        {"mask": "causal", "product": "hadamard"},
        {"mask": "causal", "normalize": "row", "chunk_size": 32},
    )
    SPECS = (P("x"), P(None, "x"))  # the batch, and the heads

    @staticmethod
    def mesh(axis_type):
        return jax.make_mesh((2,), ("x",), axis_types=(axis_type,))

    def sharded(self, x, axis_type, spec):
        mesh = self.mesh(axis_type)
        return mesh, jax.device_put(x, jax.NamedSharding(mesh, spec))

    @staticmethod
    def operator(knobs):
        return lambda x: dtn.tensor_attention(x, x, x, **knobs)

    @pytest.fixture
    def x(self, rng):
        return rng.random((2, 4, 600, 8))  # of as many tokens decays and hadamard are loops, whose carry is sharded

    @pytest.mark.parametrize("spec", SPECS, ids=("batch", "heads"))
    @pytest.mark.parametrize("knobs", KNOBS, ids=str)
    def test_shard_map(self, x, knobs, spec):
        run = jax.jit(jax.shard_map(self.operator(knobs), mesh=self.mesh(Auto), in_specs=spec, out_specs=spec))
        assert close(run(x), self.operator(knobs)(jnp.asarray(x)))

    @pytest.mark.parametrize("spec", SPECS, ids=("batch", "heads"))
    @pytest.mark.parametrize("axis_type", [Auto, Explicit])
    @pytest.mark.parametrize("knobs", KNOBS, ids=str)
    def test_operators(self, x, knobs, axis_type, spec):
        run, (_, given) = jax.jit(self.operator(knobs)), self.sharded(x, axis_type, spec)
        found = run(given)
        assert close(found, run(x))
        assert found.sharding.is_equivalent_to(given.sharding, found.ndim)
        assert not re.search("all-gather|all-reduce|all-to-all|collective", run.lower(given).compile().as_text())

    @pytest.mark.parametrize("spec", SPECS, ids=("batch", "heads"))
    @pytest.mark.parametrize("axis_type", [Auto, Explicit])
    def test_gradients(self, x, axis_type, spec):
        gradient = jax.jit(jax.grad(lambda x: (self.operator(self.KNOBS[2])(x) ** 2).sum()))
        mesh, given = self.sharded(x, axis_type, spec)
        with jax.set_mesh(mesh):
            found = gradient(given)
        assert close(found, gradient(x))
        assert found.sharding.is_equivalent_to(given.sharding, found.ndim)

    def test_gradients_under_shard_map(self, x):
        gradient = jax.grad(lambda x: (self.operator(self.KNOBS[2])(x) ** 2).sum())
        run = jax.jit(jax.shard_map(gradient, mesh=self.mesh(Auto), in_specs=P("x"), out_specs=P("x")))
        assert close(run(x), jax.jit(gradient)(x))

    def test_a_sequence_that_is_divided_is_communicated_where_axes_are_automatic(self, x):
        run = jax.jit(self.operator(self.KNOBS[2]))
        _, given = self.sharded(x, Auto, P(None, None, "x"))
        assert close(run(given), run(x))

    def test_a_model_its_gradients_and_what_it_writes(self, rng):
        model = dtn.DeepTensorLM(vocab_size=50, embed_dim=16, num_heads=2, depth=1, seed=0, param_dtype="float64")
        texts = rng.integers(0, 50, (4, 200))

        @nnx.jit
        @nnx.value_and_grad
        def loss(model, texts):
            likely = jax.nn.log_softmax(model(texts[:, :-1]))
            return -(likely * jax.nn.one_hot(texts[:, 1:], 50)).sum(-1).mean()

        (value, wanted), written = loss(model, jnp.asarray(texts)), model.generate(texts[:, :9], 4, seed=1)
        mesh, given = self.sharded(texts, Explicit, P("x"))
        with jax.set_mesh(mesh):
            found, gradients = loss(model, given)
            assert np.array_equal(model.generate(given[:, :9], 4, seed=1), written)
        assert close(found, value)
        assert all(map(close, jax.tree.leaves(gradients), jax.tree.leaves(wanted)))


def at_once(second_cache, n):
    """How many chunks of 64 tokens, of 8 heads and 64 features, the generated source takes at once."""
    system, names = "/sys/devices/system/cpu/cpu0/cache/index2/size", {}
    source = dtn.compile(tensor_attention(mask="causal", normalize=None)).source
    assert system in source
    exec(source.replace(system, str(second_cache)), names)  # noqa: S102 - the library's own text
    return names["_at_once"](np.broadcast_to(0, (8, n, 64)), n, 64, 1)


@pytest.mark.parametrize(
    ("said", "devices", "long", "short"),
    [("1024K\n", 1, 4, 16), ("2M\n", 1, 4, 16), (None, 1, 4, 16), ("512K\n", 1, 2, 2), ("1024K\n", 2, 2, 2)],
)
def test_chunks_at_once_fit_the_second_cache(tmp_path, monkeypatch, said, devices, long, short):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    size = tmp_path / "size"
    if said is not None:
        size.write_text(said)
    assert [at_once(size, n) for n in (8192, 1024)] == [long, short]


def test_chunks_at_once_fit_a_small_part_of_a_cards_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [at_once(tmp_path, n) for n in (8192, 2**20)] == [8192 // 64 * 32, 4096]


def test_advice_ends_where_every_core_has_a_device():
    environment = {name: value for name, value in os.environ.items() if name not in (advice.SWITCH, "XLA_FLAGS")}

    def lines(**variables):
        child = "from dtn_jax.advice import advice; print(len(advice()))"
        run = [sys.executable, "-c", child]
        done = subprocess.run(run, capture_output=True, text=True, env=environment | variables, check=True)
        return int(done.stdout.split()[-1])

    assert lines() == (cores() > 1)
    assert lines(**{advice.SWITCH: "2"}) == 0


def test_floats_of_eight_bits_are_refused_by_name(tensors):
    q, k, v = tensors
    with pytest.raises(TypeError, match="tensor_attention: k has dtype float8_e4m3fn; expected at least 16 bits"):
        dtn.tensor_attention(q, k.astype(jnp.float8_e4m3fn), v)
