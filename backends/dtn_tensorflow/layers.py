"""Layers for TensorFlow: the definitions of ``dtn_core.layers`` as ``keras.Layer`` and ``keras.Model``."""

from __future__ import annotations

import os
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

import tensorflow as tf  # noqa: E402

from dtn_core import layers  # noqa: E402

from . import compile as compile_operator  # noqa: E402

__all__ = [
    "MLP",
    "DeepTensorBlock",
    "DeepTensorClassifier",
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

    def value(self, own: Layer, name: str) -> tf.Tensor:
        return keras.ops.convert_to_tensor(getattr(own, name))  # in the layer's compute type

    def cast(self, x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        return tf.cast(x, like.dtype)

    def reshape_last(self, x: tf.Tensor, count: int, shape: Sequence[int]) -> tf.Tensor:
        return keras.ops.reshape(x, (*keras.ops.shape(x)[:-count], *shape))


_OPS = _Ops()


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
        self.supports_masking = self.definition.keeps_tokens
        start = layers.Seed.of(seed)
        self.seed = None if seed is None or start.path else start.entropy
        for own, parameter in self.definition.parameters().items():
            value = start.draw(own, parameter.shape, parameter.initialiser)
            variable = self.add_weight(shape=parameter.shape, initializer="zeros", name=own)
            variable.assign(value)
            setattr(self, own, variable)
        self.make_children(start, list, dtype=self.dtype_policy)
        self.built = True

    def call(
        self,
        x: tf.Tensor,
        padding_mask: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        """The layer's value; ``padding_mask[..., n]`` is true for a real token, by default Keras' own mask."""
        return self.definition.forward(_OPS, self, x, mask if padding_mask is None else padding_mask)

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
