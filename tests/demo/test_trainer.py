"""The trainer of the framework under test: its update is the recipe's formula, its losses are every framework's."""

import importlib
import os

import numpy as np
import pytest

from dtn_core.demo import digits, training
from dtn_core.demo.recipe import AdamW, Recipe
from dtn_core.demo.run import MODEL

BACKEND = os.environ.get("DTN_BACKEND", "numpy")
if BACKEND == "numpy":
    pytest.skip("NumPy has no layers", allow_module_level=True)

dtn = importlib.import_module(f"dtn_{BACKEND}")
trainers = importlib.import_module(f"dtn_{BACKEND}.training")

# The losses of the first epoch with seed 0: a framework that leaves this curve by 1e-3 trains another model.
FIRST_LOSSES = [
    2.4895, 2.3836, 2.4581, 2.3356, 2.3469, 2.2309, 2.1744, 2.2101, 2.1887, 2.0275, 2.0494,
    2.0188, 2.0551, 1.9957, 1.9058, 1.8752, 1.9729, 1.8019, 1.8251, 1.7479, 1.8435, 1.8263,
]  # fmt: skip


def reference(weight, bias, inputs, labels, rates, adamw):
    """Losses and parameters after AdamW steps on softmax regression: the recipe's formula in float64."""
    parameters = [weight.astype(np.float64), bias.astype(np.float64)]
    first, second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    losses = []
    for step, rate in enumerate(rates, 1):
        scores = inputs.astype(np.float64) @ parameters[0] + parameters[1]
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        odds /= odds.sum(axis=1, keepdims=True)
        losses.append(-np.log(odds[range(len(labels)), labels]).mean())
        odds[range(len(labels)), labels] -= 1
        gradient = [inputs.T @ odds / len(labels), odds.mean(axis=0)]
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient))
        for index, g in enumerate(gradient):
            g = g * min(1.0, adamw.clip_norm / norm)
            first[index] = adamw.beta1 * first[index] + (1 - adamw.beta1) * g
            second[index] = adamw.beta2 * second[index] + (1 - adamw.beta2) * g**2
            change = first[index] / (1 - adamw.beta1**step)
            change = change / (np.sqrt(second[index] / (1 - adamw.beta2**step)) + adamw.epsilon)
            parameters[index] = parameters[index] - rate * (change + adamw.weight_decay * parameters[index])
    return losses, parameters


@pytest.mark.parametrize(
    "adamw",
    [
        pytest.param(AdamW(), id="default"),
        pytest.param(AdamW(clip_norm=0.1), id="clipped"),
        pytest.param(AdamW(epsilon=0.1, weight_decay=0.0), id="large epsilon"),
        pytest.param(AdamW(weight_decay=0.5, beta1=0.5, beta2=0.6), id="decay"),
    ],
)
def test_update_is_the_formula(adamw):
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(16, 6)).astype(np.float32)
    labels = generator.integers(0, 4, 16).astype(np.int32)
    model = dtn.Projection((("feature", 6),), (("label", 4),), seed=0)
    weight, bias = (np.asarray(value) for value in arrays(model))
    rates = [0.1, 0.05, 0.2, 0.1, 0.01]
    trainer = trainers.Trainer(model, adamw)
    found = [trainer.step(inputs, labels, rate) for rate in rates]
    losses, (weight, bias) = reference(weight, bias, inputs, labels, rates, adamw)
    np.testing.assert_allclose(found, losses, rtol=2e-5)
    np.testing.assert_allclose(trainer.logits(inputs), inputs @ weight + bias, rtol=2e-4, atol=2e-5)


def arrays(model):
    """Weight and bias of a projection, read from its values at the unit vectors and at zero."""
    bias = trainers.Trainer(model, AdamW()).logits(np.zeros((1, 6), np.float32))[0]
    return trainers.Trainer(model, AdamW()).logits(np.eye(6, dtype=np.float32)) - bias, bias


def test_labels_may_have_more_axes():
    model = dtn.Projection((("feature", 6),), (("label", 4),), seed=0)
    trainer = trainers.Trainer(model, AdamW())
    loss = trainer.step(np.zeros((2, 3, 6), np.float32), np.zeros((2, 3), np.int32), 0.1)
    assert loss == pytest.approx(np.log(4), rel=1e-6)


def test_first_losses_are_those_of_every_framework():
    pytest.importorskip("sklearn")
    recipe = Recipe(seed=0, epochs=1, model=MODEL)
    model = dtn.DeepTensorClassifier(**recipe.model, seed=0)
    epochs = training.train(trainers.Trainer(model, recipe.optimiser), digits.load(0), recipe, lambda epoch: None)
    np.testing.assert_allclose(epochs[0].losses, FIRST_LOSSES, rtol=0, atol=1e-3)


def test_devices_start_with_the_processor():
    assert trainers.devices()[0] == "cpu"
