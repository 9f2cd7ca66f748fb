"""The shared emitter: a lowered program to the source text of one framework, as a Python ``ast``."""

from __future__ import annotations

import ast
import hashlib
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dtn_core.cost import freed_after
from dtn_core.errors import CompileError
from dtn_core.ir.axes import sequence_axes
from dtn_core.ir.nodes import Param, Program, statement_reads
from dtn_core.passes.differentiate import masks
from dtn_core.passes.pipeline import FEW
from dtn_core.printer import to_notation

from .expressions import Expressions
from .maps import affine
from .target import Target, fill, parsed

HEADS = "... n h d"
LAYOUTS = ("... n d", HEADS)
SPANS_OF_A_LENGTH = """\
    if length < 2 * size:
        return [(0, length, None)]
    fit = _at_once(x, length, size * wider) if wider else 1
    if fit < FEW:  # among so few a chunk takes longer than alone
        return [(start, min(start + size, length), None) for start in range(0, length, size)]
    whole = length - length % size
    count = length // size
    turns = -(-count // fit)
    many = -(-count // turns) * size
    spans = [(start, min(start + many, whole)) for start in range(0, whole, many)]
    return [(*span, size) for span in spans] + ([] if whole == length else [(whole, length, None)])
""".replace("FEW", str(FEW))
"""How ``_spans`` ends, once the length is known."""

PRELUDE = {
    "_lift": '''
def _lift(scalar, rank):
    """A scalar, or one per leading index, against tensors with `rank` more axes."""
    return scalar if len(getattr(scalar, "shape", ())) == 0 else scalar[(..., *[None] * rank)]
''',
    "_shaped": '''
def _shaped(x, rank, sizes):
    """`x` with its last `rank` axes as axes of these sizes."""
    return x.reshape((*x.shape[:x.ndim - rank], *sizes))
''',
    "_spans": '''
def _spans(x, place, size, wider):
    """Where the pieces of a sequence start and stop, and the size of their chunks (None: one, of any length).

    The widest tensor has `wider` elements for each of `x`; of None, chunks are not computed at once.
    """
    length = x.shape[place]
'''
    + SPANS_OF_A_LENGTH,
    "_cut": '''
def _cut(x, place, start, stop, size):
    """Tokens from `start` to `stop` along the axis at `place`, in chunks of `size`."""
    x = x[(..., slice(start, stop), *[slice(None)] * (-place - 1))]
    if size is None:
        return x
    axis = x.ndim + place
    return x.reshape((*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1:]))
''',
    "_fold": '''
def _fold(y, place, size):
    """Chunks as one sequence again."""
    if size is None:
        return y
    axis = y.ndim + place
    return y.reshape((*y.shape[:axis - 1], y.shape[axis - 1] * y.shape[axis], *y.shape[axis + 1:]))
''',
    "_spread": '''
def _spread(constants, ranks, size):
    """Constants with an axis of chunks before their own axes."""
    if size is None:
        return constants
    return [
        x[(..., None, *[slice(None)] * rank)] if len(getattr(x, "shape", ())) else x
        for x, rank in zip(constants, ranks)
    ]
''',
    "_chunked": '''
def _chunked(chunk, chunks, states, tokens, constants, places, joins, ranks, size, walk=None, wider=1):
    """Chunks of `size` tokens, as many at once as a cache holds; hands the states on, joins results along `joins`.

    The states before each turn are appended to `walk`.
    """
    length = tokens[0].shape[places[0]]
    wholes = [None] * len(joins)
    for start, stop, each in _spans(tokens[0], places[0], size, chunks and wider):
        if walk is not None:
            walk.append(states)
        part = [_cut(x, place, start, stop, each) for x, place in zip(tokens, places)]
        states, results = (chunk if each is None else chunks)(states, part, _spread(constants, ranks, each))
        for index, (y, place) in enumerate(zip(results, joins)):
            wholes[index] = _placed(wholes[index], y, place, start, length, each)
        del part, results, y
    return states, [_joined(whole, place) for whole, place in zip(wholes, joins)]
''',
    "_chunked_vjp": '''
def _chunked_vjp(
    advance, chunk_vjp, chunks_vjp, states, tokens, constants, d_states, d_results, places, joins, ranks, size,
    walk=(), wider=1,
):
    """Cotangents of states, tokens and constants: states forward again, then their cotangents backward.

    `walk` has the states before each turn where they were kept.
    """
    spans = _spans(tokens[0], places[0], size, chunks_vjp and wider)
    walk = [*walk] or [states]
    each = chunks_vjp and size
    for start, stop, _ in spans[len(walk) - 1 : -1]:
        part = [_cut(x, place, start, stop, each) for x, place in zip(tokens, places)]
        [states] = advance(walk[-1], part, _spread(constants, ranks, each))
        walk.append(states)
    length = tokens[0].shape[places[0]]
    wholes, totals = [None] * len(tokens), [None] * len(constants)
    for (start, stop, each), states in zip(spans[::-1], walk[::-1]):
        part = [_cut(x, place, start, stop, each) for x, place in zip(tokens, places)]
        d_part = [_cut(y, place, start, stop, each) for y, place in zip(d_results, joins)]
        shared = _spread(constants, ranks, each)
        vjp = chunk_vjp if each is None else chunks_vjp
        d_states, d_tokens, d_shared = vjp(states, part, shared, d_states, d_part)
        for index, (d, place) in enumerate(zip(d_tokens, places)):
            if d is not None:
                wholes[index] = _placed(wholes[index], d, place, start, length, each)
        del part, d_part, d_tokens, d
        for index, (d, y, x) in enumerate(zip(d_shared, shared, constants)):
            if d is not None and hasattr(x, "shape"):
                d = _reduced(d, y).reshape(x.shape)
                totals[index] = d if totals[index] is None else totals[index] + d
    wholes = [None if whole is None else _joined(whole, place, True) for whole, place in zip(wholes, places)]
    return (
        [_reduced(d, state) for d, state in zip(d_states, walk[0])],
        [None if d is None else _reduced(d, x) for d, x in zip(wholes, tokens)],
        totals,
    )
''',
    "_decayed": '''
def _decayed(triangle, places, decay):
    """`decay ** |i - j|` inside the triangle, 0 outside."""
    return triangle * decay[..., None, None] ** abs(places[:, None] - places)
''',
}


