"""The unmasked operators as a user would write them by hand, in linear time, and densely as the papers have them.

One text serves NumPy, PyTorch and JAX, whose arrays all know ``@`` and ``.mT``; TensorFlow's are written out.
``xp`` is the framework's module. All take ``q[..., n, d], k[..., n, d], v[..., n, e]`` and return ``o[..., n, e]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .problems import ASYMMETRIC, ATTENTION, EXPM, INTERACTION, ORDER_1, ORDER_3

Function = Callable[[Any, Any, Any, Any], Any]


def attention(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """Trace-normalised Tensor Attention, in the order that the formula suggests."""
    keys = k.mT @ k
    trace = (keys * (q.mT @ q)).sum((-2, -1))[..., None, None]
    return (q @ keys) @ (q.mT @ v) / trace


def order_1(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """``Q (Kᵀ V)``."""
    return q @ (k.mT @ v)


def order_3(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """``A Aᵀ A V``."""
    return q @ ((k.mT @ k) @ ((q.mT @ q) @ (k.mT @ v)))


def asymmetric(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """``A A V``."""
    return q @ ((k.mT @ q) @ (k.mT @ v))


def interaction(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """``V Tᵀ`` with ``T = A Aᵀ / tr(A Aᵀ)``, ``A = QᵀK``."""
    a = q.mT @ k
    return v @ (a @ a.mT).mT / (a * a).sum((-2, -1))[..., None, None]


def expm(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """``exp(T) V`` by the low rank of ``T``; φ₁ is a block of the exponential of a matrix of twice the size."""
    keys = k.mT @ k
    gram = q.mT @ q
    trace = (keys * gram).sum((-2, -1))[..., None, None]
    x = keys @ gram / trace
    eye, zero = xp.broadcast_to(xp.eye(x.shape[-1], dtype=x.dtype), x.shape), xp.zeros_like(x)
    rows = [xp.concatenate(row, -1) for row in ((x, eye), (zero, zero))]
    d = x.shape[-1]
    phi = exponential(xp, xp.concatenate(rows, -2))[..., :d, d:]
    return v + q @ (phi @ (keys @ (q.mT @ v) / trace))


def exponential(xp: Any, x: Any) -> Any:
    """The framework's own matrix exponential."""
    match xp.__name__:
        case "torch":
            return xp.linalg.matrix_exp(x)
        case "jax.numpy":
            from jax.scipy.linalg import expm
        case _:
            from scipy.linalg import expm
    return expm(x)


LINEAR: dict[str, Function] = {
    ATTENTION: attention,
    ORDER_1: order_1,
    ORDER_3: order_3,
    ASYMMETRIC: asymmetric,
    INTERACTION: interaction,
    EXPM: expm,
}


def dense(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """Trace-normalised Tensor Attention as the paper writes it: ``T`` is there, n×n."""
    t = xp.einsum("...ia,...la,...lb,...jb->...ij", q, k, k, q)
    trace = xp.einsum("...xx->...", t)[..., None, None]
    return xp.einsum("...ij,...jc->...ic", t / trace, v)


DENSE: dict[str, Function] = {ATTENTION: dense}


def tensorflow_linear() -> dict[str, Callable[[Any, Any, Any], Any]]:
    """The same in TensorFlow."""
    import tensorflow as tf

    def times(a: Any, b: Any, *, left: bool = False, right: bool = False) -> Any:
        return tf.matmul(a, b, transpose_a=left, transpose_b=right)

    def total(x: Any) -> Any:
        return tf.reduce_sum(x, axis=(-2, -1))[..., None, None]

    def attention(q: Any, k: Any, v: Any) -> Any:
        keys = times(k, k, left=True)
        return times(times(q, keys), times(q, v, left=True)) / total(keys * times(q, q, left=True))

    def interaction(q: Any, k: Any, v: Any) -> Any:
        a = times(q, k, left=True)
        return times(v, times(a, a, right=True), right=True) / total(a * a)

    def expm(q: Any, k: Any, v: Any) -> Any:
        keys, gram = times(k, k, left=True), times(q, q, left=True)
        trace = total(keys * gram)
        x = times(keys, gram) / trace
        eye, zero, d = tf.eye(x.shape[-1], batch_shape=x.shape[:-2], dtype=x.dtype), tf.zeros_like(x), x.shape[-1]
        block = tf.concat([tf.concat([x, eye], -1), tf.concat([zero, zero], -1)], -2)
        phi = tf.linalg.expm(block)[..., :d, d:]
        return v + times(q, times(phi, times(keys, times(q, v, left=True)) / trace))

    return {
        ATTENTION: attention,
        ORDER_1: lambda q, k, v: times(q, times(k, v, left=True)),
        ORDER_3: lambda q, k, v: times(
            q, times(times(k, k, left=True), times(times(q, q, left=True), times(k, v, left=True)))
        ),
        ASYMMETRIC: lambda q, k, v: times(q, times(times(k, q, left=True), times(k, v, left=True))),
        INTERACTION: interaction,
        EXPM: expm,
    }
