"""The toy with faults that a backend might have; each must be found."""

from __future__ import annotations

import os
import time

import numpy as np
from toy_backend import DenseOperator, ToyAdapter

from dtn_core.conform.adapter import GapError


class Wrong(DenseOperator):
    """``WRONG`` in the environment says in which way."""

    def __call__(self, *tensors, padding_mask=None):
        outputs = super().__call__(*tensors, padding_mask=padding_mask)
        fault = os.environ["WRONG"]
        if fault == "imprecise":
            return tuple(y * np.asarray(1 + 1e-12, y.dtype) for y in outputs)
        if fault == "half":
            return tuple(y.astype(np.float16).astype(y.dtype) for y in outputs)
        if fault == "leaks":
            return tuple(y + 1e-6 * sum(x.sum() for x in tensors) for y in outputs)
        if fault == "not yet":
            raise GapError("this backend does not add")
        if fault == "dies" or fault == f"dies at {self.operator.name}":
            os._exit(9)
        if fault.startswith("dies at"):
            return outputs
        if fault == "slow":
            with open(os.environ["CALLS"], "a") as calls:
                calls.write("call\n")
            time.sleep(0.3)
            return outputs
        raise ArithmeticError("this backend raises")


class WrongAdapter(ToyAdapter):
    name = "wrong"

    def compile(self, operator, form, layout):
        return Wrong(operator)


ADAPTER = WrongAdapter
