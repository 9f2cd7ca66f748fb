"""What can be computed: each problem's operator, and its value and gradients in NumPy float64.

The formulas are written here by hand, independently of the compiler; gradients are the compiler's where none is
written. ``oracle.check_oracle`` holds each to the dense interpreter before it is used. Arrays are
``q[..., n, d], k[..., n, d], v[..., n, e]``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import expm as matrix_exponential

import dtn_numpy
from dtn_core.explain import explain
from dtn_core.operators import Operator, tensor_attention, tensor_interaction
from dtn_core.passes.differentiate import differentiate

from .case import SECOND_ORDER, SOFTMAX, Shape
from .data import Array

BLOCK = 64

Step = Callable[[Array, Array, Array], Array]
Formula = Callable[[Array, Array, Array], Array]
Gradients = Callable[[Array, Array, Array, Array], tuple[Array, ...]]


def blocks(n: int) -> Iterator[slice]:
    """The tokens, ``BLOCK`` at a time."""
    return (slice(start, start + BLOCK) for start in range(0, n, BLOCK))


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


def linear(q: Array, k: Array, v: Array) -> Array:
    """:class:`Linear` of a whole sequence."""
    step = Linear()
    return np.concatenate([step(*(x[..., part, :] for x in (q, k, v))) for part in blocks(q.shape[-2])], axis=-2)


def mirrored(q: Array, k: Array, v: Array) -> Array:
    """The same with the order reversed, ``Σ_{j>=t}``."""
    return linear(*(x[..., ::-1, :] for x in (q, k, v)))[..., ::-1, :]


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


def traced_causal() -> Step:
    """``Lin(q, x, v)`` with ``x = Lin(q, k, k)``, divided by the sum of ``q·x`` over the tokens so far."""
    inner, outer, trace = Linear(), Linear(), Linear()

    def step(q: Array, k: Array, v: Array) -> Array:
        x, one = inner(q, k, k), np.ones_like(q[..., :1])
        return outer(q, x, v) / trace(one, one, (q * x).sum(-1, keepdims=True))

    return step


class Past:
    """The tokens so far, of several tensors."""

    def __init__(self) -> None:
        self.parts: list[tuple[Array, ...]] = []

    def __call__(self, *tensors: Array) -> Iterator[Array]:
        """The tokens of the calls before, and these."""
        self.parts.append(tensors)
        return (np.concatenate(parts, axis=-2) for parts in zip(*self.parts, strict=True))


def triangle(rows: Array) -> Array:
    """The last rows of a square matrix, without what is above its diagonal."""
    return np.tril(rows, rows.shape[-1] - rows.shape[-2])


def hadamard_causal() -> Step:
    """``Σ_{j<=t} (q_t·k_j) (q_j·k_t) v_j``, a block of rows at a time."""
    past = Past()

    def step(q: Array, k: Array, v: Array) -> Array:
        queries, keys, values = past(q, k, v)
        return triangle((q @ keys.mT) * (k @ queries.mT)) @ values

    return step


def relu_causal() -> Step:
    """``Σ_{j<=t} relu(q_t·x_j) v_j`` with ``x = Lin(q, k, k)``, a block of rows at a time."""
    inner, past = Linear(), Past()

    def step(q: Array, k: Array, v: Array) -> Array:
        x, values = past(inner(q, k, k), v)
        return triangle(np.maximum(q @ x.mT, 0)) @ values

    return step


def traced_keys(q: Array, k: Array) -> Array:
    """``M = KᵀK / Σ KᵀK ⊙ QᵀQ``: ``Q M Qᵀ`` has trace 1."""
    keys = k.mT @ k
    return keys / (keys * (q.mT @ q)).sum((-2, -1))[..., None, None]


def trace_attention(q: Array, k: Array, v: Array) -> Array:
    """``Q M QᵀV``."""
    return q @ (traced_keys(q, k) @ (q.mT @ v))


def lower_triangle(q: Array, k: Array, v: Array) -> Array:
    """``tril(Q M Qᵀ) V``."""
    return linear(q @ traced_keys(q, k), q, v)


def exponential_of_elements(q: Array, k: Array, v: Array) -> Array:
    """``exp(Q M Qᵀ) V`` with the exponential of each element, a block of rows at a time."""
    left, turned = q @ traced_keys(q, k), q.mT
    return np.concatenate([np.exp(left[..., part, :] @ turned) @ v for part in blocks(q.shape[-2])], axis=-2)


def exponential(q: Array, k: Array, v: Array) -> Array:
    """``exp(Q M Qᵀ) V`` with the matrix exponential: ``V + Q φ₁(M QᵀQ) M QᵀV``, ``φ₁(X) = (eˣ − 1) / X``."""
    keys = traced_keys(q, k)
    x = keys @ (q.mT @ q)
    d = x.shape[-1]
    block = np.zeros((*x.shape[:-2], 2 * d, 2 * d))
    block[..., :d, :d], block[..., :d, d:] = x, np.eye(d)
    phi = np.asarray(matrix_exponential(block))[..., :d, d:]
    return v + q @ (phi @ (keys @ (q.mT @ v)))


def interaction(q: Array, k: Array, v: Array) -> Array:
    """``V Tᵀ`` with ``T = A Aᵀ / tr(A Aᵀ)``, ``A = QᵀK``."""
    a = q.mT @ k
    return v @ (a @ a.mT).mT / (a * a).sum((-2, -1))[..., None, None]


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


@dataclass(frozen=True)
class Problem:
    """An operator, its value and its gradients.

    Parameters
    ----------
    operator : Operator or None
        As this library has it; None for what only others compute.
    formula : callable, optional
        The value of a whole sequence.
    recurrence : callable, optional
        Makes a function that is given a block of tokens after another; for causal operators.
    derivative : callable, optional
        The gradients, written by hand; others are the compiler's.
    definite : bool
        Whether it is given q and k whose scores are positive or negative, none near 0: rounding alone would decide on
        which side of 0 that one is, where the derivative of relu jumps.
    """

    operator: Operator | None
    formula: Formula | None = None
    recurrence: Callable[[], Step] | None = None
    derivative: Gradients | None = None
    definite: bool = False

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

    def gradients(self, q: Array, k: Array, v: Array, g: Array) -> tuple[Array, ...]:
        """Derivatives of ``Σ g · o`` by q, k and v, in float64; those of the compiler may need n×n matrices."""
        arguments = [x.astype(np.float64) for x in (q, k, v, g)]
        if self.derivative is not None:
            return self.derivative(*arguments)
        assert self.operator is not None
        function = dtn_numpy.compile(differentiate(self.operator.program, ["q", "k", "v"]))
        heads = zip(*(x.reshape(-1, *x.shape[-2:]) for x in arguments), strict=True)  # n×n of one head at a time
        found = zip(*(function(*head, **self.operator.scalars) for head in heads), strict=True)
        return tuple(np.stack(parts).reshape(x.shape) for parts, x in zip(found, arguments[:3], strict=True))

    def flops(self, n: int, shape: Shape) -> int | None:
        """Operations of the form that the compiler chooses, over all batch entries and heads."""
        if self.operator is None:
            return None
        sizes = {axis: n if axis == "n" else shape.size(axis) for axis in self.operator.program.axes}
        found = explain(self.operator, sizes)
        return found.flops.at(found.sizes) * shape.batch * shape.heads

    def traffic(self, n: int, shape: Shape) -> int:
        """Bytes of q, k, v and the output: what any implementation moves at least."""
        size = 4 if shape.dtype == "float32" else 2
        return 2 * n * shape.batch * shape.heads * (shape.size("d") + shape.size("e")) * size


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
CAUSAL_INTERACTION, CAUSAL_TRACED = "causal interaction", "causal traced"
CAUSAL_HADAMARD, CAUSAL_RELU, EXP, TRIL = "causal hadamard", "causal relu", "exp", "tril"

PROBLEMS: dict[str, Problem] = {
    SECOND_ORDER: Problem(_attention(mask="causal"), recurrence=second_order, derivative=second_order_gradients),
    CAUSAL_1: Problem(_attention(mask="causal", order=1), recurrence=Linear),
    CAUSAL_3: Problem(_attention(mask="causal", order=3), recurrence=third_order),
    CAUSAL_ASYMMETRIC: Problem(_attention(mask="causal", asymmetric=True), recurrence=asymmetric),
    CAUSAL_INTERACTION: Problem(tensor_interaction(mask="causal", normalize=None), recurrence=interaction_causal),
    CAUSAL_TRACED: Problem(tensor_attention(mask="causal"), recurrence=traced_causal),
    CAUSAL_HADAMARD: Problem(_attention(mask="causal", product="hadamard"), recurrence=hadamard_causal),
    CAUSAL_RELU: Problem(_attention(mask="causal", activation="relu"), recurrence=relu_causal, definite=True),
    SOFTMAX: _Softmax(None),
    ATTENTION: Problem(tensor_attention(), trace_attention),
    ORDER_1: Problem(_attention(order=1), lambda q, k, v: q @ (k.mT @ v)),
    ORDER_3: Problem(_attention(order=3), lambda q, k, v: q @ (k.mT @ k @ (q.mT @ q @ (k.mT @ v)))),
    ASYMMETRIC: Problem(_attention(asymmetric=True), lambda q, k, v: q @ (k.mT @ q @ (k.mT @ v))),
    INTERACTION: Problem(tensor_interaction(), interaction),
    EXPM: Problem(tensor_attention(activation="expm"), exponential),
    EXP: Problem(tensor_attention(activation="exp"), exponential_of_elements),
    TRIL: Problem(tensor_attention(mask="tril"), lower_triangle),
}
"""By name; ``computes`` of a task is one of these."""
