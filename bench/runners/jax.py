"""JAX: this library's operator under ``jax.jit``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import dtn_jax as dtn
from dtn_core.operators import tensor_attention

from ..case import FORWARD, GRADIENTS, Task
from ..data import Array
from ..measure import TimeitTimer


class JaxRunner:
    """See :class:`bench.runners.Runner`."""

    def prepare(self, task: Task, tensors: Sequence[Array]) -> Callable[[], Any]:
        """The call to measure."""
        arguments = jax.block_until_ready([jax.device_put(x) for x in tensors])
        operator = dtn.compile(tensor_attention(mask="causal", normalize=None))

        def gradients(q: jax.Array, k: jax.Array, v: jax.Array, above: jax.Array) -> tuple[jax.Array, ...]:
            return jax.vjp(operator, q, k, v)[1](above)

        function = jax.jit({FORWARD: operator.__call__, GRADIENTS: gradients}[task.kind])
        return lambda: jax.block_until_ready(function(*arguments))

    def arrays(self, result: Any) -> list[Array]:
        """What the call returned, as NumPy arrays."""
        return [np.asarray(x) for x in jax.tree.leaves(result)]

    def timer(self, call: Callable[[], Any]) -> TimeitTimer:
        """A timer; the call waits for its result."""
        return TimeitTimer(call)

    def release(self) -> None:
        """Forget what was compiled."""
        jax.clear_caches()

    def threads(self) -> None:
        """JAX does not say."""


RUNNER = JaxRunner()
