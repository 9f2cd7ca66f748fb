"""What a user waits for before the first result: imports and compiling, in fresh processes or with nothing kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from .case import Task
from .measure import TimeitTimer, Timer

IMPORTS = {"numpy": "numpy", "torch": "torch", "jax": "jax", "tensorflow": "tensorflow"}
_CLOCK = "import time{before}; start = time.perf_counter(); import {package}; print(time.perf_counter() - start)"
# Python's first full collection walks all objects of TensorFlow's import: 0.2 s that whatever allocates next would pay.
_COMPILE = (
    "from dtn_core.operators import tensor_attention; import {package}; import gc, time; "
    "text = tensor_attention({knobs}).notation; gc.collect(); start = time.perf_counter(); {package}.compile(text); "
    "print(time.perf_counter() - start)"
)
KNOBS = {"tensor attention": "", "second order": "mask='causal', normalize=None"}


class ProcessTimer:
    """A fresh Python process that says how long something took it.

    Parameters
    ----------
    code : str
        Prints seconds.
    """

    def __init__(self, code: str) -> None:
        self.code = code

    def block(self, seconds: float) -> float:
        """One process: what is read from disk is in the system's cache from the one before, and bytecode beside it."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run([sys.executable, "-c", self.code], capture_output=True, text=True, check=True, env=kept)
        return float(done.stdout.split()[-1])


def timer(task: Task) -> Timer:
    """The timer of ``framework``, ``dtn after it``, ``compile cold``, ``compile warm`` or ``look-up``."""
    framework, package = IMPORTS[task.framework], f"dtn_{task.framework}"
    match task.implementation:
        case "framework":
            made: Timer = ProcessTimer(_CLOCK.format(before="", package=framework))
        case "dtn after it":
            made = ProcessTimer(_CLOCK.format(before=f", {framework}", package=package))
        case "compile cold":
            made = ProcessTimer(_COMPILE.format(package=package, knobs=KNOBS[task.computes]))
        case "compile warm":
            made = TimeitTimer(_compiler(package, task.computes))
        case "look-up":
            made = TimeitTimer(_look_up(package, task.computes))
        case other:
            raise ValueError(f"no way to start {other!r}")
    made.block(0.0)
    return made


def _notation(computes: str) -> str:
    from .problems import PROBLEMS

    operator = PROBLEMS[computes].operator
    assert operator is not None
    return operator.notation


def _compiler(package: str, computes: str) -> Callable[[], Any]:
    """Compiles a text that it has never seen: the operator has another name each time."""
    from importlib import import_module

    from dtn_core.passes import pipeline

    compile_ = import_module(package).compile
    text, numbers = _notation(computes), count()
    name = text.partition("(")[0]

    def call() -> Any:
        pipeline.candidates.cache_clear()
        return compile_(text.replace(f"{name}(", f"{name}_{os.getpid()}_{next(numbers)}(", 1))

    return call


def _look_up(package: str, computes: str) -> Callable[[], Any]:
    from importlib import import_module

    compile_, text = import_module(package).compile, _notation(computes)
    compile_(text)
    return lambda: compile_(text)
