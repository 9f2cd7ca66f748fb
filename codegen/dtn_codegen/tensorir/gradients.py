"""Gradients of causal operators as tile programs: states forward, then their cotangents from last to first.

The second walk needs the states before every chunk.  The first one writes them to memory.  Where a chunk is a single
token that would be a state a token, so it writes them before every segment of tokens only, and the second walk computes
those within a segment once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dtn_core.errors import CompileError
from dtn_core.ir.build import pruned
from dtn_core.ir.nodes import Param, Program, Statement, statement_reads
from dtn_core.passes.backward import backward, real_valued
from dtn_core.passes.contract import contract
from dtn_core.passes.differentiate import differentiate, masks
from dtn_core.passes.divide import divide
from dtn_core.passes.pipeline import FEATURES, Chunked, assumed_sizes
from dtn_core.passes.stream import State, Stream

from .dependencies import hoisted, needed
from .one_token import one_token
from .pairs import associated, paired
from .parts import Part, by_level
from .states import after_last, before_first, total, weight_axes, with_axes
from .steps import RANK, fuse
from .walks import Carried, TileProgram, Walk


@dataclass(frozen=True)
class Chunk:
    """What happens to a chunk, forward and backward, in one program.

    Attributes
    ----------
    program : Program
        Its statements, those of the forward direction among them.
    states : tuple[State, ...]
        With the axes that they have there.
    mirrored : tuple[State, ...]
        Their cotangents, which are states of the way back.
    cotangents : dict[str, str]
        For each result, and for each state after the chunk, the parameter that is its cotangent.
    gradients : dict[str, str]
        For each state before the chunk, tensor of tokens and constant, the output that is its cotangent.
    pairs : dict[str, tuple[str, str]]
        The two axes that an axis of pairs is made of.
    by_token : bool
        Whether a chunk is one token.
    """

    program: Program
    states: tuple[State, ...]
    mirrored: tuple[State, ...]
    cotangents: dict[str, str]
    gradients: dict[str, str]
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    by_token: bool = False

    @property
    def sums(self) -> set[str]:
        """What a chunk computes for its states: what is added to them, or a token's own new values."""
        return {state.after if self.by_token else state.added for state in self.states}

    def renewals(self, states: Sequence[State]) -> list[Statement]:
        """The statements after those of the chunk that renew ``states``."""
        return [] if self.by_token else [state.update for state in states]


def chunked_backward(
    chunked: Chunked, definition: Program, wrt: Sequence[str], *, split: bool, resumed: bool
) -> TileProgram:
    """The gradient of ``definition`` by ``wrt``, with a cotangent for each output as further inputs.

    Parameters
    ----------
    chunked : Chunked
        As it is lowered.
    definition : Program
    wrt : sequence of str
    split : bool
        Whether a sequence is cut into parts that are computed side by side.
    resumed : bool
        Whether states before the first token are inputs, with gradients among the outputs, and cotangents of those
        after the last token inputs too.

    Raises
    ------
    CompileError
        If it has no tile form, saying why.
    """
    stream = chunked.stream
    try:
        return _walks(many_tokens(chunked), stream, definition, wrt, split=split, resumed=resumed)
    except CompileError as error:
        if split or not stream.resumable:
            raise
        try:
            return _walks(_one_token(stream), stream, definition, wrt, split=False, resumed=resumed)
        except CompileError as other:
            raise CompileError(f"{error}; and a token at a time, {other}") from None


def gradient_of(program: Program, wrt: Sequence[str]) -> Program:
    """The gradient of a program on the whole sequence at once, for real tensors."""
    vjp = differentiate(program, wrt)
    real = replace(vjp, statements=tuple(replace(s, value=real_valued(s.value)) for s in vjp.statements))
    return divide(contract(pruned(real), assumed_sizes(real)))


