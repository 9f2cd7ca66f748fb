"""The way of a bundle: compiled here, measured by a Python that has no Apache TVM, filed here."""

import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from dataclasses import replace
from importlib.metadata import metadata

import families
import pytest

from dtn_tvm import records
from dtn_tvm.bundle import build, import_results
from dtn_tvm.candidates import Candidates, Options
from dtn_tvm.engines import TuneError
from dtn_tvm.measuring import bundle as onsite
from dtn_tvm.measuring import start
from dtn_tvm.measuring.device import instructions
from dtn_tvm.measuring.fit import misfit
from dtn_tvm.measuring.process import Child, StartError
from dtn_tvm.record import toolchain
from dtn_tvm.site import local
from dtn_tvm.targets import target

OPTIONS = Options(family="families", trials=8, ceilings=False)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A Python with NumPy and apache-tvm-ffi, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    python = folder / "bin" / "python"
    needed = ["numpy", f"apache-tvm-ffi=={toolchain()['tvm_ffi']}"]
    commands = [[sys.executable, "-m", "venv", folder], [python, "-m", "pip", "install", "--quiet", *needed]]
    for command in commands:
        child = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if child.returncode:
            pytest.skip(f"no environment with {' and '.join(needed)}: {child.stderr.strip().splitlines()[-1:]}")
    return python


@pytest.fixture
def bundle(built_bundle, tmp_path):
    """A copy of the bundle, to be damaged."""
    return shutil.copy(built_bundle, tmp_path / "bundle.zip")


@pytest.fixture
def results(bundle, tmp_path):
    """Results of the bundle, as a machine would write them."""
    manifest = onsite.read_manifest(bundle)
    good = {"seconds": 1e-4, "errors": {"rms": 1e-7, "row": 1e-7}}
    found = {
        "format": onsite.FORMAT,
        "bundle": manifest["bundle"],
        "device": "a processor",
        "ceilings": {"bandwidth": 1e10, "flops": 1e11},
        "measured": {"0/0": {"failure": "hung", "detail": ""}, "0/1": good},
        "manifest": manifest,
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(found))
    return path


