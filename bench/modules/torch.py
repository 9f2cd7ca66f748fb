"""The layers and the demos' models as a user of PyTorch would write them by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import dtn_torch as dtn
from dtn_core.demo.recipe import AdamW
from dtn_core.layers.language import spread
from dtn_torch.training import Trainer

from .. import by_hand, chunked, formulas
from ..data import Array
from . import ATTENTION, CAUSAL, CHUNK, CLASSIFIER, EMBED, HEADS, layer_at, place

RATE = 1e-3
MODES: dict[str, Callable[..., Any]] = {
    "eager": lambda function: function,
    "compiled": partial(torch.compile, dynamic=False),
}


def mix_trace(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Trace-normalised Tensor Attention."""
    return by_hand.attention(torch, q, k, v)


def mix_channels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Trace-normalised Tensor Interaction."""
    return by_hand.interaction(torch, q, k, v)


def mix_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal second order, scaled as the layer scales it: twice by ``d**-0.5``."""
    return chunked.grouped_twin(q, k, v, chunk=CHUNK, tokens=512, step=chunked.group_step) / q.shape[-1]


class Decayed(nn.Module):
    """A mixer of :mod:`bench.formulas`, with its table of powers for windows of one length."""

    def __init__(self, whole: Callable[..., Tensor], step: Callable[..., Any], decays: tuple[float, ...]) -> None:
        super().__init__()
        self.whole, self.one, self.values = whole, step, decays
        self.register_buffer("decays", torch.tensor(decays), persistent=False)
        self.near = torch.zeros(0, 0, 0)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """All tokens."""
        if self.near.shape[-1] != q.shape[-2]:
            self.near = torch.from_numpy(formulas.falloff(self.values, q.shape[-2]))
        return self.whole(torch, self.near, q, k, v)

    def step(self, state: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Any]:
        """One token more."""
        return self.one(torch, self.decays, state, q, k, v)  # type: ignore[no-any-return]


class Mixer(nn.Module):
    """Multi-head mixing: three projections, the operator, a fourth projection."""

    def __init__(self, embed_dim: int, num_heads: int, mix: Any) -> None:
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

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token ``x[..., embed]`` more, and the state after it."""
        q, k, v = (project(x).unflatten(-1, (self.heads, -1)) for project in (self.query, self.key, self.value))
        o, state = self.mix.step(state, q, k, v)
        return self.out(o.flatten(-2)), state


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

    def __init__(self, embed_dim: int, num_heads: int, tokens: Any, channels: Any) -> None:
        super().__init__()
        self.attention_norm, self.interaction_norm, self.mlp_norm = (nn.LayerNorm(embed_dim) for _ in range(3))
        self.attention = Mixer(embed_dim, num_heads, tokens)
        self.interaction = Mixer(embed_dim, num_heads, channels)
        self.mlp = Perceptron(embed_dim, 4 * embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``x[..., n, embed]`` to the same."""
        x = x + self.attention(self.attention_norm(x))
        x = x + self.interaction(self.interaction_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token more."""
        mixed, first = self.attention.step(self.attention_norm(x), state[0])
        x = x + mixed
        mixed, second = self.interaction.step(self.interaction_norm(x), state[1])
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), (first, second)


class Classifier(nn.Module):
    """Images ``[batch, 8, 8]`` to ten logits, as ``DeepTensorClassifier`` has it by default."""

    def __init__(self, embed_dim: int = 32, num_heads: int = 4, depth: int = 2, patch: int = 2) -> None:
        super().__init__()
        self.patch = patch
        self.patches = nn.Linear(patch * patch, embed_dim)
        self.position = nn.Parameter(torch.zeros((8 // patch) ** 2, embed_dim))
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, mix_trace, mix_channels) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(embed_dim), nn.Linear(embed_dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``x[batch, 8, 8]`` to ``[batch, 10]``."""
        p = self.patch
        tiles = x.unflatten(-1, (-1, p)).unflatten(-3, (-1, p)).transpose(-2, -3)  # row, column, in row, in column
        tokens = self.patches(tiles.flatten(-2).flatten(-3, -2)) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(-2))


