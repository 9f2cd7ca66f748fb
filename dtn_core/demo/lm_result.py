"""What ``dtn demo lm`` found, and what of it has to hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from .result import LOSS_TOLERANCE, Check

FIRST_STEPS = 20
SLOWDOWN = 1.5
GROWTH = 8.0  # MiB


@dataclass(frozen=True)
class LMRun:
    """A language model trained in one framework.

    Attributes
    ----------
    framework, version, mixer : str
        ``"torch"``, ``"2.13.0"``, ``"tensor"``, ``"linear"`` or ``"softmax"``.
    parameters : int
        Number of trained values.
    bits_per_byte : float
        On held-out text at the end: the mean cross-entropy of a byte, in bits.
    milliseconds_a_step : float
        Median of the second half of the steps.
    losses : list of float
        Of every step, in nats.
    """

    framework: str
    version: str
    mixer: str
    parameters: int
    bits_per_byte: float
    milliseconds_a_step: float
    losses: list[float]


@dataclass(frozen=True)
class Stretch:
    """A part of a long continuation.

    Attributes
    ----------
    bytes : int
        Drawn up to its end, from the start of the continuation.
    milliseconds : float
        Median for one byte.
    peak_memory : float or None
        Most memory that the process has held so far, MiB; None where the system does not say.
    """

    bytes: int
    milliseconds: float
    peak_memory: float | None


@dataclass(frozen=True)
class Continuation:
    """A long continuation drawn in one framework: its stretches, the size of the state in bytes, and its start."""

    framework: str
    stretches: list[Stretch]
    state_bytes: int


def first_steps_difference(run: LMRun, reference: LMRun) -> float:
    """Largest absolute difference of two loss curves in the first steps; later, rounding has grown.

    Examples
    --------
    >>> def run(losses): return LMRun("torch", "2", "tensor", 1, 2.0, 1.0, losses)
    >>> first_steps_difference(run([2.0, 1.0]), run([2.0, 1.25]))
    0.25
    """
    return float(np.max(np.abs(np.subtract(run.losses[:FIRST_STEPS], reference.losses[:FIRST_STEPS]))))


def checks(runs: Sequence[LMRun], samples: dict[str, str], continuation: Continuation) -> list[Check]:
    """What has to hold: the frameworks agree, and a byte costs late what it costs early.

    Parameters
    ----------
    runs : sequence of LMRun
        The first is the one the others are compared with.
    samples : dict of str to str
        The text that each framework draws from the first one's weights.
    continuation : Continuation
        Its first stretch, in which the framework compiles, is not compared.
    """
    found = []
    for run in runs[1:]:
        if run.mixer == runs[0].mixer:
            value = first_steps_difference(run, runs[0])
            what = f"loss of the first {FIRST_STEPS} steps, {run.framework} against {runs[0].framework}"
            found.append(Check(what, value, LOSS_TOLERANCE, value <= LOSS_TOLERANCE))
    for framework, text in samples.items():
        same = text == samples[runs[0].framework]
        if framework != runs[0].framework:
            found.append(Check(f"sample in {framework} differs from {runs[0].framework}'s", not same, 0, same))
    early, late = continuation.stretches[1], continuation.stretches[-1]
    half = len(continuation.stretches) // 2
    first, second = continuation.stretches[1:half], continuation.stretches[half:]
    slower = median(s.milliseconds for s in second) / median(s.milliseconds for s in first)
    found.append(Check("time of a byte in the second half over the first", slower, SLOWDOWN, slower <= SLOWDOWN))
    if early.peak_memory is not None and late.peak_memory is not None:
        grown = late.peak_memory - early.peak_memory
        found.append(Check("MiB that memory grew by from start to end", grown, GROWTH, grown <= GROWTH))
    return found
