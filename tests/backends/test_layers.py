"""Every layer in the installed framework, held to the dense reference of its definition."""

import copy
import inspect

import layer_frameworks
import numpy as np
import pytest

from dtn_core import layers

TOKENS = (2, 5, 8)
LAYERS = {
    "attention": ("TensorAttention", {"embed_dim": 8, "num_heads": 2}, TOKENS),
    "attention, order 4": ("TensorAttention", {"embed_dim": 8, "order": 4, "bias": False}, TOKENS),
    "attention, hadamard": ("TensorAttention", {"embed_dim": 8, "num_heads": 2, "product": "hadamard"}, TOKENS),
    "attention, expm": ("TensorAttention", {"embed_dim": 8, "head_dim": 3, "activation": "expm"}, TOKENS),
    "attention, plain": ("TensorAttention", {"embed_dim": 8, "order": 3, "normalize": None}, TOKENS),
    "attention, side k": (
        "TensorAttention",
        {"embed_dim": 8, "num_heads": 4, "side": "k", "normalize": "diag"},
        TOKENS,
    ),
    "interaction": ("TensorInteraction", {"embed_dim": 8, "num_heads": 2}, TOKENS),
    "interaction, hadamard": ("TensorInteraction", {"embed_dim": 8, "product": "hadamard", "residual": 1.0}, TOKENS),
    "block": ("DeepTensorBlock", {"embed_dim": 8, "num_heads": 2, "mlp_ratio": 2}, TOKENS),
    "block, knobs": ("DeepTensorBlock", {"embed_dim": 8, "attention_knobs": {"residual": 1.0}}, TOKENS),
    "block, linear": ("DeepTensorBlock", {"embed_dim": 8, "num_heads": 2, "mixer": "linear"}, TOKENS),
    "block, softmax": ("DeepTensorBlock", {"embed_dim": 8, "num_heads": 2, "mixer": "softmax"}, TOKENS),
    "classifier": ("DeepTensorClassifier", {"image_size": 4, "embed_dim": 8, "num_heads": 2, "depth": 1}, (3, 4, 4)),
    "classifier, colours": (
        "DeepTensorClassifier",
        {"image_size": (4, 6), "channels": 3, "embed_dim": 8, "depth": 1, "num_classes": 4},
        (3, 4, 6, 3),
    ),
    "classifier, softmax": (
        "DeepTensorClassifier",
        {"image_size": 4, "embed_dim": 8, "num_heads": 2, "depth": 1, "mixer": "softmax"},
        (3, 4, 4),
    ),
}

every_layer = pytest.mark.parametrize(("layer", "given", "shape"), LAYERS.values(), ids=LAYERS.keys())


@pytest.fixture(params=layer_frameworks.parameters())
def framework(request):
    return request.param()


def sample(shape, dtype="float32"):
    return np.random.default_rng(3).normal(size=shape).astype(dtype)


def tokens_kept(definition, shape):
    """A padding mask with a row of every kind: nearly all real, some, and the last token only."""
    if isinstance(definition, layers.DeepTensorClassifier):
        rows, columns = definition.patches().grid
        count = rows * columns
    else:
        count = shape[-2]
    keep = np.random.default_rng(4).random((shape[0], count)) < 0.6
    keep[:, -1] = True
    return keep


@every_layer
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 2e-5)])
def test_value_is_the_dense_reference_s(framework, layer, given, shape, dtype, tolerance):
    made, x = framework.make(layer, **given, dtype=dtype), sample(shape, dtype)
    expected = layers.evaluate(made.definition, framework.weights(made), x)
    value = framework.call(made, x)
    assert value.dtype == dtype
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@every_layer
def test_padding_counts_for_nothing(framework, layer, given, shape):
    made, x = framework.make(layer, **given, dtype="float64"), sample(shape, "float64")
    keep = tokens_kept(made.definition, shape)
    expected = layers.evaluate(made.definition, framework.weights(made), x, keep)
    value = framework.call(made, x, padding_mask=keep)
    if made.definition.keeps_tokens:
        value, expected = value[keep], expected[keep]
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-10)


@every_layer
def test_gradient_is_the_dense_reference_s_slope(framework, layer, given, shape):
    made, x = framework.make(layer, **given, dtype="float64"), sample(shape, "float64")
    weights, gradients = framework.weights(made), framework.gradients(made, x)
    random = np.random.default_rng(5)
    direction = {path: random.normal(size=value.shape) for path, value in weights.items()}

    def loss(step):
        moved = {path: value + step * direction[path] for path, value in weights.items()}
        return (layers.evaluate(made.definition, moved, x) ** 2).sum()

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert sum((gradients[path] * direction[path]).sum() for path in weights) == pytest.approx(slope, rel=1e-6)


