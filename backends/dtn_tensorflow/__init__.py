"""The operators and layers in TensorFlow.

>>> import tensorflow as tf
>>> import dtn_tensorflow as dtn
>>> q, k, v = tf.random.normal((3, 2, 5, 4))
>>> dtn.tensor_attention(q, k, v).shape
TensorShape([2, 5, 4])
"""

from dtn_codegen.functional import Functional

from .function import TensorFlowFunction

_functional = Functional(TensorFlowFunction)
compile = _functional.compile
tensor_attention = _functional.tensor_attention
tensor_interaction = _functional.tensor_interaction

__all__ = ["TensorFlowFunction", "compile", "tensor_attention", "tensor_interaction"]
