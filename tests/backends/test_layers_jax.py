"""Flax NNX's own ways with a module: jit, split and merge, grad, vmap, jacfwd, rngs and types."""

import layer_frameworks
import numpy as np
import pytest

dtn = layer_frameworks.require("jax")
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402

IMAGES = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
LABELS = np.array([0, 3, 9])


def model(**given):
    seed = {} if "rngs" in given else {"seed": 0}
    return dtn.DeepTensorClassifier(**{"image_size": 4, "embed_dim": 8, "num_heads": 2, "depth": 1, **seed, **given})


def loss_of(own, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(own(images), labels).mean()


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=tolerance, atol=tolerance)


def test_jit_traces_once_for_all_models_of_a_kind():
    traced = []

    @nnx.jit
    def run(own, images):
        traced.append(1)
        return own(images)

    first, second = model(seed=0), model(seed=1)
    close(run(first, IMAGES), first(IMAGES))
    close(run(second, IMAGES), second(IMAGES))
    assert len(traced) == 1


def test_split_and_merge():
    own = model()
    graph, state = nnx.split(own)
    close(jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, IMAGES), own(IMAGES))
    assert nnx.split(model(seed=5))[0] == graph


def test_grad_through_merge_is_nnx_grad():
    own = model()
    graph, state = nnx.split(own)
    found = jax.jit(jax.grad(lambda state: loss_of(nnx.merge(graph, state), IMAGES, LABELS)))(state)
    expected = nnx.jit(nnx.grad(loss_of))(own, IMAGES, LABELS)
    jax.tree.map(lambda a, b: close(a, b), nnx.to_pure_dict(found), nnx.to_pure_dict(expected))


