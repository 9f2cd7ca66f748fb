"""The layers and the demos' models as a user of TensorFlow would write them by hand, with Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import dtn_tensorflow as dtn
from dtn_core.demo.recipe import AdamW
from dtn_core.layers import parameter_of
from dtn_core.layers.language import spread
from dtn_tensorflow.training import Trainer

from .. import by_hand, formulas
from ..data import Array
from ..problems import ATTENTION as TRACE
from ..problems import INTERACTION
from . import ATTENTION, CAUSAL, CHUNK, CLASSIFIER, EMBED, HEADS, layer_at, place

RATE = 1e-3
LEAVES = {"weight": ("kernel", "gamma", "embeddings"), "bias": ("bias", "beta")}
XLA = {"graph": False, "xla": True}
WRITTEN = by_hand.tensorflow_linear()
NORM = partial(keras.layers.LayerNormalization, epsilon=1e-5)


def mix_causal(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """Causal second order, scaled as the layer scales it: twice by ``d**-0.5``."""
    return formulas.twin(tf, q, k, v, chunk=CHUNK) / q.shape[-1]


class Decayed:
    """A mixer of :mod:`bench.formulas`."""

    def __init__(self, whole: Callable[..., Any], step: Callable[..., Any], decays: tuple[float, ...]) -> None:
        self.whole, self.one, self.decays = whole, step, decays

    def __call__(self, q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        """All tokens; the table of powers is a constant of the graph."""
        return self.whole(tf, formulas.falloff(self.decays, q.shape[-2]), q, k, v)

    def step(self, state: Any, q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """One token more."""
        return self.one(tf, np.asarray(self.decays, np.float32), state, q, k, v)  # type: ignore[no-any-return]


class Mixer(keras.Layer):
    """Multi-head mixing: three projections, the operator, a fourth projection."""

    def __init__(self, embed_dim: int, num_heads: int, mix: Any) -> None:
        super().__init__()
        self.heads, self.mix = num_heads, mix
        self.query, self.key, self.value, self.out = (keras.layers.Dense(embed_dim) for _ in range(4))

    def split(self, x: tf.Tensor) -> list[tf.Tensor]:
        """``[..., embed]`` to three of ``[..., head, feature]``."""
        shape = (*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        return [tf.reshape(project(x), shape) for project in (self.query, self.key, self.value)]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """``x[..., n, embed]`` to the same."""
        o = self.mix(*(tf.transpose(y, (0, 2, 1, 3)) for y in self.split(x)))
        return self.out(tf.reshape(tf.transpose(o, (0, 2, 1, 3)), x.shape))

    def step(self, x: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        """One token ``x[..., embed]`` more, and the state after it."""
        o, state = self.mix.step(state, *self.split(x))
        return self.out(tf.reshape(o, x.shape)), state


class Perceptron(keras.Layer):
    """``gelu(x W + b) V + c``."""

    def __init__(self, embed_dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.output_ = keras.layers.Dense(hidden, activation="gelu"), keras.layers.Dense(embed_dim)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """On every token."""
        return self.output_(self.hidden(x))


class Block(keras.Layer):
    """Pre-norm residual block."""

    def __init__(self, embed_dim: int, num_heads: int, tokens: Any, channels: Any) -> None:
        super().__init__()
        self.attention_norm, self.interaction_norm, self.mlp_norm = NORM(), NORM(), NORM()
        self.attention = Mixer(embed_dim, num_heads, tokens)
        self.interaction = Mixer(embed_dim, num_heads, channels)
        self.mlp = Perceptron(embed_dim, 4 * embed_dim)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """``x[..., n, embed]`` to the same."""
        x = x + self.attention(self.attention_norm(x))
        x = x + self.interaction(self.interaction_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def step(self, x: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        """One token more."""
        mixed, first = self.attention.step(self.attention_norm(x), state[0])
        x = x + mixed
        mixed, second = self.interaction.step(self.interaction_norm(x), state[1])
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), (first, second)


class Classifier(keras.Model):
    """Images ``[batch, 8, 8]`` to ten logits, as ``DeepTensorClassifier`` has it by default."""

    def __init__(self, embed_dim: int = 32, num_heads: int = 4, depth: int = 2, patch: int = 2) -> None:
        super().__init__()
        self.patch = patch
        self.patches = keras.layers.Dense(embed_dim)
        self.position = self.add_weight(shape=((8 // patch) ** 2, embed_dim), initializer="zeros", name="position")
        mixes = WRITTEN[TRACE], WRITTEN[INTERACTION]
        self.blocks = [Block(embed_dim, num_heads, *mixes) for _ in range(depth)]
        self.norm, self.head = NORM(), keras.layers.Dense(10)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """``x[batch, 8, 8]`` to ``[batch, 10]``."""
        p = self.patch
        tiles = tf.transpose(tf.reshape(x, (-1, 8 // p, p, 8 // p, p)), (0, 1, 3, 2, 4))
        y = self.patches(tf.reshape(tiles, (x.shape[0], (8 // p) ** 2, p * p))) + self.position
        for block in self.blocks:
            y = block(y)
        return self.head(tf.reduce_mean(self.norm(y), -2))


class Language(keras.Model):
    """Tokens ``[batch, n]`` to logits, as ``DeepTensorLM`` has it by default."""

    def __init__(self, vocabulary: int = 256, embed_dim: int = 64, num_heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        decays = spread(num_heads)
        self.shape = num_heads, embed_dim // num_heads
        self.embedding = keras.layers.Embedding(vocabulary, embed_dim)
        mixes = (
            Decayed(formulas.decayed_attention, formulas.attention_step, decays),
            Decayed(formulas.decayed_interaction, formulas.interaction_step, decays),
        )
        self.blocks = [Block(embed_dim, num_heads, *mixes) for _ in range(depth)]
        self.norm = NORM()

    def scores(self, x: tf.Tensor) -> tf.Tensor:
        """Logits, by the vectors of the embedding."""
        return tf.einsum("...m,vm->...v", self.norm(x), self.embedding.embeddings)

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Logits after every token."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.scores(x)

    def step(self, token: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        """Logits after one token more."""
        x, after = self.embedding(token), []
        for block, before in zip(self.blocks, state, strict=True):
            x, one = block.step(x, before)
            after.append(one)
        return self.scores(x), after

    def init_state(self, batch: int) -> Any:
        """The state before any token."""
        heads, d = self.shape
        square, one = tf.zeros((batch, heads, d, d)), tf.zeros((batch, heads))
        return [((square, square, one), (square,)) for _ in self.blocks]


class TensorFlowKit:
    """See :class:`bench.modules.Kit`."""

    def ours(self, name: str) -> Any:
        """The library's layer or model of that name."""
        if name in (ATTENTION, CAUSAL):
            knobs = {"mask": "causal", "normalize": None} if name == CAUSAL else {}
            return dtn.TensorAttention(EMBED, HEADS, seed=0, **knobs)
        return dtn.DeepTensorClassifier(seed=0) if name == CLASSIFIER else dtn.DeepTensorLM(seed=0)

    def by_hand(self, name: str, weights: Mapping[str, Array]) -> Any:
        """The hand-written one: axes of maps are flattened."""
        if name in (ATTENTION, CAUSAL):
            made: Any = Mixer(EMBED, HEADS, WRITTEN[TRACE] if name == ATTENTION else mix_causal)
            made(tf.zeros((1, CHUNK, EMBED)))
        else:
            made = Classifier() if name == CLASSIFIER else Language()
            made(tf.zeros((1, 8, 8)) if name == CLASSIFIER else tf.zeros((1, 8), tf.int32))
        for own, value in weights.items():
            variable = _variable(made, own)
            variable.assign(value.reshape(variable.shape))
        if len(made.trainable_variables) != len(weights):
            raise ValueError("some parameters were given no weights")
        return made

    def weights(self, model: Any) -> dict[str, Array]:
        """Of one of ours."""
        return {name: parameter_of(model, name).numpy() for name, _ in model.definition.named_parameters()}

    def native(self, x: Array) -> tf.Tensor:
        """An array of TensorFlow."""
        return tf.constant(x)

    def function(self, model: Any, mode: str) -> Callable[[tf.Tensor], tf.Tensor]:
        """The model in a ``tf.function``."""
        compiled = tf.function(model, jit_compile=XLA[mode])

        def call(x: tf.Tensor) -> tf.Tensor:
            y = compiled(x)
            tf.test.experimental.sync_devices()
            return y

        return call

    def gradients(self, model: Any, names: Mapping[str, tuple[int, ...]], x: Array, labels: Array) -> dict[str, Array]:
        """Of the mean cross-entropy."""
        at = parameter_of if hasattr(model, "definition") else _variable
        variables = [at(model, name).value for name in names]

        @tf.function
        def of_loss() -> Any:
            with tf.GradientTape() as tape:
                logits = model(tf.constant(x))
                loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.constant(labels), logits))
            return tape.gradient(loss, variables)

        found = (tf.convert_to_tensor(gradient).numpy() for gradient in of_loss())  # an embedding's is of its rows
        return {name: g.reshape(shape) for (name, shape), g in zip(names.items(), found, strict=True)}

    def trainer(self, model: Any, mode: str) -> Callable[[Array, Array], Any]:
        """One step of ``dtn demo``'s training."""
        trainer = Trainer(model, AdamW())
        return lambda x, labels: trainer.step(x, labels, RATE)

    def stepper(self, model: Any, batch: int, mode: str) -> tuple[Callable[[Any, Any], tuple[Any, Any]], Any]:
        """One token more, in a ``tf.function``."""
        compiled = tf.function(model.step, jit_compile=XLA[mode], autograph=False)

        def call(token: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
            found = compiled(token, state)
            tf.test.experimental.sync_devices()
            return found

        return call, model.init_state(batch)


def _variable(model: Any, name: str) -> Any:
    path, kind = place(name)
    layer = layer_at(model, tuple("output_" if part == "output" else part for part in path))
    return next(getattr(layer, leaf) for leaf in (*LEAVES.get(kind, ()), kind) if hasattr(layer, leaf))


KIT = TensorFlowKit()
