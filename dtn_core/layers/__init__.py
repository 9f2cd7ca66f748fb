"""Layers as operators with named parameters and initialisers, each defined once, without a framework.

A layer here is a :class:`Definition`: hyperparameters, parameters (shape, axis names, initialiser), children,
the index notation it runs, and ``forward``, written against :class:`Ops`.  ``dtn_torch``, ``dtn_jax`` and
``dtn_tensorflow`` turn the same definition into ``torch.nn.Module``, ``flax.nnx.Module`` and ``keras.Layer``.
"""

from .adapter import Adapter, compiled, given, parameter_of, signature
from .attention import SoftmaxAttention, TensorAttention
from .block import DeepTensorBlock
from .classifier import DeepTensorClassifier
from .definition import Array, Call, Definition, Ops, Parameter, State
from .embedding import Embedding
from .generation import Advance, LanguageModel, Sampler, Tokens
from .initialise import Constant, Normal, Seed, Uniform
from .interaction import TensorInteraction
from .language import DeepTensorLM
from .mlp import MLP
from .norm import LayerNorm
from .patches import PatchEmbedding
from .pooling import MeanPool
from .projection import Projection
from .reference import evaluate, initial_weights
from .streaming import no_tokens

__all__ = [
    "Adapter", "Advance", "Array", "Call", "Constant", "DeepTensorBlock", "DeepTensorClassifier",
    "DeepTensorLM", "Definition", "Embedding", "LanguageModel", "LayerNorm", "MLP", "MeanPool", "Normal",
    "Ops", "Parameter", "PatchEmbedding", "Projection", "Sampler", "Seed", "SoftmaxAttention", "State",
    "TensorAttention", "TensorInteraction", "Tokens", "Uniform", "compiled", "evaluate", "given",
    "initial_weights", "no_tokens", "parameter_of", "signature",
]  # fmt: skip
