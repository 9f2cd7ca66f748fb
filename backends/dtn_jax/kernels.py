"""Kernels of other implementations in JAX: calls through XLA's foreign function interface, with derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dtn_codegen.kernel_shapes import KernelShapes
from dtn_core.ir.nodes import Param

_names: dict[Any, str] = {}


def call(
    shapes: KernelShapes,
    native: Callable[..., Any],
    arguments: Sequence[Any],
    leading: Sequence[int],
    sizes: Mapping[str, int],
) -> list[Any]:
    """Call kernels with arrays of any leading axes.

    Parameters
    ----------
    shapes : KernelShapes
        Of the operator.
    native : callable
        The same operator as generated source, called as the kernels are: it differentiates where no kernel does.
    arguments : sequence
        Arrays, and scalars and states that are numbers or arrays, in the kernels' order.
    leading : sequence of int
        The leading axes that they broadcast to.
    sizes : Mapping[str, int]
        Of the operator's axes.
    """
    kernels = shapes.kernels
    full = shapes.with_leading(leading, sizes)
    dtype = next(x.dtype for p, x in zip(kernels.inputs, arguments, strict=True) if p.axes)
    given = [
        jnp.broadcast_to(
            jnp.asarray(x, jnp.float32 if shapes.is_wide(p) else dtype), shapes.outside(p, leading, sizes)
        ).reshape(shapes.inside(p, full))
        for p, x in zip(kernels.inputs, arguments, strict=True)
    ]
    results = _differentiable(shapes, native, full, dtype)(*given)
    return [
        result.reshape(shapes.outside(p, leading, sizes)).astype(jnp.float32 if p.name in kernels.states else dtype)
        for p, result in zip(kernels.outputs, results, strict=True)
    ]


def _differentiable(
    shapes: KernelShapes, native: Callable[..., Any], full: Mapping[str, int], dtype: Any
) -> Callable[..., Any]:
    """The kernel of ``[batch, heads, ...]`` arrays with its gradient."""
    kernels = shapes.kernels

    @jax.custom_vjp
    def function(*arrays: Any) -> Any:
        return _foreign(shapes, "forward", full, dtype, kernels.outputs, arrays)

    def forward(*arrays: Any) -> Any:
        values = tuple(array.value for array in arrays)
        moved = any(a.perturbed for p, a in zip(kernels.inputs, arrays, strict=True) if shapes.is_scalar(p))
        return function(*values), (values, _Static(moved))

    def backward(kept: Any, cotangents: Any) -> Any:
        values, moved = kept
        cotangents = [
            jnp.zeros(shapes.inside(p, full), jnp.float32 if shapes.is_wide(p) else dtype)
            if isinstance(x, jax.custom_derivatives.SymbolicZero)
            else x
            for p, x in zip(kernels.outputs, cotangents, strict=True)
        ]
        if moved.value or kernels.why_no_gradient(full, jnp.dtype(dtype).name, _device()):
            return jax.vjp(native, *values)[1](tuple(cotangents))
        found = _gradient(shapes, native, full, dtype)(*values, *cotangents)
        by_name = dict(zip(kernels.gradients, found, strict=True))
        return tuple(
            by_name[p.name] if p.name in by_name else jnp.zeros_like(x)
            for p, x in zip(kernels.inputs, values, strict=True)
        )

    function.defvjp(forward, backward, symbolic_zeros=True)
    return function


def _gradient(
    shapes: KernelShapes, native: Callable[..., Any], full: Mapping[str, int], dtype: Any
) -> Callable[..., Any]:
    """The kernel of the gradient; its own gradient is native."""
    kernels = shapes.kernels
    count = len(kernels.inputs)
    wanted = [p for name in kernels.gradients for p in kernels.inputs if p.name == name]

    @jax.custom_vjp
    def function(*given: Any) -> Any:
        return _foreign(shapes, "backward", full, dtype, wanted, given)

    def by_native(*given: Any) -> list[Any]:
        first = jax.vjp(native, *given[:count])[1](tuple(given[count:]))
        return [first[kernels.inputs.index(param)] for param in wanted]

    def forward(*given: Any) -> Any:
        return function(*given), given

    def backward(given: Any, second: Any) -> Any:
        return jax.vjp(by_native, *given)[1](second)

    function.defvjp(forward, backward)
    return function


@jax.tree_util.register_static
class _Static:
    """A Python value among residuals."""

    def __init__(self, value: bool) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)


def _foreign(
    shapes: KernelShapes,
    direction: str,
    full: Mapping[str, int],
    dtype: Any,
    results: Sequence[Param],
    arrays: Sequence[Any],
) -> list[Any]:
    """Call the kernel of one direction."""
    types = [jax.ShapeDtypeStruct(shapes.inside(p, full), jnp.float32 if shapes.is_wide(p) else dtype) for p in results]
    function = shapes.kernels.function(direction, full, jnp.dtype(dtype).name, _device())
    name = _names.get(function)
    if name is None:
        name = _names[function] = f"dtn_kernel_{len(_names)}"
        import jax_tvm_ffi  # not among what [jax] or [tvm] install

        jax_tvm_ffi.register_ffi_target(name, function, ["args", "rets"], platform=jax.default_backend())
    return list(jax.ffi.ffi_call(name, types, vmap_method="sequential")(*arrays))


def _device() -> str:
    """The name that kernels are chosen by."""
    return "cpu" if jax.default_backend() == "cpu" else str(jax.devices()[0].device_kind)
