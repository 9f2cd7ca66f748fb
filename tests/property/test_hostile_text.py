"""Text of any kind is read or refused with a NotationError: nothing else is raised, however it is made."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from dtn_core.errors import NotationError
from dtn_core.ir.functions import FUNCTIONS, MATRIX_FUNCTIONS
from dtn_core.ir.nodes import Program
from dtn_core.lexer import MAX_TEXT
from dtn_core.notation import parse
from dtn_core.printer import to_notation
from oracle.bounded import bounded
from oracle.programs import EXACT, SMOOTH, programs

HEAD = "f(x[n,d], y[n], g) -> o[n]:\n    o[i] = "
WORDS = [
    *FUNCTIONS, *MATRIX_FUNCTIONS, *"xygfondij", "()", "(", ")", "[", "]", ",", ":", ";", "=", "==", "<=", "->", "+", "-", "*", "/",
    "0", "1", "2.5", "1e308", "1e-400", "where", "decay", "one", "x[i,a]", "y[i]", "\n", "#", "é", "\u202e", "\x00",
]  # fmt: skip


def read_or_refuse(text):
    """A verified program that prints and reads back, or an error that points into the text; in bounded time."""
    with bounded(5):
        try:
            program = parse(text)
        except NotationError as error:
            assert 1 <= error.line <= len(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
            assert error.column >= 1
            return
        assert isinstance(program, Program)
        assert parse(to_notation(program)) == program


@settings(max_examples=300)
@given(st.text(max_size=500))
def test_any_text(text):
    read_or_refuse(text)


@settings(max_examples=300)
@given(st.binary(max_size=500))
def test_any_bytes(data):
    read_or_refuse(data.decode("latin-1"))


@settings(max_examples=500)
@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_words_of_the_language_in_any_order(words):
    read_or_refuse(HEAD + " ".join(words))


@settings(max_examples=200)
@given(st.sampled_from(WORDS), st.integers(1, MAX_TEXT // 4))
def test_one_word_again_and_again(word, times):
    read_or_refuse(HEAD + word * times)


@settings(max_examples=200)
@given(programs(functions=EXACT + SMOOTH, matrices=True), st.data())
def test_a_program_with_a_piece_cut_out_doubled_or_replaced(program, data):
    text = to_notation(program)
    start, stop = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    piece = data.draw(st.sampled_from(["", text[start:stop] * 2, *WORDS]))
    read_or_refuse(text[:start] + piece + text[stop:])
