"""The shapes of a kernel's arrays, and of the tensors of the call that it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtn_core.ir.nodes import Param

from .implementations import Kernels
from .python import HEADS, has_heads
from .shapes import flat_leading, whole_shape


@dataclass(frozen=True)
class KernelShapes:
    """Shapes for one operator and layout.

    Attributes
    ----------
    layout : {"... n d", "... n h d"}
    kernels : Kernels
    """

    layout: str
    kernels: Kernels

    def is_scalar(self, param: Param) -> bool:
        """Whether an argument or result is a scalar of the operator."""
        return not param.axes and param.name not in self.kernels.states

    def is_wide(self, param: Param) -> bool:
        """Whether an argument or result is float32 whatever the tensors are: scalars and states."""
        return not param.axes or param.name in self.kernels.states

    def is_interleaved(self, param: Param) -> bool:
        """Whether the heads are between the axes of a tensor."""
        return self.layout == HEADS and len(param.axes) > 1 and has_heads(self.kernels.program, param.axes)

    def sizes(self, shapes: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Sizes of all axes, of the batch and of the heads, from the shapes of a kernel's arguments."""
        found: dict[str, Any] = {}
        for param, shape in zip(self.kernels.inputs, shapes, strict=False):
            axes = ["batch", "heads", *param.axes]
            if self.is_interleaved(param):
                axes = ["batch", param.axes[0], "heads", *param.axes[1:]]
            found.update(zip(axes, shape, strict=True))
        return found

    def inside(self, param: Param, sizes: Mapping[str, Any]) -> tuple[Any, ...]:
        """The shape of a kernel's argument or result."""
        core = [sizes[axis] for axis in param.axes]
        if self.is_interleaved(param):
            return (sizes["batch"], core[0], sizes["heads"], *core[1:])
        return (sizes["batch"], sizes["heads"], *core)

    def outside(self, param: Param, leading: Sequence[Any], sizes: Mapping[str, Any]) -> tuple[Any, ...]:
        """The shape of a call's argument or result, broadcast to the leading axes."""
        return whole_shape(self.kernels.program, param.axes, self.layout, leading, sizes)

    @staticmethod
    def with_leading(leading: Sequence[Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
        """``sizes`` with those of the batch and the heads."""
        batch, heads = flat_leading(leading)
        return {"batch": batch, "heads": heads, **{name: size for name, size in sizes.items() if name != "h"}}
