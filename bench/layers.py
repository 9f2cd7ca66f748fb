"""What is measured of layers and of training, against the same modules written by hand in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .case import MODULE, TRAINING, Contender, Figures, Race
from .measure import ratio
from .report import Table, Target, contest, everything, measured, rivals, target_table

NAME = "layers"
HEADING = "Layers and a training step"
INTRODUCTION = """\
`TensorAttention(512, 8)`, unmasked and causal, on `x[1, n, 512]` without gradients; and one AdamW step of
`dtn demo`'s classifier (two blocks of Tensor Attention, Tensor Interaction and MLP) on n images of 8×8. `by hand` is
the `torch.nn.Module` one would write, with the same weights. Layers were held to the dense interpreter first, gradients
to the hand-written module in float64."""

ATTENTION, CAUSAL, STEP = "attention layer", "causal attention layer", "classifier"
_ROUNDS = {"quick": 7, "usual": 9, "full": 15}
_LENGTHS = {"quick": (1024,), "usual": (512, 1024, 8192), "full": (512, 1024, 8192, 32768)}
_BATCHES = {"quick": (64,), "usual": (64, 512), "full": (64, 512)}

_OURS = Contender("torch", "dtn", "eager", ours=True)
_BY_HAND = Contender("torch", "by hand", "eager")


def races(scale: str) -> list[Race]:
    """Everything that is measured, at ``scale``."""
    modes = {MODULE: ("eager",) if scale == "quick" else ("eager", "compiled"), TRAINING: ("eager",)}
    if scale == "full":
        modes[TRAINING] = ("eager", "compiled")
    found = []
    for kind, name, sizes in (
        (MODULE, ATTENTION, _LENGTHS[scale]),
        (MODULE, CAUSAL, _LENGTHS[scale]),
        (TRAINING, STEP, _BATCHES[scale]),
    ):
        for n in sizes:
            entries = tuple(
                (replace(c, mode=mode, computes=name), n)
                for mode in (modes[kind] if name != CAUSAL else ("eager",))
                for c in (_OURS, _BY_HAND)
            )
            found.append(Race(f"{name}, {kind}", kind, entries, _ROUNDS[scale]))
    return found


CASES = (f"{ATTENTION}, {MODULE}", f"{CAUSAL}, {MODULE}", f"{STEP}, {TRAINING}")


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
        Target(f"{f.case}, n = {f.n}, {f.mode}: time ÷ by hand", ratio(f.rounds, peer.rounds), 1)
        for f in there
        if f.ours
        for peer in rivals(f, there)
    ]
