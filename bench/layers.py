"""What is measured of layers, training and decoding, against the same modules written by hand in each framework."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .case import DECODING, MODULE, TRAINING, Contender, Figures, Race
from .measure import ratios
from .modules import ATTENTION, CAUSAL, CLASSIFIER, LANGUAGE
from .report import Table, Target, contest, everything, measured, rivals, target_table

NAME = "layers"
HEADING = "Layers, training and decoding"
INTRODUCTION = """\
`TensorAttention(512, 8)`, unmasked and causal, on `x[1, n, 512]` without gradients; one AdamW step of `dtn demo`'s
classifier (two blocks of Tensor Attention, Tensor Interaction and MLP) on n images of 8×8, and of `dtn demo lm`'s
language model on n windows of 128 bytes; and one token more for each of n texts. `by hand` is the `torch.nn.Module`,
`flax.nnx.Module` or `keras.Model` one would write, with the same weights; the language model's attends within its
window densely, n×n, and decodes by a recurrence. Layers were held to the dense interpreter first, gradients to its
slopes in float64."""

_ROUNDS = {"quick": 7, "usual": 9, "full": 15}
_LENGTHS = {"quick": (1024,), "usual": (512, 1024, 8192), "full": (512, 1024, 8192, 32768)}
_IMAGES = {"quick": (64,), "usual": (64, 512), "full": (64, 512)}
_WINDOWS = {"quick": (8,), "usual": (8,), "full": (8, 64)}
_TEXTS = {"quick": (1,), "usual": (1, 64), "full": (1, 64)}
_MODES = {"torch": ("eager", "compiled"), "jax": ("jit",), "tensorflow": ("graph", "xla")}
"""The first is measured of everything."""

CASES = (
    f"{ATTENTION}, {MODULE}",
    f"{CAUSAL}, {MODULE}",
    f"{CLASSIFIER}, {TRAINING}",
    f"{LANGUAGE}, {TRAINING}",
    f"{LANGUAGE}, {DECODING}",
)


def races(scale: str) -> list[Race]:
    """Everything that is measured, at ``scale``."""
    return [
        Race(f"{name}, {kind}", kind, tuple((c, n) for c in _contenders(scale, kind, name)), _ROUNDS[scale])
        for kind, name, sizes in (
            (MODULE, ATTENTION, _LENGTHS[scale]),
            (MODULE, CAUSAL, _LENGTHS[scale]),
            (TRAINING, CLASSIFIER, _IMAGES[scale]),
            (TRAINING, LANGUAGE, _WINDOWS[scale]),
            (DECODING, LANGUAGE, _TEXTS[scale]),
        )
        for n in sizes
    ]


def _contenders(scale: str, kind: str, name: str) -> Iterator[Contender]:
    """Ours and the hand-written one, one after the other, in every framework and mode."""
    for framework in ("torch",) if scale == "quick" else _MODES:
        every = (scale == "full" and kind != DECODING) or (scale, name) == ("usual", ATTENTION)
        for mode in _MODES[framework] if every else _MODES[framework][:1]:
            ours = Contender(framework, "dtn", mode, name, ours=True)
            yield ours
            yield replace(ours, implementation="by hand", ours=False)


def tables(figures: Sequence[Figures]) -> list[Table]:
    """What a reader wants to see, in order."""
    return [
        target_table(targets(figures)),
        *(contest(figures, name) for name in CASES),
        *(everything(figures, name) for name in CASES),
    ]


def targets(figures: Sequence[Figures]) -> list[Target]:
    """What was promised: nothing slower than by hand."""
    there = [f for name in CASES for f in measured(figures, name)]
    return [
        Target(f"{f.case}, {f.framework} {f.mode}: time ÷ by hand", f"n = {f.n}", ratios(f.rounds, peer.rounds), 1)
        for f in there
        if f.ours
        for peer in rivals(f, there)
    ]
