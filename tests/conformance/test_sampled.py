"""A sample of the conformance matrix, in the framework of this process; ``dtn conform`` computes all of it.

``DTN_CONFORM_SEED`` draws another sample; the seed is in the head of the report.  ``DTN_CONFORM_BACKEND=tvm`` takes that of the
kernels, which PyTorch calls.
"""

from __future__ import annotations

import importlib
import os
from collections import Counter

import pytest

from dtn_core.conform.cells import Choice, matrix, sampled
from dtn_core.conform.evaluate import evaluated
from dtn_core.conform.operators import cases

BACKEND = os.environ.get("DTN_CONFORM_BACKEND") or os.environ.get("DTN_BACKEND", "numpy")
SEED = int(os.environ.get("DTN_CONFORM_SEED", "0"))
COUNTS = {
    "numpy": (200, 1),
    "torch": (150, 8),
    "jax": (30, 10),
    "tensorflow": (80, 8),
    "tvm": (80, 8),
}  # eager cells, and compiled ones
FORMS = {"tvm": ["linear"]}
OPERATORS = slice(SEED % 4, None, 4)  # of all, so that few are lowered


@pytest.fixture(scope="module")
def adapter():
    made = importlib.import_module(f"dtn_{BACKEND}.conformance").ADAPTER()
    with made.session():
        yield made


def drawn():
    """Cells by operator."""
    some = cases()[OPERATORS]
    found = {}
    for modes, count in zip((["eager"], ["jit", "vmap", "export"]), COUNTS[BACKEND], strict=True):
        for cell in sampled(
            matrix(some, BACKEND, Choice(modes=modes, forms=FORMS.get(BACKEND)), SEED, {}), count, SEED
        ):
            found.setdefault(cell.text, []).append(cell)
    return found


CELLS = drawn()


@pytest.mark.parametrize("text", CELLS)
def test_no_cell_fails(adapter, text):
    (case,) = [case for case in cases() if case.text == text]
    found = list(evaluated(adapter, case, CELLS[text], "of this process"))
    adapter.reset()
    assert [
        (cell.form, cell.mode, cell.check, cell.dtype, cell.error, cell.bound, cell.reason)
        for cell in found
        if cell.status == "fail"
    ] == []


def test_most_of_the_sample_passes(adapter):
    lacking = Counter(bool(adapter.why_not(cell)) for cells in CELLS.values() for cell in cells)
    assert lacking[False] > sum(COUNTS[BACKEND]) / 2
