"""``dtn conform``: files, exit status, resumption, processes that die, Ctrl-C; on the toy backends of this folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dtn_core.conform.cells import STATUSES
from dtn_core.conform.worker import versions

HERE = Path(__file__).parent
FEW = ("--ops", "ahla;tensor_attention:order=3,activation=relu", "--modes", "eager")
TINY = ("--ops", "ahla", "--modes", "eager", "--forms", "dense")
FIELDS = {"operator", "knobs", "backend", "form", "mode", "check", "dtype", "status", "error", "bound", "reason"}


def cells_of(folder):
    return json.loads((folder / "matrix.json").read_text())["cells"]


def test_a_backend_of_somebody_else_is_held_to_the_same_matrix(conform, tmp_path):
    done = conform("--backend-module", "toy_backend", *FEW)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = cells_of(tmp_path)
    assert {cell["backend"] for cell in cells} == {"toy"}
    assert all(cell.keys() >= FIELDS and cell["status"] in STATUSES for cell in cells)
    passed = [cell for cell in cells if cell["status"] == "pass"]
    assert {cell["check"] for cell in passed} == {"value", "causality", "padding", "batching", "zero input"}
    assert all(cell["error"] <= cell["bound"] and "toy 1.0" in cell["versions"] for cell in passed)
    assert {cell["knobs"].get("order", 2) for cell in cells} == {2, 3}
    assert any(cell["reason"] == "the toy is dense" for cell in cells)


@pytest.mark.parametrize(
    ("fault", "check", "reason"),
    [
        ("imprecise", "value", "error above its bound"),
        ("half", "batching", "error above its bound"),
        ("leaks", "causality", "error above its bound"),
        ("raises", "zero input", "ArithmeticError: this backend raises"),
    ],
)
def test_a_fault_is_found(conform, tmp_path, fault, check, reason):
    done = conform("--backend-module", "wrong_backend", *TINY, "--dtypes", "float64", WRONG=fault)
    assert done.returncode == 1
    (cell,) = [cell for cell in cells_of(tmp_path) if cell["check"] == check]
    assert cell["status"] == "fail"
    assert reason in cell["reason"]
    assert f"--checks {check if ' ' not in check else repr(check)}" in done.stdout


def test_what_a_backend_does_not_do_yet_is_a_gap_in_its_words(conform, tmp_path):
    done = conform(
        "--backend-module", "wrong_backend", *TINY, "--dtypes", "float64", "--checks", "value", WRONG="not yet"
    )
    assert done.returncode == 0
    assert [(cell["status"], cell["reason"]) for cell in cells_of(tmp_path)] == [("gap", "this backend does not add")]


def test_a_process_that_dies_fails_the_cell_it_was_at_and_the_rest_runs_in_another(conform, tmp_path):
    done = conform(
        "--backend-module", "wrong_backend", *TINY, "--dtypes", "float64", "--checks", "value,batching", WRONG="dies"
    )
    assert done.returncode == 1
    cells = cells_of(tmp_path)
    assert len(cells) == 2
    assert all("the process ended with status 9" in cell["reason"] for cell in cells)


def test_a_process_that_dies_at_one_operator_fails_no_other(conform, tmp_path):
    few = (
        "--ops",
        "linear_attention;ahla;second_order",
        "--modes",
        "eager",
        "--dtypes",
        "float64",
        "--checks",
        "value,batching",
    )
    conform("--backend-module", "wrong_backend", *few, WRONG="dies at ahla")
    cells = [cell for cell in cells_of(tmp_path) if cell["status"] in ("pass", "fail")]
    assert {cell["operator"] for cell in cells if cell["status"] == "fail"} == {"ahla"}
    assert {cell["operator"] for cell in cells if cell["status"] == "pass"} == {"linear_attention", "second_order"}


def test_a_second_run_keeps_what_passed(conform, tmp_path):
    conform("--backend-module", "toy_backend", *TINY)
    marked = json.loads((tmp_path / "matrix.json").read_text())
    for cell in marked["cells"]:
        if cell["status"] == "pass":
            cell["error"] = 0.125 * cell["bound"]
    (tmp_path / "matrix.json").write_text(json.dumps(marked))
    assert conform("--backend-module", "toy_backend", *TINY).returncode == 0
    assert cells_of(tmp_path) == marked["cells"]


def test_cells_of_other_versions_and_fails_run_again(conform, tmp_path):
    conform("--backend-module", "toy_backend", *TINY)
    before = cells_of(tmp_path)
    changed = json.loads((tmp_path / "matrix.json").read_text())
    for place, cell in enumerate(changed["cells"]):
        if cell["status"] == "pass":
            cell.update({"status": "fail"} if place % 2 else {"versions": "toy 0.9", "error": 1.0})
    (tmp_path / "matrix.json").write_text(json.dumps(changed))
    assert conform("--backend-module", "toy_backend", *TINY).returncode == 0
    assert cells_of(tmp_path) == before


def test_versions_follow_the_adapters_that_one_derives_from(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(HERE))
    import toy_backend
    import wrong_backend

    before = versions(wrong_backend.ADAPTER())
    changed = tmp_path / "toy_backend.py"
    changed.write_text(Path(toy_backend.__file__).read_text() + "\n")
    monkeypatch.setattr(toy_backend, "__file__", str(changed))
    assert versions(wrong_backend.ADAPTER()) != before


def test_backends_are_merged_into_one_matrix(conform, tmp_path):
    conform("--backend-module", "toy_backend", *TINY, "--checks", "value")
    conform("--backends", "numpy", *TINY, "--checks", "value")
    cells = cells_of(tmp_path)
    assert {cell["backend"] for cell in cells} == {"toy", "numpy"}
    text = (tmp_path / "matrix.md").read_text()
    assert "| toy |" in text
    assert "| numpy |" in text


def test_a_sample_prints_its_seed(conform, tmp_path):
    done = conform("--backend-module", "toy_backend", *FEW, "--sample", "3", "--seed", "5")
    assert "seed 5" in done.stdout
    assert len(cells_of(tmp_path)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ops", "tensor_attention:order=0"), "order=0 is not an integer >= 1"),
        (("--ops", "attention"), "'attention' is neither a file nor an operator"),
        (("--forms", "sparse"), "'sparse' is not one of dense, linear, chunked, recurrent"),
        (("--backend-module", "json"), "--backend-module json: json has no ADAPTER"),
        (("--device", "tpu"), "'tpu' is not one of cpu, cuda"),
    ],
)
def test_mistakes_are_one_line(conform, arguments, message):
    done = conform(*arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_matrix_is_refused_and_left(conform, tmp_path):
    (tmp_path / "matrix.json").write_text('{"cells": [{"colour": 1}]}')
    done = conform("--backend-module", "toy_backend", *TINY)
    assert done.returncode == 1
    assert "is not a matrix of this version" in done.stderr
    assert json.loads((tmp_path / "matrix.json").read_text()) == {"cells": [{"colour": 1}]}


def test_ctrl_c_keeps_what_was_done(tmp_path):
    here, calls = Path(__file__).parent, tmp_path / "calls"
    path = os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH", "")]))
    command = [
        sys.executable,
        "-m",
        "dtn_core.cli",
        "conform",
        "--backend-module",
        "wrong_backend",
        "--out",
        str(tmp_path),
        *FEW,
    ]
    environment = {**os.environ, "PYTHONPATH": path, "WRONG": "slow", "CALLS": str(calls)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 60
        while not calls.exists() or calls.read_text().count("call") < 6:  # a value cell takes four
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert errors.strip().endswith("dtn: interrupted")
    done = [cell for cell in cells_of(tmp_path) if cell["status"] == "pass"]
    assert done
    conform = subprocess.run(command, env={**environment, "WRONG": "none"}, capture_output=True, text=True, check=False)
    assert conform.returncode == 1  # the rest ran, and raised
    assert [cell for cell in cells_of(tmp_path) if cell["status"] == "pass"] == done
    assert not list(tmp_path.glob(".*partial*"))


def test_a_device_that_is_not_there_is_a_clear_skip(conform, tmp_path):
    done = conform("--backend-module", "toy_backend", "--device", "cuda", *TINY)
    assert done.returncode == 0
    assert "toy is skipped: toy computes on the processor only" in done.stdout
    assert {cell["status"] for cell in cells_of(tmp_path)} == {"skip"}
