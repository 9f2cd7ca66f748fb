"""Packed sequences as one operation of a graph: where each starts decides what is computed, so it is read in there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch

from dtn_codegen.packed import evaluate_packed, packed_shape
from dtn_codegen.shapes import axis_sizes, leading_axes, shapes_of

if TYPE_CHECKING:
    from .function import TorchFunction


@dataclass(frozen=True)
class Entry:
    """What a name in a graph stands for: an operator, and the options of a call.

    An operation's ``tensors`` are the operator's, its scalars in order, and the states if it is ``resumed``.
    """

    function: TorchFunction
    resumed: bool
    return_state: bool
    chunk_size: int | None

    def results(self, tensors: Sequence[torch.Tensor], starts: torch.Tensor) -> list[torch.Tensor]:
        """The operator's results, then its states."""
        function = self.function
        own, values = len(function.signature.tensors), len(function.signature.scalars)
        named = dict(zip(function.signature.scalars, tensors[own:], strict=False))
        states = tuple(tensors[own + values :]) if self.resumed else None
        options = states, self.return_state, self.chunk_size
        found = evaluate_packed(function, tensors[:own], named, starts, *options)
        results, after = found if self.return_state else (found, ())
        every = (*(results if isinstance(results, tuple) else (results,)), *after)
        shapes = [shape for shape, _ in self.shapes(tensors, starts)]
        return [x.expand(shape).contiguous() for x, shape in zip(every, shapes, strict=True)]

    def shapes(
        self, tensors: Sequence[torch.Tensor], starts: torch.Tensor
    ) -> list[tuple[tuple[Any, ...], torch.dtype]]:
        """Shapes and dtypes of the results and states."""
        function = self.function
        program, layout = function.operator.program, function.layout
        own = tensors[: len(program.tensors)]
        shapes, dtype = shapes_of(own), reduce(torch.promote_types, [x.dtype for x in own])
        named = dict(zip(function.signature.scalars, shapes_of(tensors[len(own) :]), strict=False))
        sizes, leading = axis_sizes(program, shapes, layout), leading_axes(program, shapes, layout, named)
        made = [(output.axes, dtype) for output in program.outputs]
        if self.return_state:
            streams = function.tokens.streams(complex_input=dtype.is_complex)
            assert streams is not None
            made += [(axes, torch.promote_types(dtype, torch.float32)) for axes in streams.axes]
        count = starts.shape[0] - 1
        return [(packed_shape(program, axes, layout, leading, sizes, count), dtype) for axes, dtype in made]


ENTRIES: dict[str, Entry] = {}
"""By the name that graphs carry."""


@torch.library.custom_op("dtn::packed", mutates_args=())
def packed(tensors: Sequence[torch.Tensor], starts: torch.Tensor, name: str) -> list[torch.Tensor]:
    """The results and states of an operator for sequences that start at ``starts``."""
    return ENTRIES[name].results(tensors, starts)


@packed.register_fake
def _(tensors: Sequence[torch.Tensor], starts: torch.Tensor, name: str) -> list[torch.Tensor]:
    return [tensors[0].new_empty(shape, dtype=dtype) for shape, dtype in ENTRIES[name].shapes(tensors, starts)]


@torch.library.custom_op("dtn::packed_gradient", mutates_args=())
def packed_gradient(
    tensors: Sequence[torch.Tensor], starts: torch.Tensor, cotangents: Sequence[torch.Tensor], name: str
) -> list[torch.Tensor]:
    """A cotangent for each of ``tensors``."""
    with _above_autograd(), torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in tensors]
        results = ENTRIES[name].results(leaves, starts)
        pairs = [(y, g) for y, g in zip(results, cotangents, strict=True) if y.requires_grad]
        found = torch.autograd.grad(
            [y for y, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True, materialize_grads=True
        )
    return [x.contiguous() for x in found]


@packed_gradient.register_fake
def _(
    tensors: Sequence[torch.Tensor], starts: torch.Tensor, cotangents: Sequence[torch.Tensor], name: str
) -> list[torch.Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in tensors]


def _above_autograd() -> Any:
    """Where operations are recorded, as outside of one; inside they are not, whatever ``enable_grad`` says."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key))
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, starts, name = inputs
    ctx.save_for_backward(starts, *tensors)
    ctx.entry = name


def _backward(ctx: Any, cotangents: Sequence[torch.Tensor]) -> tuple[Any, None, None]:
    starts, *tensors = ctx.saved_tensors
    return packed_gradient(tensors, starts, list(cotangents), ctx.entry), None, None


packed.register_autograd(_backward, setup_context=_remember)
