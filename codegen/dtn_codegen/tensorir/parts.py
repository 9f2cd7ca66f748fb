"""Sequences in parts that are computed side by side: states have to be known where a part begins.

They are summed first, level by level: a walk over every part for the states that tokens alone make up, then one for
those that need them, and so on.  Each begins with what all parts before it have summed; what reads them all is last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from dtn_core.ir.nodes import Statement, statement_reads
from dtn_core.passes.stream import State

from .dependencies import depending, levels, needed
from .walks import Carried


@dataclass(frozen=True)
class Part:
    """What is done on a walk over a part of a sequence.

    Attributes
    ----------
    body : tuple[Statement, ...]
        Of a chunk.
    whole, partial : tuple[State, ...]
        The states that are carried on from what all earlier parts have summed, and those whose sum over the part is
        taken.
    loaded, stored : tuple[str, ...]
        Tensors that it reads from memory, and those of tokens that it writes there.
    """

    body: tuple[Statement, ...]
    whole: tuple[State, ...] = ()
    partial: tuple[State, ...] = ()
    loaded: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()

    @property
    def states(self) -> tuple[State, ...]:
        """All that are carried."""
        return (*self.whole, *self.partial)

    def carried(self, known: Iterable[Carried]) -> list[Carried]:
        """Its states as carried tensors, each as it is among ``known``."""
        by_name = {carried.name: carried for carried in known}
        return [replace(by_name[state.name], partial=state in self.partial) for state in self.states]


def by_level(
    statements: Sequence[Statement],
    states: Sequence[State],
    axis: str,
    wanted: Collection[str],
    *,
    held: Collection[str] = (),
    known: Collection[str] = (),
    later: Collection[str] = (),
) -> list[Part]:
    """A walk for each level of states, then the one that computes what is wanted.

    Tensors of tokens that needed a state are stored, so that later walks need neither compute them again nor know
    that state.

    Parameters
    ----------
    statements : sequence of Statement
        Of a chunk.
    states : sequence of State
    axis : str
        Of the tokens.
    wanted : collection of str
        What the last walk computes.
    held : collection of str
        States that the last walk carries whether it reads them or not.
    known : collection of str
        Tensors that lie in memory.
    later : collection of str
        What is computed after all these walks.
    """
    level_of = levels(statements, states)
    loaded = {*known}
    found = []
    for level in range(max(level_of.values(), default=-1) + 2):
        own = tuple(state for state in states if level_of[state.name] == level)
        below = tuple(state for state in states if level_of[state.name] < level)
        needs = {state.added for state in own} or {*wanted}
        carried = set() if own else {*held}
        while True:  # a state that is read has to be kept up to date
            lower = tuple(state for state in below if state.name in carried)
            body = needed(statements, needs | {state.added for state in lower}, loaded)
            reads = {read.tensor for statement in body for read in statement_reads(statement)}
            if all(state in lower for state in below if state.name in reads):
                break
            carried |= reads
        after = {*later, *(wanted if own else ()), *(s.added for s in states if level_of[s.name] > level)}
        made = {s.name for s in depending(body, {s.name for s in states} | loaded) if s.axes.count(axis) == 1}
        remaining = needed(statements, after, loaded | made)
        stored = {read.tensor for statement in remaining for read in statement_reads(statement)} & made
        found.append(Part(tuple(body), lower, own, tuple(sorted(loaded & reads)), tuple(sorted(stored))))
        loaded |= stored
    return found
