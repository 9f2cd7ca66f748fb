"""The process that runs kernels: a crash in it is the end of one candidate.

One JSON object a line in, one out.  What a kernel prints goes to standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import statistics
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from . import values
from .device import Device, load_runtime

Job = Mapping[str, Any]


def answer_lines(handle: Callable[[Job], Mapping[str, Any]]) -> None:
    """Answer each line of standard input with what ``handle`` returns; an exception becomes ``{"error": text}``."""
    _end_with_parent()
    answers = _private_output()
    for line in sys.stdin:
        try:
            answer = handle(json.loads(line))
        except Exception as error:  # noqa: BLE001  # whatever it is, it belongs to this job
            traceback.print_exc()
            answer = {"error": describe(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def describe(error: BaseException) -> str:
    """An exception in one line."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {said[-1]}" if said else type(error).__name__


def _end_with_parent() -> None:
    """Have Linux end this process when its parent is killed: a kernel that hangs never sees its input end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _private_output() -> TextIO:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


class Runner:
    """Answers the jobs ``device``, ``ceilings``, ``prepare`` and ``measure``."""

    def __init__(self) -> None:
        self._hello: Job = {}
        self._device: Device | None = None
        self._known: dict[str, list[np.ndarray]] = {}
        self._drawn: dict[str, list[np.ndarray]] = {}

    def __call__(self, job: Job) -> Mapping[str, Any]:
        self._hello = self._hello or job
        match job["job"]:
            case "device":
                device = self.device()
                return {"name": device.name, "compute_version": device.compute_version, "flags": device.flags}
            case "ceilings":
                return self.device().ceilings(job["ceiling"], Path(job["folder"]))
            case "prepare":
                self.expected(job["recipe"], Path(job["folder"]))
                return {}
            case "measure":
                return self.measure(self.device(), job)
        raise ValueError(f"there is no job {job['job']!r}")

    def device(self) -> Device:
        """The device that the first job named."""
        if self._device is None:
            load_runtime(self._hello["kind"], Path(self._hello["runtime"]))
            self._device = Device(self._hello["kind"])
        return self._device

    def measure(self, device: Device, job: Job) -> Mapping[str, Any]:
        """Check a kernel, take its time, and check again: what goes wrong only sometimes shows after many runs."""
        folder, check, recipe = Path(job["folder"]), job["check"], job["recipe"]
        expected, tolerance = self.expected(check, folder), check["tolerance"]
        kernel = device.load(folder / job["library"])
        proof = Call(device, kernel, check, self.inputs(check))
        first = proof.errors(expected)
        if not values.within(first, tolerance):
            return {"wrong": first}
        timed = proof if check == recipe else Call(device, kernel, recipe, self.inputs(recipe))
        if not timed.finite():
            return {"wrong": dict.fromkeys(first, float("inf"))}
        times = timed.seconds(job.get("best"))
        again = proof.errors(expected)
        if not values.within(again, tolerance):
            return {"wrong": again}
        return {"seconds": statistics.median(times), "looks": len(times), "errors": _larger(first, again)}

    def inputs(self, recipe: Job) -> list[np.ndarray]:
        """The arguments, drawn once for all candidates."""
        if recipe["key"] not in self._drawn:
            self._drawn[recipe["key"]] = values.inputs(recipe)
        return self._drawn[recipe["key"]]

    def expected(self, recipe: Job, folder: Path) -> list[np.ndarray]:
        """The reference, computed once for all candidates, and kept in a file for the process that follows a crash."""
        key = recipe["key"]
        if key not in self._known:
            kept = folder / f"expected-{key}.npz"
            if kept.is_file():
                with np.load(kept, allow_pickle=False) as arrays:
                    self._known[key] = [arrays[name] for name in sorted(arrays.files)]
            else:
                results = values.reference(recipe, folder)
                beside = kept.with_suffix(".partial.npz")
                np.savez(beside, **{f"{place:03d}": result for place, result in enumerate(results)})
                beside.replace(kept)
                self._known[key] = results
        return self._known[key]


class Call:
    """A kernel with its arguments."""

    def __init__(self, device: Device, kernel: Any, recipe: Job, inputs: list[np.ndarray]) -> None:
        self.device = device
        self.outputs = recipe["outputs"]
        self.kernel = kernel
        given = zip(inputs, recipe["inputs"], strict=True)
        self.arguments = [device.put(array, about["dtype"]) for array, about in given]
        self.results = [device.empty(tuple(output["shape"]), output["dtype"]) for output in self.outputs]

    def seconds(self, best: float | None) -> list[float]:
        """Times of one run each."""
        return self.device.seconds(self.kernel, [*self.arguments, *self.results], best)

    def values(self) -> list[np.ndarray]:
        """Run it into tensors full of NaN, so that what it does not write shows."""
        for result, output in zip(self.results, self.outputs, strict=True):
            self.device.write(result, np.full(tuple(output["shape"]), np.nan, np.float32), output["dtype"])
        self.kernel(*self.arguments, *self.results)
        self.device.wait()
        pairs = zip(self.results, self.outputs, strict=True)
        return [self.device.get(result, output["dtype"]) for result, output in pairs]

    def errors(self, expected: list[np.ndarray]) -> dict[str, float]:
        """How far the results are off."""
        return values.errors(self.values(), expected)

    def finite(self) -> bool:
        """Whether every result is a number."""
        return all(bool(np.isfinite(result).all()) for result in self.values())


def _larger(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {name: max(a[name], b[name]) for name in a}


def serve() -> None:
    """Answer until standard input ends."""
    answer_lines(Runner())
