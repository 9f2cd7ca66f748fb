"""The process that holds one framework in ``dtn demo lm``; jobs and answers as in :mod:`dtn_core.demo.worker`."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from . import lm_text, lm_training
from .lm_recipe import LMRecipe
from .recipe import AdamW
from .worker import Answer, main


class LMWorker:
    """Trains language models and draws text in one framework.

    Parameters
    ----------
    package : str
        The backend's package, ``"dtn_torch"``.
    answer : callable
        Sends an event to the parent.
    """

    def __init__(self, package: str, answer: Answer) -> None:
        self.package = importlib.import_module(package)
        self.trainers = importlib.import_module(f"{package}.training")
        self.answer = answer

    def train(self, recipe: LMRecipe, mixer: str, weights: str) -> None:
        """Train, report the losses, and save the weights."""
        text = lm_text.load()
        model = self.model(recipe, mixer)
        trainer = self.trainers.Trainer(model, recipe.optimiser)

        def report(losses: list[float]) -> None:
            self.answer({"event": "steps", "losses": losses})

        losses, milliseconds = lm_training.train(trainer, text.training, recipe, report)
        self.package.save_weights(model, weights)
        self.answer(
            {
                "event": "trained",
                "parameters": sum(math.prod(p.shape) for _, p in model.definition.named_parameters()),
                "bits_per_byte": lm_training.bits_per_byte(trainer, text.held_out, recipe),
                "milliseconds_a_step": milliseconds,
                "losses": losses,
            }
        )

    def sample(self, recipe: LMRecipe, mixer: str, weights: str) -> None:
        """Send a sample, with weights from a file of any framework."""
        drawn = self.drawn(recipe, mixer, weights)
        self.answer({"event": "sample", "text": lm_training.text_of(drawn, recipe.sample)})

    def stream(self, recipe: LMRecipe, mixer: str, weights: str) -> None:
        """Draw the long continuation, report every stretch."""
        for stretch in lm_training.stretches(self.drawn(recipe, mixer, weights), recipe.continuation):
            self.answer({"event": "stretch", **asdict(stretch)})
        state = self.model(recipe, mixer).init_state(())
        self.answer({"event": "streamed", "state_bytes": sum(np.asarray(leaf).nbytes for leaf in leaves(state))})

    def model(self, recipe: LMRecipe, mixer: str) -> Any:
        """The model before training."""
        return self.package.DeepTensorLM(**recipe.model, mixer=mixer, seed=recipe.seed)

    def drawn(self, recipe: LMRecipe, mixer: str, weights: str) -> Iterator[NDArray[np.int32]]:
        """Tokens that follow the prompt, without end."""
        model = self.model(recipe, mixer)
        self.package.load_weights(model, weights)
        prompt = np.frombuffer(recipe.prompt.encode(), np.uint8).astype(np.int32)
        drawn: Iterator[NDArray[np.int32]] = model.stream(prompt, temperature=recipe.temperature, seed=recipe.seed)
        return drawn


def leaves(state: Any) -> Iterator[Any]:
    """The tensors of a state."""
    if isinstance(state, dict | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from leaves(part)
    else:
        yield state


def serve(package: str, jobs: TextIO, answers: TextIO) -> None:
    """Do the jobs of ``jobs``, a line each, until there are no more.

    Parameters
    ----------
    package : str
        The backend's package.
    jobs, answers : TextIO
        Lines of JSON in and out.
    """

    def answer(event: dict[str, Any]) -> None:
        answers.write(json.dumps(event) + "\n")
        answers.flush()

    worker = LMWorker(package, answer)
    work = {"train": worker.train, "sample": worker.sample, "stream": worker.stream}
    answer({"event": "ready"})
    for line in jobs:
        job = json.loads(line)
        recipe = job["recipe"]
        optimiser = AdamW(**recipe.pop("optimiser"))
        work[job["job"]](LMRecipe(**recipe, optimiser=optimiser), job["mixer"], job["weights"])


if __name__ == "__main__":
    main(serve)
