"""The training loop, once for every framework: batches in, the loss of every step out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .digits import Digits, batches, noisy
from .recipe import Recipe


class Trainer(Protocol):
    """What ``dtn_torch.training``, ``dtn_jax.training`` and ``dtn_tensorflow.training`` each provide."""

    def step(self, inputs: NDArray[Any], labels: NDArray[np.int32], rate: float) -> float:
        """Make one update; the mean cross-entropy before it."""

    def logits(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """The model's class scores."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images.

    Attributes
    ----------
    number : int
        From 1.
    losses : list of float
        Of every step, before its update.
    accuracy : float
        On the test images, after the epoch.
    seconds : float
        For the steps alone; the first epoch's include the framework's compilation.
    """

    number: int
    losses: list[float]
    accuracy: float
    seconds: float


def train(trainer: Trainer, digits: Digits, recipe: Recipe, report: Callable[[Epoch], None]) -> list[Epoch]:
    """Train and report each epoch as it ends.

    Parameters
    ----------
    trainer : Trainer
        Holds the model.
    digits : Digits
        The data.
    recipe : Recipe
        The run.
    report : callable
        Is given each epoch.
    """
    steps_an_epoch = len(digits.train_labels) // recipe.batch_size
    epochs: list[Epoch] = []
    for number in range(1, recipe.epochs + 1):
        first_step = (number - 1) * steps_an_epoch
        losses = []
        start = time.perf_counter()
        order = batches(len(digits.train_labels), recipe.batch_size, recipe.seed, number)
        for step, batch in enumerate(order, first_step):
            rate = recipe.rate(step, recipe.epochs * steps_an_epoch)
            images = noisy(digits.train_images[batch], recipe.noise, recipe.seed, step)
            losses.append(trainer.step(images, digits.train_labels[batch], rate))
        seconds = time.perf_counter() - start
        epochs.append(Epoch(number, losses, accuracy(trainer, digits), seconds))
        report(epochs[-1])
    return epochs


def accuracy(trainer: Trainer, digits: Digits) -> float:
    """Part of the test images that is classified correctly."""
    found = trainer.logits(digits.test_images).argmax(axis=-1)
    return float(np.mean(found == digits.test_labels))


def seconds_an_epoch(epochs: list[Epoch]) -> float:
    """Median of the epochs after the first, which compiles; of the first if there is no other."""
    return statistics.median([epoch.seconds for epoch in epochs[1:]] or [epochs[0].seconds])
