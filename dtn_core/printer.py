"""IR to index notation; ``parse(to_notation(program)) == program``."""

from __future__ import annotations

import sys
from fractions import Fraction

from .ir.nodes import (
    MINUS_ONE,
    Apply,
    Expr,
    Extent,
    Index,
    MatrixFunction,
    Number,
    Param,
    Product,
    Program,
    Read,
    Relation,
    Statement,
    Sum,
    terms_of,
)

MAX_FLOAT = Fraction(sys.float_info.max)


def to_notation(program: Program) -> str:
    """Write ``program`` as index notation.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> print(to_notation(parse("scale(x[n], lam) -> y[n]: y[i] = lam * x[i] / n")))
    scale(x[n], lam) -> y[n]:
        y[i] = lam * x[i] / n
    """
    lines = (f"    {print_statement(statement)}" for statement in program.statements)
    return "\n".join([f"{print_signature(program)}:", *lines])


def print_signature(program: Program) -> str:
    """What a program is called with and what it gives.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> print_signature(parse("scale(x[n], lam) -> y[n]: y[i] = lam * x[i] / n"))
    'scale(x[n], lam) -> y[n]'
    """
    return f"{program.name}({', '.join(map(_param, program.params))}) -> {', '.join(map(_param, program.outputs))}"


def print_statement(statement: Statement) -> str:
    """One statement, without indentation."""
    left = statement.name + _brackets(statement.indices)
    right = print_expression(statement.value)
    if not statement.order:
        return f"{left} = {right}"
    return f"{left} = {right}   where {', '.join(_relation(relation) for relation in statement.order)}"


def print_expression(expr: Expr) -> str:
    """The right-hand side of a statement."""
    text = ""
    for term in terms_of(expr):
        shown, negative = _term(term)
        text += (" - " if negative else " + ") + shown if text else ("-" if negative else "") + shown
    return text


def _param(param: Param) -> str:
    return param.name + (f"[{','.join(param.axes)}]" if param.axes else "")


def _brackets(indices: tuple[Index, ...]) -> str:
    return f"[{','.join(index.name for index in indices)}]" if indices else ""


def _relation(relation: Relation) -> str:
    return str(relation) + (f" decay {_factor(relation.decay)}" if relation.decay is not None else "")


def _term(term: Expr) -> tuple[str, bool]:
    factors = term.factors if isinstance(term, Product) else (term,)
    negative = False
    if isinstance(factors[0], Number) and factors[0].value < 0:
        negative = True
        flipped = Number(-factors[0].value)
        factors = factors[1:] if factors[0] == MINUS_ONE and len(factors) > 1 else (flipped, *factors[1:])
    text = ""
    for factor in factors:
        if isinstance(factor, Apply) and factor.function == "recip":
            text = f"{text or '1'} / {_factor(factor.operands[0])}"
        else:
            text = f"{text} * {_factor(factor)}" if text else _factor(factor)
    return text, negative


def _number(value: Fraction) -> str:
    decimal = repr(float(value)) if abs(value) <= MAX_FLOAT else ""
    if decimal and Fraction(decimal) == value and (value.denominator != 1 or abs(value) >= 10**16):
        return decimal
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator} / {value.denominator}"


def _factor(factor: Expr) -> str:
    match factor:
        case Number(value):
            return _number(value)
        case Extent(axis):
            return axis
        case Read("one", indices):
            return f"one[{','.join(f'{index.name}:{index.axis}' for index in indices)}]"
        case Read(tensor, indices):
            return tensor + _brackets(indices)
        case Apply(function, operands):
            return f"{function}({', '.join(map(print_expression, operands))})"
        case MatrixFunction(function, grid, block, _):
            rows = "; ".join(", ".join("0" if cell is None else _factor(cell) for cell in row) for row in grid)
            return f"{function}({rows})" + (f"[{block[0]},{block[1]}]" if len(grid) > 1 else "")
        case Product() | Sum():
            return f"({print_expression(factor)})"
