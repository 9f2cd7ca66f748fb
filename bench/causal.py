"""What is measured of the causal second-order operator, and what was promised of it.

That is ``tensor_attention(mask="causal", normalize=None)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import gcd

from dtn_core.cpuinfo import cores

from .case import FORWARD, GRADIENTS, SOFTMAX, STEP, Contender, Figures, Race, Settings, Shape
from .measure import median, ratios
from .problems import CAUSAL_1, CAUSAL_3, CAUSAL_ASYMMETRIC, CAUSAL_INTERACTION
from .report import Table, Target, contest, everything, fastest, measured, rivals, series, target_table

NAME = "causal"
HEADING = "Causal, second order"
INTRODUCTION = """\
`o[t,c] = q[t,a]*k[i,a]*k[i,b]*q[j,b]*v[j,c] where i <= j <= t`, float32, batch 1, 8 heads, d = e = 64.
Medians of blocks measured in turn; ratios are medians of the ratios within a round. Every output was held to a float64
recurrence first, and that to the dense interpreter. `twin` is the chunked form written by hand, all chunks at once;
`grouped twin` walks groups of chunks that fit in the cache; their settings are the fastest of those tried at each n.
Peak extra memory: by how much the resident set of a fresh process grows at most during the call (Linux, VmHWM).
TensorFlow computes its products with oneDNN on processors that have AVX-512 VNNI and the like; elsewhere, only where
`TF_ENABLE_ONEDNN_OPTS=1` is in its environment, as it is in the race that says so. XLA computes products of many small
matrices on one core of a device; in the race of sharded heads each core has a device (`JAX_NUM_CPU_DEVICES`)."""

HEADLINE = 8192
KERNEL_RIVALS = ("torch", "jax")
"""Frameworks whose generated source kernels are held against: the fastest of them."""
STEP_LIMIT, DOUBLING_LIMIT = 1.1, 2.2
CHUNKS = (32, 64, 128)
GROUPS = ((32, 256), (64, 256), (64, 512), (64, 1024), (128, 512), (128, 1024))
OTHERS = (CAUSAL_1, CAUSAL_3, CAUSAL_ASYMMETRIC, CAUSAL_INTERACTION)
WIDTHS = (32, 128)
DENSE_UP_TO, SOFTMAX_UP_TO = 2048, 32768

_SCALES: dict[str, dict[str, tuple[int, ...]]] = {
    "quick": {FORWARD: (1024,), GRADIENTS: (1024,), "growth": (1024, 2048, 4096, 8192), STEP: (1, 1000)},
    "usual": {
        FORWARD: (128, 512, 2048, HEADLINE),
        GRADIENTS: (1024, HEADLINE),
        "growth": tuple(1024 << power for power in range(9)),
        STEP: (1, 1000, 100_000),
    },
    "full": {
        FORWARD: tuple(128 << power for power in range(9)),
        GRADIENTS: (128, 1024, HEADLINE, 32768),
        "growth": tuple(1024 << power for power in range(9)),
        STEP: (1, 1000, 100_000),
    },
}
SCALES = tuple(_SCALES)
_ROUNDS = {"quick": 7, "usual": 11, "full": 11}
"""As many, so that the largest of eight ratios, of n doubled, is not that of the noise."""

GROWTH, STEPS = "forward, n doubled", "one token more"
KEPT = f"{GROWTH}, freed memory kept"
GROWTH_NOTE = """\
The target is ours; the twin shows what the machine does. From some n on, a result is too large for the C library to
give its memory out again, and every page of it is mapped and cleared anew in each call."""
ONEDNN = f"{FORWARD}, TensorFlow with oneDNN"
KEPT_ENVIRONMENT = (("MALLOC_MMAP_MAX_", "0"), ("MALLOC_TRIM_THRESHOLD_", "4294967296"))
ONEDNN_ENVIRONMENT = (("TF_ENABLE_ONEDNN_OPTS", "1"),)
SHARDED = f"{FORWARD}, JAX with heads sharded over a device for each core"
SHARDED_ENVIRONMENT = (("JAX_NUM_CPU_DEVICES", str(gcd(cores(), Shape().heads))),)
KEPT_NOTE = """\
The same in processes whose C library gives out again what was freed, whatever its size. Any program on glibc is started
that way by `MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4294967296` in its environment; jemalloc and tcmalloc, which
`LD_PRELOAD` puts in its place, keep large blocks too, though not for ever."""

_EAGER = Contender("torch", "dtn", "eager", ours=True)
_GROWING_TWIN = Contender("torch", "grouped twin", "eager", grid=({"chunk": 64, "tokens": 512},))
_COMPILED = replace(_EAGER, mode="compiled")
_TVM = replace(_EAGER, implementation="dtn tvm")
_TENSORFLOW = (
    Contender("tensorflow", "dtn", "graph", ours=True),
    Contender("tensorflow", "dtn", "xla", ours=True),
)
_SHARDED = Contender("jax", "dtn", "sharded", ours=True)
_OURS_ELSEWHERE = (
    Contender("numpy", "dtn", "eager", ours=True),
    Contender("jax", "dtn", "jit", ours=True),
    *_TENSORFLOW,
)

_TWINS_ELSEWHERE = (
    Contender("jax", "twin", "jit"),
    Contender("tensorflow", "twin", "graph"),
    Contender("tensorflow", "twin", "xla"),
)


def _chunks(n: int) -> tuple[Settings, ...]:
    return tuple({"chunk": chunk} for chunk in CHUNKS if chunk <= n)


def _groups(n: int) -> tuple[Settings, ...]:
    return tuple({"chunk": chunk, "tokens": tokens} for chunk, tokens in GROUPS if tokens <= n)


def _by_hand(n: int, *, compiled: bool, again: bool) -> list[Contender]:
    """The twins; ``again`` looks for the best chunk of the compiled one anew instead of taking over the eager one's."""
    twin = Contender("torch", "twin", "eager", grid=_chunks(n))
    grouped = Contender("torch", "grouped twin", "eager", grid=_groups(n))
    if not compiled:
        return [twin, grouped]
    return [
        twin,
        replace(twin, mode="compiled", like="" if again else "eager"),
        grouped,
        replace(grouped, mode="compiled", like="eager"),
    ]


