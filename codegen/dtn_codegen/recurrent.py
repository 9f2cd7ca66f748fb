"""The recurrent step as source text: a token that has no axis of tokens, taken in by the states and then read."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from dtn_core.ir.nodes import Param, Program

from .python import HEADS, assign, define
from .target import fill

if TYPE_CHECKING:
    from .streaming import ChunkedModule


def token_name(writer: ChunkedModule) -> str:
    """What the function of one token is called."""
    return f"_{writer.program.name}_token"


def token(writer: ChunkedModule, program: Program) -> ast.FunctionDef:
    """``token(states, tokens, constants) -> (states, results)``."""
    given = {
        "states": [state.name for state in writer.stream.states],
        "tokens": [param.name for param in writer.stream.tokens],
        "constants": [param.name for param in writer.stream.constants],
    }
    done = [[state.after for state in writer.stream.states], [param.name for param in writer.stream.results]]
    text = f"One token of {writer.program.name}, which the states take in before they are read."
    return writer.chunks.chunk_function(token_name(writer), text, program, (), given, done, False)


def one_token(writer: ChunkedModule) -> ast.If:
    """``if`` there is one token, and no gradient that would need its chunk: that without its axis."""
    axis, tokens = writer.stream.axis, writer.stream.tokens

    def at(param: Param, index: ast.expr) -> ast.expr:
        own: list[ast.expr] = [index if each == axis else ast.Slice() for each in param.axes]
        items = ast.Tuple([ast.Constant(Ellipsis), *own], ast.Load())
        return ast.Subscript(ast.Name(writer.name(param.name), ast.Load()), items, ast.Load())

    place = ast.Constant(tokens[0].axes.index(axis) - len(tokens[0].axes))
    test = fill("tokens[0].shape[_i] == 1", _i=place)
    if writer.recomputes:
        test = fill("_one and walk is None", _one=test)
    call = fill(
        "_token(states, _tokens, constants)",
        _token=token_name(writer),
        _tokens=ast.Tuple([at(param, ast.Constant(0)) for param in tokens], ast.Load()),
    )
    made = ast.List([at(param, ast.Constant(None)) for param in writer.stream.results], ast.Load())
    done = ast.Return(ast.Tuple([ast.Name("states", ast.Load()), made], ast.Load()))
    unpack = ast.Assign([_names(writer, tokens, ast.Store())], ast.Name("tokens", ast.Load()))
    return ast.If(test, [unpack, ast.Assign([_after(writer)], call), done], [])


def has_step(writer: ChunkedModule) -> bool:
    """Whether a call for one token needs nothing but the function of one token."""
    chunked, axis = writer.chunked, writer.stream.axis
    if chunked.token is None or writer.narrow:
        return False
    along = [p for p in (*writer.program.tensors, *writer.program.outputs) if axis in p.axes]
    return writer.layout != HEADS or all(p.axes[0] == axis for p in along if writer.moves(p.axes))


def step(writer: ChunkedModule) -> ast.FunctionDef:
    """``step(*tensors, *scalars, *, initial_state) -> (outputs, states)``: tensors without an axis of tokens."""
    axis, program, stream = writer.stream.axis, writer.program, writer.stream
    constants = [param for param in program.tensors if axis not in param.axes and writer.moves(param.axes)]
    call = fill(
        "_token(tuple(initial_state), _tokens, _constants)",
        _token=token_name(writer),
        _tokens=_names(writer, stream.tokens, ast.Load()),
        _constants=_names(writer, stream.constants, ast.Load()),
    )
    results = [writer.cast_back(output.name) for output in program.outputs]
    value = results[0] if len(results) == 1 else ast.Tuple(results, ast.Load())
    shapes, outputs = (
        ", ".join(f"{p.name}[{', '.join(['...', *(each for each in p.axes if each != axis)])}]" for p in params)
        for params in (program.tensors, program.outputs)
    )
    body: list[ast.stmt] = [
        ast.Expr(ast.Constant(f"One token more, {shapes} -> {outputs}, and the states after it.")),
        *writer.conversions(),
        *(
            assign(writer.name(p.name), fill(writer.target.heads, _x=writer.name(p.name)))
            for p in constants
            if writer.layout == HEADS
        ),
        *writer.early(),
        ast.Assign([_after(writer)], call),
        ast.Return(ast.Tuple([value, ast.Name("states", ast.Load())], ast.Load())),
    ]
    made = define(f"{program.name}_step", [writer.name(p.name) for p in program.params], body, writer.defaults())
    made.args.kwonlyargs = [ast.arg("initial_state")]
    made.args.kw_defaults = [None]
    return made


def _names(writer: ChunkedModule, params: tuple[Param, ...], context: ast.expr_context) -> ast.Tuple:
    return ast.Tuple([ast.Name(writer.name(param.name), context) for param in params], context)


def _after(writer: ChunkedModule) -> ast.Tuple:
    """``states, (o,)``, what a token leaves."""
    return ast.Tuple([ast.Name("states", ast.Store()), _names(writer, writer.stream.results, ast.Store())], ast.Store())
