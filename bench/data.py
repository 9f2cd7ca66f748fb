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


def tensor(name: str, n: int, shape: Shape = USUAL, *, definite: bool = False) -> Array:
    """Standard normal numbers.

    Parameters
    ----------
    name : {"q", "k", "v", "g"}
        Each has a stream of its own; g is the gradient that comes from above.
    n : int
        Tokens.
    shape : Shape
        Everything else.
    definite : bool
        Make k positive and every token of q of one sign, so that no product of q and k is near 0.

    Returns
    -------
    numpy.ndarray
        ``[batch, heads, n, d]``, or ``[batch, heads, n, e]`` of v and g; float32, rounded to the shape's dtype.
    """
    rng = np.random.default_rng([0, _STREAMS[name]])
    features = shape.size("d" if name in "qk" else "e")
    out = np.empty((shape.batch, shape.heads, n, features), np.float32)
    for start in range(0, n, BLOCK):
        part = out[:, :, start : start + BLOCK]
        drawn: Array = rng.standard_normal((part.shape[2], shape.batch, shape.heads, features), dtype=np.float32)
        if definite and name in "qk":
            drawn = np.abs(drawn) * (np.sign(drawn[..., :1]) if name == "q" else 1)
        part[...] = np.moveaxis(rounded(drawn, shape.dtype), 0, 2)
    return out


def tensors(names: str, n: int, shape: Shape = USUAL, *, definite: bool = False) -> list[Array]:
    """One :func:`tensor` for each letter of ``names``."""
    return [tensor(name, n, shape, definite=definite) for name in names]
