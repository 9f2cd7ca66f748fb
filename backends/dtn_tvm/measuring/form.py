"""What JSON from elsewhere has to look like, and where it does not."""

from __future__ import annotations

from typing import Any

NONE = type(None)


def fault(found: Any, form: Any, name: str) -> str:
    """What is wrong with a value; empty where nothing is.

    Parameters
    ----------
    found : object
        As ``json.loads`` gives it.
    form : dict, list, type or tuple of types
        A dict: an object with these parts at least; a list of one form: a list of one such value at least.
    name : str
        What the value is called in the answer.

    Examples
    --------
    >>> fault({"a": [1, "2"], "b": None}, {"a": [int]}, "it")
    'it.a[1] is of type str, expected int'
    >>> fault({}, {"a": [int], "b": str}, "it")
    'it lacks a, b'
    """
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
