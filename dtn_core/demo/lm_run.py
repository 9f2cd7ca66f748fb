"""``dtn demo lm`` from start to end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from . import lm_text
from .frameworks import Framework, choose
from .lm_recipe import LMRecipe
from .lm_report import draw, print_report, write_json
from .lm_result import Continuation, LMRun, Stretch, checks
from .lm_training import STRETCHES
from .process import DemoError, FrameworkError, FrameworkProcess
from .run import PLAIN_WIDTH

MIXER, TWINS = "tensor", ("linear", "softmax")


class LMProcess(FrameworkProcess):
    """A framework's process that trains language models."""

    worker = "dtn_core.demo.lm_worker"

    def events(self, job: str, recipe: LMRecipe, mixer: str, weights: Path, *expected: str) -> Iterator[dict[str, Any]]:
        """The events of a job, up to the last of the ``expected`` kinds."""
        self._send(job, recipe, mixer, weights)
        while True:
            event = self._answer(*expected)
            yield event
            if event["event"] == expected[-1]:
                return


@dataclass
class Found:
    """What the frameworks' processes have answered."""

    runs: list[LMRun] = field(default_factory=list)
    samples: dict[str, str] = field(default_factory=dict)
    stretches: list[Stretch] = field(default_factory=list)
    state_bytes: int = 0


def run(
    *,
    frameworks: Sequence[str] | None = None,
    steps: int = 500,
    continuation: int = 2048,
    out: Path = Path("."),
    seed: int = 0,
) -> int:
    """Train, compare, stream, print the tables, and write ``lm.png`` and ``lm.json`` into ``out``.

    Parameters
    ----------
    frameworks : sequence of str, optional
        ``"torch"``, ``"jax"``, ``"tensorflow"``; by default all that are installed. The twins are trained in
        the first, which also draws the long continuation.
    steps : int
        Updates of each model.
    continuation : int
        Bytes of the long continuation.
    out : Path
        A folder, made if need be.
    seed : int
        Of the initial weights, the batches and the sample.

    Returns
    -------
    int
        Exit status: 0, or 1 if the frameworks differ by more than they may, or a byte costs more late than early.

    Raises
    ------
    DemoError
        If there is nothing to run, or a framework fails; one line that says what to do.
    """
    if continuation < 2 * STRETCHES:
        raise DemoError(f"a continuation of {continuation} bytes is too short; at least {2 * STRETCHES}")
    chosen, missing = choose(frameworks, unneeded=["scikit-learn"])
    text = lm_text.load()
    out.mkdir(parents=True, exist_ok=True)
    recipe = LMRecipe(seed=seed, steps=steps, continuation=continuation)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    found = _train_all(chosen, recipe, out, console)
    streamed = Continuation(chosen[0].name, found.stretches, found.state_bytes)
    held = checks(found.runs, found.samples, streamed)
    print_report(console, found.runs, recipe.prompt + found.samples[chosen[0].name], streamed, held)
    for absent in missing:
        console.print(
            f"{absent.name} is not installed; to install it:\n    {absent.command}", soft_wrap=True, markup=False
        )
    title = f"Byte-level language models on the standard library's source: {steps} steps, seed {seed}, float32"
    draw(out / "lm.png", found.runs, streamed, title)
    write_json(out / "lm.json", recipe, text, found.runs, found.samples, streamed, held)
    console.print(f"Wrote {out / 'lm.png'} and {out / 'lm.json'}", soft_wrap=True, markup=False)
    return 0 if all(check.passed for check in held) else 1


def _train_all(chosen: Sequence[Framework], recipe: LMRecipe, out: Path, console: Console) -> Found:
    """Train in one framework after the other, the twins in the first; sample in each; stream in the first."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    found = Found()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dtn-demo-")))
        progress = stack.enter_context(Progress(*columns, console=console))
        weights = scratch / "first.safetensors"
        try:
            for framework in chosen:
                first = framework is chosen[0]
                mixers = (MIXER, *TWINS) if first else (MIXER,)
                tasks = {
                    mixer: progress.add_task(f"{framework.name}, {mixer}", total=recipe.steps, state="importing")
                    for mixer in mixers
                }
                log = scratch / f"{framework.name}.log"
                with LMProcess(framework.name, framework.package, log) as process:
                    process.wait_until_ready()
                    for mixer, task in tasks.items():
                        path = weights if first and mixer == MIXER else scratch / "other.safetensors"
                        found.runs.append(_train(process, framework, recipe, mixer, path, progress, task))
                    (sample,) = process.events("sample", recipe, MIXER, weights, "sample")
                    found.samples[framework.name] = sample["text"]
                    if first:
                        _stream(process, recipe, weights, progress, found)
            return found
        except FrameworkError as failure:
            kept = out / f"demo-{failure.framework}.log"
            shutil.copyfile(failure.log, kept)
            raise DemoError(f"{failure} (all that it printed is in {kept})") from None


def _train(
    process: LMProcess,
    framework: Framework,
    recipe: LMRecipe,
    mixer: str,
    weights: Path,
    progress: Progress,
    task: TaskID,
) -> LMRun:
    progress.reset(task, state="compiling")
    event: dict[str, Any] = {}
    for event in process.events("train", recipe, mixer, weights, "steps", "trained"):
        if event["event"] == "steps":
            progress.update(task, advance=len(event["losses"]), state=f"loss {event['losses'][-1]:.3f}")
    progress.update(task, state=f"held out {event['bits_per_byte']:.3f} bits / byte")
    return LMRun(
        framework=framework.name,
        version=framework.version,
        mixer=mixer,
        parameters=event["parameters"],
        bits_per_byte=event["bits_per_byte"],
        milliseconds_a_step=event["milliseconds_a_step"],
        losses=event["losses"],
    )


def _stream(process: LMProcess, recipe: LMRecipe, weights: Path, progress: Progress, found: Found) -> None:
    task = progress.add_task(f"{process.name}, streaming", total=recipe.continuation, state="")
    for event in process.events("stream", recipe, MIXER, weights, "stretch", "streamed"):
        if event["event"] == "stretch":
            found.stretches.append(Stretch(event["bytes"], event["milliseconds"], event["peak_memory"]))
            state = f"{found.stretches[-1].milliseconds:.2f} ms / byte"
            progress.update(task, completed=found.stretches[-1].bytes, state=state)
        else:
            found.state_bytes = event["state_bytes"]
