"""The demo from start to end with two frameworks made of NumPy: processes, files, failures, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

FAKE = """
    import sys, types
    import numpy as np

    print("a banner on standard output")

    class Parameter:
        shape = (64, 10)

    class DeepTensorClassifier:
        def __init__(self, *, seed=None, mixer="tensor", **hyperparameters):
            self.weight = np.full((64, 10), float(seed or 0))
            self.definition = types.SimpleNamespace(named_parameters=lambda: [("weight", Parameter)])

    def save_weights(model, path):
        with open(path, "wb") as file:
            np.save(file, model.weight)

    def load_weights(model, path):
        model.weight = np.load(path)
"""
TRAINING = """
    import os, sys, time
    import numpy as np

    class Trainer:
        def __init__(self, model, optimiser):
            self.model = model

        def step(self, inputs, labels, rate):
            {step}
            scores = inputs.reshape(len(inputs), 64) @ self.model.weight
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            odds /= odds.sum(axis=1, keepdims=True)
            loss = -np.log(odds[range(len(labels)), labels]).mean()
            odds[range(len(labels)), labels] -= 1
            self.model.weight = self.model.weight - 0.1 * inputs.reshape(len(inputs), 64).T @ odds / len(labels)
            return float(loss)

        def logits(self, inputs):
            return inputs.reshape(len(inputs), 64) @ self.model.weight
"""
PROGRAM = """
    import signal, sys
    from dtn_core.cli import main
    from dtn_core.cli.installation import Extra
    from dtn_core.demo import frameworks

    frameworks.PACKAGES.clear()
    frameworks.PACKAGES.update({"one": "fake_one", "two": "fake_two"})
    frameworks.extra = lambda name: Extra(name, {name: "1.0"})
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def demo(tmp_path):
    """Starts ``dtn demo`` with the fake frameworks one and two; the second's step can be made to do something."""
    source, out = tmp_path / "source", tmp_path / "out"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

    def start(*options, second_step="pass"):
        for package, step in {"fake_one": "pass", "fake_two": second_step}.items():
            (source / package).mkdir(parents=True)
            (source / package / "__init__.py").write_text(textwrap.dedent(FAKE))
            (source / package / "training.py").write_text(textwrap.dedent(TRAINING).format(step=step))
        return subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), "demo", "--out", str(out), *options],
            env={**environment, "PYTHONPATH": os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    start.out = out
    return start


def test_trains_compares_and_writes(demo):
    child = demo("--epochs", "2", "--seed", "1")
    printed, errors = child.communicate()
    assert (child.returncode, errors) == (0, "")
    assert "one 1.0" in printed
    assert "All 3 checks hold." in printed
    assert sorted(path.name for path in demo.out.iterdir()) == ["demo.json", "demo.png"]
    content = json.loads((demo.out / "demo.json").read_text())
    assert [(run["framework"], run["mixer"]) for run in content["runs"]] == [
        ("one", "tensor"),
        ("one", "softmax"),
        ("two", "tensor"),
    ]
    assert content["runs"][0]["parameters"] == 640
    assert [len(row) for row in content["runs"][0]["losses"]] == [22, 22]
    assert content["runs"][2]["first_epoch_difference"] == 0
    assert len(content["transfers"]) == 4


def test_frameworks_that_differ_are_a_failure(demo):
    child = demo("--epochs", "1", second_step="self.model.weight = self.model.weight * 0.9")
    printed, _ = child.communicate()
    assert child.returncode == 1
    assert "NOT WITHIN 0.001: loss in the first epoch, two against one" in printed


def test_a_framework_that_raises_is_one_line_and_a_log(demo):
    child = demo("--epochs", "1", second_step="raise MemoryError('no room')")
    _, errors = child.communicate()
    assert child.returncode == 1
    assert errors.startswith("dtn: two failed: MemoryError: no room (all that it printed is in ")
    assert errors.count("\n") == 1
    assert [path.name for path in demo.out.iterdir()] == ["demo-two.log"]
    assert "Traceback" in (demo.out / "demo-two.log").read_text()


def test_a_framework_that_crashes_is_one_line(demo):
    child = demo("--epochs", "1", second_step="os.kill(os.getpid(), 9)")
    _, errors = child.communicate()
    assert child.returncode == 1
    assert "two failed: " in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_children_and_leaves_no_file(demo, tmp_path, number, status):
    marker = tmp_path / "training"
    child = demo(second_step=f"open({str(marker)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    until = time.monotonic() + 60
    while not (marker.exists() and marker.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    worker = int(marker.read_text())
    child.send_signal(number)
    _, errors = child.communicate(timeout=180)
    assert child.returncode == status
    assert errors == ("dtn: interrupted\n" if number == signal.SIGINT else "")
    assert list(demo.out.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
