"""Training in PyTorch: AdamW steps on NumPy batches, for ``dtn demo``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dtn_core.demo.recipe import AdamW

__all__ = ["Trainer", "devices"]


def devices() -> list[str]:
    """Names of the devices that PyTorch computes on, the processor first.

    Examples
    --------
    >>> devices()[0]
    'cpu'
    """
    gpus = [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


class Trainer:
    """Trains ``model`` to put labels on its inputs.

    Parameters
    ----------
    model : torch.nn.Module
        ``inputs[batch, ...] -> logits[batch, ..., label]``, changed in place.
    optimiser : AdamW
        The update.

    Examples
    --------
    >>> from dtn_torch import DeepTensorClassifier
    >>> trainer = Trainer(DeepTensorClassifier(depth=1, seed=0), AdamW())
    >>> images, labels = np.zeros((2, 8, 8), np.float32), np.array([3, 5], np.int32)
    >>> trainer.step(images, labels, rate=0.01) > trainer.step(images, labels, rate=0.01)
    True
    """

    def __init__(self, model: torch.nn.Module, optimiser: AdamW) -> None:
        self.model = model
        self.clip_norm = optimiser.clip_norm
        self.optimiser = torch.optim.AdamW(
            model.parameters(),
            betas=(optimiser.beta1, optimiser.beta2),
            eps=optimiser.epsilon,
            weight_decay=optimiser.weight_decay,
        )

    def step(self, inputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], rate: float) -> float:
        """Make one update; the mean cross-entropy before it.

        Parameters
        ----------
        inputs : ndarray
            ``[batch, ...]``.
        labels : ndarray
            ``[batch, ...]`` integers.
        rate : float
            The learning rate.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        logits = self.model(torch.from_numpy(inputs))
        classes = torch.from_numpy(labels).long()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), classes.flatten())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimiser.step()
        return loss.item()

    @torch.no_grad()
    def logits(self, inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The model's class scores, ``[batch, ..., label]``."""
        return self.model(torch.from_numpy(inputs)).numpy()
