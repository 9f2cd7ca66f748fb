"""demo.png: the loss curves, the accuracy, and how far the frameworks are apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .atomic import replaced
from .result import LOSS_TOLERANCE, Run

SMALLEST_DIFFERENCE = 1e-8

# the first line is wide and the next ones lie on it, so that curves that are equal are all seen
_STYLES = (
    {"color": "#9ecae1", "linewidth": 6.0},
    {"color": "#e6550d", "linewidth": 2.5},
    {"color": "#31a354", "linewidth": 1.2, "linestyle": (0, (4, 3))},
    {"color": "#000000", "linewidth": 0.8, "linestyle": (0, (1, 3))},
)
_TWIN = {"color": "#756bb1", "linewidth": 1.2}


def draw(path: Path, runs: Sequence[Run], title: str) -> None:
    """Draw the runs into a PNG.

    Parameters
    ----------
    path : Path
        Replaced in one step.
    runs : sequence of Run
        The first is the one the others are compared with; runs with another mixer are its twins.
    title : str
        Above the panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    loss, accuracy, difference = figure.subplots(1, 3)
    same = [run for run in runs if run.mixer == runs[0].mixer]
    for run, style in zip(same, _STYLES, strict=False):
        _curves(loss, accuracy, run, style)
    for run in runs:
        if run.mixer != runs[0].mixer:
            _curves(loss, accuracy, run, _TWIN)
    loss.set(xlabel="epoch", ylabel="cross-entropy of a batch of training images", yscale="log", title="Loss")
    accuracy.set(xlabel="epoch", ylabel="test images classified correctly (%)", title="Accuracy")
    accuracy.legend(loc="lower right")
    _differences(difference, same)
    with replaced(path) as beside:
        figure.savefig(beside, dpi=130)


def _epochs(run: Run) -> Any:
    """The time of every step, in epochs."""
    return np.concatenate([number + (np.arange(len(row)) + 1) / len(row) for number, row in enumerate(run.losses)])


def _curves(loss: Any, accuracy: Any, run: Run, style: dict[str, Any]) -> None:
    label = f"{run.framework}, {run.mixer}"
    loss.plot(_epochs(run), list(chain.from_iterable(run.losses)), label=label, **style)
    accuracy.plot(range(1, len(run.accuracies) + 1), np.multiply(run.accuracies, 100), label=label, **style)


def _differences(axes: Any, same: Sequence[Run]) -> None:
    reference = list(chain.from_iterable(same[0].losses))
    for run, style in list(zip(same, _STYLES, strict=False))[1:]:
        apart = np.abs(np.subtract(list(chain.from_iterable(run.losses)), reference))
        axes.plot(_epochs(run), np.maximum(apart, SMALLEST_DIFFERENCE), label=run.framework, color=style["color"])
    axes.plot([0, 1], [LOSS_TOLERANCE] * 2, color="black", label="limit in the first epoch")
    axes.set(
        xlabel="epoch",
        ylabel=f"|loss − loss in {same[0].framework}|",
        yscale="log",
        title="Difference of the losses",
    )
    axes.legend(loc="lower right")
