"""What is printed reads back as the same program, whatever the program."""

from __future__ import annotations

from fractions import Fraction

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from dtn_core.ir.nodes import Index, Number, Param, Program, Read, Statement, product
from dtn_core.notation import parse
from dtn_core.printer import to_notation
from oracle.programs import EXACT, SMOOTH, programs


@settings(max_examples=300)
@given(programs(functions=EXACT + SMOOTH))
def test_a_random_program_survives_printing_and_parsing(program):
    assert parse(to_notation(program)) == program


@settings(max_examples=300)
@given(st.fractions().filter(bool))
def test_any_rational_coefficient_survives_printing_and_parsing(value):
    x = Read("x", (Index("i", "n"),))
    program = Program(
        "f", (Param("x", ("n",)),), (Param("y", ("n",)),), (Statement("y", x.indices, product(Number(value), x)),)
    )
    assert parse(to_notation(program)) == program


@settings(max_examples=300)
@given(st.floats(allow_nan=False, allow_infinity=False).filter(bool))
def test_any_float_coefficient_survives_printing_and_parsing(value):
    x = Read("x", (Index("i", "n"),))
    number = Number(Fraction(repr(value)))
    program = Program(
        "f", (Param("x", ("n",)),), (Param("y", ("n",)),), (Statement("y", x.indices, product(number, x)),)
    )
    assert parse(to_notation(program)) == program
