"""Compiled operators in JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from dtn_codegen.function import Function
from dtn_codegen.jax import TARGET


class JaxFunction(Function):
    """A compiled operator on JAX arrays; ``jit``, ``vmap``, ``grad`` and ``jacfwd`` see plain JAX."""

    target = TARGET

    def convert(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """Arguments as JAX arrays."""
        return tuple(tensor if hasattr(tensor, "dtype") else jnp.asarray(tensor) for tensor in tensors)

    def cast_scalar(self, value: Any, arrays: Sequence[Any]) -> Any:
        """A tensor of scalars in the dtype computed in."""
        return jnp.asarray(value, jnp.result_type(*arrays, jnp.float32))

    def is_complex(self, names: Sequence[str], arrays: Sequence[Any]) -> bool:
        """Whether any array is complex; refuses integers and booleans."""
        for name, array in zip(names, arrays, strict=True):
            if not jnp.issubdtype(array.dtype, jnp.inexact):
                raise TypeError(f"{self.__name__}: {name} has dtype {array.dtype}; expected floating or complex")
        return any(jnp.issubdtype(array.dtype, jnp.complexfloating) for array in arrays)
