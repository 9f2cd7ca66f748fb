"""The parameters of the CUDA kernels and what a device allows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """What limits a thread block, and what bounds its speed.

    Attributes
    ----------
    arch : str
        As nvcc names it.
    shared : int
        Bytes of shared memory that one thread block may have.
    processors : int
        Streaming multiprocessors.
    bandwidth : float
        Bytes a second from memory.
    tensor, fma : float
        Floating-point operations a second on the tensor cores (float16 and bfloat16, ``mma.sync``) and outside them.
    """

    arch: str
    shared: int
    processors: int
    bandwidth: float
    tensor: float
    fma: float


DEVICES = {
    "sm_80": Device("sm_80", 166_912, 108, 1.5e12, 2.5e14, 1.9e13),
    "sm_90a": Device("sm_90a", 232_448, 132, 3.3e12, 6.2e14, 6.0e13),
}
"""NVIDIA A100 and H100/H200 (the slower of the two), from their data sheets; ``mma.sync`` reaches 63 % of wgmma."""


@dataclass(frozen=True)
class CudaSchedule:
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
        Columns of a result that one thread block computes, where a result's features are never summed;
        0 for all of them.
    halves : int
        16-bit numbers that a state is rounded to where tensor cores read it: 1, or 2 (high and low part).
    split : bool
        Whether sequences are cut into segments that are computed side by side.
    """

    chunk: int = 64
    warps: int = 4
    stages: int = 2
    block: int = 0
    halves: int = 1
    split: bool = False
    kind: str = "cuda"
