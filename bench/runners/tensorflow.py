"""TensorFlow: this library's operators and what one writes by hand, in a ``tf.function``, with and without XLA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

import dtn_tensorflow as dtn

from .. import by_hand, formulas, start
from ..case import FORWARD, GRADIENTS, START, Task
from ..data import Array
from ..measure import TimeitTimer, Timer
from ..module_calls import prepared
from ..modules.tensorflow import KIT
from ..problems import PROBLEMS

_XLA = {"graph": False, "xla": True}


class TensorFlowRunner:
    """See :class:`bench.runners.Runner`."""

    def prepare(self, task: Task, tensors: Sequence[Array]) -> Callable[[], Any]:
        """The call to measure."""
        arguments = [tf.constant(x) for x in tensors]
        match task.implementation:
            case "dtn":
                operator: Callable[..., Any] = dtn.compile(PROBLEMS[task.computes].operator)
            case "twin":
                operator = partial(formulas.TWINS[task.computes], tf, **task.settings)
            case _:
                operator = by_hand.tensorflow_linear()[task.computes]

        def forward(q: Any, k: Any, v: Any) -> Any:
            return operator(q, k, v)

        def gradients(q: Any, k: Any, v: Any, above: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch((q, k, v))
                o = operator(q, k, v)
            return tape.gradient(o, (q, k, v), above)

        python = {FORWARD: forward, GRADIENTS: gradients}[task.kind]
        function = tf.function(python, jit_compile=_XLA[task.mode])

        def call() -> Any:
            result = function(*arguments)
            tf.test.experimental.sync_devices()
            return result

        return call

    def special(self, task: Task) -> tuple[float | None, Timer]:
        """Layers, training and decoding steps, starts."""
        if task.kind == START:
            return None, start.timer(task)
        error, call = prepared(KIT, task)
        return error, self.timer(call)

    def arrays(self, result: Any) -> list[Array]:
        """What the call returned, as NumPy arrays."""
        return [np.asarray(x) for x in tf.nest.flatten(result)]

    def timer(self, call: Callable[[], Any]) -> TimeitTimer:
        """A timer; the call waits for its result."""
        return TimeitTimer(call)

    def release(self) -> None:
        """Nothing: a function is forgotten with its task."""

    def threads(self) -> int | None:
        """Threads of one operation, where they were set."""
        return tf.config.threading.get_intra_op_parallelism_threads() or None


RUNNER = TensorFlowRunner()
