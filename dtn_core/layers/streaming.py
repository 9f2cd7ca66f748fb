"""What the three frameworks' layers share when they stream: the state before any token."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .definition import Array, Definition
from .validation import refuse


def no_tokens(
    definition: Definition,
    batch: Any,
    zeros: Callable[[tuple[Any, ...]], Array],
    shape: Callable[[Array], Sequence[Any]] = lambda x: tuple(x.shape),
    size: Callable[[Any], Any] = operator.index,
) -> Array:
    """An input of no tokens, whose state is the one before any token.

    Parameters
    ----------
    definition : Definition
        The layer that is to read it.
    batch : int or tuple of int or Array
        The axes before the tokens' axis, or an input that has them (its tokens do not matter). A scalar array of an
        integer is an int, a framework's own type of shapes a tuple.
    zeros : callable
        ``zeros(shape)`` in the layer's input type.
    shape, size : callable
        The shape of an array, and a size as an int or what else ``zeros`` takes for one; TypeError for what is none.

    Raises
    ------
    ValueError
        If ``batch`` is none of these.
    """
    own = 1 if definition.reads_integers else 2
    axes: Any = batch if isinstance(batch, Iterable) and not hasattr(batch, "shape") else (batch,)
    if len(getattr(batch, "shape", ())) >= own:
        axes = shape(batch)[:-own]
    try:
        sizes = tuple(map(size, axes))
    except TypeError:
        sizes = (-1,)
    if any(isinstance(each, int) and each < 0 for each in sizes):
        raise refuse("batch", batch, "the batch size, a tuple of the axes before the tokens' axis, or an input")
    embed: tuple[int, ...] = () if definition.reads_integers else (getattr(definition, "embed_dim", 1),)
    return zeros((*sizes, 0, *embed))
