"""The block: token mixing, channel mixing and an MLP, each normalised first and added to its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from .attention import SoftmaxAttention, TensorAttention
from .definition import Array, Definition, Ops, State
from .heads import HeadMixer, decay_of_heads
from .interaction import TensorInteraction
from .mlp import MLP
from .norm import LayerNorm
from .validation import positive_int, refuse

MIXERS = ("tensor", "linear", "softmax")
KNOBS = ("attention_knobs", "interaction_knobs")

Knobs = Mapping[str, Any] | tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class DeepTensorBlock(Definition):
    """Pre-norm residual block: Tensor Attention, Tensor Interaction, MLP.

    Parameters
    ----------
    embed_dim : int
        Size of a token.
    num_heads : int
        Heads of both mixers.
    head_dim : int, optional
        Features a head; by default ``embed_dim // num_heads``.
    mlp_ratio : int
        Hidden size of the MLP over ``embed_dim``.
    mixer : {"tensor", "linear", "softmax"}
        The token mixing: Tensor Attention, its first order without normalisation, or softmax attention.
        Nothing else changes, so that the three have the same parameters and compare fairly.
    bias : bool
        Whether the mixers' projections have a bias.
    mask : {None, "tril", "causal"}
        Mask of the token mixing; ``"causal"`` makes the channel mixing causal too. Softmax has no ``"tril"``.
    decay : float or sequence of float, optional
        Decay of both mixers, with ``mask="causal"``: one, or one a head. Softmax attention has none, its
        channel mixing has.
    attention_knobs, interaction_knobs : Mapping[str, Any], optional
        More knobs of the token mixing and of the channel mixing, ``{"normalize": "diag"}``.

    Raises
    ------
    ValueError
        Names the argument, what was got and what is expected, or the knobs that clash.

    Examples
    --------
    >>> block = DeepTensorBlock(embed_dim=32, num_heads=4, attention_knobs={"order": 3})
    >>> block.children()["attention"].order
    3
    """

    embed_dim: int
    num_heads: int = 1
    head_dim: int | None = None
    mlp_ratio: int = 4
    mixer: str = "tensor"
    bias: bool = True
    mask: str | None = None
    decay: float | Sequence[float] | None = None
    attention_knobs: Knobs = ()
    interaction_knobs: Knobs = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "mlp_ratio", positive_int("mlp_ratio", self.mlp_ratio))
        if self.mixer not in MIXERS:
            raise refuse("mixer", self.mixer, f"one of {', '.join(map(repr, MIXERS))}")
        object.__setattr__(self, "decay", decay_of_heads(self.decay, self.num_heads))
        for name in KNOBS:
            object.__setattr__(self, name, frozen_knobs(name, getattr(self, name)))
        self.children()  # refuses what a child refuses

    def config(self) -> dict[str, Any]:
        knobs = {name: dict(getattr(self, name)) for name in KNOBS}
        return {**super().config(), **knobs}

    def attention(self) -> HeadMixer:
        """The token mixing."""
        if self.mixer == "softmax":
            return self.mixing(SoftmaxAttention, "attention_knobs", mask=self.mask)
        fixed: dict[str, Any] = {"mask": self.mask, "decay": self.decay}
        if self.mixer == "linear":
            fixed.update(order=1, normalize=None)
        return self.mixing(TensorAttention, "attention_knobs", **fixed)

    def interaction(self) -> HeadMixer:
        """The channel mixing."""
        mask = "causal" if self.mask == "causal" else None
        return self.mixing(TensorInteraction, "interaction_knobs", mask=mask, decay=self.decay)

    def mixing(self, kind: type[HeadMixer], argument: str, **fixed: Any) -> HeadMixer:
        """A mixer with the block's sizes, what the block fixes, and the user's knobs."""
        own = {"embed_dim", "num_heads", "head_dim", "bias", *fixed}
        free = [field.name for field in fields(kind) if field.name not in own]
        knobs = dict(getattr(self, argument))
        for name in knobs:
            if name not in free:
                raise refuse(argument, name, f"one of {', '.join(free)}")
        return kind(self.embed_dim, self.num_heads, self.head_dim, self.bias, **fixed, **knobs)

    def why_not(self) -> str:
        return self.attention().why_not()

    def children(self) -> Mapping[str, Definition]:
        norm = LayerNorm(self.embed_dim)
        return {
            "attention_norm": norm,
            "attention": self.attention(),
            "interaction_norm": norm,
            "interaction": self.interaction(),
            "mlp_norm": norm,
            "mlp": MLP(self.embed_dim, self.mlp_ratio * self.embed_dim),
        }

    def forward(self, ops: Ops, own: Any, x: Array, **tokens: Any) -> Array:
        x = x + own.attention(own.attention_norm(x), **tokens)
        x = x + own.interaction(own.interaction_norm(x), **tokens)
        return x + own.mlp(own.mlp_norm(x))

    def resume(self, ops: Ops, own: Any, x: Array, state: State) -> tuple[Array, State]:
        return self.go_on(own, x, state, "resume")

    def step(self, ops: Ops, own: Any, x: Array, state: State) -> tuple[Array, State]:
        return self.go_on(own, x, state, "step")

    def go_on(self, own: Any, x: Array, state: State, how: str) -> tuple[Array, State]:
        """The value of what follows, by the mixers' ``"resume"`` or ``"step"``."""
        if why := own.attention.definition.why_not():
            raise ValueError(f"DeepTensorBlock cannot stream: {why}")
        after = {}
        for name, norm in (("attention", own.attention_norm), ("interaction", own.interaction_norm)):
            mixed, after[name] = getattr(getattr(own, name), how)(norm(x), state and state[name])
            x = x + mixed
        return x + own.mlp(own.mlp_norm(x)), after


def frozen_knobs(argument: str, knobs: Any) -> tuple[tuple[str, Any], ...]:
    """Knobs as sorted pairs, so that a definition stays hashable."""
    try:
        return tuple(sorted(dict(knobs or ()).items()))
    except (TypeError, ValueError):
        raise refuse(argument, knobs, "a mapping from knob names to values") from None
