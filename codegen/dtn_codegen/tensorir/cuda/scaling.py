"""Powers of two that keep float16 in range: a tile is multiplied by one before it is rounded, its products divided.

A state is a sum over all tokens, and what reads it is larger still; float16 ends at 65504. The largest element of a
tile decides, so nothing is lost but bits below the smallest number, and float32 sums are exact under the scaling.
bfloat16 has the range of float32 and needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as tir

from .tiles import Engine, Expression, Fragment, local, ptx

TARGET = 10
"""Binary exponent that the largest element gets."""
LEAST, MOST = -60, 40
"""Exponents of a scale: float32 sums stay in range when they are multiplied by two of them."""
_BIAS, _MANTISSA = 127, 23
_ALL_LANES = 0xFFFFFFFF


@dataclass(frozen=True)
class Scale:
    """A power of two and its inverse, in registers."""

    factor: Any
    inverse: Any

    @classmethod
    def named(cls, name: str) -> Scale:
        """Not set yet."""
        return cls(local((1,), "float32", f"{name}_scale"), local((1,), "float32", f"{name}_unscale"))

    def set(self, largest: Expression) -> None:
        """From the bits of the largest element."""
        exponent = tir.cast(largest >> tir.uint32(_MANTISSA), "int32") - _BIAS
        power = tir.min(tir.max(TARGET - exponent, LEAST), MOST)
        for buffer, value in ((self.factor, power), (self.inverse, -power)):
            bits = tir.cast(value + _BIAS, "uint32") << tir.uint32(_MANTISSA)
            tir.buffer_store(buffer, tir.reinterpret("float32", bits), [0])


def largest_of_warp(engine: Engine, fragment: Fragment) -> Expression:
    """The bits of the largest magnitude among the elements of a warp."""
    largest, bits = local((1,), "float32", "largest"), local((1,), "uint32", "bits")
    tir.buffer_store(largest, tir.float32(0), [0])
    with engine.each(fragment.layout) as element:
        tir.buffer_store(largest, tir.max(largest[0], tir.abs(fragment.at(element))), [0])
    ptx("redux_sync.max.u32", bits[0], tir.reinterpret("uint32", largest[0]), tir.uint32(_ALL_LANES))
    return bits[0]


def largest_of_block(
    engine: Engine, fragment: Fragment, maxima: Any, slot: int, warp: Expression, warps: int, fence: Callable[[], None]
) -> Expression:
    """The same among the elements of all warps, by way of ``maxima[slot, warp]``; ``fence`` waits for the block."""
    tir.buffer_store(maxima, largest_of_warp(engine, fragment), [slot, warp])
    fence()
    bits = local((1,), "uint32", "bits")
    tir.buffer_store(bits, tir.uint32(0), [0])
    with tir.unroll(warps) as other:
        tir.buffer_store(bits, tir.max(bits[0], maxima[slot, other]), [0])
    return bits[0]
