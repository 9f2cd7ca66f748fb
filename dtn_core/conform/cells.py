"""The matrix as data: its axes, a cell, and which cells there are."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .operators import Case
from .structure import why_not

FORMS = {
    "dense": "the whole sequence at once, as the compiler lowers it for short sequences: n×n matrices are allowed",
    "linear": "as the compiler lowers it for long sequences",
    "chunked": "chunks of 4 tokens (16 in kernels), with states between them",
    "recurrent": "one token after another, by init_state and step",
}
MODES = {
    "eager": "called as it is",
    "jit": "inside torch.compile, jax.jit or a tf.function compiled by XLA",
    "vmap": "inside torch.func.vmap, jax.vmap or tf.vectorized_map",
    "export": "written by torch.export, jax.export or as a SavedModel, read back, called",
}
CHECKS = {
    "value": "the result, at well scaled and at ill scaled inputs",
    "gradient": "of a weighted sum of the results, by every tensor",
    "second gradient": "the Hessian of that sum times a direction",
    "split-resume": "a sequence in two pieces with the state handed on",
    "causality": "results do not depend on later tokens",
    "padding": "padded tokens count for nothing and give exactly 0",
    "batching": "leading axes that broadcast",
    "layout": "heads after tokens, ... n h d",
    "zero input": "all tensors 0: results and gradients are finite and right",
}
DTYPES = ("float64", "float32", "bfloat16", "float16", "complex128", "complex64")
EAGER_DTYPES: dict[str, tuple[str, ...]] = {
    "value": DTYPES,
    "gradient": ("float64", "float32", "complex128"),
    "second gradient": ("float64",),
    "split-resume": ("float64", "float32"),
    "causality": ("float64",),
    "padding": ("float64",),
    "batching": ("float64",),
    "layout": ("float64",),
    "zero input": ("float64", "float16"),
}
"""The dtypes of each check where nothing is compiled."""

COMPILED_DTYPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CHECKS, ("float32",)),
    "value": ("float32", "complex64"),
    "second gradient": ("float64",),
}
"""The dtypes of each check in the other modes."""

DRAWN = {"jit": 3, "vmap": 3, "export": 3}
"""Operators that run in each combination of form, mode, check and dtype, in modes where each is compiled for long."""

NOTHING_ELSE: Mapping[str, tuple[str, ...]] = {}

ALWAYS = ("eager", "value", "float32")
"""The mode, check and dtype in which every operator runs in every backend."""

STATUSES = {
    "pass": "the error is within the bound",
    "fail": "it is not, or an exception was raised",
    "xfail": "fails for a known reason outside this library, with a link",
    "skip": "has no meaning here, or was not drawn; the reason says which",
    "gap": "could be checked, and is not yet",
}


@dataclass(frozen=True)
class Cell:
    """One place of the matrix, and what was found there.

    Attributes
    ----------
    operator, text : str
        The operator's name, and what ``--ops`` takes for it with its knobs.
    knobs : dict
        Those that differ from their defaults.
    backend, form, mode, check, dtype : str
        The other axes.
    status : str
        One of ``STATUSES``; empty before it ran.
    error, bound : float or None
        The largest error over all outputs and inputs, relative to the largest element, and what it was held to.
    reason : str
        Why it did not pass, or what of the inputs was left out.
    device, versions : str
        Where it ran.
    """

    operator: str
    text: str
    knobs: dict[str, Any]
    backend: str
    form: str
    mode: str
    check: str
    dtype: str
    status: str = ""
    error: float | None = None
    bound: float | None = None
    reason: str = ""
    device: str = ""
    versions: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What names the cell."""
        return self.text, self.backend, self.form, self.mode, self.check, self.dtype

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """The part of the matrix that is asked for; None stands for all."""

    dtypes: Sequence[str] | None = None
    forms: Sequence[str] | None = None
    modes: Sequence[str] | None = None
    checks: Sequence[str] | None = None

    def places(self, also: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str, str, str]]:
        """Every form, mode, check and dtype that is chosen; ``also`` has further dtypes of checks in eager mode."""
        for form in FORMS if self.forms is None else self.forms:
            for mode in MODES if self.modes is None else self.modes:
                for check in CHECKS if self.checks is None else self.checks:
                    known = EAGER_DTYPES[check] + also.get(check, ()) if mode == "eager" else COMPILED_DTYPES[check]
                    for dtype in known:
                        if self.dtypes is None or dtype in self.dtypes:
                            yield form, mode, check, dtype


def matrix(
    cases: Sequence[Case],
    backend: str,
    choice: Choice,
    seed: int,
    drawn: Mapping[str, int] = DRAWN,
    also: Mapping[str, tuple[str, ...]] = NOTHING_ELSE,
) -> list[Cell]:
    """The cells of one backend, those that have no meaning and those that are not drawn already skipped.

    Parameters
    ----------
    cases : sequence of Case
        The operators; where there are only a few, all of them are drawn.
    backend : str
        The backend's name.
    choice : Choice
        Which of the other axes.
    seed : int
        Of what is drawn.
    drawn : Mapping[str, int]
        How many operators of each combination run, for the modes in which not all do.
    also : Mapping[str, tuple of str]
        Dtypes of checks in eager mode, besides ``EAGER_DTYPES``.
    """
    cells: list[Cell] = []
    for form, mode, check, dtype in choice.places(also):
        reasons = {case.text: why_not(case, form, check, dtype) for case in cases}
        possible = [text for text, reason in reasons.items() if not reason]
        count = len(possible) if (mode, check, dtype) == ALWAYS else drawn.get(mode, len(possible))
        if len(possible) > count:
            chosen = random.Random(f"{seed} {form} {mode} {check} {dtype}").sample(possible, count)
            for text in set(possible).difference(chosen):
                reasons[text] = f"not drawn: {count} operators run here, as each is compiled for long (seed {seed})"
        for case in cases:
            reason = reasons[case.text]
            status = "skip" if reason else ""
            cells.append(
                Cell(case.name, case.text, dict(case.knobs), backend, form, mode, check, dtype, status, reason=reason)
            )
    return cells


def sampled(cells: Sequence[Cell], count: int | None, seed: int) -> list[Cell]:
    """``count`` of the cells that are to run, drawn by ``seed``; all cells when ``count`` is None."""
    if count is None:
        return list(cells)
    runnable = [cell for cell in cells if not cell.status]
    places = sorted(random.Random(f"{seed}").sample(range(len(runnable)), min(count, len(runnable))))
    return [runnable[place] for place in places]
