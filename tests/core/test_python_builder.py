"""The Python builder makes the same IR as the notation, and refuses what the notation refuses."""

from __future__ import annotations

from fractions import Fraction

import pytest

from dtn_core.builder import OperatorBuilder
from dtn_core.errors import VerificationError
from dtn_core.notation import parse
from dtn_core.operators import tensor_attention


def test_a_contraction():
    b = OperatorBuilder("scores")
    q, k = b.tensor("q", "n", "d"), b.tensor("k", "m", "d")
    b.assign("s", ("i", "j"), q("i", "a") * k("j", "a"))
    assert b.program("s") == parse("scores(q[n,d], k[m,d]) -> s[n,m]: s[i,j] = q[i,a] * k[j,a]")


def test_layer_norm():
    b = OperatorBuilder("layer_norm")
    x, g, c, eps = b.tensor("x", "n", "d"), b.tensor("g", "d"), b.tensor("b", "d"), b.scalar("eps")
    d = b.extent("d")
    mu = b.assign("mu", ("t",), x("t", "c") / d)
    z = b.assign("z", ("t", "c"), x("t", "c") - mu("t"))
    var = b.assign("var", ("t",), z("t", "c") * z("t", "c") / d + eps)
    sd = b.assign("sd", ("t",), b.apply("sqrt", var("t")))
    b.assign("y", ("t", "c"), z("t", "c") * g("c") / sd("t") + c("c"))
    assert b.program("y") == parse(
        """layer_norm(x[n,d], g[d], b[d], eps) -> y[n,d]:
            mu[t]   = x[t,c] / d
            z[t,c]  = x[t,c] - mu[t]
            var[t]  = z[t,c] * z[t,c] / d + eps
            sd[t]   = sqrt(var[t])
            y[t,c]  = z[t,c] * g[c] / sd[t] + b[c]"""
    )


def test_an_order_with_decay():
    b = OperatorBuilder("f")
    q, k, v, gamma = b.tensor("q", "n", "d"), b.tensor("k", "n", "d"), b.tensor("v", "n", "e"), b.scalar("gamma")
    value = q("t", "a") * k("i", "a") * v("i", "c")
    b.assign("o", ("t", "c"), value, order=[("i", "t")], decay=gamma)
    assert b.program("o") == parse(
        "f(q[n,d], k[n,d], v[n,e], gamma) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*v[i,c]   where i <= t decay gamma"
    )


def test_signs_of_an_order():
    b = OperatorBuilder("f")
    x, y = b.tensor("x", "n"), b.tensor("y", "n")
    b.assign(
        "o", ("t",), x("i") * x("j") * y("l"), order=[("i", "<", "t"), ("j", "<=", "t"), ("l", "==", "t")], decay=0.9
    )
    text = "f(x[n], y[n]) -> o[n]: o[t] = x[i]*x[j]*y[l] where i < t decay 0.9, j <= t decay 0.9, l == t"
    assert b.program("o") == parse(text)


def test_an_index_that_only_the_order_has():
    b = OperatorBuilder("prefix")
    x = b.tensor("x", "n")
    b.assign("y", ("t",), x("i"), order=[("i", "t")])
    assert b.program("y") == parse("prefix(x[n]) -> y[n]: y[t] = x[i] where i <= t")


def test_the_default_operator_of_the_catalogue():
    b = OperatorBuilder("tensor_attention")
    q, k, v = b.tensor("q", "n", "d"), b.tensor("k", "n", "d"), b.tensor("v", "n", "e")
    value = q("i", "a") * b.apply("conj", k("l", "a")) * k("l", "b") * b.apply("conj", q("j", "b"))
    t = b.assign("T", ("i", "j"), value)
    r = b.assign("r", (), t("x", "x"))
    b.assign("o", ("i", "c"), t("i", "j") * v("j", "c") / r())
    assert b.program("o") == tensor_attention().program


