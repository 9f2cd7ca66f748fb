"""Layers for PyTorch: the definitions of ``dtn_core.layers`` as ``torch.nn.Module``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

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


_WIDE = {torch.float64: torch.float64, torch.complex128: torch.float64}
_CONSTANTS: dict[tuple[tuple[float, ...], torch.dtype, torch.device], torch.Tensor] = {}
"""What layers were given as numbers, as tensors."""


class _Ops:
    """What a definition's ``forward`` needs of PyTorch."""

    def call(self, own: Layer, name: str, *arrays: torch.Tensor, **keywords: Any) -> torch.Tensor:
        return own._compiled[name](*arrays, **keywords)

    def step(
        self, own: Layer, name: str, state: Any, *tokens: torch.Tensor, **keywords: Any
    ) -> tuple[torch.Tensor, Any]:
        return own._compiled[name].step(state, *tokens, **keywords)

    def value(self, own: Layer, name: str) -> torch.Tensor:
        found = own._parameters.get(name)  # what torch.nn.Module looks it up in, without a call
        return getattr(own, name) if found is None else found

    def cast(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return x.to(like.dtype)

    def reshape_last(self, x: torch.Tensor, count: int, shape: Sequence[int]) -> torch.Tensor:
        return x.reshape(*x.shape[:-count], *shape)

    def constant(self, values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
        key = tuple(values), like.dtype, like.device
        # a mode, as for fake tensors, has tensors of its own
        plain = not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack() == 0
        found = _CONSTANTS.get(key) if plain else None
        if found is None:
            with torch.inference_mode(False):  # a gradient may be taken with it later
                wide = _WIDE.get(like.dtype, torch.float32)  # 0.999 is 1 in bfloat16
                found = torch.tensor(values, dtype=wide, device=like.device)
            if plain and torch._C._functorch.peek_interpreter_stack() is None and type(found) is torch.Tensor:
                _CONSTANTS[key] = found
        return found

    def take(self, own: Layer, name: str, places: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(places, getattr(own, name))


_OPS = _Ops()


class Layer(layers.Adapter, torch.nn.Module):
    """Base of the layers: takes its definition's hyperparameters and PyTorch's own keywords.

    Parameters
    ----------
    *args, **hyperparameters
        As ``definition_type`` takes them.
    seed : int, optional
        Initial weights, the same in every framework; by default different every time.
    device : torch.device, optional
        Where the parameters live.
    dtype : torch.dtype, optional
        Type of the parameters; by default ``torch.get_default_dtype()``.
    """

    natives: ClassVar[dict[type[layers.Definition], type[Any]]] = {}
    keywords: ClassVar[dict[str, Any]] = {"device": None, "dtype": None}

    def __init__(
        self,
        *args: Any,
        seed: int | layers.Seed | None = None,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        **hyperparameters: Any,
    ) -> None:
        super().__init__()
        self.definition = self.definition_type(*args, **hyperparameters)
        self._compiled = layers.compiled(self.definition, compile_operator)
        self._seed = layers.Seed.of(seed)
        for name, parameter in self.definition.parameters().items():
            value = torch.empty(parameter.shape, device=device, dtype=dtype)
            self.register_parameter(name, torch.nn.Parameter(value))
        self.reset_parameters()
        self.make_children(self._seed, torch.nn.ModuleList, device=device, dtype=dtype)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Give the layer's own parameters their initial values again, without its children's."""
        for name, parameter in self.definition.parameters().items():
            value = self._seed.draw(name, parameter.shape, parameter.initialiser)
            getattr(self, name).copy_(torch.from_numpy(value))

    def forward(
        self, x: torch.Tensor, padding_mask: torch.Tensor | None = None, *, cu_seqlens: Any = None
    ) -> torch.Tensor:
        """The layer's value.

        Parameters
        ----------
        x : torch.Tensor
            The input.
        padding_mask : torch.Tensor, optional
            ``[..., n]``, true for a real token.
        cu_seqlens : sequence of int or torch.Tensor, optional
            ``[N + 1]``, where each of N sequences packed along the tokens' axis starts and the last ends; none reads
            another. Under ``torch.compile`` a tensor may change from call to call.

        Examples
        --------
        >>> layer = TensorAttention(embed_dim=8, num_heads=2, mask="causal", decay=0.9, seed=0)
        >>> x = torch.linspace(-1, 1, 40).reshape(5, 8)
        >>> y = layer(x, cu_seqlens=[0, 3, 5])
        >>> torch.allclose(y[3:], layer(x[3:]), atol=1e-6)
        True
        """
        return self.definition.forward(_OPS, self, x, **layers.given(padding_mask=padding_mask, cu_seqlens=cu_seqlens))

    def resume(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        """The value of tokens ``x[..., n, embed]`` that follow others, and the state after them.

        Parameters
        ----------
        x : torch.Tensor
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
        >>> x = torch.linspace(-1, 1, 40).reshape(5, 8)
        >>> head, state = layer.resume(x[:3])
        >>> tail, state = layer.resume(x[3:], state)
        >>> torch.allclose(torch.cat([head, tail]), layer(x), atol=1e-6)
        True
        """
        return self.definition.resume(_OPS, self, x, state)

    @torch.no_grad()
    def init_state(self, batch: Any = ()) -> Any:
        """The state before any token, a pytree of tensors of float32 or wider.

        Parameters
        ----------
        batch : int or tuple of int or torch.Tensor
            The axes before the tokens' axis, or an input that has them.

        Examples
        --------
        >>> layer = TensorAttention(embed_dim=8, num_heads=2, mask="causal", seed=0)
        >>> [tuple(tensor.shape) for tensor in layer.init_state(3)]
        [(3, 2, 4, 4), (3, 2), (3, 2, 4, 4)]
        """
        return self.resume(layers.no_tokens(self.definition, batch, self._zeros))[1]

    def step(self, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """One more token: its value ``[..., embed]`` and the state after it, at a cost that does not grow.

        Parameters
        ----------
        x : torch.Tensor
            The token, without an axis of tokens.
        state
            From :meth:`init_state`, :meth:`resume` or a call of this before.

        Examples
        --------
        >>> layer = TensorAttention(embed_dim=8, num_heads=2, mask="causal", decay=0.9, seed=0)
        >>> x = torch.linspace(-1, 1, 40).reshape(5, 8)
        >>> state = layer.init_state()
        >>> for token in x:
        ...     y, state = layer.step(token, state)
        >>> torch.allclose(y, layer(x)[-1], atol=1e-6)
        True
        """
        return self.definition.step(_OPS, self, x, state)

    def _zeros(self, shape: tuple[int, ...]) -> torch.Tensor:
        first = next(self.parameters())
        return torch.zeros(
            shape, dtype=torch.int64 if self.definition.reads_integers else first.dtype, device=first.device
        )

    def extra_repr(self) -> str:
        return repr(self.definition).partition("(")[2].removesuffix(")")

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())  # what PyTorch leaves out is left out
        del state["_compiled"]  # generated code is not pickled or copied, it is compiled again
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._compiled = layers.compiled(self.definition, compile_operator)


class TensorAttention(Layer):
    """Multi-head Tensor Attention, ``x[..., n, embed_dim] -> y[..., n, embed_dim]``.

    Parameters
    ----------
    embed_dim, num_heads, head_dim, bias, scale, **knobs
        See :class:`dtn_core.layers.TensorAttention`.
    seed, device, dtype
        See :class:`Layer`.

    Examples
    --------
    >>> layer = TensorAttention(embed_dim=8, num_heads=2, seed=0)
    >>> x = torch.ones(3, 5, 8)
    >>> layer(x, padding_mask=torch.ones(3, 5, dtype=torch.bool)).shape
    torch.Size([3, 5, 8])
    """

    definition_type = layers.TensorAttention


class TensorInteraction(Layer):
    """Multi-head Tensor Interaction, ``x[..., n, embed_dim] -> y[..., n, embed_dim]``.

    Parameters
    ----------
    embed_dim, num_heads, head_dim, bias, **knobs
        See :class:`dtn_core.layers.TensorInteraction`.
    seed, device, dtype
        See :class:`Layer`.

    Examples
    --------
    >>> TensorInteraction(embed_dim=8, num_heads=2, seed=0)(torch.ones(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    definition_type = layers.TensorInteraction


class DeepTensorBlock(Layer):
    """Pre-norm residual block of token mixing, channel mixing and MLP, ``x[..., n, embed_dim] -> y`` alike.

    Parameters
    ----------
    embed_dim, num_heads, head_dim, mlp_ratio, mixer, bias, mask, decay, attention_knobs, interaction_knobs
        See :class:`dtn_core.layers.DeepTensorBlock`.
    seed, device, dtype
        See :class:`Layer`.

    Examples
    --------
    >>> block = DeepTensorBlock(embed_dim=8, num_heads=2, attention_knobs={"order": 3}, seed=0)
    >>> block(torch.ones(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    >>> block.attention.query.weight.shape
    torch.Size([8, 2, 4])
    """

    definition_type = layers.DeepTensorBlock


class DeepTensorClassifier(Layer):
    """Image classifier, ``images[batch, height, width, channels] -> logits[batch, num_classes]``.

    With one channel, ``images[batch, height, width]`` too.

    Parameters
    ----------
    image_size, patch_size, channels, num_classes, embed_dim, num_heads, depth, mlp_ratio, mixer, …
        See :class:`dtn_core.layers.DeepTensorClassifier`.
    seed, device, dtype
        See :class:`Layer`.

    Examples
    --------
    >>> model = DeepTensorClassifier(image_size=(8, 8), patch_size=2, num_classes=10, depth=1, seed=0)
    >>> model(torch.zeros(3, 8, 8)).shape
    torch.Size([3, 10])
    """

    definition_type = layers.DeepTensorClassifier


class DeepTensorLM(layers.LanguageModel, Layer):
    """Language model, ``tokens[..., n]`` of integers ``-> logits[..., n, vocab_size]``, for any n.

    Parameters
    ----------
    vocab_size, embed_dim, num_heads, depth, mlp_ratio, mixer, decay, tie_embedding, …
        See :class:`dtn_core.layers.DeepTensorLM`; :meth:`generate` and :meth:`stream` there too.
    seed, device, dtype
        See :class:`Layer`.

    Examples
    --------
    >>> model = DeepTensorLM(vocab_size=256, embed_dim=8, num_heads=2, depth=1, seed=0)
    >>> model(torch.zeros(3, 5, dtype=torch.int64)).shape
    torch.Size([3, 5, 256])
    >>> model.generate(torch.zeros(3, 5, dtype=torch.int64), max_new_tokens=7, seed=0).shape
    torch.Size([3, 12])
    >>> tokens = model.stream(torch.zeros(1, 5, dtype=torch.int64), seed=0)
    >>> [next(tokens).item() for _ in range(3)]
    [5, 63, 113]
    """

    definition_type = layers.DeepTensorLM

    def advancer(self) -> layers.Advance:
        return self._advance

    @torch.no_grad()
    def _advance(self, tokens: layers.Tokens, state: Any) -> tuple[np.ndarray[Any, Any], Any]:
        logits, state = self.resume(torch.from_numpy(tokens).to(self.embedding.weight.device), state)
        return logits[..., -1, :].double().cpu().numpy(), state

    def tokens_to_numpy(self, tokens: torch.Tensor) -> np.ndarray[Any, Any]:
        return tokens.cpu().numpy() if isinstance(tokens, torch.Tensor) else np.asarray(tokens)

    def tokens_from_numpy(self, tokens: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(tokens).to(self.embedding.weight.device)


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
    """Layer normalisation, see :class:`dtn_core.layers.LayerNorm`.

    PyTorch's own, one kernel each way instead of a dozen, where input and parameters are of one real type.
    """

    definition_type = layers.LayerNorm

    def forward(self, x: torch.Tensor, padding_mask: torch.Tensor | None = None, **tokens: Any) -> torch.Tensor:
        weight, bias = _OPS.value(self, "weight"), _OPS.value(self, "bias")
        fitting = x.shape[-1:] == weight.shape and x.is_floating_point()
        if not fitting or not x.dtype == weight.dtype == bias.dtype:
            return super().forward(x, padding_mask, **tokens)
        return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, self.definition.eps).to(x.dtype)


class MLP(Layer):
    """Two-layer perceptron with GELU, see :class:`dtn_core.layers.MLP`."""

    definition_type = layers.MLP


class PatchEmbedding(Layer):
    """Images to tokens, see :class:`dtn_core.layers.PatchEmbedding`."""

    definition_type = layers.PatchEmbedding


class MeanPool(Layer):
    """Mean over the real tokens, see :class:`dtn_core.layers.MeanPool`."""

    definition_type = layers.MeanPool
