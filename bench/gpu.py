"""What is measured on one CUDA machine, in under eight minutes: the causal second order against everything there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from .case import (
    FORWARD,
    GRADIENTS,
    SECOND_ORDER,
    SOFTMAX,
    STEP,
    Contender,
    Figures,
    Race,
    Settings,
    Shape,
    UnavailableError,
)
from .measure import ratios
from .problems import ATTENTION
from .report import Table, Target, contest, everything, fastest, measured, rivals, target_table

NAME = "gpu"
HEADING = "On a GPU"
INTRODUCTION = """\
The causal second order and the unmasked default on one CUDA device: float32 and bfloat16 at 8 heads of 64 features,
and the six shapes of flash-linear-attention's own benchmark in bfloat16. `triton twin` is a kernel written by hand, one
program a head; `flash-linear-attention` is its `chunk_linear_attn` applied twice. Outputs were held to a float64
recurrence first (8 of the heads, relative error below 1e-4 in float32 and 5e-2 in bfloat16); memory is the
allocator's."""

SECONDS = 390.0
"""No race starts later: the last one has to end within eight minutes."""

BFLOAT16 = Shape(dtype="bfloat16")
FLA_SHAPES = (  # flash-linear-attention, benchmarks/ops/registry.py: batch, tokens, heads, features
    (8, 1024, 8, 64),
    (4, 2048, 16, 128),
    (2, 16384, 16, 128),
    (8, 2048, 32, 256),
    (4, 4096, 64, 128),
    (1, 8192, 96, 128),
)
LENGTHS = (1024, 8192, 65536)
ROUNDS = 7
CASE = f"gpu: {SECOND_ORDER}, {FORWARD}"
GRADIENT_CASE = f"gpu: {SECOND_ORDER}, {GRADIENTS}"
UNMASKED_CASE = f"gpu: {ATTENTION}, {FORWARD}"
STEP_CASE = "gpu: one token more"

_OURS = Contender("torch", "dtn", "eager", ours=True, memory=True)
_COMPILED = replace(_OURS, mode="compiled", memory=False)
_TVM = replace(_OURS, implementation="dtn tvm")
_JAX = Contender("jax", "dtn", "jit", ours=True)
_SOFTMAX = Contender("torch", "scaled_dot_product_attention", "eager", SOFTMAX, stops=65536, why="quadratic")
_TWIN = Contender("torch", "twin", "eager", grid=({"chunk": 64}, {"chunk": 128}), memory=True)
_FLA = Contender("torch", "flash-linear-attention", "eager")
_TRITON: tuple[Settings, ...] = (
    {"chunk": 32, "values": 16, "warps": 4},
    {"chunk": 64, "values": 16, "warps": 4},
    {"chunk": 64, "values": 32, "warps": 4},
)


def races(scale: str) -> list[Race]:
    """Everything that is measured, what matters most first; there is one scale."""
    found = [_forward(8192, BFLOAT16), _forward(8192, Shape())]
    found += [_forward(n, Shape(batch, heads, features, "bfloat16")) for batch, n, heads, features in FLA_SHAPES]
    trained = (_OURS, _TWIN, replace(_TWIN, mode="compiled", like="eager", memory=False), _TVM)
    found.append(Race(GRADIENT_CASE, GRADIENTS, tuple((c, 8192) for c in trained), ROUNDS, Shape(), "cuda"))
    found += [_forward(n, Shape()) for n in LENGTHS if n != 8192]
    by_hand = Contender("torch", "by hand", "eager", ATTENTION)
    unmasked = [
        replace(c, computes=ATTENTION) for c in (_OURS, _COMPILED, _JAX, by_hand, replace(by_hand, mode="compiled"))
    ]
    found.append(Race(UNMASKED_CASE, FORWARD, tuple((c, 8192) for c in unmasked), ROUNDS, Shape(), "cuda"))
    steps = tuple((replace(_OURS, memory=False), n) for n in (1, 1000))
    found.append(Race(STEP_CASE, STEP, steps, ROUNDS, Shape(), "cuda"))
    return found


def _forward(n: int, shape: Shape) -> Race:
    triton = Contender("torch", "triton twin", "eager", grid=_TRITON)
    contenders = [
        _OURS,
        _COMPILED,
        _TVM,
        _JAX,
        _SOFTMAX,
        _TWIN,
        replace(_TWIN, mode="compiled", like="eager", memory=False),
    ]
    return Race(CASE, FORWARD, tuple((c, n) for c in (*contenders, triton, _FLA)), ROUNDS, shape, "cuda")


def missing() -> list[str]:
    """What will not take part, and why, known without a device."""
    wanted = {
        "torch": "nothing can be measured without it",
        "jax": "its rows are left out",
        "triton": "the Triton twin is left out",
        "fla": "flash-linear-attention is left out",
        "dtn_tvm": "kernels by TVM are left out",
    }
    return [f"{package} is not installed: {what}" for package, what in wanted.items() if find_spec(package) is None]


def device_name() -> str:
    """The CUDA device's name, asked of PyTorch in a process of its own: this one imports no framework.

    Raises
    ------
    UnavailableError
        If there is none, with the reason.
    """
    code = (
        "import torch; "
        "print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else '', sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"PyTorch cannot be imported: {done.stderr.strip().splitlines()[-1]}")
    version, name = done.stdout.split("\n")[:2]
    if not name:
        raise UnavailableError(f"PyTorch {version} sees no CUDA device")
    return name


def rehearsal(races: Sequence[Race]) -> list[Race]:
    """The same races on a processor, short and of few heads: whoever needs a device says so."""
    return [
        replace(
            race,
            device="cpu",
            rounds=2,
            shape=replace(race.shape, batch=1, heads=2, features=min(race.shape.features, 64)),
            entries=tuple((replace(c, memory=False), n if race.kind == STEP else 256) for c, n in race.entries),
        )
        for race in races
    ]


def tables(figures: Sequence[Figures]) -> list[Table]:
    """What a reader wants to see, in order."""
    cases = (CASE, GRADIENT_CASE, UNMASKED_CASE)
    return [
        target_table(targets(figures)),
        *(contest(figures, case) for case in cases),
        *(everything(figures, case) for case in (*cases, STEP_CASE)),
    ]


def targets(figures: Sequence[Figures]) -> list[Target]:
    """Nothing was promised; where the fastest of ours stands against the fastest of the others, for each shape."""
    found = []
    for case in (CASE, GRADIENT_CASE, UNMASKED_CASE):
        there = measured(figures, case)
        for n, shape in dict.fromkeys((f.n, f.shape) for f in there):
            ours = fastest(f for f in there if f.ours and (f.n, f.shape) == (n, shape))
            best = None if ours is None else fastest(rivals(replace_mode(ours), there))
            if ours is not None and best is not None:
                where = f"n = {n}, {shape}, {best.implementation}"
                found.append(
                    Target(f"{case}: our fastest ÷ best of the others", where, ratios(ours.rounds, best.rounds), 1)
                )
    return found


def replace_mode(figures: Figures) -> Figures:
    """The figures as if of no framework, so that everybody is a rival."""
    return replace(figures, framework="any")
