"""What is measured of the operators that see the whole sequence, and what was promised of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .case import FORWARD, Contender, Figures, Race, Shape
from .measure import differences, ratios
from .problems import ASYMMETRIC, ATTENTION, EXPM, INTERACTION, ORDER_1, ORDER_3
from .report import Table, Target, contest, everything, measured, target_table

NAME = "unmasked"
HEADING = "Whole sequence, unmasked"
INTRODUCTION = """\
Tensor Attention (order 2, trace-normalised, the default), orders 1 and 3, the asymmetric second order, the matrix
exponential, and Tensor Interaction; float32, batch 1, 8 heads, d = e = 64 unless a row says otherwise. `by hand` is the
line one would write, of linear cost; `dense` is the paper's formula as an einsum, n×n. Every output was held to a
float64 formula first, and that to the dense interpreter."""

DENSE_UP_TO, HEADLINE = 4096, 4096
KERNELS_FROM = 8192
"""Tokens from which kernels are to be faster than products that leave the cache."""
TINY = Shape(1, 1, 4)
OVERHEAD = "call overhead, 4 tokens of 4 features"
WIDTHS = (32, 128)

_LENGTHS = {
    "quick": (1024,),
    "usual": (128, 1024, HEADLINE, 16384, 65536),
    "full": (128, 1024, 4096, 16384, 65536, 262144),
}
_OTHER_LENGTHS = {"quick": (1024,), "usual": (1024, 16384), "full": (1024, 16384)}
_ROUNDS = {"quick": 5, "usual": 7, "full": 11}

_OURS = (
    Contender("torch", "dtn", "eager", ours=True),
    Contender("torch", "dtn", "compiled", ours=True),
    Contender("jax", "dtn", "jit", ours=True),
    Contender("tensorflow", "dtn", "graph", ours=True),
    Contender("tensorflow", "dtn", "xla", ours=True),
    Contender("numpy", "dtn", "eager", ours=True),
)
_BY_HAND = tuple(replace(c, implementation="by hand", ours=False) for c in _OURS)
_DENSE = tuple(
    Contender(framework, "dense", mode, stops=DENSE_UP_TO, why="n×n")
    for framework, mode in (("torch", "eager"), ("torch", "compiled"), ("jax", "jit"))
)
_LIBRARIES = (
    Contender("torch", "opt_einsum", "eager"),
    Contender("torch", "einx", "eager"),
    Contender("torch", "cuequivariance", "eager"),
)
_TVM = Contender("torch", "dtn tvm", "eager", ours=True)


def case(problem: str) -> str:
    """The name under which a problem's figures are kept."""
    return f"{problem}, {FORWARD}"


def races(scale: str) -> list[Race]:
    """Everything that is measured, at ``scale``."""
    rounds = _ROUNDS[scale]
    everybody = (*_OURS, _TVM, *_BY_HAND, *_DENSE, *_LIBRARIES)
    found = [_race(ATTENTION, everybody, n, rounds, memory=scale != "quick") for n in _LENGTHS[scale]]
    for problem in (ORDER_1, ORDER_3, ASYMMETRIC, INTERACTION, EXPM):
        every = (*_OURS, *_BY_HAND) if scale != "quick" else (_OURS[0], _BY_HAND[0])
        others = _LIBRARIES if problem == ORDER_1 else ()
        found += [_race(problem, (*every, *others), n, rounds) for n in _OTHER_LENGTHS[scale]]
    if scale != "quick":
        for width in WIDTHS:
            shape = Shape(features=width)
            found.append(_race(ATTENTION, (*_OURS[:1], *_BY_HAND[:1]), HEADLINE, rounds, shape))
    pairs = (_OURS[0], _BY_HAND[0], _OURS[5], _BY_HAND[5])
    entries = tuple((replace(c, computes=ATTENTION), 4) for c in pairs)
    found.append(Race(OVERHEAD, FORWARD, entries, 3 * rounds, TINY))
    return found


def _race(
    problem: str,
    contenders: Sequence[Contender],
    n: int,
    rounds: int,
    shape: Shape | None = None,
    *,
    memory: bool = False,
) -> Race:
    chosen = [
        replace(c, computes=problem, memory=memory and (c.framework, c.mode) == ("torch", "eager")) for c in contenders
    ]
    return Race(case(problem), FORWARD, tuple((c, n) for c in chosen), rounds, shape or Shape())


def tables(figures: Sequence[Figures]) -> list[Table]:
    """What a reader wants to see, in order."""
    cases = [case(problem) for problem in (ATTENTION, ORDER_1, ORDER_3, ASYMMETRIC, INTERACTION, EXPM)]
    return [
        target_table(targets(figures)),
        *(contest(figures, name) for name in cases),
        everything(figures, cases[0]),
        contest(figures, OVERHEAD),
    ]


def targets(figures: Sequence[Figures]) -> list[Target]:
    """What was promised, as far as it was measured."""
    found = []
    default = [f for f in measured(figures, case(ATTENTION)) if f.shape == Shape()]
    for f in (f for f in default if f.ours and f.implementation == "dtn"):
        for peer in default:
            same = (peer.framework, peer.mode, peer.n) == (f.framework, f.mode, f.n)
            if peer.implementation == "by hand" and same:
                what = f"tensor attention, {f.framework} {f.mode}: time ÷ by hand"
                found.append(Target(what, f"n = {f.n}", ratios(f.rounds, peer.rounds), 1.05))
            if peer.implementation == "dense" and same and f.n == HEADLINE:
                what = f"tensor attention, {f.framework} {f.mode}: times faster than the dense einsum"
                found.append(Target(what, f"n = {f.n}", ratios(peer.rounds, f.rounds), 5, at_least=True))
    for kernel in (f for f in default if f.implementation == _TVM.implementation and f.n >= KERNELS_FROM):
        for peer in default:
            if (peer.implementation, peer.framework, peer.mode, peer.n) == ("by hand", "torch", "eager", kernel.n):
                what = "tensor attention, kernel: times faster than torch by hand"
                found.append(Target(what, f"n = {kernel.n}", ratios(peer.rounds, kernel.rounds), 2, at_least=True))
    tiny = measured(figures, OVERHEAD)
    for framework in ("torch", "numpy"):
        both = {f.ours: f.rounds for f in tiny if f.framework == framework}
        if len(both) == 2:
            what = f"a call of {framework}: µs more than the hand-written line"
            found.append(Target(what, "", differences(both[True], both[False], 1e6), 20))
    return found
