"""accumulate: matrix products that are only ever added up are added as they are computed.

``s = x + y`` with products ``x`` and ``y`` that nothing else reads becomes ``y = x + a*b``: a library that
multiplies matrices adds the product to another matrix on the way, and neither is written and read once more.
Products element by element go into the sum that reads them, for libraries that add those on the way too.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.nodes import Expr, Product, Program, Read, Statement, Sum, map_reads, use_counts
from ..ir.verify import verify


def accumulate(program: Program) -> Program:
    """Write sums of products as chains: every product but the first is added to the sum of those before it.

    Other terms of a sum are added last.

    Parameters
    ----------
    program : Program
        A lowered program.

    Returns
    -------
    Program
        The same values; the last product of a chain has the name of the sum.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> from dtn_core.printer import to_notation
    >>> f = parse('''f(a[n,d], b[d,e], c[n,d], g[d,e]) -> o[n,e]:
    ...     x[i,j] = a[i,s]*b[s,j]
    ...     y[i,j] = c[i,s]*g[s,j]
    ...     o[i,j] = x[i,j] + y[i,j]''')
    >>> print(to_notation(accumulate(f)))
    f(a[n,d], b[d,e], c[n,d], g[d,e]) -> o[n,e]:
        x[i,j] = a[i,s] * b[s,j]
        o[i,j] = x[i,j] + c[i,s] * g[s,j]
    """
    uses = use_counts(program)
    products = {s.name: s for s in program.statements if is_matrix_product(s) and uses[s.name] == 1}
    changed: dict[str, Statement | None] = {}
    for total in program.statements:
        if total.order or not isinstance(total.value, Sum):
            continue
        reads = [t for t in total.value.terms if isinstance(t, Read) and t.tensor in products]
        added = {t.tensor: t for t in reads if t.indices == total.indices}
        if len(added) < 2:
            continue
        others = tuple(t for t in total.value.terms if t not in added.values())
        before, *rest = [name for name in products if name in added]
        for name in rest:
            own = products[name]
            made = total.name if name == rest[-1] and not others else name
            changed[name] = replace(own, name=made, value=Sum((Read(before, own.indices), own.value)))
            before = made
        changed[total.name] = replace(total, value=Sum((added[before], *others))) if others else None
    statements = [changed.get(s.name, s) for s in program.statements]
    return verify(replace(program, statements=tuple(s for s in statements if s is not None)))


def accumulate_each(program: Program) -> Program:
    """Write products, element by element, that only one sum reads into that sum, after its other terms.

    A library that adds a product to a tensor in one operation does not write and read it in between.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> from dtn_core.printer import to_notation
    >>> f = parse('''f(a[n,d], b[n], c[n,d]) -> o[n,d]:
    ...     x[i,j] = b[i]*c[i,j]
    ...     o[i,j] = a[i,j] + x[i,j]''')
    >>> print(to_notation(accumulate_each(f)))
    f(a[n,d], b[n], c[n,d]) -> o[n,d]:
        o[i,j] = a[i,j] + b[i] * c[i,j]
    """
    uses = use_counts(program)
    products = {s.name: s for s in program.statements if uses[s.name] == 1 and is_product_of_each(s)}
    written: set[str] = set()
    statements = []
    for total in program.statements:
        if isinstance(total.value, Sum) and not total.order:
            reads = [t for t in total.value.terms if isinstance(t, Read) and t.indices == total.indices]
            taken = {t: _of(products[t.tensor], t) for t in reads if t.tensor in products}
            others = tuple(t for t in total.value.terms if t not in taken)
            written.update(read.tensor for read in taken)
            total = replace(total, value=Sum((*others, *taken.values())))
        statements.append(total)
    return verify(replace(program, statements=tuple(s for s in statements if s.name not in written)))


def _of(statement: Statement, read: Read) -> Expr:
    """The value of a product of tensors, element by element, under the indices that it is read with."""
    names = dict(zip(statement.indices, read.indices, strict=True))
    return map_reads(statement.value, lambda factor: Read(factor.tensor, tuple(names[i] for i in factor.indices)))


def is_product_of_each(statement: Statement) -> bool:
    """Whether a statement is the product of two tensors, element by element."""
    value = statement.value
    if not isinstance(value, Product) or statement.order or len(value.factors) != 2:
        return False
    owns = [f.indices if isinstance(f, Read) else () for f in value.factors]
    return all(own and len({*own}) == len(own) and {*own} <= {*statement.indices} for own in owns)


def is_matrix_product(statement: Statement) -> bool:
    """Whether a statement is the product of two matrices, summed over one axis."""
    value = statement.value
    if not isinstance(value, Product) or statement.order or len(value.factors) != 2:
        return False
    left, right = (set(f.indices) if isinstance(f, Read) else set() for f in value.factors)
    return len(left) == len(right) == len(statement.indices) == 2 and len(left & right - {*statement.indices}) == 1


def added_product(statement: Statement) -> tuple[str, Product] | None:
    """The tensor and the product of two matrices that a statement adds up, if it is that."""
    match statement.value:
        case Sum((Read(before, indices), Product() as product)) if indices == statement.indices:
            return (before, product) if is_matrix_product(replace(statement, value=product)) else None
    return None
