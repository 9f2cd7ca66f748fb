"""What the outputs have to be, in NumPy float64, by recurrence; held to the dense interpreter before it is used.

Everything here is causal, so the value at a token is the same for every sequence that begins alike: one pass over the
longest one serves all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dtn_core.interpret import interpret
from dtn_core.notation import parse

from .case import GRADIENTS, SECOND_ORDER, SOFTMAX, STEP, Task
from .data import Array, tensors

TOLERANCE = 1e-4
"""Largest relative error, of any token's vector, that a float32 implementation may have."""

SECOND_ORDER_NOTATION = """second_order(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
    o[t,c] = q[t,a] * k[i,a] * k[i,b] * q[j,b] * v[j,c]   where i <= j <= t"""
BLOCK = 64
ALL_TOKENS, SAMPLED_TOKENS, SOFTMAX_TOKENS = 8192, 4096, 256


class WrongOutputError(Exception):
    """An implementation does not compute what it is measured for."""


def sampled(n: int, all_up_to: int = ALL_TOKENS, count: int = SAMPLED_TOKENS) -> Array:
    """The tokens that are compared: all of them, or many spread over the whole sequence, the last one included."""
    return np.arange(n) if n <= all_up_to else np.unique(np.linspace(0, n - 1, count).astype(int))


class Linear:
    """The causal contraction ``o_t = Σ_{j<=t} (q_t·k_j) v_j``, a block of tokens at a time, in float64."""

    def __init__(self) -> None:
        self.state: Array | float = 0.0

    def __call__(self, q: Array, k: Array, v: Array) -> Array:
        """Output at the tokens that follow those of the calls before."""
        o = np.tril(q @ k.mT) @ v
        if isinstance(self.state, np.ndarray):
            o += q @ self.state
        self.state = self.state + k.mT @ v
        return o


def blocks(n: int) -> Iterator[slice]:
    """The tokens, ``BLOCK`` at a time."""
    return (slice(start, start + BLOCK) for start in range(0, n, BLOCK))


def linear(q: Array, k: Array, v: Array) -> Array:
    """:class:`Linear` of a whole sequence."""
    step = Linear()
    return np.concatenate([step(*(x[:, :, part] for x in (q, k, v))) for part in blocks(q.shape[2])], axis=2)


def mirrored(q: Array, k: Array, v: Array) -> Array:
    """The same with the order reversed, ``Σ_{j>=t}``."""
    return linear(*(x[:, :, ::-1] for x in (q, k, v)))[:, :, ::-1]


def second_order(q: Array, k: Array, v: Array, tokens: Array) -> Array:
    """Causal second-order attention by its recurrence.

    Parameters
    ----------
    q, k, v : numpy.ndarray
        ``[batch, heads, n, d]``, ``[..., d]``, ``[..., e]``.
    tokens : numpy.ndarray
        Which tokens are asked for, in order.

    Returns
    -------
    numpy.ndarray
        ``[batch, heads, len(tokens), e]``, float64.
    """
    inner, outer = Linear(), Linear()
    found = []
    for part in blocks(q.shape[2]):
        q_b, k_b, v_b = (x[:, :, part].astype(np.float64) for x in (q, k, v))
        o = outer(q_b, inner(q_b, k_b, k_b), v_b)
        found.append(o[:, :, tokens[(tokens >= part.start) & (tokens < part.stop)] - part.start])
    return np.concatenate(found, axis=2)


def second_order_gradients(q: Array, k: Array, v: Array, g: Array) -> tuple[Array, Array, Array]:
    """Derivatives of ``Σ g · second_order(q, k, v)``.

    With ``A = L ⊙ (Q Kᵀ)`` of the inner and the outer contraction they are those of the matrix products ``A V``.

    Returns
    -------
    tuple of numpy.ndarray
        For q, k and v, float64.
    """
    q, k, v, g = (x.astype(np.float64) for x in (q, k, v, g))
    r = linear(q, k, k)
    dr = mirrored(v, g, q)
    dq = linear(g, v, r) + linear(dr, k, k)
    dk = mirrored(k, dr, q) + mirrored(k, q, dr)
    return dq, dk, mirrored(r, q, g)


def softmax(q: Array, k: Array, v: Array, tokens: Array) -> Array:
    """Causal softmax attention, scaled by ``d**-0.5``, with arguments and result as of :func:`second_order`."""
    out = np.empty((*q.shape[:2], len(tokens), v.shape[-1]))
    for place, token in enumerate(tokens):
        past = slice(0, int(token) + 1)
        scores = (k[:, :, past] @ q[:, :, token, :, None].astype(np.float64))[..., 0] / q.shape[-1] ** 0.5
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, :, place] = (weights[..., None, :] @ v[:, :, past])[..., 0, :] / weights.sum(-1, keepdims=True)
    return out


