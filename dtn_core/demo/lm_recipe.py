"""How the language models of ``dtn demo lm`` are trained and read, as numbers: the same in every framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .recipe import AdamW, Recipe

MODEL = {"vocab_size": 256, "embed_dim": 64, "num_heads": 4, "depth": 2}


@dataclass(frozen=True)
class LMRecipe:
    """A training run on text.

    Attributes
    ----------
    seed : int
        Of the initial weights, the batches and the sample.
    steps : int
        Updates.
    batch_size, length : int
        Windows a step, and bytes that each has to predict.
    held_out_batches : int
        Batches of held-out text, at most, that bits per byte are measured on.
    peak_rate, warm_up : float
        Learning rate after the warm-up, from where it follows half a cosine to 0; part of the steps before.
    optimiser : AdamW
        The update.
    model : Mapping[str, Any]
        Hyperparameters of the model.
    prompt : str
        What the sample and the long continuation follow.
    sample, continuation : int
        Bytes of the sample, and of the long continuation.
    temperature : float
        At which both are drawn.
    """

    seed: int
    steps: int
    batch_size: int = 8
    length: int = 128
    held_out_batches: int = 90
    peak_rate: float = 6e-3
    warm_up: float = 0.1
    optimiser: AdamW = field(default_factory=lambda: AdamW(weight_decay=0.1))
    model: Mapping[str, Any] = field(default_factory=lambda: dict(MODEL))
    prompt: str = "def "
    sample: int = 200
    continuation: int = 2048
    temperature: float = 0.7

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        schedule = Recipe(seed=self.seed, epochs=1, peak_rate=self.peak_rate, warm_up=self.warm_up)
        return schedule.rate(step, self.steps)
