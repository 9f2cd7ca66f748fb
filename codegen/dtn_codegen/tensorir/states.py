"""States as a tile program has them: carried along a walk, given before the first token, asked for after the last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import Index, Param, Program, Read, Statement, sum_of
from dtn_core.passes.pipeline import Lowered
from dtn_core.passes.stream import State, Weights

from .walks import Carried, TileProgram


def carry(states: Sequence[State]) -> tuple[list[Carried], dict[str, str], list[Statement]]:
    """States as carried tensors, the state that each new value is of, and the statements that renew them."""
    carried = [Carried(state.name, state.axes, weights=state.weights) for state in states]
    return carried, {state.after: state.name for state in states}, [state.update for state in states]


def total(
    name: str, indices: Sequence[Index], axes: dict[str, tuple[str, ...]], *, partial: bool = False
) -> tuple[str, Statement, Carried]:
    """A sum along a walk: the name of what a chunk adds to it, the statement that renews it, and it as carried.

    The axes of what is added become known to ``axes``.
    """
    added, after = f"{name}_added", f"{name}_next"
    axes[added] = axes[name]
    renewal = Statement(after, tuple(indices), sum_of(Read(name, tuple(indices)), Read(added, tuple(indices))))
    return added, renewal, Carried(name, axes[name], total=True, partial=partial)


def weight_axes(weights: Sequence[Weights], axis: str) -> dict[str, tuple[str, ...]]:
    """The axes of powers of decays along the tokens of a chunk."""
    return {n: a for w in weights for n, a in ((w.rise, (axis,)), (w.fall, (axis,)), (w.whole, ()))}


def with_axes(states: Sequence[State], program: Program) -> tuple[State, ...]:
    """States with the axes that they have in ``program``."""
    axes = {param.name: param.axes for param in program.params}
    return tuple(replace(state, axes=axes[state.name]) for state in states)


def before_first(state: State) -> Param:
    """The argument of a state before the first token."""
    return Param(f"{state.name}_first", state.axes)


def after_last(state: State) -> Param:
    """The result of a state after the last token."""
    return Param(f"{state.name}_last", state.axes)


def check_states(lowered: Lowered, *, resumed: bool) -> None:
    """Raise CompileError where states are to be handed on and there are none."""
    if resumed and (lowered.chunked is None or not lowered.chunked.stream.resumable):
        raise CompileError(f"{lowered.definition.name}: there is no state to hand on")


def resume(program: TileProgram, states: Sequence[State]) -> TileProgram:
    """``program`` that begins with states that are given, and ends with giving them."""
    first = {state.name: before_first(state).name for state in states}
    last = {state.name: after_last(state).name for state in states}
    walks = tuple(
        replace(
            walk,
            carried=tuple(replace(c, first=first.get(c.name, ""), last=last.get(c.name, "")) for c in walk.carried),
        )
        for walk in program.walks
    )
    inputs = (*program.inputs, *map(before_first, states))
    return replace(program, inputs=inputs, outputs=(*program.outputs, *map(after_last, states)), walks=walks)
