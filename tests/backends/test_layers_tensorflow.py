"""Keras' own ways with a layer: functional models, fit, saving, policies, masks, tf.function and XLA."""

import os
import subprocess
import sys

import layer_frameworks
import numpy as np
import pytest

dtn = layer_frameworks.require("tensorflow")
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

IMAGES = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
TOKENS = np.random.default_rng(1).normal(size=(3, 5, 8)).astype(np.float32)
LABELS = np.array([0, 3, 9])


def model(**given):
    return dtn.DeepTensorClassifier(**{"image_size": 4, "embed_dim": 8, "num_heads": 2, "depth": 1, "seed": 0, **given})


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_runs_in_a_function_with_its_gradients(jit_compile):
    own = model()

    @tf.function(jit_compile=jit_compile)
    def run(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(own(images) ** 2)
        return own(images), tape.gradient(loss, own.trainable_variables)

    value, gradients = run(IMAGES)
    close(value, own(IMAGES))
    assert [gradient.shape for gradient in gradients] == [variable.shape for variable in own.trainable_variables]
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_one_trace_serves_every_batch_and_length():
    layer = dtn.DeepTensorBlock(8, 2, seed=0)
    run = tf.function(layer, input_signature=[tf.TensorSpec([None, None, 8])])
    close(run(TOKENS), layer(TOKENS))
    close(run(TOKENS[:1, :2]), layer(TOKENS[:1, :2]))


def functional():
    inputs = keras.Input((None, 8))
    x = dtn.DeepTensorBlock(8, 2, attention_knobs={"order": 3, "normalize": None}, seed=0)(inputs)
    x = dtn.TensorAttention(8, num_heads=2, seed=1)(x)
    x = dtn.TensorInteraction(8, num_heads=2, seed=2)(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))


def test_a_functional_model_of_unknown_length():
    own = functional()
    assert own.output_shape == (None, 8)
    x = TOKENS[:, :2]
    for layer in own.layers[1:]:
        x = layer(x)
    close(own(TOKENS[:, :2]), x)


@pytest.mark.parametrize("make", [model, functional])
def test_a_saved_model_loads_with_the_same_weights(make, tmp_path):
    own = make()
    inputs = IMAGES if make is model else TOKENS
    expected = own(inputs)
    own.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(own)
    close(loaded(inputs), expected, 0)


def test_keras_weights_files_load(tmp_path):
    own, other = model(), model(seed=1)
    own.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    close(other(IMAGES), own(IMAGES), 0)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: dtn.TensorAttention(8, 2, order=3, residual=0.5, seed=3, name="mixer"),
        lambda: dtn.DeepTensorBlock(8, 2, attention_knobs={"eps": 1e-6}, dtype="mixed_bfloat16"),
        lambda: model(image_size=(4, 6), trainable=False),
    ],
)
def test_config_round_trips(layer):
    made = layer()
    again = type(made).from_config(made.get_config())
    assert again.definition == made.definition
    assert again.get_config() == made.get_config()


def test_fit_evaluate_and_predict():
    own = model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    own.compile(keras.optimizers.Adam(1e-2), loss, metrics=["accuracy"])
    own.fit(IMAGES, LABELS, epochs=40, batch_size=3, verbose=0)
    assert own.evaluate(IMAGES, LABELS, verbose=0)[0] < 0.05
    assert own.predict(IMAGES, verbose=0).argmax(-1).tolist() == LABELS.tolist()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_computes_in_half_and_keeps_float32_weights(policy):
    own = model(dtype=policy)
    value = own(IMAGES)
    assert value.dtype == policy.removeprefix("mixed_")
    assert {variable.dtype for variable in own.weights} == {"float32"}
    close(value, model()(IMAGES), 0.05)


def test_the_global_policy_is_obeyed():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert dtn.TensorAttention(8)(TOKENS).dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy(before)


def test_a_keras_mask_is_a_padding_mask_and_goes_on():
    ids = np.array([[1, 2, 0, 0], [3, 4, 5, 6]])
    embedded = keras.layers.Embedding(10, 8, mask_zero=True)(ids)
    layer = dtn.DeepTensorBlock(8, 2, seed=0)
    value = layer(embedded)
    close(value, layer(tf.identity(embedded), padding_mask=ids != 0))
    assert np.array_equal(value._keras_mask, ids != 0)


