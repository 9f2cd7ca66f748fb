"""``dtn tune`` and ``dtn records`` as a user types them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from dtn_core.cli import main
from dtn_tvm.measuring.command import main as measure_bundle

OP = "tensor_attention:mask=causal,normalize=none"
SHAPE = "b=1,h=2,n=128,d=16,e=16"


@pytest.fixture
def dtn(capsys, tmp_path, monkeypatch):
    """Runs a command line in an empty folder; gives exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--target", "gpu"], "--target: target 'gpu' is not one of cpu, nvidia/a10,"),
            (["--target", '{"kind": "cuda"}'], '--target: .* needs "arch"'),
            (["--shape", "n=many"], "--shape: 'n=many' is not axis=size"),
            (["--shape", "n=8,n=8"], "--shape: axis 'n' is given twice"),
            (
                ["--shape", "n=64,d=16,e=16,z=1"],
                "--shape: tensor_attention has no axis 'z'; its axes are b, h, n, d, e",
            ),
            (["--shape", "n=64,d=16"], "--shape: tensor_attention: size of axis 'e' is missing, as in e=64"),
            (["--shape", "n=0,d=16,e=16"], "--shape: axis 'n' has size 0"),
            (["--direction", "sideways"], "--direction: 'sideways' is not one of forward, backward"),
            (["--time-budget", "soon"], "--time-budget: 'soon' is not a time, as in 90s, 10m, 1h30m"),
            (["--rpc", "somewhere", "--key", "k"], "--rpc: 'somewhere' is not host:port"),
            (["--rpc", "10.0.0.5:9190"], "--rpc and --key go together"),
            (["--shape", "b=1,batch=2,n=8,d=4,e=4"], "--shape: axis 'batch' is given twice, as 'b' and as 'batch'"),
            (["--dtype", "float64"], "--dtype: 'float64' is not one of float32, float16, bfloat16"),
            (["--timeout", "inf"], "'--timeout': inf is not in the range"),
            (["--timeout", "nan"], "'--timeout': nan is not a number"),
            (["--time-budget", "30m1h"], "--time-budget: '30m1h' is not a time"),
            (["--time-budget", "9" * 400], "--time-budget: '9+' is not a time"),
            (["--target", '{"kind": "llvm", "mcpu": "x86-64-v33"}'], "--target: .* did you mean .*x86-64-v3"),
            (["--target", '{"kind": "llvm", "num-cores": 0}'], '--target: .* "num-cores" is 0, expected an integer'),
            (["--trials", "0"], "--trials"),
            (["--engine", "steam"], "--engine: 'steam' is not one of grid, metaschedule"),
        ],
    )
    def test_a_command_line_that_makes_no_sense_is_one_line(self, dtn, tmp_path, arguments, said):
        given = arguments if "--shape" in arguments else ["--shape", SHAPE, *arguments]
        status, out, err = dtn("tune", OP, *given)
        assert (status, out) == (2, "")
        assert err.startswith("dtn: ")
        assert err.count("\n") == 1
        assert re.search(said, err)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["tune", OP, "--shape", "n=1000000000000,d=64,e=64"], "q[1, 1, 1000000000000, 64], k"),
            (["tune", OP, "--shape", "b=1000000000000,n=64,d=64,e=64"], "take 131,072,000,000,000,000 bytes"),
            (["tune", "build", OP, "--shape", "n=1000000000000,d=64,e=64", "--trials", "1"], "; give a smaller shape"),
            (["tune", OP, "--shape", SHAPE, "--records", "no/records.jsonl"], "there is no folder no"),
            (["tune", OP, "--shape", SHAPE, "--engine", "metaschedule"], "the engine grid has kernels of it"),
            (["tune", "measure", "bundle.zip"], "bundle.zip: No such file"),
            (["tune", "import", "results.json"], "results.json: No such file"),
            (["records", "list", "records.jsonl"], "records.jsonl: No such file"),
            (["records", "prune", "records.jsonl"], "records.jsonl: No such file"),
        ],
    )
    def test_what_cannot_be_done_is_one_line(self, dtn, tmp_path, arguments, said):
        status, out, err = dtn(*arguments)
        assert (status, out) == (1, "")
        assert err.count("\n") == 1
        assert said in err
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("axis", ["h", "heads", "batch"])
def test_an_operator_that_the_implementation_refuses_is_refused(dtn, tmp_path, axis):
    (tmp_path / "op.dtn").write_text(f"twice(x[n,{axis}]) -> y[n,{axis}]: y[i,a] = 2 * x[i,a]")
    status, out, err = dtn("tune", "op.dtn", "--shape", f"n=8,{axis}=4")
    assert (status, out) == (2, "")
    said = f"implementation='tvm' cannot run twice: its axis {axis} has the name of an axis of kernels"
    assert err.startswith(f"dtn: Invalid value for OP: {said}")


