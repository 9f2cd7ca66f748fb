"""Runs cells of one backend."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from .adapter import Adapter, GapError
from .bounds import Verdict, worst
from .cells import Cell
from .checks import CHECKS, Evaluation, layout_of
from .operators import Case

SHOWN = 300


def evaluated(adapter: Adapter, case: Case, cells: Iterable[Cell], versions: str) -> Iterator[Cell]:
    """The cells of one operator with what was found, in their order.

    Parameters
    ----------
    adapter : Adapter
        The backend.
    case : Case
        The operator.
    cells : iterable of Cell
        Cells of that operator and backend.
    versions : str
        Recorded in every cell.
    """
    evaluations: dict[str, Evaluation] = {}
    for cell in cells:
        where = replace(cell, device=adapter.device, versions=versions)
        lack = adapter.why_not(cell)
        if lack:
            yield replace(where, status="skip", reason=lack)
            continue
        evaluation = evaluations.setdefault(cell.dtype, Evaluation(adapter, case, cell.dtype))
        yield _declared(adapter, _run(evaluation, where))


def _run(evaluation: Evaluation, cell: Cell) -> Cell:
    """One cell; an exception of the backend, of any kind, is what it failed with."""
    try:
        try:
            call = evaluation.adapter.compile(evaluation.case.operator, cell.form, layout_of(cell.check))
        except NotImplementedError as missing:
            return replace(cell, status="skip", reason=str(missing))
        evaluation.left_out = []
        found = list(CHECKS[cell.check](evaluation, call, cell.form, cell.mode))
    except GapError as missing:
        return replace(cell, status="gap", reason=str(missing))
    except Exception as error:  # noqa: BLE001 - whatever a framework raises belongs into the matrix, not on the terminal
        return replace(cell, status="fail", reason=_said(error))
    return _judged(cell, found, evaluation.left_out)


def _judged(cell: Cell, found: list[Verdict], left_out: list[str]) -> Cell:
    verdict = worst(found)
    reason = f"not at {', '.join(left_out)}: the dtype has no digits or no room there" if left_out else ""
    error = float(f"{verdict.error:.3g}") if np.isfinite(verdict.error) else None
    passed = verdict.error <= verdict.bound
    if not passed:
        text = "not finite" if error is None else f"{verdict.what} error above its bound"
        reason = f"{text}; {reason}" if reason else text
    return replace(
        cell, status="pass" if passed else "fail", error=error, bound=float(f"{verdict.bound:.3g}"), reason=reason
    )


def _declared(adapter: Adapter, cell: Cell) -> Cell:
    """What the adapter says about a cell that fails: nothing, or that it is known to."""
    declared = adapter.declared(cell)
    if declared is None:
        return cell
    status, reason = declared
    if cell.status == "fail":
        return replace(cell, status=status, reason=f"{reason} ({cell.reason})" if cell.reason else reason)
    return cell


def _said(error: Exception) -> str:
    """The first line of an exception, and where it was raised."""
    lines = str(error).strip().splitlines() or [""]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {lines[0][:SHOWN]}{place}"
