"""Token mixing: multi-head Tensor Attention, and softmax attention to compare it with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..operators import Operator, tensor_attention
from .definition import Array, Call, Ops
from .heads import LAYOUT, HeadMixer, decay_of_heads, operator_decay, why_no_stream
from .validation import positive_float, refuse


def _softmax(*, masked: bool, causal: bool) -> str:
    """Softmax attention as index notation.

    No maximum is subtracted from the scores, the notation has none: exp overflows float32 at a score of 89,
    far beyond what normalised inputs and Glorot weights give.
    """
    order = "   where j <= i" if causal else ""
    name = f"{'masked_' * masked}{'causal_' * causal}softmax_attention"
    lines = [
        f"{name}(q[n,h,d], k[n,h,d], v[n,h,e],{' keep[n],' * masked} scale) -> o[n,h,e]:",
        "s[g,i,j] = scale * q[i,g,a] * k[j,g,a]",
        "x[g,i,j] = exp(s[g,i,j])",
    ]
    weight, value = "x[g,i,j]", "v[j,g,c]"
    if masked:
        lines += ["w[g,i,j] = select(keep[j], x[g,i,j])", "u[j,g,c] = select(keep[j], v[j,g,c])"]
        weight, value = "w[g,i,j]", "u[j,g,c]"
    lines += [f"r[g,i]   = {weight}{order}", f"o[i,g,c] = {weight} * {value} / r[g,i]{order}"]
    return "\n    ".join(lines)


@dataclass(frozen=True)
class TensorAttention(HeadMixer):
    """Multi-head Tensor Attention (arXiv 2311.11091 sections 3.4 and 4).

    Parameters
    ----------
    embed_dim : int
        Size of a token.
    num_heads : int
        Number of heads.
    head_dim : int, optional
        Features a head; by default ``embed_dim // num_heads``.
    bias : bool
        Whether the four projections have a bias.
    side, product, order, asymmetric, normalize, activation, mask, residual, decay, eps
        The operator's knobs, see :func:`dtn_core.operators.tensor_attention`; ``decay`` may also be a
        sequence with one value a head.
    scale : float, optional
        Factor of the scores; by default 1, or ``features ** -0.5`` with ``normalize=None`` (every
        normalisation cancels it).

    Raises
    ------
    ValueError
        Names the argument, what was got and what is expected, or the knobs that clash.
    """

    side: str = "q"
    product: str = "matmul"
    order: int = 2
    asymmetric: bool = False
    scale: float | None = None
    normalize: str | None = "trace"
    activation: str | None = None
    mask: str | None = None
    residual: float = 0.0
    decay: float | Sequence[float] | None = None
    eps: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "decay", decay_of_heads(self.decay, self.num_heads))
        self.operator()  # refuses knobs that clash

    def operator(self) -> Operator:
        """The operator that mixes the tokens of a head."""
        scale = self.scale
        if scale is None:
            scale = 1.0 if self.normalize is not None else self.features**-0.5
        return tensor_attention(
            side=self.side,
            product=self.product,
            order=self.order,
            asymmetric=self.asymmetric,
            scale=scale,
            normalize=self.normalize,
            activation=self.activation,
            mask=self.mask,
            residual=self.residual,
            decay=operator_decay(self.decay),
            eps=self.eps,
        )

    def calls(self) -> Mapping[str, Call]:
        return {"mix": Call(self.operator(), LAYOUT)}

    def scalars(self, ops: Ops, like: Array) -> Mapping[str, Any]:
        return {"decay": ops.constant(self.decay, like)} if isinstance(self.decay, tuple) else {}

    def why_not(self) -> str:
        return why_no_stream(self.mask)


@dataclass(frozen=True)
class SoftmaxAttention(HeadMixer):
    """Multi-head softmax attention with the parameters of :class:`TensorAttention`, n×n, for comparisons.

    Parameters
    ----------
    embed_dim, num_heads, head_dim, bias
        As in :class:`TensorAttention`.
    scale : float, optional
        Factor of the scores; by default ``features ** -0.5``.
    mask : {None, "causal"}
        ``"causal"`` weighs only the tokens up to a token itself; n×n all the same, and without a state.
    """

    scale: float | None = None
    mask: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask not in (None, "causal"):
            raise refuse("mask", self.mask, "None or 'causal'")
        if self.scale is not None:
            object.__setattr__(self, "scale", positive_float("scale", self.scale))

    def calls(self) -> Mapping[str, Call]:
        causal = self.mask == "causal"
        return {
            "mix": Call(_softmax(masked=False, causal=causal)),
            "masked_mix": Call(_softmax(masked=True, causal=causal)),
        }

    def mix(
        self, ops: Ops, own: Any, q: Array, k: Array, v: Array, padding_mask: Array | None = None, **tokens: Any
    ) -> Array:
        scale = self.scale or self.features**-0.5
        if padding_mask is None:
            return ops.call(own, "mix", q, k, v, scale=scale, **tokens)
        return ops.call(own, "masked_mix", q, k, v, padding_mask, scale=scale)

    def why_not(self) -> str:
        return "softmax attention has no state of a fixed size, every token reads all earlier keys and values"
