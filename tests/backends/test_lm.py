"""The language model in the installed framework: values, streaming, text, weights, compilation."""

import layer_frameworks
import numpy as np
import pytest

from dtn_core import layers
from dtn_core.layers.generation import pieces

TINY = {"vocab_size": 11, "embed_dim": 8, "num_heads": 2, "depth": 2, "mlp_ratio": 2}
KINDS = {
    "tensor": {},
    "linear, a head of its own": {"mixer": "linear", "tie_embedding": False},
    "softmax": {"mixer": "softmax", "decay": None},
}
every_kind = pytest.mark.parametrize("given", KINDS.values(), ids=KINDS.keys())
PROMPT = np.array([[1, 2, 3, 4, 5], [9, 8, 7, 6, 5]], np.int32)
DRAWN = [[5, 9, 4, 3, 3, 3, 6, 5], [7, 2, 5, 10, 5, 7, 6, 5]]  # whatever computes the logits


@pytest.fixture(params=layer_frameworks.parameters())
def framework(request):
    return request.param()


def make(framework, dtype="float64", **given):
    return framework.make("DeepTensorLM", **TINY | given, dtype=dtype)


def tokens(*shape):
    return np.random.default_rng(3).integers(0, TINY["vocab_size"], shape).astype(np.int32)


@every_kind
def test_logits_are_the_dense_reference_s(framework, given):
    model, read = make(framework, **given), tokens(2, 9)
    expected = layers.evaluate(model.definition, framework.weights(model), read)
    assert expected.shape == (2, 9, 11)
    np.testing.assert_allclose(framework.call(model, read), expected, rtol=1e-9, atol=1e-10)


@every_kind
def test_a_token_changes_no_logit_before_it(framework, given):
    model, read = make(framework, **given), tokens(2, 9)
    before = framework.call(model, read)
    read[:, 5] = (read[:, 5] + 1) % 11
    after = framework.call(model, read)
    np.testing.assert_array_equal(after[:, :5], before[:, :5])
    assert np.abs(after[:, 5:] - before[:, 5:]).max() > 1e-3


def test_one_token_at_a_time_is_all_at_once(framework):
    model, read = make(framework), tokens(2, 9)
    steps, _ = framework.steps(model, read)
    np.testing.assert_allclose(steps, framework.call(model, read), rtol=1e-9, atol=1e-10)


def test_gradient_is_the_dense_reference_s_slope(framework):
    model, read = make(framework, depth=1), tokens(2, 5)
    weights, gradients = framework.weights(model), framework.gradients(model, read)
    random = np.random.default_rng(5)
    direction = {path: random.normal(size=value.shape) for path, value in weights.items()}

    def loss(step):
        moved = {path: value + step * direction[path] for path, value in weights.items()}
        return (layers.evaluate(model.definition, moved, read) ** 2).sum()

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert sum((gradients[path] * direction[path]).sum() for path in weights) == pytest.approx(slope, rel=1e-6)


def test_text_follows_the_seed_alone(framework):
    model = make(framework, dtype="float32")
    first = np.asarray(model.generate(PROMPT, 12, seed=1))
    assert first.shape == (2, 17)
    np.testing.assert_array_equal(first[:, :5], PROMPT)
    np.testing.assert_array_equal(np.asarray(model.generate(PROMPT, 12, seed=1)), first)
    assert (np.asarray(model.generate(PROMPT, 12, seed=2)) != first).any()
    assert np.asarray(model.generate(PROMPT, 0)).shape == (2, 5)


def test_text_is_drawn_from_the_logits_of_all_tokens_so_far(framework):
    model = make(framework, dtype="float32")
    text = np.asarray(model.generate(PROMPT, 6, temperature=0.0))
    likeliest = framework.call(model, text).argmax(-1)
    np.testing.assert_array_equal(text[:, 5:], likeliest[:, 4:-1])
    np.testing.assert_array_equal(np.asarray(model.generate(PROMPT, 6, top_k=1, seed=3)), text)


def test_a_seed_draws_the_tokens_of_every_framework(framework):
    drawn = np.asarray(make(framework, dtype="float32").generate(PROMPT, 8, seed=4))[:, 5:]
    assert drawn.tolist() == DRAWN


