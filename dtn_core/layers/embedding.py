"""Token embedding, and the scores of all tokens that read the same table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .definition import Array, Call, Definition, Ops, Parameter
from .initialise import Normal
from .validation import positive_int

SCORES = """token_scores(x[m], weight[v,m]) -> y[v]:
    y[t] = x[a] * weight[t,a]"""


@dataclass(frozen=True)
class Embedding(Definition):
    """A vector for every token of a vocabulary.

    Parameters
    ----------
    vocab_size : int
        Number of tokens.
    embed_dim : int
        Size of a vector.

    Notes
    -----
    ``tokens[..., n]`` of integers ``-> y[..., n, embed]``, with ``weight[token, embed]`` (normal, variance
    1 / embed, so that the scores of a normalised vector have variance 1).
    """

    reads_integers: ClassVar[bool] = True

    vocab_size: int
    embed_dim: int

    def __post_init__(self) -> None:
        for name in ("vocab_size", "embed_dim"):
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))

    def parameters(self) -> Mapping[str, Parameter]:
        axes = (("token", self.vocab_size), ("embed", self.embed_dim))
        return {"weight": Parameter(axes, Normal(self.embed_dim**-0.5))}

    def calls(self) -> Mapping[str, Call]:
        return {"scores": Call(SCORES)}

    def forward(self, ops: Ops, own: Any, x: Array, **tokens: Any) -> Array:
        return ops.take(own, "weight", x)

    def scores(self, ops: Ops, own: Any, x: Array) -> Array:
        """``x[..., embed] -> y[..., token]``, the product of ``x`` with every token's vector."""
        return ops.call(own, "scores", x, ops.value(own, "weight"))
