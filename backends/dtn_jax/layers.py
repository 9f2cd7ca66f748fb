"""Layers for JAX: the definitions of ``dtn_core.layers`` as ``flax.nnx.Module``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from dtn_core import layers

from . import compile as compile_operator

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
    """What a definition's ``forward`` needs of JAX."""

    def call(self, own: Layer, name: str, *arrays: jax.Array, **keywords: Any) -> jax.Array:
        return layers.compiled(own.definition, compile_operator)[name](*arrays, **keywords)

    def step(self, own: Layer, name: str, state: Any, *tokens: jax.Array, **keywords: Any) -> tuple[jax.Array, Any]:
        return layers.compiled(own.definition, compile_operator)[name].step(state, *tokens, **keywords)

    def value(self, own: Layer, name: str) -> jax.Array:
        value = getattr(own, name)[...]
        return value if own.dtype is None else value.astype(own.dtype)

    def cast(self, x: jax.Array, like: jax.Array) -> jax.Array:
        return x.astype(like.dtype)

    def reshape_last(self, x: jax.Array, count: int, shape: Sequence[int]) -> jax.Array:
        leading = x.shape[:-count]
        return jax.lax.reshape(x, (*leading, *shape), out_sharding=_sharded_as(x, len(leading), len(shape)))

    def constant(self, values: Sequence[float], like: jax.Array) -> jax.Array:
        wide = jnp.promote_types(jnp.finfo(like.dtype).dtype, jnp.float32)  # 0.999 is 1 in bfloat16
        return jnp.asarray(values, wide)

    def take(self, own: Layer, name: str, places: jax.Array) -> jax.Array:
        if not jnp.issubdtype(places.dtype, jnp.integer):
            raise TypeError(f"{type(own).__name__}: tokens have dtype {places.dtype}, expected integers")
        value, sharding = self.value(own, name), _sharded_as(places, places.ndim, 1)
        if sharding is None:
            return jnp.take(value, places, axis=0)
        return value.at[places].get(mode="fill", out_sharding=sharding)


_OPS = _Ops()


def _sharded_as(x: jax.Array, leading: int, more: int) -> NamedSharding | None:
    """Sharding of a value with the first ``leading`` axes of ``x`` and ``more`` that are whole on every device.

    JAX asks for it where the axes of a mesh are explicit; None where ``x`` lies along none of them.
    """
    sharding = jax.typeof(x).sharding
    if not any(sharding.spec):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:leading], *[None] * more))


