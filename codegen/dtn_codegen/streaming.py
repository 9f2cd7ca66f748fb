"""A chunked program as source text: one function for a chunk, one that feeds it the sequence."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dtn_core.ir.axes import sequence_axes
from dtn_core.ir.build import pruned
from dtn_core.ir.nodes import Param, Program, Read, Statement, statement_reads
from dtn_core.passes.accumulate import accumulate
from dtn_core.passes.pipeline import Lowered
from dtn_core.passes.schedule import Scan, schedule

from . import recurrent
from .expressions import Expressions
from .python import PRELUDE, Module, assign, define
from .target import Target, fill

INITIAL, RETURN, SIZE, CHUNKS = "initial_state", "return_state", "chunk_size", "chunks"


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
    return ChunkedModule(target, form, scalars or {}, layout, widen).module()


class ChunkedModule(Module):
    """Assembles the module of one chunked form; parameters as for :func:`emit_chunked`."""

    def __init__(self, target: Target, form: Lowered, scalars: Mapping[str, float], layout: str, widen: bool) -> None:
        assert form.chunked is not None
        super().__init__(target, form.definition, form.definition, scalars, layout, form.complex_input, widen)
        self.form = form
        self.chunked = form.chunked
        self.stream = form.chunked.stream
        self.whole_parts = {
            part.name: Expressions(target, part, complex_input=form.complex_input) for part in self.chunked.wholes
        }

    @property
    def recomputes(self) -> bool:
        """Whether the gradient is generated too: real input, in a framework that takes one."""
        if not self.target.differentiate or self.form.complex_input:
            return False
        if not self.chunked.parallel:
            return "_scan" not in self.target.prelude
        return self.chunked.narrow(self.chunked.backward.chunk)

    def functions(self) -> list[ast.FunctionDef]:
        many = [False, True] if self.chunked.parallel else [False]
        made = [self.forward(many=each) for each in many]
        if self.chunked.token is not None:
            made.append(recurrent.token(self, self.chunked.token))
        if self.recomputes:
            made.append(self.forward(many=many[-1], results=False))
            made += [self.backward(many=each) for each in many]
        made.append(self.run(reverse=False))
        if self.recomputes:
            made.append(self.run(reverse=True))
        if recurrent.has_step(self):
            made.append(recurrent.step(self))
        body = self.main()
        names = [self.name(param.name) for param in self.program.params]
        extra: dict[str, ast.expr] = {SIZE: ast.Constant(self.chunked.size)}
        if self.stream.resumable:
            extra = {INITIAL: ast.Constant(None), RETURN: ast.Constant(False), **extra}
        defaults = self.defaults()
        main = define(self.name(self.program.name), [*names, *extra], body, [*defaults, *extra.values()])
        for part in self.whole_parts.values():
            self.expressions.used.update(part.used)
        if "_broadcast" in self.target.prelude:
            self.expressions.used["_broadcast"] = None
        return [*made, main]

    # -------------------------------------------------------------- one chunk

    def forward(self, *, many: bool, results: bool = True) -> ast.FunctionDef:
        """``chunk(states, tokens, constants) -> (states, results)``, of one chunk or of many at once."""
        scans, program = self.chunked.scans, self.chunked.chunk
        name = self.chunk_name(many)
        text = f"The next tokens of {self.program.name}, given the states that the earlier ones left."
        if many:
            text = f"Many chunks of {self.program.name} at once, given the states before the first."
        given = {
            "states": [scan.start if many else scan.carried for scan in scans],
            "tokens": [param.name for param in self.stream.tokens],
            "constants": [param.name for param in self.stream.constants],
        }
        done: list[list[str]] = [[scan.end for scan in scans]]
        if results:
            done.append([param.name for param in self.stream.results])
        else:
            program = pruned(replace(program, outputs=program.outputs[len(self.stream.results) :]))
            name, text = f"{name}_states", f"The states that {name} returns, alone."
        return self.chunk_function(name, text, program, scans, given, done, many)

    def backward(self, *, many: bool) -> ast.FunctionDef:
        """``vjp(states, tokens, constants, d_states, d_results) -> (d_states, d_tokens, d_constants)``."""
        made = self.chunked.backward
        scans = self.chunked.backward_scans
        forward, reverse = scans[: len(scans) // 2], scans[len(scans) // 2 :]
        inputs = (self.stream.tokens, self.stream.constants)
        given = {
            "states": [scan.start if many else scan.carried for scan in forward],
            "tokens": [param.name for param in self.stream.tokens],
            "constants": [param.name for param in self.stream.constants],
            "d_states": [scan.start if many else scan.carried for scan in reverse],
            "d_results": [made.cotangents[param.name] for param in self.stream.results],
        }
        done: list[list[str | None]] = [
            [scan.end for scan in reverse],
            *([made.gradients.get(p.name) for p in params] for params in inputs),
        ]
        text = f"Cotangents of what {self.chunk_name(many)} takes, from those of what it returns."
        program = made.chunk
        if not many:  # states before the chunk are given, and nobody asks for those after it
            program = pruned(replace(program, outputs=program.outputs[len(forward) :]))
            scans = reverse
        first = self.stream.states[0]
        start = reverse[0].start if many else reverse[0].carried
        shared = [
            self.over_batch(made.cotangents[p.name], len(p.axes) + many, start, len(first.axes))
            for p in self.stateless()
        ]
        return self.chunk_function(f"{self.chunk_name(many)}_vjp", text, program, scans, given, done, many, shared)

    def stateless(self) -> list[Param]:
        """The results that read no state: they may lack leading axes, which states always have."""
        differing = {state.name for state in self.stream.states}
        for statement in self.chunked.chunk.statements:
            if any(read.tensor in differing for read in statement_reads(statement)):
                differing.add(statement.name)
        return [param for param in self.stream.results if param.name not in differing]

    def over_batch(self, cotangent: str, rank: int, state: str, state_rank: int) -> ast.stmt:
        """The cotangent of such a result, divided evenly among the leading axes that it is added to others along."""
        self.expressions.used["_over_batch"] = None
        name = self.name(cotangent)
        call = "_over_batch(_d, _rank, _state, _state_rank)"
        holes = {"_rank": ast.Constant(rank), "_state_rank": ast.Constant(state_rank)}
        return assign(name, fill(call, _d=name, _state=self.name(state), **holes))

    def chunk_function(
        self,
        name: str,
        text: str,
        program: Program,
        scans: Sequence[Scan],
        given: Mapping[str, Sequence[str]],
        done: Sequence[Sequence[str | None]],
        many: bool,
        prepared: Sequence[ast.stmt] = (),
    ) -> ast.FunctionDef:
        """A function over the tensors of one chunk, or over those of many with an axis of chunks before their own."""
        if self.target.plus:
            program = accumulate(program)
        axis = self.stream.axis
        long: list[str] | None = (
            None if axis in program.axes else [a for a in sequence_axes(self.definition) if a != axis]
        )
        if self.target.elementwise_in_turns:
            long = []
        inner = Expressions(self.target, program, complex_input=self.form.complex_input, long=long)
        inner.tiles = {}
        like = self.name(self.stream.tokens[0].name)
        if many:
            alike = self.same_in_all(
                program, scans, {n for source, names in given.items() if source != "constants" for n in names}
            )
            steps = self.chunk_steps(program, scans, inner, alike)
            steps += [
                self.repeated(s, inner)
                for s in program.statements
                if s.name in alike & {n for names in done[1:] for n in names}
            ]
        else:
            steps = [*self.chunk_steps(program, (), inner, set()), *(self.carry(scan) for scan in scans)]
        tiles = [assign(self.name(tile), value) for tile, value in inner.tiles.values()]
        body = [*tiles, *steps]
        for weights in self.stream.weights:  # a decay is an array of the dtype that is computed in
            if isinstance(weights.decay, Read) and self.name(weights.decay.tensor) in names_in(body):
                inner.scalar_array(weights.decay)
        body = [*self.powers(inner, like, names_in(body)), *body]
        lifted = [
            assign(self.name(scalar), fill(self.target.scalar, _x=self.name(scalar), _like=like))
            for scalar in inner.lifted
        ]
        sizes = [assign(self.name(axis), self.size_in_chunk(axis)) for axis in inner.sizes]
        head = [unpack([self.name(n) for n in names], source) for source, names in given.items() if names]
        values = [ast.Tuple([self.returned(n, inner, like) for n in names], ast.Load()) for names in done]
        if "wide" in names_in([*lifted, *body, *values]):
            head.append(assign("wide", fill("_x.dtype", _x=self.name(given["states"][0]))))
        statements = [ast.Expr(ast.Constant(text)), *head, *prepared, *lifted, *sizes, *body]
        self.expressions.used.update(inner.used)
        extra = [CHUNKS] if many and self.merges else []
        defaults: list[ast.expr] = [ast.Constant(None) for _ in extra]
        statements.append(ast.Return(ast.Tuple(list(values), ast.Load())))
        return define(name, [*given, *extra], statements, defaults)

    def merged(self, function: ast.expr) -> ast.expr:
        """``_merged(function, …)`` with the number of axes behind the leading ones of everything a chunk takes."""
        self.expressions.used["_merged"] = None
        stream = self.stream
        kinds = (stream.states, stream.tokens, stream.constants, stream.results)
        ranks = [ast.Tuple([ast.Constant(len(each.axes)) for each in kind], ast.Load()) for kind in kinds]
        return ast.Call(ast.Name("_merged", ast.Load()), [function, *ranks], [])

    @property
    def merges(self) -> bool:
        """Whether many chunks are computed with leading axes and chunks as one axis where that is possible."""
        return "_merged" in self.target.prelude

    def returned(self, name: str | None, inner: Expressions, like: str) -> ast.expr:
        """What a chunk returns as ``name``, always an array; None for the cotangent of what has none."""
        if name is None:
            return ast.Constant(None)
        if self.name(name) in inner.loose:
            return fill(self.target.scalar, _x=self.name(name), _like=like)
        return ast.Name(self.name(name), ast.Load())

    def chunk_name(self, many: bool) -> str:
        return f"_{self.program.name}_chunk{'s' if many else ''}"

    def powers(self, inner: Expressions, like: str, used: set[str]) -> list[ast.stmt]:
        """The powers of each decay that a chunk uses."""
        made: list[ast.stmt] = []
        for weights in self.stream.weights:
            names = [self.name(name) for name in (weights.rise, weights.fall, weights.whole)]
            if not used & set(names):
                continue
            inner.sizes[self.stream.axis] = None
            size = self.name(self.stream.axis)
            decay = inner.scalar_array(weights.decay)
            places = fill(self.target.gaps, _n=size, _like=like)
            along = "_decay[..., None] ** " + self.target.power.replace("_x", "({})")
            values = [
                fill(along.format("_places + 1"), _decay=decay, _places=places),
                fill(along.format("_n - 1 - _places"), _decay=decay, _places=places, _n=size),
                fill("_decay ** " + self.target.power, _decay=decay, _x=size),
            ]
            made += [assign(name, value) for name, value in zip(names, values, strict=True) if name in used]
        return made

    @staticmethod
    def same_in_all(program: Program, scans: Sequence[Scan], own: set[str]) -> set[str]:
        """The statements that are the same in every chunk: nothing they read differs, as what is in ``own`` does."""
        differing = own | {scan.carried for scan in scans}
        alike: set[str] = set()
        for step in schedule(program, scans):
            if isinstance(step.action, Statement):
                differs = any(read.tensor in differing for read in statement_reads(step.action))
                (differing if differs else alike).add(step.action.name)
        return alike

    def repeated(self, statement: Statement, inner: Expressions) -> ast.stmt:
        """``x = zeros(chunks, …) + x``: what is the same in every chunk, once for each."""
        token = self.stream.tokens[0]
        count = fill(self.target.size, _x=self.name(token.name), _i=ast.Constant(-len(token.axes) - 1))
        shape = ast.Tuple([count, *(inner.extent(axis) for axis in statement.axes)], ast.Load())
        zeros = fill(self.target.zeros, _shape=shape, _like=self.name(token.name))
        return assign(self.name(statement.name), fill("_zeros + _x", _zeros=zeros, _x=self.name(statement.name)))

    def chunk_steps(
        self, program: Program, scans: Sequence[Scan], inner: Expressions, alike: set[str]
    ) -> list[ast.stmt]:
        """Statements and scans in the order of the schedule; what is not needed again is let go."""
        by_name = {statement.name: statement for statement in program.statements}
        statements: list[ast.stmt] = []
        for step in schedule(program, scans):
            if isinstance(step.action, Scan):
                if step.action.added in alike:
                    statements.append(self.repeated(by_name[step.action.added], inner))
                statements.append(self.scan(step.action))
            else:
                inner.spend(by_name, step.freed)
                statements.append(assign(self.name(step.action.name), inner.statement(step.action)))
            if step.freed:
                statements.append(ast.Delete([ast.Name(self.name(name), ast.Del()) for name in step.freed]))
        return statements

    def scan(self, scan: Scan) -> ast.stmt:
        """``carried, end = _pasts(start, added, whole, rank)``."""
        self.expressions.used.update(dict.fromkeys(name for name in WALKS["_pasts"] if name in self.target.prelude))
        self.expressions.used["_lift"] = None
        call = fill(
            "_pasts(_first, _added, _whole, _rank)",
            _first=self.name(scan.start),
            _added=self.name(scan.added),
            _whole=ast.Constant(None) if scan.whole is None else ast.Name(self.name(scan.whole), ast.Load()),
            _rank=ast.Constant(len(scan.axes)),
        )
        if scan.reverse:
            assert isinstance(call, ast.Call)
            call.keywords.append(ast.keyword("reverse", ast.Constant(True)))
        if self.merges:
            assert isinstance(call, ast.Call)
            call.keywords.append(ast.keyword(CHUNKS, ast.Name(CHUNKS, ast.Load())))
        names: list[ast.expr] = [ast.Name(self.name(name), ast.Store()) for name in (scan.carried, scan.end)]
        return ast.Assign([ast.Tuple(names, ast.Store())], call)

    def carry(self, scan: Scan) -> ast.stmt:
        """``end = whole * carried + added``."""
        kept: ast.expr = ast.Name(self.name(scan.carried), ast.Load())
        if scan.whole is not None:
            self.expressions.used["_lift"] = None
            rank = ast.Constant(len(scan.axes))
            kept = fill("_lift(_whole, _rank) * _kept", _whole=self.name(scan.whole), _rank=rank, _kept=kept)
        return assign(self.name(scan.end), fill("_kept + _added", _kept=kept, _added=self.name(scan.added)))

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
        statements.append(self.scan_call())
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

    def scan_call(self) -> ast.stmt:
        """``states, results = _run(chunk_size, states, tokens, constants)``."""
        self.expressions.used.update(dict.fromkeys(self.target.differentiate if self.recomputes else ()))
        call = ast.Call(
            ast.Name("_recomputed" if self.recomputes else "_run", ast.Load()),
            [
                ast.Name(SIZE, ast.Load()),
                ast.Name("states", ast.Load()),
                _tuple([self.name(p.name) for p in self.stream.tokens]),
                _tuple([self.name(p.name) for p in self.stream.constants]),
            ],
            [],
        )
        names: list[ast.expr] = [ast.Name(self.name(p.name), ast.Store()) for p in self.stream.results]
        target = ast.Tuple([ast.Name("states", ast.Store()), ast.List(names, ast.Store())], ast.Store())
        return ast.Assign([target], call)

    def run(self, *, reverse: bool) -> ast.FunctionDef:
        """``_run``: the chunks of a sequence, one after another; ``_run_vjp``: its gradient, in the other direction."""
        axis = self.stream.axis
        tokens, results = self.stream.tokens, self.stream.results
        many = self.chunked.parallel
        helper = ("_chunked" if many or "_scan" not in self.target.prelude else "_scan") + ("_vjp" if reverse else "")
        known = {**PRELUDE, **self.target.prelude}
        self.expressions.used.update(dict.fromkeys(name for name in WALKS[helper] if name in known))
        chunks = [self.chunk_name(many=False), self.chunk_name(many=True) if many else None]
        functions = chunks if not reverse else [f"{chunks[many]}_states", *(c and f"{c}_vjp" for c in chunks)]
        arguments: list[ast.expr] = [ast.Name(f, ast.Load()) if f else ast.Constant(None) for f in functions]
        if many and self.merges and not (reverse and self.stateless()):
            for place in (0, 2) if reverse else (1,):
                arguments[place] = self.merged(arguments[place])
        given = ["states", "tokens", "constants", *(["d_states", "d_results"] if reverse else [])]
        arguments += [ast.Name(name, ast.Load()) for name in given]
        arguments += [
            ast.Tuple([ast.Constant(p.axes.index(axis) - len(p.axes)) for p in params], ast.Load())
            for params in (tokens, results)
        ]
        arguments.append(ast.Tuple([ast.Constant(len(p.axes)) for p in self.stream.constants], ast.Load()))
        arguments.append(ast.Name("size", ast.Load()))
        defaults: list[ast.expr] = []
        if self.recomputes:  # the states between turns may be kept for the gradient
            defaults = [ast.Tuple([], ast.Load()) if reverse else ast.Constant(None)]
            arguments.append(ast.Name("walk", ast.Load()))
            given.append("walk")
        call = ast.Call(ast.Name(helper, ast.Load()), arguments, [])
        first = [recurrent.one_token(self)] if self.chunked.token is not None and not reverse else []
        text = f"All tokens of {self.program.name}, `size` in a chunk: `(states, results)`."
        if reverse:
            text = "Cotangents of what `_run` takes, from those of what it returns; each chunk is computed again."
        return define(
            "_run_vjp" if reverse else "_run",
            ["size", *given],
            [ast.Expr(ast.Constant(text)), *first, ast.Return(call)],
            defaults,
        )


WALKS = {
    "_chunked": (
        *("_at_once", "_symbolic", "_spans", "_cut", "_fold", "_spread", "_placed", "_joined", "_turns"),
        *("_chunked_of_any_length", "_chunked"),
    ),
    "_pasts": ("_sums", "_symbolic", "_pasts_by_product", "_pasts"),
    "_scan": ("_scan",),
    "_chunked_vjp": ("_reduced", "_chunked_vjp"),
}
"""What each walk over the chunks needs of the prelude."""


def names_in(nodes: Sequence[ast.AST]) -> set[str]:
    """Every name that ``nodes`` refer to."""
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}


def unpack(names: Sequence[str], source: str) -> ast.stmt:
    """``a, b = source``."""
    return ast.Assign([_stored(names)], ast.Name(source, ast.Load()))


def _stored(names: Sequence[str]) -> ast.Tuple:
    return ast.Tuple([ast.Name(name, ast.Store()) for name in names], ast.Store())


def _size(target: Target, params: Sequence[Param], axis: str, name: Callable[[str], str]) -> ast.expr:
    for param in params:
        if axis in param.axes:
            place = param.axes.index(axis) - len(param.axes)
            return fill(target.size, _x=name(param.name), _i=ast.Constant(place))
    raise AssertionError(f"axis {axis} belongs to nothing in the chunk")


def _tuple(names: Sequence[str]) -> ast.Tuple:
    return ast.Tuple([ast.Name(name, ast.Load()) for name in names], ast.Load())
