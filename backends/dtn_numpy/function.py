"""Compiled operators in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dtn_codegen.function import Function
from dtn_codegen.implementations import Kernels
from dtn_codegen.numpy import TARGET


class NumpyArrays:
    """Implements :class:`dtn_codegen.arrays.Arrays`."""

    def expand(self, x: Any, place: int) -> Any:
        return x[(..., None, *[slice(None)] * (-place - 1))]

    def squeeze(self, x: Any, place: int) -> Any:
        return x.squeeze(place)

    def move(self, x: Any, place: int, to: int) -> Any:
        return np.moveaxis(x, place, to)

    def take(self, x: Any, rows: np.ndarray, place: int) -> Any:
        return np.take(x, rows, axis=place)

    def joined(self, pieces: list[Any], place: int) -> Any:
        return np.concatenate(pieces, axis=place)

    def merged(self, x: Any, place: int) -> Any:
        shape = x.shape
        axis = len(shape) + place
        return x.reshape(*shape[: axis - 1], shape[axis - 1] * shape[axis], *shape[axis + 1 :])

    def constant(self, values: np.ndarray, like: Any) -> Any:
        return values

    def numbers(self, x: Any, *, wait: bool) -> np.ndarray | None:
        return np.asarray(x)


class NumpyFunction(Function):
    """A compiled operator that takes anything ``numpy.asarray`` does and returns arrays.

    Examples
    --------
    >>> import dtn_numpy as dtn
    >>> f = dtn.compile("gram(x[n,d]) -> g[d,d]:  g[a,b] = x[i,a] * x[i,b]")
    >>> f([[1.0, 2.0]])
    array([[1., 2.],
           [2., 4.]])
    """

    target = TARGET
    arrays = NumpyArrays()

    def convert(self, tensors: Sequence[Any], names: Sequence[str] = ()) -> tuple[Any, ...]:
        """Arguments as arrays."""
        return tuple(np.asarray(tensor) for tensor in tensors)

    def cast_scalar(self, value: Any, tensors: Sequence[Any]) -> Any:
        """A tensor of scalars in the dtype computed in."""
        return np.asarray(value, np.result_type(*tensors, np.float32))

    def is_complex(self, names: Sequence[str], arrays: Sequence[Any]) -> bool:
        """Whether any array is complex; refuses integers and booleans."""
        for name, array in zip(names, arrays, strict=True):
            inexact = array.dtype.kind in "fc" or array.dtype.name in ("bfloat16", "float16")
            if not inexact:
                raise TypeError(f"{self.__name__}: {name} has dtype {array.dtype}; expected floating or complex")
        return any(array.dtype.kind == "c" for array in arrays)

    def run_kernels(
        self, kernels: Kernels, arguments: Sequence[Any], leading: Sequence[Any], sizes: Mapping[str, Any]
    ) -> Sequence[Any]:
        """Call the forward kernel, with copies only of what is not contiguous, read-only or of another byte order."""
        shapes = self.kernel_shapes(kernels)
        full = shapes.with_leading(leading, sizes)
        dtype = next(x for p, x in zip(kernels.inputs, arguments, strict=True) if p.axes).dtype.newbyteorder("=")
        given = []
        for param, x in zip(kernels.inputs, arguments, strict=True):
            kind = np.float32 if shapes.is_wide(param) else dtype
            whole = np.broadcast_to(np.asarray(x, kind), shapes.outside(param, leading, sizes))
            array = np.ascontiguousarray(whole).reshape(shapes.inside(param, full))
            given.append(array if array.flags.writeable else array.copy())  # DLPack cannot say that one is not
        results = [
            np.empty(shapes.inside(p, full), np.float32 if shapes.is_wide(p) else dtype) for p in kernels.outputs
        ]
        kernels.forward(full, dtype.name, "cpu", given, results)
        return [
            result.reshape(shapes.outside(p, leading, sizes)).astype(
                np.float32 if p.name in kernels.states else dtype, copy=False
            )
            for p, result in zip(kernels.outputs, results, strict=True)
        ]
