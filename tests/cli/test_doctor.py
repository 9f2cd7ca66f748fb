"""dtn doctor: what is installed, in which version, on which devices, and how to install the rest."""

import os
import subprocess
import sys
import textwrap

import pytest

from dtn_codegen import targets
from dtn_core.cli import doctor, installation, main


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Puts a package of the given source, and the given modules, in the way of a child process."""

    def make(package, source, **modules):
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").write_text(textwrap.dedent(source))
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(textwrap.dedent(text))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return make


def examine(package, timeout=60.0):
    backend = targets()["numpy"]
    return doctor.examine(type(backend)(**{**vars(backend), "package": package}), timeout)


def test_report_names_versions_and_devices(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"Python {sys.version.split()[0]}" in out
    assert f"numpy {installation.extra('').versions['numpy']}" in out
    assert "cpu" in out


def test_missing_framework_comes_with_the_command_that_installs_it(capsys, monkeypatch):
    monkeypatch.setattr(installation, "_version", lambda package: None if package == "jax" else "1.0")
    monkeypatch.setattr(doctor, "examine", lambda backend, timeout: doctor.Examined(devices=("cpu",)))
    assert main(["doctor"]) == 0
    assert installation.install_command("jax") in capsys.readouterr().out


def test_a_framework_that_does_not_import_is_reported(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda backend, timeout: doctor.Examined(failure="ImportError: no libfoo"))
    assert main(["doctor"]) == 1
    assert "numpy is installed and does not work: ImportError: no libfoo" in capsys.readouterr().out


def test_advice_is_printed_with_the_name_of_its_backend_and_is_no_fault(capsys, monkeypatch):
    examined = doctor.Examined(devices=("cpu",), advice=("computes without its fast library",))
    monkeypatch.setattr(doctor, "examine", lambda backend, timeout: examined)
    assert main(["doctor"]) == 0
    assert "\nnumpy computes without its fast library\n" in capsys.readouterr().out


class TestExamine:
    def test_devices_of_the_training_module(self, fake):
        fake("good_backend", "print('a banner')", training="def devices(): return ['cpu', 'gpu:0 H200']")
        assert examine("good_backend").devices == ("cpu", "gpu:0 H200")

    def test_without_training_it_is_the_processor(self, fake):
        fake("plain_backend", "")
        assert examine("plain_backend").devices == ("cpu",)

    def test_advice_is_that_of_its_own_module(self, fake):
        fake("slow_backend", "", advice="def advice(): return ['is slow']")
        assert examine("slow_backend") == doctor.Examined(devices=("cpu",), advice=("is slow",))

    def test_an_exception_is_one_line(self, fake):
        fake("broken_backend", "raise OSError('no libfoo')")
        assert examine("broken_backend").failure == "OSError: no libfoo"

    def test_a_crash_is_one_line(self, fake):
        fake("crashing_backend", "import os; os.abort()")
        assert examine("crashing_backend").failure == "the process ended with status -6"

    def test_one_that_hangs_is_ended(self, fake):
        fake("hanging_backend", "import time; time.sleep(600)")
        assert "more than 1 s" in examine("hanging_backend", timeout=1.0).failure


class TestInstallation:
    def test_extras_name_their_packages(self):
        assert set(installation.extra("jax").versions) == {"jax", "flax", "optax"}
        assert set(installation.extra("demo").versions) == {"scikit-learn", "matplotlib"}

    def test_what_is_always_needed_is_installed(self):
        assert installation.extra("").complete

    def test_command_is_relative_to_the_folder(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
        assert installation.install_command("torch") == ".venv/bin/python -m pip install 'deep-tensor-network[torch]'"


@pytest.fixture
def broken(tmp_path):
    """Puts a backend that does not import among the installed ones of a child process."""
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[dtn.backends]\nmine = absent_module:TARGET\n")

    def run(*arguments):
        command = [sys.executable, "-m", "dtn_core.cli", *arguments]
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path}
        )

    return run


def test_a_backend_of_others_that_is_broken_is_reported(broken):
    child = broken("doctor")
    why = "mine is installed and does not work: entry point absent_module:TARGET: ModuleNotFoundError: "
    assert (child.returncode, child.stderr) == (1, "")
    assert why in child.stdout


def test_a_backend_of_others_that_is_broken_leaves_the_rest_as_it_is(broken):
    child = broken("emit", "ahla", "-b", "numpy")
    assert (child.returncode, child.stderr) == (0, "")
    child = broken("emit", "ahla", "-b", "mine")
    assert child.returncode == 1
    assert child.stderr.startswith("dtn: backend mine: entry point absent_module:TARGET: ModuleNotFoundError")
