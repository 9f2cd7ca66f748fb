"""The dtn command as a user sees it: output, exit status, one line on standard error."""

import ast
import os
import shlex
import subprocess
import sys

import pytest

import dtn_core
from dtn_core.cli import main
from dtn_core.cli.commands import app
from dtn_core.operators import catalogue

HEAVY = {"numpy", "sympy", "opt_einsum", "scipy", "sklearn", "matplotlib", "torch", "jax", "tensorflow", "keras"}
COMMANDS = ("ops", "show", "explain", "emit", "doctor", "demo", "conform")


@pytest.fixture
def dtn(capsys):
    """Runs a command line; gives exit status, standard output and standard error."""

    def run(*arguments):
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def refused(dtn, *arguments):
    """The single line on standard error of a command line that is refused."""
    status, out, err = dtn(*arguments)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("dtn: ")
    return err


class TestHelp:
    def test_without_arguments_lists_the_commands(self, dtn):
        status, out, err = dtn()
        assert (status, err) == (0, "")
        assert all(command in out for command in COMMANDS)

    def test_every_command_is_listed_here(self):
        assert {command.callback.__name__ for command in app.registered_commands} == set(COMMANDS)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_an_example(self, dtn, command):
        status, out, _ = dtn(command, "--help")
        assert status == 0
        assert f"Example: dtn {command}" in out

    @pytest.mark.parametrize("command", COMMANDS)
    def test_the_example_in_the_help_parses(self, dtn, command, monkeypatch):
        epilog = next(c.epilog for c in app.registered_commands if c.callback.__name__ == command)
        arguments = epilog.removeprefix("Example: dtn ").partition(" >")[0].split()
        monkeypatch.setattr("dtn_core.demo.run", lambda **options: 0)
        monkeypatch.setattr("dtn_core.cli.doctor.print_report", lambda timeout: 0)
        monkeypatch.setattr("dtn_core.conform.run.run", lambda request, out: 0)
        assert dtn(*arguments)[0] == 0


class TestVersion:
    def test_is_that_of_the_distribution(self, dtn):
        assert dtn("--version") == (0, f"deep-tensor-network {dtn_core.__version__}\n", "")


class TestOps:
    def test_lists_every_operator_with_its_summary(self, dtn):
        status, out, err = dtn("ops")
        assert (status, err) == (0, "")
        for entry in catalogue.values():
            assert entry.name in out
            assert entry.summary[:40] in out

    def test_lists_every_knob(self, dtn):
        _, out, _ = dtn("ops")
        assert all(f"\n {knob} " in out for knob in catalogue["tensor_attention"].knobs)

    def test_says_which_masks_an_operator_does_not_take(self, dtn):
        assert "(without tril)" in " ".join(dtn("ops")[1].split())

    def test_imports_no_framework_and_nothing_heavy(self):
        program = "import sys; from dtn_core.cli import main; main(['ops']); print(*sys.modules, file=sys.stderr)"
        child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert not HEAVY & set(child.stderr.split())


class TestShow:
    def test_prints_the_notation(self, dtn):
        status, out, _ = dtn("show", "tensor_attention:normalize=none")
        assert status == 0
        assert out.startswith("tensor_attention(q[n,d], k[n,d], v[n,e]) -> o[n,e]:\n    T[i,j] = ")

    def test_prints_bound_scalars(self, dtn):
        assert "with residual=0.5" in dtn("show", "tensor_attention:residual=0.5")[1]

    def test_with_a_backend_prints_the_source_too(self, dtn):
        _, out, _ = dtn("show", "tensor_attention", "--backend", "torch")
        assert "import torch\n" in out
        assert "def tensor_attention(q, k, v" in out

    def test_reads_a_file_of_notation(self, dtn, tmp_path):
        path = tmp_path / "gram.dtn"
        path.write_text("gram(x[n,d]) -> g[d,d]:\n    g[a,b] = x[i,a] * x[i,b]\n")
        status, out, _ = dtn("show", str(path))
        assert status == 0
        assert "gram(x[n,d])" in out


class TestEmit:
    @pytest.mark.parametrize("backend", ["numpy", "torch", "jax", "tensorflow"])
    def test_source_imports_the_framework_alone(self, dtn, backend):
        status, out, _ = dtn("emit", "tensor_attention", "--backend", backend)
        assert status == 0
        imports = [node for node in ast.walk(ast.parse(out)) if isinstance(node, ast.Import | ast.ImportFrom)]
        roots = {alias.name.partition(".")[0] for node in imports for alias in node.names}
        assert roots == {backend}

    def test_complex_source_differs(self, dtn):
        real, complex_ = (dtn("emit", "tensor_attention", "-b", "numpy", *extra)[1] for extra in ([], ["--complex"]))
        assert "conj" in complex_
        assert real != complex_

    def test_layout(self, dtn):
        _, out, _ = dtn("emit", "tensor_attention", "-b", "torch", "--layout", "... n h d")
        assert "..., n, h, d]" in out


class TestExplain:
    def test_sizes_reach_the_report(self, dtn):
        status, out, _ = dtn("explain", "tensor_attention", "--shape", "n=4096, d=64,e=32", "--dtype", "float64")
        assert status == 0
        assert "float64, n=4096, d=64, e=32" in out
        assert "no intermediate has two sequence axes" in out

    def test_backend_is_named(self, dtn):
        assert "native jax" in dtn("explain", "tensor_attention", "--backend", "jax")[1]


