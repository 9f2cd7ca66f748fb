"""The sizes at which cells are computed: small, all different, and a sequence that is no multiple of a chunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir.axes import sequence_axes
from ..ir.nodes import Program

TOKENS = 11
STEPS = 5
CHUNK = 4
"""Tokens of a chunk, unless a backend's are longer."""

FEATURES = {"d": 3, "e": 2}


def tokens(form: str, chunk: int = CHUNK) -> int:
    """Tokens of a sequence: fewer where each is a step of its own, two whole chunks and a part where there are chunks.

    Examples
    --------
    >>> tokens("dense"), tokens("chunked"), tokens("chunked", 16), tokens("recurrent")
    (11, 11, 35, 5)
    """
    if form == "recurrent":
        return STEPS
    return 2 * chunk + 3 if form == "chunked" else TOKENS


def shapes(program: Program, sizes: Mapping[str, int] | None = None) -> list[tuple[int, ...]]:
    """The shapes of an operator's tensors without leading axes.

    Examples
    --------
    >>> from dtn_core.operators import tensor_attention
    >>> shapes(tensor_attention().program)
    [(11, 3), (11, 3), (11, 2)]
    """
    full = {axis: TOKENS if axis in sequence_axes(program) else FEATURES.get(axis, 4) for axis in program.axes}
    full.update(sizes or {})
    return [tuple(full[axis] for axis in param.axes) for param in program.tensors]


def place(axes: tuple[str, ...], axis: str, which: Any) -> tuple[Any, ...]:
    """The index of the entries ``which`` along an axis of a tensor over ``axes``, whatever its leading axes.

    Examples
    --------
    >>> place(("n", "d"), "n", slice(0, 2))
    (Ellipsis, slice(0, 2, None), slice(None, None, None))
    """
    return (..., which, *[slice(None)] * (len(axes) - 1 - axes.index(axis)))
