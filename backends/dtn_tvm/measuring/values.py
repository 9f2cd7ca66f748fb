"""What goes into a kernel, what has to come out, and how far off it is.

A recipe is JSON: the shapes, a seed, a scale, and the file of the operator's NumPy source.  Inputs are
drawn and rounded to the kernel's dtype; the reference computes from the rounded values in float64.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .device import decode, encode

ROW_FLOOR = 1e-2  # of the output's own size: below it a row's error counts as if the row were this large


def inputs(recipe: Mapping[str, Any]) -> list[np.ndarray]:
    """The arguments, as the kernel's dtype holds them."""
    check_memory(recipe)
    drawn = []
    for place, given in enumerate(recipe["inputs"]):
        values = np.random.default_rng([recipe["seed"], place]).standard_normal(given["shape"], np.float32)
        drawn.append(decode(encode(values * np.float32(recipe["scale"]), given["dtype"]), given["dtype"]))
    return drawn


def check_memory(recipe: Mapping[str, Any]) -> None:
    """Raise MemoryError where this machine cannot hold arguments and results in the reference's float64."""
    tensors = [*recipe["inputs"], *recipe["outputs"]]
    needed = sum(8 * math.prod(tensor["shape"]) for tensor in tensors)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        named = ", ".join(f"{tensor['name']}{tensor['shape']}" for tensor in tensors)
        raise MemoryError(f"{named} take {needed:,} bytes in float64, and this machine has {there:,}")


def reference(recipe: Mapping[str, Any], folder: Path) -> list[np.ndarray]:
    """The results, in float64, by the NumPy source ``folder / recipe["reference"]``."""
    function = load(folder / recipe["reference"], recipe["function"])
    arguments: list[Any] = [values.astype(np.float64) for values in inputs(recipe)]
    for position, value in recipe["scalars"]:
        arguments.insert(position, value)
    with np.errstate(all="ignore"):
        results = function(*arguments)
    found = results if isinstance(results, tuple) else (results,)
    by_place = [np.asarray(found[output["place"]]) for output in recipe["outputs"]]
    return [
        np.broadcast_to(result, output["shape"]) for result, output in zip(by_place, recipe["outputs"], strict=True)
    ]


def load(path: Path, name: str) -> Callable[..., Any]:
    """Function ``name`` of the Python file ``path``."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., Any] = getattr(module, name)
    return function


def errors(results: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> dict[str, float]:
    """How far results are from the reference, the worst of all outputs.

    Returns
    -------
    dict
        ``rms``: of the difference, relative to that of the reference.  ``row``: the same for the worst vector along the
        last axis, so that a wrong row cannot hide behind many right ones.  Not finite where a result is not.
    """
    worst = {"rms": 0.0, "row": 0.0}
    for result, wanted in zip(results, expected, strict=True):
        difference = result.astype(np.float64) - wanted
        row = np.sqrt(np.mean(difference**2, -1)) if difference.ndim else np.abs(difference)
        size = np.sqrt(np.mean(wanted**2, -1)) if wanted.ndim else np.abs(wanted)
        whole = float(np.sqrt(np.mean(wanted**2))) or 1.0
        rms = float(np.sqrt(np.mean(difference**2))) / whole
        rows = float(np.max(row / np.maximum(size, ROW_FLOOR * whole), initial=0.0))
        worst["rms"] = _worse(worst["rms"], rms)
        worst["row"] = _worse(worst["row"], rows)
    return worst


def within(found: Mapping[str, float], tolerance: Mapping[str, float]) -> bool:
    """Whether every error is inside its tolerance; a NaN is not."""
    return all(found[name] <= limit for name, limit in tolerance.items())


def _worse(a: float, b: float) -> float:
    return max(a, b) if np.isfinite(b) else float("inf")
