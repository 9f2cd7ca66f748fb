"""NumPy: this library's operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dtn_numpy as dtn
from dtn_core.operators import tensor_attention

from ..case import FORWARD, Task
from ..data import Array
from ..measure import TimeitTimer


class NumpyRunner:
    """See :class:`bench.runners.Runner`."""

    def prepare(self, task: Task, tensors: Sequence[Array]) -> Callable[[], Any]:
        """The call to measure."""
        if task.kind != FORWARD:
            raise ValueError(f"no way to run {task.kind!r}")
        operator = dtn.compile(tensor_attention(mask="causal", normalize=None))
        return lambda: operator(*tensors)

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
