"""What is measured of the time before the first result: imports, compiling, look-ups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .case import SECOND_ORDER, START, Contender, Figures, Race
from .problems import ATTENTION
from .report import Table, Target, everything, measured, target_table

NAME = "startup"
HEADING = "Before the first result"
INTRODUCTION = """\
`import torch`, and `import dtn_torch` once that is done, each in fresh processes; compiling an operator from its text
in a process that has compiled nothing (cold), and again with nothing remembered (warm); and looking up what is compiled
already. Before the cold one garbage is collected, which after importing PyTorch or TensorFlow takes longer than to
compile."""

IMPORT, COLD, WARM, LOOK_UP = "import", "compile from text, cold", "compile from text, warm", "look-up"
_ROUNDS = {"quick": 2, "usual": 9, "full": 15}
_FRAMEWORKS = ("numpy", "torch", "jax", "tensorflow")
_ADDED = "dtn after it"
IMPORT_LIMIT, COMPILE_LIMIT, LOOK_UP_LIMIT = 60, 100, 20


def races(scale: str) -> list[Race]:
    """Everything that is measured, at ``scale``."""
    frameworks = ("torch",) if scale == "quick" else _FRAMEWORKS
    rounds = _ROUNDS[scale]
    found = []
    for framework in frameworks:
        ours = Contender(framework, _ADDED, "import", ours=True, computes=ATTENTION)
        entries = ((ours, 0), (replace(ours, implementation="framework", ours=False), 0))
        found.append(Race(f"{IMPORT}, {framework}", START, entries, rounds))
    for case, implementation in ((COLD, "compile cold"), (WARM, "compile warm"), (LOOK_UP, "look-up")):
        entries = tuple(
            (Contender(framework, implementation, computes, ours=True, computes=computes), 0)
            for framework in frameworks
            for computes in (ATTENTION, SECOND_ORDER)
        )
        found.append(Race(case, START, entries, rounds))
    return found


def tables(figures: Sequence[Figures]) -> list[Table]:
    """What a reader wants to see, in order."""
    cases = dict.fromkeys(f.case for f in figures)
    return [target_table(targets(figures)), *(everything(figures, case) for case in cases)]


def targets(figures: Sequence[Figures]) -> list[Target]:
    """What was promised, as far as it was measured."""
    found = [
        Target("import dtn_torch: ms more than import torch", "", _in(1e3, f), IMPORT_LIMIT)
        for f in measured(figures, f"{IMPORT}, torch")
        if f.implementation == _ADDED
    ]
    for case, factor, unit, limit in (
        (COLD, 1e3, "ms", COMPILE_LIMIT),
        (WARM, 1e3, "ms", COMPILE_LIMIT),
        (LOOK_UP, 1e6, "µs", LOOK_UP_LIMIT),
    ):
        found += [
            Target(f"{case}: {unit}", f"{f.framework}, {f.computes}", _in(factor, f), limit)
            for f in measured(figures, case)
        ]
    return found


def _in(factor: float, f: Figures) -> list[float]:
    """Its rounds, in units of which a second has ``factor``."""
    return [factor * seconds for seconds in f.rounds]
