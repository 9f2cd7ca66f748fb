"""Maps between several named axes, such as a layer's projections: one matrix product, where axes go together."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from dtn_core.ir.nodes import ONES, Index, Read, Statement, factors_of, terms_of

from .target import fill

if TYPE_CHECKING:
    from .expressions import Expressions


def merged(
    writer: Expressions,
    left: tuple[ast.expr, tuple[Index, ...]],
    right: tuple[ast.expr, tuple[Index, ...]],
    out: tuple[Index, ...],
) -> ast.expr | None:
    """The product as a matrix times a vector, if it is that once axes that stay together are one."""
    map_ = map_of(writer, left, right, out) if writer.target.matvec else None
    if map_ is None:
        return None
    matrix, (vector, summed), transposed = map_
    flat = shaped(writer, vector, len(summed), summed)
    return shaped(writer, fill(writer.target.matvec[transposed], _a=matrix, _b=flat), 1, *((i,) for i in out))


def map_of(
    writer: Expressions,
    left: tuple[ast.expr, tuple[Index, ...]],
    right: tuple[ast.expr, tuple[Index, ...]],
    out: tuple[Index, ...],
) -> tuple[ast.expr, tuple[ast.expr, tuple[Index, ...]], bool] | None:
    """A matrix, what it is multiplied with, and whether it is to be transposed for that; None for another product."""
    (a, ia), (b, ib) = (left, right) if len(left[1]) > len(right[1]) else (right, left)
    if not (ib and out and len(set(ia)) == len(ia)):
        return None
    if ia not in ((*ib, *out), (*out, *ib)):
        return None
    transposed = ia == (*ib, *out)
    return shaped(writer, a, len(ia), *((ib, out) if transposed else (out, ib))), (b, ib), transposed


def affine(writer: Expressions, part: Statement, whole: Statement) -> ast.expr | None:
    """``whole``, which alone reads ``part``: that product plus a tensor as one operation of the framework."""
    if "_affine" not in writer.target.prelude or part.order or whole.order or part.indices != whole.indices:
        return None
    factors = [factor for factor in factors_of(part.value) if isinstance(factor, Read)]
    terms = [term for term in terms_of(whole.value) if isinstance(term, Read) and term.indices == whole.indices]
    added = [term for term in terms if term.tensor not in (part.name, ONES)]
    if not len(factors) == len(factors_of(part.value)) == len(terms) == len(terms_of(whole.value)) == 2:
        return None
    if len(added) != 1:
        return None
    map_ = map_of(writer, writer.value(factors[0]), writer.value(factors[1]), whole.indices)
    if map_ is None:
        return None
    matrix, (vector, summed), transposed = map_
    return fill(
        writer.use("_affine(_x, _rank, _a, _b, _sizes)"),
        _x=vector,
        _rank=ast.Constant(len(summed)),
        _a=matrix if transposed else fill(writer.target.transpose, _x=matrix),
        _b=shaped(writer, writer.value(added[0])[0], len(whole.indices), whole.indices),
        _sizes=ast.Tuple([writer.extent(index.axis) for index in whole.indices], ast.Load()),
    )


def shaped(writer: Expressions, value: ast.expr, rank: int, *groups: tuple[Index, ...]) -> ast.expr:
    """``value`` with its last ``rank`` axes as these groups, each one axis."""
    if rank == len(groups):
        return value
    merged = [place for place, group in enumerate(groups) if len(group) > 1]
    if writer.target.flatten and len(merged) == 1 and rank == sum(map(len, groups)):
        first = sum(map(len, groups[: merged[0]])) - rank
        last = first + len(groups[merged[0]]) - 1
        return fill(writer.use(writer.target.flatten), _x=value, _i=ast.Constant(first), _j=ast.Constant(last))
    writer.used["_shaped"] = None
    sizes: list[ast.expr] = []
    for group in groups:
        size = writer.extent(group[0].axis)
        for index in group[1:]:
            size = ast.BinOp(size, ast.Mult(), writer.extent(index.axis))
        sizes.append(size)
    shape = ast.Tuple(sizes, ast.Load())
    return fill("_shaped(_x, _rank, _sizes)", _x=value, _rank=ast.Constant(rank), _sizes=shape)
