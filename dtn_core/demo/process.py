"""A framework in a process of its own: frameworks do not mix, and one that fails does not take the others along."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from ..child import Child
from ..errors import DtnError
from .lm_recipe import LMRecipe
from .recipe import Recipe

# The model is so small that threads cost more than they save, and the processor gives every framework the same
# float32 arithmetic.
SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONUTF8": "1",
}


class DemoError(DtnError):
    """The demo cannot run, or a framework failed in it; one line that says what to do."""


class FrameworkError(DemoError):
    """A framework's process ended before it answered; ``log`` holds all that it printed."""

    def __init__(self, message: str, framework: str, log: Path) -> None:
        super().__init__(message)
        self.framework = framework
        self.log = log


class FrameworkProcess(Child):
    """Starts ``dtn_core.demo.worker`` for one backend; use it in a ``with`` statement.

    Parameters
    ----------
    name, package : str
        ``"torch"`` and ``"dtn_torch"``.
    log : Path
        Gets what the framework prints.

    Raises
    ------
    FrameworkError
        From any method, when the process ends before it has answered: with the last line it printed.
    """

    worker: ClassVar[str] = "dtn_core.demo.worker"  # the module that is run

    def __init__(self, name: str, package: str, log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as errors:
            super().__init__(["-P", "-m", self.worker, package], SETTINGS, errors)

    def wait_until_ready(self) -> None:
        """Return when the framework is imported."""
        self._answer("ready")

    def train(self, recipe: Recipe, mixer: str, weights: Path) -> Iterator[dict[str, Any]]:
        """Train; yields an ``epoch`` event for every epoch and at last a ``trained`` event."""
        self._send("train", recipe, mixer, weights)
        while True:
            event = self._answer("epoch", "trained")
            yield event
            if event["event"] == "trained":
                return

    def logits(self, recipe: Recipe, mixer: str, weights: Path) -> list[list[float]]:
        """Logits of the test images with the weights of a file."""
        self._send("logits", recipe, mixer, weights)
        values: list[list[float]] = self._answer("logits")["values"]
        return values

    def _send(self, job: str, recipe: Recipe | LMRecipe, mixer: str, weights: Path) -> None:
        try:
            self.write({"job": job, "recipe": asdict(recipe), "mixer": mixer, "weights": str(weights)})
        except BrokenPipeError:
            raise self._failure() from None

    def _answer(self, *expected: str) -> dict[str, Any]:
        event = self.read()
        if event is None:
            raise self._failure()
        if event.get("event") not in expected:
            raise DemoError(f"{self.name} answered {event.get('event')!r}; expected {' or '.join(expected)}")
        return event

    def _failure(self) -> FrameworkError:
        status = self.process.wait()
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        reason = said[-1] if said else f"its process ended with status {status}"
        return FrameworkError(f"{self.name} failed: {reason}", self.name, self.log)
