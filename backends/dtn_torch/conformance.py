"""How PyTorch is held to the conformance matrix."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from dtn_codegen.conformance import GeneratedAdapter, second_of
from dtn_core.conform.adapter import Native
from dtn_core.conform.cells import Cell

from .function import TorchFunction

Loss = Callable[..., torch.Tensor]

DOUBLE_BACKWARD = "torch.compile does not differentiate what it compiled a second time, https://github.com/pytorch/pytorch/issues/91469"


class TorchAdapter(GeneratedAdapter):
    """PyTorch: autograd, ``torch.compile(fullgraph=True)``, ``torch.func`` and ``torch.export``."""

    name = "torch"
    function_type = TorchFunction
    packages = ("torch", "numpy")

    def missing_device(self) -> str:
        """Whether PyTorch sees a CUDA device."""
        return "" if self.device == "cpu" or torch.cuda.is_available() else "PyTorch sees no CUDA device here"

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """TF32 off, fixed seed."""
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield

    def array(self, x: np.ndarray, dtype: str | None = None) -> torch.Tensor:
        made = torch.from_numpy(np.array(x)).to(self.device)
        return made if dtype is None else made.to(getattr(torch, dtype))

    def numpy(self, x: Any) -> np.ndarray:
        x = x.detach().resolve_conj().resolve_neg().cpu()
        return np.asarray((x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).numpy())

    def einsum(self, spec: str, *arrays: torch.Tensor) -> torch.Tensor:
        return torch.einsum(spec, *arrays)

    def transform(self, mode: str, function: Native, example: Sequence[torch.Tensor]) -> Native:
        """``jit`` traces whole graphs through AOTAutograd; ``export`` writes the program and reads it back."""
        if mode == "jit":
            return torch.compile(function, fullgraph=True, backend="aot_eager")
        if mode == "vmap":
            return lambda *arrays: second_of(torch.func.vmap(function)(*map(_two, arrays)))
        written = io.BytesIO()
        torch.export.save(torch.export.export(_Module(function), tuple(example)), written)
        written.seek(0)
        return torch.export.load(written).module()

    def gradient(
        self, mode: str, function: Native, weights: Sequence[np.ndarray], example: Sequence[torch.Tensor]
    ) -> Native:
        """Reverse mode; in ``vmap`` that of every example, by ``torch.func``."""
        loss = self.loss(function, weights, example)
        if mode == "vmap":
            each = torch.func.vmap(torch.func.grad(loss, argnums=tuple(range(len(example)))))
            return lambda *arrays: second_of(each(*map(_two, arrays)))
        if mode == "jit":
            loss = torch.compile(loss, fullgraph=True, backend="aot_eager")

        def gradient(*arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
            leaves = [x.detach().requires_grad_() for x in arrays]
            return torch.autograd.grad(loss(*leaves), leaves, materialize_grads=True)

        return gradient

    def second(
        self,
        mode: str,
        function: Native,
        weights: Sequence[np.ndarray],
        directions: Sequence[np.ndarray],
        example: Sequence[torch.Tensor],
    ) -> Native:
        """Reverse mode twice."""
        loss = self.loss(function, weights, example)
        along = [self.array(d).to(x.dtype) for d, x in zip(directions, example, strict=True)]
        places = tuple(range(len(example)))
        if mode == "vmap":

            def product(*arrays: torch.Tensor) -> torch.Tensor:
                first = torch.func.grad(loss, argnums=places)(*arrays)
                return sum((g * d).sum() for g, d in zip(first, along, strict=True))  # type: ignore[return-value]

            each = torch.func.vmap(torch.func.grad(product, argnums=places))
            return lambda *arrays: second_of(each(*map(_two, arrays)))
        if mode == "jit":
            loss = torch.compile(loss, fullgraph=True, backend="aot_eager")

        def second(*arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
            leaves = [x.detach().requires_grad_() for x in arrays]
            first = torch.autograd.grad(loss(*leaves), leaves, create_graph=True, materialize_grads=True)
            total = sum((g * d).sum() for g, d in zip(first, along, strict=True))
            if not total.requires_grad:  # linear in every tensor
                return tuple(torch.zeros_like(x) for x in leaves)
            return torch.autograd.grad(total, leaves, materialize_grads=True)

        return second

    def loss(self, function: Native, weights: Sequence[np.ndarray], example: Sequence[torch.Tensor]) -> Loss:
        """``Re Σ conj(weights) function(...)``."""
        natives = [self.array(c).to(example[0].dtype) for c in weights]

        def loss(*arrays: torch.Tensor) -> torch.Tensor:
            total = torch.zeros((), device=self.device, dtype=natives[0].real.dtype)
            for c, y in zip(natives, function(*arrays), strict=True):
                total = total + (c.conj() * y).sum().real
            return total

        return loss

    def reset(self) -> None:
        """Forget compiled graphs."""
        super().reset()
        torch._dynamo.reset()

    def declared(self, cell: Cell) -> tuple[str, str] | None:
        """What PyTorch itself does not do."""
        if cell.mode == "jit" and cell.check == "second gradient":
            return "xfail", DOUBLE_BACKWARD
        return None


class _Module(torch.nn.Module):
    def __init__(self, function: Native) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arrays: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.function(*arrays)


def _two(x: torch.Tensor) -> torch.Tensor:
    """Two examples, the second of them ``x``."""
    return torch.stack([x if x.dtype == torch.bool else x / 2, x])


ADAPTER = TorchAdapter
