"""A chunk program as operations on tiles: products, maps and sums, over at most two indices each.

Every statement that ``contract`` leaves has at most two factors, so one of three operations says what it is.
What is none of them has no kernel, and the error says which statement it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import (
    ONES,
    Apply,
    Expr,
    Index,
    Number,
    Program,
    Read,
    Relation,
    Statement,
    Sum,
    all_indices,
    factors_of,
    indices_of,
    reads,
    terms_of,
)

FUNCTIONS = ("recip", "exp", "log", "relu", "sqrt", "tanh", "sigmoid", "silu", "abs", "step", "conj", "real")
"""The pointwise functions that a map may hold (of real arguments)."""


@dataclass(frozen=True)
class Operand:
    """A factor of a product: a tensor, and whether it is stored with the summed index first (left) or last (right)."""

    name: str
    transposed: bool


@dataclass(frozen=True)
class Matmul:
    """``name[row, column] = scale · Σ left · right`` over one index of axis ``inner``."""

    name: str
    axes: tuple[str, str]
    inner: str
    left: Operand
    right: Operand
    scale: Fraction


@dataclass(frozen=True)
class Map:
    """``name[indices] = value where order``: nothing is summed."""

    name: str
    indices: tuple[Index, ...]
    value: Expr
    order: tuple[Relation, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """Axis of every index on the left."""
        return tuple(index.axis for index in self.indices)


@dataclass(frozen=True)
class Reduce:
    """``name[kept] = Σ value``, over a tile of indices ``(kept, summed)`` or a vector of ``(summed,)``."""

    name: str
    kept: tuple[Index, ...]
    summed: Index
    value: Expr
    order: tuple[Relation, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """Axis of every index on the left."""
        return tuple(index.axis for index in self.kept)


Operation = Matmul | Map | Reduce


def operations(program: Program) -> tuple[Operation, ...]:
    """The operations of a lowered chunk, in order.

    Raises
    ------
    CompileError
        If a statement is none of them, naming it and saying why.
    """
    made: list[Operation] = []
    for statement in program.statements:
        made += _operation(statement, program.name)
    return tuple(made)


def _operation(statement: Statement, program: str) -> Iterable[Operation]:
    if len(statement.indices) > 2:
        raise CompileError(
            f"{program}: {statement.name} has {len(statement.indices)} axes; a CUDA kernel holds tiles of two"
        )
    if len(set(statement.indices)) < len(statement.indices):
        raise CompileError(f"{program}: {statement.name} repeats an index on its left, which no CUDA kernel does")
    summed = [index for index in all_indices(statement) if index not in statement.indices]
    _check_functions(statement.value, statement.name, program)
    if not summed:
        return [Map(statement.name, statement.indices, statement.value, statement.order)]
    if isinstance(statement.value, Sum):
        raise CompileError(f"{program}: {statement.name} adds sums, which no CUDA kernel does in one step")
    product = _matmul(statement, summed)
    if product is not None:
        return [product]
    if len(summed) == 1 and len(statement.indices) < 2:
        return [Reduce(statement.name, statement.indices, summed[0], statement.value, statement.order)]
    if len(summed) == 2 and not statement.indices and not statement.order:
        rows = f"{statement.name}_rows"
        return [
            Reduce(rows, (summed[0],), summed[1], statement.value, ()),
            Reduce(statement.name, (), summed[0], Read(rows, (summed[0],)), ()),
        ]
    raise CompileError(
        f"{program}: {statement.name} sums {len(summed)} indices of {len(list(reads(statement.value)))} factors "
        f"into {len(statement.indices)} axes; a CUDA kernel multiplies two matrices"
    )


def _matmul(statement: Statement, summed: list[Index]) -> Matmul | None:
    """The statement as a product of two matrices, or None."""
    factors = factors_of(statement.value)
    scale = Fraction(1)
    tensors: list[Read] = []
    for factor in factors:
        if isinstance(factor, Number):
            scale *= factor.value
        elif isinstance(factor, Read) and len(set(factor.indices)) == 2 and factor.tensor != ONES:
            tensors.append(factor)
        else:
            return None
    if len(tensors) != 2 or len(summed) != 1 or len(statement.indices) != 2 or statement.order:
        return None
    row, column = statement.indices
    inner = summed[0]
    left = next((t for t in tensors if set(t.indices) == {row, inner}), None)
    right = next((t for t in tensors if set(t.indices) == {inner, column}), None)
    if left is None or right is None:
        return None
    return Matmul(
        statement.name,
        (row.axis, column.axis),
        inner.axis,
        Operand(left.tensor, left.indices[0] == inner),
        Operand(right.tensor, right.indices[1] == inner),
        scale,
    )


def _check_functions(expr: Expr, name: str, program: str) -> None:
    for term in terms_of(expr):
        for factor in factors_of(term):
            if isinstance(factor, Apply):
                if factor.function not in FUNCTIONS:
                    raise CompileError(f"{program}: {name} applies {factor.function}, which no CUDA kernel has")
                for operand in factor.operands:
                    _check_functions(operand, name, program)
            elif isinstance(factor, Sum):
                _check_functions(factor, name, program)
            elif not isinstance(factor, Number | Read):
                kind = type(factor).__name__
                raise CompileError(f"{program}: {name} needs {kind} of an axis, which no CUDA kernel has")


def read_by(operation: Operation) -> tuple[Read, ...]:
    """The tensors that an operation reads, each with its indices (those of a product by position)."""
    if isinstance(operation, Matmul):
        row, column, inner = (Index(n, a) for n, a in zip("rck", (*operation.axes, operation.inner), strict=True))
        left = (inner, row) if operation.left.transposed else (row, inner)
        right = (column, inner) if operation.right.transposed else (inner, column)
        return Read(operation.left.name, left), Read(operation.right.name, right)
    decays = [r.decay for r in operation.order if isinstance(r.decay, Read)]
    return (*reads(operation.value), *decays)


def tile_indices(operation: Map | Reduce) -> tuple[Index, ...]:
    """The indices that a map or a sum runs over, the rows first."""
    return operation.indices if isinstance(operation, Map) else (*operation.kept, operation.summed)


__all__ = ["FUNCTIONS", "Map", "Matmul", "Operand", "Operation", "Reduce", "indices_of", "operations", "read_by"]
