"""Causal second order in Triton, as one would write it by hand: one program a head walks the chunks, states on chip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .case import UnavailableError

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

MAX_FEATURES = 64

if triton is not None:

    @triton.jit
    def _kernel(q_at, k_at, v_at, o_at, n, D: tl.constexpr, E: tl.constexpr, C: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
        """Two causal linear attentions one after the other, chunk by chunk; a program has a head and a part of v."""
        head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
        rows, features, values = tl.arange(0, C), tl.arange(0, D), part * E + tl.arange(0, E)
        width = E * tl.num_programs(1)
        keys = tl.zeros((D, D), tl.float32)
        sums = tl.zeros((D, E), tl.float32)
        lower = rows[:, None] >= rows[None, :]
        for start in range(0, n, C):
            tokens = start + rows
            there = (tokens < n)[:, None]
            square = head * n * D + tokens[:, None] * D + features[None, :]
            q = tl.load(q_at + square, mask=there, other=0.0)
            k = tl.load(k_at + square, mask=there, other=0.0)
            v = tl.load(v_at + head * n * width + tokens[:, None] * width + values[None, :], mask=there, other=0.0)
            scores = tl.where(lower, tl.dot(q, tl.trans(k), input_precision="ieee"), 0.0)
            read = tl.dot(scores.to(k.dtype), k, input_precision="ieee")
            read += tl.dot(q, keys.to(q.dtype), input_precision="ieee")
            keys += tl.dot(tl.trans(k), k, input_precision="ieee")
            r = read.to(q.dtype)
            scores = tl.where(lower, tl.dot(q, tl.trans(r), input_precision="ieee"), 0.0)
            o = tl.dot(scores.to(v.dtype), v, input_precision="ieee")
            o += tl.dot(q, sums.to(q.dtype), input_precision="ieee")
            sums += tl.dot(tl.trans(r), v, input_precision="ieee")
            tl.store(o_at + head * n * width + tokens[:, None] * width + values[None, :], o, mask=there)


def second_order(q: Tensor, k: Tensor, v: Tensor, *, chunk: int, values: int, warps: int) -> Tensor:
    """``o = Lin(q, Lin(q, k, k), v)``.

    Parameters
    ----------
    q, k, v : Tensor
        ``[batch, heads, n, d]`` on a CUDA device, d and e powers of two from 16.
    chunk : int
        Tokens of a chunk.
    values : int
        Features of v that a program has.
    warps : int
        Warps of a program.

    Raises
    ------
    UnavailableError
        Without Triton, or for features whose state does not fit on chip.
    """
    if triton is None:
        raise UnavailableError("triton is not installed")
    d, e = q.shape[-1], v.shape[-1]
    if d > MAX_FEATURES:
        raise UnavailableError(f"a {d}×{d} state in float32 does not fit into a program's registers")
    o = torch.empty_like(v)
    given: list[Any] = [x.contiguous() for x in (q, k, v)]
    grid = (q.shape[0] * q.shape[1], e // values)
    _kernel[grid](*given, o, q.shape[-2], D=d, E=values, C=chunk, num_warps=warps)
    return o
