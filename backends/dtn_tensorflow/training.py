"""Training in TensorFlow: AdamW steps on NumPy batches, for ``dtn demo``."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dtn_core.demo.recipe import AdamW

__all__ = ["Trainer", "devices"]


def devices() -> list[str]:
    """Names of the devices that TensorFlow computes on, the processor first.

    Examples
    --------
    >>> devices()[0]
    'cpu'
    """
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "") for gpu in gpus]
    return ["cpu", *(f"gpu:{index} {name}".strip() for index, name in enumerate(names))]


class _AdamW(keras.optimizers.AdamW):
    """Keras adds epsilon before the bias correction, PyTorch and Optax after it: scaled to mean the same."""

    def __init__(self, *, epsilon: float, **keywords: Any) -> None:
        super().__init__(epsilon=epsilon, name="adamw", **keywords)
        self.corrected_epsilon = epsilon

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        taken = keras.ops.cast(self.iterations + 1, variable.dtype)
        self.epsilon = self.corrected_epsilon * keras.ops.sqrt(1 - keras.ops.power(self.beta_2, taken))
        try:
            super().update_step(gradient, variable, learning_rate)
        finally:
            self.epsilon = self.corrected_epsilon


class Trainer:
    """Trains ``model`` to put labels on its inputs.

    Parameters
    ----------
    model : keras.Model
        ``inputs[batch, ...] -> logits[batch, ..., label]``, changed in place.
    optimiser : AdamW
        The update.

    Examples
    --------
    >>> from dtn_tensorflow import DeepTensorClassifier
    >>> trainer = Trainer(DeepTensorClassifier(depth=1, seed=0), AdamW())
    >>> images, labels = np.zeros((2, 8, 8), np.float32), np.array([3, 5], np.int32)
    >>> trainer.step(images, labels, rate=0.01) > trainer.step(images, labels, rate=0.01)
    True
    """

    def __init__(self, model: keras.Model, optimiser: AdamW) -> None:
        self.model = model
        self.optimiser = _AdamW(
            beta_1=optimiser.beta1,
            beta_2=optimiser.beta2,
            epsilon=optimiser.epsilon,
            weight_decay=optimiser.weight_decay,
            global_clipnorm=optimiser.clip_norm,
        )
        self.optimiser.build(model.trainable_variables)
        self._update = tf.function(self._one_step)
        self._logits = tf.function(model)

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
        self.optimiser.learning_rate.assign(rate)
        return float(self._update(tf.constant(inputs), tf.constant(labels)))

    def logits(self, inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The model's class scores, ``[batch, ..., label]``."""
        return self._logits(tf.constant(inputs)).numpy()

    def _one_step(self, inputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = self.model(inputs, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        variables = self.model.trainable_variables
        self.optimiser.apply(tape.gradient(loss, variables), variables)
        return loss
