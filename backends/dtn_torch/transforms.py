"""Kernels under ``torch.func``, whose derivatives and maps nest: an operator that is registered has none there.

See https://github.com/pytorch/pytorch/issues/168393.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .kernels import ENTRIES, fold, kernel, kernel_gradient, pulled_back, unfold

Tensors = tuple[torch.Tensor, ...]


class Transformed(torch.autograd.Function):
    """``kernel`` of a name and its arguments, one after another; every level of ``torch.func`` takes its own off."""

    @staticmethod
    def forward(name: str, *tensors: torch.Tensor) -> Tensors:
        return tuple(kernel(list(tensors), name))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        entry, tensors = ENTRIES[ctx.name], ctx.saved_tensors
        wanted = zip(entry.kernels.inputs, ctx.needs_input_grad[1:], strict=True)
        scalars = any(needed and entry.shapes.is_scalar(param) for param, needed in wanted)
        if scalars or entry.lacks_gradient(tensors):
            return None, *pulled_back(entry, tensors, cotangents)
        return None, *TransformedGradient.apply(ctx.name, *tensors, *cotangents)

    @staticmethod
    def vmap(info: Any, places: Sequence[int | None], name: str, *tensors: torch.Tensor) -> tuple[Tensors, Any]:
        """The axis that is mapped over is one more of the batch."""
        found = Transformed.apply(name, *fold(tensors, places[1:], info.batch_size))
        return unfold(found, info.batch_size)


class TransformedGradient(torch.autograd.Function):
    """``kernel_gradient`` of a name, the arguments and the cotangents, one after another."""

    @staticmethod
    def forward(name: str, *given: torch.Tensor) -> Tensors:
        count = len(ENTRIES[name].kernels.inputs)
        return tuple(kernel_gradient(list(given[:count]), list(given[count:]), name))

    setup_context = Transformed.setup_context

    @staticmethod
    def backward(ctx: Any, *second: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        entry = ENTRIES[ctx.name]
        count = len(entry.kernels.inputs)

        def gradient(*given: torch.Tensor) -> Tensors:
            return pulled_back(entry, given[:count], given[count:])

        return None, *torch.func.vjp(gradient, *ctx.saved_tensors)[1](second)

    @staticmethod
    def vmap(info: Any, places: Sequence[int | None], name: str, *given: torch.Tensor) -> tuple[Tensors, Any]:
        """The axis that is mapped over is one more of the batch."""
        found = TransformedGradient.apply(name, *fold(given, places[1:], info.batch_size))
        return unfold(found, info.batch_size)
