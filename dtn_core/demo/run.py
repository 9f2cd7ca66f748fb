"""The demo from start to end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .frameworks import Framework, choose
from .plot import draw
from .process import DemoError, FrameworkError, FrameworkProcess
from .recipe import Recipe
from .report import print_report, write_json
from .result import Run, Transfer, checks, logit_difference

MIXER, TWIN = "tensor", "softmax"
MODEL = {"image_size": (8, 8), "patch_size": 2, "num_classes": 10, "embed_dim": 48, "num_heads": 4, "depth": 2}
PLAIN_WIDTH = 100


def run(*, frameworks: Sequence[str] | None = None, epochs: int = 30, out: Path = Path("."), seed: int = 0) -> int:
    """Train, compare, print the tables, and write ``demo.png`` and ``demo.json`` into ``out``.

    Parameters
    ----------
    frameworks : sequence of str, optional
        ``"torch"``, ``"jax"``, ``"tensorflow"``; by default all that are installed.
    epochs : int
        Passes over the training images.
    out : Path
        A folder, made if need be.
    seed : int
        Of the initial weights, the split of the data and the batches.

    Returns
    -------
    int
        Exit status: 0, or 1 if the frameworks differ by more than they may or learned less than they should.

    Raises
    ------
    DemoError
        If there is nothing to run, or a framework fails; one line that says what to do.
    """
    chosen, missing = choose(frameworks)
    out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(seed=seed, epochs=epochs, model=MODEL)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    runs, transfers = _train_all(chosen, recipe, out, console)
    found = checks(runs, transfers)
    print_report(console, runs, transfers, found)
    for absent in missing:
        console.print(
            f"{absent.name} is not installed; to install it:\n    {absent.command}", soft_wrap=True, markup=False
        )
    names = ", ".join(framework.name for framework in chosen)
    title = f"One definition, trained on handwritten digits in {names}: {epochs} epochs, seed {seed}, float32"
    draw(out / "demo.png", runs, title)
    write_json(out / "demo.json", recipe, runs, transfers, found)
    console.print(f"Wrote {out / 'demo.png'} and {out / 'demo.json'}", soft_wrap=True, markup=False)
    return 0 if all(check.passed for check in found) else 1


def _train_all(
    chosen: Sequence[Framework], recipe: Recipe, out: Path, console: Console
) -> tuple[list[Run], list[Transfer]]:
    """Train in one framework after the other, the softmax twin in the first; exchange the weights."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dtn-demo-")))
        progress = stack.enter_context(Progress(*columns, console=console))
        try:
            processes, runs = {}, []
            for framework in chosen:
                mixers = (MIXER, TWIN) if framework is chosen[0] else (MIXER,)
                tasks = {mixer: _task(progress, framework.name, mixer, recipe) for mixer in mixers}
                log = scratch / f"{framework.name}.log"
                process = stack.enter_context(FrameworkProcess(framework.name, framework.package, log))
                process.wait_until_ready()
                processes[framework.name] = process
                for mixer, task in tasks.items():
                    weights = scratch / f"{framework.name}-{mixer}.safetensors"
                    runs.append(_train(process, framework, recipe, mixer, weights, progress, task))
            return runs, _exchange(processes, recipe, scratch)
        except FrameworkError as failure:
            kept = out / f"demo-{failure.framework}.log"
            shutil.copyfile(failure.log, kept)
            raise DemoError(f"{failure} (all that it printed is in {kept})") from None


def _task(progress: Progress, framework: str, mixer: str, recipe: Recipe) -> TaskID:
    return progress.add_task(f"{framework}, {mixer}", total=recipe.epochs, state="importing")


def _train(
    process: FrameworkProcess,
    framework: Framework,
    recipe: Recipe,
    mixer: str,
    weights: Path,
    progress: Progress,
    task: TaskID,
) -> Run:
    progress.reset(task, state="compiling")
    losses, accuracies = [], []
    *epochs, trained = _shown(process.train(recipe, mixer, weights), progress, task)
    for epoch in epochs:
        losses.append(epoch["losses"])
        accuracies.append(epoch["accuracy"])
    return Run(
        framework=framework.name,
        version=framework.version,
        mixer=mixer,
        parameters=trained["parameters"],
        accuracy=trained["accuracy"],
        seconds_an_epoch=trained["seconds_an_epoch"],
        losses=losses,
        accuracies=accuracies,
    )


def _shown(events: Iterator[dict[str, Any]], progress: Progress, task: TaskID) -> Iterator[dict[str, Any]]:
    """The events of a training, each shown in the progress bar as it comes."""
    for event in events:
        if event["event"] == "epoch":
            state = f"loss {event['losses'][-1]:.4f}, test {event['accuracy']:.1%}"
            progress.update(task, advance=1, state=state)
        yield event


def _exchange(processes: Mapping[str, FrameworkProcess], recipe: Recipe, scratch: Path) -> list[Transfer]:
    """Logits of every framework's weights in every framework, against the framework that trained them."""
    transfers = []
    for trained_in in processes:
        weights = scratch / f"{trained_in}-{MIXER}.safetensors"
        logits = {name: process.logits(recipe, MIXER, weights) for name, process in processes.items()}
        for computed_in, values in logits.items():
            transfers.append(Transfer(trained_in, computed_in, logit_difference(values, logits[trained_in])))
    return transfers
