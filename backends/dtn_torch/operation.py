"""Causal operators as one operation each for ``torch.compile``, on a processor, where no gradient is asked for.

What runs in turns that fit a processor's cache would be traced as one graph over the whole sequence, whose
intermediates do not: half as fast.  As an operation of its own it is called as it stands, in any compiled graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

import torch

from dtn_codegen.python import ir_hash
from dtn_codegen.shapes import axis_sizes, leading_axes, shapes_of, whole_shape
from dtn_codegen.torch import TARGET
from dtn_core.ir.nodes import Program

_NUMBERS = count()


def in_turns(arrays: Sequence[torch.Tensor], scalars: Iterable[Any]) -> bool:
    """Whether sequences are on a processor, longer than what is computed at once, and no gradient is asked for."""
    first = arrays[0]
    if first.device.type != "cpu" or torch.compiler.is_exporting():
        return False
    tensors = (*arrays, *(x for x in scalars if isinstance(x, torch.Tensor)))
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return False  # what is traced is differentiated by the compiler
    return first.numel() > TARGET.costs.at_once


def operation(program: Program, generated: Callable[..., Any], layout: str) -> Callable[..., Any]:
    """An operation of PyTorch that calls generated source, without a rule for gradients or ``vmap``.

    Parameters
    ----------
    program : Program
        What it computes.
    generated : callable
        Tensors, then scalars, to a tensor or a tuple of them.
    layout : str
        Where the head axis is.

    Returns
    -------
    callable
        Called as ``generated`` is, without options.
    """
    name = f"dtn::{program.name}_{ir_hash(program)}_{next(_NUMBERS)}"
    tensors = len(program.tensors)

    @torch.library.custom_op(name, mutates_args=(), schema="(Tensor[] tensors, Tensor[] scalars) -> Tensor[]")
    def forward(given: Sequence[torch.Tensor], scalars: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        results = generated(*given, *scalars)
        results = results if isinstance(results, tuple) else (results,)
        pairs = zip(results, _shapes(program, given, scalars, layout), strict=True)
        return [y if y.shape == shape else y.expand(shape).contiguous() for y, shape in pairs]

    @forward.register_fake
    def _(given: Sequence[torch.Tensor], scalars: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [given[0].new_empty(shape, dtype=_dtype(given)) for shape in _shapes(program, given, scalars, layout)]

    def call(*arguments: Any) -> Any:
        results = forward(list(arguments[:tensors]), list(arguments[tensors:]))
        return results[0] if len(results) == 1 else tuple(results)

    return call


def _dtype(given: Sequence[torch.Tensor]) -> torch.dtype:
    floating = [x.dtype for x in given if x.is_floating_point()]
    found = floating[0]
    for dtype in floating[1:]:
        found = torch.promote_types(found, dtype)
    return found


def _shapes(
    program: Program, given: Sequence[torch.Tensor], scalars: Sequence[torch.Tensor], layout: str
) -> list[tuple[Any, ...]]:
    """Shapes of the outputs, those that depend on nothing with leading axes repeated along them."""
    shapes, named = shapes_of(given), dict(zip([p.name for p in program.scalars], shapes_of(scalars), strict=True))
    sizes, leading = axis_sizes(program, shapes, layout), leading_axes(program, shapes, layout, named)
    return [whole_shape(program, output.axes, layout, leading, sizes) for output in program.outputs]
