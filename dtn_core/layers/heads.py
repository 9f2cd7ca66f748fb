"""What every multi-head mixer shares: project to heads, mix, merge the heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..operators import PARAMETER
from ..operators.knobs import Scalar
from .definition import Array, Definition, Ops, State
from .projection import Projection
from .validation import check_tokens, positive_int, refuse

LAYOUT = "... n h d"


@dataclass(frozen=True)
class HeadMixer(Definition):
    """Base of the mixers: ``x[..., n, embed] -> y[..., n, embed]`` by q, k, v ``[..., n, head, feature]``.

    A subclass names what it runs ``"mix"`` in :meth:`calls`, or overrides :meth:`mix`.
    """

    embed_dim: int
    num_heads: int = 1
    head_dim: int | None = None
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("embed_dim", "num_heads"):
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))
        if self.head_dim is not None:
            object.__setattr__(self, "head_dim", positive_int("head_dim", self.head_dim))
        elif self.embed_dim % self.num_heads:
            expected = f"a divisor of embed_dim={self.embed_dim}, or head_dim given"
            raise refuse("num_heads", self.num_heads, expected)
        if not isinstance(self.bias, bool):
            raise refuse("bias", self.bias, "a bool")

    @property
    def features(self) -> int:
        """Features a head: ``head_dim``, or ``embed_dim`` shared evenly among the heads."""
        return self.head_dim or self.embed_dim // self.num_heads

    def children(self) -> Mapping[str, Definition]:
        embed, heads = (("embed", self.embed_dim),), (("head", self.num_heads), ("feature", self.features))
        split, merge = Projection(embed, heads, self.bias), Projection(heads, embed, self.bias)
        return {"query": split, "key": split, "value": split, "out": merge}

    def scalars(self, ops: Ops, like: Array) -> Mapping[str, Any]:
        """Scalar arguments of ``"mix"`` that its operator does not carry itself."""
        return {}

    def mix(
        self, ops: Ops, own: Any, q: Array, k: Array, v: Array, padding_mask: Array | None = None, **tokens: Any
    ) -> Array:
        """The heads' outputs ``[..., n, head, feature]``."""
        every_head = None if padding_mask is None else padding_mask[..., None, :]
        return ops.call(own, "mix", q, k, v, padding_mask=every_head, **tokens, **self.scalars(ops, q))

    def forward(self, ops: Ops, own: Any, x: Array, **tokens: Any) -> Array:
        check_tokens(type(self).__name__, x, **tokens)
        return own.out(self.mix(ops, own, own.query(x), own.key(x), own.value(x), **tokens))

    def resume(self, ops: Ops, own: Any, x: Array, state: State) -> tuple[Array, State]:
        if self.why_not():
            raise ValueError(f"{type(self).__name__} cannot stream: {self.why_not()}")
        q, k, v = own.query(x), own.key(x), own.value(x)
        scalars = self.scalars(ops, q)
        y, state = ops.call(own, "mix", q, k, v, initial_state=state, return_state=True, **scalars)
        return own.out(y), state

    def step(self, ops: Ops, own: Any, x: Array, state: State) -> tuple[Array, State]:
        if state is None or self.why_not():
            return super().step(ops, own, x, state)
        q, k, v = own.query(x), own.key(x), own.value(x)
        y, state = ops.step(own, "mix", state, q, k, v, **self.scalars(ops, q))
        return own.out(y), state


def decay_of_heads(decay: Any, num_heads: int) -> float | tuple[float, ...] | None:
    """A decay as a float, or one a head as a tuple.

    Raises
    ------
    ValueError
        If there are not as many as heads, or one is outside (0, 1].
    """
    if decay is None or isinstance(decay, int | float):
        return decay  # the operator checks it
    try:
        each = tuple(float(value) for value in decay)
    except (TypeError, ValueError):
        each = ()
    if len(each) != num_heads or not all(0 < value <= 1 for value in each):
        raise refuse("decay", decay, f"a number in (0, 1], or {num_heads} of them, one a head")
    return each


def operator_decay(decay: Any) -> Scalar | None:
    """The operator's knob for a layer's decay: one a head arrives with every call."""
    return PARAMETER if isinstance(decay, tuple) else decay


def why_no_stream(mask: str | None) -> str:
    """Why a mixer with this mask cannot stream, or nothing if it can."""
    if mask is None:
        return "with mask=None every token sees the tokens after it; mask='causal' can"
    if mask == "tril":
        return "with mask='tril' T is built from the whole sequence; mask='causal' can"
    return ""
