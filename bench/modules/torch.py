"""The layer and the demo's classifier as a user of PyTorch would write them by hand, with this library's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import by_hand, chunked


def mix_trace(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Trace-normalised Tensor Attention."""
    return by_hand.attention(torch, q, k, v)


def mix_channels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Trace-normalised Tensor Interaction."""
    return by_hand.interaction(torch, q, k, v)


def mix_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal second order, scaled as the layer scales it: twice by ``d**-0.5``."""
    return chunked.grouped_twin(q, k, v, chunk=64, tokens=512, step=chunked.group_step) / q.shape[-1]


class Mixer(nn.Module):
    """Multi-head mixing: three projections, the operator, a fourth projection."""

    def __init__(self, embed_dim: int, num_heads: int, mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.heads, self.mix = num_heads, mix
        self.query, self.key, self.value, self.out = (nn.Linear(embed_dim, embed_dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """``x[..., n, embed]`` to the same."""
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for project in (self.query, self.key, self.value)
        )
        return self.out(self.mix(q, k, v).transpose(-2, -3).flatten(-2))


class Perceptron(nn.Module):
    """``gelu(x W + b) V + c``."""

    def __init__(self, embed_dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(embed_dim, hidden), nn.Linear(hidden, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """On every token."""
        return self.output(functional.gelu(self.hidden(x)))


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm, self.interaction_norm, self.mlp_norm = (nn.LayerNorm(embed_dim) for _ in range(3))
        self.attention = Mixer(embed_dim, num_heads, mix_trace)
        self.interaction = Mixer(embed_dim, num_heads, mix_channels)
        self.mlp = Perceptron(embed_dim, 4 * embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``x[..., n, embed]`` to the same."""
        x = x + self.attention(self.attention_norm(x))
        x = x + self.interaction(self.interaction_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Classifier(nn.Module):
    """Images ``[batch, 8, 8]`` to ten logits, as ``DeepTensorClassifier`` has it by default."""

    def __init__(self, embed_dim: int = 32, num_heads: int = 4, depth: int = 2, patch: int = 2) -> None:
        super().__init__()
        self.patch = patch
        self.patches = nn.Linear(patch * patch, embed_dim)
        self.position = nn.Parameter(torch.zeros((8 // patch) ** 2, embed_dim))
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(embed_dim), nn.Linear(embed_dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``x[batch, 8, 8]`` to ``[batch, 10]``."""
        p = self.patch
        tiles = x.unflatten(-1, (-1, p)).unflatten(-3, (-1, p)).transpose(-2, -3)  # row, column, in row, in column
        tokens = self.patches(tiles.flatten(-2).flatten(-3, -2)) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(-2))


def by_hand_name(name: str) -> str:
    """The parameter of a hand-written module that ours is called in."""
    if name == "patches.position":
        return "position"
    return name.replace("hidden_", "hidden.").replace("output_", "output.")


def load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a hand-written module this library's weights: maps are transposed, and their axes flattened."""
    own = dict(module.named_parameters())
    for name, value in weights.items():
        place = own.pop(by_hand_name(name))
        flat = value
        if name.endswith("weight") and place.ndim == 2:
            flat = value.reshape(place.shape[1], place.shape[0]).mT
        place.data.copy_(flat.reshape(place.shape))
    if own:
        raise ValueError(f"no weights for {', '.join(own)}")


MIXES = {"trace": mix_trace, "causal": mix_causal}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "attention layer": partial(Mixer, 512, 8, mix_trace),
    "causal attention layer": partial(Mixer, 512, 8, mix_causal),
}


def ours(name: str) -> Any:
    """The library's layer of that name."""
    import dtn_torch as dtn

    if name == "attention layer":
        return dtn.TensorAttention(512, 8, seed=0)
    if name == "causal attention layer":
        return dtn.TensorAttention(512, 8, seed=0, mask="causal", normalize=None)
    return dtn.DeepTensorClassifier(seed=0)