def ir_hash(program: Program) -> str:
    """Twelve hexadecimal digits that name a program, the same on every machine."""
    return hashlib.sha256(to_notation(program).encode()).hexdigest()[:12]


def emit_program(
    target: Target,
    definition: Program,
    lowered: Program,
    *,
    scalars: Mapping[str, float] | None = None,
    layout: str = "... n d",
    complex_input: bool = False,
    widen: bool = True,
) -> str:
    """Source text of a module with one function, named after the operator.

    Parameters
    ----------
    target : Target
        The framework.
    definition, lowered : Program
        The operator as it was written (for its docstring and hash) and as it is computed.
    scalars : Mapping[str, float], optional
        Default values of scalar parameters.
    layout : {"... n d", "... n h d"}
        Where the head axis is.
    complex_input : bool
        Whether the arguments are complex.
    widen : bool
        Convert arguments to a common dtype of float32 or more; not needed where they have one already.

    Returns
    -------
    str
        Python source that imports nothing but the framework and what comes with Python.
    """
    return Module(target, definition, lowered, scalars or {}, layout, complex_input, widen).module()


@dataclass(frozen=True)
class Helper:
    """What a module may need besides its own functions: imports, the text of functions, and the names in them."""

    imports: tuple[ast.Import, ...]
    functions: tuple[str, ...]
    names: frozenset[str]


@lru_cache(maxsize=256)
def _helper(source: str) -> Helper:
    """A prelude as it is written into modules; read once, however many of them need it."""
    nodes, names = parsed(textwrap.dedent(source).strip()).body, set[str]()
    for node in nodes:
        settle(node, names)
    imports = tuple(node for node in nodes if isinstance(node, ast.Import))
    functions = tuple(ast.unparse(node) for node in nodes if not isinstance(node, ast.Import))
    return Helper(imports, functions, frozenset(names))


