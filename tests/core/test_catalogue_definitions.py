"""The catalogue's notation, read literally by the interpreter, against the papers' formulas as dense matrices.

This holds `dtn_core.operators` and `dtn_core.interpret` to `oracle.definitions`, for every combination of knobs.
"""

from __future__ import annotations

import numpy as np
import pytest

from dtn_core.interpret import interpret
from dtn_core.operators import catalogue, tensor_attention, tensor_interaction
from oracle import definitions
from oracle.knobs import attention_knobs, interaction_knobs, shown

N, D, E = 4, 3, 2


def arrays(rng, kind, *shapes):
    """Random arrays, real or complex, around 0.2: of both signs, with denominators well away from 0."""
    real = [0.2 + 0.3 * rng.normal(size=shape) for shape in shapes]
    if kind == "real":
        return real
    return [x + 0.3j * rng.normal(size=x.shape) for x in real]


def related(rng, kind, *shapes):
    """As :func:`arrays`, with k near q, so that odd orders have a diagonal well away from 0 too."""
    q, k, *rest = arrays(rng, kind, *shapes)
    return [q, q + 0.3 * k, *rest]


def assert_equal(got, expected):
    """Equal to 1e-9 of the largest entry."""
    assert got.shape == expected.shape
    assert np.all(np.isfinite(expected))
    assert np.max(np.abs(got - expected)) <= 1e-9 * np.max(np.abs(expected))


def evaluate(operator, *tensors):
    """The operator's notation, evaluated literally."""
    return interpret(operator.program, *tensors, **operator.scalars)


def kinds(combinations):
    """Plain combinations on complex input, the ones with scalars and those with relu (not complex) on real input."""
    found = []
    for knobs in combinations:
        kind = "real" if "scale" in knobs or knobs["activation"] == "relu" else "complex"
        found.append(pytest.param(knobs, kind, id=f"{kind},{shown(knobs)}"))
    return found


@pytest.mark.parametrize(("knobs", "kind"), kinds(attention_knobs()))
def test_tensor_attention_is_its_definition(rng, knobs, kind):
    q, k, v = related(rng, kind, (2, N, D), (2, N, D), (2, N, E))
    assert_equal(evaluate(tensor_attention(**knobs), q, k, v), definitions.tensor_attention(q, k, v, **knobs))


@pytest.mark.parametrize(("knobs", "kind"), kinds(interaction_knobs()))
def test_tensor_interaction_is_its_definition(rng, knobs, kind):
    q, k, v = related(rng, kind, (2, N, D), (2, N, D), (2, N, D))
    assert_equal(evaluate(tensor_interaction(**knobs), q, k, v), definitions.tensor_interaction(q, k, v, **knobs))


@pytest.mark.parametrize("name", ["scale", "residual", "eps"])
@pytest.mark.parametrize("build", [tensor_attention, tensor_interaction])
def test_a_scalar_alone_is_its_definition(rng, build, name):
    q, k, v = arrays(rng, "complex", (N, D), (N, D), (N, D))
    definition = getattr(definitions, build.__name__)
    assert_equal(evaluate(build(**{name: 0.3}), q, k, v), definition(q, k, v, **{name: 0.3}))


@pytest.mark.parametrize("build", [tensor_attention, tensor_interaction])
def test_the_defaults_are_the_documented_ones(build):
    documented = dict(side="q", product="matmul", scale=1.0, normalize="trace", activation=None, residual=0.0, eps=0.0)
    assert build().program == build(**documented).program
    assert build().scalars == {}


def test_default_attention_written_out(rng):
    q, k, v = arrays(rng, "real", (N, D), (N, D), (N, E))
    t = (q @ k.T) @ (q @ k.T).T
    assert_equal(evaluate(tensor_attention(), q, k, v), t @ v / np.trace(t))


def test_default_interaction_written_out(rng):
    q, k, v = arrays(rng, "real", (N, D), (N, D), (N, D))
    t = (q.T @ k) @ (q.T @ k).T
    assert_equal(evaluate(tensor_interaction(), q, k, v), v @ t.T / np.trace(t))


def test_fifth_order_alternates(rng):
    q, k, v = arrays(rng, "complex", (N, D), (N, D), (N, E))
    a = q @ k.conj().T
    expected = a @ a.conj().T @ a @ a.conj().T @ a @ v
    assert_equal(evaluate(tensor_attention(order=5, normalize=None), q, k, v), expected)


class TestCausalCompositions:
    """The table of OPERATORS.md: everything causal is made of ``Lin(q, k, v)_t = Σ_{j≤t} γ^(t−j) (q_t·k̄_j) v_j``."""

    @pytest.fixture
    def tensors(self, rng):
        return arrays(rng, "real", (6, D), (6, D), (6, E))

    @staticmethod
    def lin(*args):
        return definitions.causal_contraction(*args, decay=0.9)

    @staticmethod
    def causal(**knobs):
        return tensor_attention(mask="causal", normalize=None, decay=0.9, **knobs)

    def test_order_1(self, tensors):
        q, k, v = tensors
        assert_equal(evaluate(self.causal(order=1), q, k, v), self.lin(q, k, v))

    def test_order_2(self, tensors):
        q, k, v = tensors
        assert_equal(evaluate(self.causal(order=2), q, k, v), self.lin(q, self.lin(q, k, k), v))

    def test_asymmetric_order_2(self, tensors):
        q, k, v = tensors
        expected = self.lin(q, k, self.lin(q, k, v))
        assert_equal(evaluate(self.causal(order=2, asymmetric=True), q, k, v), expected)

    def test_order_3(self, tensors):
        q, k, v = tensors
        expected = self.lin(q, self.lin(q, k, k), self.lin(q, k, v))
        assert_equal(evaluate(self.causal(order=3), q, k, v), expected)

    def test_tensor_interaction(self, rng):
        q, k, v = arrays(rng, "real", (6, D), (6, D), (6, D))
        operator = tensor_interaction(mask="causal", normalize=None, decay=0.9)
        assert_equal(evaluate(operator, q, k, v), self.lin(self.lin(v, q, k), k, q))