def test_a_scalar_without_a_value_is_one_line(dtn, tmp_path):
    (tmp_path / "op.dtn").write_text("scaled(x[n,d], s) -> y[n,d]: y[i,a] = s * x[i,a]")
    assert dtn("tune", "op.dtn", "--shape", "n=8,d=4") == (
        1, "", "dtn: scaled: scalar s has no value; a kernel is tuned for one\n"
    )  # fmt: skip


def test_a_shape_that_is_given_twice_is_built_once(dtn, monkeypatch):
    built = []
    monkeypatch.setattr("dtn_tvm.commands.run_build", lambda problems, *others: built.extend(problems) or 0)
    shapes = ("--shape", "b=1,n=64,d=16,e=16", "--shape", "n=64,d=16,e=16", "--shape", "n=65,d=16,e=16")
    assert dtn("tune", "build", OP, *shapes)[0] == 0
    assert [problem.sizes["n"] for problem in built] == [64, 65]


@pytest.mark.parametrize(
    ("option", "given"), [("--shape", ("n=64,d=16,e=16", "n=65,d=16,e=16")), ("--dtype", ("float16", "bfloat16"))]
)
def test_a_search_has_one_shape_and_dtype(dtn, option, given):
    shape = () if option == "--shape" else ("--shape", SHAPE)
    status, out, err = dtn("tune", OP, *shape, option, given[0], option, given[1])
    assert (status, out) == (2, "")
    assert f"{option}: {given[0]} and {given[1]}: one a search; dtn tune build takes several" in err


def test_a_resumed_schedule_reads_like_a_fresh_one():
    from test_records import record

    from dtn_tvm.commands import report
    from dtn_tvm.record import Receipt

    receipt = Receipt("a processor", 1e-3, {"rms": 1e-7}, {"rms": 1e-5}, {})
    fresh, resumed = (record(schedule={"tokens": kind((8, 16))}, receipt=receipt) for kind in (tuple, list))
    assert report(fresh, 1, 0, {}) == report(resumed, 1, 0, {})


class TestTune:
    @pytest.fixture
    def tuner(self, tmp_path):
        """Starts ``dtn tune`` in a process of its own."""
        command = [sys.executable, "-m", "dtn_core.cli", "tune", OP, "--shape", SHAPE, "--records", "records.jsonl"]
        return lambda *more: subprocess.Popen(
            [*command, *more], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def test_ctrl_c_keeps_what_was_measured_and_running_again_goes_on(self, tuner, tmp_path, dtn, monkeypatch):
        monkeypatch.setenv("TVM_NUM_THREADS", "1")
        first = tuner("--trials", "40")
        trials = tmp_path / "records.trials.jsonl"
        deadline = time.monotonic() + 120
        while not trials.exists() or trials.read_bytes().count(b"\n") < 2:
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=30)
        assert first.returncode == 130
        assert "run again to go on" in err
        assert "best  " in out
        measured = trials.read_bytes().count(b"\n")

        second = tuner("--trials", str(measured))
        out, err = second.communicate(timeout=120)
        assert second.returncode == 0, err
        assert f"candidates  {measured} measured, {measured} of them by an earlier run" in out
        assert "of the roofline" in out

        status, out, _ = dtn("records", "list", "records.jsonl")
        assert status == 0
        assert "tensor_attention   b=1,h=2,n=128,d=16,e=16   float32   cpu/" in out
        _, out, _ = dtn("records", "show", "records.jsonl", "1")
        shown = json.loads(out)
        assert shown["receipt"]["errors"]["rms"] < shown["receipt"]["tolerance"]["rms"]
        assert dtn("records", "merge", "records.jsonl", "records.jsonl", "-o", "all.jsonl")[0] == 0
        assert (tmp_path / "all.jsonl").read_text() == (tmp_path / "records.jsonl").read_text()
        assert dtn("records", "prune", "all.jsonl")[1] == "all.jsonl: 1 record left\n"