def edited(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return path


def rebuilt(path, change):
    """A bundle whose manifest was changed."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(files["manifest.json"])
    change(manifest)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            archive.writestr(name, data)
    return path


def run(bundle, folder):
    """``python bundle.zip``."""
    command = [sys.executable, str(bundle), "-o", "results.json", "--budget", "0"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def ask_device():
    """What the runner calls the processor here."""
    with local(target("cpu")) as child:
        return child.ask({"job": "device"}, 60)["name"]


def test_the_whole_way(bundle, bare, problem, tmp_path):
    def measure(budget):
        command = [str(bare), "-I", str(bundle), "-o", "results.json", "--budget", budget]
        bare_environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=bare_environment)

    absent = subprocess.run([str(bare), "-I", "-c", "import tvm"], capture_output=True, text=True)
    assert "No module named 'tvm'" in absent.stderr

    first = measure("0")
    assert first.returncode == 0, first.stderr
    assert "0 of 3 candidates measured" in first.stdout

    second = measure("60")
    assert second.returncode == 0, second.stderr
    assert "3 of 3 candidates measured" in second.stdout
    assert "wrong result: rms error 5.0e-01" in second.stdout
    assert "crashed: SIGSEGV" in second.stdout

    third = measure("60")
    assert third.stdout.splitlines() == second.stdout.splitlines()[-1:]

    to = tmp_path / "records.jsonl"
    (record,) = import_results(tmp_path / "results.json", to, "families")
    assert records.read(to).records == (record,)
    assert record.schedule == families.Schedule("good", "T.serial").to_json()
    assert record.receipt.errors == {"rms": 0.0, "row": 0.0}
    assert record.receipt.checked == problem.sizes
    assert record.receipt.roofline > 0


class TestBundle:
    def test_it_is_small_and_brings_all_it_needs(self, bundle):
        assert bundle.stat().st_size < 60 << 20
        names = set(zipfile.ZipFile(bundle).namelist())
        assert {"__main__.py", "manifest.json", "lib/libtvm_runtime.so", "kernel_0_2.so"} <= names

    def test_nothing_is_written_when_nothing_compiles(self, offer, problem, tmp_path):
        offer("unbuildable")
        with pytest.raises(TuneError, match=r"none of 1 candidates is valid.*does not build: ValueError"):
            build([problem], target("cpu"), tmp_path / "bundle.zip", OPTIONS)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("place", "said"), [("absent/bundle.zip", "No such file or directory"), (".", "Is a directory")]
    )
    def test_a_place_that_is_none_is_said_before_anything_is_compiled(
        self, problem, tmp_path, monkeypatch, place, said
    ):
        monkeypatch.setattr("dtn_tvm.bundle.builder", lambda: pytest.fail("something is compiled"))
        with pytest.raises(TuneError, match=f"{tmp_path / place}: {said}"):
            build([problem], target("cpu"), tmp_path / place, OPTIONS)
        assert list(tmp_path.iterdir()) == []

    def test_a_problem_without_candidates_is_left_out(self, offer, problem, tmp_path, monkeypatch):
        offer("good")
        spaces = {100: (), 200: (families.Schedule("unbuildable"),)}
        monkeypatch.setattr(families, "space", lambda of, to: spaces.get(of.sizes["n"], tuple(families.OFFERED)))
        monkeypatch.setattr(families, "default", lambda of, to: families.space(of, to)[0])
        lengths = [10**12, 100, 200, problem.sizes["n"]]
        problems = [replace(problem, sizes={**problem.sizes, "n": n}) for n in lengths]
        path, left_out = tmp_path / "bundle.zip", []
        progress = build(problems, target("cpu"), path, OPTIONS, leave_out=left_out.append)
        (entry,) = onsite.read_manifest(path)["problems"]
        assert entry["problem"]["sizes"] == problem.sizes
        assert (progress.done, progress.total) == (2, 2)
        for said, reason in zip(
            (
                "float32, b=1,h=2,n=1000000000000,d=16: twice, .*; give a smaller shape",
                "float32, b=1,h=2,n=100,d=16: twice forward: there is no kernel of it for cpu",
                "float32, b=1,h=2,n=200,d=16: none of 1 candidates is valid.*does not build: ValueError",
            ),
            left_out,
            strict=True,
        ):
            assert re.search(said, reason)
        with pytest.raises(TuneError, match="n=1000000000000,d=16: .*; give a smaller shape"):
            build(problems[:3], target("cpu"), tmp_path / "none.zip", OPTIONS)
        assert os.listdir(tmp_path) == [path.name]

    @pytest.mark.parametrize("kept", [0.3, 0.99])
    def test_a_truncated_one_is_refused(self, bundle, tmp_path, kept):
        data = bundle.read_bytes()
        bundle.write_bytes(data[: int(len(data) * kept)])
        with pytest.raises(onsite.BundleError, match="truncated or not a bundle"):
            onsite.measure(bundle, tmp_path / "results.json", 1)
        assert not (tmp_path / "results.json").exists()

    def test_a_damaged_one_is_refused(self, bundle, tmp_path):
        data = bytearray(bundle.read_bytes())
        data[len(data) // 2] ^= 0xFF
        bundle.write_bytes(data)
        with pytest.raises(onsite.BundleError, match="damaged|truncated"):
            onsite.measure(bundle, tmp_path / "results.json", 1)

    @pytest.mark.parametrize("kept", [60, 5_000, -1])
    def test_a_truncated_one_that_is_run_is_named_by_python(self, bundle, tmp_path, kept):
        bundle.write_bytes(bundle.read_bytes()[:kept])
        ended = run(bundle, tmp_path)
        assert ended.returncode == 1
        assert ended.stderr.endswith("damaged-bundle--copy-it-again\n")

    @pytest.mark.parametrize("name", ["measuring/command.py", "measuring/bundle.py", "kernel_0_0.so"])
    def test_a_damaged_one_that_is_run_says_which_file_is(self, bundle, tmp_path, name):
        with zipfile.ZipFile(bundle) as archive:
            found = archive.getinfo(name)
        data = bytearray(bundle.read_bytes())
        middle = found.header_offset + 30 + len(name) + found.compress_size // 2
        data[middle : middle + 8] = bytes(byte ^ 0xFF for byte in data[middle : middle + 8])
        bundle.write_bytes(data)
        said = f"{bundle}: {name} in it is damaged; copy the bundle again"
        ended = run(bundle, tmp_path)
        assert (ended.returncode, ended.stderr) == (1, f"{said}\n")
        with pytest.raises(onsite.BundleError, match=re.escape(said)):
            onsite.read_manifest(bundle)
        assert os.listdir(tmp_path) == [bundle.name]

    def test_one_whose_table_of_contents_is_damaged_says_so(self, bundle, tmp_path):
        data = bytearray(bundle.read_bytes())
        data[data.rindex(b"PK\1\2")] ^= 1  # of the last file: Python's own reader does not look at it
        bundle.write_bytes(data)
        ended = run(bundle, tmp_path)
        assert ended.returncode == 1
        assert "the table of contents (Bad magic number" in ended.stderr
        assert ended.stderr.endswith(") in it is damaged; copy the bundle again\n")

    def test_an_old_python_is_told_which_it_needs(self, monkeypatch):
        monkeypatch.setattr(sys, "version_info", (3, 9, 18))
        assert start.start() == "a bundle needs Python 3.11 or newer, this is Python 3.9"
        assert metadata("deep-tensor-network")["Requires-Python"] == ">=3.11"

    def test_a_missing_numpy_is_named(self, bundle, tmp_path, monkeypatch):
        monkeypatch.setattr(onsite, "find_spec", lambda name: None)
        with pytest.raises(onsite.BundleError, match="NumPy is missing: pip install numpy"):
            onsite.measure(bundle, tmp_path / "results.json", 1)

    def test_no_room_to_unpack_it_is_said(self, bundle, tmp_path, monkeypatch):
        def full(*given):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("zipfile.ZipFile.extractall", full)
        with pytest.raises(onsite.BundleError, match="cannot be unpacked: No space left on device; TMPDIR says where"):
            onsite.measure(bundle, tmp_path / "results.json", 1)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
        with pytest.raises(
            onsite.BundleError, match="cannot be unpacked: No such file or directory; TMPDIR says where"
        ):
            onsite.measure(bundle, tmp_path / "results.json", 1)
        assert os.listdir(tmp_path) == [bundle.name]

    def test_a_problem_that_cannot_be_checked_costs_the_others_nothing(self, bundle, tmp_path):
        def add_a_huge_one(manifest):
            (first,) = manifest["problems"]
            huge = [{**tensor, "shape": [1, 2, 10**12, 16]} for tensor in first["check"]["inputs"]]
            manifest["problems"].insert(0, {**first, "check": {**first["check"], "inputs": huge, "key": "huge"}})

        measured = onsite.measure(rebuilt(bundle, add_a_huge_one), tmp_path / "results.json", 60)["measured"]
        assert len(measured) == 6
        for number in range(3):
            assert measured[f"0/{number}"]["failure"] == "cannot be checked"
            assert measured[f"0/{number}"]["detail"].startswith("MemoryError: x[1, 2, 1000000000000, 16], y")
        assert measured["1/0"]["seconds"] > 0

    def test_a_run_that_goes_on_computes_the_reference_in_its_own_time(self, bundle, results, monkeypatch):
        asked, ask = [], Child.ask

        def noted(child, job, timeout):
            asked.append((job["job"], timeout))
            return ask(child, job, timeout)

        edited(results, lambda found: found.update(device=ask_device()))
        monkeypatch.setattr(Child, "ask", noted)
        onsite.measure(bundle, results, 60)
        assert asked[-2:] == [("prepare", onsite.REFERENCE_TIMEOUT), ("measure", onsite.CANDIDATE_TIMEOUT)]

    def test_one_whose_manifest_is_damaged_is_refused(self, bundle, tmp_path):
        with zipfile.ZipFile(bundle) as archive:
            manifest = archive.getinfo("manifest.json")
        data = bytearray(bundle.read_bytes())
        start = manifest.header_offset + 30 + len(manifest.filename) + 5
        data[start : start + 30] = bytes(byte ^ 0xFF for byte in data[start : start + 30])
        bundle.write_bytes(data)
        with pytest.raises(onsite.BundleError, match="damaged|truncated"):
            onsite.measure(bundle, tmp_path / "results.json", 1)

    def test_one_whose_manifest_lacks_something_is_refused(self, tmp_path):
        path = tmp_path / "bundle.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("manifest.json", json.dumps({"format": onsite.FORMAT, "bundle": "x", "target": {}}))
        with pytest.raises(onsite.BundleError, match="manifest lacks threads, platform, versions, options, problems"):
            onsite.measure(path, tmp_path / "results.json", 1)

    @pytest.mark.parametrize(("part", "value"), [("problems", []), ("problems", 5), ("target", {}), ("versions", {})])
    def test_one_whose_manifest_holds_something_else_is_refused(self, bundle, tmp_path, part, value):
        manifest = {"format": onsite.FORMAT, **onsite.read_manifest(bundle), part: value}
        path = tmp_path / "other.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("manifest.json", json.dumps(manifest))
        with pytest.raises(onsite.BundleError, match=f"is damaged: manifest.{part} .*; copy the bundle again"):
            onsite.measure(path, tmp_path / "results.json", 1)
        assert not (tmp_path / "results.json").exists()

    def test_a_folder_is_none(self, tmp_path):
        with pytest.raises(onsite.BundleError, match="Is a directory"):
            onsite.read_manifest(tmp_path)

    def test_one_from_another_version_says_how_to_run_it(self, tmp_path):
        path = tmp_path / "bundle.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("manifest.json", json.dumps({"format": 99}))
        with pytest.raises(onsite.BundleError, match=r"another version \(format 99, expected 2\).*python bundle.zip"):
            onsite.measure(path, tmp_path / "results.json", 1)

    def test_another_zip_file_is_none(self, tmp_path):
        path = tmp_path / "other.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(onsite.BundleError, match=r"no manifest.json in it"):
            onsite.read_manifest(path)

    def test_a_path_that_leads_outside_is_refused(self, bundle, tmp_path):
        with zipfile.ZipFile(bundle, "a") as archive:
            archive.writestr("../outside.so", "")
        with pytest.raises(onsite.BundleError, match="outside of its folder"):
            onsite.measure(bundle, tmp_path / "results.json", 1)

    def test_a_place_that_cannot_be_written_to_is_said_before_anything_is_measured(self, bundle, tmp_path, monkeypatch):
        monkeypatch.setattr(onsite, "outcome", lambda *job: pytest.fail("a candidate is measured"))
        with pytest.raises(onsite.BundleError, match=r"absent/results.json: No such file or directory"):
            onsite.measure(bundle, tmp_path / "absent" / "results.json", 60)

    def test_sigterm_leaves_nothing_but_the_results(self, bundle, tmp_path):
        unpacked = tmp_path / "temporary"
        unpacked.mkdir()
        results = tmp_path / "results.json"
        command = [sys.executable, str(bundle), "-o", str(results)]
        with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(unpacked)}) as process:
            deadline = time.monotonic() + 60
            while not results.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            process.terminate()
        assert process.returncode == 143
        assert list(unpacked.iterdir()) == []
        assert onsite.read_results(results)["bundle"] == onsite.read_manifest(bundle)["bundle"]

    def test_results_of_another_bundle_are_not_continued(self, bundle, results):
        edited(results, lambda found: found.update(bundle="another"))
        before = results.read_bytes()
        with pytest.raises(onsite.BundleError, match="results of another bundle"):
            onsite.measure(bundle, results, 1)
        assert results.read_bytes() == before

    def test_results_that_are_a_link_stay_one(self, bundle, tmp_path):
        (tmp_path / "link.json").symlink_to(tmp_path / "results.json")
        onsite.measure(bundle, tmp_path / "link.json", 0)
        assert (tmp_path / "link.json").is_symlink()
        assert onsite.read_results(tmp_path / "results.json")["measured"] == {}


class TestDevice:
    H200 = {"name": "nvidia/h200", "device": "H200", "arch": "sm_90a", "flags": []}

    def test_the_one_it_is_for(self):
        assert not misfit(self.H200, {"name": "NVIDIA H200", "compute_version": "9.0"})
        older = {"name": "json", "device": "", "arch": "sm_80"}
        assert not misfit(older, {"name": "NVIDIA A10", "compute_version": "8.6"})

    def test_another_card_is_refused(self):
        found = misfit(self.H200, {"name": "NVIDIA H100 PCIe", "compute_version": "9.0"})
        assert found == "for nvidia/h200, the device is NVIDIA H100 PCIe"

    def test_the_tuner_asks_the_same(self, problem, tmp_path):
        class Site:
            def ask(self, job, timeout):
                return {"name": "NVIDIA A100-SXM4-80GB", "compute_version": "8.0"}

        said = "the kernels would be for nvidia/a10, the device is NVIDIA A100-SXM4-80GB"
        with pytest.raises(StartError, match=said):
            Candidates(problem, target("nvidia/a10"), OPTIONS, tmp_path, None, Site())

    @pytest.mark.parametrize("version", ["8.0", "9.1", "10.0"])
    def test_another_instruction_set_is_refused(self, version):
        anything = {**self.H200, "device": ""}
        said = f"for sm_90a, the device is NVIDIA X with compute capability {version}"
        assert misfit(anything, {"name": "NVIDIA X", "compute_version": version}) == said

    def test_a_processor_without_what_kernels_use_is_refused(self):
        level4 = target('{"kind": "llvm", "mcpu": "x86-64-v4"}').described
        here = {"name": "a processor", "compute_version": "", "flags": ["fpu", *level4["flags"]]}
        assert not misfit(level4, here)
        assert not misfit(level4, {**here, "flags": []})  # it does not say
        here["flags"] = [flag for flag in here["flags"] if flag not in ("avx512f", "avx512vl")]
        assert misfit(level4, here) == "for x86-64-v4, the device is a processor, which lacks avx512f, avx512vl"
        found = misfit({**level4, "arch": ""}, here)
        assert found == "for another processor, the device is a processor, which lacks avx512f, avx512vl"

    def test_the_processor_here_has_what_its_kernels_use(self):
        assert not misfit(target("cpu").described, {"name": "", "compute_version": "", "flags": instructions()})

    def test_the_tuner_says_what_a_processor_lacks(self, problem, tmp_path):
        class Site:
            def ask(self, job, timeout):
                return {"name": "a processor", "compute_version": "", "flags": ["avx"]}

        with pytest.raises(StartError, match="for x86-64-v3, the device is a processor, which lacks avx2, fma"):
            Candidates(problem, target('{"kind": "llvm", "mcpu": "x86-64-v3"}'), OPTIONS, tmp_path, None, Site())

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (
                lambda manifest: manifest["target"].update(arch="z80", flags=["avx", "undocumented"]),
                r"is for z80, the device is .*, which lacks .*undocumented; dtn tune build makes one for another",
            ),
            (
                lambda manifest: manifest.update(platform="linux-vax"),
                f"is for linux-vax, this machine is {sysconfig.get_platform()}; build one on a machine of its kind",
            ),
        ],
    )
    def test_a_bundle_for_another_machine_measures_nothing(self, bundle, tmp_path, monkeypatch, change, said):
        monkeypatch.setattr(onsite, "outcome", lambda *job: pytest.fail("a candidate is measured"))
        with pytest.raises(onsite.BundleError, match=said):
            onsite.measure(rebuilt(bundle, change), tmp_path / "results.json", 60)
        assert not (tmp_path / "results.json").exists()

    def test_another_ffi_is_refused(self):
        with pytest.raises(
            onsite.BundleError, match=r"need apache-tvm-ffi 0\.0\.1, got .*pip install apache-tvm-ffi==0\.0\.1"
        ):
            onsite.check_runtime({"tvm_ffi": "0.0.1"})


class TestImport:
    """Every refusal leaves the records as they were."""

    @pytest.fixture
    def to(self, tmp_path):
        path = tmp_path / "records.jsonl"
        yield path
        assert not path.exists()

    def test_a_truncated_file(self, results, to):
        results.write_bytes(results.read_bytes()[:-20])
        with pytest.raises(onsite.BundleError, match="truncated or not JSON"):
            import_results(results, to, "families")

    @pytest.mark.parametrize("text", ["[]", "{}", '{"format": 1}', "null"])
    def test_another_file(self, results, to, text):
        results.write_text(text)
        with pytest.raises(onsite.BundleError, match="does not hold the results"):
            import_results(results, to, "families")

    def test_another_version(self, results, to):
        edited(results, lambda found: found.update(format=1))
        said = r"written by another version \(format 1, expected 2\); build and measure again"
        with pytest.raises(onsite.BundleError, match=said):
            import_results(results, to, "families")

    def test_another_toolchain(self, results, to):
        edited(results, lambda found: found["manifest"]["versions"].update(tvm="0.1"))
        with pytest.raises(onsite.BundleError, match=r"another toolchain .*tvm 0\.1.*build again"):
            import_results(results, to, "families")

    def test_another_device(self, results, to):
        h200 = target("nvidia/h200")
        edited(results, lambda found: found.update(device="NVIDIA H100"))
        edited(results, lambda found: found["manifest"].update(target=h200.described))
        with pytest.raises(onsite.BundleError, match="measured on NVIDIA H100; the bundle is for nvidia/h200"):
            import_results(results, to, "families")

    def test_errors_above_the_tolerance(self, results, to):
        edited(results, lambda found: found["measured"]["0/1"]["errors"].update(rms=0.5))
        with pytest.raises(onsite.BundleError, match=r"rms error 5.0e-01 is above"):
            import_results(results, to, "families")

    def test_no_valid_candidate(self, results, to):
        edited(results, lambda found: found["measured"].pop("0/1"))
        with pytest.raises(TuneError, match=r"none of 1 candidates is valid; the commonest reason \(1 of 1\): hung"):
            import_results(results, to, "families")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda found: found["manifest"].update(problems=[]), "manifest.problems is empty"),
            (lambda found: found["manifest"].update(problems=5), "manifest.problems is of type int, expected list"),
            (lambda found: found["manifest"].update(target={}), "manifest.target lacks name, options, key"),
            (lambda found: found["manifest"].update(versions={}), "manifest.versions lacks tvm_ffi"),
            (lambda found: found["manifest"].update(options=None), "manifest.options is of type NoneType"),
            (lambda found: found["manifest"]["problems"][0].pop("recipe"), r"manifest.problems\[0\] lacks recipe"),
            (lambda found: found.update(measured=[]), "results.measured is of type list, expected dict"),
            (lambda found: found["measured"].update({"0/1": 7}), "candidate 0/1 is of type int"),
            (lambda found: found["measured"].update({"0/1": {"seconds": "fast"}}), "candidate 0/1 lacks errors"),
            (
                lambda found: found["measured"]["0/1"].update(seconds="fast"),
                "candidate 0/1.seconds is 'fast', expected",
            ),
            (
                lambda found: found["measured"]["0/1"].update(seconds=-1),
                "candidate 0/1.seconds is -1, expected a finite",
            ),
            (
                lambda found: found["measured"]["0/1"].update(seconds=0),
                "seconds is 0, expected a finite number above 0",
            ),
            (lambda found: found["measured"]["0/1"].update(seconds=True), "seconds is True, expected a finite number"),
            (lambda found: found["measured"]["0/1"].update(seconds=math.nan), "candidate 0/1.seconds is nan, expected"),
            (lambda found: found["measured"]["0/1"].update(seconds=10**400), "candidate 0/1.seconds is 1000000"),
            (lambda found: found["measured"]["0/1"].update(errors="small"), "0/1.errors is of type str, expected dict"),
            (lambda found: found["measured"]["0/1"]["errors"].update(rms="1e-7"), "0/1.errors.rms is '1e-7', expected"),
            (
                lambda found: found["measured"]["0/1"]["errors"].update(row=-1),
                "errors.row is -1, expected a finite number",
            ),
            (lambda found: found["measured"]["0/0"].pop("detail"), "candidate 0/0 lacks detail"),
            (
                lambda found: found["measured"].update({"0/17": {}}),
                "results.measured has '0/17', and the bundle no such",
            ),
            (lambda found: found.update(ceilings={"bandwidth": "wide"}), "ceilings.bandwidth is 'wide', expected"),
            (lambda found: found["ceilings"].update(flops=0), "ceilings.flops is 0, expected a finite number above 0"),
            (lambda found: found.update(ceilings={}), "results.ceilings lacks bandwidth"),
            (
                lambda found: found["manifest"]["problems"][0]["problem"]["sizes"].update(n=1.5),
                r"problems\[0\].problem.sizes.n is 1.5, expected an integer from 0 on",
            ),
            (
                lambda found: found["manifest"]["problems"][0]["check"]["tolerance"].update(rms=None),
                r"check.tolerance.rms is None, expected a finite number above 0",
            ),
        ],
    )
    def test_a_part_that_is_not_what_it_should_be(self, bundle, results, to, change, said):
        edited(results, change)
        before = results.read_bytes()
        with pytest.raises(onsite.BundleError, match=f"is damaged: .*{said}"):
            import_results(results, to, "families")
        with pytest.raises(onsite.BundleError, match=f"is damaged: .*{said}"):
            onsite.measure(bundle, results, 1)
        assert results.read_bytes() == before

    @pytest.mark.parametrize("part", ["schedule", "whole"])
    def test_what_is_nested_too_deeply(self, results, to, part):
        deep = "[" * 100_000 + "]" * 100_000
        results.write_text(deep if part == "whole" else results.read_text().replace('"twice"', deep))
        with pytest.raises(onsite.BundleError, match="truncated or not JSON"):
            import_results(results, to, "families")

    @pytest.mark.parametrize("schedule", [{}, {"kind": "evil"}, {"kind": "twice", "behaviour": 7, "loop": "T.serial"}])
    def test_a_schedule_that_is_none(self, results, to, schedule):
        edited(results, lambda found: found["manifest"]["problems"][0]["candidates"][1].update(schedule=schedule))
        with pytest.raises(onsite.BundleError, match="schedule"):
            import_results(results, to, "families")

    def test_more_than_results_can_be(self, bundle, results, to, monkeypatch):
        monkeypatch.setattr(onsite, "LARGEST", 1000)
        for use in (lambda: import_results(results, to, "families"), lambda: onsite.measure(bundle, results, 1)):
            with pytest.raises(onsite.BundleError, match="has more than .* MiB: it does not hold the results"):
                use()

    def test_what_is_no_file(self, bundle, tmp_path, to):
        os.mkfifo(tmp_path / "pipe")  # to read it would be to wait
        for use in (lambda path: import_results(path, to, "families"), lambda path: onsite.measure(bundle, path, 1)):
            with pytest.raises(onsite.BundleError, match="pipe is not a file"):
                use(tmp_path / "pipe")
            with pytest.raises(onsite.BundleError, match="is not a file"):
                use(tmp_path)

    def test_another_tolerance(self, results, to):
        edited(results, lambda found: found["manifest"]["problems"][0]["check"]["tolerance"].update(rms=1.5))
        with pytest.raises(
            onsite.BundleError, match=r"the tolerance {'rms': 1.5, .*} is {'rms': 2e-05, .*} in float32"
        ):
            import_results(results, to, "families")

    def test_a_definition_that_is_none_is_one_line(self, results, to):
        edited(results, lambda found: found["manifest"]["problems"][0]["problem"].update(notation="x"))
        with pytest.raises(
            onsite.BundleError, match="is damaged: NotationError: x, line 1.*; measure again$"
        ) as caught:
            import_results(results, to, "families")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("key", ["0/17", "0/-1", "0/x", "0/01", "1/0", "nonsense"])
    def test_a_candidate_that_there_is_not(self, results, to, key):
        fast = {"seconds": 1e-9, "errors": {"rms": 0.0, "row": 0.0}}
        edited(results, lambda found: found.update(measured={key: fast}))
        with pytest.raises(onsite.BundleError, match=f"results.measured has '{key}', and the bundle no such candidate"):
            import_results(results, to, "families")


@pytest.mark.parametrize(
    ("measured", "why"),
    [
        ({}, "no candidate was measured in the time given"),
        ({"1/0": {"failure": "hung", "detail": ""}}, "none of 1 candidates is valid; .*hung"),
    ],
)
def test_a_problem_without_a_valid_candidate_costs_the_others_nothing(results, tmp_path, measured, why):
    def add_a_longer_one(found):
        (first,) = found["manifest"]["problems"]
        sizes = {**first["problem"]["sizes"], "n": 4000}
        found["manifest"]["problems"].append({**first, "problem": {**first["problem"], "sizes": sizes}})
        found["measured"].update(measured)

    edited(results, add_a_longer_one)
    left_out = []
    to = tmp_path / "records.jsonl"
    (record,) = import_results(results, to, "families", left_out.append)
    assert records.read(to).records == (record,)
    (reason,) = left_out
    assert re.match(f"float32, b=1,h=2,n=4000,d=16: {why}", reason)


def test_results_without_ceilings_make_a_record_without_a_roofline(results, tmp_path):
    edited(results, lambda found: found.update(ceilings=None))
    (record,) = import_results(results, tmp_path / "records.jsonl", "families")
    assert record.receipt.roofline is None


def test_exported_kernels_load_without_tvm(bare, tmp_path):
    from dtn_core.operators import load
    from dtn_tvm.candidates import record_of
    from dtn_tvm.export import ExportError, export
    from dtn_tvm.kernels import Problem, default
    from dtn_tvm.record import Receipt

    cpu, sizes = target("cpu"), {"batch": 1, "heads": 2, "n": 80, "d": 16, "e": 16}
    problem = Problem(load("tensor_attention:mask=causal,normalize=none"), "forward", "float32", sizes)
    receipt = Receipt("a processor", 1e-3, {"rms": 1e-7}, {"rms": 1e-5}, sizes)
    record = record_of(problem, cpu, default(problem, cpu).to_json(), {}, receipt)
    folder = tmp_path / "kernels"
    (name,) = export([record], folder)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np\n"
        "from kernels import load\n"
        "q, k, v = (np.random.default_rng(i).standard_normal((1, 2, 80, 16)).astype('float32') for i in range(3))\n"
        "o = np.full_like(v, np.nan)\n"
        "load(sys.argv[2])(q, k, v, o)\n"
        "a = np.tril(q.astype(float) @ k.swapaxes(2, 3))\n"
        "expected = np.tril(a @ a.swapaxes(2, 3)) @ v\n"
        "assert np.abs(o - expected).max() < 1e-5 * np.abs(expected).max()\n"
    )
    child = subprocess.run([str(bare), "-I", "-c", program, str(folder), name], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    another = tmp_path / "another"
    shutil.copytree(folder, another)
    both = (
        "import runpy, sys\n"
        "for module in sys.argv[3:]: __import__(module)\n"
        "for folder in sys.argv[1].split(): runpy.run_path(folder + '/kernels.py')['load'](sys.argv[2])\n"
    )
    for python, modules in ((str(bare), ()), (sys.executable, ("tvm",))):
        command = [python, "-I", "-c", both, f"{folder} {another}", name, *modules]
        child = subprocess.run(command, capture_output=True, text=True)
        assert child.returncode == 0, child.stderr
    shutil.rmtree(another)
    with pytest.raises(ExportError, match="is there already"):
        export([record], folder)
    shutil.rmtree(folder)
    with pytest.raises(ExportError, match="no kernel"):
        export([replace(record, dtype="float64")], folder)
    assert not folder.exists()
    assert os.listdir(tmp_path) == []


def test_what_the_linker_says_is_one_line(tmp_path, monkeypatch):
    from test_records import record

    from dtn_tvm.export import ExportError, export

    def failing(*given):
        raise RuntimeError("Compilation error:\n/usr/bin/ld: No space left on device\n\nCommand line: g++ -shared x.o")

    monkeypatch.setattr("families.compile", failing)
    with pytest.raises(ExportError, match=r"n=300,d=16: Compilation error: /usr/bin/ld: No space left on device$"):
        export([record(target_options=dict(target("nvidia/h200").options))], tmp_path / "kernels", "families")
    assert os.listdir(tmp_path) == []
