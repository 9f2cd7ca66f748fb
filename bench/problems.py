"""What can be computed: each problem's operator, and its value in NumPy float64, by formulas of linear cost.

The formulas are written here by hand, independently of the compiler; ``oracle.check_oracle`` holds each to the dense
interpreter before it is used.  Arrays are ``q[..., n, d], k[..., n, d], v[..., n, e]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import expm as matrix_exponential

from dtn_core.explain import explain
from dtn_core.operators import Operator, tensor_attention, tensor_interaction

from .case import SECOND_ORDER, SOFTMAX, Shape
from .data import Array

BLOCK = 64

Step = Callable[[Array, Array, Array], Array]
Formula = Callable[[Array, Array, Array], Array]


class Linear:
    """The causal contraction ``o_t = Σ_{j<=t} (q_t·k_j) v_j``, a block of tokens at a time, in float64."""

    def __init__(self) -> None:
        self.state: Array | float = 0.0

    def __call__(self, q: Array, k: Array, v: Array) -> Array:
        """Output at the tokens that follow those of the calls before."""
        o = np.tril(q @ k.mT) @ v
        if isinstance(self.state, np.ndarray):
            o += q @ self.state
        self.state = self.state + k.mT @ v
        return o


def second_order() -> Step:
    """``Lin(q, Lin(q, k, k), v)``."""
    inner, outer = Linear(), Linear()
    return lambda q, k, v: outer(q, inner(q, k, k), v)


def third_order() -> Step:
    """``Lin(q, Lin(q, k, k), Lin(q, k, v))``."""
    keys, values, outer = Linear(), Linear(), Linear()
    return lambda q, k, v: outer(q, keys(q, k, k), values(q, k, v))


def asymmetric() -> Step:
    """``Lin(q, k, Lin(q, k, v))``."""
    inner, outer = Linear(), Linear()
    return lambda q, k, v: outer(q, k, inner(q, k, v))


def interaction_causal() -> Step:
    """``Lin(Lin(v, q, k), k, q)``."""
    inner, outer = Linear(), Linear()
    return lambda q, k, v: outer(inner(v, q, k), k, q)


def trace_attention(q: Array, k: Array, v: Array) -> Array:
    """``Q KᵀK QᵀV / Σ KᵀK ⊙ QᵀQ``."""
    keys = k.mT @ k
    trace = (keys * (q.mT @ q)).sum((-2, -1))[..., None, None]
    return q @ (keys @ (q.mT @ v)) / trace


def exponential(q: Array, k: Array, v: Array) -> Array:
    """``exp(Q M) V`` with ``M = KᵀK Qᵀ / trace``: ``V + Q φ₁(M Q) M V``, ``φ₁(X) = (eˣ − 1) / X``."""
    keys = k.mT @ k
    trace = (keys * (q.mT @ q)).sum((-2, -1))[..., None, None]
    x = keys @ (q.mT @ q) / trace
    d = x.shape[-1]
    block = np.zeros((*x.shape[:-2], 2 * d, 2 * d))
    block[..., :d, :d], block[..., :d, d:] = x, np.eye(d)
    phi = np.asarray(matrix_exponential(block))[..., :d, d:]
    return v + q @ (phi @ (keys @ (q.mT @ v) / trace))


def interaction(q: Array, k: Array, v: Array) -> Array:
    """``V Tᵀ`` with ``T = A Aᵀ / tr(A Aᵀ)``, ``A = QᵀK``."""
    a = q.mT @ k
    return v @ (a @ a.mT).mT / (a * a).sum((-2, -1))[..., None, None]


@dataclass(frozen=True)
class Problem:
    """An operator and its value.

    Parameters
    ----------
    operator : Operator or None
        As this library has it; None for what only others compute.
    formula : callable, optional
        The value of a whole sequence.
    recurrence : callable, optional
        Makes a function that is given a block of tokens after another; for causal operators.
    """

    operator: Operator | None
    formula: Formula | None = None
    recurrence: Callable[[], Step] | None = None

    @property
    def causal(self) -> bool:
        """Whether an output depends on no later token."""
        return self.formula is None

    def value(self, q: Array, k: Array, v: Array, tokens: Array) -> Array:
        """The outputs at ``tokens``, in order, in float64."""
        if self.formula is not None:
            whole = self.formula(*(x.astype(np.float64) for x in (q, k, v)))
            return whole[..., tokens, :]
        assert self.recurrence is not None
        step = self.recurrence()
        found = []
        for part in blocks(q.shape[-2]):
            o = step(*(x[..., part, :].astype(np.float64) for x in (q, k, v)))
            found.append(o[..., tokens[(tokens >= part.start) & (tokens < part.stop)] - part.start, :])
        return np.concatenate(found, axis=-2)

    def flops(self, n: int, shape: Shape) -> int | None:
        """Operations of the form that the compiler chooses, over all batch entries and heads."""
        if self.operator is None:
            return None
        sizes = {axis: n if axis == "n" else shape.features for axis in self.operator.program.axes}
        found = explain(self.operator, sizes)
        return found.flops.at(found.sizes) * shape.batch * shape.heads

    def traffic(self, n: int, shape: Shape) -> int:
        """Bytes of q, k, v and the output: what any implementation moves at least."""
        size = 4 if shape.dtype == "float32" else 2
        return 4 * n * shape.batch * shape.heads * shape.features * size


class _Softmax(Problem):
    """Causal softmax attention, scaled by ``d**-0.5``."""

    @property
    def causal(self) -> bool:
        return True

    def value(self, q: Array, k: Array, v: Array, tokens: Array) -> Array:
        out = np.empty((*q.shape[:-2], len(tokens), v.shape[-1]))
        for place, token in enumerate(tokens):
            past = slice(0, int(token) + 1)
            scores = (k[..., past, :] @ q[..., token, :, None].astype(np.float64))[..., 0] / q.shape[-1] ** 0.5
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[..., place, :] = (weights[..., None, :] @ v[..., past, :])[..., 0, :] / weights.sum(-1, keepdims=True)
        return out

    def flops(self, n: int, shape: Shape) -> int:
        return 2 * n * n * shape.features * shape.batch * shape.heads


def _attention(**knobs: object) -> Operator:
    return tensor_attention(normalize=None, **knobs)  # type: ignore[arg-type]


ATTENTION, EXPM, INTERACTION = "tensor attention", "expm", "tensor interaction"
ORDER_1, ORDER_3, ASYMMETRIC = "order 1", "order 3", "asymmetric"
CAUSAL_1, CAUSAL_3, CAUSAL_ASYMMETRIC = "causal order 1", "causal order 3", "causal asymmetric"
CAUSAL_INTERACTION = "causal interaction"

PROBLEMS: dict[str, Problem] = {
    SECOND_ORDER: Problem(_attention(mask="causal"), recurrence=second_order),
    CAUSAL_1: Problem(_attention(mask="causal", order=1), recurrence=Linear),
    CAUSAL_3: Problem(_attention(mask="causal", order=3), recurrence=third_order),
    CAUSAL_ASYMMETRIC: Problem(_attention(mask="causal", asymmetric=True), recurrence=asymmetric),
    CAUSAL_INTERACTION: Problem(tensor_interaction(mask="causal", normalize=None), recurrence=interaction_causal),
    SOFTMAX: _Softmax(None),
    ATTENTION: Problem(tensor_attention(), trace_attention),
    ORDER_1: Problem(_attention(order=1), lambda q, k, v: q @ (k.mT @ v)),
    ORDER_3: Problem(_attention(order=3), lambda q, k, v: q @ (k.mT @ k @ (q.mT @ q @ (k.mT @ v)))),
    ASYMMETRIC: Problem(_attention(asymmetric=True), lambda q, k, v: q @ (k.mT @ q @ (k.mT @ v))),
    INTERACTION: Problem(tensor_interaction(), interaction),
    EXPM: Problem(tensor_attention(activation="expm"), exponential),
}
"""By name; ``computes`` of a task is one of these."""


def blocks(n: int) -> Iterator[slice]:
    """The tokens, ``BLOCK`` at a time."""
    return (slice(start, start + BLOCK) for start in range(0, n, BLOCK))


def linear(q: Array, k: Array, v: Array) -> Array:
    """:class:`Linear` of a whole sequence."""
    step = Linear()
    return np.concatenate([step(*(x[..., part, :] for x in (q, k, v))) for part in blocks(q.shape[-2])], axis=-2)


def mirrored(q: Array, k: Array, v: Array) -> Array:
    """The same with the order reversed, ``Σ_{j>=t}``."""
    return linear(*(x[..., ::-1, :] for x in (q, k, v)))[..., ::-1, :]


def second_order_gradients(q: Array, k: Array, v: Array, g: Array) -> tuple[Array, Array, Array]:
    """Derivatives of ``Σ g · second_order(q, k, v)``.

    With ``A = L ⊙ (Q Kᵀ)`` of the inner and the outer contraction they are those of the matrix products ``A V``.

    Returns
    -------
    tuple of numpy.ndarray
        For q, k and v, float64.
    """
    q, k, v, g = (x.astype(np.float64) for x in (q, k, v, g))
    r = linear(q, k, k)
    dr = mirrored(v, g, q)
    dq = linear(g, v, r) + linear(dr, k, k)
    dk = mirrored(k, dr, q) + mirrored(k, q, dr)
    return dq, dk, mirrored(r, q, g)