class Module:
    """Assembles the module of one lowered program: imports, prelude, the function.

    ``in_pieces`` is whether arguments are cut into pieces, which are laid out each for itself.

    Parameters
    ----------
    target, definition, lowered, scalars, layout, complex_input, widen
        As :func:`emit_program` takes them.
    """

    in_pieces = False

    def __init__(
        self,
        target: Target,
        definition: Program,
        lowered: Program,
        scalars: Mapping[str, float],
        layout: str,
        complex_input: bool,
        widen: bool,
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout {layout!r} is not one of {', '.join(map(repr, LAYOUTS))}")
        self.target = target
        self.definition = definition
        self.program = lowered
        self.scalars = scalars
        self.layout = layout
        self.widen = widen
        self.uses_wide = True
        self.expressions = Expressions(target, lowered, complex_input=complex_input)
        self.name = self.expressions.name

    def module(self) -> str:
        """The source text."""
        made = self.functions()
        made[-1].body.insert(0, ast.Expr(ast.Constant(self.docstring())))
        helpers = [_helper({**PRELUDE, **self.target.prelude}[name]) for name in self.expressions.used]
        names = {name for helper in helpers for name in helper.names}
        for node in made:
            settle(node, names)
        imports = [*(line for helper in helpers for line in helper.imports), *self.imports(names)]
        header = ast.Expr(
            ast.Constant(
                f"{self.program.name} for {self.target.framework}, generated by deep-tensor-network "
                f"from IR {ir_hash(self.definition)}."
            )
        )
        top = ast.unparse(ast.Module([header, *imports], []))
        texts = [text for helper in helpers for text in helper.functions]
        parts = [top.replace('"""\nimport', '"""\n\nimport'), *texts, *map(ast.unparse, made)]
        return "\n\n\n".join(parts) + "\n"

    def functions(self) -> list[ast.FunctionDef]:
        """The functions of the module, the operator's own last."""
        names = [self.name(param.name) for param in self.program.params]
        return [define(self.name(self.program.name), names, self.body(), self.defaults())]

    def imports(self, names: set[str]) -> list[ast.stmt]:
        """The framework's imports of which the source has a name."""
        lines = parsed(self.target.imports).body
        return [
            line
            for line in lines
            if isinstance(line, ast.Import) and (line.names[0].asname or line.names[0].name) in names
        ]

    def defaults(self) -> list[ast.expr]:
        values: list[ast.expr] = []
        for param in reversed(self.program.params):
            if param.axes or param.name not in self.scalars:
                break
            values.append(ast.Constant(self.scalars[param.name]))
        return values[::-1]

    def docstring(self) -> str:
        shapes = ", ".join(f"{p.name}[..., {', '.join(self.axes(p.axes))}]" for p in self.program.tensors)
        results = ", ".join(f"{o.name}[..., {', '.join(self.axes(o.axes))}]" for o in self.program.outputs)
        lines = [f"{shapes} -> {results}", "", *to_notation(self.definition).splitlines()]
        return "\n".join([lines[0], *(f"    {line}".rstrip() for line in lines[1:])]) + "\n    "

    def axes(self, axes: Sequence[str]) -> Sequence[str]:
        if self.layout == HEADS and self.moves(axes):
            return [axes[0], "h", *axes[1:]]
        return axes

    def moves(self, axes: Sequence[str]) -> bool:
        """Whether a tensor over ``axes`` has a head axis to exchange in layout ``... n h d``."""
        return has_heads(self.definition, axes)

    def steps(self, program: Program, expressions: Expressions) -> list[ast.stmt]:
        """The statements of a program as assignments."""
        statements: list[ast.stmt] = []
        by_name = {statement.name: statement for statement in program.statements}
        once = read_once(program)
        part, fused = "", None  # a statement that has no name of its own, and the value of the next one, with it
        for statement, after, freed in zip(
            program.statements, (*program.statements[1:], None), freed_after(program), strict=True
        ):
            value, fused = fused, None
            if value is None and after is not None and statement.name in once and not freed:
                part, fused = statement.name, affine(expressions, statement, after)
                if fused is not None:
                    continue
            expressions.spend(by_name, freed, once)
            statements.append(assign(self.name(statement.name), value or expressions.statement(statement)))
            named = [name for name in freed if value is None or name != part]
            if named and after is not None:
                statements.append(ast.Delete([ast.Name(self.name(name), ast.Del()) for name in named]))
        return statements

    def body(self) -> list[ast.stmt]:
        """The operator's statements, from its arguments to its results."""
        statements = [*self.steps(self.program, self.expressions), *self.spread(self.partial([self.program]))]
        results = [self.result(output.name, output.axes) for output in self.program.outputs]
        value = results[0] if len(results) == 1 else ast.Tuple(results, ast.Load())
        lifted = [
            fill(self.target.scalar, _x=self.name(name), _like=self.expressions.like)
            for name in self.expressions.lifted
        ]
        names = {n.id for node in (*statements, *lifted, value) for n in ast.walk(node) if isinstance(n, ast.Name)}
        self.uses_wide = "wide" in names
        return [*self.prologue(), *statements, ast.Return(value)]

    def partial(
        self, parts: Sequence[Program], full: Iterable[str] = (), same: Mapping[str, str] | None = None
    ) -> list[Param]:
        """Results that are not computed from all arguments, and so need not have all their leading axes.

        ``parts`` is what is computed, in order; ``full`` has all leading axes whatever it is computed from; ``same``
        are other names of what is computed.
        """
        everything = frozenset(param.name for param in self.program.params)
        sources = {name: frozenset([name]) for name in everything} | dict.fromkeys(full, everything)

        def known(name: str) -> frozenset[str]:
            return sources.get(name) or sources.get((same or {}).get(name, name), frozenset())

        for statement in (statement for part in parts for statement in part.statements):
            sources[statement.name] = frozenset[str]().union(*(known(r.tensor) for r in statement_reads(statement)))
        return [output for output in self.program.outputs if known(output.name) != everything]

    def spread(self, results: Sequence[Param]) -> list[ast.stmt]:
        """``o = zeros((*batch, …)) + o`` for results that may have too few leading axes."""
        made: list[ast.stmt] = []
        for result in results:
            sizes = [self.expressions.extent(axis) for axis in result.axes]
            shape = ast.Tuple([ast.Starred(self.batch(), ast.Load()), *sizes], ast.Load())
            zeros = fill(self.target.zeros, _shape=shape, _like=self.expressions.like)
            made.append(assign(self.name(result.name), fill("_zeros + _x", _zeros=zeros, _x=self.name(result.name))))
        return made

    def batch(self) -> ast.expr:
        """The leading axes that all arguments broadcast to."""
        shapes: list[ast.expr] = []
        for param in self.program.tensors:
            shape = fill(self.target.shape, _x=self.name(param.name))
            shapes.append(fill("_s[:_k]", _s=shape, _k=ast.Constant(-len(param.axes))))
        shapes += [fill(self.target.scalar_shape, _x=self.name(param.name)) for param in self.program.scalars]
        call = fill(self.target.broadcast)
        assert isinstance(call, ast.Call)
        if "_broadcast" in self.target.prelude:
            self.expressions.used["_broadcast"] = None
        return ast.Call(call.func, shapes, [])

    def result(self, name: str, axes: Sequence[str]) -> ast.expr:
        value = self.cast_back(name)
        return fill(self.target.heads, _x=value) if self.layout == HEADS and self.moves(axes) else value

    def cast_back(self, name: str) -> ast.expr:
        """An output, an array of the arguments' dtype."""
        value: ast.expr = ast.Name(self.name(name), ast.Load())
        if self.name(name) in self.expressions.loose:
            value = fill(self.target.scalar, _x=value, _like=self.expressions.like)
        return fill(self.target.cast, _x=value, _dtype="dtype") if self.widen else value

    def prologue(self) -> list[ast.stmt]:
        """Arguments to arrays of the dtype to compute in, and the sizes the body needs."""
        statements = self.conversions()
        names = [self.name(param.name) for param in self.program.tensors]
        if self.uses_wide and not self.widen:
            statements.append(self.given_dtype())
        if self.layout == HEADS:
            moved = [param.name for param in self.program.tensors if self.moves(param.axes)]
            statements += [assign(self.name(name), self.turned_heads(name)) for name in moved]
        for name in self.expressions.lifted:
            statements.append(assign(self.name(name), fill(self.target.scalar, _x=self.name(name), _like=names[0])))
        for axis in self.expressions.sizes:
            statements.append(assign(self.name(axis), self.size_of(axis)))
        return statements

    def turned_heads(self, name: str) -> ast.expr:
        """An argument with its head axis before that of tokens."""
        template = self.target.heads
        if self.target.heads_once and not self.in_pieces and Counter(tensors_read(self.program))[name] > 1:
            template = self.expressions.use(self.target.heads_once)
        return fill(template, _x=self.name(name))

    def given_dtype(self) -> ast.stmt:
        """``wide = q.dtype``, of arguments that are computed with as they are."""
        masks = masks_of(self.program)
        first = next(self.name(param.name) for param in self.program.tensors if param.name not in masks)
        return assign("wide", ast.Attribute(ast.Name(first, ast.Load()), "dtype", ast.Load()))

    def conversions(self) -> list[ast.stmt]:
        """Arguments to arrays of the dtype to compute in."""
        statements: list[ast.stmt] = []
        masks = masks_of(self.program)
        names = [self.name(param.name) for param in self.program.tensors]
        typed = [self.name(param.name) for param in self.program.tensors if param.name not in masks]
        if self.target.arrays:
            statements += [assign(name, fill(self.target.arrays, _x=name)) for name in names]
        if self.widen:
            statements += [
                assign("dtype", self.common_dtype(typed)),
                assign("wide", fill(self.target.wide)),
            ]
            statements += [assign(name, fill(self.target.cast, _x=name, _dtype="wide")) for name in typed]
        return statements

    def common_dtype(self, names: Sequence[str]) -> ast.expr:
        template = self.target.dtype
        if "_args" in template:
            call = fill(template)
            assert isinstance(call, ast.Call)
            return ast.Call(call.func, [ast.Name(name, ast.Load()) for name in names], [])
        value: ast.expr = ast.Attribute(ast.Name(names[0], ast.Load()), "dtype", ast.Load())
        if "_second" not in template:
            return value
        for name in names[1:]:
            second = ast.Attribute(ast.Name(name, ast.Load()), "dtype", ast.Load())
            value = fill(template, _first=value, _second=second)
        return value

    def size_of(self, axis: str, program: Program | None = None) -> ast.expr:
        """The size of an axis, from the tensors of ``program``, by default the whole."""
        for param in (program or self.program).tensors:
            if axis in param.axes:
                place = param.axes.index(axis) - len(param.axes)
                return fill(self.target.size, _x=self.name(param.name), _i=ast.Constant(place))
        raise CompileError(f"axis {axis} belongs to no tensor argument, so its size is unknown")


def tensors_read(program: Program) -> Iterator[str]:
    """The tensors that statements read, as often as they do."""
    return (read.tensor for statement in program.statements for read in statement_reads(statement))


def read_once(program: Program) -> set[str]:
    """Statements that one other reads, once."""
    read = Counter(tensors_read(program))
    results = {output.name for output in program.outputs}
    return {name for name, count in read.items() if count == 1 and name not in results}


def has_heads(program: Program, axes: Sequence[str]) -> bool:
    """Whether a tensor over ``axes`` has a head axis between them in layout ``... n h d``."""
    return len(axes) == 2 and axes[0] in sequence_axes(program)


def masks_of(program: Program) -> set[str]:
    """The tensor parameters that are only ever tested (``select``'s first operand); any dtype will do.

    None where all of them are: then they say what dtype to compute in.
    """
    found = {param.name for param in program.tensors} & masks(program)
    return found if len(found) < len(program.tensors) else set()


def assign(name: str, value: ast.expr) -> ast.stmt:
    """``name = value``."""
    return ast.Assign([ast.Name(name, ast.Store())], value)


def settle(node: ast.AST, names: set[str]) -> None:
    """Give the statements in ``node`` the line number that :func:`ast.unparse` looks at; add its names to ``names``."""
    if isinstance(node, ast.Name):
        names.add(node.id)
    elif isinstance(node, ast.stmt):
        node.lineno = 0
    for field in node._fields:
        value = getattr(node, field, None)
        for part in value if isinstance(value, list) else (value,):
            if isinstance(part, ast.AST):
                settle(part, names)


def define(name: str, parameters: Sequence[str], body: list[ast.stmt], defaults: list[ast.expr]) -> ast.FunctionDef:
    """A function definition."""
    arguments = ast.arguments(
        posonlyargs=[], args=[ast.arg(p) for p in parameters], kwonlyargs=[], kw_defaults=[], defaults=defaults
    )
    return ast.FunctionDef(name, arguments, body, decorator_list=[])
