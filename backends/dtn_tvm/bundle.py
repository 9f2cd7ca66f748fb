"""Bundles: candidates compiled here, measured on a machine that has nothing but the device, filed here.

See :mod:`dtn_tvm.measuring.bundle` for what happens there.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import os
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dtn_core.demo.atomic import replaced
from dtn_core.errors import DtnError

from . import records
from .builder import builder
from .candidates import FAMILY, Options, build_ceiling, built, record_of
from .engines import TuneError, new_search
from .measuring import bundle as onsite
from .measuring import start
from .measuring.device import CUDA_RUNTIME, RUNTIMES
from .measuring.fit import is_named
from .recipe import TOLERANCE, from_json, recipes, to_json
from .record import Receipt, Record, toolchain
from .record import from_json as record_from_json
from .search import Search
from .site import runtime_folder
from .targets import Ceilings, Target
from .targets import from_json as target_from_json
from .trials import Trial
from .tune import Progress, nothing_valid

if TYPE_CHECKING:
    from .problem import Problem

LIMIT = 60 << 20
"""Bytes of a bundle: what still goes through a mail gateway."""

_FIRST = b"# coding: damaged-bundle--copy-it-again\n"
"""What stands before the zip file: Python reads a file whose end is missing as its source, and says this word."""


def build(
    problems: Sequence[Problem],
    target: Target,
    path: Path,
    options: Options,
    watch: Callable[[Progress], object] = lambda progress: None,
    leave_out: Callable[[str], object] = lambda reason: None,
) -> Progress:
    """Compile candidates and write a bundle; the device need not be here.

    Parameters
    ----------
    problems : sequence of Problem
        Each gets ``options.trials`` candidates, in the order in which they will be measured.
    target : Target
    path : Path
        The zip file.
    options : Options
    watch : callable
        Told after every candidate.
    leave_out : callable
        Told why, for every problem without a kernel, and of which no candidate can be checked or compiled.

    Raises
    ------
    TuneError
        If that is so for every problem, the bundle would be too large, or cannot be written, which is said before
        anything is compiled; nothing is written then.
    """
    family = importlib.import_module(options.family)
    _check_place(path)
    with tempfile.TemporaryDirectory(prefix="dtn-build-") as name, builder() as compiler:
        folder, entries = Path(name), []
        prepared, lacking = _prepared(family, problems, target, options, folder)
        progress = Progress(sum(min(options.trials, len(search)) for _, search, _ in prepared), target.name)
        for problem, search, described in prepared:
            candidates, alone = [], Progress(0, target.name)
            while len(candidates) < options.trials and (schedule := search.propose()) is not None:
                library = f"kernel_{len(entries)}_{len(candidates)}.so"
                job = {
                    "family": options.family,
                    "problem": to_json(problem),
                    "schedule": schedule,
                    "target": target.to_json(),
                    "library": str(folder / library),
                }
                failure = built(schedule, compiler, job, options.build_timeout)
                search.tell(schedule, None)  # nothing is known of it here: the next is one that differs most
                if failure is None:
                    candidates.append({"schedule": schedule, "library": library})
                    progress.done += 1
                else:
                    progress.add(failure)
                    alone.add(failure)
                watch(progress)
            if candidates:
                entries.append({**described, "candidates": candidates})
            else:
                lacking.append(_named(problem, nothing_valid(alone)))
        if not entries:
            raise TuneError(lacking[0])
        ceiling = build_ceiling(compiler, target, folder, options.build_timeout)
        if isinstance(ceiling, Trial):
            raise TuneError(f"{target.name}: {ceiling.failure}: {ceiling.detail}")
        _pack(path, folder, {**_manifest(entries, target, options, folder), "ceiling": ceiling}, target)
    for reason in lacking:
        leave_out(reason)
    return progress


def _check_place(path: Path) -> None:
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise TuneError(f"{path}: {error.strerror}") from None


def _prepared(
    family: ModuleType, problems: Sequence[Problem], target: Target, options: Options, folder: Path
) -> tuple[list[tuple[Problem, Search, dict[str, Any]]], list[str]]:
    """The search and the description of every problem that has them, and why the others have not."""
    found, lacking = [], []
    for problem in problems:
        try:
            search = new_search(family, problem, target)
            timed, check = recipes(problem, folder, options.seed)
        except DtnError as error:
            lacking.append(_named(problem, str(error)))
        else:
            found.append((problem, search, {"problem": to_json(problem), "recipe": timed, "check": check}))
    return found, lacking


def _named(problem: Problem, reason: str) -> str:
    return f"{problem.dtype}, {records.shape(problem.sizes)}: {reason}"


def _manifest(entries: list[dict[str, Any]], target: Target, options: Options, folder: Path) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode())
    for library in sorted(folder.glob("*.so")):
        digest.update(library.read_bytes())
    return {
        "format": onsite.FORMAT,
        "bundle": digest.hexdigest()[:16],
        "target": target.described,
        "threads": target.threads if target.kind == "cpu" else None,
        "platform": sysconfig.get_platform(),
        "versions": toolchain(),
        "options": {"engine": "grid", "family": options.family, "seed": options.seed},
        "problems": entries,
    }


def _pack(path: Path, folder: Path, manifest: Mapping[str, Any], target: Target) -> None:
    measuring = Path(onsite.__file__).parent
    try:
        with replaced(path) as beside:
            beside.write_bytes(_FIRST)
            with zipfile.ZipFile(beside, "a", zipfile.ZIP_DEFLATED) as archive:
                archive.write(start.__file__, "__main__.py")
                archive.writestr(onsite.MANIFEST, json.dumps(manifest, indent=1))
                for file in sorted(measuring.glob("*.py")):
                    archive.write(file, f"measuring/{file.name}")
                for file in sorted([*folder.glob("*.so"), *folder.glob("reference_*.py")]):
                    archive.write(file, file.name)
                for file in runtime_libraries(target.kind):
                    archive.write(file, f"lib/{file.name}")
            size = beside.stat().st_size
            if size > LIMIT:
                raise TuneError(f"{path} would have {size >> 20} MiB, at most {LIMIT >> 20}: build fewer candidates")
    except OSError as error:
        raise TuneError(f"{path}: {error.strerror}") from None


def runtime_libraries(kind: str) -> list[Path]:
    """What a kernel needs besides apache-tvm-ffi: TVM's runtime, and CUDA's where this machine has it."""
    found = [runtime_folder() / name for name in RUNTIMES[kind]]
    if kind == "cuda":
        found += _cuda_runtime()
    return found


def _cuda_runtime() -> list[Path]:
    """The CUDA runtime of the toolkit or of a wheel, if it is of the major version that TVM's library asks for."""
    wanted = _needed(runtime_folder() / RUNTIMES["cuda"][1])
    folders = [Path("/usr/local/cuda/lib64")]
    nvidia = find_spec("nvidia")
    if nvidia is not None and nvidia.submodule_search_locations:
        folders += [folder for root in nvidia.submodule_search_locations for folder in Path(root).glob("*/lib")]
    return [folder / wanted for folder in folders if (folder / wanted).is_file()][:1]


