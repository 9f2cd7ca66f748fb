"""What the three frameworks' layers share when they stream: the state before any token."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from .definition import Array, Definition
from .validation import refuse


def no_tokens(definition: Definition, batch: Any, zeros: Callable[[tuple[int, ...]], Array]) -> Array:
    """An input of no tokens, whose state is the one before any token.

    Parameters
    ----------
    definition : Definition
        The layer that is to read it.
    batch : int or tuple of int or Array
        The axes before the tokens' axis, or an input that has them (its tokens do not matter).
    zeros : callable
        ``zeros(shape)`` in the layer's input type.

    Raises
    ------
    ValueError
        If ``batch`` is none of these.
    """
    if hasattr(batch, "shape"):
        batch = tuple(batch.shape)[: -1 if definition.reads_integers else -2]
    try:
        axes = tuple(operator.index(size) for size in (batch if isinstance(batch, tuple | list) else (batch,)))
    except TypeError:
        axes = (-1,)
    if any(size < 0 for size in axes):
        raise refuse("batch", batch, "the batch size, a tuple of the axes before the tokens' axis, or an input")
    embed: tuple[int, ...] = () if definition.reads_integers else (getattr(definition, "embed_dim", 1),)
    return zeros((*axes, 0, *embed))
