"""What the demo concludes from its runs, and the files that it leaves."""

import json

import pytest

from dtn_core.demo.atomic import replaced
from dtn_core.demo.recipe import Recipe
from dtn_core.demo.report import write_json
from dtn_core.demo.result import FULL_EPOCHS, Run, Transfer, checks, logit_difference


def run(framework="torch", mixer="tensor", losses=((2.0, 1.0),), accuracy=0.97):
    rows = [list(row) for row in losses]
    return Run(framework, "1.0", mixer, 10, accuracy, 0.5, rows, [accuracy] * len(rows))


def passed(runs, transfers=()):
    return {check.what: check.passed for check in checks(runs, transfers)}


def test_loss_curves_within_the_tolerance_pass():
    found = passed([run(), run("jax", losses=((2.0005, 1.0),))])
    assert found == {"loss in the first epoch, jax against torch": True}


@pytest.mark.parametrize("loss", [2.002, float("nan")])
def test_loss_curves_that_differ_do_not_pass(loss):
    found = passed([run(), run("jax", losses=((loss, 1.0),))])
    assert found == {"loss in the first epoch, jax against torch": False}


def test_later_epochs_may_differ():
    assert all(passed([run(losses=((2.0,), (1.0,))), run("jax", losses=((2.0,), (5.0,)))]).values())


def test_accuracy_is_judged_after_a_full_training_only():
    assert passed([run(losses=[[1.0]] * (FULL_EPOCHS - 1), accuracy=0.5)]) == {}
    assert passed([run(losses=[[1.0]] * FULL_EPOCHS, accuracy=0.5)]) == {"test accuracy in torch": False}


def test_the_twin_is_not_judged():
    assert passed([run(), run(mixer="softmax", losses=((9.0, 9.0),))]) == {}


def test_transfers_between_frameworks_are_judged():
    transfers = [Transfer("torch", "torch", 0.0), Transfer("torch", "jax", 0.01), Transfer("jax", "torch", 1e-6)]
    assert passed([run()], transfers) == {
        "logits of weights from torch in jax": False,
        "logits of weights from jax in torch": True,
    }


def test_logit_difference_is_relative_to_the_largest():
    assert logit_difference([[1.0, -8.5]], [[1.0, -8.0]]) == 0.0625


def test_json_holds_everything(tmp_path):
    runs = [run(), run("jax", losses=((2.25, 1.0),)), run(mixer="softmax")]
    write_json(tmp_path / "demo.json", Recipe(seed=3, epochs=1), runs, [], checks(runs, []))
    content = json.loads((tmp_path / "demo.json").read_text())
    assert content["recipe"]["seed"] == 3
    assert content["recipe"]["optimiser"]["beta1"] == 0.9
    assert [entry["first_epoch_difference"] for entry in content["runs"]] == [0.0, 0.25, 0.0]
    assert content["checks"][0]["passed"] is False


def test_plot_is_a_png_and_nothing_else_is_left(tmp_path):
    pytest.importorskip("matplotlib")
    from dtn_core.demo.plot import draw

    draw(tmp_path / "demo.png", [run(), run("jax"), run(mixer="softmax")], "a title")
    assert [path.name for path in tmp_path.iterdir()] == ["demo.png"]
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


class TestReplaced:
    @staticmethod
    def interrupted(path):
        with replaced(path) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    def test_keeps_the_old_file_when_writing_fails(self, tmp_path):
        path = tmp_path / "file.txt"
        path.write_text("old")
        with pytest.raises(KeyboardInterrupt):
            self.interrupted(path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_puts_the_new_file_in_place(self, tmp_path):
        path = tmp_path / "file.txt"
        path.write_text("old")
        with replaced(path) as beside:
            beside.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"
