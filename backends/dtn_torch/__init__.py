"""The operators and layers in PyTorch.

>>> import torch
>>> import dtn_torch as dtn
>>> q, k, v = torch.randn(3, 2, 5, 4)
>>> dtn.tensor_attention(q, k, v).shape
torch.Size([2, 5, 4])
"""

from dtn_codegen.functional import Functional

from .function import TorchFunction

_functional = Functional(TorchFunction)
compile = _functional.compile
tensor_attention = _functional.tensor_attention
tensor_interaction = _functional.tensor_interaction

__all__ = ["TorchFunction", "compile", "tensor_attention", "tensor_interaction"]
