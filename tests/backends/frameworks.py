"""What the one suite of tests/backends needs of each framework: arrays, gradients, dtypes.

The environment variable ``DTN_BACKEND`` chooses the framework of a process (numpy, torch, jax, tensorflow);
two never meet in one process.  A gradient of a complex array is given as ``∂L/∂Re + i ∂L/∂Im`` everywhere.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from oracle.knobs import sample

HALVES = ("float16", "bfloat16")
FULL = ("float32", "float64")
COMPLEX = ("complex64", "complex128")


class Framework:
    """One framework; ``dtn`` is the backend package."""

    name: str
    package: str
    differentiable = True
    promotes = True
    strided = False  # whether an array may be a view that is not contiguous

    def __init__(self) -> None:
        self.dtn = importlib.import_module(self.package)

    def session(self) -> contextlib.AbstractContextManager[Any]:
        """What a test runs in."""
        return contextlib.nullcontext()

    def array(self, x: Any, dtype: str | None = None) -> Any:
        """A NumPy array as a native one, of ``dtype`` if it is given."""
        raise NotImplementedError

    def numpy(self, x: Any) -> np.ndarray:
        """A native array in NumPy, 16-bit ones as float32."""
        raise NotImplementedError

    def dtype(self, x: Any) -> str:
        """The name of a native array's dtype."""
        return str(getattr(x.dtype, "name", x.dtype)).removeprefix("torch.")

    def loss(self, output: Any, weights: np.ndarray) -> Any:
        """``Re Σ conj(weights) output`` as a native number."""
        raise NotImplementedError

    def gradients(
        self, function: Any, arrays: list[np.ndarray], wrt: tuple[int, ...] | None = None
    ) -> list[np.ndarray]:
        """Gradients of a real native ``function`` of native arrays, by the framework's reverse mode."""
        raise NotImplementedError

    def second(self, function: Any, arrays: list[np.ndarray], directions: list[np.ndarray]) -> list[np.ndarray]:
        """Gradient of ``Σ <∂function, direction>``: the Hessian times the directions (real arrays)."""
        raise NotImplementedError

    def compiled(self, function: Any) -> Any:
        """``function`` as users of the framework run it: under ``jit`` where nobody runs anything else."""
        return function

    def einsum(self, spec: str, *arrays: Any) -> Any:
        """The framework's own einsum, in the dtype of its arguments."""
        raise NotImplementedError


class Numpy(Framework):
    name, package = "numpy", "dtn_numpy"
    differentiable = False
    strided = True

    def array(self, x, dtype=None):
        if dtype == "bfloat16":
            import ml_dtypes

            return np.asarray(x).astype(ml_dtypes.bfloat16)
        return np.array(x, dtype=dtype)

    def numpy(self, x):
        return x.astype(np.float32) if x.dtype.name in HALVES else np.asarray(x)

    def einsum(self, spec, *arrays):
        return np.einsum(spec, *arrays)


class Torch(Framework):
    name, package = "torch", "dtn_torch"
    strided = True

    def __init__(self) -> None:
        super().__init__()
        import torch

        torch.manual_seed(0)
        self.torch = torch

    def array(self, x, dtype=None):
        made = self.torch.from_numpy(np.array(x))
        return made if dtype is None else made.to(getattr(self.torch, dtype))

    def numpy(self, x):
        x = x.detach().resolve_conj()
        return (x.float() if self.dtype(x) in HALVES else x).numpy()

    def loss(self, output, weights):
        weights = self.torch.from_numpy(weights).to(output.dtype)
        return (weights.conj() * output).sum().real

    def gradients(self, function, arrays, wrt=None):
        wrt = tuple(range(len(arrays))) if wrt is None else wrt
        leaves = [self.array(x).requires_grad_(place in wrt) for place, x in enumerate(arrays)]
        result = function(*leaves)
        if result.requires_grad:  # else it is a constant
            result.backward()
        grads = [leaves[place].grad for place in wrt]
        return [np.zeros_like(arrays[p]) if g is None else self.numpy(g) for p, g in zip(wrt, grads, strict=True)]

    def second(self, function, arrays, directions):
        leaves = [self.array(x).requires_grad_() for x in arrays]
        first = self.torch.autograd.grad(function(*leaves), leaves, create_graph=True)
        along = sum((g * self.array(d)).sum() for g, d in zip(first, directions, strict=True))
        found = self.torch.autograd.grad(along, leaves, allow_unused=True)
        return [np.zeros_like(x) if g is None else self.numpy(g) for g, x in zip(found, arrays, strict=True)]

    def einsum(self, spec, *arrays):
        return self.torch.einsum(spec, *arrays)


