"""Which axes are sequences, and what a rewriting may therefore treat as long."""

from __future__ import annotations

from .nodes import Program, Statement, all_indices


def sequence_axes(program: Program) -> tuple[str, ...]:
    """The sequence (token) axes of an operator.

    Those of ordered indices; without any order, the first axis of the first output when it also is the
    first axis of a tensor of rank 2 or more (the convention ``x[n,d]``).

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> sequence_axes(parse("f(x[n,d], w[d,e]) -> y[n,e]: y[i,c] = x[i,a] * w[a,c]"))
    ('n',)
    """
    ordered = {
        relation.upper.axis for statement in program.statements for relation in statement.order if not relation.equal
    }
    if not ordered:
        leading = {param.axes[0] for param in program.params if len(param.axes) > 1}
        ordered = leading.intersection(program.outputs[0].axes[:1])
    return tuple(axis for axis in program.axes if axis in ordered)


def sums_over(statement: Statement, axis: str) -> bool:
    """Whether a statement sums over ``axis`` without an order."""
    ordered = {index for relation in statement.order for index in (relation.lower, relation.upper)}
    summed = set(all_indices(statement)) - set(statement.indices) - ordered
    return any(index.axis == axis for index in summed)
