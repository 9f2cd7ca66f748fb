"""Low-rank matrix exponential: ``e^{U Wᵀ} = I + U φ₁(Wᵀ U) Wᵀ`` with ``φ₁(X) = (eˣ − I) / X``.

The identity is exact (compare the power series; checked in tests/core).  It turns the exponential of an
n×n matrix of rank d into that of a d×d one.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.axes import sequence_axes
from ..ir.build import Builder, fresh_index
from ..ir.nodes import ONES, Expr, Index, MatrixFunction, Program, Read, Relation, Statement, product, sum_of
from ..ir.terms import Term, single_term


def low_rank(program: Program) -> Program:
    """Rewrite every exponential of a low-rank n×n matrix, in a flattened program."""
    long = sequence_axes(program)
    if not any(_is_long_expm(statement, long) for statement in program.statements):
        return program
    builder = Builder(program)
    defined = {statement.name: statement for statement in program.statements}
    builder.taken.update(defined)
    for statement in program.statements:
        if _is_long_expm(statement, long):
            split = _split(defined, statement)
            if not isinstance(split, str):
                _rewrite(builder, statement, *split)
                continue
        builder.statements.append(statement)
    for output in program.outputs:
        indices = defined[output.name].indices
        builder.alias(output.name, indices, Read(output.name, indices))
    return builder.finish()


def why_not(program: Program) -> dict[str, str]:
    """For every n×n exponential left in ``program``, why it has no low-rank form."""
    long = sequence_axes(program)
    defined = {statement.name: statement for statement in program.statements}
    found = {}
    for statement in program.statements:
        if _is_long_expm(statement, long):
            split = _split(defined, statement)
            found[statement.name] = split if isinstance(split, str) else "it was not rewritten"
    return found


def _is_long_expm(statement: Statement, long: tuple[str, ...]) -> bool:
    value = statement.value
    return (
        isinstance(value, MatrixFunction)
        and value.function == "expm"
        and len(value.grid) == 1
        and len(value.indices) == 2
        and value.indices[0].axis in long
    )


def _split(defined: dict[str, Statement], statement: Statement) -> tuple[Term, Index] | str:
    """The matrix as one term over the exponential's indices, with the index that joins U and W; or why not."""
    value = statement.value
    assert isinstance(value, MatrixFunction)
    cell = value.grid[0][0]
    assert cell is not None
    source = defined.get(cell.tensor)
    term = None if source is None else single_term(source)
    if source is None or term is None:
        return "its matrix is not a product of tensors"
    if term.order:
        return "its matrix is masked, and a masked matrix is not of low rank"
    places = dict(zip(cell.indices, source.indices, strict=True))
    row, column = (places[index] for index in value.indices)  # the matrix may be read transposed
    right = tuple(factor for factor in term.factors if column in factor.indices)
    left = tuple(factor for factor in term.factors if column not in factor.indices)
    if any(row in factor.indices for factor in right):
        return "a factor ties its row to its column"
    shared = {i for f in right for i in f.indices} & {i for f in left for i in f.indices}
    if len(shared) != 1:
        axes = " × ".join(sorted(index.axis for index in shared)) or "1"
        return f"its rank is the product of several axes ({axes})"
    names = {row: value.indices[0], column: value.indices[1]}
    taken = {index.name for index in value.indices}
    for index in term.indices():
        if index not in names:
            names[index] = fresh_index(index.name, index.axis, taken)
    return Term(term.coefficient, term.factors).rename(names), names[shared.pop()]


def _rewrite(builder: Builder, statement: Statement, term: Term, bond: Index) -> None:
    value = statement.value
    assert isinstance(value, MatrixFunction)
    row, column = value.indices
    left = Term(term.coefficient, tuple(factor for factor in term.factors if column not in factor.indices))
    right = Term((), tuple(factor for factor in term.factors if column in factor.indices))
    name = statement.name
    names = {index.name for index in (*term.indices(), *value.indices)}
    other, token = (fresh_index(f"{index.name}_", index.axis, names) for index in (bond, column))
    # U and W stay products here: of Wᵀ U much may exist already, and neither may be worth having whole
    gram = product(_value(right, {column: token}), _value(left, {row: token, bond: other}))
    inner = builder.define(f"{name}_gram", (bond, other), gram)
    phi = builder.define(f"{name}_phi", (bond, other), MatrixFunction("phi1", ((inner,),), (0, 0), (bond, other)))
    spread = product(_value(left), phi, _value(right, {bond: other}))
    correction = builder.define(f"{name}_low", (row, column), spread)
    identity = builder.define(
        f"{name}_eye", (row, column), Read(ONES, (row, column)), (Relation(row, column, sign="=="),)
    )
    builder.statements.append(Statement(name, statement.indices, sum_of(identity, correction)))


def _value(term: Term, names: Mapping[Index, Index] | None = None) -> Expr:
    return term.rename(names or {}).expression()