@every_layer
def test_a_seed_gives_the_weights_of_every_framework(framework, layer, given, shape):
    made = framework.make(layer, **given, seed=11)
    weights, expected = framework.weights(made), layers.initial_weights(made.definition, 11)
    assert weights.keys() == expected.keys()
    for path, value in weights.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, expected[path], err_msg=path)


def test_a_copy_computes_the_same_and_is_independent(framework):
    made, x = framework.make("DeepTensorBlock", embed_dim=8, num_heads=2), sample(TOKENS)
    before = framework.call(made, x)
    copied = copy.deepcopy(made)
    np.testing.assert_array_equal(framework.call(copied, x), before)
    assert all(a is not b for a, b in zip(_natives(made), _natives(copied), strict=True))


def _natives(layer):
    return [layers.parameter_of(layer, path) for path, _ in layer.definition.named_parameters()]


def test_children_are_attributes(framework):
    model = framework.make("DeepTensorClassifier", depth=2)
    assert isinstance(model.blocks[1].attention, framework.dtn.TensorAttention)
    assert isinstance(model.blocks[0].interaction, framework.dtn.TensorInteraction)
    assert len(model.blocks) == 2


def test_an_image_without_its_channel_axis_is_the_image_with_it(framework):
    model, images = framework.make("DeepTensorClassifier", image_size=4, depth=1), sample((3, 4, 4))
    np.testing.assert_array_equal(framework.call(model, images), framework.call(model, images[..., None]))


def test_tokens_of_the_wrong_size_are_refused_with_both_sizes(framework):
    layer = framework.make("TensorAttention", embed_dim=8)
    with pytest.raises(ValueError, match=r"(?s)embed has size 7.*8"):
        framework.call(layer, sample((2, 5, 7)))


def test_images_of_the_wrong_size_are_refused_with_both_shapes(framework):
    model = framework.make("DeepTensorClassifier", image_size=4)
    with pytest.raises(ValueError, match=r"(?s)images: got .*4, 5.*expected a shape \[\.\.\., 4, 4, 1\]"):
        framework.call(model, sample((2, 4, 5)))


def test_bad_hyperparameters_are_refused_by_name(framework):
    with pytest.raises(ValueError, match="num_heads: got 3"):
        framework.make("TensorAttention", embed_dim=8, num_heads=3)
    with pytest.raises(TypeError, match="order_of_magnitude"):
        framework.make("TensorAttention", embed_dim=8, order_of_magnitude=3)


@pytest.mark.parametrize("layer", ["TensorAttention", "TensorInteraction", "DeepTensorBlock", "DeepTensorClassifier"])
def test_the_signature_shows_every_hyperparameter(framework, layer):
    kind = getattr(framework.dtn, layer)
    shown = inspect.signature(kind).parameters
    own = inspect.signature(kind.definition_type).parameters
    assert [*own, "seed", *kind.keywords] == list(shown)
    assert all(shown[name].default == own[name].default for name in own)


def test_the_signature_of_a_made_layer_is_that_of_calling_it(framework):
    assert "embed_dim" not in inspect.signature(framework.make("TensorAttention", embed_dim=8)).parameters


def test_empty_batches_and_sequences_have_values(framework):
    layer = framework.make("TensorAttention", embed_dim=8, num_heads=2)
    assert framework.call(layer, sample((0, 5, 8))).shape == (0, 5, 8)
    assert framework.call(layer, sample((2, 0, 8))).shape == (2, 0, 8)
    assert framework.call(layer, sample((5, 8))).shape == (5, 8)


class TestMasks:
    X = np.ones((3, 5, 8))

    @pytest.mark.parametrize("layer", ["TensorAttention", "SoftmaxAttention", "DeepTensorBlock"])
    def test_one_with_more_axes_than_the_tokens_is_refused(self, framework, layer):
        own = framework.make(layer, embed_dim=8, num_heads=2)
        with pytest.raises(Exception, match=r"padding_mask has shape \(3, 1, 5\), expected \[\.\.\., n\]"):
            framework.call(own, self.X, padding_mask=np.ones((3, 1, 5), bool))

    def test_one_for_every_sequence(self, framework):
        own = framework.make("TensorAttention", embed_dim=8, num_heads=2)
        keep = np.array([True, True, True, False, False])
        each = framework.call(own, self.X, padding_mask=np.stack([keep] * 3))
        np.testing.assert_array_equal(framework.call(own, self.X, padding_mask=keep), each)
