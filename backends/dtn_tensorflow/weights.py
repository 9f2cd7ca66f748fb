"""Weights of Keras layers to and from one safetensors file."""

from __future__ import annotations

import os
from typing import Any

import keras

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
    >>> import dtn_tensorflow
    >>> dtn_tensorflow.save_weights(dtn_tensorflow.TensorAttention(8), "a.safetensors")   # doctest: +SKIP
    """
    weights.save(model, path, keras.ops.convert_to_numpy, _own(model))


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
    weights.load(
        model, path, lambda variable: variable.dtype, lambda variable, array: variable.assign(array), _own(model)
    )


def _own(model: Any) -> dict[str, keras.Variable]:
    return {variable.path: variable for variable in model.weights} if isinstance(model, keras.Layer) else {}