class Layer(layers.Adapter, nnx.Module):
    """Base of the layers: takes its definition's hyperparameters and Flax's own keywords.

    Parameters
    ----------
    *args, **hyperparameters
        As ``definition_type`` takes them.
    rngs : nnx.Rngs, optional
        Source of a seed when none is given, from its stream ``params``.
    dtype : dtype, optional
        Type to compute in; by default the promotion of input and parameters.
    param_dtype : dtype
        Type of the parameters.
    seed : int, optional
        Initial weights, the same in every framework; by default from ``rngs``, or different every time.

    Raises
    ------
    ValueError
        If both ``seed`` and ``rngs`` are given, if ``rngs`` holds no value yet (inside ``jit`` or ``eval_shape``, where
        ``seed`` works), or for a type that is neither floating nor complex.
    """

    natives: ClassVar[dict[type[layers.Definition], type[Any]]] = {}
    keywords: ClassVar[dict[str, Any]] = {"rngs": None, "dtype": None, "param_dtype": jnp.float32}

    def __init__(
        self,
        *args: Any,
        rngs: nnx.Rngs | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        seed: int | layers.Seed | None = None,
        **hyperparameters: Any,
    ) -> None:
        self.definition = self.definition_type(*args, **hyperparameters)
        self.dtype = _inexact("dtype", dtype)
        self.param_dtype = _inexact("param_dtype", param_dtype)
        start = layers.Seed.of(_seed(seed, rngs))
        for name, parameter in self.definition.parameters().items():
            value = start.draw(name, parameter.shape, parameter.initialiser)
            setattr(self, name, nnx.Param(jnp.asarray(value, param_dtype)))
        self.make_children(start, nnx.List, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: jax.Array, padding_mask: jax.Array | None = None, *, cu_seqlens: Any = None) -> jax.Array:
        """The layer's value.

        Parameters
        ----------
        x : jax.Array
            The input.
        padding_mask : jax.Array, optional
            ``[..., n]``, true for a real token.
        cu_seqlens : sequence of int or jax.Array, optional
            ``[N + 1]``, where each of N sequences packed along the tokens' axis starts and the last ends; none reads
            another. Inside ``jit`` it is a sequence: what is compiled is compiled for these lengths.

        Examples
        --------
        >>> layer = TensorAttention(embed_dim=8, num_heads=2, mask="causal", decay=0.9, seed=0)
        >>> x = jnp.linspace(-1, 1, 40).reshape(5, 8)
        >>> y = layer(x, cu_seqlens=[0, 3, 5])
        >>> bool(jnp.allclose(y[3:], layer(x[3:]), atol=1e-6))
        True
        """
        tokens = layers.given(padding_mask=padding_mask, cu_seqlens=cu_seqlens)
        return self.definition.forward(_OPS, self, self._input(x), **tokens)

    def resume(self, x: jax.Array, state: Any = None) -> tuple[jax.Array, Any]:
        """The value of tokens ``x[..., n, embed]`` that follow others, and the state after them.

        Parameters
        ----------
        x : jax.Array
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
        >>> x = jnp.linspace(-1, 1, 40).reshape(5, 8)
        >>> head, state = layer.resume(x[:3])
        >>> tail, state = layer.resume(x[3:], state)
        >>> bool(jnp.allclose(jnp.concatenate([head, tail]), layer(x), atol=1e-6))
        True
        """
        return self.definition.resume(_OPS, self, self._input(x), state)

    def init_state(self, batch: Any = ()) -> Any:
        """The state before any token, a pytree of tensors of float32 or wider.

        Parameters
        ----------
        batch : int or tuple of int or jax.Array
            The axes before the tokens' axis, or an input that has them.

        Examples
        --------
        >>> layer = TensorAttention(embed_dim=8, num_heads=2, mask="causal", seed=0)
        >>> [tuple(tensor.shape) for tensor in layer.init_state(3)]
        [(3, 2, 4, 4), (3, 2), (3, 2, 4, 4)]
        """
        tokens = layers.no_tokens(self.definition, batch, self._zeros)
        if isinstance(batch, jax.Array) and batch.ndim == tokens.ndim:  # zeros vary along the axes of a mesh as it does
            own = (-1,) if self.definition.reads_integers else (-2, -1)
            tokens += jnp.expand_dims(jnp.where(False, (batch == 0).any(own), False), own)
        return self.resume(tokens)[1]

    def step(self, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """One more token: its value ``[..., embed]`` and the state after it, at a cost that does not grow.

        Parameters
        ----------
        x : jax.Array
            The token, without an axis of tokens.
        state
            From :meth:`init_state`, :meth:`resume` or a call of this before.

        Examples
        --------
        >>> layer = TensorAttention(embed_dim=8, num_heads=2, mask="causal", decay=0.9, seed=0)
        >>> x = jnp.linspace(-1, 1, 40).reshape(5, 8)
        >>> state = layer.init_state()
        >>> for token in x:
        ...     y, state = layer.step(token, state)
        >>> bool(jnp.allclose(y, layer(x)[-1], atol=1e-6))
        True
        """
        return self.definition.step(_OPS, self, self._input(x), state)

    def _input(self, x: jax.Array) -> jax.Array:
        """The input as an array of the type to compute in."""
        return jnp.asarray(x, None if self.definition.reads_integers else self.dtype)

    def _zeros(self, shape: tuple[int, ...]) -> jax.Array:
        return jnp.zeros(shape, jnp.int32 if self.definition.reads_integers else self.dtype or self.param_dtype)


def _inexact(argument: str, dtype: Any) -> Any:
    """A type to compute in, as it was given."""
    try:
        inexact = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.inexact)
    except TypeError:  # the name of no type
        inexact = False
    if not inexact:
        raise ValueError(f"{argument}: got {dtype!r}, expected a floating or complex type")
    return dtype


def _seed(seed: int | layers.Seed | None, rngs: nnx.Rngs | None) -> int | layers.Seed | None:
    if rngs is None:
        return seed
    if seed is not None:
        raise ValueError("seed and rngs: got both, expected one of them")
    bits = jax.random.bits(rngs.params())
    if isinstance(bits, jax.core.Tracer):
        raise ValueError(
            "rngs: got one without a value yet (inside jit, vmap or eval_shape), expected seed= there; for layers to "
            "scan over, make them one by one and stack their states with jax.tree.map"
        )
    return int(bits)


class TensorAttention(Layer):
    """Multi-head Tensor Attention, ``x[..., n, embed_dim] -> y[..., n, embed_dim]``.

    Parameters
    ----------
    embed_dim, num_heads, head_dim, bias, scale, **knobs
        See :class:`dtn_core.layers.TensorAttention`.
    rngs, dtype, param_dtype, seed
        See :class:`Layer`.

    Examples
    --------
    >>> layer = TensorAttention(embed_dim=8, num_heads=2, rngs=nnx.Rngs(0))
    >>> x = jnp.ones((3, 5, 8))
    >>> layer(x, padding_mask=jnp.ones((3, 5), bool)).shape
    (3, 5, 8)
    """

    definition_type = layers.TensorAttention


