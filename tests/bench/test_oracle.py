"""No figure without a right output: the oracle of the bench, and what it refuses."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from bench import oracle
from bench.case import FORWARD, GRADIENTS, SOFTMAX, STEP, Shape, Task
from bench.data import tensor, tensors
from bench.problems import ATTENTION, PROBLEMS, second_order_gradients

N = 100
MANY = Shape(batch=3, heads=5, features=4, dtype="bfloat16")


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    kinds = [task(FORWARD), task(FORWARD, computes=SOFTMAX), task(GRADIENTS), task(STEP, n=3)]
    oracle.write_references([*kinds, task(FORWARD, computes=ATTENTION), task(FORWARD, shape=MANY)], folder)
    return folder


def task(kind, n=N, **named):
    return Task(kind, "numpy", "dtn", "eager", n, **named)


def dense(q, k, v):
    w = np.tril(q @ k.mT)
    return np.tril(w @ w.mT) @ v


def test_the_formulas_are_the_dense_interpreters_functions_and_derivative():
    assert oracle.check_oracle() < 1e-12


def test_a_wrong_formula_is_refused(monkeypatch):
    wrong = replace(PROBLEMS[ATTENTION], formula=lambda q, k, v: q @ (k.mT @ v))
    monkeypatch.setitem(PROBLEMS, ATTENTION, wrong)
    with pytest.raises(oracle.WrongOutputError, match="the oracle's tensor attention differs"):
        oracle.check_oracle([ATTENTION])


def test_an_operator_of_the_whole_sequence_has_a_reference_for_each_length(references):
    q, k, v = (x.astype(np.float64) for x in tensors("qkv", N))
    t = q @ k.mT @ k @ q.mT
    o = t @ v / np.trace(t, axis1=-2, axis2=-1)[..., None, None]
    assert oracle.check_output(task(FORWARD, computes=ATTENTION), [o], references) < 1e-12
    assert oracle.reference_name(task(FORWARD, computes=ATTENTION)) != oracle.reference_name(
        task(FORWARD, n=N + 1, computes=ATTENTION)
    )


def test_of_many_heads_some_are_compared_from_the_first_to_the_last(references):
    o = dense(*(x.astype(np.float64) for x in tensors("qkv", N, MANY)))
    given = task(FORWARD, shape=MANY)
    assert oracle.check_output(given, [o], references) < 1e-12
    o[2, 4, 70] *= 1.1
    with pytest.raises(oracle.WrongOutputError):
        oracle.check_output(given, [o], references)


def test_tensors_are_exact_in_their_dtype():
    x = tensor("q", 50, MANY)
    assert np.array_equal(x, x.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_a_right_output_passes(references):
    q, k, v = (x.astype(np.float64) for x in tensors("qkv", N))
    assert oracle.check_output(task(FORWARD), [dense(q, k, v)], references) < 1e-12


def test_one_token_that_is_wrong_is_refused(references):
    o = dense(*(x.astype(np.float64) for x in tensors("qkv", N)))
    o[:, 3, 70] *= 1.001
    with pytest.raises(oracle.WrongOutputError, match=r"numpy dtn eager, n = 100: relative error 1.0e-03"):
        oracle.check_output(task(FORWARD), [o], references)


def test_nan_is_refused(references):
    o = dense(*tensors("qkv", N))
    o[0, 0, 0, 0] = np.nan
    with pytest.raises(oracle.WrongOutputError):
        oracle.check_output(task(FORWARD), [o], references)


def test_another_operator_is_refused(references):
    with pytest.raises(oracle.WrongOutputError):
        oracle.check_output(task(FORWARD, computes=SOFTMAX), [dense(*tensors("qkv", N))], references)


def test_softmax_is_compared_at_its_sampled_tokens(references):
    q, k, v = (x.astype(np.float64) for x in tensors("qkv", N))
    weights = np.exp(q @ k.mT / q.shape[-1] ** 0.5) * np.tri(N)
    o = weights @ v / weights.sum(-1, keepdims=True)
    assert oracle.check_output(task(FORWARD, computes=SOFTMAX), [o], references) < 1e-12


def test_gradients_pass_and_a_swapped_pair_is_refused(references):
    dq, dk, dv = second_order_gradients(*tensors("qkvg", N))
    assert oracle.check_output(task(GRADIENTS), [dq, dk, dv], references) == 0
    with pytest.raises(oracle.WrongOutputError):
        oracle.check_output(task(GRADIENTS), [dk, dq, dv], references)


def test_a_step_is_compared_with_the_token_after_n(references):
    o = dense(*(x.astype(np.float64) for x in tensors("qkv", 4)))
    assert oracle.check_output(task(STEP, n=3), [o[..., 3, :]], references) < 1e-12
    with pytest.raises(oracle.WrongOutputError):
        oracle.check_output(task(STEP, n=3), [o[..., 2, :]], references)


def test_a_longer_sequence_begins_like_a_shorter_one():
    assert np.array_equal(tensor("q", 5000)[:, :, :4500], tensor("q", 4500))


def test_long_sequences_are_compared_at_tokens_up_to_the_last():
    tokens = oracle.sampled(262_144)
    assert tokens[-1] == 262_143
    assert 4000 < len(tokens) <= 4096
    assert len(set(tokens % 64)) == 64  # every place in a chunk
