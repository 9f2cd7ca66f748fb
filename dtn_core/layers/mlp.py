"""The two-layer perceptron of a block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .definition import Array, Call, Definition, Ops, Parameter
from .initialise import Constant, glorot
from .validation import positive_int

PERCEPTRON = """mlp(x[m], hidden_weight[m,f], hidden_bias[f], output_weight[f,m], output_bias[m]) -> y[m]:
    u[k] = x[a] * hidden_weight[a,k] + hidden_bias[k]
    g[k] = gelu(u[k])
    y[c] = g[k] * output_weight[k,c] + output_bias[c]"""


@dataclass(frozen=True)
class MLP(Definition):
    """``gelu(x W + b) V + c`` on every token by itself.

    Parameters
    ----------
    embed_dim : int
        Size of the last axis, in and out.
    hidden_dim : int
        Size in between.

    Notes
    -----
    ``x[..., embed] -> y[..., embed]``, with ``hidden_weight[embed, hidden]`` and
    ``output_weight[hidden, embed]`` (Glorot uniform), ``hidden_bias[hidden]`` and
    ``output_bias[embed]`` (zeros).
    """

    embed_dim: int
    hidden_dim: int

    def __post_init__(self) -> None:
        for name in ("embed_dim", "hidden_dim"):
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))

    def parameters(self) -> Mapping[str, Parameter]:
        embed, hidden = ("embed", self.embed_dim), ("hidden", self.hidden_dim)
        weight = glorot([self.embed_dim], [self.hidden_dim])
        return {
            "hidden_weight": Parameter((embed, hidden), weight),
            "hidden_bias": Parameter((hidden,), Constant(0.0)),
            "output_weight": Parameter((hidden, embed), weight),
            "output_bias": Parameter((embed,), Constant(0.0)),
        }

    def calls(self) -> Mapping[str, Call]:
        return {"perceptron": Call(PERCEPTRON)}

    def forward(self, ops: Ops, own: Any, x: Array, **tokens: Any) -> Array:
        hidden = ops.value(own, "hidden_weight"), ops.value(own, "hidden_bias")
        return ops.call(own, "perceptron", x, *hidden, ops.value(own, "output_weight"), ops.value(own, "output_bias"))
