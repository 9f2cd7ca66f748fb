"""Images to tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .definition import Array, Call, Definition, Ops, Parameter
from .initialise import Constant, Normal, glorot
from .validation import positive_int, refuse

# u and v count the rows and columns of patches, a and b those of pixels inside a patch
PATCHES = """patch_embedding(x[r,p,s,q,c], weight[p,q,c,m], bias[m], position[r,s,m]) -> y[r,s,m]:
    y[u,v,e] = x[u,a,v,b,f] * weight[a,b,f,e] + bias[e] + position[u,v,e]"""


@dataclass(frozen=True)
class PatchEmbedding(Definition):
    """Cuts an image into square patches and maps each to a token, with a learned position embedding.

    Parameters
    ----------
    image_size : int or (int, int)
        Height and width in pixels, multiples of ``patch_size``.
    patch_size : int
        Height and width of a patch.
    channels : int
        Values a pixel.
    embed_dim : int
        Size of a token.

    Notes
    -----
    ``images[..., height, width, channels] -> y[..., n, embed]``, tokens in row-major order; with one channel,
    ``images[..., height, width]`` too. ``weight[patch_row, patch_column, channel, embed]`` (Glorot uniform),
    ``bias[embed]`` (zeros), ``position[row, column, embed]`` (normal, 0.2).
    """

    keeps_tokens: ClassVar[bool] = False

    image_size: int | tuple[int, int]
    patch_size: int
    channels: int
    embed_dim: int

    def __post_init__(self) -> None:
        for name in ("patch_size", "channels", "embed_dim"):
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))
        object.__setattr__(self, "image_size", image_shape(self.image_size, self.patch_size))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = image_shape(self.image_size, self.patch_size)
        return height // self.patch_size, width // self.patch_size

    def parameters(self) -> Mapping[str, Parameter]:
        p, c, m, (rows, columns) = self.patch_size, self.channels, self.embed_dim, self.grid
        patch = (("patch_row", p), ("patch_column", p), ("channel", c))
        embed = ("embed", m)
        return {
            "weight": Parameter((*patch, embed), glorot([p, p, c], [m])),
            "bias": Parameter((embed,), Constant(0.0)),
            # as large as the embedded patches it is added to; far smaller, and learning waits for it to grow
            "position": Parameter((("row", rows), ("column", columns), embed), Normal(0.2)),
        }

    def calls(self) -> Mapping[str, Call]:
        return {"embed": Call(PATCHES)}

    def forward(self, ops: Ops, own: Any, x: Array, **tokens: Any) -> Array:
        if "cu_seqlens" in tokens:
            raise TypeError(f"{type(self).__name__} takes no cu_seqlens: the patches of an image are one sequence")
        size, channels = image_shape(self.image_size, self.patch_size), self.channels
        shape = tuple(x.shape)
        if shape[-3:] == (*size, channels):
            count = 3
        elif channels == 1 and shape[-2:] == size:
            count = 2
        else:
            also = f" or [..., {size[0]}, {size[1]}]" if channels == 1 else ""
            raise refuse("images", shape, f"a shape [..., {size[0]}, {size[1]}, {channels}]{also}")
        (rows, columns), p = self.grid, self.patch_size
        tiles = ops.reshape_last(x, count, (rows, p, columns, p, channels))
        tokens = ops.call(own, "embed", tiles, *(ops.value(own, name) for name in self.parameters()))
        return ops.reshape_last(tokens, 3, (rows * columns, self.embed_dim))


def image_shape(image_size: Any, patch_size: int) -> tuple[int, int]:
    """Height and width as a pair, both multiples of ``patch_size``."""
    pair = tuple(image_size) if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(pair) != 2:
        raise refuse("image_size", image_size, "an integer or (height, width)")
    height, width = (positive_int("image_size", side) for side in pair)
    if height % patch_size or width % patch_size:
        raise refuse("image_size", image_size, f"multiples of patch_size={patch_size}")
    return height, width
