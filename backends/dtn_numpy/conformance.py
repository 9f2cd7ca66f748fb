"""How NumPy is held to the conformance matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from dtn_codegen.conformance import GeneratedAdapter

from .function import NumpyFunction


class NumpyAdapter(GeneratedAdapter):
    """NumPy: values only."""

    name = "numpy"
    function_type = NumpyFunction
    packages = ("numpy", "ml_dtypes")
    lacks: ClassVar[Mapping[str, str]] = {
        "gradient": "NumPy does not differentiate",
        "second gradient": "NumPy does not differentiate",
        "jit": "NumPy compiles nothing",
        "vmap": "NumPy has no vmap",
        "export": "NumPy has no graph to export",
    }

    def array(self, x: np.ndarray, dtype: str | None = None) -> Any:
        return x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype or x.dtype)

    def numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x).astype(np.float32) if x.dtype.name in ("float16", "bfloat16") else np.asarray(x)

    def einsum(self, spec: str, *arrays: Any) -> Any:
        """NumPy's, which has no bfloat16: there, sums in float32 that are rounded once."""
        if arrays[0].dtype.name != "bfloat16":
            return np.einsum(spec, *arrays)
        return np.einsum(spec, *(x.astype(np.float32) for x in arrays)).astype(ml_dtypes.bfloat16)


ADAPTER = NumpyAdapter
