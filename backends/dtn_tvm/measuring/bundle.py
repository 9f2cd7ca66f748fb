"""A bundle on the machine of the device: read, checked, measured within a budget, and taken up again.

A bundle is a zip file: this code, TVM's runtime libraries, the candidates as shared libraries, the NumPy source that
their values are checked against, and ``manifest.json``.
"""

from __future__ import annotations

import json
import os
import reprlib
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import metadata
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from .fit import misfit
from .form import NONE, POSITIVE, Each, Number, fault
from .outcome import outcome
from .process import Child, CrashError, HangError, StartError, runner
from .start import damaged

FORMAT = 2
MANIFEST = "manifest.json"
LARGEST = 64 << 20
"""Bytes of a file of results: more than the manifest of the largest bundle, and what became of every candidate."""

_SIZES = Each(Number(0, is_whole=True))
_MANIFEST = {
    "bundle": str,
    "target": {"name": str, "options": dict, "key": str, "kind": str, "arch": str, "device": str, "flags": list},
    "threads": (int, NONE),
    "platform": str,
    "versions": {"tvm_ffi": str},
    "options": dict,
    "problems": [
        {
            "problem": {"notation": str, "scalars": Each(Number()), "direction": str, "dtype": str, "sizes": _SIZES},
            "recipe": dict,
            "check": {"tolerance": Each(POSITIVE), "sizes": _SIZES},
            "candidates": [{"schedule": dict, "library": str}],
        }
    ],
    "ceiling": (dict, NONE),
}
_RESULTS = {"bundle": str, "device": str, "ceilings": (dict, NONE), "measured": dict, "manifest": _MANIFEST}
_CEILINGS = {"bandwidth": POSITIVE}
_MEASURED = {"seconds": POSITIVE, "errors": Each(Number(0))}
_FAILED = {"failure": str, "detail": str}
CANDIDATE_TIMEOUT = 60.0  # seconds
REFERENCE_TIMEOUT = 600.0


class BundleError(Exception):
    """A bundle, a file of results or a machine that does not fit; says what to do."""


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a bundle that is whole.

    Raises
    ------
    BundleError
        If it is truncated, damaged, no bundle, or written by another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = damaged(archive)
            if broken:
                raise BundleError(f"{path}: {broken} in it is damaged; copy the bundle again")
            names = archive.namelist()
            if MANIFEST not in names:
                raise BundleError(f"{path} is not a bundle of dtn tune build: there is no {MANIFEST} in it")
            manifest = json.loads(archive.read(MANIFEST))
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, EOFError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is truncated or not a bundle ({error}); copy it again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise BundleError(
            f"{path} was written by another version (format {found}, expected {FORMAT}); "
            f"run the code that it brings: python {path.name}"
        )
    wrong = fault(manifest, _MANIFEST, "manifest")
    if wrong:
        raise BundleError(f"{path} is damaged: {wrong}; copy the bundle again")
    unsafe = [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]
    if unsafe:
        raise BundleError(f"{path}: {unsafe[0]} in it would be written outside of its folder")
    return manifest


def measure(
    path: Path, results: Path, budget: float, watch: Callable[[Mapping[str, Any]], object] = lambda state: None
) -> dict[str, Any]:
    """Measure a bundle's candidates, the most promising of every problem first.

    Parameters
    ----------
    path, results : Path
        The bundle, and the JSON file to write, which is replaced whole after every candidate. If it is there already,
        of the same bundle and device, what it lacks is measured.
    budget : float
        Seconds; the candidate that is running when they are over is the last.
    watch : callable
        Told after every candidate: ``done``, ``total``, and ``last``, what became of it.

    Returns
    -------
    dict
        What is in ``results``.

    Raises
    ------
    BundleError
        If something does not fit; nothing is written then.
    """
    deadline = time.monotonic() + budget
    manifest = read_manifest(path)
    _check_platform(manifest["platform"])
    check_runtime(manifest["versions"])
    target = manifest["target"]
    earlier = _earlier(results, manifest)
    threads = manifest["threads"] or os.cpu_count() or 1
    with _unpacked(path) as folder, runner(target["kind"], folder / "lib", threads) as child:
        device = _ask(child, {"job": "device"})
        unlike = misfit(target, device)
        if unlike:
            raise BundleError(f"the bundle is {unlike}; dtn tune build makes one for another --target")
        found = _begun(results, earlier, manifest, device["name"])
        _write(results, found)  # a place that cannot be written to is said before anything is measured
        order = list(_order(manifest["problems"]))
        found["ceilings"] = found["ceilings"] or _ask(
            child, {"job": "ceilings", "ceiling": manifest["ceiling"], "folder": str(folder)}
        )
        unchecked: dict[int, dict[str, Any]] = {}
        for place, number in order:
            key, problem = f"{place}/{number}", manifest["problems"][place]
            if key in found["measured"]:
                continue
            if time.monotonic() >= deadline:
                break
            if place not in unchecked:
                unchecked[place] = _without_reference(child, folder, problem)
            found["measured"][key] = unchecked[place] or _candidate(child, folder, problem, number, found, place)
            _write(results, found)
            watch({"done": len(found["measured"]), "total": len(order), "last": found["measured"][key]})
    _write(results, found)
    return found


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """A folder with what is in a bundle."""
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dtn-bundle-")))
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        except OSError as error:
            said = error.strerror or error
            raise BundleError(f"{path} cannot be unpacked: {said}; TMPDIR says where it is unpacked to") from None
        yield folder


def _check_platform(needed: str) -> None:
    """Refuse a machine that cannot load the bundle's libraries."""
    here = sysconfig.get_platform()
    if here != needed:
        raise BundleError(f"the bundle is for {needed}, this machine is {here}; build one on a machine of its kind")


