"""The layers and the demos' models as a user of JAX would write them by hand, with ``flax.nnx``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import dtn_jax as dtn
from dtn_core.demo.recipe import AdamW
from dtn_core.layers import parameter_of
from dtn_core.layers.language import spread
from dtn_jax.training import Trainer

from .. import by_hand, formulas
from ..data import Array
from . import ATTENTION, CAUSAL, CHUNK, CLASSIFIER, EMBED, HEADS, layer_at, place

RATE = 1e-3
LEAVES = ("kernel", "scale", "embedding")
Mix = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def mix_causal(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal second order, scaled as the layer scales it: twice by ``d**-0.5``."""
    return formulas.twin(jnp, q, k, v, chunk=CHUNK) / q.shape[-1]


class Decayed(nnx.Module):
    """A mixer of :mod:`bench.formulas`."""

    def __init__(self, whole: Callable[..., Any], step: Callable[..., Any], decays: tuple[float, ...]) -> None:
        self.whole, self.one, self.decays = whole, step, decays

    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        """All tokens; the table of powers is a constant of what is compiled."""
        return self.whole(jnp, formulas.falloff(self.decays, q.shape[-2]), q, k, v)  # type: ignore[no-any-return]

    def step(self, state: Any, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
        """One token more."""
        return self.one(jnp, np.asarray(self.decays, np.float32), state, q, k, v)  # type: ignore[no-any-return]


class Mixer(nnx.Module):
    """Multi-head mixing: three projections, the operator, a fourth projection."""

    def __init__(self, embed_dim: int, num_heads: int, mix: Any, rngs: nnx.Rngs) -> None:
        self.heads, self.mix = num_heads, mix
        linear = partial(nnx.Linear, embed_dim, embed_dim, rngs=rngs)
        self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()

    def split(self, x: jax.Array) -> list[jax.Array]:
        """``[..., embed]`` to three of ``[..., head, feature]``."""
        projected = (project(x) for project in (self.query, self.key, self.value))
        return [y.reshape(*y.shape[:-1], self.heads, -1) for y in projected]

    def __call__(self, x: jax.Array) -> jax.Array:
        """``x[..., n, embed]`` to the same."""
        o = jnp.swapaxes(self.mix(*(jnp.swapaxes(y, -2, -3) for y in self.split(x))), -2, -3)
        return self.out(o.reshape(x.shape))

    def step(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """One token ``x[..., embed]`` more, and the state after it."""
        o, state = self.mix.step(state, *self.split(x))
        return self.out(o.reshape(x.shape)), state


class Perceptron(nnx.Module):
    """``gelu(x W + b) V + c``."""

    def __init__(self, embed_dim: int, hidden: int, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(embed_dim, hidden, rngs=rngs)
        self.output = nnx.Linear(hidden, embed_dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """On every token."""
        return self.output(nnx.gelu(self.hidden(x), approximate=False))


class Block(nnx.Module):
    """Pre-norm residual block."""

    def __init__(self, embed_dim: int, num_heads: int, tokens: Any, channels: Any, rngs: nnx.Rngs) -> None:
        norm = partial(nnx.LayerNorm, embed_dim, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.attention_norm, self.interaction_norm, self.mlp_norm = norm(), norm(), norm()
        self.attention = Mixer(embed_dim, num_heads, tokens, rngs)
        self.interaction = Mixer(embed_dim, num_heads, channels, rngs)
        self.mlp = Perceptron(embed_dim, 4 * embed_dim, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``x[..., n, embed]`` to the same."""
        x = x + self.attention(self.attention_norm(x))
        x = x + self.interaction(self.interaction_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def step(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """One token more."""
        mixed, first = self.attention.step(self.attention_norm(x), state[0])
        x = x + mixed
        mixed, second = self.interaction.step(self.interaction_norm(x), state[1])
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), (first, second)


class Classifier(nnx.Module):
    """Images ``[batch, 8, 8]`` to ten logits, as ``DeepTensorClassifier`` has it by default."""

    def __init__(self, rngs: nnx.Rngs, embed_dim: int = 32, num_heads: int = 4, depth: int = 2, patch: int = 2) -> None:
        self.patch = patch
        self.patches = nnx.Linear(patch * patch, embed_dim, rngs=rngs)
        self.position = nnx.Param(jnp.zeros(((8 // patch) ** 2, embed_dim)))
        mixes = partial(by_hand.attention, jnp), partial(by_hand.interaction, jnp)
        self.blocks = nnx.List([Block(embed_dim, num_heads, *mixes, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(embed_dim, epsilon=1e-5, use_fast_variance=False, rngs=rngs)
        self.head = nnx.Linear(embed_dim, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``x[batch, 8, 8]`` to ``[batch, 10]``."""
        p = self.patch
        tiles = jnp.swapaxes(x.reshape(-1, 8 // p, p, 8 // p, p), 2, 3)  # row, column, in row, in column
        y = self.patches(tiles.reshape(len(x), -1, p * p)) + self.position[...]
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y).mean(-2))


class Language(nnx.Module):
    """Tokens ``[batch, n]`` to logits, as ``DeepTensorLM`` has it by default."""

    def __init__(
        self, rngs: nnx.Rngs, vocabulary: int = 256, embed_dim: int = 64, num_heads: int = 4, depth: int = 2
    ) -> None:
        decays = spread(num_heads)
        self.shape = num_heads, embed_dim // num_heads
        self.embedding = nnx.Embed(vocabulary, embed_dim, rngs=rngs)
        mixes = (
            Decayed(formulas.decayed_attention, formulas.attention_step, decays),
            Decayed(formulas.decayed_interaction, formulas.interaction_step, decays),
        )
        self.blocks = nnx.List([Block(embed_dim, num_heads, *mixes, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(embed_dim, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits after every token."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.embedding.attend(self.norm(x))

    def step(self, token: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Logits after one token more."""
        x, after = self.embedding(token), []
        for block, before in zip(self.blocks, state, strict=True):
            x, one = block.step(x, before)
            after.append(one)
        return self.embedding.attend(self.norm(x)), after

    def init_state(self, batch: int) -> Any:
        """The state before any token."""
        heads, d = self.shape
        square, one = jnp.zeros((batch, heads, d, d)), jnp.zeros((batch, heads))
        return [((square, square, one), (square,)) for _ in self.blocks]


class JaxKit:
    """See :class:`bench.modules.Kit`."""

    def ours(self, name: str) -> Any:
        """The library's layer or model of that name."""
        if name in (ATTENTION, CAUSAL):
            knobs = {"mask": "causal", "normalize": None} if name == CAUSAL else {}
            return dtn.TensorAttention(EMBED, HEADS, seed=0, **knobs)
        return dtn.DeepTensorClassifier(seed=0) if name == CLASSIFIER else dtn.DeepTensorLM(seed=0)

    def by_hand(self, name: str, weights: Mapping[str, Array]) -> nnx.Module:
        """The hand-written one: axes of maps are flattened."""
        rngs = nnx.Rngs(0)
        if name in (ATTENTION, CAUSAL):
            mix = partial(by_hand.attention, jnp) if name == ATTENTION else mix_causal
            made: nnx.Module = Mixer(EMBED, HEADS, mix, rngs)
        else:
            made = Classifier(rngs) if name == CLASSIFIER else Language(rngs)
        for own, value in weights.items():
            parameter = _parameter(made, own)
            parameter[...] = jnp.asarray(value).reshape(parameter.shape)
        if len(jax.tree.leaves(nnx.state(made, nnx.Param))) != len(weights):
            raise ValueError("some parameters were given no weights")
        return made

    def weights(self, model: Any) -> dict[str, Array]:
        """Of one of ours."""
        return {name: np.asarray(parameter_of(model, name)[...]) for name, _ in model.definition.named_parameters()}

    def native(self, x: Array) -> jax.Array:
        """An array of JAX."""
        return jnp.asarray(x)

    def function(self, model: nnx.Module, mode: str) -> Callable[[jax.Array], jax.Array]:
        """The model under ``jax.jit``."""
        graph, parameters = nnx.split(model)
        compiled = jax.jit(lambda parameters, x: nnx.merge(graph, parameters)(x))
        return lambda x: jax.block_until_ready(compiled(parameters, x))

    def gradients(self, model: Any, names: Mapping[str, tuple[int, ...]], x: Array, labels: Array) -> dict[str, Array]:
        """Of the mean cross-entropy."""
        graph, parameters = nnx.split(model)

        def loss(parameters: nnx.State) -> jax.Array:
            logits = nnx.merge(graph, parameters)(jnp.asarray(x))
            return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)).mean()

        found = nnx.merge(graph, jax.jit(jax.grad(loss))(parameters))
        at = parameter_of if hasattr(model, "definition") else _parameter
        return {name: np.asarray(at(found, name)[...]).reshape(shape) for name, shape in names.items()}

    def trainer(self, model: nnx.Module, mode: str) -> Callable[[Array, Array], Any]:
        """One step of ``dtn demo``'s training."""
        trainer = Trainer(model, AdamW())
        return lambda x, labels: trainer.step(x, labels, RATE)

    def stepper(self, model: Any, batch: int, mode: str) -> tuple[Callable[[Any, Any], tuple[Any, Any]], Any]:
        """One token more, under ``jax.jit``."""
        graph, parameters = nnx.split(model)
        compiled = jax.jit(lambda parameters, token, state: nnx.merge(graph, parameters).step(token, state))
        return lambda token, state: jax.block_until_ready(compiled(parameters, token, state)), model.init_state(batch)


def _parameter(model: nnx.Module, name: str) -> Any:
    path, kind = place(name)
    layer = layer_at(model, path)
    leaf = next((leaf for leaf in LEAVES if hasattr(layer, leaf)), kind) if kind == "weight" else kind
    return getattr(layer, leaf)


KIT = JaxKit()
