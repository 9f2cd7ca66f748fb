"""Tile programs: a lowered operator as walks over chunks of tokens, with states between, for any target.

A walk goes over the sequence once.  What sums over all tokens ends a walk, so an operator without order is two or
more: sums first, then what reads them.  A causal operator is one, whose states run along.  Its gradient is two: states
forward, kept before every chunk, then cotangents from the last chunk to the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

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
from dtn_core.passes.stream import State, Weights

from .steps import RANK, Step, fuse


@dataclass(frozen=True)
class Carried:
    """A tensor carried along a walk: 0 at first, overwritten by a step of every chunk.

    Attributes
    ----------
    total
        Whether what counts is its value after the walk, a sum over all tokens; otherwise it is a state that every
        chunk reads.
    weights
        Its decay, if it has one.
    """

    name: str
    axes: tuple[str, ...]
    total: bool = False
    weights: Weights | None = None


@dataclass(frozen=True)
class Walk:
    """One pass over the tokens of a sequence, chunk by chunk.

    Attributes
    ----------
    setup
        Steps that no token takes part in, before the first chunk.
    body
        Steps of a chunk.
    carried
        What passes from chunk to chunk.
    saved, loaded
        States that are written to memory before each chunk, and those that an earlier walk wrote there.
    results
        Outputs along the tokens.
    reverse
        Whether it goes from the last chunk to the first.
    """

    setup: tuple[Step, ...]
    body: tuple[Step, ...]
    carried: tuple[Carried, ...] = ()
    saved: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    reverse: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        """Setup and body."""
        return (*self.setup, *self.body)

    def reads(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of ``names`` that it reads."""
        found = {read.tensor for step in self.steps for read in step.reads}
        return tuple(name for name in names if name in found)


