"""divide: a reciprocal that one product reads becomes a division there."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..ir.nodes import Apply, Expr, Product, Program, Read, Statement, product, reads, statement_reads
from ..ir.verify import verify


def divide(program: Program) -> Program:
    """Write ``inv = 1 / r; y = inv * x`` as ``y = x / r`` where nothing else reads ``inv``.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> from dtn_core.printer import to_notation
    >>> print(to_notation(divide(parse('''f(x[n], r) -> y[n]:
    ...     inv = 1 / r
    ...     y[i] = inv * x[i]'''))))
    f(x[n], r) -> y[n]:
        y[i] = x[i] / r
    """
    uses = Counter(read.tensor for statement in program.statements for read in statement_reads(statement))
    outputs = {output.name for output in program.outputs}
    inverses = {
        s.name: s for s in program.statements if uses[s.name] == 1 and s.name not in outputs and _is_reciprocal(s)
    }
    used: set[str] = set()
    statements = [_rewritten(statement, inverses, used) for statement in program.statements]
    return verify(replace(program, statements=tuple(s for s in statements if s.name not in used)))


def _is_reciprocal(statement: Statement) -> bool:
    value = statement.value
    if not isinstance(value, Apply) or value.function != "recip":
        return False
    operand = value.operands[0]
    return isinstance(operand, Read) and set(operand.indices) == set(statement.indices)


def _rewritten(statement: Statement, inverses: dict[str, Statement], used: set[str]) -> Statement:
    value = statement.value
    if not isinstance(value, Product) or statement.order:
        return statement
    tensors = [factor for factor in value.factors if reads(factor)]
    summed = {index for read in reads(value) for index in read.indices} - set(statement.indices)
    if len(tensors) != 2 or summed:
        return statement
    divisors: list[Expr] = []
    rest: list[Expr] = []
    for factor in value.factors:
        if isinstance(factor, Read) and factor.tensor in inverses and not divisors:
            source = inverses[factor.tensor]
            names = dict(zip(source.indices, factor.indices, strict=True))
            assert isinstance(source.value, Apply)
            operand = source.value.operands[0]
            assert isinstance(operand, Read)
            divisors.append(Apply("recip", (Read(operand.tensor, tuple(names[i] for i in operand.indices)),)))
            used.add(factor.tensor)
        else:
            rest.append(factor)
    return replace(statement, value=product(*rest, *divisors)) if divisors else statement
