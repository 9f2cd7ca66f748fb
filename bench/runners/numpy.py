"""NumPy: this library's operators and what one writes by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import dtn_numpy as dtn

from .. import by_hand, start
from ..case import FORWARD, Task
from ..data import Array
from ..libraries import LIBRARIES
from ..measure import TimeitTimer, Timer
from ..problems import PROBLEMS


class NumpyRunner:
    """See :class:`bench.runners.Runner`."""

    def prepare(self, task: Task, tensors: Sequence[Array]) -> Callable[[], Any]:
        """The call to measure."""
        if task.kind != FORWARD:
            raise ValueError(f"no way to run {task.kind!r}")
        match task.implementation:
            case "dtn":
                function: Callable[..., Any] = dtn.compile(PROBLEMS[task.computes].operator)
            case "by hand":
                function = partial(by_hand.LINEAR[task.computes], np)
            case name:
                function = LIBRARIES[name](task.computes)
        return lambda: function(*tensors)

    def special(self, task: Task) -> tuple[float | None, Timer]:
        """Starts."""
        return None, start.timer(task)

    def arrays(self, result: Any) -> list[Array]:
        """What the call returned."""
        return [result]

    def timer(self, call: Callable[[], Any]) -> TimeitTimer:
        """A timer."""
        return TimeitTimer(call)

    def release(self) -> None:
        """Nothing: a call is forgotten with its task."""

    def threads(self) -> None:
        """NumPy does not say."""


RUNNER = NumpyRunner()
