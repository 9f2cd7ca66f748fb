"""Layer normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .definition import Array, Call, Definition, Ops, Parameter
from .initialise import Constant
from .validation import positive_float, positive_int

LAYER_NORM = """layer_norm(x[d], weight[d], bias[d], eps) -> y[d]:
    mean      = x[c] / d
    z[c]      = x[c] - mean
    variance  = z[c] * z[c] / d + eps
    deviation = sqrt(variance)
    y[c]      = z[c] * weight[c] / deviation + bias[c]"""


@dataclass(frozen=True)
class LayerNorm(Definition):
    """Normalises the last axis to mean 0 and variance 1, then scales and shifts it.

    Parameters
    ----------
    embed_dim : int
        Size of the last axis.
    eps : float
        Added to the variance.

    Notes
    -----
    ``x[..., embed] -> y[..., embed]``, with ``weight[embed]`` (ones) and ``bias[embed]`` (zeros).
    """

    embed_dim: int
    eps: float = 1e-5

    def __post_init__(self) -> None:
        object.__setattr__(self, "embed_dim", positive_int("embed_dim", self.embed_dim))
        object.__setattr__(self, "eps", positive_float("eps", self.eps))

    def parameters(self) -> Mapping[str, Parameter]:
        axes = (("embed", self.embed_dim),)
        return {"weight": Parameter(axes, Constant(1.0)), "bias": Parameter(axes, Constant(0.0))}

    def calls(self) -> Mapping[str, Call]:
        return {"normalise": Call(LAYER_NORM)}

    def forward(self, ops: Ops, own: Any, x: Array, **tokens: Any) -> Array:
        return ops.call(own, "normalise", x, ops.value(own, "weight"), ops.value(own, "bias"), eps=self.eps)
