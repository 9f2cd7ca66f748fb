"""What a call should give, by the dense interpreter, and how far a plain dense evaluation is from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import DtnError
from ..interpret import interpret
from ..ir.axes import sequence_axes
from ..ir.nodes import Apply, MatrixFunction, Param, Program, reads, subexpressions
from ..passes.differentiate import differentiate
from .bounds import EPSILON, OWN, RULES, Errors, errors
from .dense import Dense, Einsum
from .operators import Case

STENCIL = ((1, 3 / 4), (2, -3 / 20), (3, 1 / 60))
"""Central differences that are exact for polynomials of degree 6."""

CHANGE = 2.0**-40
"""Relative change of arguments by which the oracle's sensitivity is measured."""

ORDERS = tuple((roll, flip) for roll in (0, 1, 2) for flip in (1, -1))
"""How features are rolled and turned around for the yardstick: how sums round is luck, and differs between machines."""

Values = tuple[np.ndarray, ...]


class OracleError(DtnError):
    """The oracle disagrees with itself: its gradient program with differences of its values."""


class Reference:
    """The oracle of one operator.

    Parameters
    ----------
    case : Case
        The operator.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.program = case.operator.program
        self.scalars: dict[str, Any] = dict(case.operator.scalars)

    def value(self, *tensors: np.ndarray) -> Values:
        """The outputs."""
        return outputs(interpret(self.program, *tensors, **self.scalars))

    def undivided(self, *tensors: np.ndarray) -> float:
        """The largest element of an output times that of every divisor: what linear forms reach, which divide last."""
        shown = [param.name for param in self.program.outputs]
        divisors = divisors_of(self.program)
        more = [Param(name, axes) for name, axes in divisors.items() if name not in shown]
        program = replace(self.program, outputs=(*self.program.outputs, *more))
        found = outputs(interpret(program, *tensors, **self.scalars))
        sizes = [float(np.max(np.abs(x), initial=0.0)) for x in found]
        largest = dict(zip([param.name for param in program.outputs], sizes, strict=True))
        return float(np.prod([max(largest[name] for name in shown), *(largest[name] for name in divisors)]))

    def gradient(self, tensors: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> Values:
        """The gradient of ``Re Σ conj(weights) outputs`` by every tensor."""
        return outputs(interpret(gradient_program(self.program), **self._named(tensors, weights)))

    def check_rules(self, tensors: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> None:
        """Hold the gradient program to differences of the values.

        Raises
        ------
        OracleError
            If it is not what they say.
        """
        found = self.gradient(tensors, weights)
        rng = np.random.default_rng(7)
        directions = [_like(rng, x) for x in tensors]

        def loss(step: float) -> float:
            values = self.value(*(x + step * d for x, d in zip(tensors, directions, strict=True)))
            return sum(_inner(c, y) for c, y in zip(weights, values, strict=True))

        pairs = list(zip(found, directions, strict=True))
        lengths = sum(float(np.linalg.norm(g)) * float(np.linalg.norm(d)) for g, d in pairs)
        apart = abs(sum(_inner(g, d) for g, d in pairs) - float(along(loss)))
        if not apart <= RULES * lengths + 1e-9 * (1 + abs(loss(0.0))):
            raise OracleError(
                f"{self.case.text}: the gradient program is off by {apart:.1e} from differences, at {lengths:.1e}"
            )

    def second(
        self, tensors: Sequence[np.ndarray], weights: Sequence[np.ndarray], directions: Sequence[np.ndarray]
    ) -> Values:
        """The Hessian of the same sum times the directions, by differences of the gradient program."""

        def gradient(step: float) -> np.ndarray:
            moved = [x + step * d for x, d in zip(tensors, directions, strict=True)]
            return np.concatenate([x.ravel() for x in self.gradient(moved, weights)])

        flat = along(gradient, 1e-6)  # short, so as not to step over the kink of a relu
        places = np.cumsum([x.size for x in tensors])[:-1]
        return tuple(part.reshape(x.shape) for part, x in zip(np.split(flat, places), tensors, strict=True))

    def dense_values(self, tensors: Sequence[np.ndarray], einsum: Einsum, dtype: str) -> Iterator[Values]:
        """The outputs by a plain einsum in ``dtype``, with the features in each of ``ORDERS``."""
        for order in ORDERS:
            given = self._ordered(tensors, self.program.tensors, order)
            found = outputs(Dense(self.program, einsum, dtype).evaluate(given, self.scalars))
            yield self._ordered(found, self.program.outputs, order, back=True)

    def dense_gradients(
        self, tensors: Sequence[np.ndarray], weights: Sequence[np.ndarray], einsum: Einsum, dtype: str
    ) -> Iterator[Values]:
        """The gradients by a plain einsum in ``dtype``, with the features in each of ``ORDERS``."""
        program = gradient_program(self.program)
        for order in ORDERS:
            given = self._ordered(tensors, self.program.tensors, order)
            along = self._ordered(weights, self.program.outputs, order)
            found = outputs(Dense(program, einsum, dtype).evaluate((), self._named(given, along)))
            yield self._ordered(found, self.program.tensors, order, back=True)

    def _ordered(
        self, arrays: Sequence[np.ndarray], params: Sequence[Param], order: tuple[int, int], *, back: bool = False
    ) -> Values:
        """Arrays with their features in another order, or ``back``: an operator does not know which is first."""
        kept = {i.axis for s in self.program.statements for r in s.order for i in (r.lower, r.upper)}
        kept |= set(sequence_axes(self.program))
        found = []
        for given, param in zip(arrays, params, strict=True):
            x = given
            for place, axis in enumerate(param.axes, -len(param.axes)):
                if axis not in kept:
                    places = np.roll(np.arange(x.shape[place])[:: order[1]], order[0])
                    x = np.take(x, np.argsort(places) if back else places, place)
            found.append(x)
        return tuple(found)

    def _named(self, tensors: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> dict[str, Any]:
        """The arguments of the gradient program; its cotangents are its last parameters."""
        names = [param.name for param in self.program.tensors]
        cotangents = [param.name for param in gradient_program(self.program).params[-len(weights) :]]
        return dict(zip([*names, *cotangents], [*tensors, *weights], strict=True)) | self.scalars


@lru_cache(maxsize=256)
def gradient_program(program: Program) -> Program:
    """The gradient by every tensor."""
    return differentiate(program, [param.name for param in program.tensors])


def divisors_of(program: Program) -> dict[str, tuple[str, ...]]:
    """The tensors that something is divided by, with their axes."""
    defined = {statement.name: statement.axes for statement in program.statements}
    parts = (part for statement in program.statements for part in subexpressions(statement.value))
    quotients = (part for part in parts if isinstance(part, Apply) and part.function == "recip")
    names = dict.fromkeys(read.tensor for quotient in quotients for read in reads(quotient))
    return {name: defined[name] for name in names if name in defined}


def outputs(value: Any) -> Values:
    """A tuple of outputs, even of one."""
    return value if isinstance(value, tuple) else (value,)


def along(function: Callable[[float], Any], step: float = 1e-4) -> Any:
    """The derivative of a function of a real number at 0."""
    return sum(weight * (function(k * step) - function(-k * step)) for k, weight in STENCIL) / step


def yardsticks(dense: Iterable[Sequence[np.ndarray]], expected: Sequence[np.ndarray]) -> list[Errors]:
    """The largest errors of dense evaluations, output by output."""
    every = [[errors(a, b) for a, b in zip(each, expected, strict=True)] for each in dense]
    return [Errors(max(e.largest for e in found), max(e.rms for e in found)) for found in zip(*every, strict=True)]


def has_matrix_function(program: Program) -> bool:
    """Whether a matrix exponential is taken, which no algorithm knows better than relative to the matrix's norm."""
    return any(isinstance(statement.value, MatrixFunction) for statement in program.statements)


def sensitivity(
    oracle: Callable[..., Values], expected: Sequence[np.ndarray], tensors: Sequence[np.ndarray], *, normwise: bool
) -> list[Errors]:
    """How much the oracle's value changes when its arguments do in their last places: what its own rounding may be.

    Each element is changed relative to itself, or if ``normwise`` to the largest of its tensor.
    """
    rng = np.random.default_rng(9)
    changed = []
    for x in tensors:
        size = np.max(np.abs(x), initial=0.0) if normwise else np.abs(x)
        changed.append(x + CHANGE * size * rng.choice([-1.0, 1.0], x.shape))
    scale = OWN * EPSILON["float64"] / CHANGE
    return [Errors(each.largest * scale, each.rms * scale) for each in yardsticks([oracle(*changed)], expected)]


def _inner(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.real(np.sum(np.conj(a) * b)))


def _like(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    real = rng.normal(size=x.shape)
    return real + 1j * rng.normal(size=x.shape) if np.iscomplexobj(x) else real
