"""The definitions by themselves: hyperparameters, initial weights, names, and the dense reference."""

import numpy as np
import pytest

from dtn_core.layers import (
    DeepTensorBlock,
    DeepTensorClassifier,
    LayerNorm,
    MeanPool,
    Projection,
    SoftmaxAttention,
    TensorAttention,
    TensorInteraction,
    evaluate,
    initial_weights,
)

REFUSED = [
    (TensorAttention, {"embed_dim": 0}, "embed_dim: got 0, expected an integer of at least 1"),
    (TensorAttention, {"embed_dim": 8.0}, r"embed_dim: got 8.0"),
    (TensorAttention, {"embed_dim": 8, "num_heads": 3}, "num_heads: got 3, expected a divisor of embed_dim=8"),
    (TensorAttention, {"embed_dim": 8, "head_dim": -1}, "head_dim: got -1"),
    (TensorAttention, {"embed_dim": 8, "bias": 1}, "bias: got 1, expected a bool"),
    (TensorAttention, {"embed_dim": 8, "order": 0}, "order=0"),
    (TensorAttention, {"embed_dim": 8, "product": "hadamard", "order": 3}, "clashes"),
    (TensorAttention, {"embed_dim": 8, "decay": 0.5}, "decay clashes with mask"),
    (TensorInteraction, {"embed_dim": 8, "mask": "tril"}, "mask='tril'"),
    (SoftmaxAttention, {"embed_dim": 8, "scale": -1.0}, "scale: got -1.0"),
    (LayerNorm, {"embed_dim": 8, "eps": 0.0}, "eps: got 0.0"),
    (DeepTensorBlock, {"embed_dim": 8, "mixer": "fourier"}, "mixer: got 'fourier', expected one of 'tensor'"),
    (
        DeepTensorBlock,
        {"embed_dim": 8, "mixer": "softmax", "mask": "tril"},
        "mask: got 'tril', expected None or 'causal'",
    ),
    (DeepTensorBlock, {"embed_dim": 8, "mlp_ratio": 0}, "mlp_ratio: got 0"),
    (DeepTensorBlock, {"embed_dim": 8, "attention_knobs": {"ordre": 2}}, "attention_knobs: got 'ordre'"),
    (DeepTensorBlock, {"embed_dim": 8, "attention_knobs": {"mask": "tril"}}, "attention_knobs: got 'mask'"),
    (DeepTensorBlock, {"embed_dim": 8, "interaction_knobs": 3}, "interaction_knobs: got 3, expected a mapping"),
    (DeepTensorClassifier, {"image_size": 9}, "image_size: got 9, expected multiples of patch_size=2"),
    (DeepTensorClassifier, {"image_size": (8, 8, 8)}, "image_size"),
    (DeepTensorClassifier, {"depth": 0}, "depth: got 0"),
    (DeepTensorClassifier, {"num_classes": True}, "num_classes: got True"),
]


@pytest.mark.parametrize(("layer", "given", "message"), REFUSED)
def test_a_hyperparameter_that_makes_no_sense_is_refused_by_name(layer, given, message):
    with pytest.raises(ValueError, match=message):
        layer(**given)


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_a_seed_that_is_no_natural_number_is_refused(seed):
    with pytest.raises(ValueError, match="seed: got"):
        initial_weights(MeanPool(), seed)


def test_a_definition_is_its_hyperparameters():
    block = DeepTensorBlock(8, 2, attention_knobs={"order": 3, "eps": 1e-6}, interaction_knobs={"residual": 1.0})
    again = DeepTensorBlock(**block.config())
    assert again == block
    assert hash(again) == hash(block)
    assert block.config()["attention_knobs"] == {"eps": 1e-6, "order": 3}


