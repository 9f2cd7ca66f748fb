"""What a backend brings to be held to the matrix: one class, which says how its framework does each thing.

A backend package has it as ``ADAPTER`` in its module ``conformance`` (``dtn_torch.conformance.ADAPTER``), or in the
module that ``dtn conform --backend-module`` names.  Arrays are the framework's own between :meth:`Adapter.array` and
:meth:`Adapter.numpy`; everything that is compared is NumPy.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from ..operators import Operator
from .cells import DRAWN, DTYPES, Cell
from .sizes import CHUNK

Array = Any
"""A framework's own array."""

Native = Callable[..., tuple[Array, ...]]
"""A function of arrays, without side effects."""


class GapError(Exception):
    """Raised by an adapter or what it compiled: the cell could be checked, and is not yet; the message says why."""


class Computed(Protocol):
    """An operator in one of the forms of the matrix."""

    @property
    def source(self) -> str:
        """The text that is shown on the matrix's page; what was generated, if something was."""

    def __call__(self, *tensors: Array, padding_mask: Array | None = None) -> tuple[Array, ...]:
        """The outputs, a tuple even of one; tensors ``[..., *axes]``, the mask ``[..., n]`` and True at real tokens."""

    def resumed(self, tensors: Sequence[Array], at: int) -> tuple[Array, ...]:
        """The outputs of the first ``at`` tokens, then those of the rest from the state that they leave, joined."""


class Adapter(ABC):
    """One framework.

    Parameters
    ----------
    device : str
        ``"cpu"`` or ``"cuda"``.

    Attributes
    ----------
    name : str
        The backend's name in the matrix.
    dtypes : tuple of str
        What its arrays can hold, of :data:`dtn_core.conform.cells.DTYPES`.
    lacks : Mapping[str, str]
        Forms, modes, checks and dtypes that the framework does not have, each with the reason of its skipped cells.
    drawn : Mapping[str, int]
        How many operators run in each combination of the other axes, for modes in which compiling takes long.
    chunk : int
        Tokens of a chunk in the form that has some; sequences are two of them and a part.
    also : Mapping[str, tuple of str]
        Dtypes in which a check is made in eager mode besides those of every backend, for one that lacks those.
    """

    name: ClassVar[str]
    dtypes: ClassVar[tuple[str, ...]] = DTYPES
    lacks: ClassVar[Mapping[str, str]] = {}
    drawn: ClassVar[Mapping[str, int]] = DRAWN
    chunk: ClassVar[int] = CHUNK
    also: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    # ------------------------------------------------------------------ arrays

    @abstractmethod
    def array(self, x: np.ndarray, dtype: str | None = None) -> Array:
        """A NumPy array as a native one; booleans stay what they are when ``dtype`` is None."""

    @abstractmethod
    def numpy(self, x: Array) -> np.ndarray:
        """A native array in NumPy; 16-bit ones as float32."""

    @abstractmethod
    def einsum(self, spec: str, *arrays: Array) -> Array:
        """The framework's own einsum in the dtype of its arguments: what the library may not be worse than."""

    # --------------------------------------------------------------- operators

    @abstractmethod
    def compile(self, operator: Operator, form: str, layout: str) -> Computed:
        """The operator in a form of the matrix.

        Raises
        ------
        NotImplementedError
            If it cannot be; the message is the reason of a skipped cell.
        GapError
            If it is not yet.
        """

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """Names and versions of the packages that compute."""

    # ------------------------------------------------------ modes, derivatives

    def transform(self, mode: str, function: Native, example: Sequence[Array]) -> Native:
        """``function`` in a mode other than eager, for arrays like ``example``."""
        raise NotImplementedError(f"{self.name} has no {mode}")

    def gradient(self, mode: str, function: Native, weights: Sequence[np.ndarray], example: Sequence[Array]) -> Native:
        """The gradient ``∂L/∂Re + i ∂L/∂Im`` of ``L = Re Σ conj(weights) function(...)``, by every array."""
        raise NotImplementedError(f"{self.name} does not differentiate")

    def second(
        self,
        mode: str,
        function: Native,
        weights: Sequence[np.ndarray],
        directions: Sequence[np.ndarray],
        example: Sequence[Array],
    ) -> Native:
        """The gradient of ``Σ <∂L, directions>``, by every array (real ones)."""
        raise NotImplementedError(f"{self.name} does not differentiate twice")

    # ---------------------------------------------------------------- sessions

    def missing_device(self) -> str:
        """Why nothing can run on ``device`` here, the reason of skipped cells; empty if it can."""
        return "" if self.device == "cpu" else f"{self.name} computes on the processor only"

    def session(self) -> contextlib.AbstractContextManager[Any]:
        """What all cells run in: double precision enabled, TF32 and fast-math off."""
        return contextlib.nullcontext()

    def reset(self) -> None:  # noqa: B027 - optional
        """Between operators: let go what was compiled."""

    def declared(self, cell: Cell) -> tuple[str, str] | None:
        """A status (xfail, skip or gap) and its reason, where the outcome is known to be no fault of the backend.

        An xfail's reason holds a link. The cell is run all the same, and stays a pass where it passes.
        """
        return None

    def why_not(self, cell: Cell) -> str:
        """Why the framework lacks what a cell needs; empty if it does not."""
        if cell.dtype not in self.dtypes:
            return self.lacks.get(cell.dtype, f"{self.name} has no {cell.dtype}")
        wanted = (cell.form, cell.mode, cell.check)
        return next((self.lacks[name] for name in wanted if name in self.lacks), "")
