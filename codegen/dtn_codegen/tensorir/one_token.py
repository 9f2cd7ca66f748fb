"""A chunk of one token, which has no token axis: for operators that tie tokens by more than two axes.

Inside a chunk of many tokens a product of two states is a tensor over a token and the axes of both; at one token it
is a matrix. Every sum over the tokens of the chunk has one term, every order but a strict one holds, and the powers
of a decay are the decay itself and 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import (
    ONE,
    ONES,
    ZERO,
    Expr,
    Extent,
    Index,
    MatrixFunction,
    Param,
    Program,
    Read,
    Statement,
    map_children,
    product,
)
from dtn_core.passes.contract import contract
from dtn_core.passes.divide import divide
from dtn_core.passes.flatten import flatten
from dtn_core.passes.pipeline import FEATURES
from dtn_core.passes.stream import Stream


def one_token(stream: Stream) -> Program:
    """The chunk of ``stream`` for one token, lowered; ``after`` of each state is an output instead of what is added.

    Raises
    ------
    CompileError
        If it depends on the number of a chunk's tokens, or has a matrix function over them.
    """
    powers: dict[str, Expr] = {}
    for weights in stream.weights:
        decay = Read(weights.decay.tensor) if isinstance(weights.decay, Read) else weights.decay
        powers.update({weights.rise: decay, weights.fall: ONE, weights.whole: decay})
    made = [_without(statement, stream.axis, powers) for statement in stream.chunk.statements]
    made += [_without(state.update, stream.axis, powers) for state in stream.states]
    params = [
        Param(param.name, tuple(axis for axis in param.axes if axis != stream.axis))
        for param in stream.chunk.params
        if param.name not in powers
    ]
    results = [Param(result.name, tuple(a for a in result.axes if a != stream.axis)) for result in stream.results]
    after = [Param(state.after, state.axes) for state in stream.states]
    program = Program(stream.chunk.name, tuple(params), (*results, *after), tuple(made))
    flat = flatten(program, complex_input=False)
    return divide(contract(flat, dict.fromkeys(flat.axes, FEATURES)))


def _without(statement: Statement, axis: str, powers: Mapping[str, Expr]) -> Statement:
    indices = tuple(index for index in statement.indices if index.axis != axis)
    order = tuple(relation for relation in statement.order if relation.upper.axis != axis)
    if any(relation.strict for relation in statement.order if relation not in order):  # no token is before itself
        return Statement(statement.name, indices, product(ZERO, *([Read(ONES, indices)] if indices else [])), order)
    return Statement(statement.name, indices, _value(statement.value, axis, powers), order)


def _value(expr: Expr, axis: str, powers: Mapping[str, Expr]) -> Expr:
    match expr:
        case Read(tensor, indices):
            kept: tuple[Index, ...] = tuple(index for index in indices if index.axis != axis)
            if tensor == ONES and not kept:
                return ONE
            return powers.get(tensor, Read(tensor, kept))
        case Extent(size) if size == axis:
            raise CompileError("it counts the tokens of a chunk")
        case MatrixFunction(indices=indices) if any(index.axis == axis for index in indices):
            raise CompileError("it has a function of a matrix of tokens")
    return map_children(expr, lambda part: _value(part, axis, powers))
