"""Layers for TensorFlow: the definitions of ``dtn_core.layers`` as ``keras.Layer`` and ``keras.Model``."""

from __future__ import annotations

import operator
import os
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

_CHOSEN = os.environ.get("KERAS_BACKEND") or "tensorflow"
if _CHOSEN == "tensorflow":
    import keras

    _CHOSEN = keras.backend.backend()  # a configuration file chooses too
if _CHOSEN != "tensorflow":
    raise ImportError(
        f"the layers of dtn_tensorflow need Keras on TensorFlow, and Keras is set to {_CHOSEN!r}: "
        "set the environment variable KERAS_BACKEND=tensorflow before keras is imported"
    )

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from dtn_core import layers  # noqa: E402

from . import compile as compile_operator  # noqa: E402

__all__ = [
    "MLP",
    "DeepTensorBlock",
    "DeepTensorClassifier",
    "DeepTensorLM",
    "Embedding",
    "Layer",
    "LayerNorm",
    "MeanPool",
    "PatchEmbedding",
    "Projection",
    "SoftmaxAttention",
    "TensorAttention",
    "TensorInteraction",
]


class _Ops:
    """What a definition's ``forward`` needs of TensorFlow."""

    def call(self, own: Layer, name: str, *arrays: tf.Tensor, **keywords: Any) -> tf.Tensor:
        return layers.compiled(own.definition, compile_operator)[name](*arrays, **keywords)

    def step(self, own: Layer, name: str, state: Any, *tokens: tf.Tensor, **keywords: Any) -> tuple[tf.Tensor, Any]:
        return layers.compiled(own.definition, compile_operator)[name].step(state, *tokens, **keywords)

    def value(self, own: Layer, name: str) -> tf.Tensor:
        # resume() runs outside Keras' __call__, which would convert to the layer's compute type
        return tf.cast(getattr(own, name), own.compute_dtype)

    def cast(self, x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        return tf.cast(x, like.dtype)

    def reshape_last(self, x: tf.Tensor, count: int, shape: Sequence[int]) -> tf.Tensor:
        return keras.ops.reshape(x, (*keras.ops.shape(x)[:-count], *shape))

    def constant(self, values: Sequence[float], like: tf.Tensor) -> tf.Tensor:
        wide = like.dtype.real_dtype if like.dtype.size >= tf.float32.size else tf.float32  # 0.999 is 1 in bfloat16
        return tf.constant(values, wide)

    def take(self, own: Layer, name: str, places: tf.Tensor) -> tf.Tensor:
        if places.dtype not in (tf.int32, tf.int64):  # what Keras probes with, as its own Embedding does
            places = tf.cast(places, tf.int32)
        return tf.gather(self.value(own, name), places)


_OPS = _Ops()


def _size(size: Any) -> Any:
    """A size as an int, or as the scalar that it is until a graph runs."""
    if not tf.is_tensor(size):
        return operator.index(size)
    known = tf.get_static_value(size)
    if known is None and size.dtype.is_integer and size.shape.rank == 0:
        return size
    return operator.index(known)


class Layer(layers.Adapter, keras.Layer):
    """Base of the layers: takes its definition's hyperparameters and Keras' own keywords.

    Parameters
    ----------
    *args, **hyperparameters
        As ``definition_type`` takes them.
    seed : int, optional
        Initial weights, the same in every framework; by default different every time.
    name : str, optional
        The layer's name.
    dtype : str or keras.DTypePolicy, optional
        Type, or policy for mixed precision; by default the global policy.
    trainable : bool
        Whether the weights are trained.
    """

    natives: ClassVar[dict[type[layers.Definition], type[Any]]] = {}
    keywords: ClassVar[dict[str, Any]] = {"name": None, "dtype": None, "trainable": True}

    def __init__(
        self,
        *args: Any,
        seed: int | layers.Seed | None = None,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        **hyperparameters: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        self.definition = self.definition_type(*args, **hyperparameters)
        self.supports_masking = True
        self.autocast = not self.definition.reads_integers  # tokens are not rounded, as in Keras' own Embedding
        start = layers.Seed.of(seed)
        self.seed = None if seed is None or start.path else start.entropy
        for own, parameter in self.definition.parameters().items():
            value = start.draw(own, parameter.shape, parameter.initialiser)
            variable = self.add_weight(shape=parameter.shape, initializer="zeros", name=own)
            variable.assign(value)
            setattr(self, own, variable)
        self.make_children(start, list, dtype=self.dtype_policy)
        self.built = True
        self._recorded = False

    def build(self, input_shape: Any) -> None:
        """Nothing: weights do not depend on the input, whose shape Keras records for summaries and exports."""

    @property
    def input_dtype(self) -> str:
        """The type that Keras gives the input, and an export expects."""
        return "int32" if self.definition.reads_integers else str(super().input_dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """The mask of the value: that of the input, where that has the same tokens."""
        return previous_mask if self.definition.keeps_tokens else None

    def call(
        self,
        x: tf.Tensor,
        padding_mask: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
        training: bool | None = None,
        *,
        cu_seqlens: Any = None,
    ) -> tf.Tensor:
        """The layer's value.

        Parameters
        ----------
        x : tf.Tensor
            The input.
        padding_mask : tf.Tensor, optional
            ``[..., n]``, true for a real token; by default Keras' own ``mask``.
        mask, training
            What Keras hands to a layer.
        cu_seqlens : sequence of int or tf.Tensor, optional
            ``[N + 1]``, where each of N sequences packed along the tokens' axis starts and the last ends; none reads
            another. In a graph it is a sequence: what is traced is traced for these lengths.

        Examples
        --------
        >>> layer = TensorAttention(embed_dim=8, num_heads=2, mask="causal", decay=0.9, seed=0)
        >>> x = tf.reshape(tf.linspace(-1.0, 1.0, 40), (5, 8))
        >>> y = layer(x, cu_seqlens=[0, 3, 5])
        >>> np.allclose(y[3:], layer(x[3:]), atol=1e-6)
        True
        """
        if not self._recorded and x.shape.rank is not None:  # Keras builds no layer that says it is built
            self._recorded = True
            self.build(tuple(x.shape))
        padding_mask = mask if padding_mask is None else padding_mask
        if isinstance(cu_seqlens, list | tuple):
            cu_seqlens = tf.stack(cu_seqlens)  # Keras makes a tensor of each number of NumPy in it
        return self.definition.forward(_OPS, self, x, **layers.given(padding_mask=padding_mask, cu_seqlens=cu_seqlens))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the layer's value, for wrappers of Keras that ask for it."""
        dtype = "int32" if self.definition.reads_integers else self.compute_dtype
        return keras.Operation.compute_output_spec(self, keras.KerasTensor(input_shape, dtype)).shape

    @tf.autograph.experimental.do_not_convert
    def resume(self, x: tf.Tensor, state: Any = None) -> tuple[tf.Tensor, Any]:
        """The value of tokens ``x[..., n, embed]`` that follow others, and the state after them.

        Parameters
        ----------
        x : tf.Tensor
            The next tokens alone.
        state
            From :meth:`init_state`, :meth:`step` or a call of this before; None starts anew.

        Raises
        ------
        ValueError
            If the layer needs the whole sequence at once (a mixer without ``mask="causal"``, or softmax).

        Examples
        --------
        >>> layer = TensorAttention(embed_dim=8, num_heads=2, mask="causal", decay=0.9, seed=0)
        >>> x = tf.reshape(tf.linspace(-1.0, 1.0, 40), (5, 8))
        >>> head, state = layer.resume(x[:3])
        >>> tail, state = layer.resume(x[3:], state)
        >>> np.allclose(tf.concat([head, tail], 0), layer(x), atol=1e-6)
        True
        """
        return self.definition.resume(_OPS, self, self._input(x), state)

    @tf.autograph.experimental.do_not_convert
    def init_state(self, batch: Any = ()) -> Any:
        """The state before any token, a pytree of tensors of float32 or wider.

        Parameters
        ----------
        batch : int or tuple of int or tf.TensorShape or tf.Tensor
            The axes before the tokens' axis, or an input that has them.  In a graph that does not know their sizes,
            an input or scalars of ``tf.shape``.

        Examples
        --------
        >>> layer = TensorAttention(embed_dim=8, num_heads=2, mask="causal", seed=0)
        >>> [tuple(tensor.shape) for tensor in layer.init_state(3)]
        [(3, 2, 4, 4), (3, 2), (3, 2, 4, 4)]
        """
        return self.resume(layers.no_tokens(self.definition, batch, self._zeros, keras.ops.shape, _size))[1]

    @tf.autograph.experimental.do_not_convert
    def step(self, x: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        """One more token: its value ``[..., embed]`` and the state after it, at a cost that does not grow.

        Parameters
        ----------
        x : tf.Tensor
            The token, without an axis of tokens.
        state
            From :meth:`init_state`, :meth:`resume` or a call of this before.

        Examples
        --------
        >>> layer = TensorAttention(embed_dim=8, num_heads=2, mask="causal", decay=0.9, seed=0)
        >>> x = tf.reshape(tf.linspace(-1.0, 1.0, 40), (5, 8))
        >>> state = layer.init_state()
        >>> for token in x:
        ...     y, state = layer.step(token, state)
        >>> np.allclose(y, layer(x)[-1], atol=1e-6)
        True
        """
        return self.definition.step(_OPS, self, self._input(x), state)

    def _input(self, x: tf.Tensor) -> tf.Tensor:
        """The input as a tensor of the type to compute in, as Keras converts what a layer is called with."""
        return tf.convert_to_tensor(x) if self.definition.reads_integers else tf.cast(x, self.compute_dtype)

    def _zeros(self, shape: tuple[Any, ...]) -> tf.Tensor:
        return tf.zeros(shape, tf.int32 if self.definition.reads_integers else self.compute_dtype)

    def _trackable_children(self, save_type: str = "checkpoint", **keywords: Any) -> dict[str, Any]:
        """What ``tf.train.Checkpoint`` saves: also the layers in lists, which it does not find in Keras' own lists."""
        found = super()._trackable_children(save_type, **keywords)
        listed = [
            name for name, child in self.definition.children().items() if not isinstance(child, layers.Definition)
        ]
        pairs = [(name, enumerate(getattr(self, name))) for name in listed]
        return {**found, **{f"{name}_{place}": layer for name, items in pairs for place, layer in items}}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.definition.config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class TensorAttention(Layer):
    """Multi-head Tensor Attention, ``x[..., n, embed_dim] -> y[..., n, embed_dim]``.

    Parameters
    ----------
    embed_dim, num_heads, head_dim, bias, scale, **knobs
        See :class:`dtn_core.layers.TensorAttention`.
    seed, name, dtype, trainable
        See :class:`Layer`.

    Examples
    --------
    >>> layer = TensorAttention(embed_dim=8, num_heads=2, seed=0)
    >>> x = tf.ones((3, 5, 8))
    >>> layer(x, padding_mask=tf.ones((3, 5), tf.bool)).shape
    TensorShape([3, 5, 8])
    """

    definition_type = layers.TensorAttention


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class TensorInteraction(Layer):
    """Multi-head Tensor Interaction, ``x[..., n, embed_dim] -> y[..., n, embed_dim]``.

    Parameters
    ----------
    embed_dim, num_heads, head_dim, bias, **knobs
        See :class:`dtn_core.layers.TensorInteraction`.
    seed, name, dtype, trainable
        See :class:`Layer`.

    Examples
    --------
    >>> TensorInteraction(embed_dim=8, num_heads=2, seed=0)(tf.ones((3, 5, 8))).shape
    TensorShape([3, 5, 8])
    """

    definition_type = layers.TensorInteraction


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class DeepTensorBlock(Layer):
    """Pre-norm residual block of token mixing, channel mixing and MLP, ``x[..., n, embed_dim] -> y`` alike.

    Parameters
    ----------
    embed_dim, num_heads, head_dim, mlp_ratio, mixer, bias, mask, decay, attention_knobs, interaction_knobs
        See :class:`dtn_core.layers.DeepTensorBlock`.
    seed, name, dtype, trainable
        See :class:`Layer`.

    Examples
    --------
    >>> block = DeepTensorBlock(embed_dim=8, num_heads=2, attention_knobs={"order": 3}, seed=0)
    >>> block(tf.ones((3, 5, 8))).shape
    TensorShape([3, 5, 8])
    >>> tuple(block.attention.query.weight.shape)
    (8, 2, 4)
    """

    definition_type = layers.DeepTensorBlock


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class DeepTensorClassifier(Layer, keras.Model):
    """Image classifier, ``images[batch, height, width, channels] -> logits[batch, num_classes]``.

    With one channel, ``images[batch, height, width]`` too.

    Parameters
    ----------
    image_size, patch_size, channels, num_classes, embed_dim, num_heads, depth, mlp_ratio, mixer, …
        See :class:`dtn_core.layers.DeepTensorClassifier`.
    seed, name, dtype, trainable
        See :class:`Layer`.

    Examples
    --------
    >>> model = DeepTensorClassifier(image_size=(8, 8), patch_size=2, num_classes=10, depth=1, seed=0)
    >>> model(tf.zeros((3, 8, 8))).shape
    TensorShape([3, 10])
    """

    definition_type = layers.DeepTensorClassifier


_COMPILED: weakref.WeakKeyDictionary[Layer, tuple[list[Any], dict[tuple[int, ...], Any]]] = weakref.WeakKeyDictionary()
"""The weights that graphs were traced with, and advance for each shape of tokens, by model."""


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class DeepTensorLM(layers.LanguageModel, Layer, keras.Model):
    """Language model, ``tokens[..., n]`` of integers ``-> logits[..., n, vocab_size]``, for any n.

    Parameters
    ----------
    vocab_size, embed_dim, num_heads, depth, mlp_ratio, mixer, decay, tie_embedding, …
        See :class:`dtn_core.layers.DeepTensorLM`; :meth:`generate` and :meth:`stream` there too.
    seed, name, dtype, trainable
        See :class:`Layer`.

    Examples
    --------
    >>> model = DeepTensorLM(vocab_size=256, embed_dim=8, num_heads=2, depth=1, seed=0)
    >>> model(tf.zeros((3, 5), tf.int32)).shape
    TensorShape([3, 5, 256])
    >>> model.generate(tf.zeros((3, 5), tf.int32), max_new_tokens=7, seed=0).shape
    TensorShape([3, 12])
    >>> tokens = model.stream(tf.zeros((1, 5), tf.int32), seed=0)
    >>> [next(tokens).item() for _ in range(3)]
    [5, 63, 113]
    """

    definition_type = layers.DeepTensorLM

    def advancer(self) -> layers.Advance:
        weights = self.weights
        traced, graphs = _COMPILED.get(self, ([], {}))
        if list(map(id, traced)) != list(map(id, weights)):  # layers may have been exchanged
            graphs = {}
            _COMPILED[self] = weights, graphs
        own = weakref.ref(self)

        def last(tokens: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
            logits, state = own().resume(tokens, state)
            return logits[..., -1, :], state

        def advance(tokens: layers.Tokens, state: Any) -> tuple[np.ndarray[Any, Any], Any]:
            given = tf.constant(tokens), state
            if (graph := graphs.get(tokens.shape)) is None:
                # not called as a function, which warns of the few lengths that a prompt is read in
                graph = graphs[tokens.shape] = tf.function(last, autograph=False).get_concrete_function(*given)
            logits, state = graph(*given)
            return logits.numpy(), state

        return advance

    def tokens_to_numpy(self, tokens: tf.Tensor) -> np.ndarray[Any, Any]:
        return np.asarray(tokens)

    def tokens_from_numpy(self, tokens: np.ndarray[Any, Any]) -> tf.Tensor:
        return tf.constant(tokens)


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class Embedding(Layer):
    """A vector for every token, see :class:`dtn_core.layers.Embedding`."""

    definition_type = layers.Embedding


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class SoftmaxAttention(Layer):
    """Softmax attention like :class:`TensorAttention`, see :class:`dtn_core.layers.SoftmaxAttention`."""

    definition_type = layers.SoftmaxAttention


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class Projection(Layer):
    """A linear map between named axes, see :class:`dtn_core.layers.Projection`."""

    definition_type = layers.Projection


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class LayerNorm(Layer):
    """Layer normalisation, see :class:`dtn_core.layers.LayerNorm`."""

    definition_type = layers.LayerNorm


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class MLP(Layer):
    """Two-layer perceptron with GELU, see :class:`dtn_core.layers.MLP`."""

    definition_type = layers.MLP


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class PatchEmbedding(Layer):
    """Images to tokens, see :class:`dtn_core.layers.PatchEmbedding`."""

    definition_type = layers.PatchEmbedding


@keras.saving.register_keras_serializable(package="dtn_tensorflow")
class MeanPool(Layer):
    """Mean over the real tokens, see :class:`dtn_core.layers.MeanPool`."""

    definition_type = layers.MeanPool
