"""What the wrapper around generated source does with a framework's arrays itself."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

Array = Any
"""A framework's own array."""


class Arrays(Protocol):
    """A few operations on a framework's arrays, each differentiable there; places of axes count from the end."""

    def expand(self, x: Array, place: int) -> Array:
        """``x`` with an axis of size 1 that ends up at ``place``."""

    def squeeze(self, x: Array, place: int) -> Array:
        """``x`` without the axis of size 1 at ``place``."""

    def move(self, x: Array, place: int, to: int) -> Array:
        """``x`` with the axis at ``place`` moved to ``to``."""

    def take(self, x: Array, rows: np.ndarray, place: int) -> Array:
        """The entries ``rows[...]`` (integers) of the axis at ``place``, which the axes of ``rows`` replace."""

    def joined(self, pieces: list[Array], place: int) -> Array:
        """``pieces`` one after another along the axis at ``place``."""

    def merged(self, x: Array, place: int) -> Array:
        """``x`` with the axis at ``place`` and the one before it as one."""

    def constant(self, values: np.ndarray, like: Array) -> Array:
        """``values`` as an array where ``like`` is."""

    def numbers(self, x: Array, *, wait: bool) -> np.ndarray | None:
        """What an array holds; None while it is traced.

        ``wait`` says whether to wait for an accelerator, where it may still be computed; otherwise that gives None too.
        """
