"""How often a kernel goes over the sequence: once, or once a level of states and once for the results.

One pass computes everything, chunk after chunk, one thread block a sequence.  For few sequences each is cut
into segments that run side by side.  A segment needs the states of all segments before it, so states are
computed level by level: those that tokens alone make up, then those that read them, and so on.  Every level is
a pass that writes what each segment adds, then a fold over the segments; a last pass computes the results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dtn_core.errors import CompileError
from dtn_core.ir.build import pruned
from dtn_core.ir.nodes import Param, Program, statement_reads
from dtn_core.passes.pipeline import Chunked
from dtn_core.passes.stream import State


@dataclass(frozen=True)
class Pass:
    """One walk over the chunks.

    Attributes
    ----------
    name : str
        Name of its kernel.
    program : Program
        What happens in a chunk: results, then what is added to each state in ``states``.
    states : tuple[State, ...]
        The states that it carries from chunk to chunk.
    starts : tuple[str, ...]
        Those of them that begin with a given value in each segment; the others begin at zero.
    ends : tuple[str, ...]
        Those of them whose value after each segment is written.
    results : tuple[Param, ...]
        Results along the tokens.
    """

    name: str
    program: Program
    states: tuple[State, ...]
    starts: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    results: tuple[Param, ...] = ()


def single_pass(chunked: Chunked) -> Pass:
    """Everything at once."""
    return Pass("main", chunked.chunk, chunked.stream.states, results=chunked.stream.results)


def split_passes(chunked: Chunked) -> tuple[Pass, ...]:
    """A pass for each level of states, and one for the results."""
    made = [
        _state_pass(chunked, number, names, {name for earlier in levels(chunked)[:number] for name in earlier})
        for number, names in enumerate(levels(chunked))
    ]
    whole = single_pass(chunked)
    return (*made, replace(whole, name="results", starts=tuple(state.name for state in whole.states)))


def levels(chunked: Chunked) -> tuple[tuple[str, ...], ...]:
    """Names of the states, those first that need no other to be computed.

    Raises
    ------
    CompileError
        If a state reads itself, so that segments cannot be computed side by side.
    """
    states = chunked.stream.states
    needs = {state.name: _read_states(chunked, (state,)) for state in states}
    found: list[tuple[str, ...]] = []
    done: set[str] = set()
    while len(done) < len(states):
        ready = tuple(state.name for state in states if state.name not in done and needs[state.name] <= done)
        if not ready:
            raise CompileError(f"{chunked.chunk.name}: a state reads itself; its sequence cannot be split")
        found.append(ready)
        done.update(ready)
    return tuple(found)


def _read_states(chunked: Chunked, states: tuple[State, ...]) -> set[str]:
    """The states that computing what ``states`` are added reads."""
    program = _adding(chunked, states)
    used = {read.tensor for statement in program.statements for read in statement_reads(statement)}
    return {state.name for state in chunked.stream.states if state.name in used}


def _adding(chunked: Chunked, states: tuple[State, ...]) -> Program:
    """The chunk with nothing for its outputs but what it adds to ``states``."""
    outputs = tuple(Param(state.added, state.axes) for state in states)
    return pruned(replace(chunked.chunk, outputs=outputs))


def _state_pass(chunked: Chunked, number: int, names: tuple[str, ...], earlier: set[str]) -> Pass:
    wanted = set(names)
    while True:
        carried = tuple(state for state in chunked.stream.states if state.name in wanted)
        needed = _read_states(chunked, carried)
        if needed <= wanted:
            break
        wanted |= needed
    starts = tuple(state.name for state in carried if state.name in earlier)
    return Pass(f"states_{number}", _adding(chunked, carried), carried, starts, names)
