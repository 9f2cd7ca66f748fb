"""The parameters of the CUDA kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dtn_core.errors import CompileError

from ..schedule import Schedule

MOST_WARPS = 16
TILE = 16
"""Rows and columns of the smallest product on tensor cores."""


@dataclass(frozen=True)
class CudaSchedule(Schedule):
    """One member of the family of CUDA kernels.

    Attributes
    ----------
    chunk : int
        Tokens a chunk.
    warps : int
        Warps of a thread block.
    stages : int
        Chunks of tokens in shared memory: one is computed while the others are on their way.
    block : int
        Columns of a result that one thread block computes, where nothing sums over the result's features;
        0 for all of them.
    halves : int
        16-bit numbers that a state is rounded to where tensor cores read it: 1, or 2 (high and low part).
    split : int
        Thread blocks to cut all sequences into, by segments that are computed side by side; 0 to cut none.
    """

    chunk: int = 64
    warps: int = 4
    stages: int = 2
    block: int = 0
    halves: int = 1
    split: int = 0

    kind: ClassVar[str] = "cuda"

    def __post_init__(self) -> None:
        for name, value, fits in (
            ("chunk", self.chunk, self.chunk > 0 and self.chunk % TILE == 0),
            ("warps", self.warps, 0 < self.warps <= MOST_WARPS and self.warps & (self.warps - 1) == 0),
            ("stages", self.stages, self.stages in (1, 2, 3, 4)),
            ("block", self.block, self.block >= 0 and self.block % TILE == 0),
            ("halves", self.halves, self.halves in (1, 2)),
            ("split", self.split, self.split >= 0),
        ):
            if not fits:
                raise CompileError(f"{name}={value} is no CUDA schedule; {_EXPECTED[name]}")


@dataclass(frozen=True)
class CudaRows(CudaSchedule):
    """Parameters of a CUDA kernel that goes through n×n matrices by chunks of their rows, in place of states."""

    kind: ClassVar[str] = "cuda-rows"
    by_rows: ClassVar[bool] = True


_EXPECTED = {
    "chunk": f"expected a positive multiple of {TILE}",
    "warps": f"expected a power of two up to {MOST_WARPS}",
    "stages": "expected 1 to 4",
    "block": f"expected 0 or a multiple of {TILE}",
    "halves": "expected 1 or 2",
    "split": "expected 0 or a number of thread blocks",
}
