"""Names of dtypes, the same in every framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WIDE = ("float32", "float64", "complex64", "complex128")


def dtype_name(array: Any) -> str:
    """The name of an array's dtype."""
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")


def is_wide(arrays: Sequence[Any]) -> bool:
    """Whether all arrays have one dtype that sums may be taken in."""
    first = arrays[0]
    return all(array.dtype == first.dtype for array in arrays) and dtype_name(first) in WIDE