class TestWithoutTVM:
    """Where the extra is missing, one line says how to install it."""

    @pytest.mark.parametrize(
        "arguments",
        [["tune", OP, "--shape", SHAPE], ["tune", "build", OP, "--shape", SHAPE], ["tune", "import", "results.json"]],
    )
    def test_it_names_the_extra(self, dtn, monkeypatch, arguments):
        from importlib.metadata import PackageNotFoundError

        def missing(package):
            raise PackageNotFoundError(package)

        monkeypatch.setattr("dtn_tvm.toolchain.version", missing)
        status, out, err = dtn(*arguments)
        assert (status, out) == (1, "")
        assert err == "dtn: kernels need apache-tvm: pip install 'deep-tensor-network[tvm]'\n"


def test_measuring_a_bundle_by_the_command(built_bundle, dtn, tmp_path):
    status, out, _ = dtn("tune", "measure", str(built_bundle), "-o", "results.json", "--budget", "0")
    assert status == 0
    assert out.startswith("0 of 3 candidates measured on ")
    assert out.endswith("results in results.json\n")
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize(
    ("is_there", "said"),
    [(True, "what was measured is in results.json, run again to go on"), (False, "nothing was measured yet")],
)
def test_ctrl_c_while_a_bundle_is_measured_says_what_is_kept(dtn, capsys, tmp_path, monkeypatch, is_there, said):
    def interrupted(*given):
        raise KeyboardInterrupt

    if is_there:
        (tmp_path / "results.json").touch()
    monkeypatch.setattr("dtn_tvm.commands.measure", interrupted)
    assert dtn("tune", "measure", "bundle.zip") == (130, "", f"{said}\ndtn: interrupted\n")
    monkeypatch.setattr("dtn_tvm.measuring.command.measure", interrupted)
    monkeypatch.setattr("sys.argv", ["bundle.zip"])
    before = signal.getsignal(signal.SIGTERM)
    assert measure_bundle() == 130
    signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == f"interrupted; {said}\n"


@pytest.mark.parametrize("command", [["tune", OP, "--shape", SHAPE, "--records"], ["records", "prune"]])
def test_a_file_of_something_else_stays_as_it_is(dtn, tmp_path, command):
    (tmp_path / "notes.txt").write_text("my notes\n")
    status, out, err = dtn(*command, "notes.txt")
    assert (status, out) == (1, "")
    assert err.startswith("dtn: notes.txt is no file of records (line 1: ")
    assert (tmp_path / "notes.txt").read_text() == "my notes\n"
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("budget", ["nan", "inf", "-5"])
def test_a_budget_that_is_none(dtn, capsys, monkeypatch, budget):
    status, out, err = dtn("tune", "measure", "bundle.zip", "--budget", budget)
    assert (status, out) == (2, "")
    assert "--budget" in err
    monkeypatch.setattr("sys.argv", ["bundle.zip", f"--budget={budget}"])
    with pytest.raises(SystemExit) as ended:
        measure_bundle()
    assert ended.value.code == 2
    assert f"argument --budget: '{budget}' is not a number of seconds" in capsys.readouterr().err


def test_a_folder_is_no_bundle(dtn, tmp_path):
    status, out, err = dtn("tune", "measure", str(tmp_path))
    assert (status, out) == (2, "")
    assert "is a directory" in err


@pytest.mark.parametrize("options", [{}, {"kind": "abacus"}, {"kind": "llvm", "num-cores": -1}])
def test_a_record_whose_target_is_none_is_not_exported(dtn, tmp_path, options):
    from test_records import record

    from dtn_tvm import records

    records.add(tmp_path / "records.jsonl", [record(target_options=options)])
    status, out, err = dtn("records", "export", "records.jsonl")
    assert (status, out) == (1, "")
    assert err.startswith("dtn: twice, b=1,h=2,n=300,d=16: target {")
    assert err.count("\n") == 1


def test_of_a_bucket_the_record_that_is_faster_by_the_element_is_exported(dtn, tmp_path, monkeypatch):
    from test_records import record

    from dtn_tvm import records

    short, long = ({"batch": 1, "heads": 2, "n": n, "d": 16} for n in (260, 500))
    slow, fast = record(1.0e-3, sizes=short), record(1.1e-3, sizes=long, options={"engine": "another"})
    records.add(tmp_path / "records.jsonl", [slow, fast])
    exported = []
    monkeypatch.setattr("dtn_tvm.export.export", lambda found, folder: exported.extend(found) or [])
    assert dtn("records", "export", "records.jsonl")[0] == 0
    assert exported == [fast]


def test_the_list_says_which_lines_are_none(dtn, tmp_path):
    (tmp_path / "records.jsonl").write_text("not json\n")
    status, out, err = dtn("records", "list", "records.jsonl")
    assert (status, out) == (0, "no records\n")
    assert err.startswith("records.jsonl, line 1: skipped, ")
