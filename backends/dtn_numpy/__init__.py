"""The operators in NumPy.

>>> import numpy as np
>>> import dtn_numpy as dtn
>>> q, k, v = np.random.default_rng(0).normal(size=(3, 2, 5, 4))
>>> dtn.tensor_attention(q, k, v).shape
(2, 5, 4)
"""

from dtn_codegen.functional import Functional

from .function import NumpyFunction

_functional = Functional(NumpyFunction)
compile = _functional.compile
tensor_attention = _functional.tensor_attention
tensor_interaction = _functional.tensor_interaction

__all__ = ["NumpyFunction", "compile", "tensor_attention", "tensor_interaction"]
