"""Text made to hurt is refused, or read, in bounded time: it never hangs, overflows the stack or eats memory."""

from __future__ import annotations

import random

import pytest

from dtn_core.errors import NotationError
from dtn_core.ir.nodes import Program
from dtn_core.lexer import MAX_NAME, MAX_TEXT
from dtn_core.notation import MAX_DEPTH, MAX_TERMS, parse
from dtn_core.passes.pipeline import lower
from oracle.bounded import bounded

HEAD = "f(x[n], a, b) -> y[n]: y[i] = "


def refuse(text):
    """The one acceptable answer to nonsense: a NotationError, within two seconds."""
    with bounded(2), pytest.raises(NotationError) as caught:
        parse(text)
    return caught.value


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_refused(seed):
    refuse(random.Random(seed).randbytes(2_000).decode("latin-1"))


@pytest.mark.parametrize("seed", range(20))
def test_random_unicode_is_refused(seed):
    source = random.Random(seed)
    refuse(
        "f(x[n]) -> y[n]: y[i] = "
        + "".join(chr(source.choice([source.randrange(0xD800), 0x1F600])) for _ in range(500))
    )


@pytest.mark.parametrize("seed", range(40))
def test_random_words_of_the_language_are_read_or_refused(seed):
    source = random.Random(seed)
    words = [
        "x",
        "y",
        "f",
        "n",
        "i",
        "j",
        "a",
        "(",
        ")",
        "[",
        "]",
        ",",
        ":",
        ";",
        "=",
        "==",
        "<=",
        "->",
        "+",
        "-",
        "*",
        "/",
        "0",
        "2.5",
        "where",
        "decay",
        "exp",
        "expm",
        "select",
        "\n",
    ]
    text = HEAD + " ".join(source.choices(words, k=40))
    with bounded(2):
        try:
            assert isinstance(parse(text), Program)
        except NotationError as error:
            assert error.line >= 1
            assert error.column >= 1


@pytest.mark.parametrize("seed", range(40))
def test_one_character_changed_is_read_or_refused(seed):
    source = random.Random(seed)
    text = "g(q[n,d], k[n,d], lam) -> o[n]:\n    s[t] = q[t,a] * k[i,a]   where i <= t decay 0.5\n    o[t] = exp(s[t]) / lam"
    place = source.randrange(len(text))
    changed = text[:place] + source.choice("()[],:=<>-+*/0x\n ;.§") + text[place + 1 :]
    with bounded(2):
        try:
            assert isinstance(parse(changed), Program)
        except NotationError as error:
            assert 1 <= error.line <= changed.count("\n") + 1


@pytest.mark.parametrize("bracket", ["(", "-", "exp(", "-(", "(-"])
def test_deep_nesting_is_refused_before_the_stack_overflows(bracket):
    assert f"nested more than {MAX_DEPTH} deep" in refuse(HEAD + bracket * 10_000).message


def test_nesting_up_to_the_limit_is_read():
    depth = MAX_DEPTH - 1
    assert parse(HEAD + "(" * depth + "x[i]" + ")" * depth) == parse(HEAD + "x[i]")


def test_many_open_brackets_in_the_signature_are_refused():
    refuse("f(" + "x[" * 30_000)


def test_a_huge_name_is_refused():
    assert f"at most {MAX_NAME} are read" in refuse("f" * 50_000 + "(x[n]) -> y[n]: y[i] = x[i]").message


def test_a_name_up_to_the_limit_is_read():
    assert parse("f" * MAX_NAME + "(x[n]) -> y[n]: y[i] = x[i]").name == "f" * MAX_NAME


def test_a_huge_text_is_refused():
    assert f"at most {MAX_TEXT:,} are read" in refuse("x" * 10_000_000).message


def test_a_huge_number_is_refused():
    refuse(HEAD + "1" * 90_000)


def test_a_number_beyond_floating_point_is_refused():
    refuse(HEAD + "1e400 * x[i]")


@pytest.mark.parametrize("zero", ["0e999999999", "0.0e-999999999"])
def test_a_zero_with_a_long_exponent_is_zero(zero):
    with bounded(2):
        assert parse(f"{HEAD}x[i] + {zero}") == parse(f"{HEAD}x[i] + 0")


def test_powers_of_brackets_are_refused_when_they_expand_too_far():
    assert f"more than {MAX_TERMS} terms" in refuse(HEAD + "*".join(["(a + b)"] * 30)).message


def test_a_product_of_long_sums_is_refused_before_it_is_expanded():
    long = "(" + " + ".join(["x[i]"] * (MAX_TERMS - 1)) + ")"
    assert f"more than {MAX_TERMS} terms" in refuse(f"{HEAD}{long} * {long}").message


def test_a_long_sum_of_products_is_refused_before_all_of_it_is_expanded():
    bracket = "*".join(["(a + b)"] * 9)  # 512 terms
    assert f"more than {MAX_TERMS} terms" in refuse(HEAD + " + ".join([bracket] * 900)).message


def diamonds(count):
    """An order in which ``2^count`` chains lead from the first index to the last."""
    relations = []
    for place in range(count):
        relations += [f"c{place} <= u{place} <= c{place + 1}", f"c{place} <= w{place} <= c{place + 1}"]
    between = ",".join(f"{name}{place}:n" for name in "cuw" for place in range(name == "c", count))
    return f"f(x[n]) -> y[n]: y[c{count}] = x[c0] * one[{between}] * x[c{count}] where " + ", ".join(relations)


def test_an_order_with_exponentially_many_chains_is_read_in_bounded_time():
    with bounded(5):
        assert len(parse(diamonds(30)).statements[0].order) == 120


def test_an_order_with_exponentially_many_chains_is_lowered_in_bounded_time():
    with bounded(10):
        lower(parse(diamonds(24)))


def test_many_statements_are_read():
    lines = ["f(x[n]) -> y999[n]:", "    y0[i] = x[i]", *(f"    y{k + 1}[i] = y{k}[i] * x[i]" for k in range(999))]
    with bounded(10):
        assert len(parse("\n".join(lines)).statements) == 1000


def test_a_long_chain_of_statements_is_lowered_without_overflowing_the_stack():
    lines = ["f(x[n]) -> y499[n]:", "    y0[i] = x[i]", *(f"    y{k + 1}[i] = exp(y{k}[i])" for k in range(499))]
    with bounded(20):
        assert lower(parse("\n".join(lines))).program.statements


@pytest.mark.parametrize(
    "text",
    ["f(x[n]) -> y[n]: y[і] = x[і]", "f(x[n]) -> y[n]: y[i] = x[i] * ²", "f(x[n]) -> y[n]: y[i] = x[i]\u200b", "f\u202e(x[n]) -> y[n]: y[i] = x[i]"],
    ids=["Cyrillic i", "superscript", "zero-width space", "right-to-left override"],
)  # fmt: skip
def test_characters_that_look_like_others_are_refused(text):
    assert "unexpected character" in refuse(text).message


def test_digits_of_other_scripts_are_refused():
    assert "unexpected character" in refuse("f(x[n]) -> y[n]: y[i] = ٣ * x[i]").message


@pytest.mark.parametrize(
    "text", ["__import__('os')", "().__class__", "x[i] if x[i] else 0", "lambda: 0", "`ls`", "x[i]; import os"]
)
def test_python_is_not_notation(text):
    refuse(HEAD + text)
