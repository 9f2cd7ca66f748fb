"""What a user of PyTorch would write by hand instead of the causal operators: dense, and chunked.

All take ``q[..., n, d], k[..., n, d], v[..., n, e]`` and return ``o[..., n, e]``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As the definition has it, ``(W Wᵀ ⊙ L) V`` with ``W = L ⊙ Q Kᵀ``: quadratic in n."""
    w = (q @ k.mT).tril()
    return (w @ w.mT).tril() @ v


def linear(q: Tensor, k: Tensor, v: Tensor, *, chunk: int) -> Tensor:
    """Causal linear attention in chunks, all of them at once."""
    q, k, v = (x.unflatten(-2, (-1, chunk)) for x in (q, k, v))
    sums = (k.mT @ v).to(torch.promote_types(v.dtype, torch.float32))
    before = (sums.cumsum(-3) - sums).to(v.dtype)
    return ((q @ k.mT).tril() @ v + q @ before).flatten(-3, -2)


def twin(q: Tensor, k: Tensor, v: Tensor, *, chunk: int) -> Tensor:
    """The chunked form, all chunks at once: two causal linear attentions, ``Lin(q, Lin(q, k, k), v)``."""
    return linear(q, linear(q, k, k, chunk=chunk), v, chunk=chunk)


def third_order(q: Tensor, k: Tensor, v: Tensor, *, chunk: int) -> Tensor:
    """``Lin(q, Lin(q, k, k), Lin(q, k, v))``."""
    return linear(q, linear(q, k, k, chunk=chunk), linear(q, k, v, chunk=chunk), chunk=chunk)


def asymmetric(q: Tensor, k: Tensor, v: Tensor, *, chunk: int) -> Tensor:
    """``Lin(q, k, Lin(q, k, v))``."""
    return linear(q, k, linear(q, k, v, chunk=chunk), chunk=chunk)


def interaction(q: Tensor, k: Tensor, v: Tensor, *, chunk: int) -> Tensor:
    """``Lin(Lin(v, q, k), k, q)``."""
    return linear(linear(v, q, k, chunk=chunk), k, q, chunk=chunk)


def group_step(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output of one group of chunks ``[..., chunks, chunk, d]``, and both states after it, from those before it."""

    def linear(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        sums = k.mT @ v
        until = sums.cumsum(-3)
        return (q @ k.mT).tril() @ v + q @ (state + (until - sums)), state + until[..., -1:, :, :]

    read, keys = linear(q, k, k, keys)
    o, values = linear(q, read, v, values)
    return o, keys, values


def grouped_twin(
    q: Tensor, k: Tensor, v: Tensor, *, chunk: int, tokens: int, step: Callable[..., tuple[Tensor, Tensor, Tensor]]
) -> Tensor:
    """The cleverer twin: groups of chunks small enough to stay in the cache, one group after the other."""
    keys = q.new_zeros(*q.shape[:-2], 1, k.shape[-1], k.shape[-1])
    values = q.new_zeros(*q.shape[:-2], 1, k.shape[-1], v.shape[-1])
    outputs = []
    for group in zip(*(x.split(tokens, -2) for x in (q, k, v)), strict=True):
        o, keys, values = step(*(x.unflatten(-2, (-1, chunk)) for x in group), keys, values)
        outputs.append(o.flatten(-3, -2))
    return torch.cat(outputs, -2)
