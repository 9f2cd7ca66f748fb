"""Checks of hyperparameters; every error names the argument, what was got and what is expected."""

from __future__ import annotations

import math
import operator
from typing import Any


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
