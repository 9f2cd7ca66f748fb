"""What runs in a framework's process. One process serves one framework; the session calls these functions in it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .case import FORWARD, GRADIENTS, STEP, Shape, Task
from .data import Array, tensors
from .measure import Timer
from .oracle import check_output
from .problems import PROBLEMS
from .runners import Runner, runner


@dataclass
class _Process:
    """What this process holds between two calls."""

    runners: dict[str, Runner] = field(default_factory=dict)
    timers: dict[int, Timer] = field(default_factory=dict)
    inputs: dict[tuple[str, int, Shape, bool], list[Array]] = field(default_factory=dict)


_process = _Process()


def print_to(log: Path) -> None:
    """Send everything this process prints to a file, what libraries print in C included; Ctrl-C is not for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with log.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)


def start(framework: str) -> dict[str, Any]:
    """Import the framework.

    Returns
    -------
    dict
        What the figures depend on and only the framework knows.
    """
    _process.runners[framework] = runner(framework)
    return {"threads": _process.runners[framework].threads()}


def inputs(task: Task) -> list[Array]:
    """The tensors a task is given, the same objects for every task of this size."""
    names, definite = "qkvg" if task.kind == GRADIENTS else "qkv", PROBLEMS[task.computes].definite
    key = (names, task.n + (task.kind == STEP), task.shape, definite)
    if key not in _process.inputs:
        _process.inputs[key] = tensors(*key[:3], definite=definite)
    return _process.inputs[key]


def prepare(number: int, task: Task, references: Path) -> float | None:
    """Run a task once and keep it for :func:`block`, if its output is right.

    Returns
    -------
    float or None
        The relative error; None of what has no output, such as a process that only starts.

    Raises
    ------
    WrongOutputError
        If the output is not what the oracle says; the task is not kept.
    """
    found = _process.runners[task.framework]
    if task.kind not in (FORWARD, GRADIENTS, STEP):
        error, _process.timers[number] = found.special(task)
        return error
    call = found.prepare(task, inputs(task))
    error = check_output(task, found.arrays(call()), references)
    _process.timers[number] = found.timer(call)
    return error


def block(number: int, seconds: float) -> float:
    """Time of one call of a prepared task, from a block of calls."""
    return _process.timers[number].block(seconds)


def release() -> None:
    """Forget every task and its tensors."""
    _process.timers.clear()
    _process.inputs.clear()
    for found in _process.runners.values():
        found.release()