class TestWhatMakesItCausal:
    @pytest.mark.parametrize("order", [1, 2, 3, 4])
    @pytest.mark.parametrize("normalize", ["trace", "diag", "row", None])
    def test_the_future_does_not_matter(self, rng, order, normalize):
        q, k, v = arrays(rng, "real", (6, D), (6, D), (6, E))
        operator = tensor_attention(mask="causal", order=order, normalize=normalize)
        whole = evaluate(operator, q, k, v)
        assert_equal(whole[:3], evaluate(operator, q[:3], k[:3], v[:3]))

    def test_tril_does_see_the_future_through_k(self, rng):
        q, k, v = arrays(rng, "real", (6, D), (6, D), (6, E))
        whole = evaluate(tensor_attention(mask="tril"), q, k, v)
        part = evaluate(tensor_attention(mask="tril"), q[:3], k[:3], v[:3])
        assert np.max(np.abs(whole[:3] - part)) > 1e-3


class TestIdentities:
    """The identities that OPERATORS.md marks with a star, against the dense definitions."""

    def test_trace_needs_no_n_by_n_matrix(self, rng):
        q, k = arrays(rng, "complex", (5, D), (5, D))
        a = q @ k.conj().T
        expected = np.sum((k.conj().T @ k) * np.conj(q.conj().T @ q))
        assert np.trace(a @ a.conj().T) == pytest.approx(expected, rel=1e-12)

    def test_diagonal_needs_no_n_by_n_matrix(self, rng):
        q, k = arrays(rng, "complex", (5, D), (5, D))
        a = q @ k.conj().T
        gram = k.T @ k.conj()  # with q's features unconjugated on the left, K's are conjugated first
        expected = np.einsum("ia,ab,ib->i", q, gram.T, q.conj())
        assert np.allclose(np.diag(a @ a.conj().T), expected, rtol=1e-12)


class TestZeroDenominators:
    @pytest.mark.parametrize("normalize", ["trace", "diag", "row"])
    @pytest.mark.parametrize("mask", [None, "tril", "causal"])
    def test_zero_input_gives_zero(self, normalize, mask):
        zero, v = np.zeros((N, D)), np.ones((N, E))
        operator = tensor_attention(normalize=normalize, mask=mask)
        assert np.array_equal(evaluate(operator, zero, zero, v), np.zeros((N, E)))

    @pytest.mark.parametrize("normalize", ["trace", "diag", "row"])
    def test_zero_input_gives_zero_in_tensor_interaction(self, normalize):
        zero, v = np.zeros((N, D)), np.ones((N, D))
        assert np.array_equal(evaluate(tensor_interaction(normalize=normalize), zero, zero, v), np.zeros((N, D)))

    def test_one_zero_row_leaves_the_others_alone(self, rng):
        q, k, v = arrays(rng, "real", (N, D), (N, D), (N, E))
        q[1] = 0
        got = evaluate(tensor_attention(normalize="diag"), q, k, v)
        assert np.array_equal(got[1], np.zeros(E))
        assert_equal(got, definitions.tensor_attention(q, k, v, normalize="diag"))


class TestWrittenOperators:
    def catalogued(self, name, *tensors):
        return evaluate(catalogue[name].build(), *tensors)

    def test_linear_attention(self, rng):
        q, k, v = arrays(rng, "complex", (N, D), (N, D), (N, E))
        assert_equal(self.catalogued("linear_attention", q, k, v), np.tril(q @ k.conj().T) @ v)

    def test_ahla_is_w_times_w(self, rng):
        q, k, v = arrays(rng, "complex", (N, D), (N, D), (N, E))
        w = np.tril(q @ k.conj().T)
        assert_equal(self.catalogued("ahla", q, k, v), w @ w @ v)

    def test_second_order_is_w_times_its_adjoint_masked(self, rng):
        q, k, v = arrays(rng, "complex", (N, D), (N, D), (N, E))
        w = np.tril(q @ k.conj().T)
        assert_equal(self.catalogued("second_order", q, k, v), np.tril(w @ w.conj().T) @ v)

    def test_two_simplicial_in_loops(self, rng):
        q, k, l, v, w = arrays(rng, "real", (N, D), (N, D), (N, D), (N, E), (N, E))
        expected = np.zeros((N, E))
        for t in range(N):
            for i in range(t + 1):
                for j in range(t + 1):
                    expected[t] += np.sum(q[t] * k[i] * l[j]) * v[i] * w[j]
        assert_equal(self.catalogued("two_simplicial", q, k, l, v, w), expected)