class Jax(Framework):
    name, package = "jax", "dtn_jax"

    def __init__(self) -> None:
        super().__init__()
        import jax

        self.jax = jax

    def session(self):
        return self.jax.enable_x64(True)

    def compiled(self, function):
        return self.jax.jit(function)

    def array(self, x, dtype=None):
        return self.jax.numpy.asarray(x, dtype)

    def numpy(self, x):
        return np.asarray(x.astype("float32") if self.dtype(x) in HALVES else x)

    def loss(self, output, weights):
        return self.jax.numpy.real((np.conj(weights) * output).sum())

    def gradients(self, function, arrays, wrt=None):
        wrt = tuple(range(len(arrays))) if wrt is None else wrt
        found = self.compiled(self.jax.grad(function, argnums=wrt))(*map(self.array, arrays))
        return [np.conj(np.asarray(x)) for x in found]  # JAX gives ∂L/∂Re − i ∂L/∂Im

    def second(self, function, arrays, directions):
        places = tuple(range(len(arrays)))

        def along(*values):
            first = self.jax.grad(function, argnums=places)(*values)
            return sum((g * d).sum() for g, d in zip(first, directions, strict=True))

        return [np.asarray(x) for x in self.jax.grad(along, argnums=places)(*map(self.array, arrays))]

    def einsum(self, spec, *arrays):
        return self.jax.numpy.einsum(spec, *arrays, preferred_element_type=arrays[0].dtype)


class TensorFlow(Framework):
    name, package = "tensorflow", "dtn_tensorflow"
    promotes = False

    def __init__(self) -> None:
        super().__init__()
        import tensorflow as tf

        self.tf = tf

    def array(self, x, dtype=None):
        made = self.tf.constant(np.array(x))
        return made if dtype is None else self.tf.cast(made, dtype)

    def numpy(self, x):
        return (self.tf.cast(x, "float32") if self.dtype(x) in HALVES else x).numpy()

    def loss(self, output, weights):
        return self.tf.math.real(self.tf.reduce_sum(self.tf.cast(np.conj(weights), output.dtype) * output))

    def gradients(self, function, arrays, wrt=None):
        wrt = tuple(range(len(arrays))) if wrt is None else wrt
        values = list(map(self.array, arrays))
        with self.tf.GradientTape() as tape:
            tape.watch([values[place] for place in wrt])
            result = function(*values)
        return [
            x.numpy() for x in tape.gradient(result, [values[place] for place in wrt], unconnected_gradients="zero")
        ]

    def second(self, function, arrays, directions):
        values = list(map(self.array, arrays))
        with self.tf.GradientTape() as outer:
            outer.watch(values)
            with self.tf.GradientTape() as inner:
                inner.watch(values)
                result = function(*values)
            first = inner.gradient(result, values, unconnected_gradients="zero")
            along = sum(self.tf.reduce_sum(g * d) for g, d in zip(first, directions, strict=True))
        return [x.numpy() for x in outer.gradient(along, values, unconnected_gradients="zero")]

    def einsum(self, spec, *arrays):
        return self.tf.einsum(spec, *arrays)


KINDS = {kind.name: kind for kind in (Numpy, Torch, Jax, TensorFlow)}


def chosen() -> str:
    """The backend of this process."""
    return os.environ.get("DTN_BACKEND", "numpy")


def sampled(combinations: Iterable[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """A seeded sample of knobs that covers every pair; smaller where the framework compiles each for long.

    JAX takes seconds for every matrix exponential it has not seen: it gets the first five.
    """
    if chosen() in ("numpy", "torch"):
        return sample(combinations, count, seed)
    found = sample(combinations, count // 3, seed)
    exponentials = [knobs for knobs in found if knobs["activation"] == "expm"]
    return [knobs for knobs in found if knobs not in exponentials[5:]]
