"""The operators and layers in JAX.

>>> import jax
>>> import dtn_jax as dtn
>>> q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 5, 4))
>>> dtn.tensor_attention(q, k, v).shape
(2, 5, 4)
"""

from dtn_codegen.functional import Functional

from .function import JaxFunction

_functional = Functional(JaxFunction)
compile = _functional.compile
tensor_attention = _functional.tensor_attention
tensor_interaction = _functional.tensor_interaction

__all__ = ["JaxFunction", "compile", "tensor_attention", "tensor_interaction"]
