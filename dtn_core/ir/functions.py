"""Pointwise functions: what they are worth, and their derivatives as expressions in the same set.

The table is the single place that knows a function; the interpreter, the differentiation pass and the
emitters' tables are keyed on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from .nodes import MINUS_ONE, ONE, ZERO, Apply, Expr, Program, number, product, reciprocal, subexpressions, sum_of


def _f(name: str, *operands: Expr) -> Expr:
    return Apply(name, operands)


@dataclass(frozen=True)
class Function:
    """A pointwise function.

    Attributes
    ----------
    derivative : callable or None
        ``f(x) -> f'(x)`` as an expression; None for functions with a rule of their own in the
        differentiation pass (``conj``, ``real``, ``abs``, ``select``).
    holomorphic : bool
        Whether the function extends to complex input by the same formula.
    arity : int
        Number of operands.
    """

    derivative: Callable[[Expr], Expr] | None
    holomorphic: bool = True
    arity: int = 1


def _gelu_derivative(x: Expr) -> Expr:
    gaussian = _f("exp", product(number(Fraction(-1, 2)), x, x))
    cdf = sum_of(number(Fraction(1, 2)), product(number(Fraction(1, 2)), _f("erf", product(number(math.sqrt(0.5)), x))))
    return sum_of(cdf, product(number(1 / math.sqrt(2 * math.pi)), x, gaussian))


def _silu_derivative(x: Expr) -> Expr:
    s = _f("sigmoid", x)
    return sum_of(s, product(x, s), product(MINUS_ONE, x, s, s))


def _sigmoid_derivative(x: Expr) -> Expr:
    s = _f("sigmoid", x)
    return sum_of(s, product(MINUS_ONE, s, s))


FUNCTIONS: dict[str, Function] = {
    "conj": Function(None),
    "real": Function(None),
    "abs": Function(None),
    "select": Function(None, arity=2),
    "recip": Function(lambda x: product(MINUS_ONE, reciprocal(x), reciprocal(x))),
    "exp": Function(lambda x: _f("exp", x)),
    "log": Function(reciprocal),
    "sqrt": Function(lambda x: product(number(Fraction(1, 2)), reciprocal(_f("sqrt", x)))),
    "tanh": Function(lambda x: sum_of(ONE, product(MINUS_ONE, _f("tanh", x), _f("tanh", x)))),
    "sigmoid": Function(_sigmoid_derivative),
    "silu": Function(_silu_derivative, holomorphic=False),
    "relu": Function(lambda x: _f("step", x), holomorphic=False),
    "gelu": Function(_gelu_derivative, holomorphic=False),
    "erf": Function(
        lambda x: product(number(2 / math.sqrt(math.pi)), _f("exp", product(MINUS_ONE, x, x))),
        holomorphic=False,
    ),
    "step": Function(lambda x: ZERO, holomorphic=False),
}

MATRIX_FUNCTIONS = ("expm", "phi1")


def real_only(program: Program) -> list[str]:
    """The functions in a program that are not defined for complex numbers, by name."""
    parts = (part for statement in program.statements for part in subexpressions(statement.value))
    found = {part.function for part in parts if isinstance(part, Apply)}
    return sorted(name for name in found if not FUNCTIONS[name].holomorphic)
