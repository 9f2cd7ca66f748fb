"""Causal operators as one writes them by hand with ``einsum``: one text for PyTorch, JAX and TensorFlow.

``xp`` is the framework's module.  q, k, v are ``[batch, heads, n, d]``, those of one token ``[batch, heads, d]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .case import SECOND_ORDER
from .data import Array
from .problems import CAUSAL_1, CAUSAL_3, CAUSAL_ASYMMETRIC, CAUSAL_INTERACTION


def linear(xp: Any, q: Any, k: Any, v: Any, *, chunk: int) -> Any:
    """Causal linear attention in chunks, all of them at once."""
    shape = v.shape
    q, k, v = (xp.reshape(x, (*x.shape[:2], x.shape[2] // chunk, chunk, x.shape[3])) for x in (q, k, v))
    sums = xp.einsum("zhgia,zhgic->zhgac", k, v)
    before = xp.cumsum(sums, 2) - sums
    scores = xp.einsum("zhgia,zhgja->zhgij", q, k) * np.tri(chunk, dtype=np.float32)
    o = xp.einsum("zhgij,zhgjc->zhgic", scores, v) + xp.einsum("zhgia,zhgac->zhgic", q, before)
    return xp.reshape(o, shape)


def twin(xp: Any, q: Any, k: Any, v: Any, *, chunk: int) -> Any:
    """The causal second order, ``Lin(q, Lin(q, k, k), v)``."""
    return linear(xp, q, linear(xp, q, k, k, chunk=chunk), v, chunk=chunk)


def third_order(xp: Any, q: Any, k: Any, v: Any, *, chunk: int) -> Any:
    """``Lin(q, Lin(q, k, k), Lin(q, k, v))``."""
    return linear(xp, q, linear(xp, q, k, k, chunk=chunk), linear(xp, q, k, v, chunk=chunk), chunk=chunk)


def asymmetric(xp: Any, q: Any, k: Any, v: Any, *, chunk: int) -> Any:
    """``Lin(q, k, Lin(q, k, v))``."""
    return linear(xp, q, k, linear(xp, q, k, v, chunk=chunk), chunk=chunk)


def interaction(xp: Any, q: Any, k: Any, v: Any, *, chunk: int) -> Any:
    """``Lin(Lin(v, q, k), k, q)``."""
    return linear(xp, linear(xp, v, q, k, chunk=chunk), k, q, chunk=chunk)


TWINS: dict[str, Callable[..., Any]] = {
    SECOND_ORDER: twin,
    CAUSAL_1: linear,
    CAUSAL_3: third_order,
    CAUSAL_ASYMMETRIC: asymmetric,
    CAUSAL_INTERACTION: interaction,
}


def falloff(decays: tuple[float, ...], n: int) -> Array:
    """``[heads, n, n]``, the decay to the power of how far j is before i."""
    gaps = np.arange(n)[:, None] - np.arange(n)
    powers = np.asarray(decays)[:, None, None] ** np.maximum(gaps, 0)
    return np.asarray(np.where(gaps >= 0, powers, 0), np.float32)


def decayed_attention(xp: Any, near: Any, q: Any, k: Any, v: Any) -> Any:
    """Trace-normalised causal Tensor Attention with decay; n×n, as one writes it for short windows.

    Parameters
    ----------
    xp : module
        The framework.
    near : array
        :func:`falloff` of the decays.
    q, k, v : array
    """
    read = xp.einsum("zhij,zhja->zhia", near * xp.einsum("zhia,zhja->zhij", q, k), k)
    o = xp.einsum("zhij,zhjc->zhic", near * xp.einsum("zhia,zhja->zhij", q, read), v)
    trace = xp.einsum("hij,zhj->zhi", near, xp.einsum("zhia,zhia->zhi", q, read))
    return o / trace[..., None]


def decayed_interaction(xp: Any, near: Any, q: Any, k: Any, v: Any) -> Any:
    """Trace-normalised causal Tensor Interaction with decay: ``A (Aᵀ v) / |A|²`` without any of the d×d ``A``."""
    u = xp.einsum("zhij,zhjc->zhic", near * xp.einsum("zhia,zhja->zhij", v, q), k)
    o = xp.einsum("zhij,zhja->zhia", near * xp.einsum("zhic,zhjc->zhij", u, k), q)
    both = xp.einsum("zhia,zhja->zhij", q, q) * xp.einsum("zhia,zhja->zhij", k, k)
    added = xp.einsum("hij,zhij->zhi", 2 * near, both) - xp.einsum("zhii->zhi", both)
    return o / xp.einsum("hij,zhj->zhi", near * near, added)[..., None]


def attention_step(xp: Any, decays: Any, state: Any, q: Any, k: Any, v: Any) -> tuple[Any, Any]:
    """:func:`decayed_attention` of one token more, and the state after it.

    Parameters
    ----------
    xp : module
        The framework.
    decays : array
        ``[heads]``.
    state : tuple of array
        ``[batch, heads, d, d]`` of keys and of values, and the trace ``[batch, heads]``.
    q, k, v : array
    """
    keys, values, trace = state
    factor = decays[:, None, None]
    keys = factor * keys + xp.einsum("zha,zhb->zhab", k, k)
    read = xp.einsum("zhab,zhb->zha", keys, q)
    values = factor * values + xp.einsum("zha,zhc->zhac", read, v)
    trace = decays * trace + xp.einsum("zha,zha->zh", q, read)
    return xp.einsum("zha,zhac->zhc", q, values) / trace[..., None], (keys, values, trace)


def interaction_step(xp: Any, decays: Any, state: Any, q: Any, k: Any, v: Any) -> tuple[Any, Any]:
    """:func:`decayed_interaction` of one token more; the state is ``A[batch, heads, d, d]``, in a tuple."""
    a = decays[:, None, None] * state[0] + xp.einsum("zha,zhc->zhac", q, k)
    o = xp.einsum("zhac,zhc->zha", a, xp.einsum("zhac,zha->zhc", a, v))
    return o / xp.einsum("zhac,zhac->zh", a, a)[..., None], (a,)
