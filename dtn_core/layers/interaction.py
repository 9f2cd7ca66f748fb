"""Channel mixing: multi-head Tensor Interaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..operators import Operator, tensor_interaction
from .definition import Array, Call, Ops
from .heads import LAYOUT, HeadMixer, decay_of_heads, operator_decay, why_no_stream


@dataclass(frozen=True)
class TensorInteraction(HeadMixer):
    """Multi-head Tensor Interaction (arXiv 2311.11091 section 5).

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
    side, product, scale, normalize, activation, mask, residual, decay, eps
        The operator's knobs, see :func:`dtn_core.operators.tensor_interaction`; ``decay`` may also be a
        sequence with one value a head.

    Raises
    ------
    ValueError
        Names the argument, what was got and what is expected, or the knobs that clash.
    """

    side: str = "q"
    product: str = "matmul"
    scale: float = 1.0
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
        """The operator that mixes the channels of a head."""
        return tensor_interaction(
            side=self.side,
            product=self.product,
            scale=self.scale,
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
