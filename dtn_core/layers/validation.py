"""Checks of hyperparameters; every error names the argument, what was got and what is expected."""

from __future__ import annotations

import math
import operator
from typing import Any

from ..errors import ShapeError


def refuse(argument: str, got: object, expected: str) -> ValueError:
    """The error for a hyperparameter that is not acceptable."""
    return ValueError(f"{argument}: got {got!r}, expected {expected}")


def positive_int(argument: str, value: Any) -> int:
    """``value`` as an int of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise refuse(argument, value, "an integer of at least 1")
    return number


def positive_float(argument: str, value: Any) -> float:
    """``value`` as a finite float above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise refuse(argument, value, "a finite number above 0")
    return float(value)


def check_tokens(layer: str, x: Any, padding_mask: Any = None, cu_seqlens: Any = None) -> None:
    """Refuse a mask of ``x[..., n, embed]`` that is no array, has more axes than its tokens, or is of packed sequences.

    Raises
    ------
    TypeError
        For a list, for one.
    ShapeError
        Its leading axes would enlarge the batch.
    ValueError
        Both are given.
    """
    if padding_mask is None:
        return
    if cu_seqlens is not None:
        raise ValueError(f"{layer}: cu_seqlens clashes with padding_mask: packed sequences have no padding")
    if not hasattr(padding_mask, "shape"):
        raise TypeError(f"{layer}: padding_mask is a {type(padding_mask).__name__}, expected an array of booleans")
    of_mask, of_x = _rank(padding_mask), _rank(x)
    if of_mask is not None and of_x is not None and of_mask >= of_x:
        raise ShapeError(
            f"{layer}: padding_mask has shape {tuple(padding_mask.shape)}, expected [..., n] for an input of shape "
            f"{tuple(x.shape)}"
        )


def _rank(array: Any) -> int | None:
    """How many axes there are; None where a graph of TensorFlow does not know."""
    return array.shape.rank if hasattr(array.shape, "rank") else len(array.shape)
