"""The operators and layers in JAX.

>>> import jax
>>> import dtn_jax as dtn
>>> q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 5, 4))
>>> dtn.tensor_attention(q, k, v).shape
(2, 5, 4)
"""

import importlib
from typing import Any

import dtn_core
from dtn_codegen.documentation import published
from dtn_codegen.functional import Functional
from dtn_core.extras import needs

with needs("jax", "jax"):
    from .function import JaxFunction

_SETUP = """\
>>> import jax
>>> import dtn_jax as dtn
>>> q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 4, 100, 16))"""
_NOTES = """\
The result has the promoted dtype of q, k and v; sums are taken in float32 at least, and float64 and complex128 need
``jax_enable_x64``. Plain JAX to ``jit``, ``vmap``, ``grad``, ``jacfwd`` and ``jax.export``; knobs that are no numbers
are static."""
_GRADIENTS = """
Gradients, compiled:

>>> loss = lambda q, k, v: (dtn.tensor_attention(q, k, v) ** 2).sum()
>>> jax.jit(jax.grad(loss))(q, k, v).shape
(2, 4, 100, 16)
"""

compile, tensor_attention, tensor_interaction = published(Functional(JaxFunction), __name__, _SETUP, _NOTES, _GRADIENTS)

_LAYERS = (
    "DeepTensorBlock",
    "DeepTensorClassifier",
    "DeepTensorLM",
    "LayerNorm",
    "MLP",
    "MeanPool",
    "PatchEmbedding",
    "Projection",
    "SoftmaxAttention",
    "TensorAttention",
    "TensorInteraction",
)
_WEIGHTS = ("load_weights", "save_weights")

__all__ = ["JaxFunction", "compile", "tensor_attention", "tensor_interaction", *_LAYERS, *_WEIGHTS]


def __getattr__(name: str) -> Any:
    """Layers, weights and the version, when first asked for."""
    if name in _LAYERS or name in _WEIGHTS:
        with needs("jax", "flax"):
            return getattr(importlib.import_module(".layers" if name in _LAYERS else ".weights", __name__), name)
    if name == "__version__":
        return dtn_core.__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