class TestRefusals:
    def test_no_such_command(self, dtn):
        assert "'frobnicate'" in refused(dtn, "frobnicate")

    def test_no_such_operator_lists_the_catalogue(self, dtn):
        message = refused(dtn, "show", "tensor_atention")
        assert "'tensor_atention'" in message
        assert "tensor_interaction" in message

    def test_unknown_knob_lists_the_knobs(self, dtn):
        message = refused(dtn, "show", "tensor_attention:colour=red")
        assert "'colour'" in message
        assert "normalize" in message

    def test_clashing_knobs_are_named(self, dtn):
        message = refused(dtn, "explain", "tensor_attention:product=hadamard,order=3")
        assert "product='hadamard'" in message
        assert "order=3" in message

    def test_no_such_backend_lists_the_backends(self, dtn):
        message = refused(dtn, "emit", "tensor_attention", "--backend", "theano")
        assert "'theano'" in message
        assert "tensorflow" in message

    def test_missing_backend(self, dtn):
        assert "--backend" in refused(dtn, "emit", "tensor_attention")

    @pytest.mark.parametrize("shape", ["n", "n=", "n=-1", "n=1.5", "=3", "n=3;d=4", "", "n=3,", "n=٣"])
    def test_shape_that_does_not_parse(self, dtn, shape):
        assert "--shape" in refused(dtn, "explain", "tensor_attention", "--shape", shape)

    def test_shape_with_an_axis_twice(self, dtn):
        assert "'n' is given twice" in refused(dtn, "explain", "tensor_attention", "--shape", "n=1,n=2")

    def test_shape_that_is_too_large(self, dtn):
        assert "10^15" in refused(dtn, "explain", "tensor_attention", "--shape", "n=" + "9" * 5000)

    def test_shape_of_an_axis_that_is_not_there(self, dtn):
        assert "'z'" in refused(dtn, "explain", "tensor_attention", "--shape", "z=4")

    def test_dtype(self, dtn):
        assert "int8" in refused(dtn, "explain", "tensor_attention", "--dtype", "int8")

    def test_layout(self, dtn):
        assert "'n d'" in refused(dtn, "emit", "tensor_attention", "-b", "jax", "--layout", "n d")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("conform", "--backends", "foo"), "--backends: unknown backend 'foo'; known: "),
            (("conform", "--backends", "numpy,numpy"), "--backends: backend 'numpy' is given twice"),
            (("conform", "--backend-module", "no_such"), "--backend-module no_such: there is no module"),
            (("conform", "--dtypes", "float32,float32"), "--dtypes: 'float32' is given twice"),
            (("demo", "--frameworks", "foo"), "--frameworks: 'foo' is not one of torch, jax, tensorflow"),
            (("demo", "--frameworks", ""), "--frameworks: '' is not one of"),
            (("demo", "lm", "--frameworks", "torch,torch"), "--frameworks: 'torch' is given twice"),
            (("doctor", "--timeout", "nan"), "'--timeout': nan is not a number"),
            (("conform", "--out", __file__), "'--out': Directory"),
        ],
    )
    def test_what_an_option_cannot_be(self, dtn, arguments, said):
        assert said in refused(dtn, *arguments)

    def test_notation_error_has_line_column_and_caret(self, dtn, tmp_path):
        path = tmp_path / "wrong.dtn"
        path.write_text("f(x[n,d]) -> y[n,d]:\n    y[i,a] = x[i,b]\n")
        status, out, err = dtn("show", str(path))
        assert (status, out) == (2, "")
        assert f"{path}: f, line 2, column" in err
        assert err.splitlines()[-1].strip() == "^"

    def test_an_empty_file_is_named(self, dtn, tmp_path):
        path = tmp_path / "empty.dtn"
        path.write_text("")
        status, out, err = dtn("show", str(path))
        assert (status, out) == (2, "")
        assert f"{path}: line 1, column 1: expected the operator's name" in err

    def test_a_file_that_is_not_text(self, dtn, tmp_path):
        path = tmp_path / "image.dtn"
        path.write_bytes(b"\x89PNG\xff\xfe")
        assert "not UTF-8" in refused(dtn, "show", str(path))


def test_a_file_may_begin_with_a_byte_order_mark(dtn, tmp_path):
    path = tmp_path / "gram.dtn"
    path.write_text("gram(x[n,d]) -> g[d,d]:\n    g[a,b] = x[i,a] * x[i,b]\n", encoding="utf-8-sig")
    status, out, err = dtn("show", str(path))
    assert (status, err) == (0, "")
    assert out.startswith("gram(x[n,d])")


def test_what_the_locale_cannot_encode_is_replaced():
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}
    command = [sys.executable, "-m", "dtn_core.cli", "ops"]
    child = subprocess.run(command, capture_output=True, env={**inherited, **plain})
    assert (child.returncode, child.stderr) == (0, b"")
    assert b"?" in child.stdout
    assert child.stdout.isascii()


def test_output_into_a_closed_pipe_ends_quietly():
    program = "import sys; from dtn_core.cli import main; sys.exit(main(['emit', 'tensor_attention', '-b', 'torch']))"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == 1


def test_ctrl_c_ends_with_one_line(dtn, monkeypatch):
    def interrupted(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr("dtn_core.demo.run", interrupted)
    assert dtn("demo") == (130, "", "dtn: interrupted\n")


@pytest.mark.parametrize("command", ["ops", "--help", "emit ahla -b numpy"])
def test_output_that_is_closed_is_no_traceback(command):
    shell = f"{shlex.quote(sys.executable)} -m dtn_core.cli {command} >&-"
    child = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stderr) == (0, "")


def test_ctrl_c_while_the_command_line_is_imported_is_one_line():
    program = """
import sys

class Interrupted:
    def find_spec(name, *rest):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted)
from dtn_core.cli import main
sys.exit(main(["ops"]))
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout, child.stderr) == (130, "", "dtn: interrupted\n")
