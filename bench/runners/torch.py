"""PyTorch: this library's operators and layers, what is in PyTorch, what one writes by hand, other libraries."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils import benchmark

import dtn_torch as dtn

from .. import by_hand, chunked, start
from ..case import CEILING, FORWARD, GRADIENTS, SECOND_ORDER, START, STEP, Task, UnavailableError
from ..data import Array
from ..libraries import LIBRARIES
from ..measure import Timer
from ..module_calls import prepared
from ..modules.torch import KIT, MODES
from ..problems import CAUSAL_1, CAUSAL_3, CAUSAL_ASYMMETRIC, CAUSAL_INTERACTION, PROBLEMS

_TWINS = {
    SECOND_ORDER: chunked.twin,
    CAUSAL_1: chunked.linear,
    CAUSAL_3: chunked.third_order,
    CAUSAL_ASYMMETRIC: chunked.asymmetric,
    CAUSAL_INTERACTION: chunked.interaction,
}


def _ours(task: Task) -> Any:
    implementation = "tvm" if task.implementation == "dtn tvm" else None
    try:
        return dtn.compile(PROBLEMS[task.computes].operator, implementation=implementation)
    except (ValueError, ImportError) as error:
        if implementation is None:
            raise
        raise UnavailableError(str(error).partition("\n")[0]) from error


def _fla(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    from fla.ops.linear_attn import chunk_linear_attn

    def linear(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return chunk_linear_attn(q, k, v, scale=1.0, normalize=False)[0]  # type: ignore[no-any-return]

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return linear(q, linear(q, k, k), v).transpose(1, 2)


def _function(task: Task) -> Callable[..., Any]:
    """An implementation of a function of q, k and v."""
    mode, name, settings = MODES[task.mode], task.implementation, dict(task.settings)
    match name:
        case "dtn" | "dtn tvm":
            return mode(_ours(task))  # type: ignore[no-any-return]
        case "scaled_dot_product_attention":
            return mode(partial(functional.scaled_dot_product_attention, is_causal=True))  # type: ignore[no-any-return]
        case "dense":
            if task.computes == SECOND_ORDER:
                return mode(chunked.dense)  # type: ignore[no-any-return]
            return mode(partial(by_hand.DENSE[task.computes], torch))  # type: ignore[no-any-return]
        case "by hand":
            return mode(partial(by_hand.LINEAR[task.computes], torch))  # type: ignore[no-any-return]
        case "twin":
            return mode(partial(_TWINS[task.computes], **settings))  # type: ignore[no-any-return]
        case "grouped twin":
            return partial(chunked.grouped_twin, step=mode(chunked.group_step), **settings)
        case "triton twin":
            from ..triton_twin import second_order

            if task.device != "cuda":
                raise UnavailableError("Triton compiles for a CUDA device only")

            return partial(second_order, **settings)
        case "flash-linear-attention":
            try:
                import fla  # noqa: F401
            except ImportError as error:
                raise UnavailableError("flash-linear-attention is not installed") from error
            return _fla
    return LIBRARIES[name](task.computes)


class TorchTimer:
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
        if task.device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError("PyTorch sees no CUDA device")
        dtype = getattr(torch, task.shape.dtype)
        q, k, v, *above = (torch.from_numpy(x).to(task.device, dtype) for x in tensors)
        if task.kind == STEP:
            return self.step(_ours(task), q, k, v)
        function = _function(task)
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

    def special(self, task: Task) -> tuple[float | None, Timer]:
        """Layers, training and decoding steps, starts, ceilings."""
        if task.kind == START:
            return None, start.timer(task)
        if task.kind == CEILING:
            return None, TorchTimer(_ceiling(task))
        error, call = prepared(KIT, task)
        return error, TorchTimer(call)

    def arrays(self, result: Any) -> list[Array]:
        """What the call returned, as NumPy arrays."""
        results = result if isinstance(result, tuple) else (result,)
        return [x.detach().float().cpu().numpy() for x in results]

    def timer(self, call: Callable[[], Any]) -> TorchTimer:
        """A timer that waits for the result."""
        return TorchTimer(call)

    def release(self) -> None:
        """Forget what was compiled: each shape is compiled for itself."""
        torch.compiler.reset()
        with contextlib.suppress(AssertionError):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def threads(self) -> int:
        """Threads of one operation."""
        return torch.get_num_threads()


def _ceiling(task: Task) -> Callable[[], Any]:
    """The product of two large matrices, or a large copy: what the machine can do at all."""
    if task.device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("PyTorch sees no CUDA device")
    dtype = getattr(torch, task.shape.dtype)
    if task.implementation == "matrix product":
        a = torch.ones(task.n, task.n, dtype=dtype, device=task.device)
        return lambda: a @ a
    x = torch.ones(task.n, dtype=dtype, device=task.device)
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


RUNNER = TorchRunner()
