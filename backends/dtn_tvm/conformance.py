"""How kernels are held to the conformance matrix: as ``implementation="tvm"`` within PyTorch.

What kernels do is asked of the library, cell by cell: a call that it refuses is a gap, in the library's own words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeVar

import numpy as np
import torch

from dtn_codegen.conformance import in_form
from dtn_core.conform.adapter import Computed, GapError, Native
from dtn_core.conform.sizes import shapes
from dtn_core.operators import Operator
from dtn_torch.conformance import TorchAdapter
from dtn_torch.function import TorchFunction

from . import kernels, targets
from .implementation import choose
from .problem import Problem

IMPLEMENTATION = "tvm"
REFUSED = f"implementation={IMPLEMENTATION!r} cannot run"
"""How every refusal of the library begins; any other ValueError is a fault."""

Result = TypeVar("Result")


class Kernel:
    """An operator computed by kernels, in one of the forms of the matrix.

    Parameters
    ----------
    operator : Operator
    form : str
    layout : str

    Raises
    ------
    GapError
        Here or when it is called: if there is no kernel for that.
    """

    def __init__(self, operator: Operator, form: str, layout: str) -> None:
        self.operator = operator
        self.layout = layout
        self.computed = self.ask(
            lambda: in_form(TorchFunction(operator, layout, IMPLEMENTATION), form, TvmAdapter.chunk)
        )

    @property
    def source(self) -> str:
        """TensorIR of the forward kernel at the matrix's sizes, as TVMScript."""
        program = self.operator.program
        params = zip(program.tensors, shapes(program), strict=True)
        sizes = {axis: size for param, shape in params for axis, size in zip(param.axes, shape, strict=True)}
        problem = Problem(Operator(program), "forward", "float32", {"batch": 1, "heads": 1, **sizes}, self.layout)
        target = targets.target("cpu")
        return str(kernels.lower(problem, choose(problem, target).schedule, target).script())

    def __call__(self, *tensors: torch.Tensor, padding_mask: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        return self.ask(lambda: self.computed(*tensors, padding_mask=padding_mask))

    def resumed(self, tensors: Sequence[torch.Tensor], at: int) -> tuple[torch.Tensor, ...]:
        """Two calls, the state handed on."""
        return self.ask(lambda: self.computed.resumed(tensors, at))

    def ask(self, compute: Callable[[], Result]) -> Result:
        """What ``compute`` gives; a gap if the library refuses."""
        try:
            return compute()
        except ValueError as refused:
            message = str(refused)
            if not message.startswith(REFUSED):
                raise
            raise GapError(message.replace(f"{REFUSED} {self.operator.name}", f"{REFUSED} it")) from None


class TvmAdapter(TorchAdapter):
    """Apache TVM's kernels on PyTorch's tensors, with the derivatives that are registered there."""

    name = "tvm"
    packages = ("apache-tvm", "apache-tvm-ffi", "torch", "numpy")
    lacks: ClassVar[Mapping[str, str]] = {
        "dense": "a kernel goes through a sequence of any length in the linear form",
    }
    chunk: ClassVar[int] = 16  # a kernel's are whole tiles
    also: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
        ("causality", "padding", "batching", "layout"), ("float32",)
    )

    def formed(self, operator: Operator, form: str, layout: str) -> Computed:
        """The operator as kernels."""
        return Kernel(operator, form, layout)

    def transform(self, mode: str, function: Native, example: Sequence[torch.Tensor]) -> Native:
        """As PyTorch does, of what runs: inside a trace a refusal would be an error of the tracer."""
        function(*example)
        return super().transform(mode, function, example)

    def gradient(
        self, mode: str, function: Native, weights: Sequence[np.ndarray], example: Sequence[torch.Tensor]
    ) -> Native:
        function(*example)
        return super().gradient(mode, function, weights, example)

    def second(
        self,
        mode: str,
        function: Native,
        weights: Sequence[np.ndarray],
        directions: Sequence[np.ndarray],
        example: Sequence[torch.Tensor],
    ) -> Native:
        function(*example)
        return super().second(mode, function, weights, directions, example)


ADAPTER = TvmAdapter
