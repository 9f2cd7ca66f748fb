"""The operators and layers in TensorFlow.

>>> import tensorflow as tf
>>> import dtn_tensorflow as dtn
>>> q, k, v = tf.random.normal((3, 2, 5, 4))
>>> dtn.tensor_attention(q, k, v).shape
TensorShape([2, 5, 4])
"""

import importlib
from typing import Any

import dtn_core
from dtn_codegen.documentation import published
from dtn_codegen.functional import Functional
from dtn_core.extras import needs

with needs("tensorflow", "tensorflow"):
    import tensorflow as tf

    from .function import TensorFlowFunction

_SETUP = """\
>>> import tensorflow as tf
>>> import dtn_tensorflow as dtn
>>> q, k, v = tf.random.normal((3, 2, 4, 100, 16))"""
_NOTES = """\
The result has the dtype of q, k and v, which have one, as everywhere in TensorFlow: two are a TypeError. Sums are taken
in float32 at least. It runs eagerly, in ``tf.function`` with and without XLA, and under ``GradientTape``."""
_GRADIENTS = """
Gradients:

>>> with tf.GradientTape() as tape:
...     tape.watch(q)
...     loss = tf.reduce_sum(dtn.tensor_attention(q, k, v) ** 2)
>>> tape.gradient(loss, q).shape
TensorShape([2, 4, 100, 16])
"""

compile, tensor_attention, tensor_interaction = map(
    tf.autograph.experimental.do_not_convert,  # what compiles an operator is no part of a graph
    published(Functional(TensorFlowFunction), __name__, _SETUP, _NOTES, _GRADIENTS),
)

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

__all__ = ["TensorFlowFunction", "compile", "tensor_attention", "tensor_interaction", *_LAYERS, *_WEIGHTS]


def __getattr__(name: str) -> Any:
    """Layers, weights and the version, when first asked for."""
    if name in _LAYERS or name in _WEIGHTS:
        with needs("tensorflow", "keras"):
            return getattr(importlib.import_module(".layers" if name in _LAYERS else ".weights", __name__), name)
    if name == "__version__":
        return dtn_core.__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
