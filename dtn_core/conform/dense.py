"""The yardstick: the operator as written, by the framework's plain einsum, every value stored in one dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from ..interpret import Array, Interpreter
from ..ir.nodes import Program

REAL = {"complex64": "float32", "complex128": "float64"}

Einsum = Callable[[str, Sequence[np.ndarray]], np.ndarray]
"""``einsum(spec, arrays)``: NumPy in and out, computed by a framework in the dtype in question."""


def rounded(x: Any, dtype: str) -> Array:
    """``x`` rounded to a dtype, as float64 or complex128.

    Examples
    --------
    >>> rounded(1 / 3, "bfloat16")
    array(0.33398438)
    """
    x = np.asarray(x)
    if x.dtype.kind != "c":
        dtype = REAL.get(dtype, dtype)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    with np.errstate(all="ignore"):
        return np.asarray(x.astype(kind).astype(np.complex128 if x.dtype.kind == "c" else np.float64))


class Dense(Interpreter):
    """The dense interpreter, in a framework's own arithmetic of one dtype.

    Sums of products go through the framework's einsum, two operands at a time and in the order they are written;
    pointwise functions and sums of terms are exact but for the rounding of what is stored.  Nothing is rewritten,
    re-associated or widened.

    Parameters
    ----------
    program : Program
        The operator.
    einsum : callable
        The framework's.
    dtype : str
        What every value is stored in.
    """

    def __init__(self, program: Program, einsum: Einsum, dtype: str) -> None:
        super().__init__(program)
        self.einsum = einsum
        self.dtype = dtype

    def rounded(self, x: Array) -> Array:
        """``x`` in the dtype."""
        return rounded(x, self.dtype)

    def contract(self, operands: Sequence[tuple[Array, tuple[int, ...]]], out: tuple[int, ...]) -> Array:
        """Left to right, orders where both of their indices are there; a label is summed when nothing after has it."""
        value, labels = operands[0]
        rest = list(operands[1:])
        while rest:
            inside = (place for place, (_, others) in enumerate(rest) if set(others) <= set(labels))
            other, others = rest.pop(next(inside, 0))
            later = {label for _, each in rest for label in each}.union(out)
            kept = tuple(label for label in dict.fromkeys((*labels, *others)) if label in later)
            value, labels = self.pair([(value, labels), (other, others)], kept), kept
        return value if labels == out else self.pair([(value, labels)], out)

    def pair(self, operands: Sequence[tuple[Array, tuple[int, ...]]], out: tuple[int, ...]) -> Array:
        """One einsum; letters in order of appearance, so that equal ones are compiled once."""
        letters: dict[int, str] = {}
        for _, labels in operands:
            for label in labels:
                letters.setdefault(label, chr(ord("a") + len(letters)))
        spec = [f"...{''.join(letters[label] for label in labels)}" for _, labels in operands]
        text = f"{','.join(spec)}->...{''.join(letters[label] for label in out)}"
        return self.rounded(self.einsum(text, [self.rounded(array) for array, _ in operands]))
