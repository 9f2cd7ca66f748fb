"""A chunked program as source text: the functions of a chunk, and those that feed them the sequence."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce

from dtn_core.ir.nodes import Param, Program
from dtn_core.passes.pipeline import Lowered

from . import recurrent
from .chunks import Chunks, names_in
from .expressions import Expressions
from .python import PRELUDE, Module, assign, define
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
    return ChunkedModule(target, form, scalars or {}, layout, widen).module()


class ChunkedModule(Module):
    """Assembles the module of one chunked form; parameters as for :func:`emit_chunked`."""

    in_pieces = True

    def __init__(self, target: Target, form: Lowered, scalars: Mapping[str, float], layout: str, widen: bool) -> None:
        assert form.chunked is not None
        super().__init__(target, form.definition, form.definition, scalars, layout, form.complex_input, widen)
        self.form = form
        self.chunked = form.chunked
        self.stream = form.chunked.stream
        self.mirrored = dict(self.stream.mirrored)
        self.chunks = Chunks(self)
        self.whole_parts = {
            part.name: Expressions(target, part, complex_input=form.complex_input) for part in self.chunked.wholes
        }

    @property
    def narrow(self) -> list[Param]:
        """Results that need not have all leading axes, as states have."""
        chunked = self.chunked
        parts = [part for part in (chunked.before, chunked.chunk, chunked.after) if part is not None]
        outside = {**self.mirrored, **{old: new for new, old in self.stream.mirrored}}
        return self.partial(parts, [state.name for state in self.stream.states], outside)

    @property
    def recomputes(self) -> bool:
        """Whether the gradient is generated too: real input, in a framework that takes one."""
        if not self.target.differentiate or self.form.complex_input:
            return False
        # with two feature axes a framework that has a loop takes its own gradient, which is quicker
        return "_scan" not in self.target.prelude or (self.chunked.parallel and not self.chunked.widths)

    def functions(self) -> list[ast.FunctionDef]:
        many = [False, True] if self.chunked.parallel else [False]
        made = [self.chunks.forward(many=each) for each in many]
        if self.chunked.token is not None:
            made.append(recurrent.token(self, self.chunked.token))
        if self.recomputes:
            made.append(self.chunks.forward(many=many[-1], results=False))
            made += [self.chunks.backward(many=each) for each in many]
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
        return [*made, main]

    # -------------------------------------------------------- the whole sequence

    def main(self) -> list[ast.stmt]:
        """The operator's body: parts before, the chunks, parts after, results."""
        statements: list[ast.stmt] = []
        before, after = self.chunked.before, self.chunked.after
        if before is not None:
            statements += self.part(before)
        statements += self.start()
        statements.append(self.scan_call())
        made = [param for param in self.stream.results if param.name in self.mirrored]
        statements += [assign(self.name(self.mirrored[p.name]), self.turned(p, self.name(p.name))) for p in made]
        if after is not None:
            statements += self.part(after)
        statements += self.spread(self.narrow)
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
        arguments = [param.name for param in self.program.params]
        computed = [name for name in expressions.lifted if name not in arguments]  # by an earlier part
        self.expressions.lifted.update((name, None) for name in expressions.lifted if name in arguments)
        self.expressions.loose.update(expressions.loose)
        self.expressions.sizes.update(expressions.sizes)
        return [*self.as_arrays(computed, expressions), *steps]

    def as_arrays(self, names: Iterable[str], expressions: Expressions) -> list[ast.stmt]:
        """Scalars as arrays."""
        return [
            assign(self.name(name), fill(self.target.scalar, _x=self.name(name), _like=expressions.like))
            for name in names
        ]

    def early(self) -> list[ast.stmt]:
        """What is computed before one token, which reads none."""
        before = self.chunked.before
        if before is None:
            return []
        expressions = self.whole_parts[before.name]
        steps = self.steps(before, expressions)
        scalars = self.as_arrays(expressions.lifted, expressions)
        params = (Param(p.name, tuple(a for a in p.axes if a != self.stream.axis)) for p in before.params)
        given = replace(before, params=tuple(params))
        sizes = [assign(self.name(axis), self.size_of(axis, given)) for axis in expressions.sizes]
        dtype = [] if self.widen or "wide" not in names_in([*scalars, *steps]) else [self.given_dtype()]
        return [*dtype, *scalars, *sizes, *steps]

    def start(self) -> list[ast.stmt]:
        """States of zeros unless there is an initial one."""
        batch = self.batch()
        zeros = []
        for state in self.stream.states:
            for axis in state.axes:
                self.expressions.sizes[axis] = None
            sizes = [ast.Name(self.name(axis), ast.Load()) for axis in state.axes]
            shape = ast.Tuple([ast.Starred(ast.Name("batch", ast.Load()), ast.Load()), *sizes], ast.Load())
            zeros.append(fill(self.target.zeros, _shape=shape, _like=self.expressions.like))
        made = ast.Tuple(zeros, ast.Load())
        fresh: list[ast.stmt] = [assign("batch", batch), assign("states", made)]
        if not self.stream.resumable:
            return [*fresh, *self.placed()]
        test = ast.Compare(ast.Name(INITIAL, ast.Load()), [ast.Is()], [ast.Constant(None)])
        given = fill("tuple(_x)", _x=INITIAL)
        return [ast.If(test, fresh, [assign("states", given)]), *self.placed()]

    def placed(self) -> list[ast.stmt]:
        """``states = _placed(states, ranks, tensors, ranks)``, where a framework keeps account of where values are."""
        if not self.target.placed:
            return []
        params = [*self.program.tensors, *self.program.scalars]
        own, ranks = (
            ast.Tuple([ast.Constant(len(param.axes)) for param in each], ast.Load())
            for each in (self.stream.states, params)
        )
        tensors = _tuple([self.name(param.name) for param in params])
        self.expressions.used["_placed"] = None
        return [assign("states", fill(self.target.placed, _states="states", _own=own, _tensors=tensors, _ranks=ranks))]

    def scan_call(self) -> ast.stmt:
        """``states, results = _run(chunk_size, states, tokens, constants)``."""
        self.expressions.used.update(dict.fromkeys(self.target.differentiate if self.recomputes else ()))
        call = ast.Call(
            ast.Name("_recomputed" if self.recomputes else "_run", ast.Load()),
            [
                ast.Name(SIZE, ast.Load()),
                ast.Name("states", ast.Load()),
                ast.Tuple([self.token(p) for p in self.stream.tokens], ast.Load()),
                _tuple([self.name(p.name) for p in self.stream.constants]),
            ],
            [],
        )
        names: list[ast.expr] = [ast.Name(self.name(p.name), ast.Store()) for p in self.stream.results]
        target = ast.Tuple([ast.Name("states", ast.Store()), ast.List(names, ast.Store())], ast.Store())
        return ast.Assign([target], call)

    def token(self, param: Param) -> ast.expr:
        """A tensor along the tokens in the order in which chunks come."""
        if param.name in self.mirrored:
            return self.turned(param, self.name(self.mirrored[param.name]))
        return ast.Name(self.name(param.name), ast.Load())

    def turned(self, param: Param, name: str) -> ast.expr:
        """``name``, a tensor like ``param``, from the last token to the first."""
        place = param.axes.index(self.stream.axis) - len(param.axes)
        return fill(self.target.flip, _x=name, _i=ast.Constant(place))

    def run(self, *, reverse: bool) -> ast.FunctionDef:
        """``_run``: the chunks of a sequence, one after another; ``_run_vjp``: its gradient, in the other direction."""
        axis = self.stream.axis
        tokens, results = self.stream.tokens, self.stream.results
        many = self.chunked.parallel
        helper = "_chunked" if many or "_scan" not in self.target.prelude else "_scan"
        if many and self.chunked.widths and "_chunked_or_scan" in self.target.prelude:
            helper = "_chunked_or_scan"
        helper += "_vjp" if reverse else ""
        known = {**PRELUDE, **self.target.prelude}
        self.expressions.used.update(dict.fromkeys(name for name in WALKS[helper] if name in known))
        chunks = [self.chunks.chunk_name(many=False), self.chunks.chunk_name(many=True) if many else None]
        functions = chunks if not reverse else [f"{chunks[many]}_states", *(c and f"{c}_vjp" for c in chunks)]
        arguments: list[ast.expr] = [ast.Name(f, ast.Load()) if f else ast.Constant(None) for f in functions]
        if many and self.chunks.merges and not (reverse and self.chunks.stateless()):
            for place in (0, 2) if reverse else (1,):
                arguments[place] = self.chunks.merged(arguments[place])
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
        sizes: list[ast.stmt] = []
        call = ast.Call(ast.Name(helper, ast.Load()), arguments, [])
        if many and self.chunked.widths:
            sizes, wider = self.wider()
            call.keywords.append(ast.keyword("wider", wider))
        first = [recurrent.one_token(self)] if self.chunked.token is not None and not reverse else []
        text = f"All tokens of {self.program.name}, `size` in a chunk: `(states, results)`."
        if reverse:
            text = "Cotangents of what `_run` takes, from those of what it returns; each chunk is computed again."
        return define(
            "_run_vjp" if reverse else "_run",
            ["size", *given],
            [ast.Expr(ast.Constant(text)), *first, *sizes, ast.Return(call)],
            defaults,
        )

    def wider(self) -> tuple[list[ast.stmt], ast.expr]:
        """``d = …`` and ``max(d, d * size) // max(1, d)``: elements of the widest tensor for one of the first."""
        stream, sizes = self.stream, dict[str, ast.expr]()
        states = [Param(state.name, state.axes) for state in stream.states]
        given = {"tokens": stream.tokens, "constants": stream.constants, "states": states}
        for source, params in given.items():
            for place, param in enumerate(params):
                x = fill("_source[_i]", _source=source, _i=ast.Constant(place))
                for index, axis in enumerate(param.axes, -len(param.axes)):
                    known = self.target.known_size or self.target.size
                    sizes.setdefault(axis, fill(known, _x=x, _i=ast.Constant(index)))
        widths = self.chunked.widths
        needed = dict.fromkeys(axis for rest in widths for axis in rest if axis != stream.axis)
        named = {axis: self.name(axis) for axis in needed} | {stream.axis: "size"}
        products = [_product([named[axis] for axis in rest]) for rest in widths]
        most = ast.Call(ast.Name("max", ast.Load()), products, [])
        value = fill("_most // max(1, _first)", _most=most, _first=products[0])
        return [assign(named[axis], sizes[axis]) for axis in needed], value


_CHUNKED = (
    *("_at_once", "_symbolic", "_spans", "_cut", "_fold", "_spread", "_placed", "_joined", "_turns"),
    *("_chunked_of_any_length", "_chunked"),
)
WALKS = {
    "_chunked": _CHUNKED,
    "_scan": ("_scan",),
    "_chunked_or_scan": ("_scan", *_CHUNKED, "_chunked_or_scan"),
    "_chunked_vjp": ("_reduced", "_chunked_vjp"),
}
"""What each walk over the chunks needs of the prelude."""


def _product(names: Sequence[str]) -> ast.expr:
    """``a * b``."""
    factors: list[ast.expr] = [ast.Name(name, ast.Load()) for name in names]
    return reduce(lambda a, b: fill("_a * _b", _a=a, _b=b), factors) if factors else ast.Constant(1)


def _tuple(names: Sequence[str]) -> ast.Tuple:
    return ast.Tuple([ast.Name(name, ast.Load()) for name in names], ast.Load())
