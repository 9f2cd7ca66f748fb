"""Weights of PyTorch layers to and from one safetensors file."""

from __future__ import annotations

import os
from typing import Any

import ml_dtypes
import numpy as np
import torch

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
    >>> import dtn_torch
    >>> dtn_torch.save_weights(dtn_torch.TensorAttention(8), "attention.safetensors")   # doctest: +SKIP
    """
    weights.save(model, path, _to_numpy, _own(model))


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
    ValueError
        If the model is on the meta device.
    """
    weights.load(model, path, lambda parameter: str(parameter.dtype).removeprefix("torch."), _assign, _own(model))


def _own(model: Any) -> dict[str, torch.Tensor]:
    """The parameters of a module; those that a parametrization computes another from are in that other."""
    named = model.named_parameters() if isinstance(model, torch.nn.Module) else ()
    return {name: parameter for name, parameter in named if ".parametrizations." not in f".{name}"}


def _to_numpy(parameter: torch.Tensor) -> np.ndarray[Any, Any]:
    value = parameter.detach().cpu().contiguous()
    if value.dtype is torch.bfloat16:  # no NumPy type of PyTorch's knowledge: its bits
        return value.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()


@torch.no_grad()
def _assign(parameter: torch.Tensor, array: np.ndarray[Any, Any]) -> None:
    if parameter.is_meta:
        raise ValueError("model is on the meta device, which holds no values; model.to_empty(device='cpu') first")
    if array.dtype == ml_dtypes.bfloat16:
        parameter.copy_(torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16))
    else:
        parameter.copy_(torch.from_numpy(array))
