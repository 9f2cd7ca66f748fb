"""Compiled operators in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dtn_codegen.function import Function
from dtn_codegen.torch import TARGET


class TorchFunction(Function):
    """A compiled operator on torch tensors, with torch's own autograd, ``torch.func`` and ``torch.compile``.

    Under autocast it runs in the dtype of its arguments: products are summed in float32, as by
    ``torch.autocast`` for operators that need the range.
    """

    target = TARGET

    def convert(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """The tensors themselves; anything else is refused."""
        for name, tensor in zip((*self._tensors, "padding_mask"), tensors, strict=False):
            if not isinstance(tensor, torch.Tensor):
                raise TypeError(f"{self.__name__}: {name} is a {type(tensor).__name__}, expected a torch.Tensor")
        return tuple(tensors)

    def is_complex(self, names: Sequence[str], arrays: Sequence[Any]) -> bool:
        """Whether any tensor is complex; refuses integers and booleans."""
        for name, array in zip(names, arrays, strict=True):
            if not (array.is_floating_point() or array.is_complex()):
                raise TypeError(f"{self.__name__}: {name} has dtype {array.dtype}; expected floating or complex")
        return any(array.is_complex() for array in arrays)

    def run(self, generated: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        """Call generated source, outside autocast: it chooses its own dtypes."""
        device = arguments[0].device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return generated(*arguments)
        return generated(*arguments)

    tracing = staticmethod(torch.compiler.is_compiling)
