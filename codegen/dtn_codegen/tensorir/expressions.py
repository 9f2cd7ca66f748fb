"""Pointwise expressions of the IR as TensorIR expressions in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from operator import add, mul
from typing import Any

from tvm.tirx.script import builder as T

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import Apply, Expr, Extent, Number, Product, Read, Sum


def _reciprocal(x: Any) -> Any:
    return T.Select(x == 0, T.float32(0), T.float32(1) / T.Select(x == 0, T.float32(1), x))


def _gelu(x: Any) -> Any:
    return T.float32(0.5) * x * (T.float32(1) + T.erf(x * T.float32(math.sqrt(0.5))))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "conj": lambda x: x,
    "real": lambda x: x,
    "abs": lambda x: T.Select(x < 0, -x, x),
    "select": lambda m, x: T.Select(m != 0, x, T.float32(0)),
    "recip": _reciprocal,
    "exp": T.exp,
    "log": T.log,
    "sqrt": T.sqrt,
    "tanh": T.tanh,
    "sigmoid": T.sigmoid,
    "silu": lambda x: x * T.sigmoid(x),
    "relu": lambda x: T.Select(x > 0, x, T.float32(0)),
    "gelu": _gelu,
    "erf": T.erf,
    "step": lambda x: T.Select(x > 0, T.float32(1), T.float32(0)),
}
"""Keyed as ``dtn_core.ir.functions``."""


def value_of(expr: Expr, leaf: Callable[[Read], Any], size: Callable[[str], Any]) -> Any:
    """The value of an expression.

    Parameters
    ----------
    expr : Expr
        Without sums over indices.
    leaf : callable
        The value of a read.
    size : callable
        The size of an axis, as float32.
    """
    match expr:
        case Number(value):
            return T.float32(float(value))
        case Extent(axis):
            return size(axis)
        case Read():
            return leaf(expr)
        case Apply(function, operands):
            return FUNCTIONS[function](*(value_of(operand, leaf, size) for operand in operands))
        case Product(factors):
            return reduce(mul, (value_of(factor, leaf, size) for factor in factors))
        case Sum(terms):
            return reduce(add, (value_of(term, leaf, size) for term in terms))
    raise CompileError(f"{type(expr).__name__} is not pointwise")
