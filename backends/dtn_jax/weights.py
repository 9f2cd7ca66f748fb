"""Weights of Flax NNX layers to and from one safetensors file."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from flax import nnx

from dtn_core import weights

from .layers import Layer


def save_weights(model: Layer, path: str | os.PathLike[str]) -> None:
    """Write the weights of ``model`` to a safetensors file that every framework's ``load_weights`` reads.

    Parameters
    ----------
    model : Layer
        A layer of this package, on any device.
    path : path-like
        The file; it is replaced in one step.

    Examples
    --------
    >>> import dtn_jax
    >>> dtn_jax.save_weights(dtn_jax.TensorAttention(8), "attention.safetensors")   # doctest: +SKIP
    """
    weights.save(model, path, lambda parameter: np.asarray(parameter[...]), _own(model))


def load_weights(model: Layer, path: str | os.PathLike[str]) -> None:
    """Read weights, saved from a layer with the same hyperparameters in any framework, into ``model``.

    Parameters
    ----------
    model : Layer
        Changed in place; left as it was if the file does not fit. Its types stay, the weights are rounded to them.
    path : path-like
        The file.

    Raises
    ------
    dtn_core.weights.WeightsError
        Names the tensors that do not fit, with the shapes in the file and in the model; complex weights do not fit
        real ones.
    """
    weights.load(model, path, lambda parameter: parameter.dtype.name, _assign, _own(model))


def _own(model: Any) -> dict[str, nnx.Param[Any]]:
    nodes = nnx.iter_graph(model) if isinstance(model, nnx.Module) else ()
    return {".".join(map(str, path)): node for path, node in nodes if isinstance(node, nnx.Param)}


def _assign(parameter: nnx.Param[Any], array: np.ndarray[Any, Any]) -> None:
    with jax.enable_x64(True):  # else float64 would be cut to float32
        # an abstract model's parameters, of nnx.eval_shape, may say no place
        parameter.set_value(jax.device_put(array, parameter.get_value().sharding))
