"""Implementations besides generated source, found through the entry points ``dtn.implementations``.

One makes kernels of an operator; the framework packages give those their arrays and register the derivative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from dtn_core.ir.nodes import Param, Program
from dtn_core.operators import Operator

GROUP = "dtn.implementations"
NATIVE = "native"


@dataclass(frozen=True)
class Variant:
    """What a call asks of kernels besides the operator itself.

    Attributes
    ----------
    padded : bool
        A padding mask is an argument, ``[n]`` of the tensors' dtype, 0 at padded tokens.
    resumed : bool
        States before the first token are arguments, after all others, and those after the last are results.
    chunk : int or None
        Tokens a chunk; None for as many as the schedule has.
    """

    padded: bool = False
    resumed: bool = False
    chunk: int | None = None


PLAIN = Variant()


class Kernels(Protocol):
    """An operator as kernels.

    Arrays are contiguous and of one device: tensors ``[batch, heads, *axes]`` of one dtype, with the layout
    ``"... n h d"`` those of two axes ``[batch, n, heads, d]``; scalars and states float32 ``[batch, heads, *axes]``.
    There is at least one token.
    """

    program: Program
    """The definition, with the padding mask where the variant has one."""

    inputs: tuple[Param, ...]
    """The operator's parameters, in its order, and what the variant adds to them."""

    outputs: tuple[Param, ...]

    states: frozenset[str]
    """Those of the inputs and outputs that are states."""

    gradients: tuple[str, ...]
    """The tensors and states that the gradient is by."""

    def why_no_gradient(self, sizes: Mapping[str, int], dtype: str, device: str) -> str:
        """Why a device has no kernel of the gradient at these sizes; empty where it has one."""

    def variant(self, variant: Variant) -> Kernels:
        """The same operator for other calls.

        Raises
        ------
        ValueError
            If there are no such kernels, saying why.
        """

    def check(self, dtype: str) -> None:
        """Raise ValueError for a dtype that there is no kernel for."""

    def function(self, direction: str, sizes: Mapping[str, int], dtype: str, device: str) -> Any:
        """The compiled function of ``"forward"`` or ``"backward"``, called with inputs, then outputs."""

    def forward(
        self, sizes: Mapping[str, int], dtype: str, device: str, inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        """Compute ``outputs``, in place.

        Parameters
        ----------
        sizes : Mapping[str, int]
            Of every axis, ``"batch"`` and ``"heads"``.
        dtype : str
            Of the tensors.
        device : str
            ``"cpu"``, or the name that a card's driver gives it.
        inputs, outputs : sequence
            Arrays that speak DLPack.
        """

    def backward(
        self, sizes: Mapping[str, int], dtype: str, device: str, inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        """Compute the cotangents of ``gradients``: ``inputs`` are followed by a cotangent of every output."""

    def describe(self, sizes: Mapping[str, int], dtype: str) -> str:
        """The schedules that run at these sizes, and where they are from."""


class Implementation(Protocol):
    """A way to make kernels."""

    def kernels(self, operator: Operator, layout: str) -> Kernels:
        """The kernels of an operator.

        Raises
        ------
        ValueError
            If there are none, saying why.
        """


@lru_cache(maxsize=1)
def announced() -> dict[str, EntryPoint]:
    """The entry points of installed packages, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def names() -> tuple[str | None, ...]:
    """What ``implementation=`` may be."""
    return (None, NATIVE, *sorted(announced()))


def implementation(name: str) -> Implementation:
    """The implementation called ``name``.

    Raises
    ------
    ImportError
        If what it needs is not installed, saying how to install it.
    """
    return announced()[name].load()  # type: ignore[no-any-return]
