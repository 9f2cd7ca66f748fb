"""Kernels of other implementations in TensorFlow: eager, and in ``tf.function`` as calls back into Python.

XLA compiles no such call: ``jit_compile=True`` is TensorFlow's own error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dtn_codegen.kernel_shapes import KernelShapes
from dtn_core.ir.nodes import Param

ALIGNMENT = 64
"""Bytes that TensorFlow expects of memory that it did not allocate."""


def call(
    shapes: KernelShapes,
    native: Callable[..., Any],
    arguments: Sequence[Any],
    leading: Sequence[Any],
    sizes: Mapping[str, Any],
) -> list[Any]:
    """Call kernels with tensors of any leading axes.

    Parameters
    ----------
    shapes : KernelShapes
        Of the operator.
    native : callable
        The same operator as generated source, called as the kernels are.
    arguments : sequence
        Tensors, or what TensorFlow makes tensors of, and scalars and states that are numbers or tensors, in the
        kernels' order.  Scalars that are tensors get gradients, which are native.
    leading, sizes
        The leading axes that they broadcast to, and the sizes of the operator's axes; None where not known yet.
    """
    kernels = shapes.kernels
    arguments = [tf.convert_to_tensor(x) if p.axes else x for p, x in zip(kernels.inputs, arguments, strict=True)]
    like = next(x for p, x in zip(kernels.inputs, arguments, strict=True) if p.axes)
    whole = _known(shapes, arguments, leading, sizes)
    leading, sizes = whole
    full = shapes.with_leading(leading, sizes)
    given = [
        tf.reshape(
            tf.broadcast_to(
                tf.cast(x, tf.float32 if shapes.is_wide(p) else like.dtype), shapes.outside(p, leading, sizes)
            ),
            shapes.inside(p, full),
        )
        for p, x in zip(kernels.inputs, arguments, strict=True)
    ]
    moved = any(tf.is_tensor(x) for p, x in zip(kernels.inputs, arguments, strict=True) if shapes.is_scalar(p))
    results = _differentiable(shapes, native, like.dtype, moved)(*given)
    many = results if isinstance(results, list | tuple) else [results]
    return [
        tf.cast(
            tf.reshape(result, shapes.outside(p, leading, sizes)),
            tf.float32 if p.name in kernels.states else like.dtype,
        )
        for p, result in zip(kernels.outputs, many, strict=True)
    ]


def _known(
    shapes: KernelShapes, arguments: Sequence[Any], leading: Sequence[Any], sizes: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Leading axes and sizes, as tensors where they are not known while tracing."""
    if None not in leading and None not in sizes.values():
        return list(leading), dict(sizes)
    shape: Any = tf.constant([], tf.int32)
    found: dict[str, Any] = {}
    for param, x in zip(shapes.kernels.inputs, arguments, strict=True):
        if not param.axes or param.name in shapes.kernels.states:
            continue
        dynamic = tf.shape(x)
        places = list(range(-len(param.axes), 0))
        own = dynamic[: -len(param.axes)]
        if shapes.is_interleaved(param):
            places[0] = -len(param.axes) - 1
            own = tf.concat([dynamic[: places[0]], dynamic[-2:-1]], 0)
        found.update({axis: dynamic[place] for axis, place in zip(param.axes, places, strict=True)})
        shape = tf.broadcast_dynamic_shape(shape, own)
    axes = {axis: sizes.get(axis) if sizes.get(axis) is not None else found[axis] for axis in found}
    return [size if size is not None else shape[place] for place, size in enumerate(leading)], axes


def _differentiable(shapes: KernelShapes, native: Callable[..., Any], dtype: Any, moved: bool) -> Callable[..., Any]:
    """The kernel of ``[batch, heads, ...]`` tensors with its gradient."""
    kernels = shapes.kernels

    @tf.custom_gradient
    def function(*arrays: Any) -> Any:
        def gradient(*cotangents: Any) -> Any:
            if moved or _lacks_gradient(shapes, dtype, arrays):
                return _native_gradient(native, arrays, cotangents)
            return _kernel_gradient(shapes, native, dtype, arrays, cotangents)

        return _run(shapes, "forward", dtype, kernels.outputs, arrays, native), gradient

    return function


def _lacks_gradient(shapes: KernelShapes, dtype: Any, arrays: Sequence[Any]) -> bool:
    """Whether there is no kernel of the gradient; where sizes are not known while tracing, `_run` asks again."""
    sizes = shapes.sizes([tuple(x.shape) for x in arrays])
    known = all(sizes[axis] is not None for axis in sizes.keys() - {"batch", "heads"})
    return known and bool(shapes.kernels.why_no_gradient(sizes, dtype.name, _device(arrays[0])))


