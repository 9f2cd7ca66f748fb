"""States of streamed operators: named tuples of tensors, checked before they are used."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dtn_core.errors import ShapeError
from dtn_core.ir.nodes import Program
from dtn_core.passes.stream import Stream

from .dtypes import dtype_name, state_dtypes
from .python import ir_hash
from .shapes import broadcasts_to


@dataclass(frozen=True)
class Streamed:
    """How an operator streams.

    Attributes
    ----------
    axis : str
        The axis of the tokens.
    whole : str
        What needs the whole sequence, so that it may not come in pieces; nothing if it may.
    names : tuple[str, ...]
        The states.
    axes : tuple[tuple[str, ...], ...]
        The axes of each.
    kind : type
        The named tuple that holds them, a pytree in every framework; its ``_operator`` is the operator's hash.
    """

    axis: str
    whole: str
    names: tuple[str, ...]
    axes: tuple[tuple[str, ...], ...]
    kind: Any

    @property
    def resumable(self) -> bool:
        """Whether a sequence may come in pieces."""
        return not self.whole


def streamed(operator: Program, stream: Stream) -> Streamed:
    """How ``operator`` streams, by the form it was lowered to."""
    names = tuple(state.name.removesuffix("_past") for state in stream.states)
    axes = tuple(state.axes for state in stream.states)
    return Streamed(stream.axis, stream.whole, names, axes, _kind(operator.name, names, ir_hash(operator)))


@lru_cache(maxsize=1024)
def _kind(operator: str, names: tuple[str, ...], hashed: str) -> Any:
    kind = namedtuple(f"{operator}_state", names, rename=True)  # type: ignore[misc]

    def reduced(state: Any) -> tuple[Any, ...]:
        return restored, (operator, names, hashed, tuple(state))

    for name, value in {"_operator": hashed, "__reduce__": reduced}.items():  # no fields: rename sees to it
        setattr(kind, name, value)
    return kind


def restored(operator: str, names: tuple[str, ...], hashed: str, state: tuple[Any, ...]) -> Any:
    """A state from its pickle."""
    return _kind(operator, names, hashed)(*state)


def check_state(
    operator: str,
    streamed: Streamed,
    given: Any,
    sizes: Mapping[str, Any] | None,
    leading: Sequence[Any] | None,
    arrays: Sequence[Any],
) -> None:
    """Refuse a state that is not this operator's.

    Parameters
    ----------
    operator : str
        Its name.
    streamed : Streamed
        How it streams.
    given
        The state.
    sizes, leading
        The sizes of the axes, and the leading axes of tensors and scalars; None where they may not be looked at.
    arrays
        The tensors of the call, whose dtypes a state goes with.

    Raises
    ------
    TypeError
        Not a tuple of as many tensors as the operator has states, of another operator, or of another dtype.
    ShapeError
        A tensor of another shape; names the state and both shapes.
    """
    names, kind = list(streamed.names), given.__class__.__name__  # a checkpoint of TensorFlow's wraps tuples
    own = streamed.kind._operator
    if isinstance(given, tuple) and (
        kind not in ("tuple", streamed.kind.__name__) or getattr(given, "_operator", own) != own
    ):
        other = (
            "" if kind != streamed.kind.__name__ else f" with other knobs: {', '.join(getattr(given, '_fields', ()))}"
        )
        raise TypeError(f"{operator}: initial_state is a {kind}, the state of another operator{other}")
    if not isinstance(given, tuple) or len(given) != len(names):
        count = f" of {len(given)}" if isinstance(given, tuple) else ""
        raise TypeError(f"{operator}: initial_state is a {kind}{count}, expected {len(names)} tensors: {names}")
    dtypes = state_dtypes(arrays)
    for name, axes, tensor in zip(names, streamed.axes, given, strict=True):
        if not hasattr(tensor, "shape"):
            raise TypeError(f"{operator}: state {name} is a {type(tensor).__name__}, expected a tensor")
        if dtype_name(tensor) not in dtypes:
            got, wanted = dtype_name(tensor), " or ".join(dtypes)
            raise TypeError(f"{operator}: state {name} has dtype {got}, expected {wanted} for these tensors")
        if sizes is None or leading is None:
            continue
        expected = tuple(sizes[axis] for axis in axes)
        shape = tuple(tensor.shape)
        places = len(shape) - len(expected)
        wrong = places < 0 or any(None not in (a, b) and a != b for a, b in zip(shape[places:], expected, strict=True))
        if wrong or not broadcasts_to(shape[:places], leading):
            wanted = ", ".join(map(str, (*(leading or ["..."]), *expected)))
            raise ShapeError(
                f"{operator}: state {name} has shape {shape}, expected [{wanted}] ({', '.join(('...', *axes))})"
            )
