"""Functions of whole matrices, such as the exponential: of blocks, of which one is kept."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dtn_core.ir.nodes import MatrixFunction

from .target import fill

if TYPE_CHECKING:
    from .expressions import Expressions


def matrix_function(writer: Expressions, value: MatrixFunction) -> ast.expr:
    """The kept block of a function of a matrix of blocks."""
    writer.extent(value.indices[-1].axis)
    size = writer.name(value.indices[-1].axis)
    cells = [
        [None if cell is None else writer.permuted(*writer.value(cell), value.indices) for cell in row]
        for row in value.grid
    ]
    zero = fill(writer.target.zeros_like, _x=next(cell for row in cells for cell in row if cell is not None))
    rows = [[zero if cell is None else cell for cell in row] for row in cells]
    row, column = value.block
    if value.function == "phi1":  # block (0, 1) of exp([[X, I], [0, 0]])
        one = eye(writer, size)
        g = len(rows)
        identity = [[fill("_z + _e", _z=zero, _e=one) if r == c else zero for c in range(g)] for r in range(g)]
        rows = [[*rows[r], *identity[r]] for r in range(g)] + [[zero] * (2 * g) for _ in range(g)]
        column += g
    whole = rows[0][0]
    if len(rows) > 1:
        whole = concat(writer, [concat(writer, cells, -1) for cells in rows], -2)
    if "_expm" in writer.target.prelude:
        writer.used["_expm"] = None
    result = fill(writer.target.expm, _x=whole)
    if len(rows) == 1:
        return result
    rows_of = {"_r": _times(row, size), "_s": _times(row + 1, size)}
    columns_of = {"_c": _times(column, size), "_e": _times(column + 1, size)}
    template = "_x[..., _r:_s, _c:_e]" if row else "_x[..., :_s, _c:_e]" if column else "_x[..., :_s, :_e]"
    return fill(template, _x=result, **rows_of, **columns_of)


def eye(writer: Expressions, size: str) -> ast.expr:
    """The identity matrix of one size."""
    shape = ast.Tuple([ast.Name(size, ast.Load())] * 2, ast.Load())
    ones = fill(writer.target.ones, _shape=shape, _like=writer.like)
    return fill(writer.target.triu[0], _x=fill(writer.target.tril[0], _x=ones))


def concat(writer: Expressions, blocks: Sequence[ast.expr], axis: int) -> ast.expr:
    """Blocks beside each other along ``axis``."""
    return fill(writer.target.concat, _blocks=ast.List(list(blocks), ast.Load()), _axis=ast.Constant(axis))


def _times(count: int, size: str) -> ast.expr:
    return ast.Name(size, ast.Load()) if count == 1 else fill("_k * _n", _k=ast.Constant(count), _n=size)