def test_arguments_out_of_range_are_refused_by_name(framework):
    model = make(framework, dtype="float32")
    for message, given in {
        "prompt: got .*n of at least 1": {"prompt": PROMPT[:, :0]},
        "prompt: got 'float64": {"prompt": PROMPT / 2},
        "prompt: got .*tokens from 0 to 10": {"prompt": PROMPT + 6},
        "max_new_tokens: got -1": {"max_new_tokens": -1},
        "temperature: got nan": {"temperature": float("nan")},
        "top_k: got 0": {"top_k": 0},
        "seed: got 0.5": {"seed": 0.5},
    }.items():
        with pytest.raises(ValueError, match=message):
            model.generate(**{"prompt": PROMPT, "max_new_tokens": 1} | given)


@pytest.mark.parametrize("wrong", [True, False, np.True_])
def test_a_truth_value_is_no_number_of_tokens(framework, wrong):
    with pytest.raises(TypeError, match="max_new_tokens: got .*, expected an integer of at least 0"):
        make(framework).generate(PROMPT, wrong)


def test_tokens_that_the_prompt_s_dtype_does_not_hold(framework):
    model = framework.make("DeepTensorLM", **TINY | {"vocab_size": 1000}, dtype="float32")
    drawn = [np.asarray(model.generate(PROMPT.astype(dtype), 8)) for dtype in (np.uint8, np.int32)]
    assert drawn[1].max() > 255
    np.testing.assert_array_equal(*drawn)


def test_numbers_of_numpy_are_numbers(framework):
    model = make(framework, dtype="float32")
    given = {"temperature": np.float32(1), "top_k": np.int64(11), "seed": np.int64(4)}
    assert np.asarray(model.generate(PROMPT, np.int64(8), **given))[:, 5:].tolist() == DRAWN


def test_the_state_of_another_model_is_refused(framework):
    model, other = make(framework), make(framework, depth=1)
    with pytest.raises(ValueError, match="state is of 1 blocks, expected 2"):
        framework.resume(model, PROMPT, framework.init_state(other, (2,)))
    with pytest.raises(TypeError, match="state is a tuple, expected what init_state returned"):
        framework.resume(model, PROMPT, ())


def test_blocks_are_appended_and_taken_out(framework):
    model = make(framework, "float32")
    model.generate(PROMPT, 1)  # what was compiled for two blocks is no more than that
    model.blocks.append(framework.make("DeepTensorBlock", embed_dim=8, num_heads=2, mask="causal"))
    for _ in range(2):
        text = np.asarray(model.generate(PROMPT, 3, temperature=0.0))
        np.testing.assert_array_equal(text[:, 5:], framework.call(model, text).argmax(-1)[:, 4:-1])
        del model.blocks[0]


def test_a_softmax_model_says_why_it_does_not_stream(framework):
    model = make(framework, dtype="float32", mixer="softmax")
    for wrong in (lambda: model.generate(PROMPT, 1), lambda: model.init_state(1)):
        with pytest.raises(ValueError, match="DeepTensorLM cannot stream: softmax attention has no state"):
            wrong()


def test_weights_go_through_a_file(framework, tmp_path):
    model, other = make(framework, "float32"), make(framework, "float32", seed=5)
    framework.dtn.save_weights(model, tmp_path / "lm.safetensors")
    assert (framework.call(other, PROMPT) != framework.call(model, PROMPT)).any()
    framework.dtn.load_weights(other, tmp_path / "lm.safetensors")
    np.testing.assert_array_equal(framework.call(other, PROMPT), framework.call(model, PROMPT))


def test_the_parallel_form_compiles(framework):
    model, read = make(framework, "float32", depth=1), tokens(2, 70)
    np.testing.assert_allclose(framework.compiled(model, read), framework.call(model, read), rtol=1e-4, atol=1e-5)


def test_a_prompt_is_read_in_pieces_that_add_up():
    for count in (1, 5, 512, 1200, 5000):
        assert sum(pieces(count)) == count
        assert max(pieces(count)) <= 512


def test_a_sampler_draws_as_the_logits_say():
    logits = np.log(np.array([[0.1, 0.2, 0.7]] * 20000))
    shares = np.bincount(layers.Sampler(seed=0)(logits), minlength=3) / 20000
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.7], atol=0.01)
    shares = np.bincount(layers.Sampler(seed=0, temperature=0.5, top_k=2)(logits), minlength=3) / 20000
    np.testing.assert_allclose(shares, [0, 4 / 53, 49 / 53], atol=0.01)
    with pytest.raises(ValueError, match="not finite"):
        layers.Sampler()(np.array([np.nan, 1.0]))


@pytest.mark.parametrize("prompt", ["abc", None, [[1, 2], [3]]])
def test_a_prompt_that_is_no_array_is_named(framework, prompt):
    with pytest.raises(ValueError, match="prompt: got "):
        make(framework).generate(prompt, 2)
