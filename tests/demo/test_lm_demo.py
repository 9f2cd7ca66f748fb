"""``dtn demo lm``: its text, its measures, and the whole of it, tiny, in the frameworks that are installed."""

import json

import numpy as np
import pytest

from dtn_core.cli import main
from dtn_core.demo import DemoError, frameworks, lm_run, lm_text, lm_training
from dtn_core.demo.lm_recipe import LMRecipe
from dtn_core.demo.lm_result import Continuation, LMRun, Stretch, checks

INSTALLED = [name for name in frameworks.PACKAGES if frameworks.extra(name).complete]


def test_the_text_is_the_standard_library_s_and_nothing_is_in_both_parts():
    text = lm_text.load()
    assert len(text.files) == len(set(text.files)) > 40
    assert not set(lm_text.TRAINING) & set(lm_text.HELD_OUT)
    assert len(text.training) > 1_000_000
    assert len(text.held_out) > 50_000
    assert b"def " in text.training.tobytes()
    assert lm_text.load().digest == text.digest


def test_a_python_without_source_files_is_one_line(tmp_path):
    with pytest.raises(DemoError, match=r"no text to train on: .* has no source files of the standard library"):
        lm_text.load(tmp_path)


def test_batches_follow_the_seed_and_the_step_and_stay_inside_the_text():
    text = np.arange(200, dtype=np.uint8)
    first = lm_text.batch(text, 50, 9, seed=1, step=2)
    assert first.shape == (50, 10)
    np.testing.assert_array_equal(np.diff(first, axis=1), 1)
    np.testing.assert_array_equal(lm_text.batch(text, 50, 9, seed=1, step=2), first)
    assert (lm_text.batch(text, 50, 9, seed=1, step=3) != first).any()
    with pytest.raises(DemoError, match="a window of 201 does not fit"):
        lm_text.batch(text, 1, 200, seed=0, step=0)


def test_windows_predict_every_byte_once():
    text = np.arange(100, dtype=np.uint8)
    found = list(lm_text.windows(text, size=3, length=8, most=9))
    assert [window.shape for window in found] == [(3, 9)] * 4
    np.testing.assert_array_equal(np.concatenate([window[:, 1:].ravel() for window in found]), np.arange(1, 97))
    assert len(list(lm_text.windows(text, size=3, length=8, most=2))) == 2


def test_bits_per_byte_of_even_odds_is_eight():
    class Even:
        def logits(self, inputs):
            return np.zeros((*inputs.shape, 256), np.float32)

    recipe = LMRecipe(seed=0, steps=1, batch_size=2, length=8)
    assert lm_training.bits_per_byte(Even(), np.arange(200, dtype=np.uint8), recipe) == pytest.approx(8)


def test_stretches_add_up():
    found = list(lm_training.stretches(iter(range(1000)), 100))
    assert [stretch.bytes for stretch in found] == [12, 25, 37, 50, 62, 75, 87, 100]


def test_what_has_to_hold():
    def run(framework, losses):
        return LMRun(framework, "1", "tensor", 1, 2.0, 1.0, losses)

    flat = [Stretch(number, 1.0, 100.0) for number in range(8)]
    runs, samples = [run("torch", [3.0, 2.0]), run("jax", [3.0, 2.0])], {"torch": "a", "jax": "a"}
    assert all(check.passed for check in checks(runs, samples, Continuation("torch", flat, 8)))
    worse = [*flat[:4], *[Stretch(number, 2.0, 120.0) for number in range(4, 8)]]
    off = checks([runs[0], run("jax", [3.0, 2.1])], {"torch": "a", "jax": "b"}, Continuation("torch", worse, 8))
    assert [check.passed for check in off] == [False] * 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["demo", "lm", "--epochs", "3"], "--epochs: is of dtn demo digits"),
        (["demo", "--steps", "3"], "--steps: is of dtn demo lm"),
        (["demo", "words"], "'words' is not one of digits, lm"),
    ],
)
def test_options_of_the_other_demo_are_refused(capsys, given, said):
    assert main(given) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(not INSTALLED, reason="no framework is installed")
def test_the_whole_demo_tiny(tmp_path, monkeypatch, capsys):
    def tiny(seed, steps, continuation):
        model = {"vocab_size": 256, "embed_dim": 8, "num_heads": 2, "depth": 1, "mlp_ratio": 2}
        return LMRecipe(seed, steps, 2, 16, 2, model=model, sample=8, continuation=continuation)

    monkeypatch.setattr(lm_run, "LMRecipe", tiny)
    monkeypatch.setattr("dtn_core.demo.lm_result.SLOWDOWN", 10.0)  # eight bytes a stretch are no measure
    assert lm_run.run(frameworks=INSTALLED[:1], steps=3, continuation=64, out=tmp_path) == 0
    found = json.loads((tmp_path / "lm.json").read_text())
    assert [run["mixer"] for run in found["runs"]] == ["tensor", "linear", "softmax"]
    assert len({run["parameters"] for run in found["runs"]}) == 1
    assert all(len(run["losses"]) == 3 and 0 < run["bits_per_byte"] < 16 for run in found["runs"])
    assert found["continuation"]["stretches"][-1]["bytes"] == 64
    assert (tmp_path / "lm.png").read_bytes().startswith(b"\x89PNG")
    assert "A sample, drawn with" in capsys.readouterr().out
