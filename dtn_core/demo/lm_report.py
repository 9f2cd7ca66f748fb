"""The result of ``dtn demo lm`` as tables for the terminal, as lm.json and as lm.png."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from .atomic import replaced
from .lm_recipe import LMRecipe
from .lm_result import Continuation, LMRun, first_steps_difference
from .lm_text import Text
from .result import Check

SMOOTHED = 20  # steps that a point of the loss curve is the mean of


def print_report(
    console: Console, runs: Sequence[LMRun], sample: str, continuation: Continuation, checks: Sequence[Check]
) -> None:
    """Print the runs, a sample, the long continuation's cost, and what did not hold."""
    console.print(_runs(runs))
    console.print(f"A sample, drawn with {runs[0].framework}'s weights:")
    console.print("".join(f"    {line}\n" for line in sample.splitlines()), markup=False, soft_wrap=True)
    kilobytes = continuation.state_bytes / 1024
    console.print(
        f"A continuation of {continuation.stretches[-1].bytes:,} bytes in {continuation.framework}, "
        f"from a state of {kilobytes:,.1f} KiB:"
    )
    console.print(_stretches(continuation))
    failed = [check for check in checks if not check.passed]
    for check in failed:
        console.print(f"NOT WITHIN {check.limit:g}: {check.what}, {check.value:.3g}", soft_wrap=True, markup=False)
    if checks and not failed:
        console.print(f"All {len(checks)} checks hold.")


def write_json(
    path: Path,
    recipe: LMRecipe,
    text: Text,
    runs: Sequence[LMRun],
    samples: dict[str, str],
    continuation: Continuation,
    checks: Sequence[Check],
) -> None:
    """Write everything that was found, the machine, the text and the recipe included, in one step."""
    content = {
        "format": 1,
        "text": {"files": text.files, "sha256": text.digest, "bytes": [len(text.training), len(text.held_out)]},
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "recipe": asdict(recipe),
        "runs": [asdict(run) for run in runs],
        "samples": samples,
        "continuation": asdict(continuation),
        "checks": [asdict(check) for check in checks],
    }
    with replaced(path) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def draw(path: Path, runs: Sequence[LMRun], continuation: Continuation, title: str) -> None:
    """Draw the loss curves, the held-out bits per byte and the cost of a byte into a PNG, replaced in one step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    loss, held_out, cost = figure.subplots(1, 3)
    first = runs[0]
    for number, run in enumerate(runs):
        twin = run.mixer != first.mixer
        width = 1.4 if twin else 5.0 / 2 ** [other for other in runs if other.mixer == first.mixer].index(run)
        curve = (
            np.convolve(run.losses, np.ones(SMOOTHED) / SMOOTHED, "valid") if len(run.losses) > SMOOTHED else run.losses
        )
        shown = np.asarray(curve) / math.log(2)
        label = f"{run.framework}, {run.mixer}"
        steps = np.arange(len(shown)) + len(run.losses) - len(shown) + 1
        loss.plot(steps, shown, color=f"C{number}", linewidth=width, label=label)
        bar = held_out.bar(number, run.bits_per_byte, color=f"C{number}")
        held_out.bar_label(bar, fmt="%.2f")
    loss.set(xlabel="step", ylabel=f"bits per byte, mean of {SMOOTHED} steps", title="Loss in training")
    loss.legend(loc="upper right")
    held_out.set_xticks(range(len(runs)), [f"{run.framework}\n{run.mixer}" for run in runs], fontsize=8)
    held_out.set(ylabel="bits per byte", title="Held-out text")
    points = continuation.stretches
    cost.plot([p.bytes for p in points], [p.milliseconds for p in points], marker="o", color="C0")
    cost.set(xlabel="bytes drawn so far", ylabel="milliseconds a byte", title=f"Streaming in {continuation.framework}")
    cost.set_ylim(0, 1.2 * max(point.milliseconds for point in points))
    if all(point.peak_memory is not None for point in points):
        memory = cost.twinx()
        memory.plot([p.bytes for p in points], [p.peak_memory for p in points], marker="s", color="C1")
        memory.set_ylabel("peak memory of the process (MiB), orange")
        memory.set_ylim(bottom=0)
    with replaced(path) as beside:
        figure.savefig(beside, dpi=130)


def _runs(runs: Sequence[LMRun]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("framework", "mixer"):
        table.add_column(heading)
    for heading in ("parameters", "held-out\nbits / byte", "ms / step", "loss difference\nat the start"):
        table.add_column(heading, justify="right")
    for run in runs:
        reference = next(other for other in runs if other.mixer == run.mixer)
        difference = "–" if run is reference else f"{first_steps_difference(run, reference):.1e}"
        table.add_row(
            f"{run.framework} {run.version}",
            run.mixer,
            f"{run.parameters:,}",
            f"{run.bits_per_byte:.3f}",
            f"{run.milliseconds_a_step:.0f}",
            difference,
        )
    return table


def _stretches(continuation: Continuation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("bytes so far", "ms / byte", "peak memory, MiB"):
        table.add_column(heading, justify="right")
    for stretch in continuation.stretches:
        memory: Any = "–" if stretch.peak_memory is None else f"{stretch.peak_memory:,.0f}"
        table.add_row(f"{stretch.bytes:,}", f"{stretch.milliseconds:.2f}", memory)
    return table
