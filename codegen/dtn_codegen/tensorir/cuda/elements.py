"""Expressions of a step at one element, as TVM expressions in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

from tvm.tirx.script.builder import ir as tir

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import ONES, Apply, Expr, Index, Number, Product, Read, Relation, Sum
from dtn_core.passes.stream import Weights

from ..expressions import TINY
from ..steps import ACC
from .placement import MATRIX
from .tiles import Element, Expression, Fragment, SharedTile


def real(value: float) -> Expression:
    """A float32 constant."""
    return tir.float32(value)


def _quotient(x: Expression) -> Expression:
    zero = tir.abs(x) < real(TINY)
    return tir.Select(zero, real(0), real(1) / tir.Select(zero, real(1), x))


def _sigmoid(x: Expression) -> Expression:
    return real(1) / (real(1) + tir.exp(-x))


_POINTWISE: dict[str, Callable[..., Expression]] = {
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
    "select": lambda m, x: tir.Select(m == real(0), real(0), x),
}


@dataclass(frozen=True)
class Place:
    """Where a thread evaluates an expression.

    Attributes
    ----------
    indices : Mapping[Index, expression]
        The value of every index.
    order : tuple[Index, ...]
        The indices that are row and column of ``element``.
    element : Element or None
        Where that is among the registers of the thread.
    accumulated : expression
        What has been summed.
    """

    indices: Mapping[Index, Expression]
    order: tuple[Index, ...] = ()
    element: Element | None = None
    accumulated: Expression = None


@dataclass
class Values:
    """What has been computed so far, and how to read an element of it.

    Attributes
    ----------
    axis : str
        Of the tokens.
    weights : tuple[Weights, ...]
        The decays of the program.
    constants : Mapping[str, float]
        Scalars that are bound.
    tiles, fragments, vectors, scalars : dict
        Where values live: tiles in shared memory and in registers, vectors in shared memory, scalars in registers.
    log_decays : dict
        log₂ of each decay.
    counts : dict
        For the axis of tokens, and that of rows, how many of a chunk there are.
    origins : dict
        The first of a chunk along both axes, where a walk is over rows.
    sums : tvm.tirx.Buffer
        What a vector's sums have come to, in shared memory.
    """

    axis: str
    weights: tuple[Weights, ...]
    constants: Mapping[str, float]
    tiles: dict[str, SharedTile] = field(default_factory=dict)
    fragments: dict[str, Fragment] = field(default_factory=dict)
    vectors: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=dict)
    log_decays: dict[Number | Read, Expression] = field(default_factory=dict)
    counts: dict[str, Expression] = field(default_factory=dict)
    origins: dict[str, Expression] = field(default_factory=dict)
    sums: Any = None

    @property
    def count(self) -> Expression:
        """Tokens of the chunk at hand."""
        return self.counts[self.axis]

    def log_decay(self, decay: Number | Read) -> Expression:
        """log₂ of a decay, computed once a thread where it is an argument."""
        if isinstance(decay, Number):
            return real(math.log2(float(decay.value)))
        if decay.tensor in self.constants:
            return real(math.log2(self.constants[decay.tensor]))
        return self.log_decays[decay]

    def power(self, decay: Number | Read, exponent: Expression) -> Expression:
        """``decay ** exponent``."""
        return tir.exp2(self.log_decay(decay) * tir.cast(exponent, "float32"))

    def weight(self, name: str, token: Expression) -> Expression | None:
        """An element of a weight, or None if ``name`` is none; that of tokens past the end is not larger than 1."""
        for weights in self.weights:
            if name == weights.rise:
                return self.power(weights.decay, token + 1)
            if name == weights.fall:
                return self.power(weights.decay, tir.max(self.count - 1 - token, 0))
            if name == weights.whole:
                return self.power(weights.decay, self.count)
        return None

    def read(self, read: Read, at: Place) -> Expression:
        """One element of a tensor."""
        name, indices = read.tensor, read.indices
        if read == ACC:
            return at.accumulated
        if name == ONES:
            return real(1)
        if len(indices) < MATRIX:
            found = self.weight(name, at.indices[indices[0]] if indices else None)
            if found is not None:
                return found
            if name in self.constants:
                return real(self.constants[name])
            return self.vectors[name][at.indices[indices[0]]] if indices else self.scalars[name][0]
        fragment = self.fragments.get(name)
        element = at.element if indices == at.order else None
        if fragment is not None and element is not None and fragment.layout == element.layout:
            return fragment.at(element)
        row, column = (at.indices[index] for index in indices)
        return self.tiles[name].value(row, column)

    def evaluate(self, expr: Expr, at: Place) -> Expression:
        """``expr`` with nothing summed."""
        match expr:
            case Number(value):
                return real(float(value))
            case Read():
                return self.read(expr, at)
            case Apply(function, operands):
                return _POINTWISE[function](*(self.evaluate(operand, at) for operand in operands))
            case Product(factors):
                return reduce(lambda x, y: x * y, (self.evaluate(factor, at) for factor in factors))
            case Sum(terms):
                return reduce(lambda x, y: x + y, (self.evaluate(term, at) for term in terms))
        raise CompileError(f"{type(expr).__name__} has no CUDA kernel")

    def ordered(self, value: Expression, relation: Relation | None, at: Place) -> Expression:
        """``value`` where the relation holds, weighted by its decay; 0 elsewhere."""
        if relation is None:
            return value
        lower, upper = (at.indices[i] + self.origins.get(i.axis, 0) for i in (relation.lower, relation.upper))
        if relation.decay is not None:
            value = value * self.power(relation.decay, upper - lower)
        return tir.Select(lower < upper if relation.strict else lower <= upper, value, real(0))
