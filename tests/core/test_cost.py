"""Costs in closed form against figures worked out by hand."""

from __future__ import annotations

import pytest
import sympy

from dtn_core.cost import Polynomial, elements, flops, freed_after, live_elements, peak_elements, traffic
from dtn_core.explain import explain
from dtn_core.ir.nodes import Index
from dtn_core.notation import parse
from dtn_core.operators import tensor_attention, tensor_interaction
from dtn_core.passes.pipeline import lower

N, D, E, M = sympy.symbols("n d e m", positive=True, integer=True)


def closed(polynomial):
    """A polynomial in sympy's expanded form."""
    return sympy.expand(polynomial.closed_form())


def only(text):
    """The single statement of an operator."""
    (statement,) = parse(text).statements
    return statement


class TestFlopsOfAStatement:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (
                "f(q[n,d], k[m,d]) -> s[n,m]: s[i,j] = q[i,a] * k[j,a]",
                2 * N * M * D,
            ),  # a multiplication and an addition a point
            ("f(q[n,d], k[n,d]) -> s: s = q[i,a] * k[i,a]", 2 * N * D),
            ("f(q[n,d], k[n,d]) -> s[n,d]: s[i,a] = q[i,a] * k[i,a]", N * D),
            ("f(q[n], k[m]) -> s[n,m]: s[i,j] = q[i] * k[j]", N * M),
            ("f(x[n,d]) -> y[n,d]: y[i,a] = 2 * x[i,a]", N * D),
            ("f(x[n,d], g) -> y[n,d]: y[i,a] = g * x[i,a]", N * D),
            ("f(x[n,d], r[n]) -> y[n,d]: y[i,a] = x[i,a] / r[i]", N * D),
            ("f(x[n,d]) -> y[n,d]: y[i,a] = exp(x[i,a])", N * D),
            ("f(x[n,d], y[n,d]) -> z[n,d]: z[i,a] = x[i,a] + y[i,a]", N * D),  # one addition a point
            ("f(x[n,d]) -> y[n]: y[i] = x[i,a]", N * D),  # one addition a point
            ("f(x[n,d]) -> y[d,n]: y[a,i] = x[i,a]", 0),  # a transpose is a way of reading
        ],
    )
    def test_closed_form(self, text, expected):
        assert closed(flops(only(text))) == expected

    def test_a_matrix_exponential_counts_its_matrix_products(self):
        statement = parse("f(m[d,d], v[d]) -> o[d]: E[a,b] = expm(m[a,b]); o[a] = E[a,b]*v[b]").statements[0]
        polynomial = closed(flops(statement))
        assert sympy.degree(polynomial, D) == 3
        assert polynomial.coeff(D**3) % 2 == 0


class TestTraffic:
    def test_elements_of_a_tensor(self):
        assert closed(elements((Index("i", "n"), Index("j", "n"), Index("a", "d")))) == N**2 * D

    def test_what_is_read_and_written(self):
        assert closed(traffic(only("f(q[n,d], k[m,d]) -> s[n,m]: s[i,j] = q[i,a] * k[j,a]"))) == N * D + M * D + N * M

    def test_a_tensor_read_twice_alike_counts_once(self):
        assert closed(traffic(only("f(x[n]) -> y[n]: y[i] = x[i] * x[i]"))) == 2 * N


