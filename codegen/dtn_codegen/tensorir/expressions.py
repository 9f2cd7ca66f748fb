"""Pointwise expressions of the IR as TensorIR expressions in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from operator import add, mul
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import Apply, Expr, Extent, Number, Product, Read, Sum

TINY = 2.0**-126
"""The smallest normal number: what is closer to 0 counts as 0 below a fraction, whose value would be infinite."""


def _reciprocal(x: Any) -> Any:
    none = T.And(x < T.float32(TINY), x > T.float32(-TINY))
    return T.Select(none, T.float32(0), T.float32(1) / T.Select(none, T.float32(1), x))


LOG2_HIGH = 355 / 512
"""``log 2`` in so few digits that whole multiples of it are exact in float32; the rest is ``LOG2_LOW``."""
LOG2_LOW = math.log(2) - LOG2_HIGH
UNDERFLOW, OVERFLOW = -104, 89
"""Beyond these the exponential is 0, or infinite."""
DEGREE = 7
"""Of the polynomial: the next term is below 1e-8 of the value."""


def _named(value: Any, use: Callable[[Any], Any]) -> Any:
    """``use(value)`` with ``value`` computed once."""
    name = tirx.Var("x", value.ty)
    return tirx.Let(name, value, use(name))


def _exp(x: Any) -> Any:
    """Of whole vectors, where the C library would be called for each element.

    ``exp(x) = 2ⁿ · exp(r)`` with ``r = x − n log 2`` at most ``log 2 / 2`` in size, and ``2ⁿ`` as two factors, because
    n may be out of the range of one.
    """
    real_type = str(x.ty.dtype)  # with its lanes
    whole_type = real_type.replace("float", "int")

    def power(n: Any) -> Any:
        return T.reinterpret(real_type, (T.Cast(whole_type, n) + 127) * (1 << 23))

    def polynomial(r: Any) -> Any:
        terms = (T.float32(1 / math.factorial(k)) for k in range(DEGREE, -1, -1))
        return reduce(lambda so_far, term: so_far * r + term, terms)

    def scaled(x: Any, n: Any) -> Any:
        # comparisons with NaN are false: it stays what it is here, and makes no difference to n
        clipped = T.Select(x > OVERFLOW, T.float32(OVERFLOW), T.Select(x < UNDERFLOW, T.float32(UNDERFLOW), x))
        rest = clipped - n * T.float32(LOG2_HIGH) - n * T.float32(LOG2_LOW)
        value = _named(rest, polynomial)
        return _named(T.floor(n * T.float32(0.5)), lambda half: value * power(half) * power(n - half))

    def nearest(x: Any) -> Any:
        inside = T.max(T.min(x, T.float32(OVERFLOW)), T.float32(UNDERFLOW))
        return T.floor(inside * T.float32(1 / math.log(2)) + T.float32(0.5))

    return _named(x, lambda x: _named(nearest(x), lambda n: scaled(x, n)))


def _sigmoid(x: Any) -> Any:
    return T.float32(1) / (T.float32(1) + _exp(-x))


def _gelu(x: Any) -> Any:
    return T.float32(0.5) * x * (T.float32(1) + T.erf(x * T.float32(math.sqrt(0.5))))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "conj": lambda x: x,
    "real": lambda x: x,
    "abs": lambda x: T.Select(x < 0, -x, x),
    "select": lambda m, x: T.Select(m != 0, x, T.float32(0)),
    "recip": _reciprocal,
    "exp": _exp,
    "log": T.log,
    "sqrt": T.sqrt,
    "tanh": T.tanh,
    "sigmoid": _sigmoid,
    "silu": lambda x: x * _sigmoid(x),
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