def check_runtime(versions: Mapping[str, str]) -> None:
    """Refuse an apache-tvm-ffi whose interface may be another than the one that the kernels were compiled for."""
    needed = versions["tvm_ffi"]
    if find_spec("numpy") is None:
        raise BundleError("NumPy is missing: pip install numpy")
    try:
        installed = metadata.version("apache-tvm-ffi")
    except metadata.PackageNotFoundError:
        raise BundleError(f"apache-tvm-ffi is missing: pip install apache-tvm-ffi=={needed}") from None
    if installed.split(".")[:3] != needed.split(".")[:3]:
        raise BundleError(
            f"the bundle's kernels need apache-tvm-ffi {needed}, got {installed}: pip install apache-tvm-ffi=={needed}"
        )


def read_results(path: Path) -> dict[str, Any]:
    """The results of an earlier run.

    Raises
    ------
    BundleError
        If the file cannot be read, is none, or is damaged: with the part of it that is not what it should be.
    """
    try:
        if path.exists() and not path.is_file():
            raise BundleError(f"{path} is not a file")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise BundleError(f"{path} has more than {LARGEST >> 20} MiB: it does not hold the results of a bundle")
        found = json.loads(data)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is truncated or not JSON ({error})") from None
    if not isinstance(found, dict) or not all(part in found for part in ("format", *_RESULTS)):
        raise BundleError(f"{path} does not hold the results of a bundle")
    if found["format"] != FORMAT:
        written = reprlib.repr(found["format"])
        raise BundleError(
            f"{path} was written by another version (format {written}, expected {FORMAT}); build and measure again"
        )
    wrong = next(filter(None, _faults(found)), "")
    if wrong:
        raise BundleError(f"{path} is damaged: {wrong}; measure again")
    return found


def kept(path: Path) -> str:
    """What is left of a run that was interrupted."""
    return f"what was measured is in {path}, run again to go on" if path.exists() else "nothing was measured yet"


def _faults(found: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with results, or empty texts."""
    yield fault(found, _RESULTS, "results")
    if found["ceilings"] is not None:
        yield fault(found["ceilings"], _CEILINGS, "results.ceilings")
        yield fault(found["ceilings"], Each(POSITIVE), "results.ceilings")
    known = {f"{place}/{number}" for place, number in _order(found["manifest"]["problems"])}
    for key, answer in found["measured"].items():
        if key not in known:
            yield f"results.measured has {reprlib.repr(key)}, and the bundle no such candidate"
        failed = isinstance(answer, dict) and "failure" in answer
        yield fault(answer, _FAILED if failed else _MEASURED, f"candidate {key}")


def _earlier(path: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The results of an earlier run of the bundle, if there are any."""
    found = read_results(path) if os.path.exists(path) else {}
    if found and found["bundle"] != manifest["bundle"]:
        raise BundleError(f"{path} holds the results of another bundle; give another file")
    return found


def _begun(path: Path, earlier: Mapping[str, Any], manifest: Mapping[str, Any], device: str) -> dict[str, Any]:
    if earlier and earlier["device"] != device:
        raise BundleError(f"{path} was measured on {earlier['device']}, the device here is {device}; give another file")
    return {
        "format": FORMAT,
        "bundle": manifest["bundle"],
        "device": device,
        "ceilings": earlier.get("ceilings"),
        "measured": earlier.get("measured", {}),
        "manifest": {key: value for key, value in manifest.items() if key != "format"},
    }


def _order(problems: list[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    """The first candidate of every problem, then the second of every problem."""
    for row in zip_longest(*(range(len(problem["candidates"])) for problem in problems)):
        yield from ((place, number) for place, number in enumerate(row) if number is not None)


def _without_reference(child: Child, folder: Path, problem: Mapping[str, Any]) -> dict[str, Any]:
    """Compute what a problem's candidates are checked against; why that cannot be done here, or nothing."""
    try:
        answer = child.ask({"job": "prepare", "folder": str(folder), "recipe": problem["check"]}, REFERENCE_TIMEOUT)
    except (CrashError, HangError) as error:
        answer = {"error": str(error)}
    except StartError as error:
        raise BundleError(f"{error}; what was measured is kept, run again to go on") from None
    return {"failure": "cannot be checked", "detail": answer["error"]} if "error" in answer else {}


def _candidate(
    child: Child, folder: Path, problem: Mapping[str, Any], number: int, found: Mapping[str, Any], place: int
) -> dict[str, Any]:
    candidate = problem["candidates"][number]
    of_problem = [answer for key, answer in found["measured"].items() if key.startswith(f"{place}/")]
    times = [answer["seconds"] for answer in of_problem if "seconds" in answer]
    job = {
        "job": "measure",
        "folder": str(folder),
        "recipe": problem["recipe"],
        "check": problem["check"],
        "library": candidate["library"],
        "best": min(times, default=None),
    }
    try:
        return outcome(child, job, CANDIDATE_TIMEOUT)
    except StartError as error:
        raise BundleError(f"{error}; what was measured is kept, run again to go on") from None


def _ask(child: Child, job: Mapping[str, Any], timeout: float = REFERENCE_TIMEOUT) -> dict[str, Any]:
    try:
        answer = child.ask(job, timeout)
    except (CrashError, HangError, StartError) as error:
        raise BundleError(f"{job['job']}: {error}") from None
    if "error" in answer:
        raise BundleError(f"{job['job']}: {answer['error']}")
    return answer


def _write(path: Path, found: Mapping[str, Any]) -> None:
    to = path.resolve()  # a link goes on pointing to the file
    beside = to.with_name(f".{to.name}.{os.getpid()}.partial")
    try:
        beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        beside.replace(to)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
