"""Gradients of causal operators as tile programs: states forward, then their cotangents from last to first.

The second walk needs the states before every chunk.  The first one writes them to memory.  Where a chunk is a single
token that would be a state a token, so it writes them before every segment of tokens only, and the second walk computes
those within a segment once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

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
from .states import after_last, before_first, carry, total, weight_axes, with_axes
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
    cotangents : dict[str, str]
        For each result, and for each state after the chunk, the parameter that is its cotangent.
    gradients : dict[str, str]
        For each state before the chunk, tensor of tokens and constant, the output that is its cotangent.
    sums : tuple[str, ...]
        What the forward walk computes.
    renewals, mirrored : tuple[Statement, ...]
        The new states from the old ones and what is added, and the same of their cotangents.
    updates, mirrored_updates : dict[str, str]
        For each new value the carried tensor that it is written over.
    pairs : dict[str, tuple[str, str]]
        The two axes that an axis of pairs is made of.
    by_token : bool
        Whether a chunk is one token.
    """

    program: Program
    states: tuple[State, ...]
    cotangents: dict[str, str]
    gradients: dict[str, str]
    sums: tuple[str, ...]
    renewals: tuple[Statement, ...]
    mirrored: tuple[Statement, ...]
    updates: dict[str, str]
    mirrored_updates: dict[str, str]
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    by_token: bool = False


def chunked_backward(chunked: Chunked, definition: Program, wrt: Sequence[str], *, resumed: bool) -> TileProgram:
    """The gradient of ``definition`` by ``wrt``, with a cotangent for each output as further inputs.

    Parameters
    ----------
    chunked : Chunked
        As it is lowered.
    definition : Program
    wrt : sequence of str
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
        return _two_walks(many_tokens(chunked), stream, definition, wrt, resumed=resumed)
    except CompileError as error:
        if not stream.resumable:
            raise
        try:
            return _two_walks(_one_token(stream), stream, definition, wrt, resumed=resumed)
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
    mirrored = [
        replace(state, name=name, after=f"{name}_next", added=made.gradients[state.name])
        for state, name in zip(states, after.values(), strict=True)
    ]
    _, updates, renewals = carry(states)
    _, mirrored_updates, mirrored_renewals = carry(mirrored)
    return Chunk(
        program,
        states,
        made.cotangents | after,
        made.gradients,
        tuple(state.added for state in states),
        tuple(renewals),
        tuple(mirrored_renewals),
        updates,
        mirrored_updates,
        pairs,
    )


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
    updates = {state.after: state.name for state in states}
    mirrored = {gradients[state.name]: cotangents[state.name] for state in states}
    sums = tuple(state.after for state in states)
    return Chunk(both, states, cotangents, gradients, sums, (), (), updates, mirrored, by_token=True)


def _two_walks(chunk: Chunk, stream: Stream, definition: Program, wrt: Sequence[str], *, resumed: bool) -> TileProgram:
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
    walks = chunk_walks(chunk, stream, along, totals, axes, resumed=resumed)
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
) -> tuple[Walk, ...]:
    """The walk forward, where there are states, and the walk back, with gradients ``along`` the tokens as results.

    Those in ``totals`` are summed on the way back.  Tensors that are made for that are added to ``axes``.
    """
    states = [state.name for state in chunk.states]
    varying = {*(p.name for p in stream.tokens), *states, *chunk.cotangents.values(), *(w.fall for w in stream.weights)}
    wanted = {*along, *totals, *(chunk.gradients[name] for name in states)}
    body, renewals, updates, sums = _totalled(needed(chunk.program.statements, wanted), totals, axes)
    constant, moving = hoisted(body, varying)
    read = {r.tensor for s in moving for r in statement_reads(s)}
    loaded = tuple(name for name in states if chunk.by_token or name in read)
    walks: list[Walk] = []
    if states:
        own, others = hoisted(needed(chunk.program.statements, set(chunk.sums)), varying)
        steps = fuse([*others, *chunk.renewals], (), chunk.updates)
        walks.append(Walk(fuse(own, axes), steps, _carried(chunk, resumed=resumed), saved=loaded))
    walks.append(
        Walk(
            fuse(constant, axes),
            fuse([*moving, *chunk.mirrored, *renewals], along, chunk.mirrored_updates | updates),
            (*_mirrored(chunk, resumed=resumed), *sums),
            loaded=loaded,
            results=tuple(along),
            reverse=True,
            replay=walks[0].body if chunk.by_token else (),
        )
    )
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
    body: Sequence[Statement], totals: Sequence[str], axes: dict[str, tuple[str, ...]]
) -> tuple[list[Statement], list[Statement], dict[str, str], list[Carried]]:
    """``body`` that adds to ``totals`` in every chunk; what renews them, which is which, and both as carried."""
    made, renewals, updates, carried = list(body), [], {}, []
    for name in totals:
        indices = next(s.indices for s in made if s.name == name)
        added, renewal, summed = total(name, indices, axes)
        made = [replace(s, name=added) if s.name == name else s for s in made]
        renewals.append(renewal)
        updates[renewal.name] = name
        carried.append(summed)
    return made, renewals, updates, carried
