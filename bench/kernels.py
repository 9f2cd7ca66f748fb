"""What is measured of kernels on the processor against generated source in PyTorch, and what was promised of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from . import ceilings
from .case import FORWARD, GRADIENTS, SECOND_ORDER, USUAL, Contender, Figures, Race, Shape
from .measure import median, ratio, ratios
from .problems import (
    ATTENTION,
    CAUSAL_1,
    CAUSAL_3,
    CAUSAL_ASYMMETRIC,
    CAUSAL_HADAMARD,
    CAUSAL_INTERACTION,
    CAUSAL_RELU,
    CAUSAL_TRACED,
    EXP,
    EXPM,
    INTERACTION,
    TRIL,
)
from .report import Row, Table, Target, duration, length, measured, target_table

NAME = "kernels"
HEADING = "Kernels on the processor"
INTRODUCTION = """\
`implementation="tvm"` against the source that is generated for PyTorch (native), both called eagerly; float32, batch 1,
8 heads, d = e = 64 unless a row says otherwise. Every output and gradient was held to a float64 reference first, and
that to the dense interpreter; `relu` gets scores that are not near 0, where rounding would decide its derivative. Where
a kernel has no gradient of its own, the native one runs. The rate counts what a recurrence needs, 4 d (d + e)
operations a token, and nothing that a chunk adds to it."""

NATIVE = Contender("torch", "dtn", "eager", ours=True)
KERNEL = replace(NATIVE, implementation="dtn tvm")

LONG = {FORWARD: 8192, GRADIENTS: 2048}
"""Tokens from which a kernel is to be faster by the factor ``FASTER``; below, it is not to be slower than ``EVEN``.

Without order the generated source is large products alone: forward is held to the line by hand instead, see
:mod:`bench.unmasked`.  A single head has to use all cores, which eight heads do anyway.
"""
FASTER, EVEN, PEAK_SHARE = 2, 0.9, 0.9
CEILING_CASE = "kernels: a product of large matrices"

_ROUNDS = {"quick": 5, "usual": 7, "full": 11}
_QUICK = (
    (SECOND_ORDER, FORWARD, (512,)),
    (SECOND_ORDER, GRADIENTS, (512,)),
    (ATTENTION, FORWARD, (1024,)),
    (CAUSAL_RELU, FORWARD, (512,)),
)
_USUAL = (
    (SECOND_ORDER, FORWARD, (64, 128, 512, 1000, 8191, 8192)),
    (SECOND_ORDER, GRADIENTS, (64, 512, 8192)),
    *(
        (problem, kind, lengths)
        for problem in (CAUSAL_1, CAUSAL_3, CAUSAL_ASYMMETRIC, CAUSAL_INTERACTION, CAUSAL_TRACED)
        for kind, lengths in ((FORWARD, (64, 8192)), (GRADIENTS, (2048,)))
    ),
    (ATTENTION, FORWARD, (64, 1024, 8192)),
    (ATTENTION, GRADIENTS, (64, 2048)),
    (EXPM, FORWARD, (2048,)),
    (INTERACTION, FORWARD, (64, 2048)),
    *(
        (problem, kind, (64, 512, 2048))
        for problem in (CAUSAL_HADAMARD, CAUSAL_RELU, EXP, TRIL)  # n×n in the generated source
        for kind in (FORWARD, GRADIENTS)
    ),
)
_SHAPES = (
    *((Shape(features=width), kind) for width in (32, 128) for kind in (FORWARD, GRADIENTS)),
    (Shape(values=128), FORWARD),
    (Shape(heads=1), FORWARD),
    (Shape(heads=1), GRADIENTS),
)
"""Of the causal second order, at 8192 tokens."""


def case(problem: str, kind: str) -> str:
    """The name under which figures are kept."""
    return f"kernels: {problem}, {kind}"


def races(scale: str) -> list[Race]:
    """Everything that is measured, at ``scale``."""
    rounds = _ROUNDS[scale]
    found = [
        _race(problem, kind, n, rounds)
        for problem, kind, lengths in (_QUICK if scale == "quick" else _USUAL)
        for n in lengths
    ]
    if scale != "quick":
        found += [_race(SECOND_ORDER, kind, 8192, rounds, shape) for shape, kind in _SHAPES]
        ceiling = ceilings.race()
        found.append(replace(ceiling, case=CEILING_CASE, entries=ceiling.entries[:1], rounds=rounds))
    return found


def recurrence_flops(n: int, shape: Shape) -> int:
    """Operations of the causal second order a token at a time: both of its states are added to and read."""
    d, e = shape.size("d"), shape.size("e")
    return 4 * n * shape.batch * shape.heads * d * (d + e)


def _race(problem: str, kind: str, n: int, rounds: int, shape: Shape = USUAL) -> Race:
    entries = tuple((replace(contender, computes=problem), n) for contender in (NATIVE, KERNEL))
    return Race(case(problem, kind), kind, entries, rounds, shape)


def tables(figures: Sequence[Figures]) -> list[Table]:
    """What a reader wants to see, in order."""
    rows = []
    for native, kernel in _pairs(figures):
        cells = [native.case.removeprefix("kernels: "), length(native), duration(median(native.rounds))]
        times = ratio(native.rounds, kernel.rounds) if kernel.rounds else None
        cells += [kernel.absent or "", ""] if times is None else [duration(median(kernel.rounds)), f"{times:.2f}"]
        rows.append(Row(tuple(cells), losing=times is not None and times < 1))
    columns = ("case", "n", "native", "kernel", "native ÷ kernel")
    return [target_table(targets(figures)), Table("kernels against generated source", columns, tuple(rows))]


def targets(figures: Sequence[Figures]) -> list[Target]:
    """What was promised, as far as it was measured."""
    found = []
    for native, kernel in _pairs(figures):
        if kernel.rounds:
            kind = GRADIENTS if native.case.endswith(GRADIENTS) else FORWARD
            elsewhere = (native.computes, kind) == (ATTENTION, FORWARD)
            single = native.shape == replace(USUAL, heads=1)
            limit = FASTER if native.n >= LONG[kind] and not (elsewhere or single) else EVEN
            shape = "" if native.shape == USUAL else f", {native.shape}"
            which = f"from {LONG[kind]} tokens on" if limit == FASTER else "otherwise"
            what, where = f"{kind}, {which}: native ÷ kernel", f"{native.computes}, n = {native.n}{shape}"
            found.append(Target(what, where, ratios(native.rounds, kernel.rounds), limit, at_least=True))
    most = ceilings.ceilings(measured(figures, CEILING_CASE)).get("flops")
    for f in measured(figures, case(SECOND_ORDER, FORWARD)):
        if most and (f.implementation, f.n, f.shape) == (KERNEL.implementation, 8192, USUAL):
            rates = [recurrence_flops(f.n, f.shape) / seconds / most for seconds in f.rounds]
            what = f"{FORWARD}: rate ÷ that of a large product of matrices"
            found.append(Target(what, f"{f.computes}, n = {f.n}", rates, PEAK_SHARE, at_least=True))
    return found


def _pairs(figures: Sequence[Figures]) -> Iterator[tuple[Figures, Figures]]:
    """Generated source that has times, and the kernel that ran, or should have run, beside it."""
    kernels = {(f.case, f.n, f.shape): f for f in figures if f.implementation == KERNEL.implementation}
    for f in figures:
        beside = kernels.get((f.case, f.n, f.shape))
        if f.implementation == NATIVE.implementation and f.rounds and beside is not None:
            yield f, beside
