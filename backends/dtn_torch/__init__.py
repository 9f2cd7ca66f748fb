"""The operators and layers in PyTorch.

>>> import torch
>>> import dtn_torch as dtn
>>> q, k, v = torch.randn(3, 2, 5, 4)
>>> dtn.tensor_attention(q, k, v).shape
torch.Size([2, 5, 4])
"""

import importlib
from typing import Any

import torch

from dtn_codegen.state import restored

from .function import TorchFunction, TorchFunctional

torch.serialization.add_safe_globals([restored])  # states are loaded by torch.load as tensors are

_functional = TorchFunctional(TorchFunction)
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

__all__ = ["TorchFunction", "compile", "tensor_attention", "tensor_interaction", *_LAYERS, *_WEIGHTS]


def __getattr__(name: str) -> Any:
    """Layers and weights, imported when first asked for."""
    if name in _LAYERS or name in _WEIGHTS:
        return getattr(importlib.import_module(".layers" if name in _LAYERS else ".weights", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
