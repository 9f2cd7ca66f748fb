"""Statements sorted into walks: one is needed for each time that a sum over all tokens is read by tokens again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import (
    Expr,
    Param,
    Program,
    Read,
    Statement,
    indices_of,
    statement_reads,
    sum_of,
    terms_of,
)
from dtn_core.passes.pipeline import Chunked
from dtn_core.passes.stream import State

from .dependencies import hoisted, needed
from .parts import by_level
from .states import carry, total, weight_axes
from .steps import Step, fuse
from .walks import TileProgram, Walk


class Staged:
    """Sorts statements into walks: one is needed for each time that a sum over all tokens is read by tokens again."""

    def __init__(
        self,
        program: Program,
        axis: str,
        params: Sequence[Param],
        outputs: Sequence[Param],
        chunked: Chunked | None = None,
        *,
        split: bool = False,
    ) -> None:
        self.split = split
        self.program = program
        self.params = tuple(params)
        self.outputs = tuple(outputs)
        self.axis = axis
        self.chunked = chunked
        self.stages: dict[str, int] = {}
        self.axes = {p.name: p.axes for p in self.params}
        self.tokens: list[Statement] = []
        self.sums: list[tuple[int, Statement]] = []
        self.small: list[tuple[int, Statement]] = []
        self.elsewhere: set[str] = set()  # outputs that are computed by walks of another kind

    def build(self, states: Sequence[State]) -> TileProgram:
        weights = self.chunked.stream.weights if self.chunked is not None else ()
        self.axes |= weight_axes(weights, self.axis)
        for state in states:
            self.axes.update({state.name: state.axes, state.added: state.axes})
        inside = {s.name for s in self.chunked.chunk.statements} if self.chunked is not None else set()
        last = 0
        if self.chunked is not None and self.chunked.before is not None:
            for statement in self.chunked.before.statements:
                self.place(statement)
            last = max((self.stages[o.name] for o in self.chunked.before.outputs), default=0)
        for statement in self.program.statements:
            if statement.name in inside:
                self.axes[statement.name] = statement.axes
                self.stages[statement.name] = last
                self.tokens.append(statement)
            elif statement.name not in self.stages:
                self.place(statement)
        targets = [o.name for o in self.outputs]
        final = max([last, *(self.stages[name] for name in targets if self.axis in self.axes[name])])
        count = 1 + max([final, *(stage for stage, _ in self.sums)])
        walks: list[Walk] = []
        for stage in range(count):
            here = states if stage == last else ()
            walks += self.parts(stage, here) if self.split and here else [self.walk(stage, here)]
        tail = fuse([s for stage, s in self.small if stage == count], targets)
        return TileProgram(
            self.program.name, self.axis, self.params, self.outputs, tuple(walks), tail, tuple(weights), self.axes
        )

    def place(self, statement: Statement) -> None:
        """Find the first walk that can compute ``statement``."""
        self.axes[statement.name] = statement.axes
        stage = max((self.stages.get(r.tensor, 0) for r in statement_reads(statement)), default=0)
        if statement.axes.count(self.axis) > 1:
            raise CompileError(f"{self.program.name}: {statement.name} has two axes {self.axis}; that has no kernel")
        left = set(statement.indices)
        summing = [
            term for term in terms_of(statement.value) if any(i.axis == self.axis for i in set(indices_of(term)) - left)
        ]
        if not summing:
            self.stages[statement.name] = stage
            if self.axis in statement.axes:
                self.tokens.append(statement)
            else:
                self.small.append((stage, statement))
            return
        if self.axis in statement.axes or any(i.axis == self.axis for r in statement.order for i in (r.lower, r.upper)):
            raise CompileError(f"{self.program.name}: {statement.name} ties every token to every other; no kernel")
        rest = [term for term in terms_of(statement.value) if term not in summing]
        name = f"{statement.name}_total" if rest else statement.name
        self.axes[name] = statement.axes
        self.sums.append((stage, replace(statement, name=name, value=sum_of(*summing))))
        self.stages[name] = self.stages[statement.name] = stage + 1
        if rest:
            whole: Expr = sum_of(Read(name, statement.indices), *rest)
            self.small.append((stage + 1, replace(statement, value=whole)))

    def walk(
        self, stage: int, states: Sequence[State], *, stored: Sequence[str] = (), known: Collection[str] = ()
    ) -> Walk:
        """The walk that computes everything of ``stage``; of tokens, tensors that are ``known`` lie in memory."""
        sums = [statement for at, statement in self.sums if at == stage]
        results = self.results(stage)
        wanted = {*results, *(s.added for s in states), *(r.tensor for s in sums for r in statement_reads(s))}
        body = needed(self.available(stage), wanted | {*stored}, known)
        loaded = tuple(sorted({r.tensor for s in (*body, *sums) for r in statement_reads(s)} & {*known}))
        carried, updates, renewals = carry(states)
        for statement in sums:
            added, renewal, summed = total(statement.name, statement.indices, self.axes, partial=self.split)
            body.append(replace(statement, name=added))
            renewals.append(renewal)
            updates[renewal.name] = statement.name
            carried.append(summed)
        walk = Walk((), (), tuple(carried), loaded=loaded, stored=tuple(stored), results=results)
        return self.fused(stage, body, walk, updates, renewals)

    def parts(self, stage: int, states: Sequence[State]) -> list[Walk]:
        """Walks over parts of a sequence: one for each level of states, then the one that has the results."""
        results, walks = self.results(stage), []
        for part in by_level(self.available(stage), states, self.axis, results):
            carried, updates, renewals = carry(part.states)
            walk = Walk(
                (),
                (),
                tuple(part.carried(carried)),
                loaded=part.loaded,
                stored=part.stored,
                results=() if part.partial else results,
            )
            walks.append(self.fused(stage, part.body, walk, updates, renewals))
        return walks

    def fused(
        self,
        stage: int,
        body: Sequence[Statement],
        walk: Walk,
        updates: Mapping[str, str],
        renewals: Sequence[Statement],
    ) -> Walk:
        """``walk`` with its steps: those that no token takes part in before the others."""
        varying = {p.name for p in self.params if self.axis in p.axes} | {c.name for c in walk.carried if not c.total}
        varying |= {*walk.loaded, *walk.results, *walk.stored}  # a result is written in every chunk, however it is made
        if self.chunked is not None:
            varying |= {w.fall for w in self.chunked.stream.weights}
        constant, moving = hoisted(body, varying)
        kept = (*walk.results, *walk.stored)
        return replace(walk, setup=self.setup(stage, constant), body=fuse([*moving, *renewals], kept, updates))

    def setup(self, stage: int, constant: Sequence[Statement] = ()) -> tuple[Step, ...]:
        """Steps of ``stage`` that no token takes part in, ``constant`` ones among them."""
        small = [s for at, s in self.small if at == stage]
        read_later = {r.tensor for _, s in (*self.small, *self.sums) for r in statement_reads(s)}
        read_later |= {r.tensor for s in self.tokens for r in statement_reads(s)} | {o.name for o in self.outputs}
        return fuse([*small, *constant], read_later)

    def results(self, stage: int) -> tuple[str, ...]:
        """The outputs along the tokens that belong to a stage."""
        here = (o.name for o in self.outputs if self.axis in o.axes and self.stages[o.name] == stage)
        return tuple(name for name in here if name not in self.elsewhere)

    def available(self, stage: int) -> list[Statement]:
        """What can be computed of a chunk's tokens."""
        return [s for s in self.tokens if self.stages[s.name] <= stage]