def test_vmap_over_samples_and_over_models():
    own = model()
    close(jax.jit(jax.vmap(own))(IMAGES), own(IMAGES))
    graph, _ = nnx.split(own)
    states = [nnx.split(model(seed=seed))[1] for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    values = jax.jit(jax.vmap(lambda state: nnx.merge(graph, state)(IMAGES)))(stacked)
    close(values[1], model(seed=1)(IMAGES))


def test_forward_mode_is_reverse_mode():
    layer = dtn.TensorAttention(4, 2, seed=0)
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    close(jax.jit(jax.jacfwd(layer))(x), jax.jit(jax.jacrev(layer))(x))


def test_projections_sum_heads_and_features_as_the_weights_have_them():
    """In another order XLA copies the weight at every call; JAX's einsum takes that of the letters."""
    layer = dtn.TensorAttention(8, 2, seed=0)
    products = [e for e in jax.make_jaxpr(layer)(np.ones((3, 8), np.float32)).eqns if e.primitive.name == "dot_general"]
    contracted = [axes for each in products for axes in each.params["dimension_numbers"][0]]
    assert any(len(axes) == 2 for axes in contracted)
    assert all(list(axes) == sorted(axes) for axes in contracted)


def test_rngs_give_the_seed():
    weights = [dtn.TensorAttention(8, rngs=nnx.Rngs(key)).query.weight[...] for key in (0, 0, 1)]
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_seed_and_rngs_together_are_refused():
    with pytest.raises(ValueError, match="seed and rngs: got both"):
        dtn.TensorAttention(8, seed=0, rngs=nnx.Rngs(0))


def test_a_model_of_shapes_only_takes_a_seed():
    abstract = nnx.eval_shape(lambda: model(seed=0))
    assert abstract.head.weight.shape == (8, 10)
    with pytest.raises(ValueError, match=r"rngs: .*expected seed="):
        nnx.eval_shape(lambda: model(rngs=nnx.Rngs(0)))


def test_weights_are_loaded_into_a_model_of_shapes_only(tmp_path):
    made = lambda: dtn.TensorAttention(8, 2, seed=0)  # noqa: E731
    dtn.save_weights(made(), tmp_path / "model.safetensors")
    shapes = nnx.eval_shape(made)
    dtn.load_weights(shapes, tmp_path / "model.safetensors")
    x = jnp.ones((3, 8))
    assert jnp.array_equal(shapes(x), made()(x))


def test_dtype_is_the_type_of_the_computation_and_param_dtype_of_the_parameters():
    mixed = model(dtype=jnp.bfloat16)
    assert (mixed(IMAGES).dtype, mixed.head.weight.dtype) == (jnp.bfloat16, jnp.float32)
    close(mixed(IMAGES), model()(IMAGES), 0.05)
    half = model(param_dtype=jnp.bfloat16)
    assert (half(IMAGES).dtype, half.head.weight.dtype) == (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize("argument", ["dtype", "param_dtype"])
@pytest.mark.parametrize("dtype", ["int32", bool, "flaot32"])
def test_a_type_that_is_neither_floating_nor_complex_is_refused_by_name(argument, dtype):
    with pytest.raises(ValueError, match=f"{argument}: got .*, expected a floating or complex type"):
        model(**{argument: dtype})


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_tokens_that_are_no_integers_are_refused(dtype):
    own = dtn.DeepTensorLM(vocab_size=16, embed_dim=8, num_heads=2, depth=1, seed=0)
    with pytest.raises(TypeError, match=f"Embedding: tokens have dtype {dtype}, expected integers"):
        own(jnp.ones(4, dtype))


def test_trains_with_an_nnx_optimizer():
    own = model()
    optimizer = nnx.Optimizer(own, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(own, optimizer):
        loss, gradients = nnx.value_and_grad(loss_of)(own, IMAGES, LABELS)
        optimizer.update(own, gradients)
        return loss

    losses = [step(own, optimizer) for _ in range(30)]
    assert losses[-1] < 0.05


def test_starts_of_packed_sequences_are_static_in_jit():
    own, tokens = dtn.DeepTensorLM(11, 8, 2, 1, seed=0), np.arange(18).reshape(2, 9) % 11
    run = nnx.jit(lambda own, tokens, starts: own(tokens, cu_seqlens=starts), static_argnums=2)
    close(run(own, tokens, (0, 3, 9)), own(tokens, cu_seqlens=jnp.array([0, 3, 9])))
    with pytest.raises(ValueError, match="cu_seqlens is traced"):
        nnx.jit(lambda own, tokens, starts: own(tokens, cu_seqlens=starts))(own, tokens, jnp.array([0, 3, 9]))


class TestAMesh:
    @pytest.fixture
    def explicit(self):
        return jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))

    def along(self, mesh, array):
        return jax.device_put(array, jax.NamedSharding(mesh, jax.P("x")))

    def test_tokens_of_explicit_sharding(self, explicit):
        own = dtn.DeepTensorLM(vocab_size=16, embed_dim=8, num_heads=2, depth=1, seed=0)
        tokens = jnp.arange(8).reshape(2, 4)
        with jax.set_mesh(explicit):
            found = own(self.along(explicit, tokens))
        assert jax.typeof(found).sharding.spec[0] == "x"
        close(found, own(tokens))

    def test_images_of_explicit_sharding(self, explicit):
        own = model()
        with jax.set_mesh(explicit):
            found = own(self.along(explicit, IMAGES))
        assert jax.typeof(found).sharding.spec[0] == "x"
        close(found, own(IMAGES))

    @pytest.mark.parametrize("kind", ["Auto", "Explicit"])
    def test_a_state_for_an_input_is_carried_in_a_loop(self, kind):
        mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType[kind],))
        own = dtn.DeepTensorBlock(embed_dim=8, num_heads=2, mask="causal", decay=0.9, seed=0)
        x = jax.random.normal(jax.random.key(0), (2, 5, 8))

        def run(x):
            def step(state, token):
                y, state = own.step(token, state)
                return state, y

            return jnp.moveaxis(jax.lax.scan(step, own.init_state(x), jnp.moveaxis(x, 1, 0))[1], 0, 1)

        with jax.set_mesh(mesh):
            given = self.along(mesh, x)
            parallel = jax.shard_map(run, in_specs=jax.P("x"), out_specs=jax.P("x"))
            found = [parallel(given), run(given)]
        for each in found:
            close(each, own(x))
