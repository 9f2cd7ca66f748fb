"""The numbers that every implementation is given, in every framework; a longer sequence begins like a shorter one."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .case import USUAL, Shape

BLOCK = 4096
_STREAMS = {"q": 0, "k": 1, "v": 2, "g": 3}

Array = NDArray[Any]


def rounded(x: Array, dtype: str) -> Array:
    """Float32 numbers that are exact in ``dtype``."""
    return x if dtype == "float32" else x.astype(getattr(ml_dtypes, dtype)).astype(np.float32)


def tensor(name: str, n: int, shape: Shape = USUAL) -> Array:
    """Standard normal numbers.

    Parameters
    ----------
    name : {"q", "k", "v", "g"}
        Each has a stream of its own; g is the gradient that comes from above.
    n : int
        Tokens.
    shape : Shape
        Everything else.

    Returns
    -------
    numpy.ndarray
        ``[batch, heads, n, features]``, float32, as they are after rounding to the shape's dtype.
    """
    rng = np.random.default_rng([0, _STREAMS[name]])
    out = np.empty((shape.batch, shape.heads, n, shape.features), np.float32)
    for start in range(0, n, BLOCK):
        part = out[:, :, start : start + BLOCK]
        drawn = rng.standard_normal((part.shape[2], shape.batch, shape.heads, shape.features), dtype=np.float32)
        part[...] = np.moveaxis(rounded(drawn, shape.dtype), 0, 2)
    return out


def tensors(names: str, n: int, shape: Shape = USUAL) -> list[Array]:
    """One :func:`tensor` for each letter of ``names``."""
    return [tensor(name, n, shape) for name in names]
