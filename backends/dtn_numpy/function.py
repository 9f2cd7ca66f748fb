"""Compiled operators in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dtn_codegen.function import Function
from dtn_codegen.numpy import TARGET


class NumpyFunction(Function):
    """A compiled operator that takes anything ``numpy.asarray`` does and returns arrays."""

    target = TARGET

    def convert(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """Arguments as arrays."""
        return tuple(np.asarray(tensor) for tensor in tensors)

    def cast_scalar(self, value: Any, arrays: Sequence[Any]) -> Any:
        """A tensor of scalars in the dtype computed in."""
        return np.asarray(value, np.result_type(*arrays, np.float32))

    def is_complex(self, names: Sequence[str], arrays: Sequence[Any]) -> bool:
        """Whether any array is complex; refuses integers and booleans."""
        for name, array in zip(names, arrays, strict=True):
            inexact = array.dtype.kind in "fc" or array.dtype.name in ("bfloat16", "float16")
            if not inexact:
                raise TypeError(f"{self.__name__}: {name} has dtype {array.dtype}; expected floating or complex")
        return any(array.dtype.kind == "c" for array in arrays)
