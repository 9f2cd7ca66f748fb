"""The process that compiles candidates: a crash or an endless loop of the compiler costs one candidate."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import ceiling
from .measuring.process import Child
from .measuring.worker import answer_lines
from .recipe import from_json as problem_from_json
from .targets import from_json as target_from_json


def builder() -> Child:
    """The process, which imports TVM when it is first asked."""
    return Child(["-P", "-m", "dtn_tvm.builder"])


def build(job: Mapping[str, Any]) -> dict[str, Any]:
    """Compile a candidate into a library.

    Parameters
    ----------
    job : Mapping
        ``family``, the module of the schedules, or None for :mod:`dtn_tvm.ceiling`; ``problem``, ``schedule`` and
        ``target`` as JSON; ``library``, the file to write.

    Returns
    -------
    dict
        Empty: the library is there.
    """
    if job["family"] is None:
        ceiling.export(target_from_json(job["target"]), Path(job["library"]))
        return {}
    family = importlib.import_module(job["family"])
    problem = problem_from_json(family, job["problem"])
    schedule = family.Schedule.from_json(job["schedule"])
    kernel = family.compile(problem, schedule, target_from_json(job["target"]))
    kernel.export(Path(job["library"]))
    return {}


if __name__ == "__main__":
    answer_lines(build)
