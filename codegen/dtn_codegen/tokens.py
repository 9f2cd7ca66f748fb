"""An operator along its tokens: where they are, whether it is computed in chunks, which states it hands on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dtn_core.operators import Operator
from dtn_core.passes.pipeline import candidates

from .shapes import axes_of
from .state import Streamed, streamed

if TYPE_CHECKING:
    from .function import Function


class Tokens:
    """The tokens of one operator.

    Parameters
    ----------
    operator : Operator
    layout : {"... n d", "... n h d"}

    Attributes
    ----------
    streamed : Streamed or None
        How real tensors stream; None if they do not.
    every_place : list of tuple of int
        Every place of the tokens' axis in each tensor, counted from the end.
    places, result_places : list of int
        The first of them, in each tensor and output; 0 where there are no tokens.
    """

    def __init__(self, operator: Operator, layout: str) -> None:
        self.operator = operator
        self.layout = layout
        self._streams: dict[bool, Streamed | None] = {}
        self._why_whole = candidates(operator.program)[0].dense_reasons.get("order", "nothing in it is ordered")
        self.streamed = self.streams(complex_input=False)
        self.every_place = [self._places(param.axes) for param in operator.program.tensors]
        self.places = [next(iter(places), 0) for places in self.every_place]
        self.result_places = [next(iter(self._places(output.axes)), 0) for output in operator.program.outputs]

    def streams(self, *, complex_input: bool) -> Streamed | None:
        """How the operator streams; None if it does not."""
        if complex_input not in self._streams:
            program = self.operator.program
            chunked = candidates(program, complex_input)[0].chunked
            self._streams[complex_input] = None if chunked is None else streamed(program, chunked.stream)
        return self._streams[complex_input]

    def check_options(self, resuming: bool, chunk_size: Any) -> None:
        """Refuse a chunk size that is none, and options of another kind of operator."""
        if chunk_size is not None and (
            isinstance(chunk_size, bool) or not isinstance(chunk_size, int | np.integer) or chunk_size < 1
        ):
            raise ValueError(f"{self.operator.name}: chunk_size={chunk_size!r} is not an integer >= 1")
        if resuming or chunk_size is not None:
            self.check_streams(resuming)

    def check_streams(self, resuming: bool) -> None:
        """Refuse what only an operator that is computed in chunks has: a chunk size, a state if ``resuming``."""
        name = self.operator.name
        if self.streamed is None:
            what = "has no state" if resuming else "is not computed in chunks"
            raise ValueError(f"{name} {what}: {self._why_whole}")
        if resuming and not self.streamed.resumable:
            why = f"it needs the whole sequence at once: {self.streamed.whole}"
            raise ValueError(f"{name}: there is no state to hand on, {why}")

    def with_one(self, arrays: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The shapes of tensors without the tokens' axis, if they had it for one token."""
        shapes = []
        for array, places in zip(arrays, self.every_place, strict=True):
            shape = list(array.shape)
            for place in reversed(places):
                shape.insert(len(shape) + place + 1, 1)
            shapes.append(tuple(shape))
        return shapes

    def _places(self, axes: tuple[str, ...]) -> tuple[int, ...]:
        """Every place of the streamed axis in a tensor over ``axes``, counted from the end."""
        full = axes_of(self.operator.program, axes, self.layout)
        axis = self.streamed and self.streamed.axis
        return tuple(place - len(full) for place, each in enumerate(full) if each == axis)


def initial_state(function: Function, tensors: Sequence[Any], scalars: dict[str, Any]) -> Any:
    """The state after none of the tokens of ``tensors``."""
    none = list(tensors)
    for number, places in enumerate(function.tokens.every_place):
        for place in places:
            none[number] = none[number][(..., slice(0, 0), *[slice(None)] * (-place - 1))]
    return function(*none, return_state=True, **scalars)[1]


def step(function: Function, state: Any, tensors: Sequence[Any], scalars: dict[str, Any]) -> tuple[Any, Any]:
    """The outputs at one token, whose tensors have no tokens' axis, and the state after it."""
    arrays = function.arrays
    one = list(tensors)
    for number, places in enumerate(function.tokens.every_place):
        for place in reversed(places):
            one[number] = arrays.expand(one[number], place)
    result, state = function(*one, initial_state=state, return_state=True, **scalars)
    outputs = result if isinstance(result, tuple) else (result,)
    pairs = zip(outputs, function.tokens.result_places, strict=True)
    last = tuple(arrays.squeeze(y, place) if place else y for y, place in pairs)
    return (last[0] if len(last) == 1 else last), state
