"""How JAX is held to the conformance matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from dtn_codegen.conformance import GeneratedAdapter, second_of
from dtn_core.conform.adapter import Native
from dtn_core.conform.cells import DRAWN

from .function import JaxFunction

PLATFORMS = {"cpu": "cpu", "cuda": "gpu"}


class JaxAdapter(GeneratedAdapter):
    """JAX: ``grad``, ``jit``, ``vmap`` and ``jax.export``."""

    name = "jax"
    function_type = JaxFunction
    packages = ("jax", "jaxlib", "numpy")
    drawn: ClassVar[Mapping[str, int]] = {**DRAWN, "eager": 4}  # eager JAX compiles every operation it has not seen
    operators = 0

    def missing_device(self) -> str:
        """Whether JAX sees a GPU."""
        found = {device.platform for device in jax.devices()}
        return "" if PLATFORMS[self.device] in found else "JAX sees no CUDA device here"

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Double precision enabled, products of full precision, one device."""
        device = jax.devices(PLATFORMS[self.device])[0]
        with jax.enable_x64(True), jax.default_matmul_precision("highest"), jax.default_device(device):
            yield

    def array(self, x: np.ndarray, dtype: str | None = None) -> jax.Array:
        return jnp.asarray(x, dtype)

    def numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x.astype("float32") if x.dtype.name in ("float16", "bfloat16") else x)

    def einsum(self, spec: str, *arrays: jax.Array) -> jax.Array:
        return jnp.einsum(spec, *arrays, preferred_element_type=arrays[0].dtype)

    def transform(self, mode: str, function: Native, example: Sequence[jax.Array]) -> Native:
        """``jax.jit``, ``jax.vmap``, or exported to bytes and called from those."""
        if mode == "jit":
            return jax.jit(function)
        if mode == "vmap":
            return lambda *arrays: second_of(jax.vmap(function)(*map(_two, arrays)))
        written = export.export(jax.jit(function))(*example).serialize()
        return export.deserialize(written).call

    def gradient(
        self, mode: str, function: Native, weights: Sequence[np.ndarray], example: Sequence[jax.Array]
    ) -> Native:
        """``jax.grad``, whose complex gradients are the conjugates of everybody else's."""
        found = jax.grad(self.loss(function, weights), argnums=tuple(range(len(example))))
        return self.each(mode, lambda *arrays: tuple(map(jnp.conj, found(*arrays))))

    def second(
        self,
        mode: str,
        function: Native,
        weights: Sequence[np.ndarray],
        directions: Sequence[np.ndarray],
        example: Sequence[jax.Array],
    ) -> Native:
        """``jax.grad`` of the product of ``jax.grad`` and the directions."""
        places = tuple(range(len(example)))
        loss = self.loss(function, weights)

        def product(*arrays: jax.Array) -> jax.Array:
            first = jax.grad(loss, argnums=places)(*arrays)
            return sum((g * d).sum() for g, d in zip(first, directions, strict=True))  # type: ignore[return-value]

        return self.each(mode, jax.grad(product, argnums=places))

    @staticmethod
    def each(mode: str, gradient: Native) -> Native:
        """A gradient in a mode."""
        if mode == "vmap":
            return lambda *arrays: second_of(jax.vmap(gradient)(*map(_two, arrays)))
        return jax.jit(gradient) if mode == "jit" else gradient

    @staticmethod
    def loss(function: Native, weights: Sequence[np.ndarray]) -> Callable[..., jax.Array]:
        """``Re Σ conj(weights) function(...)``."""

        def loss(*arrays: jax.Array) -> jax.Array:
            pairs = zip(weights, function(*arrays), strict=True)
            return sum((jnp.asarray(np.conj(c), y.dtype) * y).sum().real for c, y in pairs)  # type: ignore[return-value]

        return loss

    def reset(self) -> None:
        """Let go what was compiled, now and then: operators share much of it, and it takes gigabytes in the end."""
        super().reset()
        self.operators += 1
        if self.operators % 16 == 0:
            jax.clear_caches()


def _two(x: jax.Array) -> jax.Array:
    """Two examples, the second of them ``x``."""
    return jnp.stack([x if x.dtype == bool else x / 2, x])


ADAPTER = JaxAdapter