def test_matrix_exponential():
    b = OperatorBuilder("f")
    x, v = b.tensor("x", "n", "d"), b.tensor("v", "n", "d")
    t = b.assign("T", ("a", "b"), x("i", "a") * x("i", "b"))
    e = b.assign("E", ("a", "b"), b.apply("expm", t("a", "b")))
    b.assign("y", ("i", "a"), e("a", "b") * v("i", "b"))
    assert b.program("y") == parse(
        "f(x[n,d], v[n,d]) -> y[n,d]:\n T[a,b] = x[i,a]*x[i,b]\n E[a,b] = expm(T[a,b])\n y[i,a] = E[a,b]*v[i,b]"
    )


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda x, g: 2 * x, "2 * x[i]"),
        (lambda x, g: x * 2, "2 * x[i]"),
        (lambda x, g: x / 3, "1 / 3 * x[i]"),
        (lambda x, g: 1 / x, "1 / x[i]"),
        (lambda x, g: -x, "-x[i]"),
        (lambda x, g: x - g, "x[i] - g"),
        (lambda x, g: 1 + x, "x[i] + 1"),
        (lambda x, g: x * 0.1, "0.1 * x[i]"),
        (lambda x, g: x * Fraction(2, 7), "2 / 7 * x[i]"),
        (lambda x, g: (x + g) * (x - g), "x[i]*x[i] - x[i]*g + g*x[i] - g*g"),
        (lambda x, g: x / (x * g), "x[i] / (x[i] * g)"),
    ],
)
def test_arithmetic(build, text):
    b = OperatorBuilder("f")
    x, g = b.tensor("x", "n"), b.scalar("g")
    b.assign("y", ("i",), build(x("i"), g))
    assert b.program("y") == parse(f"f(x[n], g) -> y[n]: y[i] = {text}")


class TestRefusals:
    def test_too_few_indices(self):
        x = OperatorBuilder("f").tensor("x", "n", "d")
        with pytest.raises(ValueError, match=r"x has 2 axes .*got indices"):
            x("i")

    def test_an_output_index_nowhere_on_the_right(self):
        b = OperatorBuilder("f")
        x = b.tensor("x", "n")
        with pytest.raises(ValueError, match="output index j appears nowhere on the right"):
            b.assign("y", ("j",), x("i"))

    def test_an_order_by_what_is_no_sign(self):
        b = OperatorBuilder("f")
        x = b.tensor("x", "n")
        with pytest.raises(ValueError, match="the sign of an order is one of <=, <, ==, got '>'"):
            b.assign("y", ("t",), x("i"), order=[("i", ">", "t")])

    def test_an_order_of_unknown_indices(self):
        b = OperatorBuilder("f")
        x = b.tensor("x", "n")
        with pytest.raises(ValueError, match="neither p nor r is an index of the value"):
            b.assign("y", ("i",), x("i"), order=[("p", "r")])

    def test_a_decay_that_is_a_tensor(self):
        b = OperatorBuilder("f")
        x = b.tensor("x", "n")
        with pytest.raises(ValueError, match="decay is a number or a scalar, got .*; assign it to a scalar first"):
            b.assign("y", ("t",), x("i"), order=[("i", "t")], decay=x("i") * 2)

    def test_an_unknown_function(self):
        b = OperatorBuilder("f")
        with pytest.raises(ValueError, match="unknown function 'sin'; known: conj"):
            b.apply("sin", b.tensor("x", "n")("i"))

    def test_expm_of_an_expression(self):
        b = OperatorBuilder("f")
        x = b.tensor("x", "n", "d")
        with pytest.raises(ValueError, match="expm takes an indexed tensor"):
            b.apply("expm", x("i", "a") * x("j", "a"))

    def test_a_name_twice(self):
        b = OperatorBuilder("f")
        x = b.tensor("x", "n")
        b.assign("y", ("i",), x("i"))
        b.assign("y", ("i",), x("i"))
        with pytest.raises(VerificationError, match="statement y: the name is taken"):
            b.program("y")

    def test_an_output_that_is_not_assigned(self):
        b = OperatorBuilder("f")
        b.tensor("x", "n")
        with pytest.raises(VerificationError, match="output y is never assigned"):
            b.program("y")

    def test_division_by_a_sum(self):
        b = OperatorBuilder("f")
        x = b.tensor("x", "n")
        with pytest.raises(ValueError, match="a sum in a denominator is written as a statement of its own"):
            x("i") / (x("i") + 1)

    def test_division_by_zero(self):
        b = OperatorBuilder("f")
        x = b.tensor("x", "n")
        with pytest.raises(ValueError, match="division by the number 0"):
            x("i") / 0

    def test_a_sum_in_a_function(self):
        b = OperatorBuilder("f")
        x = b.tensor("x", "n")
        with pytest.raises(ValueError, match="exp takes one indexed tensor"):
            b.apply("exp", x("i") + 1)

    def test_a_name_that_the_notation_cannot_read(self):
        b = OperatorBuilder("f")
        x = b.tensor("x y", "n")
        b.assign("y", ("i",), x("i"))
        with pytest.raises(VerificationError, match="'x y' is not a name"):
            b.program("y")
