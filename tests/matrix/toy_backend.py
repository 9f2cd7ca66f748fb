"""A backend of somebody else, whole: values of every operator, densely, in NumPy's float64 and float32.

``dtn conform --backend-module toy_backend`` holds it to the matrix.  What it does not do it says, and those cells are skipped
with its words; what it does is checked like anybody's.
"""

from __future__ import annotations

import numpy as np

from dtn_core.conform.adapter import Adapter
from dtn_core.interpret import interpret
from dtn_core.ir.axes import sequence_axes
from dtn_core.passes.padding import MASK, pad


class DenseOperator:
    """An operator as the matrix calls it: native arrays in, a tuple of native arrays out."""

    def __init__(self, operator):
        self.operator = operator
        self.source = operator.notation  # shown on the page; a compiler would show what it generated

    def __call__(self, *tensors, padding_mask=None):
        program, scalars = self.operator.program, dict(self.operator.scalars)
        if padding_mask is not None:
            axis = sequence_axes(program)[0]
            tensors = [
                np.where(self.kept(p, axis, padding_mask), x, 0) for p, x in zip(program.tensors, tensors, strict=True)
            ]
            program, scalars = pad(program), {**scalars, MASK: padding_mask}
        found = interpret(program, *tensors, **scalars)
        outputs = found if isinstance(found, tuple) else (found,)
        return tuple(y.astype(np.result_type(*tensors)) for y in outputs)

    def resumed(self, tensors, at):
        raise NotImplementedError("the toy keeps no state")

    @staticmethod
    def kept(param, axis, mask):
        return (
            mask[..., :, None] if axis in param.axes and len(param.axes) == 2 else mask if axis in param.axes else True
        )


class ToyAdapter(Adapter):
    """Says what the toy does in the words of the matrix."""

    name = "toy"
    dtypes = ("float64", "float32")
    lacks = {
        **dict.fromkeys(("chunked", "recurrent", "linear"), "the toy is dense"),
        **dict.fromkeys(("jit", "vmap", "export"), "the toy compiles nothing"),
        **dict.fromkeys(("gradient", "second gradient"), "the toy does not differentiate"),
        "layout": "the toy has heads before tokens only",
    }

    def array(self, x, dtype=None):
        return x.astype(dtype or x.dtype)

    def numpy(self, x):
        return x

    def einsum(self, spec, *arrays):
        return np.einsum(spec, *arrays)

    def compile(self, operator, form, layout):
        return DenseOperator(operator)

    def versions(self):
        return {"toy": "1.0", "numpy": np.__version__}


ADAPTER = ToyAdapter
