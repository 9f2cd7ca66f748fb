"""No figure without a right output: the oracle of the bench, and what it refuses."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from bench import causal, gpu, kernels, oracle
from bench.case import FORWARD, GRADIENTS, SECOND_ORDER, SOFTMAX, STEP, Shape, Task
from bench.data import tensor, tensors
from bench.problems import ATTENTION, CAUSAL_1, CAUSAL_RELU, PROBLEMS, second_order_gradients

N = 100
MANY = Shape(batch=3, heads=5, features=4, dtype="bfloat16")
WIDE = Shape(heads=2, features=4, values=7)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    kinds = [task(FORWARD), task(FORWARD, computes=SOFTMAX), task(GRADIENTS), task(STEP, n=3)]
    shapes = [task(FORWARD, shape=MANY), task(FORWARD, shape=WIDE), task(GRADIENTS, shape=WIDE)]
    gradients = [task(GRADIENTS, computes=computes) for computes in (CAUSAL_1, CAUSAL_RELU)]
    oracle.write_references([*kinds, *shapes, *gradients, task(FORWARD, computes=ATTENTION)], folder)
    return folder


def task(kind, n=N, **named):
    return Task(kind, "numpy", "dtn", "eager", n, **named)


def dense(q, k, v):
    w = np.tril(q @ k.mT)
    return np.tril(w @ w.mT) @ v


def order_1_gradients(q, k, v, g):
    w, dw = np.tril(q @ k.mT), np.tril(g @ v.mT)
    return dw @ k, dw.mT @ q, w.mT @ g


def relu_gradients(q, k, v, g):
    w = np.tril(q @ k.mT)
    x = w @ k
    t = np.tril(q @ x.mT)
    dt = np.tril(g @ v.mT) * (t > 0)
    dx = dt.mT @ q
    dw = np.tril(dx @ k.mT)
    return dt @ x + dw @ k, w.mT @ dx + dw.mT @ q, np.maximum(t, 0).mT @ g


def test_the_formulas_are_the_dense_interpreters_functions():
    assert oracle.check_oracle() < 1e-12


def test_the_gradients_that_are_asked_for_are_the_dense_interpreters():
    races = [race for suite in (causal, kernels, gpu) for race in suite.races("usual") if race.kind == GRADIENTS]
    asked = {contender.computes for race in races for contender, _ in race.entries}
    assert {SECOND_ORDER, CAUSAL_1, CAUSAL_RELU, ATTENTION} < asked
    assert oracle.check_oracle([SECOND_ORDER], gradients=asked) < 1e-12


def test_a_wrong_formula_is_refused(monkeypatch):
    wrong = replace(PROBLEMS[ATTENTION], formula=lambda q, k, v: q @ (k.mT @ v))
    monkeypatch.setitem(PROBLEMS, ATTENTION, wrong)
    with pytest.raises(oracle.WrongOutputError, match="the oracle's tensor attention differs"):
        oracle.check_oracle([ATTENTION])


def test_a_formula_that_is_not_a_number_is_refused(monkeypatch):
    monkeypatch.setitem(PROBLEMS, ATTENTION, replace(PROBLEMS[ATTENTION], formula=lambda q, k, v: np.nan * v))
    with pytest.raises(oracle.WrongOutputError, match="the oracle's tensor attention differs"):
        oracle.check_oracle([SECOND_ORDER, ATTENTION])


def test_a_wrong_gradient_is_refused(monkeypatch):
    wrong = replace(PROBLEMS[CAUSAL_1], derivative=lambda q, k, v, g: order_1_gradients(q, k, v, 1.001 * g))
    monkeypatch.setitem(PROBLEMS, CAUSAL_1, wrong)
    with pytest.raises(oracle.WrongOutputError, match="the oracle's gradients of causal order 1 differs .* by 1.0e-03"):
        oracle.check_oracle([CAUSAL_1], gradients=[CAUSAL_1])


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


def test_values_may_have_other_features_than_keys():
    assert [x.shape[-1] for x in tensors("qkvg", 50, WIDE)] == [4, 4, 7, 7]
    assert np.array_equal(tensor("q", 50, WIDE), tensor("q", 50, replace(WIDE, values=None)))


def test_outputs_of_other_features_than_keys_are_compared(references):
    q, k, v, g = (x.astype(np.float64) for x in tensors("qkvg", N, WIDE))
    o = dense(q, k, v)
    assert oracle.check_output(task(FORWARD, shape=WIDE), [o], references) < 1e-12
    gradients = second_order_gradients(q, k, v, g)
    assert oracle.check_output(task(GRADIENTS, shape=WIDE), [*gradients], references) < 1e-12
    o[..., 70, -1] *= 1.1
    with pytest.raises(oracle.WrongOutputError):
        oracle.check_output(task(FORWARD, shape=WIDE), [o], references)


def test_work_is_counted_with_the_features_that_values_have():
    problem, wide = PROBLEMS[SECOND_ORDER], Shape(values=128)
    assert problem.traffic(1000, wide) == 4 * 8 * 1000 * (64 + 64 + 128 + 128)
    assert problem.flops(1000, Shape()) < problem.flops(1000, wide) < problem.flops(1000, Shape(features=128))


def test_no_score_that_relu_is_of_is_near_zero():
    q, k, v = (x[0, 0] for x in tensors("qkv", 2048, definite=PROBLEMS[CAUSAL_RELU].definite))
    scores = np.tril(q @ (np.tril(q @ k.T) @ k).T)[np.tril_indices(2048)]
    assert np.abs(scores).min() > 10
    assert 0.4 < (scores > 0).mean() < 0.6
    assert np.array_equal(v, tensor("v", 2048)[0, 0])


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


def test_gradients_of_other_operators_have_references_of_their_own(references):
    for computes, gradients in ((CAUSAL_1, order_1_gradients), (CAUSAL_RELU, relu_gradients)):
        arrays = (x.astype(np.float64) for x in tensors("qkvg", N, definite=PROBLEMS[computes].definite))
        dq, dk, dv = gradients(*arrays)
        given = task(GRADIENTS, computes=computes)
        assert oracle.check_output(given, [dq, dk, dv], references) < 1e-12
        dk[0, 3, 70] *= 1.001
        with pytest.raises(oracle.WrongOutputError):
            oracle.check_output(given, [dq, dk, dv], references)
    names = {oracle.reference_name(task(GRADIENTS, computes=computes)) for computes in PROBLEMS}
    assert len(names) == len(PROBLEMS)


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
