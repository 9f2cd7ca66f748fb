"""Which machine results are of, and that no machine's report takes the place of another's."""

import subprocess
from dataclasses import replace
from functools import partial

import pytest
from typer.testing import CliRunner

from bench import machine, results
from bench.__main__ import app
from bench.case import FORWARD, GRADIENTS, SECOND_ORDER, Figures
from bench.report import machine_line, machine_name
from bench.results import Result

X86 = """processor\t: 0
model name\t: AMD EPYC
flags\t\t: fpu sse2 avx {}

processor\t: 1
model name\t: AMD EPYC
flags\t\t: fpu sse2 avx {}
"""
ARM = """processor\t: 0
Features\t: fp asimd evtstrm aes
CPU implementer\t: 0x41
"""


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    monkeypatch.setattr("dtn_core.cpuinfo.CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "cores", lambda: 2)
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("flags", "slug"),
    [
        ("avx2 avx512f avx512vl", "amd-epyc-avx-512-2-cores"),
        ("avx2 vaes", "amd-epyc-avx2-2-cores"),
        ("", "amd-epyc-2-cores"),
    ],
)
def test_processors_of_one_name_are_told_apart_by_their_vector_units(cpuinfo, flags, slug):
    cpuinfo.write_text(X86.format(flags, flags))
    assert machine.slug() == slug


def test_arm_has_features_where_x86_has_flags(cpuinfo):
    cpuinfo.write_text(ARM)
    assert machine.vectors() == "NEON"
    assert machine.processor()


def test_a_system_that_says_nothing_has_no_vector_unit(cpuinfo):
    assert machine.vectors() == ""
    assert machine.slug().endswith("-2-cores")


def test_an_accelerator_is_named_alone_and_its_host_in_the_line_on_it(cpuinfo):
    cpuinfo.write_text(X86.format("avx2", "avx2"))
    assert machine.slug("NVIDIA H200") == "nvidia-h200"
    about = machine.describe("NVIDIA H200")
    assert machine_name(about) == "NVIDIA H200"
    assert machine_line(about).startswith("NVIDIA H200, AMD EPYC, AVX2, 2 cores, ")


def test_vector_units_are_shown_of_results_that_have_them(cpuinfo):
    cpuinfo.write_text(X86.format("avx2", "avx2"))
    about = machine.describe()
    assert machine_line(about).startswith("AMD EPYC, AVX2, 2 cores, ")
    del about["machine"]["vectors"]
    assert machine_line(about).startswith("AMD EPYC, 2 cores, ")


def test_a_report_lies_beside_its_results_and_names_them(tmp_path):
    figures = [Figures(FORWARD, "torch", "dtn", "eager", 1024, True, SECOND_ORDER, {}, [1.0], 1e-6)]
    for name in ("one", "other"):
        results.write(tmp_path / f"{name}.json", [Result("causal", FORWARD, machine.describe(), figures)])
        assert CliRunner().invoke(app, ["report", "--out", str(tmp_path / f"{name}.json")]).exit_code == 0
    assert "from `one.json`" in (tmp_path / "one" / "report.md").read_text()
    assert "from `other.json`" in (tmp_path / "other" / "report.md").read_text()


def test_results_are_named_as_json():
    done = CliRunner().invoke(app, ["report", "--out", "results"])
    assert done.exit_code == 2
    assert "results does not end in .json" in done.output


def test_a_summary_is_of_every_machine(tmp_path, cpuinfo):
    ours = Figures(GRADIENTS, "torch", "dtn", "eager", 8192, True, SECOND_ORDER, {}, [0.9], 1e-6)
    for flags, seconds in (("avx2", 1.0), ("avx512f", 2.0)):
        cpuinfo.write_text(X86.format(flags, flags))
        figures = [ours, replace(ours, implementation="twin", ours=False, rounds=[seconds])]
        results.write(tmp_path / f"{flags}.json", [Result("causal", GRADIENTS, machine.describe(), figures)])
    done = CliRunner().invoke(app, ["summary", str(tmp_path / "avx2.json"), str(tmp_path / "avx512f.json")])
    assert done.exit_code == 0
    assert "| what | target | AMD EPYC, AVX2 | AMD EPYC, AVX-512 |" in done.stdout
    row = "| forward and gradients, torch eager: time ÷ best by hand | ≤ 0.8 | **0.90** (n = 8192, twin) | 0.45 |"
    assert row in done.stdout
    assert done.stdout.count("\n- AMD EPYC, AVX") == 2


def test_a_summary_of_nothing_says_what_makes_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["summary"])
    assert done.exit_code == 2
    assert "python -m bench run makes some" in " ".join(done.output.replace("│", " ").split())


def test_results_that_were_written_are_no_change_of_the_code(tmp_path, monkeypatch):
    for name in ("bench/results", "other"):
        (tmp_path / name).mkdir(parents=True)
    run = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True)
    run(["git", "init", "-q"])
    run(["git", "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "first"])
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "bench" / "machine.py"))
    (tmp_path / "bench/results/one.json").write_text("{}")
    assert machine.commit()["changed"] is False
    (tmp_path / "other/code.py").write_text("")
    assert machine.commit()["changed"] is True
