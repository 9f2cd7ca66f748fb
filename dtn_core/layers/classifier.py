"""The image classifier: patches, blocks, a mean over the tokens, class scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .block import KNOBS, DeepTensorBlock, Knobs
from .definition import Array, Definition, Ops
from .norm import LayerNorm
from .patches import PatchEmbedding
from .pooling import MeanPool
from .projection import Projection
from .validation import positive_int


@dataclass(frozen=True)
class DeepTensorClassifier(Definition):
    """Image patches → Deep Tensor blocks → mean → logits.

    Parameters
    ----------
    image_size : int or (int, int)
        Height and width in pixels, multiples of ``patch_size``.
    patch_size : int
        Height and width of a patch; a patch is a token.
    channels : int
        Values a pixel.
    num_classes : int
        Number of logits.
    embed_dim : int
        Size of a token.
    num_heads : int
        Heads of the blocks' mixers.
    depth : int
        Number of blocks.
    mlp_ratio : int
        Hidden size of the MLPs over ``embed_dim``.
    mixer : {"tensor", "linear", "softmax"}
        Token mixing of the blocks.
    attention_knobs, interaction_knobs : Mapping[str, Any], optional
        Knobs of the blocks' mixers.

    Raises
    ------
    ValueError
        Names the argument, what was got and what is expected, or the knobs that clash.
    """

    keeps_tokens: ClassVar[bool] = False

    image_size: int | tuple[int, int] = (8, 8)
    patch_size: int = 2
    channels: int = 1
    num_classes: int = 10
    embed_dim: int = 32
    num_heads: int = 4
    depth: int = 2
    mlp_ratio: int = 4
    mixer: str = "tensor"
    attention_knobs: Knobs = ()
    interaction_knobs: Knobs = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_classes", positive_int("num_classes", self.num_classes))
        object.__setattr__(self, "depth", positive_int("depth", self.depth))
        object.__setattr__(self, "image_size", self.patches().image_size)
        block = self.block()  # with the patches above: refuses what a child refuses
        for name in KNOBS:
            object.__setattr__(self, name, getattr(block, name))

    def config(self) -> dict[str, Any]:
        knobs = {name: dict(getattr(self, name)) for name in KNOBS}
        return {**super().config(), **knobs}

    def patches(self) -> PatchEmbedding:
        """Image to tokens."""
        return PatchEmbedding(self.image_size, self.patch_size, self.channels, self.embed_dim)

    def block(self) -> DeepTensorBlock:
        """One of the ``depth`` blocks."""
        return DeepTensorBlock(
            self.embed_dim,
            self.num_heads,
            mlp_ratio=self.mlp_ratio,
            mixer=self.mixer,
            attention_knobs=self.attention_knobs,
            interaction_knobs=self.interaction_knobs,
        )

    def children(self) -> Mapping[str, Definition | tuple[Definition, ...]]:
        return {
            "patches": self.patches(),
            "blocks": (self.block(),) * self.depth,
            "norm": LayerNorm(self.embed_dim),
            "pool": MeanPool(),
            "head": Projection((("embed", self.embed_dim),), (("label", self.num_classes),)),
        }

    def forward(self, ops: Ops, own: Any, x: Array, **tokens: Any) -> Array:
        x = own.patches(x, **tokens)
        for block in own.blocks:
            x = block(x, **tokens)
        return own.head(own.pool(own.norm(x), **tokens))
