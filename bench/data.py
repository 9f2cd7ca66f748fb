"""The numbers that every implementation is given, in every framework; a longer sequence begins like a shorter one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH, HEADS, FEATURES = 1, 8, 64
BLOCK = 4096
_STREAMS = {"q": 0, "k": 1, "v": 2, "g": 3}

Array = NDArray[Any]


def tensor(name: str, n: int) -> Array:
    """Standard normal numbers.

    Parameters
    ----------
    name : {"q", "k", "v", "g"}
        Each has a stream of its own; g is the gradient that comes from above.
    n : int
        Tokens.

    Returns
    -------
    numpy.ndarray
        ``[batch, heads, n, features]``, float32.
    """
    rng = np.random.default_rng([0, _STREAMS[name]])
    out = np.empty((BATCH, HEADS, n, FEATURES), np.float32)
    for start in range(0, n, BLOCK):
        part = out[:, :, start : start + BLOCK]
        drawn = rng.standard_normal((part.shape[2], BATCH, HEADS, FEATURES), dtype=np.float32)
        part[...] = np.moveaxis(drawn, 0, 2)
    return out


def tensors(names: str, n: int) -> list[Array]:
    """One :func:`tensor` for each letter of ``names``."""
    return [tensor(name, n) for name in names]