@dataclass(frozen=True)
class TileProgram:
    """An operator as walks.

    Attributes
    ----------
    name : str
        Of the operator.
    axis : str
        The axis of the tokens.
    inputs, outputs : tuple[Param, ...]
        Arguments of the kernel, in order.
    walks : tuple[Walk, ...]
        One after another.
    tail : tuple[Step, ...]
        Steps after the last walk.
    weights : tuple[Weights, ...]
        Powers of decays along a chunk.
    axes : Mapping[str, tuple[str, ...]]
        The axes of every tensor.
    constants : Mapping[str, float]
        Scalars that are no arguments.
    """

    name: str
    axis: str
    inputs: tuple[Param, ...]
    outputs: tuple[Param, ...]
    walks: tuple[Walk, ...]
    tail: tuple[Step, ...]
    weights: tuple[Weights, ...]
    axes: Mapping[str, tuple[str, ...]]
    constants: Mapping[str, float] = field(default_factory=dict)

    def bound(self, scalars: Mapping[str, float]) -> TileProgram:
        """The program with values for some of its scalar arguments."""
        values = {p.name: float(scalars[p.name]) for p in self.inputs if p.name in scalars and not p.axes}
        inputs = tuple(p for p in self.inputs if p.name not in values)
        return replace(self, inputs=inputs, constants={**self.constants, **values})

    @property
    def features(self) -> tuple[str, ...]:
        """Every axis but that of the tokens."""
        found = dict.fromkeys(axis for axes in self.axes.values() for axis in axes)
        return tuple(axis for axis in found if axis != self.axis)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps."""
        return (*(step for walk in self.walks for step in walk.steps), *self.tail)

    def is_triangular(self, name: str) -> Step | None:
        """The step of a tensor that is 0 on one side of its diagonal."""
        return next((step for step in self.steps if step.name == name and step.order is not None), None)


def forward(lowered: Lowered) -> TileProgram:
    """The operator itself.

    Raises
    ------
    CompileError
        If it has no tile form, saying why.
    """
    axis = _token_axis(lowered)
    chunked = lowered.chunked
    definition = lowered.definition
    if chunked is None:
        return _Staged(lowered.program, axis, definition.params, definition.outputs).build(())
    if chunked.after is not None:
        raise CompileError(f"{definition.name} sums causal results over the whole sequence; that has no kernel")
    before = chunked.before
    body = Program(
        definition.name,
        definition.params,
        definition.outputs,
        (*(before.statements if before is not None else ()), *chunked.chunk.statements),
    )
    return _Staged(body, axis, definition.params, definition.outputs, chunked).build(chunked.stream.states)


def backward(lowered: Lowered) -> TileProgram:
    """Gradients by its tensors; inputs are the operator's, then a cotangent ``d_o`` for each output.

    Raises
    ------
    CompileError
        If it has no tile form, saying why.
    """
    axis = _token_axis(lowered)
    definition = lowered.definition
    ignored = masks(definition)
    wrt = [p.name for p in definition.tensors if p.name not in ignored]
    if lowered.chunked is None:
        vjp = differentiate(lowered.program, wrt)
        real = replace(vjp, statements=tuple(replace(s, value=real_valued(s.value)) for s in vjp.statements))
        program = divide(contract(pruned(real), assumed_sizes(real)))
        return _Staged(program, axis, vjp.params, vjp.outputs).build(())
    return _chunked_backward(lowered.chunked, definition, wrt)


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
    ) -> None:
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
        walks = tuple(self.walk(stage, final, states if stage == last else ()) for stage in range(count))
        tail = fuse([s for stage, s in self.small if stage == count], targets)
        return TileProgram(
            self.program.name, self.axis, self.params, self.outputs, walks, tail, tuple(weights), self.axes
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

    def walk(self, stage: int, final: int, states: Sequence[State]) -> Walk:
        """The walk that computes everything of ``stage``."""
        sums = [statement for at, statement in self.sums if at == stage]
        results = tuple(o.name for o in self.outputs if self.axis in o.axes and self.stages[o.name] == stage)
        wanted = {*results, *(s.added for s in states), *(r.tensor for s in sums for r in statement_reads(s))}
        body = _needed([s for s in self.tokens if self.stages[s.name] <= stage], wanted)
        carried, updates, renewals = _carried(states)
        for statement in sums:
            added, after = f"{statement.name}_added", f"{statement.name}_next"
            self.axes[added] = statement.axes
            body.append(replace(statement, name=added))
            old = Read(statement.name, statement.indices)
            renewals.append(Statement(after, statement.indices, sum_of(old, Read(added, statement.indices))))
            updates[after] = statement.name
            carried.append(Carried(statement.name, statement.axes, total=True))
        varying = {p.name for p in self.params if self.axis in p.axes} | {c.name for c in carried if not c.total}
        if self.chunked is not None:
            varying |= {w.fall for w in self.chunked.stream.weights}
        constant, moving = _hoisted(body, varying)
        small = [s for at, s in self.small if at == stage]
        read_later = {r.tensor for _, s in (*self.small, *self.sums) for r in statement_reads(s)}
        read_later |= {r.tensor for s in self.tokens for r in statement_reads(s)} | {o.name for o in self.outputs}
        return Walk(
            fuse([*small, *constant], read_later),
            fuse([*moving, *renewals], results, updates),
            tuple(carried),
            results=results,
        )


def _chunked_backward(chunked: Chunked, definition: Program, wrt: Sequence[str]) -> TileProgram:
    if chunked.wholes:
        raise CompileError(f"{definition.name}: the gradient of a causal operator that needs the whole has no kernel")
    made, stream = chunked.backward, chunked.stream
    axes = {p.name: p.axes for p in made.chunk.params} | {s.name: s.axes for s in made.chunk.statements}
    for weight in stream.weights:
        axes.update({weight.rise: (stream.axis,), weight.fall: (stream.axis,), weight.whole: ()})
    axes.update({p.name: p.axes for p in definition.params})
    added = [state.added for state in stream.states]
    walks: list[Walk] = []
    saved = tuple(s.name for s in stream.states)
    fixed = {p.name for p in made.chunk.params if stream.axis not in p.axes} | {w.rise for w in stream.weights}
    fixed -= {*saved, *(made.cotangents[name] for name in added)}
    varying = {p.name for p in made.chunk.params} - fixed | {w.fall for w in stream.weights}
    statements = list(made.chunk.statements)
    if stream.states:
        carried, updates, renewals = _carried(stream.states)
        constant, moving = _hoisted(_needed(statements, set(added)), varying)
        walks.append(Walk(fuse(constant, axes), fuse([*moving, *renewals], (), updates), tuple(carried), saved=saved))
    updates, renewals, carried = {}, [], []
    for state in stream.states:
        after = made.cotangents[state.added]
        mirrored = replace(state, name=after, after=f"{after}_next", added=made.gradients[state.name])
        renewals.append(mirrored.update)
        updates[mirrored.after] = after
        carried.append(Carried(after, state.axes, weights=state.weights))
    outputs = []
    totals: list[str] = []
    for name in wrt:
        gradient = made.gradients.get(name)
        if gradient is None:
            raise CompileError(f"{definition.name}: the gradient by {name} has no kernel")
        param = next(p for p in definition.params if p.name == name)
        outputs.append(Param(f"d_{name}" if gradient == f"d_{name}" else gradient, param.axes))
        if stream.axis not in param.axes:
            totals.append(gradient)
    results = tuple(p.name for p in outputs if stream.axis in p.axes)
    wanted = {*results, *totals, *(made.gradients[state.name] for state in stream.states)}
    body = _needed(statements, wanted)
    for name in totals:
        indices = next(s.indices for s in body if s.name == name)
        body = [replace(s, name=f"{name}_added") if s.name == name else s for s in body]
        axes[f"{name}_added"] = axes[name]
        total = sum_of(Read(name, indices), Read(f"{name}_added", indices))
        renewals.append(Statement(f"{name}_next", indices, total))
        updates[f"{name}_next"] = name
        carried.append(Carried(name, axes[name], total=True))
    constant, moving = _hoisted(body, varying)
    walks.append(
        Walk(
            fuse(constant, axes),
            fuse([*moving, *renewals], results, updates),
            tuple(carried),
            loaded=tuple(n for n in saved if any(r.tensor == n for s in moving for r in statement_reads(s))),
            results=results,
            reverse=True,
        )
    )
    if stream.states:
        walks[0] = replace(walks[0], saved=walks[1].loaded)
    given = [Param(made.cotangents[o.name], o.axes) for o in definition.outputs]
    return TileProgram(
        made.chunk.name,
        stream.axis,
        (*definition.params, *given),
        tuple(outputs),
        tuple(walks),
        (),
        stream.weights,
        axes,
    )


def _carried(states: Sequence[State]) -> tuple[list[Carried], dict[str, str], list[Statement]]:
    """States as carried tensors, their new names, and the statements that renew them."""
    carried = [Carried(state.name, state.axes, weights=state.weights) for state in states]
    return carried, {state.after: state.name for state in states}, [state.update for state in states]


def _needed(statements: Sequence[Statement], wanted: set[str]) -> list[Statement]:
    """Those of ``statements`` that ``wanted`` depends on."""
    wanted = set(wanted)
    found = []
    for statement in reversed(statements):
        if statement.name in wanted:
            wanted |= {read.tensor for read in statement_reads(statement)}
            found.append(statement)
    return found[::-1]


def _hoisted(statements: Sequence[Statement], varying: set[str]) -> tuple[list[Statement], list[Statement]]:
    """Statements that are the same for every chunk, and the others."""
    varying = set(varying)
    constant, moving = [], []
    for statement in statements:
        if any(read.tensor in varying for read in statement_reads(statement)):
            varying.add(statement.name)
            moving.append(statement)
        else:
            constant.append(statement)
    return constant, moving


__all__ = ["Carried", "TileProgram", "Walk", "backward", "forward"]
