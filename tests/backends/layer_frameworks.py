"""What the layer suite needs of each framework, so that one suite tests them all."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import numpy as np
import pytest

from dtn_core.layers import parameter_of


class Framework:
    """Makes layers of one framework, and calls them with NumPy arrays."""

    name: str
    package: str

    def __init__(self) -> None:
        self.dtn = importlib.import_module(self.package)

    def make(self, layer: str, *, dtype: str = "float32", seed: int = 0, **hyperparameters: Any) -> Any:
        """A layer whose parameters and computation have type ``dtype``."""
        raise NotImplementedError

    def call(self, layer: Any, x: np.ndarray, padding_mask: np.ndarray | None = None) -> np.ndarray:
        """The layer's value."""
        raise NotImplementedError

    def gradients(self, layer: Any, x: np.ndarray) -> dict[str, np.ndarray]:
        """Gradient of the sum of the layer's squared values, by path."""
        raise NotImplementedError

    def to_numpy(self, parameter: Any) -> np.ndarray:
        """A native parameter."""
        raise NotImplementedError

    def weights(self, layer: Any) -> dict[str, np.ndarray]:
        """All parameters by path."""
        paths = [path for path, _ in layer.definition.named_parameters()]
        return {path: self.to_numpy(parameter_of(layer, path)) for path in paths}


class Torch(Framework):
    name, package = "torch", "dtn_torch"

    def make(self, layer: str, *, dtype: str = "float32", seed: int = 0, **hyperparameters: Any) -> Any:
        import torch

        return getattr(self.dtn, layer)(**hyperparameters, seed=seed, dtype=getattr(torch, dtype))

    def call(self, layer: Any, x: np.ndarray, padding_mask: np.ndarray | None = None) -> np.ndarray:
        import torch

        mask = None if padding_mask is None else torch.from_numpy(padding_mask)
        return layer(torch.from_numpy(x), padding_mask=mask).detach().numpy()

    def gradients(self, layer: Any, x: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        layer.zero_grad()
        layer(torch.from_numpy(x)).square().sum().backward()
        return {name: parameter.grad.numpy() for name, parameter in layer.named_parameters()}

    def to_numpy(self, parameter: Any) -> np.ndarray:
        return parameter.detach().numpy()


class Jax(Framework):
    name, package = "jax", "dtn_jax"

    def make(self, layer: str, *, dtype: str = "float32", seed: int = 0, **hyperparameters: Any) -> Any:
        import jax

        with jax.enable_x64(dtype == "float64"):
            return getattr(self.dtn, layer)(**hyperparameters, seed=seed, dtype=dtype, param_dtype=dtype)

    def call(self, layer: Any, x: np.ndarray, padding_mask: np.ndarray | None = None) -> np.ndarray:
        import jax
        from flax import nnx

        with jax.enable_x64(layer.dtype == "float64"):
            return np.asarray(nnx.jit(lambda own, *given: own(*given))(layer, x, padding_mask))

    def gradients(self, layer: Any, x: np.ndarray) -> dict[str, np.ndarray]:
        import jax
        from flax import nnx

        with jax.enable_x64(layer.dtype == "float64"):
            found = nnx.jit(nnx.grad(lambda own, x: (own(x) ** 2).sum()))(layer, x)
        paths = [path for path, _ in layer.definition.named_parameters()]
        flat = {".".join(map(str, path)): value for path, value in nnx.to_flat_state(found)}
        return {path: np.asarray(flat[path][...]) for path in paths}

    def to_numpy(self, parameter: Any) -> np.ndarray:
        return np.asarray(parameter[...])


class TensorFlow(Framework):
    name, package = "tensorflow", "dtn_tensorflow"

    def make(self, layer: str, *, dtype: str = "float32", seed: int = 0, **hyperparameters: Any) -> Any:
        return getattr(self.dtn, layer)(**hyperparameters, seed=seed, dtype=dtype)

    def call(self, layer: Any, x: np.ndarray, padding_mask: np.ndarray | None = None) -> np.ndarray:
        return layer(x, padding_mask=padding_mask).numpy()

    def gradients(self, layer: Any, x: np.ndarray) -> dict[str, np.ndarray]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x) ** 2)
        paths = [path for path, _ in layer.definition.named_parameters()]
        found = tape.gradient(loss, [parameter_of(layer, path).value for path in paths])
        return {path: gradient.numpy() for path, gradient in zip(paths, found, strict=True)}

    def to_numpy(self, parameter: Any) -> np.ndarray:
        return parameter.numpy()


def chosen() -> type[Framework] | None:
    """The framework of ``DTN_BACKEND``, by default the first that is installed; one only, as a process holds one."""
    for kind, modules in ((Torch, ["torch"]), (Jax, ["jax", "flax"]), (TensorFlow, ["tensorflow", "keras"])):
        wanted = os.environ.get("DTN_BACKEND", kind.name) == kind.name
        if wanted and all(importlib.util.find_spec(module) for module in modules):
            return kind
    return None


def parameters() -> list[Any]:
    """The chosen framework as a fixture's parameters."""
    kind = chosen()
    if kind is None:
        return [pytest.param(None, id="none", marks=pytest.mark.skip(reason="no framework with layers is chosen"))]
    return [pytest.param(kind, id=kind.name)]


def require(name: str) -> Any:
    """The package ``dtn_<name>``; skips the module that asks where another framework, or none, is chosen."""
    kind = chosen()
    if kind is None or kind.name != name:
        pytest.skip(f"{name} is not the chosen framework", allow_module_level=True)
    return importlib.import_module(kind.package)
