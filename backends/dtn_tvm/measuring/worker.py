"""The process that runs kernels: a crash in it is the end of one candidate.

One JSON object a line in, one out.  What a kernel prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from . import values
from .device import Device, load_runtime
from .timing import ceilings, seconds

Job = Mapping[str, Any]


def answer_lines(handle: Callable[[Job], Mapping[str, Any]]) -> None:
    """Answer each line of standard input with what ``handle`` returns; an exception becomes ``{"error": text}``."""
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


def _private_output() -> TextIO:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


class Runner:
    """Answers the jobs ``device``, ``ceilings``, ``prepare`` and ``measure``."""

    def __init__(self) -> None:
        self._device: Device | None = None
        self._known: dict[str, list[np.ndarray]] = {}

    def __call__(self, job: Job) -> Mapping[str, Any]:
        if job["job"] == "device" and self._device is None:
            load_runtime(job["kind"], Path(job["runtime"]))
            self._device = Device(job["kind"])
        if self._device is None:
            raise RuntimeError("the first job has to be 'device'")
        if job["job"] == "device":
            return {"name": self._device.name, "compute_version": self._device.compute_version}
        if job["job"] == "ceilings":
            return ceilings(self._device)
        if job["job"] == "prepare":
            self.expected(job["recipe"], Path(job["folder"]))
            return {}
        return self.measure(self._device, job)

    def measure(self, device: Device, job: Job) -> Mapping[str, Any]:
        """Check a kernel, take its time, and check again: what went wrong only sometimes shows after many runs."""
        folder, check, recipe = Path(job["folder"]), job["check"], job["recipe"]
        expected = self.expected(check, folder)
        proof = Call(device, check, folder / job["check_library"])
        first = proof.errors(expected)
        if not values.within(first, check["tolerance"]):
            return {"wrong": first}
        same = job["check_library"] == job["library"] and check == recipe
        timed = proof if same else Call(device, recipe, folder / job["library"])
        times = seconds(timed.run, device.wait, job.get("best"))
        again = proof.errors(expected)
        if not values.within(again, check["tolerance"]):
            return {"wrong": again}
        if not same and not timed.finite():
            return {"wrong": {name: float("inf") for name in first}}
        return {"seconds": statistics.median(times), "looks": len(times), "errors": _larger(first, again)}

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

    def __init__(self, device: Device, recipe: Job, library: Path) -> None:
        self.device = device
        self.outputs = recipe["outputs"]
        self.kernel = device.load(library)
        given = zip(values.inputs(recipe), recipe["inputs"], strict=True)
        self.arguments = [device.put(array, about["dtype"]) for array, about in given]
        self.results = [device.empty(tuple(output["shape"]), output["dtype"]) for output in self.outputs]

    def run(self) -> None:
        """Start it."""
        self.kernel(*self.arguments, *self.results)

    def values(self) -> list[np.ndarray]:
        """Run it into tensors full of NaN, so that what it does not write shows."""
        for result, output in zip(self.results, self.outputs, strict=True):
            self.device.write(result, np.full(tuple(output["shape"]), np.nan, np.float32), output["dtype"])
        self.run()
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
