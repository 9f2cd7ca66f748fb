"""mirror: order that runs backwards, ``where t <= i``, as order that runs forwards over the tokens turned round.

What is summed from the last token to the first is named anew and reads its tokens turned round; it is turned back where
the chunks have made it.  An operator may run both ways, as long as no sum of one way reads one of the other: what is
made of both is computed after the chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import CompileError
from ..ir.axes import sums_over
from ..ir.build import fresh_name
from ..ir.nodes import Program, Read, Relation, Statement, map_statement, statement_reads


@dataclass(frozen=True)
class Mirrored:
    """A program whose orders run forwards.

    Attributes
    ----------
    program : Program
        Its statements that run backwards, and what those read along the tokens, have names of their own.
    names : dict[str, str]
        For each of those names, what is turned round: an argument or a statement that is read, or what is made.
    axes : dict[str, tuple[str, ...]]
        The axes of both.
    """

    program: Program
    names: dict[str, str]
    axes: dict[str, tuple[str, ...]]


def mirror(program: Program, axis: str) -> Mirrored:
    """Turn round what runs backwards along ``axis``.

    Raises
    ------
    CompileError
        If a sum of one way reads one of the other.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> from dtn_core.printer import print_statement
    >>> program = parse('''both(x[n]) -> y[n]:
    ...     p[t] = x[i]   where i <= t
    ...     f[t] = x[i]   where t < i
    ...     y[t] = p[t] * f[t]''')
    >>> found = mirror(program, "n")
    >>> for statement in found.program.statements:
    ...     print(print_statement(statement))
    p[t] = x[i]   where i <= t
    f_mirrored[t] = x_mirrored[i]   where i < t
    y[t] = p[t] * f[t]
    >>> found.names
    {'f_mirrored': 'f', 'x_mirrored': 'x'}
    """
    axes = {param.name: param.axes for param in program.params} | {s.name: s.axes for s in program.statements}
    taken = {*axes, *program.axes}
    ways: dict[str, set[bool]] = {}
    late: set[str] = set()
    names: dict[str, str] = {}
    made: list[Statement] = []

    def turned(read: Read) -> Read:
        if axis not in axes.get(read.tensor, ()):
            return read
        if read.tensor not in names:
            names[read.tensor] = fresh_name(f"{read.tensor}_mirrored", taken)
        return Read(names[read.tensor], read.indices)

    for statement in program.statements:
        name, sources = statement.name, {read.tensor for read in statement_reads(statement)}
        own = {relation.lower in statement.indices for relation in statement.order if not relation.equal}
        ways[name] = own.union(*(ways.get(source, set()) for source in sources))
        if len(ways[name]) > 1 and statement.order:
            raise CompileError(
                f"{program.name}: {name} sums what runs one way in the other; chunks run one way at a time, "
                "so write it as an operator of its own"
            )
        if len(ways[name]) > 1 or sources & late or (ways[name] and sums_over(statement, axis)):
            late.add(name)
        if True not in ways[name] or name in late:
            made.append(statement)
            continue
        order = tuple(map(_forwards, statement.order))
        made.append(map_statement(replace(statement, name=turned(Read(name)).tensor, order=order), turned))
    inside = {new: old for old, new in names.items()}
    axes |= {new: axes[old] for new, old in inside.items()}
    return Mirrored(replace(program, statements=tuple(made)), inside, axes)


def _forwards(relation: Relation) -> Relation:
    return relation if relation.equal else replace(relation, lower=relation.upper, upper=relation.lower)
