"""JAX: this library's operators and what one writes by hand, under ``jax.jit``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dtn_jax as dtn

from .. import by_hand, formulas, start
from ..case import FORWARD, GRADIENTS, START, Task, UnavailableError
from ..data import Array
from ..libraries import LIBRARIES
from ..measure import TimeitTimer, Timer
from ..module_calls import prepared
from ..modules.jax import KIT
from ..problems import PROBLEMS

jax.config.update("jax_default_matmul_precision", "highest")  # on a GPU float32 products would be in TF32


def _function(task: Task) -> Callable[..., Any]:
    match task.implementation:
        case "dtn":
            return dtn.compile(PROBLEMS[task.computes].operator).__call__  # type: ignore[no-any-return]
        case "by hand":
            return partial(by_hand.LINEAR[task.computes], jnp)
        case "dense":
            return partial(by_hand.DENSE[task.computes], jnp)
        case "twin":
            return partial(formulas.TWINS[task.computes], jnp, **task.settings)
    return LIBRARIES[task.implementation](task.computes)


def _by_heads() -> jax.NamedSharding:
    """Of ``[batch, heads, n, features]``: each device has some of the heads."""
    return jax.NamedSharding(jax.make_mesh((jax.device_count(),), ("heads",)), jax.P(None, "heads"))


class JaxRunner:
    """See :class:`bench.runners.Runner`."""

    def prepare(self, task: Task, tensors: Sequence[Array]) -> Callable[[], Any]:
        """The call to measure."""
        if task.device == "cuda" and jax.default_backend() != "gpu":
            raise UnavailableError(f"JAX computes on {jax.default_backend()} here, it sees no CUDA device")
        place = _by_heads() if task.mode == "sharded" else None
        arguments = jax.block_until_ready([jax.device_put(jnp.asarray(x, task.shape.dtype), place) for x in tensors])
        operator = _function(task)

        def gradients(q: jax.Array, k: jax.Array, v: jax.Array, above: jax.Array) -> tuple[jax.Array, ...]:
            return jax.vjp(operator, q, k, v)[1](above)

        function = jax.jit({FORWARD: operator, GRADIENTS: gradients}[task.kind])
        return lambda: jax.block_until_ready(function(*arguments))

    def special(self, task: Task) -> tuple[float | None, Timer]:
        """Layers, training and decoding steps, starts."""
        if task.kind == START:
            return None, start.timer(task)
        error, call = prepared(KIT, task)
        return error, self.timer(call)

    def arrays(self, result: Any) -> list[Array]:
        """What the call returned, as NumPy arrays."""
        return [np.asarray(x, np.float32) for x in jax.tree.leaves(result)]

    def timer(self, call: Callable[[], Any]) -> TimeitTimer:
        """A timer; the call waits for its result."""
        return TimeitTimer(call)

    def release(self) -> None:
        """Forget what was compiled."""
        jax.clear_caches()

    def threads(self) -> None:
        """JAX does not say."""


RUNNER = JaxRunner()
