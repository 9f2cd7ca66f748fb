"""The operators and layers in TensorFlow.

>>> import tensorflow as tf
>>> import dtn_tensorflow as dtn
>>> q, k, v = tf.random.normal((3, 2, 5, 4))
>>> dtn.tensor_attention(q, k, v).shape
TensorShape([2, 5, 4])
"""

import importlib
from typing import Any

from dtn_codegen.functional import Functional

from .function import TensorFlowFunction

_functional = Functional(TensorFlowFunction)
compile = _functional.compile
tensor_attention = _functional.tensor_attention
tensor_interaction = _functional.tensor_interaction

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
    """Layers and weights, imported when first asked for."""
    if name in _LAYERS or name in _WEIGHTS:
        return getattr(importlib.import_module(".layers" if name in _LAYERS else ".weights", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
