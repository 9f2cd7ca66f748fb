"""The policy of bounds: what passes, what does not, and that the yardstick is what it says."""

from __future__ import annotations

import numpy as np
import pytest

from dtn_core.conform.bounds import EPSILON, Errors, errors, judge
from dtn_core.conform.cells import DTYPES
from dtn_core.conform.dense import Dense, rounded
from dtn_core.conform.inputs import CONDITION, ill_scaled, well_scaled
from dtn_core.conform.operators import Case, case
from dtn_core.conform.reference import OracleError, Reference, yardsticks
from dtn_core.interpret import interpret
from dtn_core.notation import parse
from dtn_core.operators import as_operator

EXPECTED = np.array([1.0, -2.0, 4.0])


def numpys(spec, arrays):
    return np.einsum(spec, *arrays)


class TestJudge:
    @pytest.mark.parametrize("factor", [4.0, 256.0])
    def test_an_error_up_to_the_factor_passes_and_one_above_fails(self, factor):
        for error, passes in ((0.9e-3 * factor, True), (1.1e-3 * factor, False)):
            got = EXPECTED + np.array([0, 0, 4 * error])
            assert (judge(got, EXPECTED, Errors(1e-3, 1.0), "float64", factor).ratio <= 1) is passes

    def test_the_root_mean_square_is_held_to_half_the_factor(self):
        got = EXPECTED + np.array([0, 0, 4 * 1e-3])
        assert judge(got, EXPECTED, Errors(1.0, 1e-3), "float64", 4.0).ratio <= 1
        verdict = judge(got, EXPECTED, Errors(1.0, 1e-4), "float64", 4.0)
        assert (verdict.what, verdict.ratio > 1) == ("rms", True)

    @pytest.mark.parametrize("wrong", [np.nan, np.inf])
    def test_what_is_not_finite_fails(self, wrong):
        assert judge(np.array([1.0, -2.0, wrong]), EXPECTED, Errors(1.0, 1.0), "float16", 4.0).ratio == np.inf

    def test_another_shape_fails(self):
        assert judge(EXPECTED[None], EXPECTED, Errors(1.0, 1.0), "float64", 4.0).ratio == np.inf

    def test_rounding_the_result_once_passes(self):
        value = np.linspace(-1, 1, 101) / 3
        for dtype in DTYPES:
            assert judge(rounded(value, dtype), value, Errors(0, 0), dtype, 4.0).ratio <= 1

    def test_errors_are_relative_to_the_largest_element(self):
        assert errors(np.array([0.0, 100.0]), np.array([1.0, 100.0])).largest == pytest.approx(0.01)


class TestYardstick:
    @pytest.mark.parametrize("text", ["tensor_attention", "tensor_attention:mask=causal,decay=0.9", "softmax", "ahla"])
    def test_in_double_precision_it_is_the_interpreter(self, text, rng):
        operator = case(text).operator
        tensors = rng.normal(size=(len(operator.program.tensors), 5, 3))
        found = Dense(operator.program, numpys, "float64").evaluate(tensors, operator.scalars)
        assert np.allclose(found, interpret(operator.program, *tensors, **operator.scalars), rtol=1e-12)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_its_error_is_of_the_size_of_the_dtype(self, dtype, rng):
        program = case("tensor_attention").operator.program
        tensors = [rounded(x, dtype) for x in 0.3 + 0.3 * rng.random((3, 7, 3))]
        dense = Dense(program, numpys, dtype).evaluate(tensors, {})
        error = errors(dense, interpret(program, *tensors)).largest
        assert EPSILON[dtype] / 10 < error < 20 * EPSILON[dtype]

    def test_matrix_exponentials_are_rounded_too(self, rng):
        program = case("tensor_attention:activation=expm").operator.program
        tensors = [rounded(x, "float32") for x in 0.3 * rng.normal(size=(3, 5, 3))]
        dense = Dense(program, numpys, "float32").evaluate(tensors, {})
        error = errors(dense, interpret(program, *tensors)).largest
        assert 1e-9 < error < 1e-5


