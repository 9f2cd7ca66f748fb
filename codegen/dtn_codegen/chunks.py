"""The functions of a chunk as source text: of one, of many at once, and their cotangents."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from dtn_core.ir.axes import sequence_axes
from dtn_core.ir.build import pruned
from dtn_core.ir.nodes import Param, Program, Read, Statement, statement_reads
from dtn_core.passes.accumulate import accumulate, accumulate_each
from dtn_core.passes.schedule import Scan, Step, schedule

from .expressions import Expressions
from .python import assign, define, read_once
from .target import Target, fill

if TYPE_CHECKING:
    from .streaming import ChunkedModule

CHUNKS = "chunks"
OF_MATMUL = "_pasts_of_matmul"
"""How states pass from chunk to chunk, where what is added is a product of matrices and the target has an operation."""


class Chunks:
    """Writes the functions of a chunk.

    Parameters
    ----------
    module : ChunkedModule
        The module that they belong to, which is told what of the prelude they use.
    """

    def __init__(self, module: ChunkedModule) -> None:
        self.target = module.target
        self.program = module.program
        self.chunked = module.chunked
        self.stream = module.stream
        self.expressions = module.expressions
        self.form = module.form
        self.name = module.name

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
        if self.target.plus_each:
            program = accumulate_each(program)
        axis = self.stream.axis
        long: list[str] | None = (
            None if axis in program.axes else [a for a in sequence_axes(self.form.definition) if a != axis]
        )
        if self.target.elementwise_in_turns:
            long = []
        inner = Expressions(
            self.target, program, complex_input=self.form.complex_input, long=long, batched=many and self.merges
        )
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
        tiles = [assign(tile, value) for tile, value in inner.tiles.values()]
        body = [*tiles, *steps]
        for weights in self.stream.weights:  # a decay is an array of the dtype that is computed in
            if isinstance(weights.decay, Read) and self.name(weights.decay.tensor) in names_in(body):
                inner.scalar_array(weights.decay)
        body = [*self.powers(inner, like, names_in(body)), *body]
        lifted = [
            assign(self.name(scalar), fill(self.target.scalar, _x=self.name(scalar), _like=like))
            for scalar in inner.lifted
        ]
        sizes = [assign(self.name(axis), self.size_in_chunk(axis, program)) for axis in inner.sizes]
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
        once = read_once(program)
        statements: list[ast.stmt] = []
        steps = schedule(program, scans)
        product: ast.expr | None = None  # what the scan that follows adds up, where one operation does both
        held: tuple[str, ...] = ()  # what that product was the last to read
        for step, after in zip_longest(steps, steps[1:]):
            action, freed = step.action, step.freed
            if isinstance(action, Scan):
                if action.added in alike:
                    statements.append(self.repeated(by_name[action.added], inner))
                statements.append(self.scan(action, product))
                freed = (*held, *(name for name in freed if product is None or name != action.added))
                product, held = None, ()
            else:
                inner.spend(by_name, freed, once)
                value = inner.statement(action)
                if action.name not in alike and self.sums(action, after) and is_batched(self.target, value):
                    product, held = value, freed
                    continue
                statements.append(assign(self.name(action.name), value))
            if freed and after is not None:
                statements.append(ast.Delete([ast.Name(self.name(name), ast.Del()) for name in freed]))
        return statements

    def sums(self, statement: Statement, after: Step | None) -> bool:
        """Whether a scan comes next that alone reads what ``statement`` makes, with one operation for both."""
        if after is None or not isinstance(after.action, Scan) or OF_MATMUL not in self.target.prelude:
            return False
        return after.action.added == statement.name and statement.name in after.freed

    def scan(self, scan: Scan, product: ast.expr | None) -> ast.stmt:
        """``carried, end = _pasts(start, added, whole, rank)``; what is added may be a ``product`` without a name."""
        self.expressions.used["_lift"] = None
        whole = ast.Constant(None) if scan.whole is None else ast.Name(self.name(scan.whole), ast.Load())
        if product is None:
            template = self.expressions.use("_pasts(_first, _added)")
            summed = fill(template, _first=self.name(scan.start), _added=self.name(scan.added))
        else:
            assert isinstance(product, ast.Call)
            template = self.expressions.use(f"{OF_MATMUL}(_first, _a, _b)")
            summed = fill(template, **dict(zip(("_a", "_b"), product.args, strict=True)), _first=self.name(scan.start))
        assert isinstance(summed, ast.Call)
        summed.args += [whole, ast.Constant(len(scan.axes))]
        if scan.reverse:
            summed.keywords.append(ast.keyword("reverse", ast.Constant(True)))
        if self.merges:
            summed.keywords.append(ast.keyword(CHUNKS, ast.Name(CHUNKS, ast.Load())))
        names: list[ast.expr] = [ast.Name(self.name(name), ast.Store()) for name in (scan.carried, scan.end)]
        return ast.Assign([ast.Tuple(names, ast.Store())], summed)

    def carry(self, scan: Scan) -> ast.stmt:
        """``end = whole * carried + added``."""
        kept: ast.expr = ast.Name(self.name(scan.carried), ast.Load())
        if scan.whole is not None:
            self.expressions.used["_lift"] = None
            rank = ast.Constant(len(scan.axes))
            kept = fill("_lift(_whole, _rank) * _kept", _whole=self.name(scan.whole), _rank=rank, _kept=kept)
        return assign(self.name(scan.end), fill("_kept + _added", _kept=kept, _added=self.name(scan.added)))

    def size_in_chunk(self, axis: str, program: Program) -> ast.expr:
        """The size of ``axis`` in what a chunk takes; of one token, ``program`` has tensors without its axis."""
        states = [Param(state.name, state.axes) for state in self.stream.states]
        own = {param.name: param for param in program.params}
        taken = [own.get(param.name, param) for param in (*self.stream.tokens, *self.stream.constants, *states)]
        return _size(self.target, taken, axis, self.name)


def is_batched(target: Target, value: ast.expr) -> bool:
    """Whether ``value`` is what ``target.batched`` makes, alone."""
    pattern = fill(target.batched)
    return (
        isinstance(value, ast.Call) and isinstance(pattern, ast.Call) and ast.dump(value.func) == ast.dump(pattern.func)
    )


def names_in(nodes: Sequence[ast.AST]) -> set[str]:
    """Every name that ``nodes`` refer to."""
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}


def unpack(names: Sequence[str], source: str) -> ast.stmt:
    """``a, b = source``."""
    targets = ast.Tuple([ast.Name(name, ast.Store()) for name in names], ast.Store())
    return ast.Assign([targets], ast.Name(source, ast.Load()))


def _size(target: Target, params: Sequence[Param], axis: str, name: Callable[[str], str]) -> ast.expr:
    for param in params:
        if axis in param.axes:
            place = param.axes.index(axis) - len(param.axes)
            return fill(target.size, _x=name(param.name), _i=ast.Constant(place))
    raise AssertionError(f"axis {axis} belongs to nothing in the chunk")
