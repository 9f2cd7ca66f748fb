"""A linear map between named axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .definition import Array, Call, Definition, Ops, Parameter
from .initialise import Constant, glorot
from .validation import positive_int

Axes = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Projection(Definition):
    """Maps the last axes ``inputs`` of a tensor to the axes ``outputs``.

    Parameters
    ----------
    inputs, outputs : tuple of (str, int)
        Name and size of each axis.
    bias : bool
        Whether to add a bias over ``outputs``.

    Notes
    -----
    ``x[..., *inputs] -> y[..., *outputs]``, with ``weight[*inputs, *outputs]`` (Glorot uniform) and
    ``bias[*outputs]`` (zeros).

    Examples
    --------
    >>> heads = Projection((("embed", 8),), (("head", 2), ("feature", 4)))
    >>> print(heads.calls()["project"].source)
    projection(x[embed], weight[embed,head,feature], bias[head,feature]) -> y[head,feature]:
        y[head,feature] = x[embed] * weight[embed,head,feature] + bias[head,feature]
    """

    inputs: Axes
    outputs: Axes
    bias: bool = True

    def __post_init__(self) -> None:
        for side in ("inputs", "outputs"):
            given = getattr(self, side)
            axes = tuple((str(name), positive_int(f"{side}: {name}", size)) for name, size in given)
            object.__setattr__(self, side, axes)

    def parameters(self) -> Mapping[str, Parameter]:
        sizes = [[size for _, size in axes] for axes in (self.inputs, self.outputs)]
        weight = Parameter(self.inputs + self.outputs, glorot(*sizes))
        bias = {"bias": Parameter(self.outputs, Constant(0.0))} if self.bias else {}
        return {"weight": weight, **bias}

    def calls(self) -> Mapping[str, Call]:
        start, end = (",".join(name for name, _ in axes) for axes in (self.inputs, self.outputs))
        bias = (f", bias[{end}]", f" + bias[{end}]") if self.bias else ("", "")
        signature = f"projection(x[{start}], weight[{start},{end}]{bias[0]}) -> y[{end}]"
        return {"project": Call(f"{signature}:\n    y[{end}] = x[{start}] * weight[{start},{end}]{bias[1]}")}

    def forward(self, ops: Ops, own: Any, x: Array, **tokens: Any) -> Array:
        bias = (ops.value(own, "bias"),) if self.bias else ()
        return ops.call(own, "project", x, ops.value(own, "weight"), *bias)
