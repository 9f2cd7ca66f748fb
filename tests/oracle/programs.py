"""Programs at random, for property tests: every construct of the notation, small sizes, any nesting of names."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from dtn_core.ir.nodes import (
    Apply,
    Extent,
    Index,
    Number,
    Param,
    Program,
    Read,
    Relation,
    Statement,
    indices_of,
    product,
    reciprocal,
    sum_of,
)
from dtn_core.ir.verify import verify

PARAMS = (Param("x", ("n", "d")), Param("y", ("n", "d")), Param("m", ("d", "e")), Param("w", ("n",)), Param("g"))
NAMES = {"n": ("i", "j", "k"), "d": ("a", "b"), "e": ("c", "p")}
SIZES = {"n": 3, "d": 2, "e": 2}
EXACT = ("conj", "real", "relu", "step", "abs", "recip")
SMOOTH = ("conj", "real", "tanh", "sigmoid", "silu", "gelu", "erf")
POLYNOMIAL = ("conj", "real")


@st.composite
def programs(draw, functions=EXACT, *, orders=True, divisions=True, max_statements=4):
    """A verified program over :data:`PARAMS` with one or two outputs."""
    known = {param.name: param.axes for param in PARAMS}
    statements = []
    for number in range(draw(st.integers(1, max_statements))):
        made = draw(_statements(f"t{number}", known, functions, orders, divisions))
        statements.append(made)
        known[made.name] = made.axes
    last, first = statements[-1], statements[0]
    outputs = [Param(last.name, last.axes)]
    if len(statements) > 1 and draw(st.booleans()):
        outputs.append(Param(first.name, first.axes))
    return verify(Program("random", PARAMS, tuple(outputs), tuple(statements)))


@st.composite
def _statements(draw, name, known, functions, orders, divisions):
    terms = [draw(_terms(known, functions, divisions)) for _ in range(draw(st.integers(1, 3)))]
    value = sum_of(*terms)
    found = list(indices_of(value))
    left = tuple(draw(st.permutations(found))[: draw(st.integers(0, min(3, len(found))))])
    tokens = sorted({index for index in found if index.axis == "n"}, key=lambda index: index.name)
    order = []
    if orders and len(tokens) > 1 and draw(st.booleans()):
        decay = draw(st.sampled_from([None, None, Number(Fraction(1, 2)), Read("g")]))
        for place in range(len(tokens) - 1):
            equal = draw(st.sampled_from([False, False, False, True]))
            order.append(Relation(tokens[place], tokens[place + 1], None if equal else decay, equal))
    return Statement(name, left, value, tuple(order))


@st.composite
def _terms(draw, known, functions, divisions):
    coefficient = Number(
        draw(st.sampled_from([Fraction(1), Fraction(-1), Fraction(2), Fraction(-3, 2), Fraction(1, 3)]))
    )
    factors = []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["read", "read", "read", "function", "select", "extent", "divide"]))
        if kind == "extent":
            factors.append(Extent(draw(st.sampled_from(list(SIZES)))))
        elif kind == "function" and functions:
            factors.append(Apply(draw(st.sampled_from(functions)), (draw(_reads(known)),)))
        elif kind == "select":
            factors.append(Apply("select", (draw(_reads(known)), draw(_reads(known)))))
        elif kind == "divide" and divisions:
            factors.append(reciprocal(draw(st.one_of(_reads(known), st.just(Extent("d"))))))
        else:
            factors.append(draw(_reads(known)))
    return product(coefficient, *factors)


@st.composite
def _reads(draw, known):
    name = draw(st.sampled_from(sorted(known)))
    return Read(name, tuple(Index(draw(st.sampled_from(NAMES[axis])), axis) for axis in known[name]))


def rational_arguments(program, seed, sizes=SIZES):
    """Small rational arguments of both signs, zeros among them, as object arrays."""
    rng = np.random.default_rng(seed)
    arguments = []
    for param in program.params:
        shape = tuple(sizes[axis] for axis in param.axes)
        values = [Fraction(int(a), int(b)) for a, b in zip(rng.integers(-3, 4, np.prod(shape, dtype=int)), rng.integers(1, 4, np.prod(shape, dtype=int)), strict=True)]  # fmt: skip
        arguments.append(np.array(values, dtype=object).reshape(shape))
    return arguments
