"""A chunked program as source text: one function for a chunk, one that feeds it the sequence."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence

from dtn_core.ir.nodes import ONES, Index, Param, Program, Read, Statement, reads, statement_reads
from dtn_core.passes.pipeline import Lowered
from dtn_core.passes.stream import State, Weights

from .expressions import Expressions
from .python import Module, assign, define
from .target import Target, fill

INITIAL, RETURN, SIZE = "initial_state", "return_state", "chunk_size"


def emit_chunked(
    target: Target,
    form: Lowered,
    *,
    scalars: Mapping[str, float] | None = None,
    layout: str = "... n d",
    widen: bool = True,
) -> str:
    """Source text of a module for a chunked form; the operator's function is its last.

    Its function takes, after the operator's own arguments, ``initial_state``, ``return_state`` and
    ``chunk_size`` when a sequence may come in pieces, else ``chunk_size`` alone.

    Parameters
    ----------
    target, scalars, layout, widen
        As for :func:`dtn_codegen.python.emit_program`.
    form : Lowered
        A form with ``chunked`` set.
    """
    return _ChunkedModule(target, form, scalars or {}, layout, widen).module()


class _ChunkedModule(Module):
    def __init__(self, target: Target, form: Lowered, scalars: Mapping[str, float], layout: str, widen: bool) -> None:
        assert form.chunked is not None
        super().__init__(target, form.definition, form.definition, scalars, layout, form.complex_input, widen)
        self.form = form
        self.chunked = form.chunked
        self.stream = form.chunked.stream
        self.whole_parts = {
            part.name: Expressions(target, part, complex_input=form.complex_input) for part in self.chunked.wholes
        }
        self.updates: dict[str, tuple[Index, ...]] = {}
        self.inner = Expressions(target, self.chunked.chunk, complex_input=form.complex_input)

    def functions(self) -> list[ast.FunctionDef]:
        made = [self.chunk_function(parallel=False)]
        if self.chunked.parallel:
            made.append(self.chunk_function(parallel=True))
        body = self.main()
        names = [self.name(param.name) for param in self.program.params]
        extra: dict[str, ast.expr] = {SIZE: ast.Constant(self.chunked.size)}
        if self.stream.resumable:
            extra = {INITIAL: ast.Constant(None), RETURN: ast.Constant(False), **extra}
        defaults = self.defaults()
        main = define(self.name(self.program.name), [*names, *extra], body, [*defaults, *extra.values()])
        for part in (self.inner, *self.whole_parts.values()):
            self.expressions.used.update(part.used)
        helpers = (
            ("_unfold", "_fold", "_joined", "_lift", "_pasts", "_chunked") if self.chunked.parallel else ("_scan",)
        )
        self.expressions.used.update(dict.fromkeys(helpers))
        if "_broadcast" in self.target.prelude:
            self.expressions.used["_broadcast"] = None
        return [*made, main]

    # -------------------------------------------------------------- one chunk

    def chunk_function(self, *, parallel: bool) -> ast.FunctionDef:
        """``chunk(states, tokens, constants) -> (states, results)``, of one chunk or of many at once."""
        steps = self.parallel_steps() if parallel else self.steps(self.chunked.chunk, self.inner)
        like = self.name(self.stream.tokens[0].name)
        unpacked = [
            _unpack(
                [self.name(self.first(state) if parallel else state.name) for state in self.stream.states], "states"
            ),
            _unpack([self.name(param.name) for param in self.stream.tokens], "tokens"),
        ]
        if self.stream.constants:
            unpacked.append(_unpack([self.name(param.name) for param in self.stream.constants], "constants"))
        like_float = self.first(self.stream.states[0]) if parallel else self.stream.states[0].name
        head: list[ast.stmt] = [*unpacked, assign("wide", fill("_x.dtype", _x=self.name(like_float)))]
        for weights in self.stream.weights:
            self.inner.sizes[self.stream.axis] = None
            decay = self.inner.scalar_array(weights.decay)
            places = fill(self.target.gaps, _n=self.name(self.stream.axis), _like=like)
            head_of = "_decay[..., None] ** " + self.target.power.replace("_x", "({})")
            rise = fill(head_of.format("_places + 1"), _decay=decay, _places=places)
            fall = fill(
                head_of.format("_n - 1 - _places"), _decay=decay, _places=places, _n=self.name(self.stream.axis)
            )
            whole = fill("_decay ** " + self.target.power, _decay=decay, _x=self.name(self.stream.axis))
            for name, value in ((weights.rise, rise), (weights.fall, fall), (weights.whole, whole)):
                steps.insert(0, assign(self.name(name), value))
        head += [
            assign(self.name(name), fill(self.target.scalar, _x=self.name(name), _like=like))
            for name in self.inner.lifted
        ]
        head += [assign(self.name(axis), self.size_in_chunk(axis)) for axis in self.inner.sizes]
        names = {
            n.id for node in (*steps, *head[len(unpacked) + 1 :]) for n in ast.walk(node) if isinstance(n, ast.Name)
        }
        if "wide" not in names:
            del head[len(unpacked)]
        states = _tuple([self.name(state.after) for state in self.stream.states])
        results = _tuple([self.name(param.name) for param in self.stream.results])
        done = ast.Return(ast.Tuple([states, results], ast.Load()))
        text = f"The next tokens of {self.program.name}, given the states that the earlier ones left."
        if parallel:
            text = f"Many chunks of {self.program.name} at once, given the states before the first."
        body: list[ast.stmt] = [ast.Expr(ast.Constant(text)), *head, *steps, done]
        name = f"{self.chunk_name}s" if parallel else self.chunk_name
        return define(name, ["states", "tokens", "constants"], body, [])

    @property
    def chunk_name(self) -> str:
        return f"_{self.program.name}_chunk"

    @staticmethod
    def first(state: State) -> str:
        """What the state before the first of many chunks is called."""
        return f"{state.name}_first"

    def parallel_steps(self) -> list[ast.stmt]:
        """The chunk's steps on all chunks; a state's sums over its chunk come before the state is read."""
        program = self.chunked.chunk
        weights = {state.name: weight for state, weight in self.decay_of_states()}
        by_name = {statement.name: statement for statement in program.statements}
        scans: dict[str, tuple[State, Read]] = {}
        skipped: set[str] = set()
        for state in self.stream.states:
            added, kept = self.parts_of_update(by_name, state)
            scans[state.name] = (state, added)
            skipped |= {state.after, *kept}
        statements: list[ast.stmt] = []
        ready = {p.name for p in program.params} - set(scans) | {ONES}
        waiting = [s for s in program.statements if s.name not in skipped]
        while waiting or scans:
            for name, (state, added) in list(scans.items()):
                if added.tensor in ready:
                    statements.append(self.scan_of(state, added, weights.get(name)))
                    ready.add(name)
                    del scans[name]
            found = next((s for s in waiting if all(r.tensor in ready for r in statement_reads(s))), None)
            if found is None:
                assert scans, "the statements of a chunk depend on one another in a circle"
                continue
            waiting.remove(found)
            statements.append(assign(self.name(found.name), self.inner.statement(found)))
            ready.add(found.name)
        return statements

    def parts_of_update(self, by_name: dict[str, Statement], state: State) -> tuple[Read, set[str]]:
        """Of ``next = past + added``: the read of what is added, and the statements that only keep the past."""
        update = by_name[state.after]
        kept: set[str] = set()
        added: list[Read] = []
        for read in reads(update.value):
            source = by_name.get(read.tensor)
            if read.tensor == state.name:
                continue
            if source is not None and any(r.tensor == state.name for r in reads(source.value)):
                kept.add(source.name)
            else:
                added.append(Read(read.tensor, tuple(read.indices)))
        assert len(added) == 1, f"{state.after} is not one sum added to its past"
        self.updates[state.name] = update.indices
        return added[0], kept

    def decay_of_states(self) -> list[tuple[State, Weights]]:
        """The states that decay, with their weights."""
        by_name = {statement.name: statement for statement in self.chunked.chunk.statements}
        found = []
        for state in self.stream.states:
            sources = [r.tensor for r in reads(by_name[state.after].value)]
            sources += [r.tensor for s in sources if s in by_name for r in reads(by_name[s].value)]
            found += [(state, weights) for weights in self.stream.weights if weights.whole in sources]
        return found

    def scan_of(self, state: State, added: Read, weights: Weights | None) -> ast.stmt:
        """``past, next = _pasts(first, added, whole, rank)``."""
        value = self.inner.permuted(
            ast.Name(self.name(added.tensor), ast.Load()), added.indices, self.updates[state.name]
        )
        call = fill(
            "_pasts(_first, _added, _whole, _rank)",
            _first=self.name(self.first(state)),
            _added=value,
            _whole=ast.Constant(None) if weights is None else ast.Name(self.name(weights.whole), ast.Load()),
            _rank=ast.Constant(len(state.axes)),
        )
        names = [ast.Name(self.name(name), ast.Store()) for name in (state.name, state.after)]
        return ast.Assign([ast.Tuple(list(names), ast.Store())], call)

    def size_in_chunk(self, axis: str) -> ast.expr:
        states = [Param(state.name, state.axes) for state in self.stream.states]
        return _size(self.target, [*self.stream.tokens, *self.stream.constants, *states], axis, self.name)

    # -------------------------------------------------------- the whole sequence

    def main(self) -> list[ast.stmt]:
        """The operator's body: parts before, the chunks, parts after, results."""
        statements: list[ast.stmt] = []
        before, after = self.chunked.before, self.chunked.after
        if before is not None:
            statements += self.part(before)
        statements += self.start()
        statements.append(self.scan())
        if after is not None:
            statements += self.part(after)
        results = [self.result(output.name, output.axes) for output in self.program.outputs]
        value = results[0] if len(results) == 1 else ast.Tuple(results, ast.Load())
        if self.stream.resumable:
            both = ast.Tuple([value, ast.Name("states", ast.Load())], ast.Load())
            value = ast.IfExp(ast.Name(RETURN, ast.Load()), both, value)
        self.uses_wide = True
        return [*self.prologue(), *statements, ast.Return(value)]

    def part(self, program: Program) -> list[ast.stmt]:
        expressions = self.whole_parts[program.name]
        steps = self.steps(program, expressions)
        self.expressions.lifted.update(expressions.lifted)
        self.expressions.sizes.update(expressions.sizes)
        return steps

    def start(self) -> list[ast.stmt]:
        """States of zeros unless there is an initial one."""
        shapes: list[ast.expr] = []
        for param in self.program.tensors:
            shape = fill(self.target.shape, _x=self.name(param.name))
            shapes.append(fill("_s[:_k]", _s=shape, _k=ast.Constant(-len(param.axes))))
        shapes += [fill(self.target.scalar_shape, _x=self.name(param.name)) for param in self.program.scalars]
        call = fill(self.target.broadcast)
        assert isinstance(call, ast.Call)
        batch = ast.Call(call.func, shapes, [])
        zeros = []
        for state in self.stream.states:
            for axis in state.axes:
                self.expressions.sizes[axis] = None
            sizes = [ast.Name(self.name(axis), ast.Load()) for axis in state.axes]
            shape = ast.Tuple([ast.Starred(ast.Name("batch", ast.Load()), ast.Load()), *sizes], ast.Load())
            zeros.append(fill(self.target.zeros, _shape=shape, _like=self.expressions.like))
        made = ast.Tuple(zeros, ast.Load())
        if not self.stream.resumable:
            return [assign("batch", batch), assign("states", made)]
        fresh: list[ast.stmt] = [assign("batch", batch), assign("states", made)]
        test = ast.Compare(ast.Name(INITIAL, ast.Load()), [ast.Is()], [ast.Constant(None)])
        given = fill("tuple(_x)", _x=INITIAL)
        return [ast.If(test, fresh, [assign("states", given)])]

    def scan(self) -> ast.stmt:
        axis = self.stream.axis
        places = [ast.Constant(p.axes.index(axis) - len(p.axes)) for p in self.stream.tokens]
        joins = [ast.Constant(p.axes.index(axis) - len(p.axes)) for p in self.stream.results]
        parallel = self.chunked.parallel
        functions = [self.chunk_name, *([f"{self.chunk_name}s"] if parallel else [])]
        ranks = ast.Tuple([ast.Constant(len(p.axes)) for p in self.stream.constants], ast.Load())
        call = ast.Call(
            ast.Name("_chunked" if parallel else "_scan", ast.Load()),
            [
                *(ast.Name(name, ast.Load()) for name in functions),
                ast.Name("states", ast.Load()),
                _tuple([self.name(p.name) for p in self.stream.tokens]),
                ast.Tuple(list(places), ast.Load()),
                _tuple([self.name(p.name) for p in self.stream.constants]),
                *([ranks] if parallel else []),
                ast.Tuple(list(joins), ast.Load()),
                ast.Name(SIZE, ast.Load()),
            ],
            [],
        )
        names = [ast.Name(self.name(p.name), ast.Store()) for p in self.stream.results]
        target = ast.Tuple([ast.Name("states", ast.Store()), ast.List(list(names), ast.Store())], ast.Store())
        return ast.Assign([target], call)


def _size(target: Target, params: Sequence[Param], axis: str, name: Callable[[str], str]) -> ast.expr:
    for param in params:
        if axis in param.axes:
            place = param.axes.index(axis) - len(param.axes)
            return fill(target.size, _x=name(param.name), _i=ast.Constant(place))
    raise AssertionError(f"axis {axis} belongs to nothing in the chunk")


def _unpack(names: Sequence[str], source: str) -> ast.stmt:
    target = ast.Tuple([ast.Name(name, ast.Store()) for name in names], ast.Store())
    return ast.Assign([target], ast.Name(source, ast.Load()))


def _tuple(names: Sequence[str]) -> ast.Tuple:
    return ast.Tuple([ast.Name(name, ast.Load()) for name in names], ast.Load())
