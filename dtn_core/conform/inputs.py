"""Seeded inputs, well scaled and ill scaled, exactly representable in the dtype under test."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.axes import sequence_axes
from .bounds import EPSILON
from .dense import rounded
from .operators import Case
from .reference import Reference
from .sizes import place, shapes

CHANGE = 1e-9
CONDITION = 50
DIGITS = 0.05
"""Ill scaled inputs are used while rounding them in the dtype changes the oracle's value by less than this."""

RANGE = {"float16": 1.0}
"""Decades that norms of tokens spread to either side; 4 unless the dtype's range is smaller."""

ROOM = 0.01
"""Of the range of the dtype that sums are taken in, for results before they are divided."""

WIDE = {"float64": np.float64, "complex128": np.float64}

SEED = 20231118


@dataclass(frozen=True)
class Inputs:
    """The tensors of a call, in float64 or complex128 with values that the dtype has, and what is special in them."""

    label: str
    tensors: tuple[np.ndarray, ...]


Evaluate = Callable[..., tuple[np.ndarray, ...]]


def well_scaled(case: Case, dtype: str, evaluate: Evaluate, tokens: int, leading: tuple[int, ...] = ()) -> Inputs:
    """Well scaled tensors: of both signs around 0.3, at which a small change of them changes the value little.

    Parameters
    ----------
    case : Case
        The operator.
    dtype : str
        What they are rounded to.
    evaluate : callable
        The oracle.
    tokens : int
        Length of the sequence.
    leading : tuple of int
        Leading axes of all tensors.

    Raises
    ------
    ArithmeticError
        If none of 200 draws is well conditioned.
    """
    program = case.operator.program
    rng = np.random.default_rng([SEED, zlib.crc32(case.text.encode()), tokens])
    full = [(*leading, *shape) for shape in shapes(program, dict.fromkeys(sequence_axes(program), tokens))]
    size = 1.0
    for attempt in range(200):
        tensors = _draw(rng, dtype, case, full, size)
        if _condition(rng, tensors, evaluate, _largest(dtype)) <= CONDITION:
            return Inputs("well scaled", tensors)
        if attempt % 20 == 19:
            size *= 0.8  # an exponential of something smaller
    raise ArithmeticError(f"{case.text}: none of 200 inputs is well conditioned")


def broadcasting(well: Inputs, dtype: str, leading: Sequence[tuple[int, ...]]) -> Inputs:
    """Tensors near those of ``well`` (without leading axes), each with leading axes of its own."""
    rng = np.random.default_rng(SEED + 2)
    made = []
    for number, x in enumerate(well.tensors):
        shape = (*leading[number % len(leading)], *x.shape)
        made.append(rounded(x * (1 + 0.1 * rng.normal(size=shape)), dtype))
    return Inputs("leading axes that broadcast", tuple(made))


def ill_scaled(reference: Reference, dtype: str, well: Inputs, tokens: int) -> tuple[list[Inputs], list[str]]:
    """Norms from 1e-4 to 1e4, near-duplicate tokens, one huge token; and the labels of those that are left out."""
    case, program = reference.case, reference.program
    rng = np.random.default_rng([SEED + 1, zlib.crc32(case.text.encode()), tokens])
    decades = RANGE.get(dtype, 4.0)
    axes = sequence_axes(program)
    spread: list[np.ndarray] = []
    huge: list[np.ndarray] = []
    near: list[np.ndarray] = []
    for x, param in zip(well.tensors, program.tensors, strict=True):
        if not axes or axes[0] not in param.axes:
            for made in (spread, huge, near):
                made.append(x)
            continue
        shape = (tokens, *[1] * (len(param.axes) - 1 - param.axes.index(axes[0])))
        norms = 10.0 ** rng.uniform(-decades, decades, shape)
        spread.append(rounded(x * norms, dtype))
        one = np.ones(shape)
        one[tokens // 2] = 10.0**decades
        huge.append(rounded(x * one, dtype))
        first = x[place(param.axes, axes[0], slice(0, 1))]
        near.append(rounded(first * (1 + 1e-3 * rng.normal(size=x.shape)), dtype))
    label = f"1e{decades:g}"
    drawn = [
        Inputs(f"norms 1e-{decades:g} to {label}", tuple(spread)),
        Inputs("near-duplicate tokens", tuple(near)),
        Inputs(f"one token times {label}", tuple(huge)),
    ]
    limit = DIGITS / EPSILON[dtype]
    kept = [
        each
        for each in drawn
        if _condition(rng, each.tensors, reference.value, _largest(dtype)) <= limit
        and reference.undivided(*each.tensors) <= ROOM * float(np.finfo(WIDE.get(dtype, np.float32)).max)
    ]
    return kept, [each.label for each in drawn if each not in kept]


def _draw(
    rng: np.random.Generator, dtype: str, case: Case, full: Sequence[tuple[int, ...]], size: float
) -> tuple[np.ndarray, ...]:
    made = [size * (0.3 + 0.4 * rng.normal(size=shape)) for shape in full]
    if dtype.startswith("complex"):
        made = [x + size * 0.3j * rng.normal(size=x.shape) for x in made]
    names = [param.name for param in case.operator.program.tensors]
    if names[:2] == ["q", "k"]:  # scores that do not cancel
        made[1] = made[1] * 0.3 + made[0]
    return tuple(rounded(x, dtype) for x in made)


def _condition(
    rng: np.random.Generator, tensors: Sequence[np.ndarray], evaluate: Evaluate, largest: float = np.inf
) -> float:
    """Relative change of the oracle's value for one of the tensors; infinite where the value leaves the range."""
    moved = tuple(x * (1 + CHANGE * rng.choice([-1.0, 1.0], x.shape)) for x in tensors)
    found = 0.0
    for value, other in zip(evaluate(*tensors), evaluate(*moved), strict=True):
        top = float(np.max(np.abs(value), initial=0.0))
        if not np.all(np.isfinite(value)) or top > largest or not np.all(np.isfinite(other)):
            return float(np.inf)
        found = max(found, float(np.max(np.abs(other - value), initial=0.0)) / (CHANGE * (top or 1.0)))
    return found


def _largest(dtype: str) -> float:
    """What results may reach: well below the largest number, as sums and their cubes come before them."""
    return {"float16": 1e4, "float64": 1e100, "complex128": 1e100}.get(dtype, 1e20)