class TestWholeOperators:
    """The default operator at n = 65,536, d = e = 64, step by step.

    KᴴK and QᴴQ: 2 n d² each; tr: 2 d²; QᴴV: 2 n d e; times KᴴK: 2 d² e; divided: d e; Q times it: 2 n d e.
    """

    SIZES = {"n": 65_536, "d": 64, "e": 64}

    def test_flops_of_the_default_operator(self):
        expected = 4 * N * D**2 + 2 * D**2 + 4 * N * D * E + 2 * D**2 * E + D * E
        assert closed(explain(tensor_attention(), self.SIZES).flops) == expected

    def test_peak_of_the_default_operator(self):
        # while o is computed: KᴴK, QᴴQ, the trace, QᴴV, its product, the scaled one, and o; 4 bytes each
        assert closed(explain(tensor_attention(), self.SIZES).peak) == 4 * (2 * D**2 + 3 * D * E + 1 + N * E)

    def test_flops_of_linear_attention(self):
        operator = tensor_attention(order=1, normalize=None)
        assert closed(explain(operator, self.SIZES).flops) == 4 * N * D * E

    def test_peak_of_linear_attention(self):
        operator = tensor_attention(order=1, normalize=None)
        assert closed(explain(operator, self.SIZES).peak) == 4 * (D * E + N * E)

    def test_flops_of_the_dense_form_of_relu(self):
        # Q Kᴴ, then A Aᴴ over d is 2 n² d each; the cheaper way is Q(KᴴK) first: 2 n d² twice, 2 n² d once
        explanation = explain(tensor_attention(activation="relu", normalize=None), self.SIZES)
        assert closed(explanation.flops) == 4 * N * D**2 + 2 * N**2 * D + N**2 + 2 * N**2 * E

    def test_flops_of_tensor_interaction(self):
        # A = QᴴK: 2 n d²; T = A Aᴴ: 2 d³; its trace: d; T / tr: d²; o: 2 n d²
        explanation = explain(tensor_interaction(), {"n": 65_536, "d": 64})
        value = explanation.flops.at({"n": 65_536, "d": 64})
        assert 4 * 65_536 * 64**2 <= value <= 4 * 65_536 * 64**2 + 4 * 64**3

    @pytest.mark.parametrize(
        ("dtype", "size"), [("float32", 4), ("float64", 8), ("complex64", 8), ("complex128", 16), ("bfloat16", 4)]
    )
    def test_bytes_follow_the_dtype_computed_in(self, dtype, size):
        operator = tensor_attention(order=1, normalize=None)
        assert closed(explain(operator, self.SIZES, dtype=dtype).peak) == size * (D * E + N * E)

    def test_the_closed_form_is_linear_in_n(self):
        explanation = explain(tensor_attention(), self.SIZES)
        for polynomial in (explanation.flops, explanation.bytes, explanation.peak):
            assert sympy.degree(closed(polynomial), N) == 1

    def test_the_total_is_the_sum_of_the_steps(self):
        explanation = explain(tensor_attention(order=3, normalize="row"), self.SIZES)
        assert closed(explanation.flops) == sum(closed(step.flops) for step in explanation.steps)
        assert closed(explanation.bytes) == sum(closed(step.bytes) for step in explanation.steps)

    def test_the_peak_is_the_largest_of_the_steps(self):
        explanation = explain(tensor_attention(order=3, normalize="row"), self.SIZES)
        assert explanation.peak.at(self.SIZES) == max(step.live.at(self.SIZES) for step in explanation.steps)


class TestMemory:
    TEXT = "f(x[n,d]) -> y[n]: u[i,a] = exp(x[i,a]); w[i,a] = tanh(u[i,a]); y[i] = w[i,a] * w[i,a]"

    def test_a_long_tensor_is_freed_after_its_last_use(self):
        assert freed_after(parse(self.TEXT)) == [(), ("u",), ("w",)]

    def test_what_is_held_while_each_step_runs(self):
        assert [closed(held) for held in live_elements(parse(self.TEXT))] == [N * D, 2 * N * D, N * D + N]

    def test_the_peak_is_the_largest(self):
        assert closed(peak_elements(parse(self.TEXT), {"n": 100, "d": 10})) == 2 * N * D

    def test_outputs_are_never_freed(self):
        text = "f(x[n]) -> y[n], z[n]: y[i] = exp(x[i]); u[i] = tanh(y[i]); z[i] = exp(u[i])"
        assert freed_after(parse(text)) == [(), (), ()]

    def test_arguments_do_not_count(self):
        assert closed(peak_elements(parse("f(x[n,d]) -> s: s = x[i,a]"), {"n": 9, "d": 9})) == 1


class TestPolynomials:
    def test_sum_merges_equal_monomials(self):
        assert Polynomial.of(["n", "d"]) + Polynomial.of(["d", "n"], 2) == Polynomial.of(["d", "n"], 3)

    def test_terms_that_cancel_disappear(self):
        assert Polynomial.of(["n"]) + Polynomial.of(["n"], -1) == Polynomial()

    def test_value_at_sizes(self):
        assert (Polynomial.of(["n", "n"], 3) + Polynomial.of([])).at({"n": 10}) == 301

    def test_the_value_is_exact_beyond_64_bits(self):
        assert Polynomial.of(["n"] * 5).at({"n": 10**6}) == 10**30

    def test_the_text_is_the_closed_form(self):
        assert str(Polynomial.of(["n", "d"], 2)) == "2*d*n"
        assert str(Polynomial()) == "0"


def test_lowering_for_other_sizes_changes_the_form_not_the_reported_symbols():
    for sizes in ({"n": 65_536, "d": 64, "e": 64}, {"n": 8, "d": 512, "e": 512}):
        program = lower(tensor_attention().program, sizes).program
        assert closed(sum((flops(s) for s in program.statements), Polynomial())).free_symbols <= {N, D, E}
