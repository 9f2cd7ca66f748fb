"""What index notation means: the interpreter against plain loops and NumPy, construct by construct."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.linalg import expm, expm_frechet

from dtn_core.errors import CompileError, ShapeError
from dtn_core.interpret import interpret, matrix_exp, matrix_phi1
from dtn_core.ir.functions import FUNCTIONS
from dtn_core.notation import parse


def evaluate(text, *args, **named):
    """The operator ``f(x[n], …)`` written in one line."""
    return interpret(parse(text), *args, **named)


class TestSums:
    def test_an_index_that_is_not_on_the_left_is_summed(self):
        assert evaluate("f(x[n,d]) -> y[n]: y[i] = x[i,a]", [[1, 2], [3, 4]]).tolist() == [3, 7]

    def test_each_term_sums_its_own_indices(self):
        # x is summed over a, w is not summed twice
        assert evaluate("f(x[n,d], w[n]) -> y[n]: y[i] = x[i,a] + w[i]", [[1, 2], [3, 4]], [10, 20]).tolist() == [
            13,
            27,
        ]

    def test_a_number_is_added_once_not_once_an_index(self):
        assert evaluate("f(x[n,d]) -> y[n]: y[i] = x[i,a] + 1", [[1, 2], [3, 4]]).tolist() == [4, 8]

    def test_a_term_without_an_output_index_is_the_same_for_all_of_it(self):
        assert evaluate("f(x[n]) -> y[n]: y[i] = x[i] + x[j]", [1, 2]).tolist() == [4, 5]

    def test_an_index_twice_is_a_diagonal(self):
        assert evaluate("f(x[n,d]) -> y: T[i,j] = x[i,a]*x[j,a]; y = T[i,i]", [[1, 2], [3, 4]]) == 30

    def test_brackets_distribute(self):
        assert evaluate("f(x[n], y[n]) -> z: z = (x[i] + y[i]) * (x[i] - y[i])", [3, 5], [1, 2]) == 9 - 1 + 25 - 4

    def test_subtraction_and_negation(self):
        assert evaluate("f(x[n]) -> y[n]: y[i] = -x[i] - 2 * x[i]", [1, 2]).tolist() == [-3, -6]

    def test_an_axis_name_is_its_size(self):
        assert evaluate("f(x[n,d]) -> y[n]: y[i] = x[i,a] / d", [[1, 3], [5, 7]]).tolist() == [2, 6]

    def test_a_statement_is_a_name_for_its_value(self):
        text = "f(x[n]) -> y[n]: s = x[i]; y[i] = x[i] / s"
        assert evaluate(text, [1, 3]).tolist() == [0.25, 0.75]

    def test_two_outputs_are_a_tuple(self):
        first, second = evaluate("f(x[n]) -> y[n], s: s = x[i]; y[i] = 2 * x[i]", [1, 3])
        assert first.tolist() == [2, 6]
        assert second == 4

    def test_an_output_is_transposed_by_its_indices(self):
        assert evaluate("f(x[n,d]) -> y[d,n]: y[a,i] = x[i,a]", [[1, 2], [3, 4]]).tolist() == [[1, 3], [2, 4]]

    def test_an_output_may_have_an_axis_twice(self):
        assert evaluate("f(x[n,d]) -> c[d,d]: c[a,b] = x[i,a]*x[i,b]", [[1, 2], [3, 4]]).tolist() == [
            [10, 14],
            [14, 20],
        ]

    def test_a_parameter_with_an_axis_twice_is_a_square_matrix(self):
        assert evaluate("f(m[d,d]) -> r: r = m[a,a]", [[1, 2], [3, 4]]) == 5
        with pytest.raises(ShapeError, match="axis d has size 2 before m and 3 in m"):
            evaluate("f(m[d,d]) -> r: r = m[a,a]", np.ones((2, 3)))

    def test_the_empty_sum_is_zero(self):
        assert evaluate("f(x[n]) -> s: s = x[i]", np.zeros(0)) == 0


class TestOrder:
    def test_less_or_equal_includes_equal(self):
        assert evaluate("f(x[n]) -> y[n]: y[t] = x[i] where i <= t", [1, 2, 3]).tolist() == [1, 3, 6]

    def test_the_mirrored_order(self):
        assert evaluate("f(x[n]) -> y[n]: y[t] = x[i] where t <= i", [1, 2, 3]).tolist() == [6, 5, 3]

    def test_equality_picks_the_diagonal(self):
        assert evaluate("f(x[n], w[n]) -> y: y = x[i] * w[j] where i == j", [1, 2], [10, 20]) == 50

    def test_a_chain_orders_each_pair(self):
        x = [1.0, 2.0, 3.0, 5.0]
        expected = [sum(x[j] * x[i] for i in range(t + 1) for j in range(i + 1)) for t in range(4)]
        assert evaluate("f(x[n]) -> y[n]: y[t] = x[j] * x[i] where j <= i <= t", x).tolist() == expected

    def test_two_chains_are_independent(self):
        x = [1.0, 2.0, 3.0]
        expected = [sum(x[i] * x[j] for i in range(t + 1) for j in range(t + 1)) for t in range(3)]
        assert evaluate("f(x[n]) -> y[n]: y[t] = x[i] * x[j] where i <= t, j <= t", x).tolist() == expected

    def test_decay_weighs_every_step_of_distance(self):
        x = [1.0, 2.0, 3.0]
        expected = [sum(0.5 ** (t - i) * x[i] for i in range(t + 1)) for t in range(3)]
        assert evaluate("f(x[n], g) -> y[n]: y[t] = x[i] where i <= t decay g", x, 0.5).tolist() == expected

    def test_decay_along_a_chain_weighs_each_of_its_relations(self):
        x = [1.0, 2.0, 3.0]
        expected = [
            sum(0.5 ** (i - j) * 0.5 ** (t - i) * x[i] * x[j] for i in range(t + 1) for j in range(i + 1))
            for t in range(3)
        ]
        assert evaluate("f(x[n]) -> y[n]: y[t] = x[j] * x[i] where j <= i <= t decay 0.5", x).tolist() == expected

    def test_decay_along_a_chain_reaches_past_an_index_that_a_term_does_not_carry(self):
        text = "f(x[n]) -> y[n]: y[t] = x[i] + 0 * x[j] where i <= j <= t decay 0.5"
        assert evaluate(text, [4, 2, 1]).tolist() == [4, 2 + 4 / 2, 1 + 2 / 2 + 4 / 4]

    def test_an_index_that_is_equal_stands_for_one_that_a_term_does_not_carry(self):
        # j is k and t: the decay from j to i weighs once
        text = "f(x[n]) -> y[n]: y[k] = x[i] * x[t] + 0 * x[j] where j <= i decay 0.5, k == j, t == j"
        assert evaluate(text, [4, 2, 1]).tolist() == [4 * (4 + 2 / 2 + 1 / 4), 2 * (2 + 1 / 2), 1]

    def test_decays_of_two_chains_differ(self):
        x = [1.0, 2.0, 3.0]
        expected = [
            sum(0.5 ** (t - i) * 0.25 ** (t - j) * x[i] * x[j] for i in range(t + 1) for j in range(t + 1))
            for t in range(3)
        ]
        text = "f(x[n]) -> y[n]: y[t] = x[j] * x[i] where i <= t decay 0.5, j <= t decay 0.25"
        assert evaluate(text, x) == pytest.approx(expected, rel=1e-15)

    def test_decay_of_one_changes_nothing(self):
        x = [1.0, 2.0, 3.0]
        assert evaluate("f(x[n]) -> y[n]: y[t] = x[i] where i <= t decay 1", x).tolist() == [1, 3, 6]

    def test_decay_of_zero_keeps_the_token_itself(self):
        assert evaluate("f(x[n], g) -> y[n]: y[t] = x[i] where i <= t decay g", [1, 2, 3], 0.0).tolist() == [1, 2, 3]

    def test_a_term_without_a_middle_index_keeps_the_order_of_the_outer_ones(self):
        # the second term has no i; of j <= i <= t it keeps j <= t
        x = [1.0, 2.0, 3.0]
        expected = [sum(x[j] * x[i] for i in range(t + 1) for j in range(i + 1)) + sum(x[: t + 1]) for t in range(3)]
        assert evaluate("f(x[n]) -> y[n]: y[t] = x[j] * x[i] + x[j] where j <= i <= t", x).tolist() == expected

    def test_a_term_does_not_sum_over_an_ordered_index_that_it_does_not_carry(self):
        assert evaluate("f(x[n]) -> y[n]: y[t] = x[t] + 0 * x[i] where i <= t", [1, 1, 1]).tolist() == [1, 1, 1]
        assert evaluate("f(x[n]) -> y[n]: y[t] = x[t] * one[i:n] where i <= t", [1, 1, 1]).tolist() == [1, 2, 3]

    def test_decay_per_head(self):
        x, gamma = np.ones((2, 3)), np.array([0.5, 1.0])
        text = "f(x[n], g) -> y[n]: y[t] = x[i] where i <= t decay g"
        assert evaluate(text, x, gamma).tolist() == [[1, 1.5, 1.75], [1, 2, 3]]


REAL = np.array([-2.5, -1.0, -0.1, 0.0, 0.3, 1.0, 4.0])
EXPECTED = {
    "conj": lambda x: x,
    "real": lambda x: x,
    "abs": abs,
    "recip": lambda x: 1 / x if x else 0.0,
    "exp": math.exp,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "erf": math.erf,
    "step": lambda x: float(x > 0),
}


class TestFunctions:
    @pytest.mark.parametrize("name", EXPECTED)
    def test_value(self, name):
        expected = [EXPECTED[name](x) for x in REAL.tolist()]
        assert evaluate(f"f(x[n]) -> y[n]: y[i] = {name}(x[i])", REAL) == pytest.approx(expected, rel=1e-15, abs=1e-16)

    def test_gelu_has_all_its_digits_far_below_zero(self):
        normal = {-5.0: 2.866515718791939e-7, -8.0: 6.220960574271785e-16}  # the normal distribution's Φ
        found = evaluate("f(x[n]) -> y[n]: y[i] = gelu(x[i])", list(normal))
        assert found == pytest.approx([x * cdf for x, cdf in normal.items()], rel=1e-14, abs=0)

    @pytest.mark.parametrize(("name", "function"), [("log", math.log), ("sqrt", math.sqrt)])
    def test_value_on_positive_numbers(self, name, function):
        x = [0.1, 1.0, 7.5]
        assert evaluate(f"f(x[n]) -> y[n]: y[i] = {name}(x[i])", x).tolist() == [function(value) for value in x]

    def test_every_function_of_the_notation_is_tested_here(self):
        assert set(EXPECTED) | {"log", "sqrt", "select"} == set(FUNCTIONS)

    def test_nothing_is_summed_inside_a_function(self):
        x = [[1.0, 2.0], [3.0, 4.0]]
        expected = [math.exp(1) + math.exp(2), math.exp(3) + math.exp(4)]
        assert evaluate("f(x[n,d]) -> y[n]: y[i] = exp(x[i,a])", x) == pytest.approx(expected, rel=1e-15)

    def test_complex_conjugate_real_part_and_modulus(self):
        z = np.array([3 - 4j, 1j])
        text = "f(z[n]) -> c[n], r[n], m[n]: c[i] = conj(z[i]); r[i] = real(z[i]); m[i] = abs(z[i])"
        c, r, m = evaluate(text, z)
        assert c.tolist() == [3 + 4j, -1j]
        assert r.tolist() == [3, 0]
        assert m.tolist() == [5, 1]

    def test_division_by_zero_is_zero(self):
        assert evaluate("f(x[n], y[n]) -> z[n]: z[i] = x[i] / y[i]", [1, 2, 0], [2, 0, 0]).tolist() == [0.5, 0, 0]

    def test_complex_division_by_zero_is_zero(self):
        assert evaluate("f(x[n], y[n]) -> z[n]: z[i] = x[i] / y[i]", [1j, 2j], [2j, 0]).tolist() == [0.5, 0]

    def test_select_keeps_where_the_mask_is_not_zero(self):
        got = evaluate("f(m[n], x[n]) -> y[n]: y[i] = select(m[i], x[i])", [1, 0, -2, 0.0], [5, 6, 7, 8])
        assert got.tolist() == [5, 0, 7, 0]

    def test_select_gives_an_exact_zero_where_x_is_not_a_number(self):
        got = evaluate("f(m[n], x[n]) -> y[n]: y[i] = select(m[i], x[i])", [1, 0, 0], [5, np.nan, np.inf])
        assert got.tolist() == [5, 0, 0]


class TestMatrixFunctions:
    @pytest.mark.parametrize("norm", [0.0, 1e-3, 1.0, 30.0])
    def test_exponential(self, rng, norm):
        x = norm * rng.normal(size=(5, 5)) / 5
        assert np.allclose(matrix_exp(x), expm(x), rtol=1e-12, atol=1e-300)

    def test_exponential_of_a_nilpotent_matrix_is_its_finite_series(self):
        x = np.array([[0.0, 1, 2], [0, 0, 3], [0, 0, 0]])
        assert np.allclose(matrix_exp(x), np.eye(3) + x + x @ x / 2, rtol=1e-15)

    def test_exponential_of_a_stack(self, rng):
        x = rng.normal(size=(2, 3, 4, 4))
        assert np.allclose(matrix_exp(x)[1, 2], expm(x[1, 2]), rtol=1e-12)

    def test_phi1_is_the_quotient(self, rng):
        x = rng.normal(size=(4, 4))
        assert np.allclose(matrix_phi1(x) @ x, expm(x) - np.eye(4), rtol=1e-11, atol=1e-12)

    def test_phi1_of_zero_is_the_identity(self):
        assert np.array_equal(matrix_phi1(np.zeros((3, 3))), np.eye(3))

    def test_expm_in_notation(self, rng):
        x, y = rng.normal(size=(2, 5, 3))
        text = "f(x[n,d], y[n,d], v[d]) -> o[d]: T[a,c] = x[i,a]*y[i,c]; E[a,c] = expm(T[a,c]); o[a] = E[a,c] * v[c]"
        assert np.allclose(evaluate(text, x, y, np.ones(3)), expm(x.T @ y).sum(1), rtol=1e-12)

    def test_expm_reads_its_indices_transposed(self, rng):
        x, y = rng.normal(size=(2, 5, 3))
        text = "f(x[n,d], y[n,d], v[d]) -> o[d]: T[a,c] = x[i,a]*y[i,c]; E[c,a] = expm(T[a,c]); o[a] = E[a,c] * v[c]"
        assert np.allclose(evaluate(text, x, y, np.ones(3)), expm(x.T @ y).sum(0), rtol=1e-12)

    def test_a_block_of_a_grid_is_the_derivative_of_the_exponential(self, rng):
        x, y = rng.normal(size=(2, 4, 3))
        text = """f(x[n,d], y[n,d], v[d]) -> o[d]:
            X[a,c] = x[i,a]*x[i,c]
            D[a,c] = y[i,a]*y[i,c]
            F[a,c] = expm(X[a,c], D[a,c]; 0, X[a,c])[0,1]
            o[a] = F[a,c] * v[c]"""
        expected = expm_frechet(x.T @ x, y.T @ y, compute_expm=False)
        assert np.allclose(evaluate(text, x, y, np.ones(3)), expected.sum(1), rtol=1e-11)


class TestArguments:
    def test_leading_axes_broadcast(self, rng):
        x, w = rng.normal(size=(2, 1, 3)), rng.normal(size=(4, 3))
        assert np.allclose(evaluate("f(x[n], w[n]) -> y[n]: y[i] = x[i] * w[i]", x, w), x * w)

    def test_a_weight_without_leading_axes_serves_the_whole_batch(self, rng):
        x, w = rng.normal(size=(2, 3, 4)), rng.normal(size=(4, 5))
        assert np.allclose(evaluate("f(x[n,d], w[d,e]) -> y[n,e]: y[i,c] = x[i,a] * w[a,c]", x, w), x @ w)

    def test_a_scalar_has_one_value_a_leading_index(self):
        got = evaluate("f(x[n], g) -> y[n]: y[i] = g * x[i]", np.ones((2, 3)), np.array([2.0, 5.0]))
        assert got.tolist() == [[2, 2, 2], [5, 5, 5]]

    def test_arguments_by_name(self):
        assert evaluate("f(x[n], g) -> y[n]: y[i] = g * x[i]", g=3, x=[1, 2]).tolist() == [3, 6]

    def test_integers_are_read_as_float64(self):
        assert evaluate("f(x[n]) -> y[n]: y[i] = x[i] / 2", [1, 2]).dtype == np.float64

    def test_complex_arguments_are_read_as_complex128(self):
        assert evaluate("f(x[n]) -> y[n]: y[i] = x[i] / 2", np.ones(2, np.complex64)).dtype == np.complex128

    def test_an_axis_of_two_sizes_is_refused(self):
        with pytest.raises(ShapeError, match="axis n has size 2 before w and 3 in w"):
            evaluate("f(x[n], w[n]) -> y[n]: y[i] = x[i] * w[i]", [1, 2], [1, 2, 3])

    def test_too_few_axes_are_refused(self):
        with pytest.raises(ShapeError, match=r"x needs axes \[..., n, d\], got shape \(2,\)"):
            evaluate("f(x[n,d]) -> y[n]: y[i] = x[i,a]", [1, 2])

    def test_a_missing_argument_is_refused(self):
        with pytest.raises(TypeError, match="f: argument w is missing"):
            evaluate("f(x[n], w[n]) -> y[n]: y[i] = x[i] * w[i]", [1, 2])

    def test_an_argument_too_many_is_refused(self):
        with pytest.raises(TypeError, match="f takes 1 argument"):
            evaluate("f(x[n]) -> y[n]: y[i] = x[i]", [1, 2], [3, 4])

    def test_an_unknown_argument_is_refused(self):
        with pytest.raises(TypeError, match="unexpected or repeated argument z"):
            evaluate("f(x[n]) -> y[n]: y[i] = x[i]", [1, 2], z=1)


class TestExactArithmetic:
    def test_thirds_are_thirds(self):
        got = interpret(parse("f(x[n]) -> y[n]: y[i] = x[i] / 3"), [1, 2], exact=True)
        assert got.tolist() == [Fraction(1, 3), Fraction(2, 3)]

    def test_a_sum_of_scalars(self):
        got = interpret(parse("f(x[n]) -> y: s = x[i]; y = s + s"), [Fraction(1, 3), 0], exact=True)
        assert got == Fraction(2, 3)

    def test_decay(self):
        got = interpret(parse("f(x[n]) -> y[n]: y[t] = x[i] where i <= t decay 0.5"), [1, 1, 1], exact=True)
        assert got.tolist() == [1, Fraction(3, 2), Fraction(7, 4)]

    def test_division_by_zero_is_zero(self):
        assert interpret(parse("f(x[n]) -> y[n]: y[i] = 1 / x[i]"), [0, 4], exact=True).tolist() == [0, Fraction(1, 4)]

    def test_the_matrix_exponential_has_no_exact_value(self):
        text = "f(x[n,d]) -> y[n]: T[a,c] = x[i,a]*x[i,c]; E[a,c] = expm(T[a,c]); y[i] = E[a,c] * x[i,a]"
        with pytest.raises(CompileError, match="expm has no exact value"):
            interpret(parse(text), np.eye(2), exact=True)
