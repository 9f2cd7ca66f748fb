"""backward: the vector-Jacobian product of a chunk, which runs from the last chunk to the first.

The cotangent of what a chunk adds to a state is the cotangent of the state after it; what the chunk's
reads contribute to the cotangent of the state before it is added on the way::

    d_State = γ^C · d_State' + d_Read

so a backward pass is again chunks with states between them, in the other direction, and keeps nothing
but the operator's arguments: each chunk is computed again where it is differentiated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir.build import pruned
from ..ir.nodes import Apply, Expr, Number, Param, Program, map_children, statement_reads
from ..ir.verify import verify
from .differentiate import differentiate, masks
from .stream import Stream


@dataclass(frozen=True)
class Backward:
    """The gradient of a chunk.

    Attributes
    ----------
    chunk : Program
        Parameters: those of the chunk, then the cotangents of its outputs.  Outputs: what it adds to the
        states (forward), then a cotangent for each of ``wrt``.
    cotangents : dict[str, str]
        For each output of the forward chunk, the parameter that holds its cotangent.
    gradients : dict[str, str]
        For each state, token tensor and constant differentiated by, the output that holds its cotangent.
    """

    chunk: Program
    cotangents: dict[str, str]
    gradients: dict[str, str]


def backward(stream: Stream, chunk: Program) -> Backward:
    """Differentiate ``chunk``, as lowered for real arguments, by states, tokens and constants.

    Decays are left out, and tokens that only say how many there are.

    Statements stay the ones that were chosen for the forward pass: the gradient of each matrix product is two.
    """
    decays = {w.decay.tensor for w in stream.weights if not isinstance(w.decay, Number)}
    read = {read.tensor for statement in chunk.statements for read in statement_reads(statement)}
    tokens = [p for p in stream.tokens if p.name in read]
    inputs = [p.name for p in (*tokens, *stream.constants) if p.name not in masks(chunk) | decays]
    wrt = [*(state.name for state in stream.states), *inputs]
    vjp = differentiate(chunk, wrt)
    given = vjp.params[len(chunk.params) :]
    added = tuple(Param(state.added, state.axes) for state in stream.states)
    statements = tuple(replace(s, value=real_valued(s.value)) for s in vjp.statements)
    return Backward(
        verify(pruned(replace(vjp, outputs=(*added, *vjp.outputs), statements=statements))),
        {output.name: param.name for output, param in zip(chunk.outputs, given, strict=True)},
        {name: output.name for name, output in zip(wrt, vjp.outputs, strict=True)},
    )


def real_valued(expr: Expr) -> Expr:
    """``expr`` of real tensors: ``conj`` and ``real`` are the identity."""
    match expr:
        case Apply("conj" | "real", (inner,)):
            return real_valued(inner)
    return map_children(expr, real_valued)
