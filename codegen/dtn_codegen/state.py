"""States of streamed operators: named tuples of tensors, checked before they are used."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from dtn_core.errors import ShapeError
from dtn_core.passes.stream import State


@lru_cache(maxsize=1024)
def state_type(operator: str, fields: tuple[str, ...]) -> Any:
    """The named tuple that holds the states of an operator; a pytree in every framework."""
    return namedtuple(f"{operator}_state", fields, rename=True)


def check_state(operator: str, states: Sequence[State], given: Any, sizes: Mapping[str, Any]) -> None:
    """Refuse a state that is not this operator's.

    Raises
    ------
    TypeError
        Not a tuple of as many tensors as the operator has states, or of another operator.
    ShapeError
        A tensor of another shape; names the state and both shapes.
    """
    if given is None:
        return
    names = [state.name.removesuffix("_past") for state in states]
    kind = type(given).__name__
    if not isinstance(given, tuple) or len(given) != len(states):
        count = f" of {len(given)}" if isinstance(given, tuple) else ""
        raise TypeError(f"{operator}: initial_state is a {kind}{count}, expected {len(states)} tensors: {names}")
    if hasattr(given, "_fields") and kind != f"{operator}_state":
        raise TypeError(f"{operator}: initial_state is a {kind}, the state of another operator")
    for state, name, tensor in zip(states, names, given, strict=True):
        expected = tuple(sizes[axis] for axis in state.axes)
        shape = tuple(tensor.shape)
        core = shape[len(shape) - len(expected) :]
        if len(shape) < len(expected) or any(
            None not in (a, b) and a != b for a, b in zip(core, expected, strict=True)
        ):
            wanted = ", ".join(map(str, ("...", *expected)))
            raise ShapeError(
                f"{operator}: state {name} has shape {shape}, expected [{wanted}] ({', '.join(state.axes)})"
            )
