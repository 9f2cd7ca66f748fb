"""What a sequence that begins with given states comes to: one chunk of all its tokens, by the dense interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dtn_core.interpret import interpret
from dtn_core.ir.nodes import Number, Param
from dtn_core.passes.differentiate import differentiate
from dtn_core.passes.pipeline import candidates


def resumed(problem: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a resumed problem.

    Parameters
    ----------
    problem : dtn_tvm.problem.Problem
        Resumed, forward or backward, of an operator that is computed in chunks.
    inputs : sequence of np.ndarray
        Float64 ``[..., *axes]``, in the order of its inputs; those of its outputs are returned.
    """
    operator = problem.operator
    chunked = candidates(operator.program)[0].chunked
    assert chunked is not None
    stream, states = chunked.stream, chunked.stream.states
    named: dict[str, Any] = {**operator.scalars}
    given = [p.name for p in operator.program.params if p.name not in operator.scalars]
    named.update(zip(given, inputs, strict=False))
    rest = list(inputs[len(given) :])
    named.update(zip([state.name for state in states], rest, strict=False))
    length = problem.sizes[stream.axis]
    for weights in stream.weights:
        decay = weights.decay
        base = np.asarray(float(decay.value) if isinstance(decay, Number) else named[decay.tensor], np.float64)
        named[weights.rise] = base[..., None] ** (np.arange(length) + 1)
        named[weights.fall] = base[..., None] ** (length - 1 - np.arange(length))
        named[weights.whole] = base**length
    early = stream.before  # of weights: no token is read
    made = {output.name for output in early.outputs} if early else set()
    given = {param.name: param for param in (*(early.params if early else ()), *stream.chunk.params)}
    params = (*(param for param in given.values() if param.name not in made), *(Param(w.whole) for w in stream.weights))
    whole = replace(
        stream.chunk,
        params=params,
        outputs=(*stream.results, *(Param(state.after, state.axes) for state in states)),
        statements=(
            *(early.statements if early else ()),
            *stream.chunk.statements,
            *(state.update for state in states),
        ),
    )
    if problem.direction == "backward":
        wrt = [param.name for param in operator.program.tensors] + [state.name for state in states]
        whole = differentiate(whole, wrt)
        cotangents = whole.params[-len(operator.program.outputs) - len(states) :]
        named.update(zip([param.name for param in cotangents], rest[len(states) :], strict=True))
    found = interpret(whole, **{param.name: named[param.name] for param in whole.params})
    return list(found) if isinstance(found, tuple) else [found]
