"""flatten: what it rewrites, and that every rewrite keeps the value exactly."""

from __future__ import annotations

import pytest

from dtn_core.notation import parse
from dtn_core.operators import catalogue, tensor_attention, tensor_interaction
from dtn_core.passes.flatten import flatten
from dtn_core.printer import to_notation
from oracle.exact import assert_same_value
from oracle.knobs import attention_knobs, interaction_knobs, sample, shown

SIZES = {"n": 3, "d": 2, "e": 2, "m": 2}


def body(text, **options):
    """The statements of the flattened program, one a line."""
    return [line.strip() for line in to_notation(flatten(parse(text), **options)).splitlines()[1:]]


class TestRules:
    def test_nested_contractions_become_one(self):
        text = "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: T[i,j] = q[i,a]*k[j,a]; o[i,c] = T[i,j]*v[j,c]"
        assert body(text) == ["o[i,c] = q[i,a] * k[j,a] * v[j,c]"]

    def test_summed_indices_of_two_uses_are_kept_apart(self):
        text = "f(q[n,d], k[n,d]) -> o: T[i,j] = q[i,a]*k[j,a]; o = T[i,j]*T[i,j]"
        assert body(text) == ["o = q[i,a] * k[j,a] * q[i,a2] * k[j,a2]"]

    def test_a_trace_needs_no_matrix(self):
        text = "f(q[n,d], k[n,d]) -> r: T[i,j] = q[i,a]*k[j,a]; r = T[x,x]"
        assert body(text) == ["r = q[x,a] * k[x,a]"]

    def test_nothing_is_on_the_diagonal_of_a_strict_triangle(self):
        text = "f(q[n,d], k[n,d]) -> r, s[n]: T[i,j] = q[i,a]*k[j,a] where j < i; r = T[x,x]; s[i] = T[i,i]"
        assert body(text) == ["r = 0", "s[i] = 0 * one[i:n]"]

    def test_an_order_through_an_index_that_a_term_lacks(self):
        text = "f(x[n], y[n]) -> o[n]: o[t] = x[i]*y[j] + y[j] where j < i <= t"
        assert body(text)[:2] == ["o_part[t] = x[i] * y[j]   where j < i, i <= t", "o_part_2[t] = y[j]   where j < t"]

    def test_a_causal_trace_merges_the_indices_that_order_makes_equal(self):
        text = "f(q[n,d], k[n,d]) -> r: T[i,j] = q[i,a]*k[j,a] where j <= i; r = T[x,x]"
        assert body(text) == ["r = q[x,a] * k[x,a]"]

    def test_conj_of_a_real_argument_goes_away(self):
        assert body("f(x[n]) -> s: s = conj(x[i]) * x[i]", complex_input=False) == ["s = x[i] * x[i]"]

    def test_conj_of_a_complex_argument_stays(self):
        assert body("f(x[n]) -> s: s = conj(x[i]) * x[i]", complex_input=True) == ["s = conj(x[i]) * x[i]"]

    def test_conj_of_a_product_conjugates_its_factors(self):
        text = "f(q[n,d], k[n,d]) -> o: T[i,j] = q[i,a]*conj(k[j,a]); o = conj(T[i,j]) * q[i,a] * k[j,a]"
        assert body(text) == ["o = conj(q[i,a2]) * k[j,a2] * q[i,a] * k[j,a]"]

    def test_a_statement_nobody_reads_is_dropped(self):
        assert body("f(x[n]) -> y[n]: z[i] = 2 * x[i]; y[i] = x[i] * x[i]") == ["y[i] = x[i] * x[i]"]

    def test_equal_statements_are_computed_once(self):
        text = "f(x[n]) -> y[n]: u[i] = exp(x[i]); w[j] = exp(x[j]); y[i] = u[i] + w[i]"
        assert sum("exp" in line for line in body(text)) == 1

    def test_equal_products_in_another_order_are_computed_once(self):
        text = "f(x[n], z[n]) -> y[n]: u = x[i]*z[i]; w = z[j]*x[j]; a = exp(u); b = exp(w); y[i] = a * b * x[i]"
        assert sum("exp" in line for line in body(text)) == 1

    def test_constants_fold(self):
        assert body("f(x[n]) -> y[n]: z[i] = 2 * x[i]; y[i] = 3 * z[i]") == ["y[i] = 6 * x[i]"]

    def test_a_sum_over_an_absent_index_becomes_an_axis_size(self, rng):
        text = "f(x[n], w[m]) -> y[n]: z[i,j] = x[i] + w[j] - w[j]; y[i] = z[i,j]"
        program = parse(text)
        assert_same_value(program, flatten(program), rng, SIZES)


