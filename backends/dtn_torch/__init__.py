"""The operators and layers in PyTorch.

>>> import torch
>>> import dtn_torch as dtn
>>> q, k, v = torch.randn(3, 2, 5, 4)
>>> dtn.tensor_attention(q, k, v).shape
torch.Size([2, 5, 4])
"""

import importlib
from typing import Any

import dtn_core
from dtn_codegen.documentation import published
from dtn_codegen.state import restored
from dtn_core.extras import needs

with needs("torch", "torch"):
    import torch

from .function import TorchFunction, TorchFunctional

torch.serialization.add_safe_globals([restored])  # states are loaded by torch.load as tensors are

_SETUP = """\
>>> import torch
>>> import dtn_torch as dtn
>>> q, k, v = torch.randn(3, 2, 4, 100, 16)"""
_NOTES = """\
The result has the promoted dtype of q, k and v, under ``torch.autocast`` too; sums are taken in float32 at least.
Differentiable as any function of PyTorch, twice and under ``torch.func`` too; ``torch.compile`` traces it, with a
length that is a symbol as well. Tensors are of one device."""
_GRADIENTS = """
Gradients:

>>> q = q.requires_grad_()
>>> dtn.tensor_attention(q, k, v).square().sum().backward()
>>> q.grad.shape
torch.Size([2, 4, 100, 16])
"""

compile, tensor_attention, tensor_interaction = published(
    TorchFunctional(TorchFunction), __name__, _SETUP, _NOTES, _GRADIENTS
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

__all__ = ["TorchFunction", "compile", "tensor_attention", "tensor_interaction", *_LAYERS, *_WEIGHTS]


def __getattr__(name: str) -> Any:
    """Layers, weights and the version, when first asked for."""
    if name in _LAYERS or name in _WEIGHTS:
        return getattr(importlib.import_module(".layers" if name in _LAYERS else ".weights", __name__), name)
    if name == "__version__":
        return dtn_core.__version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
