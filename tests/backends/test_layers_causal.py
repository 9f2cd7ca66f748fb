"""Causal layers: the dense reference's values, one token at a time or many, and nothing of the future."""

import layer_frameworks
import numpy as np
import pytest

from dtn_core import layers

DECAYS = (0.5, 0.9)
LAYERS = {
    "attention": ("TensorAttention", {"mask": "causal", "decay": DECAYS}),
    "attention, linear": ("TensorAttention", {"mask": "causal", "order": 1, "normalize": None}),
    "interaction": ("TensorInteraction", {"mask": "causal", "decay": 0.9}),
    "block": ("DeepTensorBlock", {"mask": "causal", "decay": DECAYS, "mlp_ratio": 2}),
}
every_layer = pytest.mark.parametrize(("layer", "given"), LAYERS.values(), ids=LAYERS.keys())


@pytest.fixture(params=layer_frameworks.parameters())
def framework(request):
    return request.param()


def make(framework, layer, given, dtype="float64"):
    return framework.make(layer, embed_dim=8, num_heads=2, **given, dtype=dtype)


def sample(*shape):
    return np.random.default_rng(3).normal(size=shape)


@every_layer
def test_value_is_the_dense_reference_s(framework, layer, given):
    made, x = make(framework, layer, given), sample(2, 7, 8)
    expected = layers.evaluate(made.definition, framework.weights(made), x)
    np.testing.assert_allclose(framework.call(made, x), expected, rtol=1e-9, atol=1e-10)


def test_causal_softmax_is_the_dense_reference_s_with_and_without_padding(framework):
    made, x = make(framework, "DeepTensorBlock", {"mask": "causal", "mixer": "softmax"}), sample(2, 7, 8)
    keep = np.array([[True] * 7, [True] * 4 + [False] * 3])
    for mask in (None, keep):
        expected = layers.evaluate(made.definition, framework.weights(made), x, mask)
        value = framework.call(made, x, padding_mask=mask)
        np.testing.assert_allclose(value[keep], expected[keep], rtol=1e-9, atol=1e-10)


@every_layer
def test_one_token_at_a_time_is_all_at_once(framework, layer, given):
    made, x = make(framework, layer, given), sample(2, 7, 8)
    steps, _ = framework.steps(made, x)
    np.testing.assert_allclose(steps, framework.call(made, x), rtol=1e-9, atol=1e-10)


@every_layer
def test_any_two_pieces_are_the_whole(framework, layer, given):
    made, x = make(framework, layer, given), sample(2, 7, 8)
    whole, after = framework.resume(made, x, None)
    np.testing.assert_allclose(whole, framework.call(made, x), rtol=1e-9, atol=1e-10)
    start, state = framework.resume(made, x[:, :3], None)
    end, state = framework.resume(made, x[:, 3:], state)
    np.testing.assert_allclose(np.concatenate([start, end], axis=1), whole, rtol=1e-9, atol=1e-10)
    for one, other in zip(framework.leaves(state), framework.leaves(after), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("layer", ["TensorAttention", "TensorInteraction"])
def test_decays_of_heads_are_not_rounded_to_the_layer_s_dtype(framework, layer):
    """0.9997 is 0.9995 in float16."""
    knobs = {"mask": "causal", "decay": (0.9997, 0.9997), **({"normalize": None, "order": 1} if "Att" in layer else {})}
    x = 0.5 * sample(1, 2000, 8)
    made, exact = (make(framework, layer, knobs, dtype) for dtype in ("float16", "float64"))
    found, expected = framework.call(made, x.astype(np.float16))[:, -9:], framework.call(exact, x)[:, -9:]
    assert np.linalg.norm(found - expected) <= 0.02 * np.linalg.norm(expected)


def test_a_token_that_has_an_axis_of_tokens_is_refused(framework):
    """Its batch would be broadcast against that of the state."""
    made, x = make(framework, "TensorAttention", LAYERS["attention"][1]), sample(2, 3, 1, 8)
    with pytest.raises(ValueError, match="state .* has shape"):
        framework.steps(made, x)


@every_layer
def test_a_token_changes_nothing_before_it(framework, layer, given):
    made, x = make(framework, layer, given), sample(2, 7, 8)
    before = framework.call(made, x)
    x[:, 4] += 1
    after = framework.call(made, x)
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    assert np.abs(after[:, 4:] - before[:, 4:]).max() > 1e-3


def test_the_state_s_size_is_that_of_the_features_alone(framework):
    made = make(framework, "DeepTensorBlock", LAYERS["block"][1], dtype="float32")
    fresh = framework.leaves(framework.init_state(made, (3,)))
    assert all(np.all(leaf == 0) for leaf in fresh)
    _, later = framework.resume(made, sample(3, 70, 8).astype("float32"), None)
    assert [leaf.shape for leaf in framework.leaves(later)] == [leaf.shape for leaf in fresh]


def test_the_state_before_any_token_is_found_from_a_size_axes_or_an_example(framework):
    made = make(framework, "TensorAttention", LAYERS["attention"][1])
    shapes = [
        [leaf.shape for leaf in framework.leaves(framework.init_state(made, batch))]
        for batch in (3, (3,), [3], sample(3, 5, 8))
    ]
    assert all(shape == shapes[0] for shape in shapes)
    assert shapes[0][0][0] == 3
    with pytest.raises(ValueError, match="batch: got 'three'"):
        made.init_state("three")


def test_an_integer_that_is_an_array_is_a_size(framework):
    made = make(framework, "TensorAttention", LAYERS["attention"][1])
    wanted = [leaf.shape for leaf in framework.leaves(framework.init_state(made, 3))]
    for batch in (np.int64(3), np.array(3), framework.array(np.array(3)), (np.int64(3),)):
        assert [leaf.shape for leaf in framework.leaves(framework.init_state(made, batch))] == wanted
    for wrong in (np.float32(3), np.array([3, 3]), np.array(-1)):
        with pytest.raises(ValueError, match="batch: got "):
            made.init_state(wrong)


@pytest.mark.parametrize(
    ("layer", "given", "why"),
    [
        ("TensorAttention", {}, "TensorAttention cannot stream: with mask=None every token sees the tokens after"),
        ("TensorAttention", {"mask": "tril"}, "mask='tril' T is built from the whole sequence"),
        ("TensorInteraction", {}, "TensorInteraction cannot stream: with mask=None"),
        ("DeepTensorBlock", {"mask": "tril"}, "DeepTensorBlock cannot stream: with mask='tril'"),
        ("DeepTensorBlock", {"mask": "causal", "mixer": "softmax"}, "softmax attention has no state of a fixed size"),
        ("TensorAttention", {"mask": "causal", "activation": "exp"}, "tensor_attention"),
    ],
)
def test_a_layer_without_a_state_says_why(framework, layer, given, why):
    made = make(framework, layer, given, dtype="float32")
    with pytest.raises(ValueError, match=why):
        made.init_state(2)


def test_decays_are_checked(framework):
    for decay in ((0.5,), (0.5, 1.5), "slow"):
        with pytest.raises(ValueError, match=r"decay: got .*, expected a number in \(0, 1\], or 2 of them"):
            make(framework, "TensorAttention", {"mask": "causal", "decay": decay})
    with pytest.raises(ValueError, match="decay clashes with mask=None"):
        make(framework, "TensorInteraction", {"decay": DECAYS})