CASES = {
    "a matrix read twice": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: T[i,j] = q[i,a]*k[j,a]; o[i,c] = T[i,j]*T[j,l]*v[l,c]",
    "a sum inside a product": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: T[i,j] = q[i,a]*k[j,a] + k[i,a]*q[j,a]; o[i,c] = T[i,j]*v[j,c]",
    "a constant in a matrix": "f(q[n,d], v[n,e]) -> o[n,e]: T[i,j] = q[i,a]*q[j,a] + 1; o[i,c] = T[i,j]*v[j,c]",
    "a scaled function read twice": "f(x[n,d]) -> o[n]: z[i] = 2*relu(x[i,a]); u[i] = 3*relu(x[i,a]); o[i] = z[i]*u[i] + z[i]",
    "the same scaled function twice": "f(x[n,d], g) -> t[n]: s = 2*relu(g); u = 2*relu(g); t[i] = u * x[i,a] + s",
    "a name reused by an auxiliary": "f(x[n,d]) -> o[n]: z[i] = x[i,a] * relu(x[i,b]); o[i] = z[i] + z[i]*z[i]",
    "division by a trace": "f(q[n,d], v[n,e]) -> o[n,e]: T[i,j] = q[i,a]*q[j,a]; r = T[x,x]; o[i,c] = T[i,j]*v[j,c]/r",
    "division by a diagonal": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: T[i,j] = q[i,a]*k[j,a]; r[i] = T[i,i]; o[i,c] = T[i,j]*v[j,c]/r[i]",
    "a prefix of a prefix": "f(x[n]) -> y[n]: s[t] = x[i] where i <= t; y[t] = s[i] where i <= t",
    "a prefix with decay of one": "f(x[n], g) -> y[n]: s[t] = x[i] where i <= t decay g; y[t] = s[i] * x[t] where i <= t decay g",
    "a decay on top of the same decay": "f(x[n], g) -> s: t[k,j] = x[j] where j <= k decay g; s = t[k,i] * x[j] where i <= j decay g, j == k",
    "an order read against itself": "f(x[n]) -> y[n,n]: t[i,j] = x[i]*x[j] where i <= j; y[i,j] = t[j,i] where i <= j",
    "an ordered matrix read both ways": "f(q[n,d], v[n,e]) -> o[n,e]: T[i,j] = q[i,a]*q[j,a] where j <= i; o[i,c] = T[i,j]*v[j,c] + T[j,i]*v[j,c]",
    "equal indices": "f(q[n,d], v[n,e]) -> o[n,e]: T[i,j] = q[i,a]*q[j,a] where i == j; o[i,c] = T[i,j]*v[j,c]",
    "a function of a matrix": "f(q[n,d], v[n,e]) -> o[n,e]: T[i,j] = q[i,a]*q[j,a]; E[i,j] = relu(T[i,j]); o[i,c] = E[i,j]*v[j,c]",
    "two outputs, one of the other": "f(q[n,d], v[n,e]) -> s[d,e], o[n,e]: s[a,c] = q[j,a]*v[j,c]; o[i,c] = q[i,a]*s[a,c]",
    "an output transposed": "f(q[n,d], v[n,e]) -> s[e,d]: r[a,c] = q[j,a]*v[j,c]; s[c,a] = r[a,c]",
    "a copy": "f(x[n]) -> y[n]: z[i] = x[i]; y[i] = z[i]",
    "an output copied": "f(x[n]) -> y[n], z[n]: y[i] = 2*x[i]; z[i] = y[i]",
    "an output that nothing computes": "f(x[n]) -> y[n]: y[i] = 0 * x[i]",
    "select": "f(m[n], x[n,d]) -> y[d]: z[i,a] = select(m[i], x[i,a]); y[a] = z[i,a]",
    "axis sizes": "f(x[n,d]) -> y[n]: mu[i] = x[i,a] / d; z[i,a] = x[i,a] - mu[i]; y[i] = z[i,a]*z[i,a] / d",
}  # fmt: skip


@pytest.mark.parametrize("complex_input", [False, True])
@pytest.mark.parametrize("text", CASES.values(), ids=CASES.keys())
def test_value_is_kept(rng, text, complex_input):
    program = parse(text)
    assert_same_value(program, flatten(program, complex_input=complex_input), rng, SIZES)


def rational(combinations):
    """Combinations without transcendental functions, plain ones with scalars left out: they are tested in floats."""
    return [knobs for knobs in combinations if knobs["activation"] in (None, "relu") and "scale" not in knobs]


@pytest.mark.parametrize("knobs", sample(rational(attention_knobs()), 120, seed=2), ids=shown)
def test_value_of_tensor_attention_is_kept(rng, knobs):
    program = tensor_attention(**knobs).program
    assert_same_value(program, flatten(program), rng, {"n": 3, "d": 2, "e": 1}, times=1)


@pytest.mark.parametrize("knobs", sample(rational(interaction_knobs()), 60, seed=2), ids=shown)
def test_value_of_tensor_interaction_is_kept(rng, knobs):
    program = tensor_interaction(**knobs).program
    assert_same_value(program, flatten(program), rng, {"n": 3, "d": 2}, times=1)


@pytest.mark.parametrize("name", ["linear_attention", "ahla", "second_order", "two_simplicial"])
def test_value_of_written_operators_is_kept(rng, name):
    program = catalogue[name].build().program
    assert_same_value(program, flatten(program), rng, {"n": 4, "d": 2, "e": 2})


def test_a_decay_that_is_computed_is_a_statement(rng):
    program = parse("""f(x[n,d], g, h) -> y[n,d], z[n,d]:
        s = g*h
        r = s*s
        y[t,a] = x[i,a]   where i <= t decay r
        z[t,a] = y[t,a]*y[i,a]   where i <= t decay s""")
    made = flatten(program, complex_input=False)
    assert {"s", "r"} <= {statement.name for statement in made.statements}
    assert_same_value(program, made, rng, {"n": 4, "d": 2})
