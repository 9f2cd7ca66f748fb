"""A layer's value from the dense interpreter: the reference that every framework's layer is held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..interpret import interpret
from ..operators import as_operator
from .definition import Definition, Ops
from .initialise import Seed


def initial_weights(definition: Definition, seed: int | None = None) -> dict[str, NDArray[np.float32]]:
    """The weights that every framework starts from, by path.

    Examples
    --------
    >>> from dtn_core.layers import LayerNorm
    >>> initial_weights(LayerNorm(2), seed=0)
    {'weight': array([1., 1.], dtype=float32), 'bias': array([0., 0.], dtype=float32)}
    """
    root = Seed.of(seed)
    return {path: root.draw(path, p.shape, p.initialiser) for path, p in definition.named_parameters()}


def evaluate(
    definition: Definition,
    weights: Mapping[str, ArrayLike],
    x: ArrayLike,
    padding_mask: ArrayLike | None = None,
) -> NDArray[Any]:
    """The layer's value in float64, every operator taken literally.

    Parameters
    ----------
    definition : Definition
        The layer.
    weights : Mapping[str, array_like]
        Its parameters by path.
    x : array_like
        Input; integers for a layer of tokens.
    padding_mask : array_like, optional
        ``[..., n]``, true for a real token.

    Examples
    --------
    >>> from dtn_core.layers import MeanPool
    >>> evaluate(MeanPool(), {}, [[1.0, 2.0], [3.0, 4.0]], padding_mask=[True, False])
    array([1., 2.])
    """
    tokens = {} if padding_mask is None else {"padding_mask": np.asarray(padding_mask, dtype=bool)}
    given = np.asarray(x) if definition.reads_integers else np.asarray(x, dtype=np.float64)
    value = _Layer(definition, weights, "")(given, **tokens)
    return np.asarray(value)


class _Layer:
    """A definition with its weights, callable."""

    def __init__(self, definition: Definition, weights: Mapping[str, ArrayLike], prefix: str) -> None:
        self.definition = definition
        self.weights = {name: np.asarray(weights[prefix + name], np.float64) for name in definition.parameters()}
        for name, child in definition.children().items():
            if isinstance(child, Definition):
                setattr(self, name, _Layer(child, weights, f"{prefix}{name}."))
            else:
                setattr(self, name, [_Layer(c, weights, f"{prefix}{name}.{i}.") for i, c in enumerate(child)])

    def __call__(self, x: Any, **tokens: Any) -> Any:
        return self.definition.forward(_OPS, self, x, **tokens)


class _DenseOps:
    def call(self, own: _Layer, name: str, *arrays: Any, padding_mask: Any = None, **scalars: Any) -> Any:
        call = own.definition.calls()[name]
        operator = as_operator(call.source)
        swap = call.layout == "... n h d"
        if swap:
            arrays = tuple(np.swapaxes(array, -3, -2) for array in arrays)
        if padding_mask is not None:  # a padded token is a token of zeros
            arrays = tuple(np.where(padding_mask[..., None], array, 0.0) for array in arrays)
        value = interpret(operator.program, *arrays, **{**operator.scalars, **scalars})
        return np.swapaxes(value, -3, -2) if swap else value

    def step(self, own: _Layer, name: str, state: Any, *tokens: Any, **scalars: Any) -> tuple[Any, Any]:
        raise NotImplementedError("the dense interpreter has no states")

    def value(self, own: _Layer, name: str) -> Any:
        return own.weights[name]

    def cast(self, x: Any, like: Any) -> Any:
        return x.astype(like.dtype)

    def reshape_last(self, x: Any, count: int, shape: Sequence[int]) -> Any:
        return x.reshape(*x.shape[: x.ndim - count], *shape)

    def constant(self, values: Sequence[float], like: Any) -> Any:
        return np.asarray(values, np.float64)

    def take(self, own: _Layer, name: str, places: Any) -> Any:
        return own.weights[name][places]


_OPS: Ops = _DenseOps()
