"""Layers, training steps and one token of decoding as calls to measure, each held to the dense interpreter first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dtn_core.layers import Definition
from dtn_core.layers.reference import evaluate

from .case import DECODING, MODULE, TRAINING, Task
from .data import Array
from .modules import CAUSAL, CLASSIFIER, EMBED, Kit
from .oracle import TOLERANCES, WrongOutputError, relative_error

GATE_TOKENS, GATE_IMAGES, GATE_WINDOW = 96, 8, (2, 12)
WINDOW = 128
"""Tokens of a window that a language model is trained on."""

SLOPE = 1e-5
"""Half the step of the central differences; their error is below 1e-8 in float64."""


def prepared(kit: Kit, task: Task) -> tuple[float, Callable[[], Any]]:
    """The error and the call of a layer, a training step or a decoding step.

    Raises
    ------
    WrongOutputError
        If what it computes is not what the dense interpreter says.
    """
    ours = kit.ours(task.computes)
    definition, weights = ours.definition, kit.weights(ours)
    model = ours if task.implementation == "dtn" else kit.by_hand(task.computes, weights)
    error, call = {MODULE: _layer, TRAINING: _training, DECODING: _decoding}[task.kind](
        kit, task, model, definition, weights
    )
    if not error < TOLERANCES[task.shape.dtype]:
        raise WrongOutputError(f"{task.label}: relative error {error:.1e}; no figure is taken")
    call()
    return error, call


def _layer(
    kit: Kit, task: Task, model: Any, definition: Definition, weights: Mapping[str, Array]
) -> tuple[float, Callable[[], Any]]:
    """A layer on ``task.n`` tokens, without gradients; a causal one is compared where many tokens follow."""
    rng = np.random.default_rng(0)
    few = rng.standard_normal((1, 512, EMBED), dtype=np.float32)[:, : 512 if task.computes == CAUSAL else GATE_TOKENS]
    expected = evaluate(definition, weights, few[:, :GATE_TOKENS])
    got = np.asarray(kit.function(model, task.mode)(kit.native(few)))[:, :GATE_TOKENS]
    function, x = kit.function(model, task.mode), kit.native(_layer_input(task.n))
    return relative_error(got, expected), lambda: function(x)


def _layer_input(n: int) -> Array:
    return np.random.default_rng(1).standard_normal((1, n, EMBED), dtype=np.float32)


def _training(
    kit: Kit, task: Task, model: Any, definition: Definition, weights: Mapping[str, Array]
) -> tuple[float, Callable[[], Any]]:
    """One AdamW step on ``task.n`` images or windows, as ``dtn demo`` makes it."""
    x, labels = examples(task.computes, GATE_IMAGES, *GATE_WINDOW)
    names = {name: value.shape for name, value in weights.items()}
    error = gradient_error(definition, weights, kit.gradients(model, names, x, labels), x, labels)
    step = kit.trainer(model, task.mode)
    x, labels = examples(task.computes, task.n, task.n, WINDOW)
    return error, lambda: step(x, labels)


def _decoding(
    kit: Kit, task: Task, model: Any, definition: Definition, weights: Mapping[str, Array]
) -> tuple[float, Callable[[], Any]]:
    """One token more for each of ``task.n`` texts, after a window of others."""
    x, _ = examples(task.computes, 0, task.n, GATE_WINDOW[1])
    step, state = kit.stepper(model, task.n, task.mode)
    for column in x.T[:-1]:
        _, state = step(kit.native(column), state)
    last = kit.native(x.T[-1])
    expected = evaluate(definition, weights, x)[:, -1]
    return relative_error(np.asarray(step(last, state)[0]), expected), lambda: step(last, state)


def examples(name: str, images: int, windows: int, length: int) -> tuple[Array, Array]:
    """Inputs and labels of a model: images of 8×8 pixels, or windows of bytes and the bytes that follow."""
    rng = np.random.default_rng(0)
    if name == CLASSIFIER:
        return rng.standard_normal((images, 8, 8), dtype=np.float32), np.arange(images, dtype=np.int32) % 10
    text = rng.integers(0, 256, (windows, length + 1), dtype=np.int32)
    return np.ascontiguousarray(text[:, :-1]), np.ascontiguousarray(text[:, 1:])


def loss(definition: Definition, weights: Mapping[str, Array], x: Array, labels: Array) -> float:
    """Mean cross-entropy by the dense interpreter, in float64."""
    logits = evaluate(definition, weights, x)
    chosen = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    largest = logits.max(-1)
    return float((np.log(np.exp(logits - largest[..., None]).sum(-1)) + largest - chosen).mean())


def gradient_error(
    definition: Definition, weights: Mapping[str, Array], gradient: Mapping[str, Array], x: Array, labels: Array
) -> float:
    """How far a gradient is from the loss's slopes, along itself and random directions, relative to its length.

    Parameters
    ----------
    definition : Definition
        The model.
    weights, gradient : mapping of str to numpy.ndarray
        By the same names.
    x, labels : numpy.ndarray
        A few examples.
    """
    rng = np.random.default_rng(0)
    exact = {name: value.astype(np.float64) for name, value in gradient.items()}
    length = float(np.sqrt(sum((value**2).sum() for value in exact.values())))
    directions = [{name: value / length for name, value in exact.items()}]
    directions += [{name: rng.standard_normal(value.shape) for name, value in exact.items()} for _ in range(2)]
    errors = []
    for direction in directions:
        ahead, behind = (
            loss(definition, {name: weights[name] + sign * SLOPE * d for name, d in direction.items()}, x, labels)
            for sign in (1, -1)
        )
        slope = float(sum((exact[name] * d).sum() for name, d in direction.items()))
        errors.append(abs(slope - (ahead - behind) / (2 * SLOPE)) / length)
    return max(errors)