def _needed(library: Path) -> str:
    """The file name under which a library asks for CUDA's runtime."""
    data = library.read_bytes()
    start = data.index(CUDA_RUNTIME.encode())
    return data[start : data.index(b"\0", start)].decode()


def import_results(
    path: Path, to: Path, family: str = FAMILY, leave_out: Callable[[str], object] = lambda reason: None
) -> list[Record]:
    """File the fastest candidate of every problem of a bundle's results.

    Parameters
    ----------
    path, to : Path
        The results, and the file of records.
    family : str
        The module of the schedules.
    leave_out : callable
        Told why, for every problem of which no candidate was measured and valid.

    Raises
    ------
    BundleError, TuneError
        If the results are damaged, of another toolchain or for another device, or hold no valid candidate of any
        problem: nothing is written then.
    """
    found = onsite.read_results(path)
    try:
        made, lacking = _records(path, found, importlib.import_module(family))
    except (DtnError, LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        said = (str(error).splitlines() or [""])[0]
        raise onsite.BundleError(f"{path} is damaged: {type(error).__name__}: {said}; measure again") from None
    if not made:
        raise TuneError(f"{path}, {lacking[0]}")
    records.add(to, made)
    for reason in lacking:
        leave_out(reason)
    return made


def _records(path: Path, found: Mapping[str, Any], family: Any) -> tuple[list[Record], list[str]]:
    """A record of every problem that has a valid candidate, and why the others have none."""
    manifest = found["manifest"]
    if manifest["versions"] != toolchain():
        theirs, ours = _versions(manifest["versions"]), _versions(toolchain())
        raise onsite.BundleError(f"{path} is of another toolchain ({theirs}) than is installed ({ours}); build again")
    target, device = target_from_json(manifest["target"]), found["device"]
    if target.key != manifest["target"]["key"] or (target.device and not is_named(target.device, device)):
        raise onsite.BundleError(f"{path} was measured on {device}; the bundle is for {manifest['target']['name']}")
    made, lacking = [], []
    for place, entry in enumerate(manifest["problems"]):
        problem, tolerance = from_json(family, entry["problem"]), entry["check"]["tolerance"]
        if tolerance != TOLERANCE[problem.dtype]:
            allowed = dict(TOLERANCE[problem.dtype])
            raise onsite.BundleError(f"{path} is damaged: the tolerance {tolerance} is {allowed} in {problem.dtype}")
        progress = Progress(len(entry["candidates"]), found["device"])
        best: tuple[float, int] | None = None
        for key, answer in found["measured"].items():
            if key.split("/")[0] != str(place):
                continue
            number = int(key.split("/")[1])
            progress.done += 1
            if "failure" in answer:
                progress.failures[answer["failure"]] += 1
                progress.details.setdefault(answer["failure"], answer["detail"])
            elif best is None or answer["seconds"] < best[0]:
                best = answer["seconds"], number
        if best is None:
            lacking.append(_named(problem, nothing_valid(progress)))
            continue
        answer = found["measured"][f"{place}/{best[1]}"]
        receipt = Receipt(
            device=found["device"],
            seconds=best[0],
            errors=answer["errors"],
            tolerance=tolerance,
            checked=entry["check"]["sizes"],
            roofline=_roofline(problem, target, found["ceilings"] or {}, best[0]),
        )
        schedule = entry["candidates"][best[1]]["schedule"]
        record = record_of(problem, target, schedule, manifest["options"], receipt)
        try:
            made.append(record_from_json(record.to_json()))
        except ValueError as error:
            raise onsite.BundleError(f"{path}, candidate {place}/{best[1]}: {error}; measure again") from None
    return made, lacking


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _roofline(problem: Problem, target: Target, measured: Mapping[str, float], seconds: float) -> float | None:
    documented = target.ceilings.flops if target.ceilings else {}
    flops = measured.get("flops") or documented.get(problem.dtype)
    if flops is None or "bandwidth" not in measured:
        return None
    ceilings = Ceilings(measured["bandwidth"], {problem.dtype: flops})
    return ceilings.seconds(problem.dtype, problem.flops_at(1), problem.bytes) / seconds
