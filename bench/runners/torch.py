"""PyTorch: this library's operator, what is in PyTorch, and hand-written twins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils import benchmark

import dtn_torch as dtn
from dtn_core.operators import tensor_attention

from .. import peers
from ..case import FORWARD, GRADIENTS, STEP, Task
from ..data import Array

_MODES: dict[str, Callable[..., Any]] = {
    "eager": lambda function: function,
    "compiled": partial(torch.compile, dynamic=False),
}


def _ours() -> Any:
    return dtn.compile(tensor_attention(mask="causal", normalize=None))


_FORWARD: dict[str, Callable[..., Callable[..., Any]]] = {
    "dtn": lambda mode: mode(_ours()),
    "scaled_dot_product_attention": lambda mode: mode(partial(scaled_dot_product_attention, is_causal=True)),
    "dense": lambda mode: mode(peers.dense),
    "twin": lambda mode, **settings: mode(partial(peers.twin, **settings)),
    "grouped twin": lambda mode, **settings: partial(peers.grouped_twin, step=mode(peers.group_step), **settings),
}


class Timer:
    """A timer over ``torch.utils.benchmark``, which sets threads and waits for devices."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.timer = benchmark.Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())

    def block(self, seconds: float) -> float:
        """As :meth:`bench.measure.Timer.block`."""
        return self.timer.blocked_autorange(min_run_time=seconds).median


class TorchRunner:
    """See :class:`bench.runners.Runner`."""

    def prepare(self, task: Task, tensors: Sequence[Array]) -> Callable[[], Any]:
        """The call to measure."""
        q, k, v, *above = (torch.from_numpy(x) for x in tensors)
        if task.kind == STEP:
            return self.step(_ours(), q, k, v)
        function = _FORWARD[task.implementation](_MODES[task.mode], **task.settings)
        if task.kind == FORWARD:
            return lambda: function(q, k, v)
        if task.kind != GRADIENTS:
            raise ValueError(f"no way to run {task.kind!r}")
        leaves = [x.requires_grad_() for x in (q, k, v)]
        return lambda: torch.autograd.grad(function(*leaves), leaves, *above)

    @staticmethod
    def step(function: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Callable[[], Any]:
        """The last token, given the state after the others."""
        _, state = function(*(x[..., :-1, :].contiguous() for x in (q, k, v)), return_state=True)
        last = [x[..., -1, :].contiguous() for x in (q, k, v)]
        return lambda: function.step(state, *last)[0]

    def arrays(self, result: Any) -> list[Array]:
        """What the call returned, as NumPy arrays."""
        results = result if isinstance(result, tuple) else (result,)
        return [x.detach().numpy() for x in results]

    def timer(self, call: Callable[[], Any]) -> Timer:
        """A timer that waits for the result."""
        return Timer(call)

    def release(self) -> None:
        """Forget what was compiled: each shape is compiled for itself."""
        torch.compiler.reset()

    def threads(self) -> int:
        """Threads of one operation."""
        return torch.get_num_threads()


RUNNER = TorchRunner()