def test_parameters_are_named_by_their_path():
    model = DeepTensorClassifier(depth=1, mixer="tensor")
    assert [name for name, _ in model.named_parameters()] == [
        "patches.weight",
        "patches.bias",
        "patches.position",
        "blocks.0.attention_norm.weight",
        "blocks.0.attention_norm.bias",
        *(
            f"blocks.0.attention.{part}.{name}"
            for part in ("query", "key", "value", "out")
            for name in ("weight", "bias")
        ),
        "blocks.0.interaction_norm.weight",
        "blocks.0.interaction_norm.bias",
        *(
            f"blocks.0.interaction.{part}.{name}"
            for part in ("query", "key", "value", "out")
            for name in ("weight", "bias")
        ),
        "blocks.0.mlp_norm.weight",
        "blocks.0.mlp_norm.bias",
        "blocks.0.mlp.hidden_weight",
        "blocks.0.mlp.hidden_bias",
        "blocks.0.mlp.output_weight",
        "blocks.0.mlp.output_bias",
        "norm.weight",
        "norm.bias",
        "head.weight",
        "head.bias",
    ]


def test_the_softmax_and_linear_twins_have_the_same_parameters():
    shapes = [
        {name: parameter.shape for name, parameter in DeepTensorClassifier(mixer=mixer).named_parameters()}
        for mixer in ("tensor", "linear", "softmax")
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_initial_weights_depend_on_the_seed_and_the_path_only():
    small, large = initial_weights(DeepTensorClassifier(depth=1), 7), initial_weights(DeepTensorClassifier(depth=3), 7)
    assert all(np.array_equal(value, large[name]) for name, value in small.items())
    assert not np.array_equal(large["blocks.0.mlp.hidden_weight"], large["blocks.1.mlp.hidden_weight"])
    assert not np.array_equal(small["head.weight"], initial_weights(DeepTensorClassifier(depth=1), 8)["head.weight"])
    assert all(value.dtype == np.float32 for value in small.values())


def test_without_a_seed_two_draws_differ():
    layer = Projection((("embed", 4),), (("hidden", 4),))
    assert not np.array_equal(initial_weights(layer)["weight"], initial_weights(layer)["weight"])


def test_initial_weights_of_a_seed_do_not_change_from_version_to_version():
    weight = initial_weights(Projection((("embed", 2),), (("hidden", 2),)), 0)["weight"]
    np.testing.assert_allclose(weight, [[-1.1143574, -0.8986135], [0.7582925, -0.1813436]], rtol=1e-6)


def test_layer_norm_is_the_textbook_one():
    x = np.random.default_rng(0).normal(size=(3, 5)) * 4 + 2
    value = evaluate(LayerNorm(5), initial_weights(LayerNorm(5), 0), x)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_softmax_attention_is_the_textbook_one():
    layer = SoftmaxAttention(6, 2)
    weights = initial_weights(layer, 0)
    x = np.random.default_rng(1).normal(size=(4, 6))
    q, k, v = (np.einsum("nm,mhd->hnd", x, weights[f"{name}.weight"]) for name in ("query", "key", "value"))
    scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(3))
    heads = scores / scores.sum(-1, keepdims=True) @ v
    expected = np.einsum("hnd,hdm->nm", heads, weights["out.weight"])
    np.testing.assert_allclose(evaluate(layer, weights, x), expected, rtol=1e-6)


def test_a_mean_over_no_token_is_zero():
    assert evaluate(MeanPool(), {}, np.ones((2, 3)), [False, False]).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("mixer", ["tensor", "linear", "softmax"])
def test_padded_tokens_count_for_nothing(mixer):
    block = DeepTensorBlock(8, 2, mixer=mixer)
    weights = initial_weights(block, 0)
    x = np.random.default_rng(2).normal(size=(6, 8))
    keep = np.array([True, True, False, True, False, True])
    np.testing.assert_allclose(evaluate(block, weights, x, keep)[keep], evaluate(block, weights, x[keep]), rtol=1e-12)


@pytest.mark.parametrize(("channels", "shape"), [(1, (2, 4, 7)), (3, (2, 4, 8)), (3, (2, 4, 8, 1)), (1, (8,))])
def test_images_of_another_size_are_refused_with_both_shapes(channels, shape):
    model = DeepTensorClassifier(image_size=(4, 8), channels=channels, depth=1)
    with pytest.raises(ValueError, match=rf"images: got .*{shape[-1]}.*expected a shape \[\.\.\., 4, 8, {channels}\]"):
        evaluate(model, initial_weights(model, 0), np.zeros(shape))
