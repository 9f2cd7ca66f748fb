"""The catalogue of operators, each defined once in index notation."""

from .catalogue import Entry, catalogue, load
from .knobs import KNOBS, PARAMETER, KnobDoc
from .operator import Operator, as_operator
from .tensor_attention import tensor_attention
from .tensor_interaction import tensor_interaction

__all__ = [
    "KNOBS", "PARAMETER", "Entry", "KnobDoc", "Operator", "as_operator", "catalogue", "load",
    "tensor_attention", "tensor_interaction",
]  # fmt: skip
