"""The process that holds one framework: reads jobs as lines of JSON, answers with lines of JSON.

A job is ``{"job": "train", …}`` or ``{"job": "logits", …}``; answers are ``{"event": …}``. It ends with its input.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TextIO

from . import digits, training
from .recipe import AdamW, Recipe

Answer = Callable[[dict[str, Any]], None]


class Worker:
    """Trains and evaluates the classifier in one framework.

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

    def train(self, recipe: Recipe, mixer: str, weights: str) -> None:
        """Train, report every epoch, and save the weights."""
        data = digits.load(recipe.seed)
        model = self.package.DeepTensorClassifier(**recipe.model, mixer=mixer, seed=recipe.seed)
        trainer = self.trainers.Trainer(model, recipe.optimiser)
        epochs = training.train(trainer, data, recipe, lambda epoch: self.answer({"event": "epoch", **asdict(epoch)}))
        self.package.save_weights(model, weights)
        parameters = sum(math.prod(parameter.shape) for _, parameter in model.definition.named_parameters())
        self.answer(
            {
                "event": "trained",
                "accuracy": epochs[-1].accuracy,
                "seconds_an_epoch": training.seconds_an_epoch(epochs),
                "parameters": parameters,
            }
        )

    def logits(self, recipe: Recipe, mixer: str, weights: str) -> None:
        """Send the logits of the test images, with weights from a file of any framework."""
        model = self.package.DeepTensorClassifier(**recipe.model, mixer=mixer)
        self.package.load_weights(model, weights)
        trainer = self.trainers.Trainer(model, recipe.optimiser)
        values = trainer.logits(digits.load(recipe.seed).test_images)
        self.answer({"event": "logits", "values": values.tolist()})


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

    worker = Worker(package, answer)
    work = {"train": worker.train, "logits": worker.logits}
    answer({"event": "ready"})
    for line in jobs:
        job = json.loads(line)
        recipe = job["recipe"]
        optimiser = AdamW(**recipe.pop("optimiser"))
        work[job["job"]](Recipe(**recipe, optimiser=optimiser), job["mixer"], job["weights"])


def main(serve: Callable[[str, TextIO, TextIO], None] = serve) -> None:
    """Serve on standard input and output; whatever else a framework prints goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = sys.stderr  # written at once: an error must be the last thing in the log
    try:
        serve(sys.argv[1], sys.stdin, answers)
    except BrokenPipeError:  # the parent has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), answers.fileno())


if __name__ == "__main__":
    main()
