"""Expressions of the IR at one element, as TVM expressions in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import ONES, Apply, Expr, Index, Number, Product, Read, Relation, Sum
from dtn_core.passes.stream import Weights
from tvm.tirx.script.builder import ir as tir

from .tiles import Element, Expression, Fragment, SharedTile


def real(value: float) -> Expression:
    """A float32 constant."""
    return tir.float32(value)


def _quotient(x: Expression) -> Expression:
    zero = x == real(0)
    return tir.Select(zero, real(0), real(1) / tir.Select(zero, real(1), x))


def _sigmoid(x: Expression) -> Expression:
    return real(1) / (real(1) + tir.exp(-x))


_POINTWISE: dict[str, Callable[[Expression], Expression]] = {
    "recip": _quotient,
    "exp": tir.exp,
    "log": tir.log,
    "relu": lambda x: tir.max(x, real(0)),
    "sqrt": tir.sqrt,
    "tanh": tir.tanh,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
    "abs": tir.abs,
    "step": lambda x: tir.Select(x > real(0), real(1), real(0)),
    "conj": lambda x: x,
    "real": lambda x: x,
}


@dataclass
class Values:
    """What has been computed so far, and how to read an element of it.

    Attributes
    ----------
    chunk : int
        Tokens a chunk.
    tiles, fragments, vectors, scalars : dict
        Where values live: tiles in shared memory and in registers, vectors in shared memory, scalars in registers.
    log_decays : dict
        log₂ of each decay.
    """

    chunk: int
    weights: tuple[Weights, ...]
    tiles: dict[str, SharedTile] = field(default_factory=dict)
    fragments: dict[str, Fragment] = field(default_factory=dict)
    vectors: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=dict)
    log_decays: dict[Number | Read, Expression] = field(default_factory=dict)

    def log_decay(self, decay: Number | Read) -> Expression:
        """log₂ of a decay, computed once a thread where it is an argument."""
        if isinstance(decay, Number):
            return real(math.log2(float(decay.value)))
        return self.log_decays[decay]

    def power(self, decay: Number | Read, exponent: Expression) -> Expression:
        """``decay ** exponent``."""
        return tir.exp2(self.log_decay(decay) * tir.cast(exponent, "float32"))

    def weight(self, name: str, token: Expression) -> Expression | None:
        """An element of a weight vector, or None if ``name`` is none."""
        for weights in self.weights:
            if name == weights.rise:
                return self.power(weights.decay, token + 1)
            if name == weights.fall:
                return self.power(weights.decay, self.chunk - 1 - token)
        return None

    def read(
        self, read: Read, place: Mapping[Index, Expression], element: Element | None, order: tuple[Index, ...]
    ) -> Expression:
        """One element of a tensor; ``order`` are the indices that ``element`` is the row and the column of."""
        name, indices = read.tensor, read.indices
        if name == ONES:
            return real(1)
        if not indices:
            return self.scalars[name][0]
        if len(indices) == 1:
            found = self.weight(name, place[indices[0]])
            return self.vectors[name][place[indices[0]]] if found is None else found
        fragment = self.fragments.get(name)
        if fragment is not None and element is not None and indices == order and fragment.layout == element.layout:
            return fragment.at(element)
        row, column = (place[index] for index in indices)
        return self.tiles[name].value(row, column)

    def evaluate(
        self, expr: Expr, place: Mapping[Index, Expression], element: Element | None, order: tuple[Index, ...]
    ) -> Expression:
        """``expr`` with nothing summed."""
        match expr:
            case Number(value):
                return real(float(value))
            case Read():
                return self.read(expr, place, element, order)
            case Apply(function, operands):
                return _POINTWISE[function](self.evaluate(operands[0], place, element, order))
            case Product(factors):
                result = self.evaluate(factors[0], place, element, order)
                for factor in factors[1:]:
                    result = result * self.evaluate(factor, place, element, order)
                return result
            case Sum(terms):
                result = self.evaluate(terms[0], place, element, order)
                for term in terms[1:]:
                    result = result + self.evaluate(term, place, element, order)
                return result
        raise CompileError(f"{type(expr).__name__} has no CUDA kernel")

    def ordered(
        self, value: Expression, relations: tuple[Relation, ...], place: Mapping[Index, Expression]
    ) -> Expression:
        """``value`` where the relations hold, weighted by their decays; 0 elsewhere."""
        for relation in relations:
            lower, upper = place[relation.lower], place[relation.upper]
            if relation.decay is not None:
                value = value * self.power(relation.decay, upper - lower)
            holds = lower == upper if relation.equal else lower <= upper
            value = tir.Select(holds, value, real(0))
        return value