def _kernel_gradient(
    shapes: KernelShapes, native: Callable[..., Any], dtype: Any, arrays: Sequence[Any], cotangents: Sequence[Any]
) -> list[Any]:
    """A cotangent for every argument, by the kernel; its own gradient is native."""
    kernels = shapes.kernels
    count = len(arrays)
    wanted = [p for name in kernels.gradients for p in kernels.inputs if p.name == name]

    def by_native(*given: Any) -> list[Any]:
        first = _native_gradient(native, given[:count], given[count:])
        by_name = dict(zip([p.name for p in kernels.inputs], first, strict=True))
        return [by_name[p.name] for p in wanted]

    @tf.custom_gradient
    def function(*given: Any) -> Any:
        def gradient(*second: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(given)
                chosen = by_native(*given)
            return _gradients(tape, chosen, given, second)

        return _run(shapes, "backward", dtype, wanted, given, by_native), gradient

    found = function(*arrays, *cotangents)
    by_name = dict(zip(kernels.gradients, found if isinstance(found, list | tuple) else [found], strict=True))
    return [by_name.get(p.name, tf.zeros_like(x)) for p, x in zip(kernels.inputs, arrays, strict=True)]


def _native_gradient(native: Callable[..., Any], arrays: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    """Cotangents by differentiating generated source."""
    with tf.GradientTape() as tape:
        tape.watch(arrays)
        outputs = list(native(*arrays))
    return _gradients(tape, outputs, arrays, cotangents)


def _gradients(tape: Any, outputs: Sequence[Any], arrays: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
    """The cotangents of arrays by a tape; zeros for what the outputs do not depend on."""
    found = tape.gradient(list(outputs), list(arrays), list(cotangents))
    if all(x is None for x in found):  # forward mode differentiates gradients, and lets no tape record meanwhile
        raise NotImplementedError(
            "implementation='tvm' has no forward mode in TensorFlow (tf.autodiff.ForwardAccumulator): "
            "take the operator without it, or a tf.GradientTape"
        )
    return [tf.zeros_like(x) if y is None else y for x, y in zip(arrays, found, strict=True)]


def _run(
    shapes: KernelShapes,
    direction: str,
    dtype: Any,
    results: Sequence[Param],
    arrays: Sequence[Any],
    native: Callable[..., Sequence[Any]],
) -> Any:
    """Call a kernel now, or when the graph runs; ``native`` computes the same where there is none for the sizes."""
    kinds = [tf.float32 if shapes.is_wide(param) else dtype for param in results]

    def run(*given: Any) -> list[Any]:
        sizes = shapes.sizes([tuple(x.shape) for x in given])
        if 0 in sizes.values() or (direction == "backward" and _lacks_gradient(shapes, dtype, given)):
            return [tf.cast(x, kind) for x, kind in zip(native(*given), kinds, strict=True)]
        outputs = [_empty(shapes.inside(p, sizes), kind) for p, kind in zip(results, kinds, strict=True)]
        compute = shapes.kernels.forward if direction == "forward" else shapes.kernels.backward
        compute(sizes, dtype.name, _device(given[0]), given, outputs)
        return [_adopted(output, kind) for output, kind in zip(outputs, kinds, strict=True)]

    if tf.executing_eagerly():
        return run(*arrays)
    found = tf.py_function(run, list(arrays), kinds)
    static = [tuple(x.shape) for x in arrays]
    sizes = shapes.sizes(static)
    for param, result in zip(results, found, strict=True):
        result.set_shape(shapes.inside(param, sizes))
    return found


def _empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Memory for a result, which nothing else knows of."""
    kind = np.dtype(dtype.as_numpy_dtype)
    count = int(np.prod(shape)) * kind.itemsize
    buffer = np.empty(count + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + count].view(kind).reshape(shape)


def _adopted(array: np.ndarray, dtype: Any) -> Any:
    """A result as a tensor, in the memory where it is."""
    if dtype == tf.bfloat16:  # NumPy's DLPack has no bfloat16
        return tf.bitcast(tf.experimental.dlpack.from_dlpack(array.view(np.uint16).__dlpack__()), tf.bfloat16)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _device(tensor: Any) -> str:
    """The name that kernels are chosen by; in a graph, where a tensor is nowhere yet, that of the first card."""
    if "CPU" in tensor.device:
        return "cpu"
    cards = tf.config.list_physical_devices("GPU")
    if not cards:
        return "cpu"
    card = cards[int(tensor.device.rpartition(":")[2] or 0)]
    return str(tf.config.experimental.get_device_details(card).get("device_name", "GPU"))
