"""Order between two indices as the triangle of a matrix: of ones, or of the powers of a decay."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import Index, Relation

from .names import FALLOFF
from .target import fill

if TYPE_CHECKING:
    from .expressions import Expressions


def masked(writer: Expressions, value: ast.expr, own: tuple[Index, ...], order: tuple[Relation, ...]) -> ast.expr:
    """``value`` where the order holds, 0 elsewhere, weighted by its decays."""
    for relation in order:
        if relation.decay is not None:
            pair = tuple(index for index in own if index in (relation.lower, relation.upper))
            value = ast.BinOp(value, ast.Mult(), writer.aligned(masks(writer, (relation,), pair), pair, own))
            continue
        target, strict = writer.target, relation.strict
        if own[-2:] == (relation.upper, relation.lower) and not relation.equal:
            value = fill(writer.over(value, target.tril_over[strict], target.tril[strict]), _x=value)
        elif own[-2:] == (relation.lower, relation.upper) and not relation.equal:
            value = fill(writer.over(value, target.triu_over[strict], target.triu[strict]), _x=value)
        else:
            pair = tuple(index for index in own if index in (relation.lower, relation.upper))
            mask = writer.aligned(masks(writer, (relation,), pair), pair, own)
            value = ast.BinOp(value, ast.Mult(), mask)
    return value


def masks(writer: Expressions, order: tuple[Relation, ...], out: tuple[Index, ...]) -> ast.expr:
    """A matrix of ones (or powers of the decay) where one relation holds, zero elsewhere."""
    if len(order) != 1 or len(out) != 2:
        raise CompileError("a chain of order without tensors is not lowered")
    relation = order[0]
    size = writer.extent(relation.upper.axis)
    ones = fill(writer.target.ones, _shape=ast.Tuple([size, size], ast.Load()), _like=writer.like)
    lower = out == (relation.upper, relation.lower)
    template, other = (writer.target.tril, writer.target.triu)[:: 1 if lower else -1]
    triangle = fill(writer.use(template[relation.strict]), _x=ones)
    if relation.equal:
        return fill(other[0], _x=triangle)
    if relation.decay is None:
        return triangle
    writer.used["_decayed"] = None
    decay = writer.scalar_array(relation.decay)
    gaps = fill(writer.target.gaps, _n=size, _like=writer.like)
    tile = fill("_decayed(_ones, _gaps, _decay)", _ones=triangle, _gaps=gaps, _decay=decay)
    if writer.tiles is None:
        return tile
    key = ast.unparse(tile)
    if key not in writer.tiles:
        number = "" if not writer.tiles else f"_{len(writer.tiles) + 1}"
        writer.tiles[key] = (f"{FALLOFF}{'' if lower else '_t'}{number}", tile)
    return ast.Name(writer.tiles[key][0], ast.Load())
