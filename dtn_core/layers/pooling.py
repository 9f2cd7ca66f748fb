"""Mean over tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .definition import Array, Call, Definition, Ops
from .validation import check_tokens

MEAN = """mean_pool(x[n,d]) -> y[d]:
    y[c] = x[t,c] / n"""

# select, not a product: what a padded token holds (it may be NaN) does not reach the mean
MASKED_MEAN = """masked_mean_pool(x[n,d], keep[n]) -> y[d]:
    count  = keep[t]
    u[t,c] = select(keep[t], x[t,c])
    y[c]   = u[t,c] / count"""


@dataclass(frozen=True)
class MeanPool(Definition):
    """Mean over the real tokens, ``x[..., n, embed] -> y[..., embed]``; 0 where there is none."""

    keeps_tokens: ClassVar[bool] = False

    def calls(self) -> Mapping[str, Call]:
        return {"mean": Call(MEAN), "masked_mean": Call(MASKED_MEAN)}

    def forward(self, ops: Ops, own: Any, x: Array, padding_mask: Array | None = None, **tokens: Any) -> Array:
        check_tokens(type(self).__name__, x, padding_mask, **tokens)
        if padding_mask is None:
            return ops.call(own, "mean", x, **tokens)
        return ops.call(own, "masked_mean", x, ops.cast(padding_mask, like=x))
