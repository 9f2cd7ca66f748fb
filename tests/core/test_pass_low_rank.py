"""low_rank: ``e^{U Wᵀ} = I + U φ₁(Wᵀ U) Wᵀ``, where it applies and where it says why it does not.

The exponential is transcendental, so the identity is checked in float64, against scipy on the dense matrix.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from dtn_core.interpret import interpret, matrix_phi1
from dtn_core.ir.nodes import MatrixFunction, Product, indices_of
from dtn_core.notation import parse
from dtn_core.operators import tensor_attention, tensor_interaction
from dtn_core.passes.flatten import flatten
from dtn_core.passes.low_rank import low_rank, why_not
from dtn_core.passes.pipeline import lower

ORDERS = (1, 2, 3, 4)


def axes_of_exponentials(program):
    """The axes of every matrix function left in a program."""
    return [s.axes for s in program.statements if isinstance(s.value, MatrixFunction)]


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("scale", [1e-8, 0.3, 2.0])
def test_the_identity(rng, kind, scale):
    u, w = rng.normal(size=(2, 7, 3)) * scale
    if kind == "complex":
        u, w = u + 1j * rng.normal(size=u.shape) * scale, w + 1j * rng.normal(size=w.shape) * scale
    assert np.allclose(np.eye(7) + u @ matrix_phi1(w.T @ u) @ w.T, expm(u @ w.T), rtol=1e-10, atol=1e-12)


def test_the_identity_when_the_small_matrix_is_singular(rng):
    u = rng.normal(size=(5, 3))
    w = np.zeros((5, 3))
    w[:, 0] = rng.normal(size=5)  # WᵀU has rank 1, so (eˣ − I)/X is not a division
    assert np.allclose(np.eye(5) + u @ matrix_phi1(w.T @ u) @ w.T, expm(u @ w.T), rtol=1e-12)


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("normalize", ["trace", "diag", "row", None])
@pytest.mark.parametrize("order", ORDERS)
def test_the_rewritten_operator_has_the_same_value(rng, order, normalize, kind):
    operator = tensor_attention(order=order, activation="expm", normalize=normalize, scale=0.3)
    q, k, v = 0.3 * rng.normal(size=(3, 6, 3))
    k = q + k
    if kind == "complex":
        q, k = q + 0.2j * rng.normal(size=q.shape), k - 0.1j * rng.normal(size=k.shape)
    rewritten = low_rank(flatten(operator.program))
    expected = interpret(operator.program, q, k, v, **operator.scalars)
    assert np.allclose(interpret(rewritten, q, k, v, **operator.scalars), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "text",
    [
        "T[i,j] = q[i,a]*k[j,a]; E[i,j] = expm(T[j,i]); o[i,c] = E[i,j]*v[j,c]",
        (
            "A[i,j] = q[i,a]*k[j,a]; B[i,j] = k[i,a]*q[j,a]; E[i,j] = expm(A[i,j]); F[i,j] = expm(B[i,j])\n"
            " o[i,c] = E[i,j]*v[j,c] + 2*F[i,j]*v[j,c]"
        ),
        "T[i,j] = q[i,a_]*m[a_,a]*k[j,a]; E[i,j] = expm(T[i,j]); o[i,c] = E[i,j]*v[j,c]",
        "T[i,i_] = q[i,a]*k[i_,a]; E[i,i_] = expm(T[i,i_]); o[i,c] = E[i,i_]*v[i_,c]",
        "T[s,t] = q[s,i]*k[t,i]; E[i,j] = expm(T[i,j]); o[i,c] = E[i,j]*v[j,c]",
    ],
    ids=["transposed", "both", "the name of the bond", "the name of the column", "a feature with the name of a row"],
)
def test_however_its_indices_are_called_and_ordered(rng, text):
    program = parse(f"f(q[n,d], k[n,d], v[n,e], m[d,d]) -> o[n,e]: {text}")
    q, k, v, m = (
        0.5 * rng.normal(size=(6, 3)),
        rng.normal(size=(6, 3)),
        rng.normal(size=(6, 2)),
        rng.normal(size=(3, 3)),
    )
    rewritten = low_rank(flatten(program))
    assert ("d", "d") in axes_of_exponentials(rewritten)
    assert ("n", "n") not in axes_of_exponentials(rewritten)
    np.testing.assert_allclose(interpret(rewritten, q, k, v, m), interpret(program, q, k, v, m), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_the_exponential_left_is_of_a_d_by_d_matrix(order):
    program = low_rank(flatten(tensor_attention(order=order, activation="expm").program))
    assert axes_of_exponentials(program) == [("d", "d")]


def test_the_function_left_is_phi1():
    program = low_rank(flatten(tensor_attention(activation="expm").program))
    assert [s.value.function for s in program.statements if isinstance(s.value, MatrixFunction)] == ["phi1"]


def test_the_whole_pipeline_leaves_nothing_n_by_n():
    program = lower(tensor_attention(activation="expm").program).program
    assert all(statement.axes.count("n") <= 1 for statement in program.statements)


def test_a_program_without_exponentials_is_returned_as_it_is():
    program = flatten(tensor_attention().program)
    assert low_rank(program) is program


def test_a_d_by_d_exponential_is_left_alone():
    program = flatten(tensor_interaction(activation="expm").program)
    assert low_rank(program) is program


class TestWhereItDoesNotApply:
    def reason(self, program):
        """Why the one n×n exponential of a program stays dense."""
        ranked = low_rank(flatten(program))
        assert axes_of_exponentials(ranked) == [("n", "n")]
        (why,) = why_not(ranked).values()
        return why

    def test_causal(self):
        program = tensor_attention(activation="expm", mask="causal").program
        assert self.reason(program) == "its matrix is masked, and a masked matrix is not of low rank"

    def test_hadamard(self):
        program = tensor_attention(activation="expm", product="hadamard").program
        assert self.reason(program) == "its rank is the product of several axes (d × d)"

    def test_a_sum_of_matrices(self):
        text = "f(q[n,d], v[n,d]) -> o[n,d]: T[i,j] = q[i,a]*q[j,a] + 1; E[i,j] = expm(T[i,j]); o[i,a] = E[i,j]*v[j,a]"
        assert self.reason(parse(text)) == "its matrix is not a product of tensors"

    def test_a_matrix_that_is_an_argument(self):
        text = "f(T[n,n], v[n,d]) -> o[n,d]: E[i,j] = expm(T[i,j]); o[i,a] = E[i,j]*v[j,a]"
        assert self.reason(parse(text)) == "its matrix is not a product of tensors"

    def test_a_factor_that_ties_row_and_column(self):
        text = "f(M[n,n], q[n,d], v[n,d]) -> o[n,d]: T[i,j] = M[i,j]*q[j,a]*q[i,a]; E[i,j] = expm(T[i,j]); o[i,a] = E[i,j]*v[j,a]"
        assert self.reason(parse(text)) == "a factor ties its row to its column"


def test_tokens_are_read_as_often_as_by_hand():
    program = lower(tensor_attention(activation="expm").program).program
    over_tokens = [s for s in program.statements if "n" in {i.axis for i in indices_of(s.value)}]
    products = [s.name for s in over_tokens if isinstance(s.value, Product)]
    assert products == ["k_k", "q_q", "q_v", "o_part"]
