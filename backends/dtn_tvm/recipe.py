"""What a kernel is checked against: inputs by seed, and the operator's generated NumPy source as the reference.

The reference computes in float64.  Where it is linear in the sequence, values are compared at the tuned size itself;
where it has an n×n step (the gradient of a causal operator, a pointwise function of all pairs) they are compared at a
shorter sequence.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from dtn_codegen import emit
from dtn_core.errors import DtnError
from dtn_core.ir.axes import sequence_axes
from dtn_core.ir.nodes import Param, Program
from dtn_core.notation import parse
from dtn_core.operators import Operator
from dtn_core.passes.differentiate import differentiate
from dtn_core.passes.flatten import flatten
from dtn_core.passes.pipeline import candidates

from .measuring import values
from .record import shape

if TYPE_CHECKING:
    from .problem import Problem

WORK = 4e11
"""What the reference may cost (flops and traffic, as the compiler scores them): some ten seconds of NumPy."""

SHORT = 512
"""Sequences are shortened to this length and the rest of a division by it, which keeps what schedules divide by."""

LARGEST = 1e3
"""Outputs stay below this, so that a sum over a long sequence fits into float16."""

# The error that float32 sums, and a rounding of inputs and outputs (and of states in tensor cores), explain.
TOLERANCE: Mapping[str, Mapping[str, float]] = {
    "float32": {"rms": 2e-5, "row": 5e-4},
    "float16": {"rms": 4e-3, "row": 4e-2},
    "bfloat16": {"rms": 3e-2, "row": 3e-1},
}


class RecipeError(DtnError, ValueError):
    """A kernel that cannot be checked, with the reason."""


def to_json(problem: Problem) -> dict[str, Any]:
    """A description of a problem that :func:`from_json` reads."""
    return {
        "notation": problem.operator.notation,
        "scalars": dict(problem.operator.scalars),
        "direction": problem.direction,
        "dtype": problem.dtype,
        "sizes": dict(problem.sizes),
    }


def from_json(family: ModuleType, found: Mapping[str, Any]) -> Problem:
    """The problem that :func:`to_json` described."""
    operator = Operator(parse(found["notation"]), found["scalars"])
    problem: Problem = family.Problem(operator, found["direction"], found["dtype"], found["sizes"])
    return problem


@lru_cache(maxsize=64)
def computed(program: Program, direction: str) -> Program:
    """What a kernel computes: the operator, or its vector-Jacobian product."""
    return program if direction == "forward" else differentiate(flatten(program))


def recipe(problem: Problem, folder: Path, seed: int = 0) -> dict[str, Any]:
    """How to check a kernel of ``problem``; the reference is written to ``folder``.

    Returns
    -------
    dict
        JSON for :mod:`dtn_tvm.measuring.values`.

    Raises
    ------
    RecipeError
        If a scalar parameter of the operator has no value, or this machine has not the memory for one head.
    """
    operator = problem.operator
    program = computed(operator.program, problem.direction)
    unbound = [param.name for param in program.scalars if param.name not in operator.scalars]
    if unbound:
        raise RecipeError(f"{operator.name}: scalar {unbound[0]} has no value; a kernel is tuned for one")
    source = emit(Operator(program, operator.scalars), "numpy")
    places = [place for place, output in enumerate(program.outputs) if output.axes or problem.direction == "forward"]
    function = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)][-1]
    reference = f"reference_{hashlib.sha256(source.encode()).hexdigest()[:12]}.py"
    (folder / reference).write_text(source, encoding="utf-8")
    made: dict[str, Any] = {
        "inputs": [_tensor(problem, param) for param in problem.inputs],
        "outputs": [
            {**_tensor(problem, param), "place": place} for param, place in zip(problem.outputs, places, strict=True)
        ],
        "seed": seed,
        "scale": 1.0,
        "reference": reference,
        "function": function,
        "scalars": [
            [place, operator.scalars[param.name]] for place, param in enumerate(program.params) if not param.axes
        ],
        "tolerance": dict(TOLERANCE[problem.dtype]),
        "sizes": dict(problem.sizes),
    }
    try:
        made["scale"] = _scale(made, folder)
    except MemoryError as error:
        raise RecipeError(f"{operator.name}, {shape(problem.sizes)}: {error}; give a smaller shape") from None
    made["key"] = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]
    return made


def recipes(problem: Problem, folder: Path, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe to take the time by and the one to compare values by: one, where the reference is quick enough."""
    timed, proof = recipe(problem, folder, seed), checked(problem)
    return timed, timed if proof is problem else recipe(proof, folder, seed)


def _tensor(problem: Problem, param: Param) -> dict[str, Any]:
    return {"name": param.name, "shape": list(problem.shape(param)), "dtype": problem.kind(param)}


def _scale(made: dict[str, Any], folder: Path) -> float:
    """The largest power of two, at most 1, at which one batch entry's outputs stay small."""
    first = {
        **made,
        **{
            part: [{**given, "shape": [1, 1, *given["shape"][2:]]} for given in made[part]]
            for part in ("inputs", "outputs")
        },
    }
    scale = 1.0
    while scale > 2.0**-12:
        results = values.reference({**first, "scale": scale}, folder)
        if all(bool(np.all(np.abs(result) <= LARGEST)) for result in results):
            break
        scale /= 2
    return scale


def checked(problem: Problem) -> Problem:
    """The problem at the sizes at which values are compared: its own where the reference can be computed there."""
    program = computed(problem.operator.program, problem.direction)
    sizes = dict(problem.sizes)
    if _work(program, sizes) > WORK:
        for axis in sequence_axes(program):
            sizes[axis] = min(sizes[axis], SHORT + sizes[axis] % SHORT)
    if _work(program, sizes) > WORK:
        sizes["batch"], sizes["heads"] = min(sizes["batch"], 2), min(sizes["heads"], 2)
    if sizes == dict(problem.sizes):
        return problem
    return type(problem)(problem.operator, problem.direction, problem.dtype, sizes)


def _work(program: Program, sizes: Mapping[str, int]) -> int:
    return candidates(program)[0].score(sizes) * sizes["batch"] * sizes["heads"]