class TensorInteraction(Layer):
    """Multi-head Tensor Interaction, ``x[..., n, embed_dim] -> y[..., n, embed_dim]``.

    Parameters
    ----------
    embed_dim, num_heads, head_dim, bias, **knobs
        See :class:`dtn_core.layers.TensorInteraction`.
    rngs, dtype, param_dtype, seed
        See :class:`Layer`.

    Examples
    --------
    >>> TensorInteraction(embed_dim=8, num_heads=2, seed=0)(jnp.ones((3, 5, 8))).shape
    (3, 5, 8)
    """

    definition_type = layers.TensorInteraction


class DeepTensorBlock(Layer):
    """Pre-norm residual block of token mixing, channel mixing and MLP, ``x[..., n, embed_dim] -> y`` alike.

    Parameters
    ----------
    embed_dim, num_heads, head_dim, mlp_ratio, mixer, bias, mask, decay, attention_knobs, interaction_knobs
        See :class:`dtn_core.layers.DeepTensorBlock`.
    rngs, dtype, param_dtype, seed
        See :class:`Layer`.

    Examples
    --------
    >>> block = DeepTensorBlock(embed_dim=8, num_heads=2, attention_knobs={"order": 3}, seed=0)
    >>> block(jnp.ones((3, 5, 8))).shape
    (3, 5, 8)
    >>> block.attention.query.weight.shape
    (8, 2, 4)
    """

    definition_type = layers.DeepTensorBlock


class DeepTensorClassifier(Layer):
    """Image classifier, ``images[batch, height, width, channels] -> logits[batch, num_classes]``.

    With one channel, ``images[batch, height, width]`` too.

    Parameters
    ----------
    image_size, patch_size, channels, num_classes, embed_dim, num_heads, depth, mlp_ratio, mixer, …
        See :class:`dtn_core.layers.DeepTensorClassifier`.
    rngs, dtype, param_dtype, seed
        See :class:`Layer`.

    Examples
    --------
    >>> model = DeepTensorClassifier(image_size=(8, 8), patch_size=2, num_classes=10, depth=1, seed=0)
    >>> model(jnp.zeros((3, 8, 8))).shape
    (3, 10)
    """

    definition_type = layers.DeepTensorClassifier


class DeepTensorLM(layers.LanguageModel, Layer):
    """Language model, ``tokens[..., n]`` of integers ``-> logits[..., n, vocab_size]``, for any n.

    Parameters
    ----------
    vocab_size, embed_dim, num_heads, depth, mlp_ratio, mixer, decay, tie_embedding, …
        See :class:`dtn_core.layers.DeepTensorLM`; :meth:`generate` and :meth:`stream` there too.
    rngs, dtype, param_dtype, seed
        See :class:`Layer`.

    Examples
    --------
    >>> model = DeepTensorLM(vocab_size=256, embed_dim=8, num_heads=2, depth=1, seed=0)
    >>> model(jnp.zeros((3, 5), int)).shape
    (3, 5, 256)
    >>> model.generate(jnp.zeros((3, 5), int), max_new_tokens=7, seed=0).shape
    (3, 12)
    >>> tokens = model.stream(jnp.zeros((1, 5), int), seed=0)
    >>> [next(tokens).item() for _ in range(3)]
    [5, 63, 113]
    """

    definition_type = layers.DeepTensorLM

    def advancer(self) -> layers.Advance:
        graph, parameters = nnx.split(self)

        def advance(tokens: layers.Tokens, state: Any) -> tuple[np.ndarray[Any, Any], Any]:
            logits, state = _advance(graph, parameters, tokens, state)
            return np.asarray(logits), state

        return advance

    def tokens_to_numpy(self, tokens: jax.Array) -> np.ndarray[Any, Any]:
        return np.asarray(tokens)

    def tokens_from_numpy(self, tokens: np.ndarray[Any, Any]) -> jax.Array:
        return jnp.asarray(tokens)


@partial(jax.jit, static_argnums=0)
def _advance(graph: Any, parameters: nnx.State, tokens: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    logits, state = nnx.merge(graph, parameters).resume(tokens, state)
    return logits[..., -1, :], state


class Embedding(Layer):
    """A vector for every token, see :class:`dtn_core.layers.Embedding`."""

    definition_type = layers.Embedding


class SoftmaxAttention(Layer):
    """Softmax attention like :class:`TensorAttention`, see :class:`dtn_core.layers.SoftmaxAttention`."""

    definition_type = layers.SoftmaxAttention


class Projection(Layer):
    """A linear map between named axes, see :class:`dtn_core.layers.Projection`."""

    definition_type = layers.Projection


class LayerNorm(Layer):
    """Layer normalisation, see :class:`dtn_core.layers.LayerNorm`."""

    definition_type = layers.LayerNorm


class MLP(Layer):
    """Two-layer perceptron with GELU, see :class:`dtn_core.layers.MLP`."""

    definition_type = layers.MLP


class PatchEmbedding(Layer):
    """Images to tokens, see :class:`dtn_core.layers.PatchEmbedding`."""

    definition_type = layers.PatchEmbedding


class MeanPool(Layer):
    """Mean over the real tokens, see :class:`dtn_core.layers.MeanPool`."""

    definition_type = layers.MeanPool
