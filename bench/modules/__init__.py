"""Layers and models as a user would write them by hand, with this library's weights, and what races need of both.

A framework's module here is imported by its own process only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, Protocol

from ..data import Array

ATTENTION, CAUSAL = "attention layer", "causal attention layer"
CLASSIFIER, LANGUAGE = "classifier", "language model"
EMBED, HEADS, CHUNK = 512, 8, 64
"""Sizes of the layers, and of a chunk of those written by hand."""


class Kit(Protocol):
    """What races need of a framework; arrays are NumPy's, weights and gradients by the names of ours."""

    def ours(self, name: str) -> Any:
        """The library's layer or model of that name."""

    def by_hand(self, name: str, weights: Mapping[str, Array]) -> Any:
        """The hand-written one, with those weights."""

    def weights(self, model: Any) -> dict[str, Array]:
        """Of one of ours."""

    def native(self, x: Array) -> Any:
        """An array as the framework's."""

    def function(self, model: Any, mode: str) -> Callable[[Any], Any]:
        """The model without gradients, compiled as ``mode`` says; it waits for its result."""

    def gradients(self, model: Any, names: Mapping[str, tuple[int, ...]], x: Array, labels: Array) -> dict[str, Array]:
        """Of the mean cross-entropy, by all weights: their names and shapes."""

    def trainer(self, model: Any, mode: str) -> Callable[[Array, Array], Any]:
        """One step of ``dtn demo``'s training."""

    def stepper(self, model: Any, batch: int, mode: str) -> tuple[Callable[[Any, Any], tuple[Any, Any]], Any]:
        """``step(tokens[batch], state) -> (logits, state)``, and the state before any token."""


def place(name: str) -> tuple[tuple[str, ...], str]:
    """Where a hand-written model has what ours calls ``name``: the way to its layer, and ``weight`` or ``bias``.

    Examples
    --------
    >>> place("blocks.0.mlp.hidden_weight")
    (('blocks', '0', 'mlp', 'hidden'), 'weight')
    >>> place("patches.position")
    ((), 'position')
    """
    if name == "patches.position":
        return (), "position"
    *path, leaf = name.split(".")
    layer, _, kind = leaf.rpartition("_")
    return (*path, *([layer] if layer else [])), kind


def layer_at(model: Any, path: tuple[str, ...]) -> Any:
    """The layer at the end of a way of attributes and numbers."""
    return reduce(lambda at, part: at[int(part)] if part.isdigit() else getattr(at, part), path, model)
