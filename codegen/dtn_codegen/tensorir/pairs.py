"""Pairs of feature axes as one axis: a tensor over tokens and two features is a matrix with a column for every pair.

A state that is read by ``q[i,a] · k[i,b]`` (``product="hadamard"``) has three axes, two of which only ever occur
together.  With both as one it is a matrix, and what reads it and adds to it are matrix products.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dtn_core.errors import CompileError
from dtn_core.ir.build import pruned
from dtn_core.ir.nodes import (
    ONES,
    Index,
    Param,
    Program,
    Read,
    Statement,
    indices_of,
    map_statement,
    node,
    reads,
    statement_reads,
)
from dtn_core.ir.terms import Factor, Term, single_term
from dtn_core.passes.stream import State, Stream


@node
class PairIndex(Index):
    """An index over all pairs of two others."""

    parts: tuple[Index, Index]


def parts_of(indices: Iterable[Index]) -> tuple[Index, ...]:
    """``indices``, and those that pairs among them are made of."""
    found = tuple(indices)
    return (*found, *(part for index in found if isinstance(index, PairIndex) for part in index.parts))


def second_of(index: Index) -> tuple[Index, ...]:
    """What runs along with an index over pairs, which counts through the second of each first."""
    return index.parts[1:] if isinstance(index, PairIndex) else ()


def taken_apart(indices: Iterable[Index]) -> set[Index]:
    """Pairs among ``indices`` that say nothing: what they are made of is there as well."""
    found = set(indices)
    return {index for index in found if isinstance(index, PairIndex) and found.issuperset(index.parts)}


def paired(
    program: Program, axis: str, states: Iterable[State], rank: int
) -> tuple[Program, dict[str, tuple[str, str]]]:
    """A program whose tensors of more than ``rank`` axes have two of them as one.

    Parameters
    ----------
    program : Program
        What is computed of a chunk, or its gradient, best with states :func:`associated`.
    axis : str
        Of the tokens.
    states : iterable of State
        That the program reads and adds to.
    rank : int

    Returns
    -------
    tuple
        The program, and for each axis of pairs the two that it is made of.

    Raises
    ------
    CompileError
        If a tensor has too many axes, or two of its features do not always occur together.
    """
    found = _Pairs(program, axis, states, rank)
    return found.run(), found.axis_pairs


def associated(program: Program, stream: Stream, rank: int) -> Program:
    """``program`` whose wide states add up products of a tensor over their pair of features and one over the rest."""
    wide = {state.added: state.name for state in stream.states if len(state.axes) > rank}
    places = {name: _place(program, stream.axis, state) for name, state in wide.items()}
    if all(place is None for place in places.values()):
        return program
    written = {s.name: s for s in stream.chunk.statements if s.name in wide}
    known = {p.name for p in program.params} | {s.name for s in program.statements}
    made: list[Statement] = []
    for statement in program.statements:
        place = places.get(statement.name)
        if place is None:
            made.append(statement)
        else:
            made += _separated(written[statement.name], stream.axis, place, known) or [statement]
    return pruned(replace(program, statements=tuple(made)))


def _place(program: Program, axis: str, state: str) -> int | None:
    """Where among the axes of ``state`` are the two that a tensor of tokens has together."""
    for statement in program.statements:
        found = statement_reads(statement)
        pairs = [{*read.indices[1:]} for read in found if len(read.indices) > 2 and read.indices[0].axis == axis]
        for read in (read for read in found if read.tensor == state):
            for place in range(len(read.indices) - 1):
                if {*read.indices[place : place + 2]} in pairs:
                    return place
    return None


def _separated(statement: Statement, axis: str, place: int, known: set[str]) -> list[Statement]:
    """What is added to a state, by way of a tensor over its pair and one over the rest; empty if that cannot be."""
    pair = {*statement.indices[place : place + 2]}
    term = single_term(statement)
    if term is None or any(read.tensor not in known for f in term.factors for read in reads(f.expression())):
        return []
    inside = [f for f in term.factors if pair & {*f.indices}]
    rest = [f for f in term.factors if not pair & {*f.indices}]
    if any(index not in pair and index.axis != axis for factor in inside for index in factor.indices):
        return []
    made, factors = [], []
    for suffix, chosen in (("pair", inside), ("rest", rest)):
        if len(chosen) < 2 and suffix == "rest":
            factors += chosen
            continue
        indices = tuple(dict.fromkeys(index for factor in chosen for index in factor.indices))
        tokens = tuple(index for index in indices if index.axis == axis)
        features = [index for index in statement.indices if index in indices]
        part = Statement(f"{statement.name}_{suffix}", (*tokens, *features), Term((), tuple(chosen)).expression())
        made.append(part)
        factors.append(Factor(Read(part.name, part.indices)))
    return [*made, replace(statement, value=Term(term.coefficient, tuple(factors)).expression())]


class _Pairs:
    def __init__(self, program: Program, axis: str, states: Iterable[State], rank: int) -> None:
        self.program = program
        self.axis = axis
        self.rank = rank
        self.axes = {p.name: p.axes for p in program.params} | {s.name: s.axes for s in program.statements}
        self.defined = {s.name: s for s in program.statements}
        self.places: dict[str, int | None] = {}  # of the pair among a tensor's axes, None where it has none
        self.states = {state.added: state.name for state in states}  # its pair is in the same place
        self.turns: dict[str, str] = {}
        self.axis_pairs: dict[str, tuple[str, str]] = {}
        self.made: list[Statement] = []

    def run(self) -> Program:
        """The program."""
        wide = [name for name, axes in self.axes.items() if len(axes) > self.rank]
        if not wide:
            return self.program
        for name in wide:
            axes = self.axes[name]
            if len(axes) > self.rank + 1 or self.axis in axes[1:]:
                raise CompileError(f"{name} has {len(axes)} axes; a tile has {self.rank}")
            if axes[0] == self.axis:
                self.places[name] = 1
        for statement in self.program.statements:
            self.made.append(self.rewritten(statement))
        for added, state in self.states.items():
            if self.places.get(added) != self.places.get(state):
                raise CompileError(f"{state} has a pair of features in one place and {added} in another")
        params, outputs = (tuple(map(self.param, given)) for given in (self.program.params, self.program.outputs))
        return replace(self.program, params=params, outputs=outputs, statements=tuple(self.made))

    def param(self, param: Param) -> Param:
        """A parameter or output with its pair."""
        place = self.places.get(param.name)
        return param if place is None else Param(param.name, self.merged(param.axes, place))

    def merged(self, axes: tuple[str, ...], place: int) -> tuple[str, ...]:
        first, second = axes[place : place + 2]
        self.axis_pairs[f"{first}*{second}"] = (first, second)
        return (*axes[:place], f"{first}*{second}", *axes[place + 2 :])

    def rewritten(self, statement: Statement) -> Statement:
        """The statement with its pair of indices as one."""
        left = Read(statement.name, statement.indices)
        pair = self.pair(left, [left, *reads(statement.value)])
        if pair is None:
            for read in (left, *reads(statement.value)):
                self.settle(read.tensor, None)
            return statement
        first, second = pair
        index = PairIndex(f"{first.name}_{second.name}", f"{first.axis}*{second.axis}", pair)
        self.axis_pairs[index.axis] = (first.axis, second.axis)

        def change(read: Read) -> Read:
            if read.indices.count(first) != 1 or read.indices.count(second) != 1:
                self.settle(read.tensor, None)
                return read
            place = read.indices.index(first)
            if read.indices[place + 1 : place + 2] != (second,):
                return change(Read(self.turned(read.tensor), (*read.indices[:-2], *read.indices[:-3:-1])))
            self.settle(read.tensor, place)
            return Read(read.tensor, (*read.indices[:place], index, *read.indices[place + 2 :]))

        return replace(map_statement(statement, change), indices=change(left).indices)

    def pair(self, left: Read, found: list[Read]) -> tuple[Index, Index] | None:
        """The two indices of a statement that are to be one, in the order of a tensor that cannot be turned."""
        candidates = [read for read in found if len(read.indices) > self.rank and read.tensor != ONES]
        fixed = [r for r in candidates if r is left or not self.can_turn(r.tensor)]
        tokens = [r for r in candidates if self.axes[r.tensor][0] == self.axis]
        for read in (*fixed, *candidates):
            place = self.places.get(read.tensor)
            if place is None and tokens and read not in tokens:  # of a state, said by the first tensor that reads it
                wanted = {*tokens[0].indices[1:]}
                place = next((p for p in range(self.rank) if {*read.indices[p : p + 2]} == wanted), None)
            if place is not None:
                first, second = read.indices[place : place + 2]
                return first, second
        return None

    def settle(self, tensor: str, place: int | None) -> None:
        """Say where the pair of a tensor is; it is there in all statements."""
        if self.places.setdefault(tensor, place) != place:
            raise CompileError(f"{tensor} has a pair of features in one place and not in another")

    def can_turn(self, name: str) -> bool:
        """Whether a tensor costs next to nothing to compute a second time, its last two axes exchanged."""
        source = self.defined.get(name)
        if source is None or source.order or not set(indices_of(source.value)) <= set(source.indices):
            return False
        return all(self.can_turn(read.tensor) for read in reads(source.value) if len(read.indices) > self.rank)

    def turned(self, name: str) -> str:
        """The tensor of which the last two axes are exchanged; it is computed a second time."""
        made = self.turns.get(name)
        if made is None:
            if not self.can_turn(name):
                raise CompileError(f"{name} is read with its axes in another order")
            source, made = self.defined[name], f"{name}_turned"
            while made in self.axes:
                made += "_"
            self.turns[name] = made
            self.places[made] = 1
            self.axes[made] = (*source.axes[:-2], *source.axes[:-3:-1])
            *rest, first, second = source.indices
            self.made.append(self.rewritten(replace(source, name=made, indices=(*rest, second, first))))
        return made
