"""The catalogue as dense NumPy matrices, written from the formulas of the papers and nothing else.

Nothing here imports the library.  Arrays are ``[..., n, d]``; ``@`` and transposes act on the last two axes.
Sources: arXiv 2311.11091 sections 3.4, 4, 5 and arXiv 2510.27258 sections 3, 6, 7.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm


def adjoint(x):
    """The conjugate transpose ``Xᴴ``."""
    return np.conj(np.swapaxes(x, -1, -2))


def powers(n, decay):
    """``L`` with ``γ^(t−j)`` for ``j <= t``, 0 above the diagonal."""
    return np.array(
        [[(1.0 if decay is None else decay) ** (t - j) if j <= t else 0.0 for j in range(n)] for t in range(n)]
    )


def divide(x, by):
    """``x / by``, and 0 where the denominator is exactly 0."""
    return np.where(by == 0, 0, x / np.where(by == 0, 1, by))


def score_products(a, *, product, order, asymmetric):
    """T from the scores A, every token seeing every token."""
    if product == "hadamard":
        return a * adjoint(a)
    if asymmetric:
        return np.linalg.matrix_power(a, order)
    t = a
    for position in range(1, order):
        t = t @ (adjoint(a) if position % 2 else a)
    return t


def causal_products(a, *, product, order, asymmetric, decay):
    """T from the scores A, strictly causal: M₁ = W, M₂ = (W Wᴴ) ⊙ L, M_p = M₂ M_{p−2}."""
    n = a.shape[-1]
    lower, weights = np.tril(np.ones((n, n))), powers(n, decay)
    if product == "hadamard":
        return a * adjoint(a) * weights
    w = weights * a
    if asymmetric:
        return np.linalg.matrix_power(w, order)
    second = ((lower * a) @ adjoint(w)) * weights  # (t, j, i) weighs γ^(t−j) γ^(j−i)
    t = w if order % 2 else second
    for _ in range((order - 1) // 2):
        t = second @ t
    return t


def running_trace(t, decay):
    """``r_t = γ r_{t−1} + T[t,t]``."""
    diagonal = np.diagonal(t, axis1=-2, axis2=-1)
    r, previous = np.zeros_like(diagonal), 0
    for token in range(t.shape[-1]):
        previous = (1.0 if decay is None else decay) * previous + diagonal[..., token]
        r[..., token] = previous
    return r


def matrix_exponential(x):
    """scipy's expm of every matrix of a stack."""
    return np.array([expm(m) for m in x.reshape(-1, *x.shape[-2:])]).reshape(x.shape)


ACTIVATIONS = {None: lambda x: x, "relu": lambda x: np.maximum(x, 0), "exp": np.exp, "expm": matrix_exponential}


def denominator(t, normalize, trace, eps):
    """What row i of T is divided by, as a column; ``trace`` is the (running) trace of every row."""
    if normalize == "trace":
        by = trace
    elif normalize == "diag":
        by = np.diagonal(t, axis1=-2, axis2=-1)
    else:
        by = t.sum(-1)
    return (by + eps)[..., None]


def tensor_attention(
    q, k, v, *, side="q", product="matmul", order=2, asymmetric=False, scale=1.0, normalize="trace", activation=None,
    mask=None, residual=0.0, decay=None, eps=0.0,
):  # fmt: skip
    """Build T → normalize → activation → mask → + λ·identity → times V."""
    if side == "k":
        q, k = k, q
    a = scale * q @ adjoint(k)
    shape = {"product": product, "order": order, "asymmetric": asymmetric}
    n = a.shape[-1]
    if mask == "causal":
        t = causal_products(a, **shape, decay=decay)
        trace = running_trace(t, decay)
    else:
        t = score_products(a, **shape)
        trace = np.trace(t, axis1=-2, axis2=-1)[..., None] * np.ones(n)
    if normalize is not None:
        residual_matrix = residual * np.eye(n)
        t = divide(t, denominator(t, normalize, trace, eps))
    else:
        residual_matrix = residual * trace[..., None] * np.eye(n)
    t = ACTIVATIONS[activation](t)
    if mask is not None:
        t = t * np.tril(np.ones((n, n)))
    return (t + residual_matrix) @ v


def tensor_interaction(
    q, k, v, *, side="q", product="matmul", scale=1.0, normalize="trace", activation=None, mask=None, residual=0.0,
    decay=None, eps=0.0,
):  # fmt: skip
    """``o[i,c] = Σ_b T[c,b] v[i,b]``; causal: the same with the operator ``T(A_t)`` of every token."""
    if mask is None:
        t = channel_matrix(scale * adjoint(q) @ k, side, product, normalize, activation, residual, eps)
        return v @ np.swapaxes(t, -1, -2)
    n, out = q.shape[-2], []
    state = np.zeros((*q.shape[:-2], q.shape[-1], q.shape[-1]), np.result_type(q, k))
    for token in range(n):
        q_t, k_t = q[..., token, :], k[..., token, :]
        state = (1.0 if decay is None else decay) * state + scale * q_t[..., :, None] * np.conj(k_t)[..., None, :]
        t = channel_matrix(state, side, product, normalize, activation, residual, eps)
        out.append((t @ v[..., token, :, None])[..., 0])
    return np.stack(out, axis=-2)


def channel_matrix(a, side, product, normalize, activation, residual, eps):
    """``T(A)``, normalised, activated, plus the residual."""
    d = a.shape[-1]
    if product == "hadamard":
        t = a * adjoint(a)
    else:
        t = a @ adjoint(a) if side == "q" else adjoint(a) @ a
    trace = np.trace(t, axis1=-2, axis2=-1)[..., None] * np.ones(d)
    if normalize is None:
        return ACTIVATIONS[activation](t) + residual * trace[..., None] * np.eye(d)
    return ACTIVATIONS[activation](divide(t, denominator(t, normalize, trace, eps))) + residual * np.eye(d)


def causal_contraction(q, k, v, decay=1.0):
    """``Lin_γ(q, k, v)_t = Σ_{j≤t} γ^(t−j) (q_t·k̄_j) v_j``, in plain loops over tokens; 2-D arguments."""
    out = np.zeros((q.shape[0], v.shape[1]), np.result_type(q, k, v))
    for t in range(q.shape[0]):
        for j in range(t + 1):
            out[t] += decay ** (t - j) * np.sum(q[t] * np.conj(k[j])) * v[j]
    return out
