"""What the demo found: the runs, how far apart they are, and whether that is near enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FULL_EPOCHS = 30
LEAST_ACCURACY = 0.96
LOSS_TOLERANCE = 1e-3
LOGIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Run:
    """A model trained in one framework.

    Attributes
    ----------
    framework, version, mixer : str
        ``"torch"``, ``"2.13.0"``, ``"tensor"`` or ``"softmax"``.
    parameters : int
        Number of trained values.
    accuracy : float
        On the test images at the end.
    seconds_an_epoch : float
        Median after the first epoch, which includes the framework's compilation.
    losses : list of list of float
        Of every step of every epoch.
    accuracies : list of float
        After every epoch.
    """

    framework: str
    version: str
    mixer: str
    parameters: int
    accuracy: float
    seconds_an_epoch: float
    losses: list[list[float]]
    accuracies: list[float]


@dataclass(frozen=True)
class Transfer:
    """Weights trained in one framework, evaluated in another.

    Attributes
    ----------
    trained_in, computed_in : str
        The frameworks.
    difference : float
        Largest absolute difference of the logits, over the largest logit.
    """

    trained_in: str
    computed_in: str
    difference: float


@dataclass(frozen=True)
class Check:
    """Something that has to hold: what, the value found, its limit, and whether it is within."""

    what: str
    value: float
    limit: float
    passed: bool


def first_epoch_difference(run: Run, reference: Run) -> float:
    """Largest absolute difference of two loss curves in the first epoch.

    Examples
    --------
    >>> def run(losses): return Run("torch", "2", "tensor", 1, 1.0, 1.0, losses, [1.0])
    >>> first_epoch_difference(run([[2.0, 1.0], [0.5]]), run([[2.0, 1.25], [9.0]]))
    0.25
    """
    return float(np.max(np.abs(np.subtract(run.losses[0], reference.losses[0]))))


def logit_difference(values: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> float:
    """Largest absolute difference of logits, over the largest absolute value of ``reference``."""
    expected = np.asarray(reference)
    return float(np.max(np.abs(np.asarray(values) - expected)) / max(1e-30, float(np.max(np.abs(expected)))))


def checks(runs: Sequence[Run], transfers: Sequence[Transfer]) -> list[Check]:
    """What has to hold for these runs; the accuracy only after a full training.

    Parameters
    ----------
    runs : sequence of Run
        The first is the one the others are compared with.
    transfers : sequence of Transfer
        All pairs of frameworks.
    """
    found = []
    for run in runs:
        if run.mixer == runs[0].mixer and len(run.losses) >= FULL_EPOCHS:
            passed = run.accuracy >= LEAST_ACCURACY
            found.append(Check(f"test accuracy in {run.framework}", run.accuracy, LEAST_ACCURACY, passed))
    for run in runs[1:]:
        if run.mixer == runs[0].mixer:
            value = first_epoch_difference(run, runs[0])
            what = f"loss in the first epoch, {run.framework} against {runs[0].framework}"
            found.append(Check(what, value, LOSS_TOLERANCE, value <= LOSS_TOLERANCE))
    for transfer in transfers:
        if transfer.trained_in != transfer.computed_in:
            what = f"logits of weights from {transfer.trained_in} in {transfer.computed_in}"
            found.append(Check(what, transfer.difference, LOGIT_TOLERANCE, transfer.difference <= LOGIT_TOLERANCE))
    return found
