"""factor: products that share a factor and are only ever added up become one product with a sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..ir.build import Builder
from ..ir.nodes import Product, Program, Read, Statement, Sum, product, sum_of, use_counts
from ..ir.verify import verify


def factor(program: Program) -> Program:
    """Write ``x*a + x*b`` as ``x * (a + b)`` where that spares a product of matrices.

    The gradient of a product of a tensor with itself is such a sum, with ``b`` the transpose of ``a``.

    Parameters
    ----------
    program : Program
        A lowered program.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> from dtn_core.printer import to_notation
    >>> f = parse('''f(k[n,d], g[d,d]) -> o[n,d]:
    ...     x[i,a] = k[i,b]*g[b,a]
    ...     y[i,a] = k[i,c]*g[a,c]
    ...     o[i,a] = x[i,a] + y[i,a]''')
    >>> print(to_notation(factor(f)))
    f(k[n,d], g[d,d]) -> o[n,d]:
        g_sum[b,a] = g[b,a] + g[a,b]
        o[i,a] = k[i,b] * g_sum[b,a]
    """
    while True:
        found = _first_shared(program)
        if found is None:
            return program
        program = _factored(program, *found)


def _first_shared(program: Program) -> tuple[Statement, dict[str, Read], Read] | None:
    """A sum, the products in it that share a factor, each with its other factor, and what they share."""
    uses = use_counts(program)
    products = {s.name: s for s in program.statements if uses[s.name] == 1 and _is_contraction(s)}
    for total in program.statements:
        if total.order or not isinstance(total.value, Sum):
            continue
        terms = {t.tensor for t in total.value.terms if isinstance(t, Read) and t.indices == total.indices}
        among = [made for name, made in products.items() if name in terms]
        for place, first in enumerate(among):
            for common, other in _ways(first):
                others = {first.name: other}
                for made in among[place + 1 :]:
                    matching = _matching(made, first, common, other)
                    if matching is not None:
                        others[made.name] = matching
                if len(others) > 1:
                    return total, others, common
    return None


def _factored(program: Program, total: Statement, others: dict[str, Read], common: Read) -> Program:
    """``program`` with these products as one, which has the name of the sum where there is no other term."""
    by_name = {statement.name: statement for statement in program.statements}
    names = Builder(program)
    names.taken.update(by_name)
    assert isinstance(total.value, Sum)
    first, last = next(iter(others)), list(others)[-1]
    rest = [t for t in total.value.terms if not (isinstance(t, Read) and t.tensor in others)]
    other = others[first]
    added = Statement(names.fresh(f"{other.tensor}_sum"), other.indices, sum_of(*others.values()))
    value = product(common, Read(added.name, added.indices))
    made = replace(by_name[first], name=last if rest else total.name, value=value)
    kept = replace(total, value=sum_of(Read(last, total.indices), *rest))
    changed = {**dict.fromkeys(others, ()), last: (added, made), total.name: (kept,) if rest else ()}
    statements = [new for s in program.statements for new in changed.get(s.name, (s,))]
    return verify(replace(program, statements=tuple(statements)))


def _matching(made: Statement, first: Statement, common: Read, other: Read) -> Read | None:
    """What ``made`` multiplies ``common`` with, in the indices of ``first``, if it is such a product."""
    for its_common, its_other in _ways(made):
        if its_common.tensor != common.tensor:
            continue
        pairs = {*zip(made.indices, first.indices, strict=True), *zip(its_common.indices, common.indices, strict=True)}
        names = dict(pairs)
        if len(pairs) == len(names) == len(set(names.values())) and set(its_other.indices) <= set(names):
            indices = tuple(names[index] for index in its_other.indices)
            if set(indices) == set(other.indices):
                return Read(its_other.tensor, indices)
    return None


def _ways(made: Statement) -> Iterator[tuple[Read, Read]]:
    """Each factor of a product of two tensors, with the other one."""
    match made.value:
        case Product((Read() as left, Read() as right)):
            yield left, right
            yield right, left


def _is_contraction(statement: Statement) -> bool:
    """Whether a statement multiplies two tensors, neither along a diagonal, and sums some index."""
    own = [(common.indices, other.indices) for common, other in _ways(statement)]
    if statement.order or not own:
        return False
    left, right = own[0]
    return len({*left}) == len(left) and len({*right}) == len(right) and bool({*left, *right} - {*statement.indices})
