"""The knobs of the catalogue: their values, their meaning, and which of them clash."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from operator import index
from typing import Any


class Parameter:
    """Marks a scalar knob whose value arrives at every call (a learned scale, a decay per head)."""

    def __repr__(self) -> str:
        return "PARAMETER"


PARAMETER = Parameter()

Scalar = float | Parameter


@dataclass(frozen=True)
class KnobDoc:
    """One line of ``dtn ops``: the values a knob takes, its default and its meaning."""

    values: str
    default: Any
    meaning: str


KNOBS: dict[str, KnobDoc] = {
    "side": KnobDoc('"q", "k"', "q", "which input the operator is built from; side k is side q with q and k swapped"),
    "product": KnobDoc('"matmul", "hadamard"', "matmul", "T = A Aᴴ, or elementwise A ⊙ Aᴴ"),
    "order": KnobDoc("integer from 1 to 64", 2, "number of factors: A, A Aᴴ, A Aᴴ A, … (matmul only)"),
    "asymmetric": KnobDoc("bool", False, "A^order instead of the alternating product (matmul only)"),
    "scale": KnobDoc("float", 1.0, "factor of A = scale · Q Kᴴ"),
    "normalize": KnobDoc('"trace", "diag", "row", None', "trace", "what T is divided by"),
    "activation": KnobDoc(
        'None, "relu", "exp", "expm"', None, "function of the normalised T; expm is the matrix exponential"
    ),
    "mask": KnobDoc(
        'None, "tril", "causal"', None, "who sees whom; tril keeps T of the whole sequence, causal reads no later token"
    ),
    "residual": KnobDoc("float", 0.0, "adds residual · V (times tr T when normalize is None)"),
    "decay": KnobDoc("float in (0, 1]", None, "weight per token of distance (mask=causal only)"),
    "eps": KnobDoc("float >= 0", 0.0, "added to every denominator; a denominator of exactly 0 gives output 0"),
}

MAX_ORDER = 64
MAX_NUMBER = sys.float_info.max

CHOICES: dict[str, tuple[Any, ...]] = {
    "side": ("q", "k"),
    "product": ("matmul", "hadamard"),
    "normalize": ("trace", "diag", "row", None),
    "activation": (None, "relu", "exp", "expm"),
    "mask": (None, "tril", "causal"),
}
"""The values of the knobs that have a few."""

INTERACTION_MASKS: tuple[str | None, ...] = (None, "causal")
"""The masks of an operator that mixes channels: it has no matrix over tokens to take the triangle of."""


def check(operator: str, knobs: Mapping[str, Any], masks: tuple[str | None, ...] = CHOICES["mask"]) -> None:
    """Refuse values and combinations that make no sense.

    Raises
    ------
    ValueError
        Names the knob, what was got and what is expected, or the two knobs that clash.
    """

    def refuse(message: str) -> None:
        raise ValueError(f"{operator}: {message}")

    for name, choices in CHOICES.items():
        allowed = masks if name == "mask" else choices
        value = knobs.get(name, allowed[0])
        if not isinstance(value, str | None) or value not in allowed:  # an array has no truth
            refuse(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")
    order = check_order(operator, knobs.get("order", 2))
    if not isinstance(knobs.get("asymmetric", False), bool):
        refuse(f"asymmetric={knobs['asymmetric']!r} is not a bool")
    for name in ("scale", "residual", "eps", "decay"):
        if name in knobs:
            check_scalar(operator, name, knobs[name])
    if knobs.get("product") == "hadamard" and order != 2:
        refuse(f"product='hadamard' clashes with order={order}: the elementwise product is of order 2")
    if knobs.get("product") == "hadamard" and knobs.get("asymmetric"):
        refuse("product='hadamard' clashes with asymmetric=True: A ⊙ Aᴴ has no asymmetric form")
    if knobs.get("decay") is not None and knobs.get("mask") != "causal":
        refuse(f"decay clashes with mask={knobs.get('mask')!r}: decay needs mask='causal'")
    if knobs.get("normalize") is None and knobs.get("eps", 0.0) != 0.0:
        refuse("eps clashes with normalize=None: there is no denominator to add it to")


def check_order(operator: str, order: Any) -> int:
    """The order as Python's integer, whatever integer it is.

    Raises
    ------
    ValueError
        For what is no integer, or one outside 1 to 64.
    """
    try:
        found = 0 if _is_bool(order) else index(order)
    except TypeError:
        found = 0
    if found < 1:
        raise ValueError(f"{operator}: order={_shown(order)} is not an integer >= 1")
    if found > MAX_ORDER:
        raise ValueError(f"{operator}: order={_shown(order)} is above {MAX_ORDER}, the largest that is compiled")
    return found


def check_scalar(operator: str, name: str, value: Any) -> None:
    """Refuse a scalar knob that is not a number in its range.

    Raises
    ------
    ValueError
        Names the knob, what was got and what is expected.
    """
    if type(value) is not float:  # a call is checked each time, and most are given floats
        if (value is None and name == "decay") or isinstance(value, Parameter):
            return
        if not isinstance(value, int) and isinstance(value, Real) and hasattr(value, "dtype"):
            value = float(value)  # a number of NumPy
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{operator}: {name}={value!r} is not a finite number")
    if not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise ValueError(f"{operator}: {name}={_shown(value)} is not a finite number")
    if name == "eps" and value < 0:
        raise ValueError(f"{operator}: eps={value!r} is negative")
    if name == "decay" and not 0 < value <= 1:
        raise ValueError(f"{operator}: decay={value!r} is outside (0, 1]")


def _is_bool(value: Any) -> bool:
    """Whether a value is a truth value, also one of a framework, which may be an index too."""
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def _shown(value: Any) -> str:
    """A value as it is written, but for an integer that takes lines, or that Python refuses to write."""
    large = isinstance(value, int) and abs(value) > MAX_NUMBER
    return f"<an integer of {value.bit_length()} bits>" if large else repr(value)