def races(scale: str) -> list[Race]:
    """Everything that is measured.

    Parameters
    ----------
    scale : {"quick", "usual", "full"}
        How much of it.
    """
    sizes, rounds = _SCALES[scale], _ROUNDS[scale]
    full = scale == "full"
    softmax = Contender("torch", "scaled_dot_product_attention", "eager", SOFTMAX, stops=SOFTMAX_UP_TO, why="quadratic")
    dense = Contender("torch", "dense", "eager", stops=DENSE_UP_TO, why="quadratic")
    found = []
    for n in sizes[FORWARD]:
        again = full or n == HEADLINE
        contenders = [
            _EAGER,
            _COMPILED,
            _TVM,
            softmax,
            dense,
            *_by_hand(n, compiled=True, again=again),
            *_OURS_ELSEWHERE,
            *(replace(c, grid=_chunks(n)) for c in (_TWINS_ELSEWHERE if scale != "quick" else ())),
        ]
        if scale != "quick":
            contenders = [replace(c, memory=(c.framework, c.mode) == ("torch", "eager")) for c in contenders]
        found.append(Race(FORWARD, FORWARD, tuple((contender, n) for contender in contenders), rounds))
    for problem in () if scale == "quick" else OTHERS:
        n, twin = 4096, Contender("torch", "twin", "eager", grid=_chunks(4096))
        elsewhere = [replace(c, grid=twin.grid) for c in _TWINS_ELSEWHERE]
        others = [replace(c, computes=problem) for c in (_EAGER, _TVM, twin, *_OURS_ELSEWHERE, *elsewhere)]
        found.append(Race(f"{problem}, {FORWARD}", FORWARD, tuple((c, n) for c in others), rounds))
    for width in () if scale == "quick" else WIDTHS:
        n, shape = 4096, Shape(features=width)
        others = [_EAGER, *_by_hand(n, compiled=False, again=False)]
        found.append(Race(FORWARD, FORWARD, tuple((c, n) for c in others), rounds, shape))
    for n in sizes[GRADIENTS]:
        contenders = [replace(c, memory=True) for c in (_EAGER, *_by_hand(n, compiled=False, again=False))]
        if full:
            contenders += [_COMPILED, Contender("torch", "twin", "compiled", like="eager"), *_OURS_ELSEWHERE[1:]]
            contenders += [replace(c, grid=_chunks(n)) for c in _TWINS_ELSEWHERE]
        found.append(Race(GRADIENTS, GRADIENTS, tuple((contender, n) for contender in contenders), rounds))
    growing = tuple((contender, n) for n in sizes["growth"] for contender in (_EAGER, _GROWING_TWIN))
    found.append(Race(GROWTH, FORWARD, growing, rounds))
    if scale != "quick":  # its results are small enough to be given out again
        found.append(Race(KEPT, FORWARD, growing, rounds, environment=KEPT_ENVIRONMENT))
        entries = tuple((contender, HEADLINE) for contender in (_EAGER, _COMPILED, *_TENSORFLOW))
        found.append(Race(ONEDNN, FORWARD, entries, rounds, environment=ONEDNN_ENVIRONMENT))
        entries = tuple((contender, HEADLINE) for contender in (_EAGER, _COMPILED, _SHARDED))
        found.append(Race(SHARDED, FORWARD, entries, rounds, environment=SHARDED_ENVIRONMENT))
    found.append(Race(STEPS, STEP, tuple((_EAGER, n) for n in sizes[STEP]), rounds))
    return found


