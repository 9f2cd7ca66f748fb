"""What JSON from elsewhere has to look like, and where it does not."""

from __future__ import annotations

import math
import reprlib
import sys
from dataclasses import dataclass
from typing import Any

NONE = type(None)


@dataclass(frozen=True)
class Number:
    """The form of a finite number.

    Attributes
    ----------
    least : float
        It is not below.
    is_above : bool
        Whether it is not ``least`` either.
    is_whole : bool
        Whether it is an integer.
    """

    least: float = -math.inf
    is_above: bool = False
    is_whole: bool = False

    def __str__(self) -> str:
        kind = "an integer" if self.is_whole else "a finite number"
        if self.least == -math.inf:
            return kind
        return f"{kind} above {self.least:g}" if self.is_above else f"{kind} from {self.least:g} on"

    def fits(self, found: Any) -> bool:
        """Whether a value is such a number."""
        if isinstance(found, bool) or not isinstance(found, int if self.is_whole else (int, float)):
            return False
        return (self.least < found if self.is_above else self.least <= found) and found <= sys.float_info.max


POSITIVE = Number(0, is_above=True)


@dataclass(frozen=True)
class Each:
    """The form of an object whose parts are alike, whatever their names."""

    form: Any


def fault(found: Any, form: Any, name: str) -> str:
    """What is wrong with a value; empty where nothing is.

    Parameters
    ----------
    found : object
        As ``json.loads`` gives it.
    form : dict, Each, list, Number, type or tuple of types
        A dict: an object with these parts at least; a list of one form: a list of one such value at least.
    name : str
        What the value is called in the answer.

    Examples
    --------
    >>> fault({"a": [1, "2"], "b": None}, {"a": [int]}, "it")
    'it.a[1] is of type str, expected int'
    >>> fault({}, {"a": [int], "b": str}, "it")
    'it lacks a, b'
    >>> fault({"a": -1}, Each(Number(0)), "it")
    'it.a is -1, expected a finite number from 0 on'
    """
    if isinstance(form, Each):
        form = dict.fromkeys(found, form.form) if isinstance(found, dict) else dict
    if isinstance(form, Number):
        return "" if form.fits(found) else f"{name} is {reprlib.repr(found)}, expected {form}"
    if isinstance(form, dict):
        if not isinstance(found, dict):
            return _unlike(found, dict, name)
        missing = [part for part in form if part not in found]
        if missing:
            return f"{name} lacks {', '.join(missing)}"
        return next(filter(None, (fault(found[part], form[part], f"{name}.{part}") for part in form)), "")
    if isinstance(form, list):
        if not isinstance(found, list):
            return _unlike(found, list, name)
        parts = (fault(part, form[0], f"{name}[{place}]") for place, part in enumerate(found))
        return next(filter(None, parts), "") if found else f"{name} is empty"
    return "" if isinstance(found, form) else _unlike(found, form, name)


def _unlike(found: Any, form: Any, name: str) -> str:
    kinds = form if isinstance(form, tuple) else (form,)
    wanted = " or ".join("null" if kind is NONE else kind.__name__ for kind in kinds)
    return f"{name} is of type {type(found).__name__}, expected {wanted}"