class TestInputs:
    def test_they_are_the_same_every_time_and_held_by_the_dtype(self):
        each = case("tensor_attention:normalize=row")
        oracle = Reference(each).value
        first, again = (well_scaled(each, "bfloat16", oracle, 7, (2,)) for _ in range(2))
        for a, b in zip(first.tensors, again.tensors, strict=True):
            assert np.array_equal(a, b)
            assert np.array_equal(a, rounded(a, "bfloat16"))

    def test_well_scaled_ones_are_well_conditioned(self):
        each = case("tensor_attention:normalize=row")
        oracle = Reference(each).value
        tensors = well_scaled(each, "float64", oracle, 7).tensors
        moved = [x * (1 + 1e-9) for x in tensors]
        assert errors(oracle(*moved)[0], oracle(*tensors)[0]).largest <= CONDITION * 1e-9

    def test_ill_scaled_ones_have_norms_over_eight_decades_a_huge_token_and_near_duplicates(self):
        each = case("ahla")
        reference = Reference(each)
        kept, left_out = ill_scaled(reference, "float64", well_scaled(each, "float64", reference.value, 11), 11)
        assert not left_out
        norms, near, huge = (np.linalg.norm(drawn.tensors[0], axis=-1) for drawn in kept)
        assert norms.max() / norms.min() > 1e5
        assert np.ptp(near) < 0.02 * near.max()
        assert huge.max() > 1e3 * np.median(huge)

    def test_an_input_at_which_the_value_overflows_is_left_out_by_name(self):
        each = case("softmax")
        reference = Reference(each)
        _, left_out = ill_scaled(reference, "float32", well_scaled(each, "float32", reference.value, 11), 11)
        assert "norms 1e-4 to 1e4" in left_out

    def test_an_input_whose_numerators_overflow_is_left_out_in_single_precision_alone(self):
        each = case("tensor_attention:order=4,normalize=diag,activation=expm")
        reference = Reference(each)
        well = well_scaled(each, "complex64", reference.value, 11, (2,))
        for dtype, expected in (("complex64", ["one token times 1e4"]), ("complex128", [])):
            _, left_out = ill_scaled(reference, dtype, well, 11)
            assert [label for label in left_out if label.startswith("one")] == expected

    @pytest.mark.parametrize("results", ["o[n]", "o[n], r[n]"])
    def test_numerators_are_the_result_times_what_it_is_divided_by(self, results):
        program = parse(f"f(x[n,d]) -> {results}:\n    r[i] = x[i,a] * x[i,a]\n    o[i] = 40 * x[i,a] / r[i]")
        x = np.full((2, 3), 0.1)
        found = Reference(Case("f", as_operator(program), {})).undivided(x)
        assert found == pytest.approx(400 * 0.03)


@pytest.mark.parametrize(
    "text", ["tensor_interaction:mask=causal,decay=0.9", "tensor_attention:activation=expm", "ahla"]
)
def test_a_yardstick_is_the_worst_of_several_orders_of_the_features(text):
    reference = Reference(case(text))
    tensors = well_scaled(reference.case, "float32", reference.value, 7, (2,)).tensors
    expected = reference.value(*tensors)
    weights = [np.cos(y) for y in expected]

    def single(spec, arrays):
        return np.einsum(spec, *(x.astype("float32") for x in arrays))

    for found, right in (
        (list(reference.dense_values(tensors, single, "float32")), expected),
        (list(reference.dense_gradients(tensors, weights, single, "float32")), reference.gradient(tensors, weights)),
    ):
        alone = [yardsticks([each], right)[0].largest for each in found]
        assert 0 < max(alone) < 1e-4
        assert any(not np.array_equal(each[0], found[0][0]) for each in found)
        assert yardsticks(found, right)[0].largest == max(alone)


def test_the_oracles_gradient_is_held_to_differences(monkeypatch, rng):
    reference = Reference(case("ahla"))
    tensors, weights = list(rng.normal(size=(3, 5, 3))), [rng.normal(size=(5, 3))]
    reference.check_rules(tensors, weights)
    right = reference.gradient
    monkeypatch.setattr(reference, "gradient", lambda t, w: tuple(1.001 * g for g in right(t, w)))
    with pytest.raises(OracleError, match="ahla: the gradient program is off by"):
        reference.check_rules(tensors, weights)
