"""factor and accumulate: sums of products, against the same program evaluated as it was written."""

from __future__ import annotations

import numpy as np
import pytest

from dtn_core.interpret import interpret
from dtn_core.ir.nodes import Program
from dtn_core.notation import parse
from dtn_core.passes.accumulate import accumulate, accumulate_each
from dtn_core.passes.factor import factor
from dtn_core.printer import to_notation

HEAD = "f(x[n,d], y[n,d], a[d,d], b[d,d]) -> o[n,d]:\n    "


def written(*lines: str) -> Program:
    return parse(HEAD + "\n    ".join(lines))


def value(program: Program) -> np.ndarray:
    rng = np.random.default_rng(0)
    return interpret(program, *(rng.standard_normal(shape) for shape in ((5, 3), (5, 3), (3, 3), (3, 3))))


def lines(program: Program) -> list[str]:
    return [line.strip() for line in to_notation(program).splitlines()[1:]]


THREE = (
    "p[i,c] = x[i,s]*a[s,c]",
    "q[i,c] = x[i,s]*b[s,c]",
    "r[i,c] = y[i,s]*a[s,c]",
    "o[i,c] = p[i,c] + q[i,c] + r[i,c]",
)


def test_products_that_share_a_factor_become_one() -> None:
    program = written(*THREE)
    made = factor(program)
    assert lines(made) == [
        "a_sum[s,c] = a[s,c] + b[s,c]",
        "q[i,c] = x[i,s] * a_sum[s,c]",
        "r[i,c] = y[i,s] * a[s,c]",
        "o[i,c] = q[i,c] + r[i,c]",
    ]
    np.testing.assert_allclose(value(made), value(program), rtol=1e-13)


def test_a_transpose_is_a_factor_of_its_own() -> None:
    program = written("p[i,c] = x[i,s]*a[s,c]", "q[i,c] = x[i,t]*a[c,t]", "o[i,c] = p[i,c] + q[i,c]")
    made = factor(program)
    assert lines(made) == ["a_sum[s,c] = a[s,c] + a[c,s]", "o[i,c] = x[i,s] * a_sum[s,c]"]
    np.testing.assert_allclose(value(made), value(program), rtol=1e-13)


@pytest.mark.parametrize(
    "program",
    [
        written("p[i,c] = x[i,s]*a[s,c]", "q[i,c] = y[i,s]*b[s,c]", "o[i,c] = p[i,c] + q[i,c]"),  # nothing shared
        written("p[i,c] = x[i,s]*a[s,c]", "q[i,c] = x[i,s]*b[s,c]", "o[i,c] = p[i,c] * q[i,c]"),  # no sum
        written(
            "p[i,c] = x[i,s]*a[s,c]",
            "q[i,c] = x[i,s]*b[s,c]",
            "r[i,c] = p[i,c]*q[i,c]",
            "o[i,c] = p[i,c] + q[i,c] + r[i,c]",
        ),
        written("p[i,c] = x[i,c]*a[c,c]", "q[i,c] = x[i,c]*b[c,c]", "o[i,c] = p[i,c] + q[i,c]"),  # nothing summed
        written("p[i,c] = x[i,s]*a[s,c]", "q[j,c] = x[i,s]*y[i,s]*y[j,c]", "o[i,c] = p[i,c] + q[i,c]"),
    ],
)
def test_what_does_not_share_a_factor_stays(program: Program) -> None:
    assert factor(program) == program


def test_products_are_added_as_they_are_computed() -> None:
    program = written(*THREE)
    made = accumulate(program)
    assert lines(made) == [
        "p[i,c] = x[i,s] * a[s,c]",
        "q[i,c] = p[i,c] + x[i,s] * b[s,c]",
        "o[i,c] = q[i,c] + y[i,s] * a[s,c]",
    ]
    np.testing.assert_allclose(value(made), value(program), rtol=1e-13)


def test_what_is_no_product_is_added_last() -> None:
    program = written(
        "p[i,c] = x[i,s]*a[s,c]",
        "q[i,c] = y[i,s]*b[s,c]",
        "r[i,c] = x[i,c]*y[i,c]",
        "o[i,c] = r[i,c] + p[i,c] + y[i,c] + q[i,c]",
    )
    made = accumulate(program)
    assert lines(made) == [
        "p[i,c] = x[i,s] * a[s,c]",
        "q[i,c] = p[i,c] + y[i,s] * b[s,c]",
        "r[i,c] = x[i,c] * y[i,c]",
        "o[i,c] = q[i,c] + r[i,c] + y[i,c]",
    ]
    np.testing.assert_allclose(value(made), value(program), rtol=1e-13)


@pytest.mark.parametrize(
    "program",
    [
        written("p[i,c] = x[i,s]*a[s,c]", "q[i,c] = y[i,s]*b[s,c]", "o[i,c] = p[i,c] + 2*q[i,c]"),
        written("p[i,c] = x[i,s]*a[s,c]", "o[i,c] = p[i,c] + y[i,c]"),
        written(
            "p[i,c] = x[i,s]*a[s,c]",
            "q[i,c] = y[i,s]*b[s,c]",
            "r[i,c] = p[i,c]*y[i,c]",
            "o[i,c] = p[i,c] + q[i,c] + r[i,c]",
        ),
        written(
            "p[b,c] = a[b,s]*b[s,c]", "q[b,c] = b[b,s]*a[s,c]", "t[b,c] = p[b,c] + q[c,b]", "o[i,c] = x[i,s]*t[s,c]"
        ),
    ],
)
def test_other_sums_stay(program: Program) -> None:
    assert accumulate(program) == program


def test_products_element_by_element_go_into_the_sum_after_its_other_terms() -> None:
    program = written("p[s,t] = x[s,t]*y[s,t]", "q[i,c] = x[i,s]*a[s,c]", "o[i,c] = p[i,c] + q[i,c]")
    made = accumulate_each(program)
    assert lines(made) == ["q[i,c] = x[i,s] * a[s,c]", "o[i,c] = q[i,c] + x[i,c] * y[i,c]"]
    np.testing.assert_allclose(value(made), value(program), rtol=1e-13)


@pytest.mark.parametrize(
    "program",
    [
        written(
            "p[i,c] = x[i,c]*y[i,c]", "q[i,c] = p[i,c]*y[i,c]", "o[i,c] = p[i,c] + q[i,c]*y[i,c]"
        ),  # p is read twice
        written("p[b,c] = a[b,c]*b[b,c]", "t[b,c] = a[b,c] + p[c,b]", "o[i,c] = x[i,s]*t[s,c]"),  # read across
    ],
)
def test_other_products_element_by_element_stay(program: Program) -> None:
    assert accumulate_each(program) == program