def many_tokens(chunked: Chunked) -> Chunk:
    """What happens to a chunk of tokens."""
    stream, wide = chunked.stream, associated(chunked.chunk, chunked.stream, RANK)
    # contract would find the tensor over one pair of features equal to that over the other, turned
    made = chunked.backward if wide is chunked.chunk else backward(stream, divide(wide))
    program, pairs = paired(made.chunk, stream.axis, stream.states, RANK)
    states = with_axes(stream.states, program)
    after = {state.name: made.cotangents[state.added] for state in states}
    mirrored = tuple(
        replace(state, name=name, after=f"{name}_next", added=made.gradients[state.name])
        for state, name in zip(states, after.values(), strict=True)
    )
    return Chunk(program, states, mirrored, made.cotangents | after, made.gradients, pairs)


def _one_token(stream: Stream) -> Chunk:
    program, states = one_token(stream), tuple(replace(state, weights=None) for state in stream.states)
    ignored = masks(program)
    given = (p for p in (*stream.tokens, *stream.constants) if p.axes and p.name not in ignored)
    wrt = [*(state.name for state in states), *(p.name for p in given)]
    vjp = differentiate(program, wrt)
    after = program.outputs[len(stream.results) :]
    statements = tuple(replace(s, value=real_valued(s.value)) for s in vjp.statements)
    both = pruned(replace(vjp, outputs=(*after, *vjp.outputs), statements=statements))
    both = divide(contract(both, dict.fromkeys(both.axes, FEATURES)))
    pairs = zip(program.outputs, vjp.params[len(program.params) :], strict=True)
    cotangents = {output.name: param.name for output, param in pairs}
    cotangents |= {state.name: cotangents[state.after] for state in states}
    gradients = {name: output.name for name, output in zip(wrt, vjp.outputs, strict=True)}
    mirrored = tuple(
        replace(state, name=cotangents[state.name], after=gradients[state.name], added=gradients[state.name])
        for state in states
    )
    return Chunk(both, states, mirrored, cotangents, gradients, by_token=True)


def _walks(
    chunk: Chunk, stream: Stream, definition: Program, wrt: Sequence[str], *, split: bool, resumed: bool
) -> TileProgram:
    axes = {p.name: p.axes for p in chunk.program.params} | {s.name: s.axes for s in chunk.program.statements}
    weights = () if chunk.by_token else stream.weights
    axes |= weight_axes(weights, stream.axis)
    if not chunk.by_token:
        axes.update({p.name: p.axes for p in definition.params})
    outputs = []
    for name in wrt:
        if name not in chunk.gradients:
            raise CompileError(f"{definition.name}: the gradient by {name} has no kernel")
        outputs.append(Param(chunk.gradients[name], next(p for p in definition.params if p.name == name).axes))
    along = tuple(p.name for p in outputs if stream.axis in p.axes)
    totals = [p.name for p in outputs if stream.axis not in p.axes]
    walks = chunk_walks(chunk, stream, along, totals, axes, resumed=resumed, split=split)
    given = [Param(chunk.cotangents[o.name], o.axes) for o in definition.outputs]
    before = [before_first(state) for state in stream.states] if resumed else []
    if resumed:
        given += [Param(f"d_{after_last(state).name}", state.axes) for state in stream.states]
    return TileProgram(
        f"{definition.name}_vjp",
        stream.axis,
        (*definition.params, *before, *given),
        (*outputs, *(Param(f"d_{param.name}", param.axes) for param in before)),
        walks,
        (),
        weights,
        axes,
        pairs=chunk.pairs,
        by_token=chunk.by_token,
    )


