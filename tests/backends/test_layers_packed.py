"""``cu_seqlens`` in layers: sequences packed one after another, each as if the layer were called with it alone."""

from itertools import pairwise

import layer_frameworks
import numpy as np
import pytest

from dtn_core import layers

STARTS = (0, 3, 4, 4, 9)
MIXED = {"embed_dim": 8, "num_heads": 2}
DECAYS = (0.5, 0.9)
LAYERS = {
    "attention": ("TensorAttention", MIXED),
    "attention, tril": ("TensorAttention", MIXED | {"mask": "tril"}),
    "attention, causal": ("TensorAttention", MIXED | {"mask": "causal", "decay": DECAYS}),
    "interaction": ("TensorInteraction", MIXED),
    "interaction, causal": ("TensorInteraction", MIXED | {"mask": "causal", "decay": 0.9}),
    "softmax": ("SoftmaxAttention", MIXED),
    "softmax, causal": ("SoftmaxAttention", MIXED | {"mask": "causal"}),
    "block": ("DeepTensorBlock", MIXED),
    "block, causal": ("DeepTensorBlock", MIXED | {"mask": "causal", "decay": DECAYS}),
    "block, softmax": ("DeepTensorBlock", MIXED | {"mixer": "softmax", "mask": "causal"}),
    "language model": ("DeepTensorLM", MIXED | {"vocab_size": 11, "depth": 2}),
}
every_layer = pytest.mark.parametrize(("layer", "given"), LAYERS.values(), ids=LAYERS.keys())
some_layers = pytest.mark.parametrize("name", ["attention", "block, causal", "language model"])


@pytest.fixture(params=layer_frameworks.parameters())
def framework(request):
    return request.param()


def make(framework, layer, given, dtype="float64"):
    return framework.make(layer, **given, dtype=dtype)


def sample(layer, batch=2, dtype="float64"):
    """Tokens of all the sequences together, an input of ``layer``."""
    random = np.random.default_rng(3)
    if layer.definition.reads_integers:
        return random.integers(0, 11, (batch, STARTS[-1])).astype("int32")
    return random.normal(size=(batch, STARTS[-1], 8)).astype(dtype)


def one_by_one(made, weights, x):
    """The dense reference on every sequence, packed again."""
    pieces = [x[:, start:end] for start, end in pairwise(STARTS) if end > start]
    return np.concatenate([layers.evaluate(made.definition, weights, piece) for piece in pieces], axis=1)


@every_layer
def test_the_values_are_those_of_each_sequence(framework, layer, given):
    made = make(framework, layer, given)
    x = sample(made)
    expected = one_by_one(made, framework.weights(made), x)
    np.testing.assert_allclose(framework.call(made, x, cu_seqlens=STARTS), expected, rtol=1e-9, atol=1e-10)
    assert np.abs(framework.call(made, x) - expected).max() > 1e-3


@every_layer
def test_the_gradient_is_the_slope_of_each_sequence(framework, layer, given):
    made = make(framework, layer, given)
    x = sample(made)
    weights, gradients = framework.weights(made), framework.gradients(made, x, cu_seqlens=STARTS)
    random = np.random.default_rng(5)
    direction = {path: random.normal(size=value.shape) for path, value in weights.items()}

    def loss(step):
        return (one_by_one(made, {path: w + step * direction[path] for path, w in weights.items()}, x) ** 2).sum()

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert sum((gradients[path] * direction[path]).sum() for path in weights) == pytest.approx(slope, rel=1e-6)


@every_layer
def test_a_sequence_changes_no_other(framework, layer, given):
    made = make(framework, layer, given)
    x = sample(made)
    before = framework.call(made, x, cu_seqlens=STARTS)
    x[:, 4:] = (x[:, 4:] + 1) % 11
    after = framework.call(made, x, cu_seqlens=STARTS)
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    assert np.abs(after[:, 4:] - before[:, 4:]).max() > 1e-3


@some_layers
def test_a_framework_s_own_vector_says_where_sequences_start(framework, name):
    made = make(framework, *LAYERS[name], dtype="float32")
    x = sample(made, dtype="float32")
    vector = framework.array(np.array(STARTS, np.int32))
    found = framework.eager(made, x, cu_seqlens=vector)
    np.testing.assert_allclose(found, framework.call(made, x, cu_seqlens=STARTS), rtol=1e-5, atol=1e-5)


@some_layers
def test_they_are_compiled(framework, name):
    made = make(framework, *LAYERS[name], dtype="float32")
    x = sample(made, dtype="float32")
    found = framework.compiled(made, x, cu_seqlens=STARTS)
    np.testing.assert_allclose(found, framework.call(made, x, cu_seqlens=STARTS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["attention", "softmax", "block, causal", "language model"])
def test_a_padding_mask_too_is_refused(framework, name):
    made = make(framework, *LAYERS[name], dtype="float32")
    with pytest.raises(ValueError, match="cu_seqlens clashes with padding_mask"):
        framework.call(made, sample(made, dtype="float32"), np.ones((2, 9), bool), cu_seqlens=STARTS)


def test_starts_that_do_not_fit_are_refused(framework):
    made = make(framework, "TensorAttention", MIXED, dtype="float32")
    with pytest.raises(ValueError, match="cu_seqlens ends with 8, but there are 9 tokens"):
        framework.call(made, sample(made, dtype="float32"), cu_seqlens=(0, 8))


def test_a_mean_has_no_tokens_to_pack(framework):
    made = framework.make("MeanPool", dtype="float32")
    with pytest.raises(ValueError, match="mean_pool: cu_seqlens needs one sequence axis, found 0"):
        framework.call(made, sample(made, dtype="float32"), cu_seqlens=STARTS)


def test_the_patches_of_an_image_are_not_packed(framework):
    made = framework.make("DeepTensorClassifier", image_size=4, depth=1)
    with pytest.raises(TypeError, match="takes no cu_seqlens: the patches of an image are one sequence"):
        framework.call(made, np.ones((3, 4, 4), np.float32), cu_seqlens=(0, 2, 4))
