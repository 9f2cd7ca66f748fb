"""Products of tensors as one operation of the framework: of matrices, inner, or an einsum."""

from __future__ import annotations

import ast
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dtn_core.cost import Polynomial, elements
from dtn_core.ir.nodes import Index

from .target import fill

if TYPE_CHECKING:
    from .expressions import Expressions


def matmul(
    writer: Expressions,
    left: tuple[ast.expr, tuple[Index, ...]],
    right: tuple[ast.expr, tuple[Index, ...]],
    out: tuple[Index, ...],
    before: str | None = None,
) -> ast.expr | None:
    """The product as one matrix product, if it is one; added to the tensor ``before``, if there is one."""
    (a, ia), (b, ib) = left, right
    shared = set(ia) & set(ib)
    if not (len(ia) == len(ib) == len(out) == 2 and len(shared) == 1 and len(set(ia)) == len(set(ib)) == 2):
        return None
    summed = shared.pop()
    if summed in out:
        return None
    rows, columns = (i for i in (*ia, *ib) if i != summed)
    if out == (columns, rows):
        (a, ia), (b, ib) = (b, ib), (a, ia)
    transposed = (ia[0] == summed, ib[1] == summed)
    batched = writer.target.batched if writer.batched else ""
    if before is None and not batched:
        return fill(writer.target.matmul[transposed], _a=a, _b=b)
    a, b = (fill(writer.target.transpose, _x=y) if turned else y for y, turned in zip((a, b), transposed, strict=True))
    if before is None:
        return fill(writer.use(batched), _a=a, _b=b)
    x = ast.Name(writer.name(before), ast.Load())
    return fill(writer.over(x, writer.target.plus_over, writer.target.plus), _x=x, _a=a, _b=b)


def matvec(
    writer: Expressions,
    left: tuple[ast.expr, tuple[Index, ...]],
    right: tuple[ast.expr, tuple[Index, ...]],
    out: tuple[Index, ...],
) -> ast.expr | None:
    """The product as a matrix times a vector, if it is that."""
    (a, ia), (b, ib) = (left, right) if len(left[1]) == 2 else (right, left)
    if not (writer.target.matvec and len(set(ia)) == len(ia) == 2 and len(ib) == 1 and set(ia) == {*ib, *out}):
        return None
    return fill(writer.target.matvec[ia[0] == ib[0]], _a=a, _b=b)


def inner(
    writer: Expressions,
    left: tuple[ast.expr, tuple[Index, ...]],
    right: tuple[ast.expr, tuple[Index, ...]],
    out: tuple[Index, ...],
) -> ast.expr | None:
    """The inner product of two tensors over some of their axes, elementwise and summed, if memory allows."""
    (a, ia), (b, ib) = left, right
    if set(ia) != set(ib) or len(set(ia)) < len(ia) or not set(out) <= set(ia) or not fits(writer, ia):
        return None
    return writer.unary(ast.BinOp(a, ast.Mult(), writer.permuted(b, ib, ia)), ia, out)


def fits(writer: Expressions, temporary: tuple[Index, ...]) -> bool:
    """Whether a temporary of the current statement leaves the reported peak of memory true.

    It is small (no axis is as long as a sequence), a vector, or another statement holds as much.
    """
    if not any(index.axis in writer.long for index in temporary):
        return True
    if not writer.target.elementwise:
        return False
    needed = writer.held[writer.current] + elements(temporary)
    return len(temporary) == 1 or any(_covers(held, needed) for held in writer.held.values())


def einsum(
    writer: Expressions, operands: Sequence[tuple[ast.expr, tuple[Index, ...]]], out: tuple[Index, ...]
) -> ast.expr:
    """The product of any operands, by a letter for each index."""
    indices = list(dict.fromkeys(index for _, own in operands for index in own))
    letters = _letters(indices)
    if writer.target.sums_by_letter:
        letters |= _in_order([index for index in indices if index not in out], letters)
    inputs = ",".join("..." + "".join(letters[index] for index in own) for _, own in operands)
    spec = f"{inputs}->...{''.join(letters[index] for index in out)}"
    if "_einsum" in writer.target.prelude:
        writer.used["_einsum"] = None
    call = fill(writer.target.einsum, _spec=ast.Constant(spec))
    assert isinstance(call, ast.Call)
    return ast.Call(call.func, [*call.args, *(value for value, _ in operands)], call.keywords)


def _covers(large: Polynomial, small: Polynomial) -> bool:
    """Whether ``large`` is at least ``small`` whatever the sizes, term by term."""
    terms = dict(large.terms)
    return all(terms.get(axes, 0) >= count for axes, count in small.terms)


def _letters(indices: Sequence[Index]) -> dict[Index, str]:
    letters: dict[Index, str] = {}
    free = list(string.ascii_letters)
    for index in indices:
        if len(index.name) == 1 and index.name in free:
            letters[index] = index.name
            free.remove(index.name)
    for index in indices:
        if index not in letters:
            letters[index] = next((x for x in (index.name[0],) if x in free), free[0])
            free.remove(letters[index])
    return letters


def _in_order(summed: Sequence[Index], letters: Mapping[Index, str]) -> dict[Index, str]:
    """Other letters for indices whose own are not in the order of the alphabet."""
    own = [letters[index] for index in summed]
    taken = set(letters.values())
    free = (letter for letter in string.ascii_letters if letter not in taken)
    return {} if own == sorted(own) else dict(zip(summed, free, strict=False))
