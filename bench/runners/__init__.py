"""How each framework runs a task; a process imports one of these."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from ..case import Task
from ..data import Array
from ..measure import Timer

FRAMEWORKS = ("numpy", "torch", "jax", "tensorflow")


class Runner(Protocol):
    """A framework."""

    def prepare(self, task: Task, tensors: Sequence[Array]) -> Callable[[], Any]:
        """The call to measure.

        Parameters
        ----------
        task : Task
            What to run.
        tensors : sequence of numpy.ndarray
            q, k, v, and for gradients g; for a step with one token more than ``task.n``.
        """

    def special(self, task: Task) -> tuple[float | None, Timer]:
        """The error and the timer of what is no function of q, k and v: a layer, a training step, a start."""

    def arrays(self, result: Any) -> list[Array]:
        """What the call returned, as NumPy arrays."""

    def timer(self, call: Callable[[], Any]) -> Timer:
        """A timer that waits for the result."""

    def release(self) -> None:
        """Forget what was compiled."""

    def threads(self) -> int | None:
        """Threads that one call uses, where the framework says it."""


def installed(framework: str) -> bool:
    """Whether the framework can be imported; it is not."""
    return find_spec(framework) is not None


def runner(framework: str) -> Runner:
    """Import a framework."""
    made: Runner = importlib.import_module(f"{__name__}.{framework}").RUNNER
    return made
