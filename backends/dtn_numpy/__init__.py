"""The operators in NumPy.

>>> import numpy as np
>>> import dtn_numpy as dtn
>>> q, k, v = np.random.default_rng(0).normal(size=(3, 2, 5, 4))
>>> dtn.tensor_attention(q, k, v).shape
(2, 5, 4)
"""

from typing import Any

import dtn_core
from dtn_codegen.documentation import published
from dtn_codegen.functional import Functional

from .function import NumpyFunction

_SETUP = """\
>>> import numpy as np
>>> import dtn_numpy as dtn
>>> q, k, v = np.random.default_rng(0).normal(size=(3, 2, 4, 100, 16))"""
_NOTES = """\
The result has the promoted dtype of q, k and v, which may be whatever ``numpy.asarray`` takes; sums are taken in
float32 at least. There are no gradients in NumPy."""

compile, tensor_attention, tensor_interaction = published(Functional(NumpyFunction), __name__, _SETUP, _NOTES)

__all__ = ["NumpyFunction", "compile", "tensor_attention", "tensor_interaction"]


def __getattr__(name: str) -> Any:
    """The version, when first asked for."""
    if name == "__version__":
        return dtn_core.__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
