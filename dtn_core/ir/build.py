"""How passes build programs: unique names, equal statements shared, dead ones dropped."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .nodes import (
    Apply,
    Expr,
    Index,
    MatrixFunction,
    Product,
    Program,
    Read,
    Relation,
    Statement,
    Sum,
    factors_of,
    indices_of,
    map_statement,
    statement_reads,
)
from .verify import verify

MAX_COMMUTED = 4


def fresh_index(hint: str, axis: str, taken: set[str]) -> Index:
    """An index over ``axis`` whose name, ``hint`` if that is free, is not ``taken``; from now on it is."""
    stem = hint.rstrip("0123456789")
    names = itertools.chain([hint], (f"{stem}{number}" for number in itertools.count(2)))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    return Index(name, axis)


def fresh_name(hint: str, taken: set[str]) -> str:
    """A name of a tensor, ``hint`` if that is free, that is not ``taken``; from now on it is."""
    names = itertools.chain([hint], (f"{hint}_{number}" for number in itertools.count(2)))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    return name


class Builder:
    """Collects statements; a statement equal to an earlier one up to index names is not repeated."""

    def __init__(self, program: Program) -> None:
        self.source = program
        self.statements: list[Statement] = []
        self.taken = {param.name for param in program.params} | set(program.axes) | {o.name for o in program.outputs}
        self.known: dict[object, tuple[str, tuple[int, ...]]] = {}
        self.aliases: dict[str, tuple[tuple[Index, ...], Read]] = {}

    def fresh(self, hint: str) -> str:
        """A name not used yet, ``hint`` itself when it is free."""
        return fresh_name(hint, self.taken)

    def define(self, hint: str, indices: Sequence[Index], value: Expr, order: tuple[Relation, ...] = ()) -> Read:
        """Assign ``value`` to a tensor over ``indices`` and return its read (of an equal one, if there is)."""
        if isinstance(value, Read) and not order and len(set(value.indices)) == len(value.indices) == len(indices):
            return value  # a copy or a transpose is a way of reading, not a computation
        key, canonical = canonical_key(tuple(indices), value, order)
        if key in self.known:
            name, places = self.known[key]
            by_place = {place: index for index, place in canonical.items()}
            return Read(name, tuple(by_place[place] for place in places))
        name = self.fresh(hint)
        self.statements.append(Statement(name, tuple(indices), value, order))
        self.known[key] = (name, tuple(canonical[index] for index in indices))
        return Read(name, tuple(indices))

    def alias(self, name: str, indices: Sequence[Index], read: Read) -> None:
        """Remember that what the source program calls ``name``, over ``indices``, is read by ``read`` here."""
        self.aliases[name] = (tuple(indices), read)

    def resolve(self, read: Read) -> Read:
        """The read of the source program, as it is read in the program being built."""
        if read.tensor not in self.aliases:
            return read
        indices, stored = self.aliases[read.tensor]
        names = dict(zip(indices, read.indices, strict=True))
        return Read(stored.tensor, tuple(names[index] for index in stored.indices))

    def finish(self) -> Program:
        """The program with its declared outputs and without dead statements, verified."""
        statements = list(self.statements)
        renames: dict[str, str] = {}
        for output in self.source.outputs:
            indices, read = self.aliases[output.name]
            computed = any(statement.name == read.tensor for statement in statements)
            if computed and read.tensor not in renames and read.indices == indices:
                renames[read.tensor] = output.name
            else:
                statements.append(Statement(output.name, indices, read))
        statements = [
            map_statement(
                replace(s, name=renames.get(s.name, s.name)),
                lambda r: Read(renames.get(r.tensor, r.tensor), r.indices),
            )
            for s in statements
        ]
        return verify(pruned(replace(self.source, statements=tuple(statements))))


def pruned(program: Program) -> Program:
    """``program`` without the statements that no output needs."""
    live = {output.name for output in program.outputs}
    kept: list[Statement] = []
    for statement in reversed(program.statements):
        if statement.name in live:
            kept.append(statement)
            live.update(read.tensor for read in statement_reads(statement))
    return replace(program, statements=tuple(reversed(kept)))


def canonical_key(
    indices: tuple[Index, ...], value: Expr, order: tuple[Relation, ...]
) -> tuple[object, dict[Index, int]]:
    """A key equal for statements that differ in index names, factor order and the order on the left."""
    factors = factors_of(value)
    orders: Iterable[tuple[Expr, ...]] = [factors]
    if isinstance(value, Product) and len(factors) <= MAX_COMMUTED:
        orders = itertools.permutations(factors)
    best: tuple[str, dict[Index, int]] | None = None
    for arrangement in orders:
        shown = Product(arrangement) if isinstance(value, Product) else value
        found = list(indices_of(shown))
        found += [i for r in order for i in (r.lower, r.upper) if i not in found]
        found += [i for i in indices if i not in found]
        places = {index: place for place, index in enumerate(found)}
        relations = sorted(f"{places[r.lower]}{r.sign}{places[r.upper]}{r.decay}" for r in order)
        left = sorted(places[index] for index in indices)
        axes = [index.axis for index in found]
        text = f"{left}{axes}{relations}{_shown(shown, places)}"
        if best is None or text < best[0]:
            best = (text, places)
    assert best is not None
    return best


def _shown(expr: Expr, places: dict[Index, int]) -> str:
    match expr:
        case Read(tensor, indices):
            return f"{tensor}[{','.join(str(places[index]) for index in indices)}]"
        case Apply(function, operands):
            return f"{function}({','.join(_shown(operand, places) for operand in operands)})"
        case Product(factors):
            return "*".join(_shown(factor, places) for factor in factors)
        case Sum(terms):
            return "(" + "+".join(_shown(term, places) for term in terms) + ")"
        case MatrixFunction(function, grid, block, indices):
            cells = ";".join(",".join("0" if c is None else _shown(c, places) for c in row) for row in grid)
            return f"{function}<{cells}>{block}{[places[i] for i in indices]}"
    return repr(expr)
