"""The demo's result as tables for the terminal and as demo.json."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from .atomic import replaced
from .recipe import Recipe
from .result import Check, Run, Transfer, first_epoch_difference


def print_report(console: Console, runs: Sequence[Run], transfers: Sequence[Transfer], checks: Sequence[Check]) -> None:
    """Print the runs, the exchange of weights, and what did not hold."""
    console.print(_runs(runs))
    if len(transfers) > 1:
        console.print("Logits of the test images, from one framework's weights in another: largest relative difference")
        console.print(_transfers(transfers))
    failed = [check for check in checks if not check.passed]
    for check in failed:
        console.print(f"NOT WITHIN {check.limit:g}: {check.what}, {check.value:.3g}", soft_wrap=True)
    if checks and not failed:
        console.print(f"All {len(checks)} checks hold.")


def write_json(
    path: Path, recipe: Recipe, runs: Sequence[Run], transfers: Sequence[Transfer], checks: Sequence[Check]
) -> None:
    """Write everything that was found, the machine and the recipe included.

    Parameters
    ----------
    path : Path
        Replaced in one step.
    recipe : Recipe
        What the runs have in common.
    runs, transfers, checks : sequence
        The results.
    """
    content = {
        "format": 1,
        "data": "scikit-learn load_digits",
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "python": platform.python_version(),
        "recipe": asdict(recipe),
        "runs": [
            {**asdict(run), "first_epoch_difference": first_epoch_difference(run, reference)}
            for run, reference in ((run, _reference(run, runs)) for run in runs)
        ],
        "transfers": [asdict(transfer) for transfer in transfers],
        "checks": [asdict(check) for check in checks],
    }
    with replaced(path) as beside:
        beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _reference(run: Run, runs: Sequence[Run]) -> Run:
    return next(other for other in runs if other.mixer == run.mixer)


def _runs(runs: Sequence[Run]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("framework")
    table.add_column("mixer")
    for heading in ("parameters", "test accuracy", "s / epoch", "loss difference\nin epoch 1"):
        table.add_column(heading, justify="right")
    for run in runs:
        reference = _reference(run, runs)
        difference = "–" if run is reference else f"{first_epoch_difference(run, reference):.1e}"
        table.add_row(
            f"{run.framework} {run.version}",
            run.mixer,
            f"{run.parameters:,}",
            f"{run.accuracy:.2%}",
            f"{run.seconds_an_epoch:.2f}",
            difference,
        )
    return table


def _transfers(transfers: Sequence[Transfer]) -> Table:
    names = list(dict.fromkeys(transfer.trained_in for transfer in transfers))
    found = {(transfer.trained_in, transfer.computed_in): transfer.difference for transfer in transfers}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("trained in")
    for name in names:
        table.add_column(f"in {name}", justify="right")
    for trained_in in names:
        table.add_row(trained_in, *(f"{found[trained_in, computed_in]:.1e}" for computed_in in names))
    return table
