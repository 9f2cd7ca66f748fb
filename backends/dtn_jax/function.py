"""Compiled operators in JAX."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dtn_codegen.function import Function
from dtn_codegen.implementations import Kernels
from dtn_codegen.jax import TARGET
from dtn_codegen.kernel_calls import as_kernels
from dtn_core.operators import Operator


class JaxArrays:
    """Implements :class:`dtn_codegen.arrays.Arrays`."""

    def expand(self, x: Any, place: int) -> Any:
        return jnp.expand_dims(x, place)

    def squeeze(self, x: Any, place: int) -> Any:
        return jnp.squeeze(x, place)

    def move(self, x: Any, place: int, to: int) -> Any:
        return jnp.moveaxis(x, place, to)

    def take(self, x: Any, rows: np.ndarray, place: int) -> Any:
        # jnp.take forgets the first axes of rows[M, 0]
        axis = x.ndim + place
        flat = jnp.take(x, rows.reshape(-1), axis=axis, mode="clip")
        return flat.reshape(*x.shape[:axis], *rows.shape, *x.shape[axis + 1 :])

    def joined(self, pieces: list[Any], place: int) -> Any:
        return jnp.concatenate(pieces, axis=place)

    def merged(self, x: Any, place: int) -> Any:
        axis = x.ndim + place
        return jax.lax.collapse(x, axis - 1, axis + 1)

    def constant(self, values: np.ndarray, like: Any) -> Any:
        return jnp.asarray(values)

    def numbers(self, x: Any, *, wait: bool) -> np.ndarray | None:
        if isinstance(x, jax.core.Tracer):
            return None
        if isinstance(x, jax.Array) and not wait and any(device.platform != "cpu" for device in x.devices()):
            return None
        return np.asarray(x)


class JaxFunction(Function):
    """A compiled operator on JAX arrays; ``jit``, ``vmap``, ``grad`` and ``jacfwd`` see plain JAX.

    Examples
    --------
    >>> import jax
    >>> import dtn_jax as dtn
    >>> f = dtn.compile("gram(x[n,d]) -> g[d,d]:  g[a,b] = x[i,a] * x[i,b]")
    >>> jax.jit(f)(jax.numpy.ones((5, 2))).tolist()
    [[5.0, 5.0], [5.0, 5.0]]
    """

    target = TARGET
    arrays = JaxArrays()

    def convert(self, tensors: Sequence[Any], names: Sequence[str] = ()) -> tuple[Any, ...]:
        """Arguments as JAX arrays."""
        return tuple(map(self._array, names or self.signature.tensors, tensors))

    def _array(self, name: str, tensor: Any) -> Any:
        """The argument ``name`` as a JAX array."""
        if hasattr(tensor, "dtype"):
            return tensor
        try:
            return jnp.asarray(tensor)
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            kind = type(tensor).__name__
            raise TypeError(f"{self.__name__}: {name} is a {kind}, expected an array: {reason}") from error

    def cast_scalar(self, value: Any, tensors: Sequence[Any]) -> Any:
        """A tensor of scalars in the dtype computed in."""
        return jnp.asarray(value, jnp.result_type(*tensors, jnp.float32))

    def is_complex(self, names: Sequence[str], arrays: Sequence[Any]) -> bool:
        """Whether any array is complex; refuses integers, booleans and floats too short for JAX to promote."""
        for name, array in zip(names, arrays, strict=True):
            if not jnp.issubdtype(array.dtype, jnp.inexact):
                raise TypeError(f"{self.__name__}: {name} has dtype {array.dtype}; expected floating or complex")
            if jnp.finfo(array.dtype).bits < 16:
                raise TypeError(f"{self.__name__}: {name} has dtype {array.dtype}; expected at least 16 bits")
        return any(jnp.issubdtype(array.dtype, jnp.complexfloating) for array in arrays)

    def foreign_kernels(self, operator: Operator, layout: str, implementation: str | None) -> Kernels | None:
        """As in every framework; kernels are called through jax-tvm-ffi."""
        found = super().foreign_kernels(operator, layout, implementation)
        if found is not None and importlib.util.find_spec("jax_tvm_ffi") is None:
            raise ValueError(
                f"implementation={implementation!r} cannot run {operator.name} in jax without jax-tvm-ffi: "
                "pip install 'deep-tensor-network[jax,tvm]' jax-tvm-ffi"
            )
        return found

    def run_kernels(
        self, kernels: Kernels, arguments: Sequence[Any], leading: Sequence[Any], sizes: Mapping[str, Any]
    ) -> Sequence[Any]:
        """Call kernels from XLA."""
        from .kernels import call

        native = as_kernels(self.native, kernels)
        return call(self.kernel_shapes(kernels), native, arguments, leading, sizes)