class Language(nn.Module):
    """Tokens ``[batch, n]`` to logits, as ``DeepTensorLM`` has it by default."""

    def __init__(self, vocabulary: int = 256, embed_dim: int = 64, num_heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        decays = spread(num_heads)
        self.shape = num_heads, embed_dim // num_heads
        self.embedding = nn.Embedding(vocabulary, embed_dim)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                Decayed(formulas.decayed_attention, formulas.attention_step, decays),
                Decayed(formulas.decayed_interaction, formulas.interaction_step, decays),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits after every token."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.embedding.weight)

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits after one token more."""
        x, after = self.embedding(token), []
        for block, before in zip(self.blocks, state, strict=True):
            x, one = block.step(x, before)
            after.append(one)
        return functional.linear(self.norm(x), self.embedding.weight), after

    def init_state(self, batch: int) -> Any:
        """The state before any token."""
        heads, d = self.shape
        square, one = torch.zeros(batch, heads, d, d), torch.zeros(batch, heads)
        return [((square, square, one), (square,)) for _ in self.blocks]


class TorchKit:
    """See :class:`bench.modules.Kit`."""

    def ours(self, name: str) -> Any:
        """The library's layer or model of that name."""
        if name in (ATTENTION, CAUSAL):
            knobs = {"mask": "causal", "normalize": None} if name == CAUSAL else {}
            return dtn.TensorAttention(EMBED, HEADS, seed=0, **knobs)
        return dtn.DeepTensorClassifier(seed=0) if name == CLASSIFIER else dtn.DeepTensorLM(seed=0)

    def by_hand(self, name: str, weights: Mapping[str, Array]) -> nn.Module:
        """The hand-written one: maps are transposed, and their axes flattened."""
        if name in (ATTENTION, CAUSAL):
            made: nn.Module = Mixer(EMBED, HEADS, mix_trace if name == ATTENTION else mix_causal)
        else:
            made = Classifier() if name == CLASSIFIER else Language()
        left = dict(made.named_parameters())
        for own, value in weights.items():
            path, kind = place(own)
            parameter = left.pop(".".join((*path, kind)))
            transposed = kind == "weight" and isinstance(layer_at(made, path), nn.Linear)
            shape = tuple(parameter.shape)
            flat = value.reshape(shape[::-1]).T if transposed else value.reshape(shape)
            parameter.data.copy_(torch.from_numpy(flat))
        if left:
            raise ValueError(f"no weights for {', '.join(left)}")
        return made

    def weights(self, model: Any) -> dict[str, Array]:
        """Of one of ours."""
        return {name: parameter.detach().numpy().copy() for name, parameter in model.named_parameters()}

    def native(self, x: Array) -> Tensor:
        """An array as a tensor."""
        return torch.from_numpy(x)

    def function(self, model: nn.Module, mode: str) -> Callable[[Tensor], Tensor]:
        """The model without gradients."""
        return torch.no_grad()(MODES[mode](model))

    def gradients(
        self, model: nn.Module, names: Mapping[str, tuple[int, ...]], x: Array, labels: Array
    ) -> dict[str, Array]:
        """Of the mean cross-entropy."""
        logits, classes = model(torch.from_numpy(x)).flatten(0, -2), torch.from_numpy(labels).flatten()
        loss = functional.cross_entropy(logits, classes.long())
        parameters = dict(model.named_parameters())
        found = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        if found.keys() == names.keys():
            return {name: gradient.numpy() for name, gradient in found.items()}
        gradients = {}
        for name, shape in names.items():
            path, kind = place(name)
            gradient = found[".".join((*path, kind))].numpy()
            transposed = kind == "weight" and isinstance(layer_at(model, path), nn.Linear)
            gradients[name] = (gradient.T if transposed else gradient).reshape(shape)
        return gradients

    def trainer(self, model: nn.Module, mode: str) -> Callable[[Array, Array], Any]:
        """One step of ``dtn demo``'s training."""
        trainer = Trainer(MODES[mode](model), AdamW())
        return lambda x, labels: trainer.step(x, labels, RATE)

    def stepper(self, model: Any, batch: int, mode: str) -> tuple[Callable[[Any, Any], tuple[Any, Any]], Any]:
        """One token more."""
        return torch.no_grad()(MODES[mode](model.step)), model.init_state(batch)


KIT = TorchKit()