def tables(figures: Sequence[Figures]) -> list[Table]:
    """What a reader wants to see, in order."""
    return [
        target_table(targets(figures)),
        contest(figures, FORWARD),
        contest(figures, GRADIENTS),
        *(contest(figures, f"{problem}, {FORWARD}") for problem in OTHERS),
        series(figures, GROWTH, column="n", limit=DOUBLING_LIMIT, note=GROWTH_NOTE),
        series(figures, KEPT, column="n", limit=DOUBLING_LIMIT, note=KEPT_NOTE),
        series(figures, STEPS, column="tokens before", limit=STEP_LIMIT),
        everything(figures, FORWARD),
        everything(figures, ONEDNN),
        everything(figures, SHARDED),
        everything(figures, GRADIENTS),
    ]


def targets(figures: Sequence[Figures]) -> list[Target]:
    """What was promised, as far as the lengths that it was promised for were measured."""
    return [
        *_forward_targets(measured(figures, FORWARD)),
        *_framework_target(measured(figures, ONEDNN), "tensorflow", "tensorflow with oneDNN"),
        *_framework_target(measured(figures, SHARDED), "jax", "jax, heads sharded over a device for each core"),
        *_gradient_targets(measured(figures, GRADIENTS)),
        *_growth_targets(measured(figures, GROWTH), ""),
        *_growth_targets(measured(figures, KEPT), ", freed memory kept"),
        *_step_targets(measured(figures, STEPS)),
    ]


def _headline(figures: Iterable[Figures]) -> list[Figures]:
    return [f for f in figures if f.n == HEADLINE and f.shape == Shape()]


def _forward_targets(figures: Sequence[Figures]) -> list[Target]:
    found = []
    forward = _headline(figures)
    ours = [f for f in forward if f.ours and f.framework == "torch" and f.implementation == "dtn"]
    for f in ours:
        for softmax in (s for s in forward if s.computes == SOFTMAX):
            what = f"forward, torch {f.mode}: times faster than scaled_dot_product_attention"
            found.append(Target(what, f"n = {f.n}", ratios(softmax.rounds, f.rounds), 5, at_least=True))
        best = fastest(rivals(f, forward))
        if best is not None:
            what, where = f"forward, torch {f.mode}: time ÷ best by hand", f"n = {f.n}, {best.implementation}"
            found.append(Target(what, where, ratios(f.rounds, best.rounds), 1))
    for framework in ("jax", "tensorflow"):
        found += _framework_target(forward, framework, framework)
    native = fastest(f for f in forward if f.ours and f.implementation == "dtn" and f.framework in KERNEL_RIVALS)
    for kernel in (f for f in forward if f.implementation == _TVM.implementation):
        if native is not None:
            what = "forward, kernel: times faster than the fastest generated source"
            where = f"n = {kernel.n}, {native.framework} {native.mode}"
            found.append(Target(what, where, ratios(native.rounds, kernel.rounds), 4, at_least=True))
    return found


def _framework_target(figures: Sequence[Figures], framework: str, shown: str) -> list[Target]:
    better = fastest(f for f in figures if f.ours and f.framework == "torch" and f.implementation == "dtn")
    best = fastest(f for f in figures if f.framework == framework)
    if better is None or best is None:
        return []
    what = f"forward, {shown}: time ÷ the faster of torch eager and compiled"
    return [Target(what, f"n = {best.n}, {best.mode} ÷ {better.mode}", ratios(best.rounds, better.rounds), 1.3)]


def _gradient_targets(figures: Sequence[Figures]) -> list[Target]:
    found = []
    gradients = _headline(figures)
    for f in (f for f in gradients if f.ours and (f.framework, f.mode) == ("torch", "eager")):
        others = rivals(f, gradients)
        best = fastest(others)
        if best is not None:
            what = f"forward and gradients, torch {f.mode}: time ÷ best by hand"
            found.append(Target(what, f"n = {f.n}, {best.implementation}", ratios(f.rounds, best.rounds), 0.8))
        peaks = [g.peak_memory for g in others if g.peak_memory is not None]
        if peaks and f.peak_memory is not None:
            what = f"forward and gradients, torch {f.mode}: peak extra memory ÷ least by hand"
            found.append(Target(what, f"n = {f.n}", [f.peak_memory / min(peaks)], 0.5))
    return found


def _growth_targets(growth: Sequence[Figures], how: str) -> list[Target]:
    growth = sorted((f for f in growth if f.ours), key=lambda f: f.n)
    what = f"{GROWTH}{how}: time ÷ that of half"
    return [Target(what, f"n = {b.n}", ratios(b.rounds, a.rounds), DOUBLING_LIMIT) for a, b in pairwise(growth)]


def _step_targets(steps: Sequence[Figures]) -> list[Target]:
    if len(steps) < 2:
        return []
    slowest, quickest = max(steps, key=lambda f: median(f.rounds)), min(steps, key=lambda f: median(f.rounds))
    where = f"after {', '.join(str(f.n) for f in steps)}"
    return [Target(f"{STEPS}: slowest ÷ fastest", where, ratios(slowest.rounds, quickest.rounds), STEP_LIMIT)]
