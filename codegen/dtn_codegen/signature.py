"""What arguments an operator takes: tensors in order or by name, scalars by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dtn_core.errors import CompileError, ShapeError
from dtn_core.ir.functions import real_only
from dtn_core.ir.nodes import Program, Read
from dtn_core.operators import Operator
from dtn_core.operators.knobs import MAX_NUMBER, check_scalar
from dtn_core.passes.padding import MASK

from .python import masks_of
from .shapes import broadcasts, leading_axes

CALLS = {"self", "state", "padding_mask", "cu_seqlens", "initial_state", "return_state", "chunk_size"}
"""The arguments of calls and steps that are not the operator's."""

NUMBERS = (int, float, complex)
NUMPY_NUMBERS = (np.floating, np.integer, np.bool_)


def python_number(value: Any) -> Any:
    """A real number of NumPy as Python's; anything else as it is.

    Examples
    --------
    >>> python_number(np.float32(0.5)), python_number(np.int64(2)), python_number("a")
    (0.5, 2, 'a')
    """
    if not isinstance(value, NUMPY_NUMBERS):
        return value
    return float(value) if isinstance(value, np.floating) else value.item()


class Signature:
    """The arguments of an operator, and what is refused of them whatever the framework.

    Parameters
    ----------
    operator : Operator
        The definition, with some scalars bound.
    layout : {"... n d", "... n h d"}
        Where the head axis of tensors with a sequence axis is.
    """

    def __init__(self, operator: Operator, layout: str) -> None:
        if not operator.program.tensors:
            raise CompileError(f"{operator.name} takes no tensor; a compiled operator takes one at least")
        taken = CALLS & {param.name for param in operator.program.params}
        if taken:
            raise CompileError(
                f"{operator.name}: parameter {min(taken)} has the name of an argument of every call; choose another"
            )
        if any(statement.name == MASK for statement in operator.program.statements):
            raise CompileError(f"{operator.name}: {MASK} is an argument of every call; give the statement another name")
        self.name = operator.name
        self.program = operator.program
        self.layout = layout
        self.bound = operator.scalars
        self.knobs = frozenset(operator.knobs)
        self.tensors = tuple(param.name for param in self.program.tensors)
        self.scalars = tuple(param.name for param in self.program.scalars)
        self.decays = _decays(self.program)
        self.masks = masks_of(self.program)
        self.real_only = real_only(self.program)

    def bind(self, tensors: Sequence[Any], named: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The tensors in order, and the scalars by name.

        Raises
        ------
        TypeError
            A tensor that is missing, or an argument that there is not.
        """
        if not named and len(tensors) == len(self.tensors):
            return tuple(tensors), {}
        named = dict(named)
        found = list(tensors)
        if len(found) > len(self.tensors):
            raise TypeError(f"{self.name} takes {len(self.tensors)} tensors {self.tensors}, got {len(found)}")
        for name in self.tensors[len(found) :]:
            if name not in named:
                raise TypeError(f"{self.name}: tensor argument {name} is missing")
            found.append(named.pop(name))
        unexpected = [name for name in named if name not in self.scalars]
        if unexpected and unexpected[0] in self.tensors:
            raise TypeError(f"{self.name}: {unexpected[0]} is given twice, by its place and by name")
        if unexpected:
            known = ", ".join((*self.tensors, *self.scalars))
            raise TypeError(f"{self.name}: unexpected argument {unexpected[0]!r}; known: {known}")
        return tuple(found), named

    def scalar(self, name: str, named: Mapping[str, Any]) -> Any:
        """A scalar argument, or what it is bound to: a float, a complex number or a tensor.

        What a tensor holds is not looked at, unless it is a decay: that costs time, or waiting, at every call.

        Raises
        ------
        TypeError
            If it is missing, or neither a number nor a tensor.
        ValueError
            For a number that is outside the range of its knob, or no decay where one is expected.
        """
        value = named.get(name, self.bound.get(name))
        if value is None:
            raise TypeError(f"{self.name}: scalar argument {name} is missing")
        value = python_number(value)
        if not isinstance(value, NUMBERS):
            if not hasattr(value, "shape"):
                raise TypeError(f"{self.name}: {name} is a {type(value).__name__}, expected a number or a tensor")
            return value
        self.check_number(name, value)
        return value if isinstance(value, complex) else float(value)

    def check_number(self, name: str, value: complex) -> None:
        """Refuse a number that is outside the range of its knob, no decay where one is expected, or too large."""
        if name in self.knobs and not isinstance(value, complex):
            check_scalar(self.name, name, value)
        elif isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise ValueError(f"{self.name}: {name} is an integer beyond the largest float, {MAX_NUMBER:.1e}")
        if name in self.decays and not (isinstance(value, int | float) and 0 < value <= 1):
            raise ValueError(f"{self.name}: {name}={value!r} is outside (0, 1]")

    def check_scalar_shape(self, name: str, shape: tuple[Any, ...], shapes: Sequence[tuple[Any, ...]]) -> None:
        """Refuse a tensor of scalars that is not one per leading index of tensors of ``shapes``."""
        leading = self.leading(shapes)
        if not broadcasts(shape, leading):
            raise ShapeError(
                f"{self.name}: {name} has shape {shape} but the tensors' leading axes are {leading}; "
                "a scalar is a number or has one value per leading index"
            )

    def check_decays(self, name: str, values: np.ndarray | None) -> None:
        """Refuse decays outside (0, 1]; those that are not known yet are not."""
        if values is None:
            return
        each = values.ravel().tolist()  # few: quicker than four operations of NumPy
        if not all(not isinstance(value, complex) and 0 < value <= 1 for value in each):
            raise ValueError(f"{self.name}: {name}={values.tolist()} is outside (0, 1]")

    def check_complex_scalar(self, name: str, complex_input: bool) -> None:
        """Refuse a complex scalar beside real tensors, in whose dtype it has no place."""
        if not complex_input:
            raise TypeError(f"{self.name}: {name} is complex and the tensors are real; expected both real or complex")

    def check_complex(self) -> None:
        """Refuse complex input where the operator has a function of real numbers only."""
        if self.real_only:
            raise TypeError(f"{self.name}: {self.real_only[0]} is not defined for complex input")

    def leading(self, shapes: Sequence[tuple[Any, ...]], named: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        """The leading axes of tensors, those of ``shapes`` that come first, and of the ``named`` scalars."""
        scalars = self.scalar_shapes(named, shapes) if named else {}
        return leading_axes(self.program, shapes[: len(self.tensors)], self.layout, scalars)

    def scalar_shapes(self, named: Mapping[str, Any], shapes: Sequence[tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        """The shapes of the scalar arguments, ``()`` of a number, each held against tensors of ``shapes``."""
        found = {name: tuple(getattr(named.get(name), "shape", ())) for name in self.scalars}
        for name, shape in found.items():
            self.check_scalar_shape(name, shape, shapes)
        return found

    def typed(self, arrays: Sequence[Any]) -> tuple[list[str], list[Any]]:
        """Names and arrays of the tensors that are not masks."""
        pairs = [(n, a) for n, a in zip(self.tensors, arrays, strict=False) if n not in self.masks]
        return [name for name, _ in pairs], [array for _, array in pairs]


def _decays(program: Program) -> set[str]:
    return {
        relation.decay.tensor
        for statement in program.statements
        for relation in statement.order
        if isinstance(relation.decay, Read)
    }
