"""How a model is trained, as numbers: every framework follows the same recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay after clipping the gradient, the same update in every framework.

    With ``g`` the gradient scaled down to a norm of at most ``clip_norm``, ``r`` the rate and ``t = 1, 2, …``::

        m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g²
        p = p - r (m / (1 - beta1ᵗ) / (sqrt(v / (1 - beta2ᵗ)) + epsilon) + weight_decay p)

    Attributes
    ----------
    beta1, beta2 : float
        Decay of the two moments.
    epsilon : float
        Added to the root of the bias-corrected second moment.
    weight_decay : float
        Of every parameter.
    clip_norm : float
        Largest norm of all gradients together.
    """

    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 1.0
    clip_norm: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes
    ----------
    seed : int
        Of the initial weights, the split and the order of the batches.
    epochs, batch_size : int
        Passes over the training set, and examples a step; a last smaller batch is left out.
    peak_rate : float
        Learning rate after the warm-up; from there it follows half a cosine to 0.
    warm_up : float
        Part of all steps in which the rate rises linearly.
    noise : float
        Standard deviation of the noise that is added to the training images; the images lie in [-1, 1].
    optimiser : AdamW
        The update.
    model : Mapping[str, Any]
        Hyperparameters of the layer that is trained.
    """

    seed: int
    epochs: int
    batch_size: int = 64
    peak_rate: float = 4e-3
    warm_up: float = 0.1
    noise: float = 0.4
    optimiser: AdamW = AdamW()
    model: Mapping[str, Any] = field(default_factory=dict)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step.

        Parameters
        ----------
        step : int
            Counted from 0.
        steps : int
            Steps of the whole run.

        Examples
        --------
        >>> recipe = Recipe(seed=0, epochs=10, peak_rate=1.0, warm_up=0.2)
        >>> [round(recipe.rate(step, 10), 3) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.038]
        """
        rising = max(1, round(self.warm_up * steps))
        if step < rising:
            return self.peak_rate * (step + 1) / rising
        return self.peak_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
