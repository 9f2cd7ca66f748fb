"""What the machine can do at all, measured in every run: a large matrix product, a large copy."""

from __future__ import annotations

from collections.abc import Iterable

from .case import CEILING, USUAL, Contender, Figures, Race, Shape
from .measure import median

PRODUCT, COPY = "matrix product", "copy"
SQUARE, COPIED = 2048, 2**26


def race(device: str = "cpu", shape: Shape = USUAL) -> Race:
    """The race that measures them, in PyTorch."""
    product, copy = (Contender("torch", name, "eager", name) for name in (PRODUCT, COPY))
    return Race("ceilings", CEILING, ((product, SQUARE), (copy, COPIED)), 5, shape, device)


def ceilings(figures: Iterable[Figures]) -> dict[str, float]:
    """Operations and bytes a second, as far as they were measured."""
    found = {}
    for f in figures:
        if f.rounds and f.implementation == PRODUCT:
            found["flops"] = 2 * f.n**3 / median(f.rounds)
        elif f.rounds and f.implementation == COPY:
            found["bytes"] = 2 * f.n * (4 if f.shape.dtype == "float32" else 2) / median(f.rounds)
    return found
