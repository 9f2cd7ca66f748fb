"""Names of dtypes, the same in every framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WIDE = ("float32", "float64", "complex64", "complex128")


def dtype_name(array: Any) -> str:
    """The name of an array's dtype."""
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")


def state_dtypes(arrays: Sequence[Any]) -> tuple[str, ...]:
    """The dtypes that states have in a call with such arrays: float32 or wider, beside complex numbers real ones too.

    Examples
    --------
    >>> import numpy as np
    >>> state_dtypes([np.zeros(2, np.float16)]), state_dtypes([np.zeros(2, np.complex128)])
    (('float32',), ('complex128', 'float64'))
    """
    names = {dtype_name(array) for array in arrays}
    double = not names.isdisjoint(("float64", "complex128"))
    real = "float64" if double else "float32"
    if not any(name.startswith("complex") for name in names):
        return (real,)
    return "complex128" if double else "complex64", real


def is_wide(arrays: Sequence[Any]) -> bool:
    """Whether all arrays have one dtype that sums may be taken in."""
    first = arrays[0]
    return all(array.dtype == first.dtype for array in arrays) and dtype_name(first) in WIDE
