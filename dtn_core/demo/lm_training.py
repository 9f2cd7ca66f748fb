"""Training a language model, once for every framework: windows of text in, the loss of every step out."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import lm_text
from .lm_recipe import LMRecipe
from .lm_result import Stretch
from .training import Trainer

REPORTED = 10  # steps between two reports
STRETCHES = 8


def train(
    trainer: Trainer, text: NDArray[np.uint8], recipe: LMRecipe, report: Callable[[list[float]], None]
) -> tuple[list[float], float]:
    """Train; the loss of every step, and the median milliseconds of a step after half of them.

    Parameters
    ----------
    trainer : Trainer
        Holds the model.
    text : ndarray
        Bytes to train on.
    recipe : LMRecipe
        The run.
    report : callable
        Is given the losses of the last few steps now and then.
    """
    losses: list[float] = []
    seconds: list[float] = []
    reported = 0
    for step in range(recipe.steps):
        window = lm_text.batch(text, recipe.batch_size, recipe.length, recipe.seed, step)
        start = time.perf_counter()
        inputs, labels = np.ascontiguousarray(window[:, :-1]), np.ascontiguousarray(window[:, 1:])
        losses.append(trainer.step(inputs, labels, recipe.rate(step)))
        seconds.append(time.perf_counter() - start)
        if len(losses) - reported == REPORTED or step == recipe.steps - 1:
            report(losses[reported:])
            reported = len(losses)
    return losses, 1e3 * float(np.median(seconds[len(seconds) // 2 :]))


def bits_per_byte(trainer: Trainer, text: NDArray[np.uint8], recipe: LMRecipe) -> float:
    """Mean cross-entropy of a byte of held-out text, in bits, each window read from its own start."""
    total, count = 0.0, 0
    for window in lm_text.windows(text, recipe.batch_size, recipe.length, recipe.held_out_batches):
        logits = trainer.logits(np.ascontiguousarray(window[:, :-1])).astype(np.float64)
        largest = logits.max(axis=-1, keepdims=True)
        normaliser = np.log(np.exp(logits - largest).sum(axis=-1)) + largest[..., 0]
        chosen = np.take_along_axis(logits, window[:, 1:, None].astype(np.int64), axis=-1)[..., 0]
        total += float((normaliser - chosen).sum())
        count += chosen.size
    return total / count / math.log(2)


def stretches(drawn: Iterator[Any], count: int) -> Iterator[Stretch]:
    """Draw ``count`` bytes, timing every one; yields a stretch whenever it is at its end.

    Parameters
    ----------
    drawn : iterator
        Of tokens, as ``model.stream`` gives them.
    count : int
        Bytes altogether, at least one for each of the stretches.
    """
    done = 0
    for number in range(1, STRETCHES + 1):
        seconds = []
        for _ in range(count * number // STRETCHES - done):
            start = time.perf_counter()
            next(drawn)
            seconds.append(time.perf_counter() - start)
        done += len(seconds)
        yield Stretch(done, 1e3 * float(np.median(seconds)), peak_memory())


def peak_memory() -> float | None:
    """Most memory that this process has held, MiB, where the system says so."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def text_of(drawn: Iterator[NDArray[np.int32]], count: int) -> str:
    """The next ``count`` bytes as text, what cannot be shown replaced."""
    said = bytes(int(token) for token in islice(drawn, count)).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() or letter in "\n" else "\N{REPLACEMENT CHARACTER}" for letter in said)
