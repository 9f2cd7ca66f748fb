"""Tile programs: a lowered operator as walks over chunks of tokens, with states between, for any target.

A walk goes over the sequence once.  What sums over all tokens ends a walk, so an operator without order is two or
more: sums first, then what reads them.  A causal operator is one, whose states run along.  Its gradient is two: states
forward, kept before every chunk, then cotangents from the last chunk to the first.
"""

from __future__ import annotations

from dataclasses import replace

from dtn_core.errors import CompileError
from dtn_core.ir.axes import sequence_axes
from dtn_core.ir.nodes import Program, Read, statement_reads
from dtn_core.passes.differentiate import masks
from dtn_core.passes.pipeline import Lowered
from dtn_core.passes.stream import Stream

from .dependencies import apart, hoisted
from .gradients import chunked_backward, gradient_of
from .one_token import one_token
from .pairs import associated, paired
from .rows import by_rows
from .staged import Staged
from .states import carry, check_states, resume, with_axes
from .steps import RANK, fuse
from .walks import TileProgram, Walk
from .wholes import whole_backward

SUFFIXES = frozenset(["added", "next", "replayed", "row", "saved", "scales", "segments", "sum", "total", "turned"])
"""What the names of tensors that kernels make end with, after the name of what they are made of."""


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
    axis = _walked(lowered)
    chunked = lowered.chunked
    definition = lowered.definition
    check_states(lowered, resumed=resumed)
    if chunked is None:
        program, pairs = paired(lowered.program, axis, (), RANK)
        made = Staged(program, axis, definition.params, definition.outputs, split=split).build(())
        return replace(made, pairs=pairs)
    if chunked.after is not None:
        raise CompileError(f"{definition.name} sums causal results over the whole sequence; that has no kernel")
    before, states = chunked.before, chunked.stream.states
    if before is not None:
        chunked = replace(chunked, chunk=apart(chunked.chunk, {s.name for s in before.statements}))
    try:
        wide = associated(chunked.chunk, chunked.stream, RANK)
        chunk, pairs = paired(wide, axis, states, RANK)
        chunked = replace(chunked, chunk=chunk)
        earlier = before.statements if before is not None else ()
        body = replace(definition, statements=(*earlier, *chunk.statements))
        staged = Staged(body, axis, definition.params, definition.outputs, chunked, split=split)
        made = replace(staged.build(with_axes(states, chunk)), pairs=pairs)
    except CompileError as error:
        if split or before is not None:
            raise
        made = _by_token(chunked.stream, definition, str(error))
    return resume(made, states) if resumed else made


def _by_token(stream: Stream, definition: Program, why: str) -> TileProgram:
    """The walk that takes one token at a time; ``why`` chunks of more have no tile form."""
    try:
        program = one_token(stream)
        carried, updates, _ = carry(stream.states)
        varying = {p.name for p in stream.tokens} | {state.name for state in stream.states}
        results = tuple(p.name for p in definition.outputs)
        constant, moving = hoisted(program.statements, varying | {*results})
        read_later = {r.tensor for statement in moving for r in statement_reads(statement)}
        walk = Walk(fuse(constant, read_later), fuse(moving, results, updates), tuple(carried), results=results)
    except CompileError as error:
        raise CompileError(f"{why}; and a token at a time, {error}") from None
    axes = {p.name: p.axes for p in program.params} | {s.name: s.axes for s in program.statements}
    return TileProgram(
        definition.name, stream.axis, definition.params, definition.outputs, (walk,), (), (), axes, by_token=True
    )


def backward(lowered: Lowered, *, split: bool = False, resumed: bool = False) -> TileProgram:
    """Gradients by its tensors; inputs are the operator's, then a cotangent ``d_o`` for each output.

    If it is ``resumed``, states before the first token are among the inputs, their gradients among the outputs, and
    the cotangents of the states after the last among the cotangents.  If it is ``split``, it is for sequences in parts
    that are computed side by side.

    Raises
    ------
    CompileError
        If it has no tile form, saying why.
    """
    axis = _walked(lowered)
    definition = lowered.definition
    wrt = differentiated(definition)
    check_states(lowered, resumed=resumed)
    if lowered.chunked is None:
        program, pairs = paired(gradient_of(lowered.program, wrt), axis, (), RANK)
        made = Staged(program, axis, program.params, program.outputs, split=split).build(())
        return replace(made, pairs=pairs)
    if lowered.chunked.wholes:
        return whole_backward(lowered.chunked, definition, wrt, split=split, resumed=resumed)
    return chunked_backward(lowered.chunked, definition, wrt, split=split, resumed=resumed)


def differentiated(definition: Program) -> list[str]:
    """The tensors that gradients are by, in the order of their results: all but masks."""
    ignored = masks(definition)
    return [param.name for param in definition.tensors if param.name not in ignored]


def forward_by_rows(lowered: Lowered, *, split: bool = False) -> TileProgram:
    """The operator with n×n matrices, a chunk of their rows at a time.

    Raises
    ------
    CompileError
        If it has no such form, saying why.
    """
    definition = lowered.definition
    return by_rows(lowered.program, _token_axis(lowered), definition.params, definition.outputs, split=split)


def backward_by_rows(lowered: Lowered, *, split: bool = False) -> TileProgram:
    """The same of the gradient; arguments and results are those of :func:`backward`.

    Raises
    ------
    CompileError
        If it has no such form, saying why.
    """
    program = gradient_of(lowered.program, differentiated(lowered.definition))
    return by_rows(program, _token_axis(lowered), program.params, program.outputs, split=split)


def _walked(lowered: Lowered) -> str:
    """The axis of the tokens; refuses what chunks from the first to the last cannot compute."""
    if lowered.chunked is not None and lowered.chunked.stream.mirrored:
        raise CompileError(f"{lowered.definition.name} runs from the last token to the first; that has no kernel")
    return _token_axis(lowered)


def _check_names(definition: Program) -> None:
    """Refuse a name that a kernel gives to something of its own, made of another name of the operator."""
    names = {*definition.axes, *(s.name for s in definition.statements), *(p.name for p in definition.params)}
    for name in sorted(names):
        stem, _, suffix = name.rpartition("_")
        if suffix in SUFFIXES and stem in names:
            raise CompileError(f"{definition.name}: {name} is what a kernel calls a tensor of its own; choose another")


def _check_decays(lowered: Lowered) -> None:
    """Refuse a decay that is computed: tables of its powers are made of an argument."""
    weighing = (relation for statement in lowered.program.statements for relation in statement.order)
    decays = [each.decay for each in (weighing if lowered.chunked is None else lowered.chunked.stream.weights)]
    given = {param.name for param in lowered.definition.params}
    for decay in decays:
        if isinstance(decay, Read) and decay.tensor not in given:
            raise CompileError(f"{lowered.definition.name}: decay {decay.tensor} is computed; kernels take arguments")


def _token_axis(lowered: Lowered) -> str:
    _check_names(lowered.definition)
    _check_decays(lowered)
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
