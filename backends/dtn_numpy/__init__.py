"""The operators in NumPy.

>>> import numpy as np
>>> import dtn_numpy as dtn
>>> q, k, v = np.random.default_rng(0).normal(size=(3, 2, 5, 4))
>>> dtn.tensor_attention(q, k, v).shape
(2, 5, 4)
"""

from typing import Any

import dtn_core
from dtn_codegen import examples
from dtn_codegen.documentation import documented
from dtn_codegen.functional import Functional
from dtn_core import operators

from .function import NumpyFunction

_SETUP = """\
>>> import numpy as np
>>> import dtn_numpy as dtn
>>> q, k, v = np.random.default_rng(0).normal(size=(3, 2, 4, 100, 16))"""
_NOTES = """\
The result has the promoted dtype of q, k and v, which may be whatever ``numpy.asarray`` takes; sums are taken in
float32 at least. There are no gradients in NumPy."""

_functional = Functional(NumpyFunction)
compile = documented(_functional.compile, __name__, examples.COMPILE.format(setup=_SETUP))
tensor_attention = documented(
    _functional.tensor_attention,
    __name__,
    examples.ATTENTION.format(setup=_SETUP),
    notes=_NOTES,
    operator=operators.tensor_attention,
)
tensor_interaction = documented(
    _functional.tensor_interaction,
    __name__,
    examples.INTERACTION.format(setup=_SETUP),
    notes=_NOTES,
    operator=operators.tensor_interaction,
    like=_functional.tensor_attention,
)

__all__ = ["NumpyFunction", "compile", "tensor_attention", "tensor_interaction"]


def __getattr__(name: str) -> Any:
    """The version, when first asked for."""
    if name == "__version__":
        return dtn_core.__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