def test_freezing_a_child_takes_it_out_of_training():
    own = model()
    own.blocks[0].trainable = False
    assert len(own.trainable_variables) == len(own.weights) - len(own.blocks[0].weights)


def test_a_keras_of_another_backend_is_refused_with_the_remedy():
    code = "import dtn_tensorflow; dtn_tensorflow.TensorAttention"
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "ImportError: the layers of dtn_tensorflow need Keras on TensorFlow" in ran.stderr
    assert "KERAS_BACKEND=tensorflow" in ran.stderr


def test_a_language_model_that_keras_builds_itself():
    """Keras probes with floating numbers, as it does its own Embedding."""
    model = keras.Sequential([dtn.DeepTensorLM(vocab_size=11, embed_dim=8, num_heads=2, depth=1)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tokens = np.arange(20, dtype=np.int32).reshape(2, 10) % 11
    assert np.isfinite(model.fit(tokens, tokens, verbose=0).history["loss"]).all()


def test_a_layer_says_the_shape_of_its_value():
    layer = dtn.TensorAttention(embed_dim=16, num_heads=4)
    assert tuple(layer.compute_output_shape((None, 9, 16))) == (None, 9, 16)
    assert tuple(keras.layers.TimeDistributed(layer)(keras.Input((2, 9, 16))).shape) == (None, 2, 9, 16)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_model_that_was_called_is_exported(policy, tmp_path):
    """Keras exports a model of the shape that it was built for, which is that of its first call."""
    tokens = np.array([[257, 1001, 4097]], np.int32)
    for own, inputs in (
        (model(dtype=policy), tf.cast(IMAGES, policy.removeprefix("mixed_"))),
        (dtn.DeepTensorLM(vocab_size=5000, embed_dim=8, num_heads=2, depth=1, dtype=policy, seed=0), tokens),
    ):
        expected = own(inputs)
        own.export(tmp_path / own.name, verbose=False)
        loaded = tf.saved_model.load(tmp_path / own.name)
        close(loaded.serve(inputs), expected, 0)


def test_a_summary_has_the_shapes_of_what_was_called():
    own, lines = model(), []
    own.summary(print_fn=lines.append)
    assert "?" in "".join(lines)
    own(IMAGES)
    lines.clear()
    own.summary(print_fn=lines.append)
    assert "(3, 10)" in "".join(lines)
    assert "?" not in "".join(lines)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_tokens_that_are_floating_numbers_are_not_rounded(policy):
    tokens = np.array([[257, 1001, 4097]])
    lm = dtn.DeepTensorLM(vocab_size=5000, embed_dim=8, num_heads=2, depth=1, dtype=policy, seed=0)
    for layer in (lm, lm.embedding):
        close(layer(tokens.astype(np.float32)), layer(tokens), 0)


def test_a_layer_that_uses_up_the_mask_says_so(recwarn):
    x = keras.layers.Masking()(np.concatenate([TOKENS, np.zeros_like(TOKENS)], axis=1))
    value = dtn.MeanPool()(x)
    close(value, TOKENS.mean(1))
    assert getattr(value, "_keras_mask", None) is None
    assert not [warning for warning in recwarn if "masking" in str(warning.message)]


class TestStateOfAnUnknownBatch:
    layer = dtn.TensorAttention(8, 2, mask="causal", decay=0.9, seed=0)

    def traced(self, function):
        return tf.function(function, input_signature=[tf.TensorSpec([None, None, 8])], autograph=False)

    @pytest.mark.parametrize(
        "batch",
        [lambda x: x, lambda x: tf.shape(x)[0], lambda x: (tf.shape(x)[0],)],
        ids=["an input", "a size", "axes"],
    )
    def test_in_a_graph(self, batch):
        run = self.traced(lambda x: self.layer.resume(x, self.layer.init_state(batch(x)))[0])
        close(run(TOKENS), self.layer(TOKENS))

    def test_a_shape(self):
        states = self.layer.init_state(tf.TensorShape([3]))
        assert [x.shape for x in states] == [x.shape for x in self.layer.init_state(3)]
        with pytest.raises(ValueError, match=r"batch: got TensorShape\(\[None\]\), expected .* or an input"):
            self.traced(lambda x: self.layer.init_state(x.shape[:1])[0])(TOKENS)


class TestCheckpoints:
    """``tf.train.Checkpoint``, which does not look into Keras' lists of layers."""

    @pytest.mark.parametrize("make", [model, lambda seed=0: dtn.DeepTensorLM(11, 8, 2, 2, seed=seed)])
    def test_every_weight_is_saved_and_restored(self, make, tmp_path):
        own, other = make(seed=0), make(seed=1)
        path = tf.train.Checkpoint(model=own).save(tmp_path / "checkpoint")
        tf.train.Checkpoint(model=other).restore(path).assert_consumed()
        for found, expected in zip(other.weights, own.weights, strict=True):
            np.testing.assert_array_equal(found, expected)

    def test_states_in_variables_go_on(self, tmp_path):
        own = dtn.DeepTensorLM(11, 8, 2, 1, seed=0)
        state = own.resume(tf.constant([[1, 2, 3]]))[1]
        expected = own.step(tf.constant([4]), state)[0]
        held = tf.nest.map_structure(tf.Variable, state)
        path = tf.train.Checkpoint(state=held).save(tmp_path / "state")
        fresh = tf.nest.map_structure(lambda x: tf.Variable(tf.zeros_like(x)), state)
        tf.train.Checkpoint(state=fresh).restore(path).assert_consumed()
        close(own.step(tf.constant([4]), fresh)[0], expected, 0)


class TestPackedSequences:
    TOKENS = np.random.default_rng(2).integers(0, 11, (4, 9)).astype(np.int32)

    def test_a_model_of_keras_is_fitted_to_them(self):
        class Documents(keras.Model):
            def __init__(self):
                super().__init__()
                self.inner = dtn.DeepTensorLM(11, 8, 2, 1, seed=0)

            def call(self, tokens, training=None):
                return self.inner(tokens, training=training, cu_seqlens=[0, 3, 9])

        own = Documents()
        own.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        losses = own.fit(self.TOKENS, self.TOKENS, epochs=5, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        alone = [own.inner(self.TOKENS[:, rows]) for rows in (slice(3), slice(3, 9))]
        close(own.predict(self.TOKENS, verbose=0), np.concatenate(alone, axis=1))

    def test_a_functional_model_keeps_where_they_start(self, tmp_path):
        inputs, layer = keras.Input((9, 8)), dtn.DeepTensorBlock(8, 2, mask="causal", seed=0)
        x = np.random.default_rng(3).normal(size=(2, 9, 8)).astype(np.float32)
        keras.Model(inputs, layer(inputs, cu_seqlens=[0, 3, 9])).save(tmp_path / "packed.keras")
        close(keras.saving.load_model(tmp_path / "packed.keras")(x), layer(x, cu_seqlens=[0, 3, 9]))

    @pytest.mark.parametrize("kind", [list, tuple, np.array, tf.constant])
    def test_a_graph_takes_any_vector_that_it_knows(self, kind):
        layer, x = dtn.TensorAttention(8, 2, seed=0), np.ones((2, 9, 8), np.float32)
        starts = kind(np.cumsum([0, 3, 6]))
        close(tf.function(lambda x: layer(x, cu_seqlens=starts))(x), layer(x, cu_seqlens=[0, 3, 9]))

    def test_a_graph_takes_none_that_it_does_not_know(self):
        layer, x = dtn.TensorAttention(8, 2, seed=0), np.ones((2, 9, 8), np.float32)
        with pytest.raises(ValueError, match="cu_seqlens is traced"):
            tf.function(lambda x, starts: layer(x, cu_seqlens=starts))(x, tf.constant([0, 3, 9]))


def test_a_prompt_of_any_length_is_read_without_a_warning_of_retracing(caplog):
    own = dtn.DeepTensorLM(vocab_size=16, embed_dim=8, num_heads=2, depth=1, seed=0)
    logger = tf.get_logger()
    logger.addHandler(caplog.handler)
    try:
        for _ in range(2):
            own.generate(np.arange(127) % 16, max_new_tokens=1)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records