def relative_error(got: Array, expected: Array) -> float:
    """Largest distance of a token's vector from what it should be, relative to the vector; NaN if anything is."""
    distance = np.linalg.norm(got.astype(np.float64) - expected, axis=-1)
    return float(np.max(distance / np.maximum(np.linalg.norm(expected, axis=-1), np.finfo(np.float64).tiny)))


def check_oracle(n: int = 2 * BLOCK + 22, seed: int = 0) -> float:
    """Hold the recurrences to the dense interpreter.

    The gradient is compared along random directions with a complex step, ``Im f(x + ihu) / h``, which is exact because
    the operator is a polynomial.

    Returns
    -------
    float
        The largest relative error.

    Raises
    ------
    WrongOutputError
        If it is not below 1e-10.
    """
    program = parse(SECOND_ORDER_NOTATION)
    rng = np.random.default_rng(seed)
    q, k, v, g = rng.normal(size=(4, 1, 2, n, 5))
    errors = [relative_error(second_order(q, k, v, np.arange(n)), interpret(program, q, k, v))]
    gradients = second_order_gradients(q, k, v, g)
    for _ in range(3):
        directions = rng.normal(size=(3, *q.shape))
        moved = [x + 1e-30j * u for x, u in zip((q, k, v), directions, strict=True)]
        expected = float((interpret(program, *moved).imag / 1e-30 * g).sum())
        got = float(sum((d * u).sum() for d, u in zip(gradients, directions, strict=True)))
        errors.append(abs(got - expected) / abs(expected))
    if not max(errors) < 1e-10:
        raise WrongOutputError(f"the oracle's recurrences differ from the dense interpreter by {max(errors):.1e}")
    return max(errors)


def reference_name(task: Task) -> str:
    """The reference that a task's output is compared with."""
    return f"gradients {task.n}" if task.kind == GRADIENTS else task.computes


def write_references(tasks: Iterable[Task], folder: Path) -> None:
    """Compute what the outputs of ``tasks`` have to be, and write it for the workers to read."""
    tasks = list(tasks)
    for computes, function, tokens_of in (
        (SECOND_ORDER, second_order, sampled),
        (SOFTMAX, softmax, lambda n: sampled(n, SOFTMAX_TOKENS, SOFTMAX_TOKENS)),
    ):
        lengths = {
            task.n + (task.kind == STEP) for task in tasks if task.kind != GRADIENTS and task.computes == computes
        }
        if lengths:
            last = {n - 1 for n in lengths}
            tokens = np.unique(np.concatenate([*(tokens_of(n) for n in lengths), sorted(last)]))
            np.savez(folder / f"{computes}.npz", tokens=tokens, o=function(*tensors("qkv", max(lengths)), tokens))
    for task in {reference_name(task): task for task in tasks if task.kind == GRADIENTS}.values():
        dq, dk, dv = second_order_gradients(*tensors("qkvg", task.n))
        np.savez(folder / f"{reference_name(task)}.npz", tokens=np.arange(task.n), q=dq, k=dk, v=dv)


def check_output(task: Task, outputs: list[Array], folder: Path) -> float:
    """Hold an implementation's output to the reference.

    Parameters
    ----------
    task : Task
        What ran.
    outputs : list of numpy.ndarray
        ``o[..., n, e]``; its three gradients; or one token's ``o[..., e]``.
    folder : Path
        Where :func:`write_references` wrote.

    Returns
    -------
    float
        The largest relative error of any token's vector.

    Raises
    ------
    WrongOutputError
        If it is not below ``TOLERANCE``.
    """
    with np.load(folder / f"{reference_name(task)}.npz") as reference:
        tokens = reference["tokens"]
        expected = [reference[name] for name in reference.files if name != "tokens"]
    if task.kind == STEP:
        seen = tokens == task.n
        outputs = [output[..., None, :] for output in outputs]
    else:
        seen = tokens < task.n
        outputs = [output[..., tokens[seen], :] for output in outputs]
    error = max(relative_error(got, value[..., seen, :]) for got, value in zip(outputs, expected, strict=True))
    if not error < TOLERANCE:
        raise WrongOutputError(f"{task.label}: relative error {error:.1e}; no figure is taken")
    return error
