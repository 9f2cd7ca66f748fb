"""Tile programs: a lowered operator as walks over chunks of tokens, with states between, for any target.

A walk goes over the sequence once.  What sums over all tokens ends a walk, so an operator without order is two or
more: sums first, then what reads them.  A causal operator is one, whose states run along.  Its gradient is two: states
forward, kept before every chunk, then cotangents from the last chunk to the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dtn_core.errors import CompileError
from dtn_core.ir.axes import sequence_axes
from dtn_core.ir.build import pruned
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
from dtn_core.passes.backward import real_valued
from dtn_core.passes.contract import contract
from dtn_core.passes.differentiate import differentiate, masks
from dtn_core.passes.divide import divide
from dtn_core.passes.pipeline import Chunked, Lowered, assumed_sizes
from dtn_core.passes.stream import State, Stream

from .dependencies import apart, depending, hoisted, levels, needed
from .gradients import chunked_backward
from .one_token import one_token
from .pairs import associated, paired
from .states import carry, check_states, resume, with_axes
from .steps import RANK, fuse
from .walks import Carried, TileProgram, Walk


def forward(lowered: Lowered, *, split: bool = False, resumed: bool = False) -> TileProgram:
    """The operator itself.

    Parameters
    ----------
    lowered : Lowered
    split : bool
        For sequences in parts that are computed side by side: states that need no other state are summed first, then
        those that need them, and the results last.
    resumed : bool
        With the states before the first token as further arguments, and those after the last as further results.

    Raises
    ------
    CompileError
        If it has no tile form, saying why.
    """
    axis = _token_axis(lowered)
    chunked = lowered.chunked
    definition = lowered.definition
    check_states(lowered, resumed=resumed)
    if chunked is None:
        return _Staged(lowered.program, axis, definition.params, definition.outputs, split=split).build(())
    if chunked.after is not None:
        raise CompileError(f"{definition.name} sums causal results over the whole sequence; that has no kernel")
    before, states = chunked.before, chunked.stream.states
    if before is not None:
        chunked = replace(chunked, chunk=apart(chunked.chunk, {s.name for s in before.statements}))
    try:
        chunk, pairs = paired(associated(chunked.chunk, chunked.stream, RANK), chunked.stream, RANK)
        chunked = replace(chunked, chunk=chunk)
        earlier = before.statements if before is not None else ()
        body = replace(definition, statements=(*earlier, *chunk.statements))
        staged = _Staged(body, axis, definition.params, definition.outputs, chunked, split=split)
        made = replace(staged.build(with_axes(states, chunk)), pairs=pairs)
    except CompileError as error:
        if split or not chunked.stream.resumable:
            raise
        made = _by_token(chunked.stream, definition, str(error))
    return resume(made, states) if resumed else made


def _by_token(stream: Stream, definition: Program, why: str) -> TileProgram:
    """The walk that takes one token at a time; ``why`` chunks of more have no tile form."""
    try:
        program = one_token(stream)
        carried, updates, _ = carry(stream.states)
        varying = {p.name for p in stream.tokens} | {state.name for state in stream.states}
        constant, moving = hoisted(program.statements, varying)
        results = tuple(p.name for p in definition.outputs)
        read_later = {r.tensor for statement in moving for r in statement_reads(statement)}
        walk = Walk(fuse(constant, read_later), fuse(moving, results, updates), tuple(carried), results=results)
    except CompileError as error:
        raise CompileError(f"{why}; and a token at a time, {error}") from None
    axes = {p.name: p.axes for p in program.params} | {s.name: s.axes for s in program.statements}
    return TileProgram(
        definition.name, stream.axis, definition.params, definition.outputs, (walk,), (), (), axes, by_token=True
    )


def backward(lowered: Lowered, *, resumed: bool = False) -> TileProgram:
    """Gradients by its tensors; inputs are the operator's, then a cotangent ``d_o`` for each output.

    If it is ``resumed``, states before the first token are among the inputs, their gradients among the outputs, and
    the cotangents of the states after the last among the cotangents.

    Raises
    ------
    CompileError
        If it has no tile form, saying why.
    """
    axis = _token_axis(lowered)
    definition = lowered.definition
    ignored = masks(definition)
    wrt = [p.name for p in definition.tensors if p.name not in ignored]
    check_states(lowered, resumed=resumed)
    if lowered.chunked is None:
        vjp = differentiate(lowered.program, wrt)
        real = replace(vjp, statements=tuple(replace(s, value=real_valued(s.value)) for s in vjp.statements))
        program = divide(contract(pruned(real), assumed_sizes(real)))
        return _Staged(program, axis, vjp.params, vjp.outputs).build(())
    return chunked_backward(lowered.chunked, definition, wrt, resumed=resumed)


def _token_axis(lowered: Lowered) -> str:
    if lowered.complex_input:
        raise CompileError(f"{lowered.definition.name}: kernels are for real tensors")
    long = sequence_axes(lowered.definition)
    if len(long) != 1:
        raise CompileError(f"{lowered.definition.name} has {len(long)} sequence axes; a kernel walks along one")
    (axis,) = long
    for param in (*lowered.definition.tensors, *lowered.definition.outputs):
        if len(param.axes) > RANK or axis in param.axes[1:]:
            raise CompileError(
                f"{lowered.definition.name}: {param.name}[{','.join(param.axes)}] is not [{axis}, features]"
            )
    return axis


class _Staged:
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

    def build(self, states: Sequence[State]) -> TileProgram:
        weights = self.chunked.stream.weights if self.chunked is not None else ()
        for weight in weights:
            self.axes.update({weight.rise: (self.axis,), weight.fall: (self.axis,), weight.whole: ()})
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

    def walk(self, stage: int, states: Sequence[State]) -> Walk:
        """The walk that computes everything of ``stage``."""
        sums = [statement for at, statement in self.sums if at == stage]
        results = self.results(stage)
        wanted = {*results, *(s.added for s in states), *(r.tensor for s in sums for r in statement_reads(s))}
        body = needed(self.available(stage), wanted)
        carried, updates, renewals = carry(states)
        for statement in sums:
            added, after = f"{statement.name}_added", f"{statement.name}_next"
            self.axes[added] = statement.axes
            body.append(replace(statement, name=added))
            old = Read(statement.name, statement.indices)
            renewals.append(Statement(after, statement.indices, sum_of(old, Read(added, statement.indices))))
            updates[after] = statement.name
            carried.append(Carried(statement.name, statement.axes, total=True, partial=self.split))
        return self.fused(stage, body, Walk((), (), tuple(carried), results=results), updates, renewals)

    def parts(self, stage: int, states: Sequence[State]) -> list[Walk]:
        """Walks over parts of a sequence: one for each level of states, then the one that has the results.

        Tensors of tokens that needed a state are stored, so that later walks need neither compute them again nor know
        that state.
        """
        statements = self.available(stage)
        level_of = levels(statements, states)
        results = self.results(stage)
        loaded: set[str] = set()
        walks = []
        for level in range(max(level_of.values()) + 2):
            own = [s for s in states if level_of[s.name] == level]
            later = {*results, *(s.added for s in states if level_of[s.name] > level)}
            wanted = {s.added for s in own} or set(results)
            while True:  # a state that is read has to be kept up to date
                body = needed(statements, wanted, loaded)
                known = {r.tensor for s in body for r in statement_reads(s)}
                lower = [s for s in states if level_of[s.name] < level and s.name in known]
                if {s.added for s in lower} <= wanted:
                    break
                wanted |= {s.added for s in lower}
            made = {s.name for s in depending(body, {s.name for s in states} | loaded) if s.axes.count(self.axis) == 1}
            remaining = needed(statements, later, loaded | made) if own else []
            stored = {r.tensor for s in remaining for r in statement_reads(s)} & made
            carried, updates, renewals = carry([*lower, *own])
            walk = Walk(
                (),
                (),
                tuple(replace(c, partial=any(c.name == s.name for s in own)) for c in carried),
                loaded=tuple(sorted(loaded & known)),
                stored=tuple(sorted(stored)),
                results=() if own else results,
            )
            walks.append(self.fused(stage, body, walk, updates, renewals))
            loaded |= stored
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
        varying |= set(walk.loaded)
        if self.chunked is not None:
            varying |= {w.fall for w in self.chunked.stream.weights}
        constant, moving = hoisted(body, varying)
        small = [s for at, s in self.small if at == stage]
        read_later = {r.tensor for _, s in (*self.small, *self.sums) for r in statement_reads(s)}
        read_later |= {r.tensor for s in self.tokens for r in statement_reads(s)} | {o.name for o in self.outputs}
        kept = (*walk.results, *walk.stored)
        return replace(
            walk, setup=fuse([*small, *constant], read_later), body=fuse([*moving, *renewals], kept, updates)
        )

    def results(self, stage: int) -> tuple[str, ...]:
        """The outputs along the tokens that belong to a stage."""
        return tuple(o.name for o in self.outputs if self.axis in o.axes and self.stages[o.name] == stage)

    def available(self, stage: int) -> list[Statement]:
        """What can be computed of a chunk's tokens."""
        return [s for s in self.tokens if self.stages[s.name] <= stage]
