"""Training in JAX: AdamW steps on NumPy batches, for ``dtn demo``."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from dtn_core.demo.recipe import AdamW

__all__ = ["Trainer", "devices"]


def devices() -> list[str]:
    """Names of the devices that JAX computes on, the processor first.

    Examples
    --------
    >>> devices()[0]
    'cpu'
    """
    accelerators = [device for device in jax.devices() if device.platform != "cpu"]
    return ["cpu", *(f"{device.platform}:{device.id} {device.device_kind}" for device in accelerators)]


class Trainer:
    """Trains ``model`` to put labels on its inputs.

    Parameters
    ----------
    model : nnx.Module
        ``inputs[batch, ...] -> logits[batch, ..., label]``, changed in place.
    optimiser : AdamW
        The update.

    Examples
    --------
    >>> from dtn_jax import DeepTensorClassifier
    >>> trainer = Trainer(DeepTensorClassifier(depth=1, seed=0), AdamW())
    >>> images, labels = np.zeros((2, 8, 8), np.float32), np.array([3, 5], np.int32)
    >>> trainer.step(images, labels, rate=0.01) > trainer.step(images, labels, rate=0.01)
    True
    """

    def __init__(self, model: nnx.Module, optimiser: AdamW) -> None:
        self.model = model
        adamw = optax.inject_hyperparams(optax.adamw, static_args=("b1", "b2", "eps", "weight_decay"))(
            learning_rate=0.0,
            b1=optimiser.beta1,
            b2=optimiser.beta2,
            eps=optimiser.epsilon,
            weight_decay=optimiser.weight_decay,
        )
        clip = optax.clip_by_global_norm(optimiser.clip_norm)
        graph, parameters = nnx.split(model)
        self._moments = (clip.init(parameters), adamw.init(parameters))

        def loss(parameters: nnx.State, inputs: jax.Array, labels: jax.Array) -> jax.Array:
            logits = nnx.merge(graph, parameters)(inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        def update(parameters: nnx.State, moments: Any, inputs: jax.Array, labels: jax.Array, rate: jax.Array) -> Any:
            value, gradient = jax.value_and_grad(loss)(parameters, inputs, labels)
            clipping, adam = moments
            adam.hyperparams["learning_rate"] = rate
            gradient, clipping = clip.update(gradient, clipping)
            change, adam = adamw.update(gradient, adam, parameters)
            return value, optax.apply_updates(parameters, change), (clipping, adam)

        self._update = jax.jit(update)
        self._logits = jax.jit(lambda parameters, inputs: nnx.merge(graph, parameters)(inputs))

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
        parameters = nnx.state(self.model)
        loss, parameters, self._moments = self._update(parameters, self._moments, inputs, labels, np.float32(rate))
        nnx.update(self.model, parameters)
        return float(loss)

    def logits(self, inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The model's class scores, ``[batch, ..., label]``."""
        return np.asarray(self._logits(nnx.state(self.model), inputs))
