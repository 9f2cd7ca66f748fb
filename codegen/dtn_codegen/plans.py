"""How calls are computed, remembered by what decides it: repeated shapes cost one look-up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

MAX_REMEMBERED = 4096


class Plan(NamedTuple):
    """How a call is computed: generated source, the options it is called with, the type of states to return."""

    generated: Callable[..., Any]
    options: dict[str, Any]
    state: Any


class Plans:
    """What was found for the calls of one operator.

    Parameters
    ----------
    scalars : iterable of str
        The arguments that calls may give by name without their order mattering.
    tracing : callable
        Whether shapes may be symbolic just now, and must not be remembered.
    """

    def __init__(self, scalars: Iterable[str], tracing: Callable[[], bool]) -> None:
        self.scalars = frozenset(scalars)
        self.tracing = tracing
        self.found: dict[Any, Any] = {}

    def recall(self, tensors: Sequence[Any], named: Mapping[str, Any], *options: Any) -> tuple[Any, Any]:
        """The key of a call and what is remembered of such calls; None where there is none.

        ``options`` are those of :func:`key_of`.
        """
        if self.tracing() or not named.keys() <= self.scalars:
            return None, None
        try:
            key = key_of(tensors, named, *options)
            return key, self.found.get(key)
        except (AttributeError, TypeError, ValueError):  # not tensors, said later, or sizes that are not known
            return None, None

    def remember(self, key: Any, found: Any) -> None:
        """Keep what was found for calls of a key, if they have one."""
        if key is not None:
            remember(self.found, key, found)


def remember(table: dict[Any, Any], key: Any, found: Any, limit: int = MAX_REMEMBERED) -> None:
    """Keep what was found for a key; a table of ``limit`` entries begins anew."""
    if len(table) >= limit:
        table.clear()
    table[key] = found


def key_of(
    tensors: Sequence[Any],
    named: Mapping[str, Any],
    padding_mask: Any = None,
    initial_state: Any = None,
    return_state: bool = False,
    chunk_size: Any = None,
) -> Any:
    """What of a call decides how it is computed: shapes and dtypes, and which options are given."""
    key: Any = tuple([(tensor.shape, tensor.dtype) for tensor in tensors])
    if named:
        scalars = [
            (name, getattr(value, "shape", None), getattr(value, "dtype", None)) for name, value in named.items()
        ]
        key = key, tuple(scalars)
    if padding_mask is None and initial_state is None and not return_state and chunk_size is None:
        return key
    mask = None if padding_mask is None else (padding_mask.shape, padding_mask.dtype)
    state = None if initial_state is None else tuple([(x.shape, x.dtype) for x in initial_state])
    return key, mask, type(initial_state), state, bool(return_state), type(chunk_size), chunk_size
