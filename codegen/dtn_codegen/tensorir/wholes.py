"""Gradients of causal operators that need something first, such as sums over the whole, as ``mask="tril"`` does.

What is computed before comes before the walks of the causal part, its gradient after them: the walk back leaves the
cotangents of that and, in memory, the gradients of the causal part, and a walk over all tokens adds the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import Param, Program, Read, Statement, sum_of
from dtn_core.passes.differentiate import masks
from dtn_core.passes.pipeline import Chunked
from dtn_core.passes.stream import Stream

from .dependencies import apart, renamed
from .gradients import Chunk, chunk_walks, gradient_of, many_tokens
from .staged import Staged
from .states import after_last, before_first, weight_axes
from .walks import TileProgram, Walk


def whole_backward(
    chunked: Chunked, definition: Program, wrt: Sequence[str], *, split: bool, resumed: bool = False
) -> TileProgram:
    """The gradient as of :func:`.gradients.chunked_backward`, which has nothing that is computed before.

    Raises
    ------
    CompileError
        If it has no tile form, saying why.
    """
    before = chunked.before
    if before is None or chunked.after is not None:
        raise CompileError(f"{definition.name} sums causal results over the whole sequence; its gradient has no kernel")
    ignored, causal = masks(before), many_tokens(chunked)
    known = {*causal.gradients, *(output.name for output in definition.outputs)}
    summed = tuple(output for output in before.outputs if output.name in known)  # others are tested alone
    inputs = [param.name for param in before.tensors if summed and param.name not in ignored]
    summed = summed if inputs else ()  # else they are of sizes alone
    chunk = _separated(causal, before, {name for name in wrt if name not in inputs})
    if unread := [name for name in wrt if name not in (*inputs, *chunk.gradients)]:
        raise CompileError(f"{definition.name}: the gradient by {unread[0]} has no kernel")
    given = [Param(chunk.cotangents.get(o.name, f"d_{o.name}"), o.axes) for o in definition.outputs]
    outputs = [Param(f"d_{p.name}", p.axes) for p in definition.params if p.name in wrt]
    states = chunked.stream.states if resumed else ()
    first = [before_first(state) for state in states]
    given += [Param(f"d_{after_last(state).name}", state.axes) for state in states]
    program = replace(before, name=f"{definition.name}_vjp", params=(*definition.params, *first, *given))
    wholes = _Wholes(program, chunked.stream, chunk, summed, outputs, split=split, resumed=resumed)
    made = wholes.whole(inputs, gradient_of(replace(before, outputs=summed), inputs) if summed else None)
    return replace(made, outputs=(*made.outputs, *(Param(f"d_{param.name}", param.axes) for param in first)))


def _separated(chunk: Chunk, before: Program, direct: set[str]) -> Chunk:
    """``chunk`` with names of its own; its gradients are results by ``direct`` tensors, and parts of sums by others."""
    names = {of: f"d_{name}" if name in direct else f"d_{name}_causal" for name, of in chunk.gradients.items()}
    program = apart(chunk.program, {statement.name for statement in before.statements})
    statements = tuple(renamed(statement, names) for statement in program.statements)
    return replace(
        chunk,
        program=replace(program, statements=statements),
        gradients={name: names[of] for name, of in chunk.gradients.items()},
        mirrored=tuple(replace(state, added=names[state.added]) for state in chunk.mirrored),
    )


class _Wholes(Staged):
    """Walks of sums over the whole, then those of the causal part, then those of the gradient of the sums."""

    def __init__(
        self,
        before: Program,
        stream: Stream,
        chunk: Chunk,
        summed: Sequence[Param],
        outputs: Sequence[Param],
        *,
        split: bool,
        resumed: bool,
    ) -> None:
        super().__init__(before, stream.axis, before.params, outputs, split=split)
        self.resumed = resumed
        self.stream = stream
        self.chunk = chunk
        self.summed = summed
        others = {output.name for output in before.outputs} - {output.name for output in summed}
        read = [param.name for param in (*stream.tokens, *stream.constants) if param.name not in others]
        self.causal = {name: chunk.gradients[name] for name in read if name in chunk.gradients}
        self.elsewhere = {f"d_{name}" for name, gradient in self.causal.items() if gradient == f"d_{name}"}

    def whole(self, inputs: Sequence[str], vjp: Program | None) -> TileProgram:
        """The program; ``vjp`` is the gradient of what is summed by ``inputs``, if anything is."""
        for statement in self.program.statements:
            self.place(statement)
        last = max(self.stages[output.name] for output in self.program.outputs)
        parts = self.chunk.program
        self.axes = {p.name: p.axes for p in parts.params} | {s.name: s.axes for s in parts.statements} | self.axes
        self.axes |= weight_axes(self.stream.weights, self.axis)
        self.stages.update(dict.fromkeys(self.causal.values(), last + 1))
        if vjp is not None:
            self.place_gradient(vjp, inputs)
        along = [name for name in self.causal.values() if self.axis in self.axes[name]]
        totals = [name for name in self.causal.values() if self.axis not in self.axes[name]]
        tokens = {output.name for output in self.program.outputs if self.axis in output.axes}
        walks = chunk_walks(self.chunk, self.stream, along, totals, self.axes, resumed=self.resumed, split=self.split)
        causal = [self.around(walk, tokens) for walk in walks]
        count = 1 + max([last, *(self.stages[o.name] for o in self.outputs), *(stage for stage, _ in self.sums)])
        found: list[Walk] = []
        for stage in range(count):
            stored = sorted(name for name in tokens if self.stages[name] == stage)
            known = {*along, *(name for name in tokens if self.stages[name] < stage)}
            found.append(self.walk(stage, (), stored=stored, known=known))
            if stage == last:
                found += causal
        return TileProgram(
            self.program.name,
            self.axis,
            self.params,
            self.outputs,
            tuple(walk for walk in found if walk.steps),
            (),
            tuple(self.stream.weights),
            self.axes,
            pairs=self.chunk.pairs,
        )

    def place_gradient(self, vjp: Program, inputs: Sequence[str]) -> None:
        """The statements of the gradient of the sums, and what adds it to that of the causal part."""
        cotangents = [param.name for param in vjp.params[-len(self.summed) :]]
        names = {given: self.cotangent(output) for given, output in zip(cotangents, self.summed, strict=True)}
        known = set(self.program.statements)
        new = [statement for statement in vjp.statements if statement not in known]
        names |= {statement.name: f"{statement.name}_before" for statement in new}
        for statement in new:
            self.place(renamed(statement, names))
        for name, output in zip(inputs, vjp.outputs, strict=True):
            indices = next(s.indices for s in vjp.statements if s.name == output.name)
            parts = [names.get(output.name, output.name), *([self.causal[name]] if name in self.causal else [])]
            self.place(Statement(f"d_{name}", indices, sum_of(*(Read(part, indices) for part in parts))))

    def cotangent(self, output: Param) -> str:
        """The name of the cotangent of what is computed before: of its reads by the causal part, and as a result."""
        given = f"d_{output.name}"
        read = self.causal.get(output.name)
        if read is None:
            return given
        if given not in {param.name for param in self.params}:
            return read
        indices = next(s.indices for s in self.program.statements if s.name == output.name)
        both = Statement(f"{read}_and_given", indices, sum_of(Read(read, indices), Read(given, indices)))
        self.place(both)
        return both.name

    def around(self, walk: Walk, tokens: set[str]) -> Walk:
        """A walk of the causal part that reads ``tokens`` from memory and writes gradients there."""
        loaded = (*walk.loaded, *sorted(walk.reads(tokens)))
        stored = (*walk.stored, *(name for name in walk.results if name not in self.elsewhere))
        return replace(
            walk, loaded=loaded, stored=stored, results=tuple(n for n in walk.results if n in self.elsewhere)
        )