def chunk_walks(
    chunk: Chunk,
    stream: Stream,
    along: Sequence[str],
    totals: Sequence[str],
    axes: dict[str, tuple[str, ...]],
    *,
    resumed: bool = False,
    split: bool = False,
) -> tuple[Walk, ...]:
    """The walk forward, where there are states, and the walk back, with gradients ``along`` the tokens as results.

    Those in ``totals`` are summed on the way back.  Tensors that are made for that are added to ``axes``.  Where
    sequences are ``split`` there are more walks both ways, one for each level of states.
    """
    statements = chunk.program.statements
    states = {state.name for state in chunk.states}
    varying = {*(p.name for p in stream.tokens), *states, *chunk.cotangents.values(), *(w.fall for w in stream.weights)}
    wanted = {*along, *totals, *(chunk.gradients[name] for name in states)}
    body, renewals, totalled, sums = _totalled(needed(statements, wanted), totals, axes, partial=split)
    read = {r.tensor for s in hoisted(body, varying)[1] for r in statement_reads(s)}
    held = tuple(state.name for state in chunk.states if chunk.by_token or state.name in read)
    if split:
        there = by_level(statements, chunk.states, stream.axis, (), held=held, later=wanted)
        there = [part for part in there if part.states]
        added = {read.tensor for statement in renewals for read in statement_reads(statement)}
        known = {*held, *(name for part in there for name in part.stored)}
        back = by_level(body, chunk.mirrored, stream.axis, {*along, *added}, known=known)
    else:
        forward = needed(statements, chunk.sums)
        there = [Part(tuple(forward), chunk.states)] if states else []
        back = [Part(tuple(body), chunk.mirrored, loaded=held)]

    def walk(part: Part, carried: Sequence[Carried], *, last: bool = False, **named: Any) -> Walk:
        written = {*part.stored, *(along if last else ())}
        constant, moving = hoisted(part.body, varying | {*part.loaded} | written)
        updates = {state.after: state.name for state in part.states}
        steps, kept, own = [*moving, *chunk.renewals(part.states)], part.stored, part.carried(carried)
        if last:
            steps, kept, updates, own = [*steps, *renewals], (*along, *kept), updates | totalled, [*own, *sums]
        made = Walk(fuse(constant, axes), fuse(steps, kept, updates), tuple(own), **named)
        return replace(made, loaded=part.loaded, stored=part.stored, results=tuple(along) if last else ())

    forth, home = _carried(chunk, resumed=resumed), _mirrored(chunk, resumed=resumed)
    walks = [walk(part, forth, saved=() if part.partial else held) for part in there]
    replay = walks[0].body if chunk.by_token else ()
    walks += [walk(part, home, last=not part.partial, reverse=True, replay=replay) for part in back]
    return tuple(walks)


def _carried(chunk: Chunk, *, resumed: bool) -> tuple[Carried, ...]:
    """The states as the forward walk carries them."""
    return tuple(
        Carried(s.name, s.axes, weights=s.weights, first=before_first(s).name if resumed else "") for s in chunk.states
    )


def _mirrored(chunk: Chunk, *, resumed: bool) -> tuple[Carried, ...]:
    """Their cotangents as the walk back carries them."""
    found = (Carried(chunk.cotangents[s.name], s.axes, weights=s.weights) for s in chunk.states)
    if not resumed:
        return tuple(found)
    return tuple(
        replace(c, first=f"d_{after_last(s).name}", last=f"d_{before_first(s).name}")
        for c, s in zip(found, chunk.states, strict=True)
    )


def _totalled(
    body: Sequence[Statement], totals: Sequence[str], axes: dict[str, tuple[str, ...]], *, partial: bool
) -> tuple[list[Statement], list[Statement], dict[str, str], list[Carried]]:
    """``body`` that adds to ``totals`` in every chunk; what renews them, which is which, and both as carried."""
    made, renewals, updates, carried = list(body), [], {}, []
    for name in totals:
        indices = next(s.indices for s in made if s.name == name)
        added, renewal, summed = total(name, indices, axes, partial=partial)
        made = [replace(s, name=added) if s.name == name else s for s in made]
        renewals.append(renewal)
        updates[renewal.name] = name
        carried.append(summed)
    return made, renewals, updates, carried
