"""Holds outputs to the float64 values of ``problems.py``, which are held to the dense interpreter first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dtn_core.interpret import interpret
from dtn_core.notation import parse

from .case import GRADIENTS, SOFTMAX, STEP, Shape, Task
from .data import Array, tensors
from .problems import BLOCK, PROBLEMS, Problem

TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
"""Largest relative error, of any token's vector, by the dtype of the tensors."""

ALL_TOKENS, SAMPLED_TOKENS, SOFTMAX_TOKENS = 8192, 4096, 256
LEADING = 8
"""Batch entries and heads that are compared at most: they do not see one another."""

SMALL = 1e-30
"""The complex step: its square is nothing beside 1, so a slope has no error but rounding."""
DIRECTIONS = 2


class WrongOutputError(Exception):
    """An implementation does not compute what it is measured for."""


def sampled(n: int, all_up_to: int = ALL_TOKENS, count: int = SAMPLED_TOKENS) -> Array:
    """The tokens that are compared: all of them, or many spread over the whole sequence, the last one included."""
    return np.arange(n) if n <= all_up_to else np.unique(np.linspace(0, n - 1, count).astype(int))


def leading(x: Array, shape: Shape) -> Array:
    """The batch entries and heads of ``x[batch, heads, ...]`` that are compared, as one axis."""
    every = shape.batch * shape.heads
    chosen = np.unique(np.linspace(0, every - 1, min(every, LEADING)).astype(int))
    return x.reshape(every, *x.shape[2:])[chosen]


def relative_error(got: Array, expected: Array) -> float:
    """Largest distance of a token's vector from what it should be, relative to the vector; NaN if anything is."""
    distance = np.linalg.norm(got.astype(np.float64) - expected, axis=-1)
    return float(np.max(distance / np.maximum(np.linalg.norm(expected, axis=-1), np.finfo(np.float64).tiny)))


def slope(problem: Problem, tensors: Sequence[Array], direction: Sequence[Array], g: Array) -> float:
    """How fast ``Σ g · o`` grows along a direction, by the dense interpreter and a complex step, ``Im f(x + ihu) / h``.

    Conjugates are left out: of real numbers they are the identity, and a complex step is for analytic functions.
    ``relu`` tests the real part, by which NumPy orders complex numbers.
    """
    operator = problem.operator
    assert operator is not None
    program = parse(operator.notation.replace("conj(", "("))
    moved = [x + SMALL * 1j * u for x, u in zip(tensors, direction, strict=True)]
    return float((interpret(program, *moved, **operator.scalars).imag / SMALL * g).sum())


def check_oracle(names: Iterable[str] = (), gradients: Iterable[str] = (), n: int = BLOCK + 22, seed: int = 0) -> float:
    """Hold formulas, recurrences and, along random directions, gradients to the dense interpreter.

    Parameters
    ----------
    names : iterable of str
        Problems whose values are compared, all of them if none is given.
    gradients : iterable of str
        Those whose gradients are; to compile one takes up to half a second.
    n : int
        Tokens; more than a block.
    seed : int
        Of the numbers.

    Returns
    -------
    float
        The largest relative error.

    Raises
    ------
    WrongOutputError
        If it is not below 1e-10.
    """
    rng = np.random.default_rng(seed)
    q, k, v, g = rng.normal(size=(4, 1, 2, n, 5))
    directions = rng.normal(size=(DIRECTIONS, 3, *q.shape))
    errors = {}
    for name in names or PROBLEMS:
        operator = PROBLEMS[name].operator
        if operator is not None:
            expected = interpret(operator.program, q, k, v, **operator.scalars)
            errors[name] = relative_error(PROBLEMS[name].value(q, k, v, np.arange(n)), expected)
    for name in gradients:
        found = PROBLEMS[name].gradients(q, k, v, g)
        expected = np.array([[slope(PROBLEMS[name], (q, k, v), u, g)] for u in directions])
        slopes = np.array([[sum(np.vdot(d, x) for d, x in zip(found, u, strict=True))] for u in directions])
        errors[f"gradients of {name}"] = relative_error(slopes, expected)
    for name, error in errors.items():
        if not error < 1e-10:
            raise WrongOutputError(f"the oracle's {name} differs from the dense interpreter by {error:.1e}")
    return max(errors.values())


def reference_name(task: Task) -> str:
    """The reference that a task's output is compared with; one serves every length of a causal operator."""
    what = f"gradients of {task.computes}" if task.kind == GRADIENTS else task.computes
    length = "" if task.kind != GRADIENTS and PROBLEMS[task.computes].causal else f" {task.n}"
    return f"{what}{length} {task.shape}"


def write_references(tasks: Iterable[Task], folder: Path) -> None:
    """Compute what the outputs of ``tasks`` have to be, and write it for the workers to read."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(reference_name(task), []).append(task)
    for name, group in groups.items():
        shape, problem = group[0].shape, PROBLEMS[group[0].computes]
        longest = max(task.n + (task.kind == STEP) for task in group)
        if group[0].kind == GRADIENTS:
            arrays = [leading(x, shape) for x in tensors("qkvg", longest, shape, definite=problem.definite)]
            dq, dk, dv = problem.gradients(*arrays)
            np.savez(folder / f"{name}.npz", tokens=np.arange(longest), q=dq, k=dk, v=dv)
            continue
        few = (SOFTMAX_TOKENS, SOFTMAX_TOKENS) if group[0].computes == SOFTMAX else ()
        lengths = {task.n + (task.kind == STEP) for task in group}
        tokens = np.unique(np.concatenate([*(sampled(n, *few) for n in lengths), [n - 1 for n in lengths]]))
        arrays = [leading(x, shape) for x in tensors("qkv", longest, shape, definite=problem.definite)]
        np.savez(folder / f"{name}.npz", tokens=tokens, o=problem.value(*arrays, tokens))


def check_output(task: Task, outputs: list[Array], folder: Path) -> float:
    """Hold an implementation's output to the reference.

    Parameters
    ----------
    task : Task
        What ran.
    outputs : list of numpy.ndarray
        ``o[batch, heads, n, e]``; its three gradients; or one token's ``o[batch, heads, e]``.
    folder : Path
        Where :func:`write_references` wrote.

    Returns
    -------
    float
        The largest relative error of any token's vector.

    Raises
    ------
    WrongOutputError
        If it is not below the tolerance of the dtype.
    """
    with np.load(folder / f"{reference_name(task)}.npz") as reference:
        tokens = reference["tokens"]
        expected = [reference[name] for name in reference.files if name != "tokens"]
    outputs = [leading(output, task.shape) for output in outputs]
    if task.kind == STEP:
        seen = tokens == task.n
        outputs = [output[..., None, :] for output in outputs]
    else:
        seen = tokens < task.n
        outputs = [output[..., tokens[seen], :] for output in outputs]
    error = max(relative_error(got, value[..., seen, :]) for got, value in zip(outputs, expected, strict=True))
    if not error < TOLERANCES[task.shape.dtype]:
        raise WrongOutputError(f"{task.label}: relative error {error:.1e}; no figure is taken")
    return error
