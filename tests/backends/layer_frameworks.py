"""What the layer suite needs of each framework, so that one suite tests them all."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
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
        self.layers = importlib.import_module(f"{self.package}.layers")

    def make(self, layer: str, *, dtype: str = "float32", seed: int = 0, **hyperparameters: Any) -> Any:
        """A layer whose parameters and computation have type ``dtype``."""
        raise NotImplementedError

    def call(self, layer: Any, x: np.ndarray, padding_mask: np.ndarray | None = None, **fixed: Any) -> np.ndarray:
        """The layer's value; ``fixed`` are values while it is compiled."""
        raise NotImplementedError

    def eager(self, layer: Any, x: np.ndarray, **tokens: Any) -> np.ndarray:
        """The layer's value without a compiler, of native arrays."""
        value = layer(self.array(x), **tokens)
        return self.to_numpy(value)

    def gradients(self, layer: Any, x: np.ndarray, **fixed: Any) -> dict[str, np.ndarray]:
        """Gradient of the sum of the layer's squared values, by path."""
        raise NotImplementedError

    def compiled(self, layer: Any, x: np.ndarray, **fixed: Any) -> np.ndarray:
        """The layer's value by the framework's own compiler."""
        raise NotImplementedError

    def array(self, x: np.ndarray) -> Any:
        """A native array."""
        raise NotImplementedError

    def to_numpy(self, parameter: Any) -> np.ndarray:
        """A native parameter."""
        raise NotImplementedError

    def resume(self, layer: Any, x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """The layer's value for tokens after others, and its state."""
        raise NotImplementedError

    def init_state(self, layer: Any, batch: Any) -> Any:
        """The layer's state before any token."""
        return layer.init_state(batch)

    def steps(self, layer: Any, x: np.ndarray) -> tuple[np.ndarray, Any]:
        """The layer's values, one token after the other along the second axis of ``x``."""
        raise NotImplementedError

    def leaves(self, state: Any) -> list[np.ndarray]:
        """The tensors of a state."""
        if isinstance(state, dict):
            state = tuple(state.values())
        if isinstance(state, tuple):
            return [leaf for part in state for leaf in self.leaves(part)]
        return [np.asarray(state)]

    def weights(self, layer: Any) -> dict[str, np.ndarray]:
        """All parameters by path."""
        paths = [path for path, _ in layer.definition.named_parameters()]
        return {path: self.to_numpy(parameter_of(layer, path)) for path in paths}


class Torch(Framework):
    name, package = "torch", "dtn_torch"

    def make(self, layer: str, *, dtype: str = "float32", seed: int = 0, **hyperparameters: Any) -> Any:
        import torch

        return getattr(self.layers, layer)(**hyperparameters, seed=seed, dtype=getattr(torch, dtype))

    def compiled(self, layer: Any, x: np.ndarray, **fixed: Any) -> np.ndarray:
        import torch

        made = torch.compile(layer, fullgraph=True, backend="eager")
        return made(torch.from_numpy(x), **fixed).detach().numpy()

    def call(self, layer: Any, x: np.ndarray, padding_mask: np.ndarray | None = None, **fixed: Any) -> np.ndarray:
        import torch

        mask = None if padding_mask is None else torch.from_numpy(padding_mask)
        return layer(torch.from_numpy(x), padding_mask=mask, **fixed).detach().numpy()

    def resume(self, layer: Any, x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        import torch

        with torch.no_grad():
            y, state = layer.resume(torch.from_numpy(x), state)
        return y.numpy(), state

    def steps(self, layer: Any, x: np.ndarray) -> tuple[np.ndarray, Any]:
        import torch

        with torch.no_grad():
            state, values = layer.init_state(x.shape[0]), []
            for token in torch.from_numpy(x).unbind(1):
                y, state = layer.step(token, state)
                values.append(y)
        return torch.stack(values, 1).numpy(), state

    def gradients(self, layer: Any, x: np.ndarray, **fixed: Any) -> dict[str, np.ndarray]:
        import torch

        layer.zero_grad()
        layer(torch.from_numpy(x), **fixed).square().sum().backward()
        return {name: parameter.grad.numpy() for name, parameter in layer.named_parameters()}

    def array(self, x: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(x)

    def to_numpy(self, parameter: Any) -> np.ndarray:
        return parameter.detach().numpy()


class Jax(Framework):
    name, package = "jax", "dtn_jax"

    def make(self, layer: str, *, dtype: str = "float32", seed: int = 0, **hyperparameters: Any) -> Any:
        import jax

        with jax.enable_x64(dtype == "float64"):
            return getattr(self.layers, layer)(**hyperparameters, seed=seed, dtype=dtype, param_dtype=dtype)

    def call(self, layer: Any, x: np.ndarray, padding_mask: np.ndarray | None = None, **fixed: Any) -> np.ndarray:
        import jax

        with jax.enable_x64(layer.dtype == "float64"):
            return np.asarray(self.jitted("__call__", **fixed)(layer, x, padding_mask))

    @cache  # noqa: B019 - a framework lives as long as the tests; what is compiled once stays compiled
    def jitted(self, method: str, **fixed: Any) -> Any:
        """A layer's method as a function of the layer and its arguments, compiled."""
        from flax import nnx

        return nnx.jit(lambda own, *given: getattr(own, method)(*given, **fixed))

    def resume(self, layer: Any, x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        import jax

        with jax.enable_x64(layer.dtype == "float64"):
            y, state = self.jitted("resume")(layer, x, state)
        return np.asarray(y), state

    def init_state(self, layer: Any, batch: Any) -> Any:
        import jax

        with jax.enable_x64(layer.dtype == "float64"):
            return layer.init_state(batch)

    def steps(self, layer: Any, x: np.ndarray) -> tuple[np.ndarray, Any]:
        import jax

        with jax.enable_x64(layer.dtype == "float64"):
            state, values = layer.init_state(x.shape[0]), []
            step = self.jitted("step")
            for place in range(x.shape[1]):
                y, state = step(layer, x[:, place], state)
                values.append(np.asarray(y))
        return np.stack(values, 1), state

    def compiled(self, layer: Any, x: np.ndarray, **fixed: Any) -> np.ndarray:
        import jax
        from flax import nnx

        graph, parameters = nnx.split(layer)
        return np.asarray(jax.jit(lambda parameters, x: nnx.merge(graph, parameters)(x, **fixed))(parameters, x))

    def gradients(self, layer: Any, x: np.ndarray, **fixed: Any) -> dict[str, np.ndarray]:
        import jax
        from flax import nnx

        with jax.enable_x64(layer.dtype == "float64"):
            found = nnx.jit(nnx.grad(lambda own, x: (own(x, **fixed) ** 2).sum()))(layer, x)
        paths = [path for path, _ in layer.definition.named_parameters()]
        flat = {".".join(map(str, path)): value for path, value in nnx.to_flat_state(found)}
        return {path: np.asarray(flat[path][...]) for path in paths}

    def array(self, x: np.ndarray) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(x)

    def to_numpy(self, parameter: Any) -> np.ndarray:
        return np.asarray(parameter[...])


class TensorFlow(Framework):
    name, package = "tensorflow", "dtn_tensorflow"

    def make(self, layer: str, *, dtype: str = "float32", seed: int = 0, **hyperparameters: Any) -> Any:
        return getattr(self.layers, layer)(**hyperparameters, seed=seed, dtype=dtype)

    def call(self, layer: Any, x: np.ndarray, padding_mask: np.ndarray | None = None, **fixed: Any) -> np.ndarray:
        return layer(x, padding_mask=padding_mask, **fixed).numpy()

    def resume(self, layer: Any, x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        y, state = layer.resume(x, state)
        return y.numpy(), state

    def steps(self, layer: Any, x: np.ndarray) -> tuple[np.ndarray, Any]:
        state, values = layer.init_state(x.shape[0]), []
        for place in range(x.shape[1]):
            y, state = layer.step(x[:, place], state)
            values.append(y.numpy())
        return np.stack(values, 1), state

    def compiled(self, layer: Any, x: np.ndarray, **fixed: Any) -> np.ndarray:
        import tensorflow as tf

        return tf.function(lambda x: layer(x, **fixed))(tf.constant(x)).numpy()

    def gradients(self, layer: Any, x: np.ndarray, **fixed: Any) -> dict[str, np.ndarray]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, **fixed) ** 2)
        paths = [path for path, _ in layer.definition.named_parameters()]
        found = tape.gradient(loss, [parameter_of(layer, path).value for path in paths])
        return {path: gradient.numpy() for path, gradient in zip(paths, found, strict=True)}

    def array(self, x: np.ndarray) -> Any:
        import tensorflow as tf

        return tf.constant(x)

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
    return [pytest.param(cache(kind), id=kind.name)]


def require(name: str) -> Any:
    """The package ``dtn_<name>``; skips the module that asks where another framework, or none, is chosen."""
    kind = chosen()
    if kind is None or kind.name != name:
        pytest.skip(f"{name} is not the chosen framework", allow_module_level=True)
    return importlib.import_module(kind.package)
