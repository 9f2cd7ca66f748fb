"""The language model: tokens, causal blocks, a score for every token that may come next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .block import KNOBS, DeepTensorBlock, Knobs
from .definition import Array, Definition, Ops, State
from .embedding import Embedding
from .heads import decay_of_heads
from .norm import LayerNorm
from .projection import Projection
from .validation import positive_int, refuse


@dataclass(frozen=True)
class DeepTensorLM(Definition):
    """Token embedding → causal Deep Tensor blocks → norm → logits.

    There is no table of positions: order comes from causality and decay alone, so that a sequence may be of
    any length. With ``mixer="tensor"`` or ``"linear"`` it streams from a state of fixed size.

    Parameters
    ----------
    vocab_size : int
        Number of tokens; 256 for bytes.
    embed_dim : int
        Size of a token inside.
    num_heads : int
        Heads of the blocks' mixers.
    depth : int
        Number of blocks.
    mlp_ratio : int
        Hidden size of the MLPs over ``embed_dim``.
    mixer : {"tensor", "linear", "softmax"}
        Token mixing of the blocks.
    decay : float or sequence of float, optional
        Decay of the blocks' mixers: one, or one a head; None for none. By default ``1 - 2 ** -x`` with x
        spread evenly from 1 to 7 over the heads: some see the last few tokens, some hundreds.
    tie_embedding : bool
        Whether the logits are the products with the embedding's vectors, instead of a projection of their own.
    attention_knobs, interaction_knobs : Mapping[str, Any], optional
        More knobs of the blocks' mixers.

    Raises
    ------
    ValueError
        Names the argument, what was got and what is expected, or the knobs that clash.

    Notes
    -----
    ``tokens[..., n]`` of integers ``-> logits[..., n, vocab]``; those at t depend on the tokens up to t.
    """

    keeps_tokens: ClassVar[bool] = False
    reads_integers: ClassVar[bool] = True

    vocab_size: int = 256
    embed_dim: int = 64
    num_heads: int = 4
    depth: int = 2
    mlp_ratio: int = 4
    mixer: str = "tensor"
    decay: float | Sequence[float] | str | None = "spread"
    tie_embedding: bool = True
    attention_knobs: Knobs = ()
    interaction_knobs: Knobs = ()

    def __post_init__(self) -> None:
        for name in ("vocab_size", "num_heads", "depth"):
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))
        if not isinstance(self.tie_embedding, bool):
            raise refuse("tie_embedding", self.tie_embedding, "a bool")
        object.__setattr__(self, "decay", self.decays())
        block = self.block()  # refuses what a child refuses
        for name in KNOBS:
            object.__setattr__(self, name, getattr(block, name))

    def config(self) -> dict[str, Any]:
        knobs = {name: dict(getattr(self, name)) for name in KNOBS}
        return {**super().config(), **knobs}

    def decays(self) -> float | tuple[float, ...] | None:
        """The decay of the blocks' mixers."""
        return spread(self.num_heads) if self.decay == "spread" else decay_of_heads(self.decay, self.num_heads)

    def block(self) -> DeepTensorBlock:
        """One of the ``depth`` blocks."""
        return DeepTensorBlock(
            self.embed_dim,
            self.num_heads,
            mlp_ratio=self.mlp_ratio,
            mixer=self.mixer,
            mask="causal",
            decay=self.decays(),
            attention_knobs=self.attention_knobs,
            interaction_knobs=self.interaction_knobs,
        )

    def children(self) -> Mapping[str, Definition | tuple[Definition, ...]]:
        embed, token = (("embed", self.embed_dim),), (("token", self.vocab_size),)
        return {
            "embedding": Embedding(self.vocab_size, self.embed_dim),
            "blocks": (self.block(),) * self.depth,
            "norm": LayerNorm(self.embed_dim),
            **({} if self.tie_embedding else {"head": Projection(embed, token)}),
        }

    def forward(self, ops: Ops, own: Any, x: Array, **tokens: Any) -> Array:
        x = own.embedding(x)
        for block in own.blocks:
            x = block(x, **tokens)
        return self.logits(ops, own, x)

    def logits(self, ops: Ops, own: Any, x: Array) -> Array:
        """``x[..., embed] -> logits[..., vocab]``."""
        x = own.norm(x)
        return own.embedding.definition.scores(ops, own.embedding, x) if self.tie_embedding else own.head(x)

    def why_not(self) -> str:
        return self.block().why_not()

    def resume(self, ops: Ops, own: Any, x: Array, state: State) -> tuple[Array, State]:
        return self.go_on(ops, own, x, state, "resume")

    def step(self, ops: Ops, own: Any, x: Array, state: State) -> tuple[Array, State]:
        return self.go_on(ops, own, x, state, "step")

    def check_state(self, state: State, count: int) -> None:
        """Refuse what is not a state of ``count`` blocks."""
        if state is None:
            return
        blocks = state.get("blocks") if isinstance(state, Mapping) else None
        if not isinstance(blocks, tuple | list):
            raise TypeError(f"DeepTensorLM: state is a {type(state).__name__}, expected what init_state returned")
        if len(blocks) != count:
            raise ValueError(f"DeepTensorLM: state is of {len(blocks)} blocks, expected {count}")

    def go_on(self, ops: Ops, own: Any, x: Array, state: State, how: str) -> tuple[Array, State]:
        """The logits after what follows, by the blocks' ``"resume"`` or ``"step"``."""
        if why := own.blocks[0].attention.definition.why_not():
            raise ValueError(f"DeepTensorLM cannot stream: {why}")
        self.check_state(state, len(own.blocks))  # not the depth: blocks may be appended or taken out
        x, after = own.embedding(x), []
        for number, block in enumerate(own.blocks):
            x, one = getattr(block, how)(x, state and state["blocks"][number])
            after.append(one)
        return self.logits(ops, own, x), {"blocks": tuple(after)}


def spread(num_heads: int) -> tuple[float, ...]:
    """Decays ``1 - 2 ** -x``, x spread evenly from 1 to 7 over the heads.

    Examples
    --------
    >>> spread(4)
    (0.5, 0.875, 0.96875, 0.9921875)
    """
    steps = max(1, num_heads - 1)
    return tuple(1 - 2.0 ** -(1 + 6 * head / steps) for head in range(num_heads))
