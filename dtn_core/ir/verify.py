"""The rules every program obeys; checked after the parser and after each pass."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Sequence

from ..errors import VerificationError
from .functions import FUNCTIONS, MATRIX_FUNCTIONS
from .nodes import (
    ONES,
    Apply,
    Expr,
    Extent,
    Index,
    MatrixFunction,
    Number,
    Program,
    Read,
    Relation,
    Statement,
    all_indices,
    children,
    indices_of,
    statement_reads,
    terms_of,
)
from .order import cycle, nothing_holds, restrict

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RESERVED = {"where", ONES, *FUNCTIONS, *MATRIX_FUNCTIONS}


def verify(program: Program) -> Program:
    """Return ``program`` if it is well formed.

    Raises
    ------
    VerificationError
        Names the statement and the broken rule: definition before use, rank and axes of every read,
        an index over one axis, distinct indices on the left, each found on the right, order between
        indices of one axis and without cycles, decays in (0, 1], declared outputs.
    """
    known: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(_names(program)):
        if not NAME.fullmatch(name) or keyword.iskeyword(name) or name in RESERVED:
            raise VerificationError(f"{name!r} is not a name: letters, digits and _, no reserved word or function")
    for param in program.params:
        if param.name in known:
            raise VerificationError(f"{program.name}: parameter {param.name} is declared twice")
        known[param.name] = param.axes
    for statement in program.statements:
        try:
            _verify_statement(statement, known, set(program.axes))
        except VerificationError as error:
            raise VerificationError(f"{program.name}: statement {statement.name}: {error}") from None
        known[statement.name] = statement.axes
    assigned = {statement.name for statement in program.statements}
    if not program.outputs:
        raise VerificationError(f"{program.name}: no output")
    if len({output.name for output in program.outputs}) < len(program.outputs):
        raise VerificationError(f"{program.name}: an output is declared twice")
    for output in program.outputs:
        if output.name not in assigned:
            raise VerificationError(f"{program.name}: output {output.name} is never assigned")
        if known[output.name] != output.axes:
            raise VerificationError(
                f"{program.name}: output {output.name} has axes {known[output.name]}, declared {output.axes}"
            )
    return program


def _names(program: Program) -> Iterator[str]:
    yield program.name
    for param in (*program.params, *program.outputs):
        yield param.name
        yield from param.axes
    for statement in program.statements:
        yield statement.name
        for index in all_indices(statement):
            yield index.name


def _verify_statement(statement: Statement, known: dict[str, tuple[str, ...]], axes: set[str]) -> None:
    if statement.name in known:
        raise VerificationError("the name is taken")
    for read in statement_reads(statement):
        if read.tensor == ONES:
            unknown = [index.axis for index in read.indices if index.axis not in axes]
            if unknown:
                raise VerificationError(f"unknown axis {unknown[0]}")
            continue
        if read.tensor not in known:
            raise VerificationError(f"{read.tensor} is read before it is assigned")
        if tuple(index.axis for index in read.indices) != known[read.tensor]:
            raise VerificationError(f"{read.tensor} has axes {known[read.tensor]}, read with {read.indices}")
    ranges: dict[str, str] = {}
    for index in all_indices(statement):
        if ranges.setdefault(index.name, index.axis) != index.axis:
            raise VerificationError(f"index {index.name} runs over {ranges[index.name]} and {index.axis}")
    if len(set(statement.indices)) < len(statement.indices):
        raise VerificationError("an index is repeated on the left")
    right = {index for read in statement_reads(statement) for index in read.indices}
    right.update(index for relation in statement.order for index in (relation.lower, relation.upper))
    for index in statement.indices:
        if index not in right:
            raise VerificationError(f"output index {index.name} appears nowhere on the right")
    for relation in statement.order:
        if relation.lower.axis != relation.upper.axis:
            raise VerificationError(
                f"{relation.lower.name} over {relation.lower.axis} and {relation.upper.name} over "
                f"{relation.upper.axis} are ordered; order needs one axis"
            )
        _verify_decay(relation.decay)
    wrong = contradiction(statement.order)
    if wrong:
        raise VerificationError(wrong)
    verify_terms(statement.value, statement.indices, statement.order)
    _verify_expression(statement.value, axes, top=True)
    if isinstance(statement.value, MatrixFunction):
        if statement.order:
            raise VerificationError(f"{statement.value.function} takes no order")
        for index in statement.value.indices:
            if index not in statement.indices:
                raise VerificationError(f"index {index.name} of {statement.value.function} is not on the left")


def _verify_decay(decay: Number | Read | None) -> None:
    if isinstance(decay, Read) and decay.indices:
        raise VerificationError(f"decay {decay.tensor} has axes; it is a number, or a scalar of each leading index")
    if isinstance(decay, Number) and not 0 < decay.value <= 1:
        raise VerificationError(f"decay {float(decay.value):g} is outside (0, 1]")


def verify_terms(value: Expr, out: Iterable[Index], order: tuple[Relation, ...]) -> None:
    """Check that an order says one thing of each term of a sum, whose own indices it may be implied for.

    Raises
    ------
    VerificationError
        As :func:`dtn_core.ir.order.restrict`.
    """
    for term in terms_of(value) if order else ():
        restrict(order, {*indices_of(term), *out})


def contradiction(order: Sequence[Relation]) -> str:
    """What is wrong with relations that lead round in a circle or that no indices fulfil; else nothing."""
    found = cycle(order)
    if found is None:
        return f"no indices fulfil {', '.join(map(str, order))}" if nothing_holds(order) else ""
    first, last = found[0].lower.name, found[-1].lower.name
    chain = first + "".join(f" {relation.sign} {relation.upper.name}" for relation in found)
    if nothing_holds(found):
        return f"the order has a cycle, {chain}, which no indices fulfil"
    return f"the order has a cycle, {chain}; indices that are equal are written {first} == {last}"


def _verify_expression(expr: Expr, axes: set[str], *, top: bool = False) -> None:
    if isinstance(expr, Extent) and expr.axis not in axes:
        raise VerificationError(f"unknown axis {expr.axis}")
    if isinstance(expr, Apply):
        function = FUNCTIONS.get(expr.function)
        if function is None:
            raise VerificationError(f"unknown function {expr.function}")
        if function.arity != len(expr.operands):
            raise VerificationError(f"{expr.function} takes {function.arity} operand(s), got {len(expr.operands)}")
    if isinstance(expr, MatrixFunction):
        size = len(expr.grid)
        cells = [cell for row in expr.grid for cell in row if cell is not None]
        if not top:
            raise VerificationError(f"{expr.function} is a statement of its own")
        if expr.function not in MATRIX_FUNCTIONS:
            raise VerificationError(f"unknown matrix function {expr.function}")
        if any(len(row) != size for row in expr.grid) or not cells or not all(0 <= b < size for b in expr.block):
            raise VerificationError(f"{expr.function} needs a square grid and a block inside it")
        if any(sorted(cell.indices, key=repr) != sorted(expr.indices, key=repr) for cell in cells):
            raise VerificationError(f"the blocks of {expr.function} are matrices over {expr.indices}")
        if len(set(expr.indices)) < max(2, len(expr.indices)) or expr.indices[-2].axis != expr.indices[-1].axis:
            raise VerificationError(f"{expr.function} takes a square matrix")
    for child in children(expr):
        _verify_expression(child, axes)
