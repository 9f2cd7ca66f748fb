"""What is written by hand in PyTorch computes the operators, whatever its settings."""

import numpy as np
import pytest

from bench.case import DECODING, SECOND_ORDER, TRAINING, Task, UnavailableError
from bench.libraries import LIBRARIES
from bench.module_calls import examples, prepared
from bench.oracle import WrongOutputError, relative_error
from bench.problems import (
    ATTENTION,
    CAUSAL_1,
    CAUSAL_3,
    CAUSAL_ASYMMETRIC,
    CAUSAL_INTERACTION,
    ORDER_1,
    PROBLEMS,
    second_order_gradients,
)

torch = pytest.importorskip("torch")
from bench import by_hand, chunked, formulas  # noqa: E402 - needs torch
from bench.modules import ATTENTION as LAYER  # noqa: E402
from bench.modules import CAUSAL, CLASSIFIER, LANGUAGE  # noqa: E402
from bench.modules.torch import KIT  # noqa: E402

N, RNG = 256, np.random.default_rng(0)
TENSORS = RNG.normal(size=(4, 1, 2, N, 6))


def grouped(q, k, v, chunk, tokens):
    return chunked.grouped_twin(q, k, v, chunk=chunk, tokens=tokens, step=chunked.group_step)


SECOND = {
    "dense": chunked.dense,
    "twin 32": lambda q, k, v: chunked.twin(q, k, v, chunk=32),
    "twin of one chunk": lambda q, k, v: chunked.twin(q, k, v, chunk=N),
    "grouped twin": lambda q, k, v: grouped(q, k, v, 32, 64),
    "grouped twin of one group": lambda q, k, v: grouped(q, k, v, 64, N),
    "grouped twin of one chunk a group": lambda q, k, v: grouped(q, k, v, 32, 32),
}
OTHERS = {
    CAUSAL_1: chunked.linear,
    CAUSAL_3: chunked.third_order,
    CAUSAL_ASYMMETRIC: chunked.asymmetric,
    CAUSAL_INTERACTION: chunked.interaction,
}


def value(problem):
    return PROBLEMS[problem].value(*TENSORS[:3], np.arange(N))


@pytest.mark.parametrize("name", SECOND)
def test_value_and_gradients_are_the_oracles(name):
    q, k, v, g = map(torch.from_numpy, TENSORS)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    o = SECOND[name](*leaves)
    assert relative_error(o.detach().numpy(), value(SECOND_ORDER)) < 1e-11
    for got, expected in zip(torch.autograd.grad(o, leaves, g), second_order_gradients(*TENSORS), strict=True):
        assert relative_error(got.numpy(), expected) < 1e-11


@pytest.mark.parametrize("problem", OTHERS)
def test_other_causal_operators_are_the_oracles(problem):
    q, k, v = map(torch.from_numpy, TENSORS[:3])
    assert relative_error(OTHERS[problem](q, k, v, chunk=32).numpy(), value(problem)) < 1e-11


@pytest.mark.parametrize("table", ["LINEAR", "DENSE"])
def test_unmasked_operators_are_the_oracles(table):
    q, k, v = map(torch.from_numpy, TENSORS[:3])
    for problem, function in getattr(by_hand, table).items():
        assert relative_error(function(torch, q, k, v).numpy(), value(problem)) < 1e-10, problem


@pytest.mark.parametrize("problem", formulas.TWINS)
def test_what_is_written_once_for_jax_and_tensorflow_is_the_oracles(problem):
    assert relative_error(formulas.TWINS[problem](np, *TENSORS[:3], chunk=32), value(problem)) < 1e-11


@pytest.mark.parametrize("name", [LAYER, CAUSAL, CLASSIFIER, LANGUAGE])
def test_modules_have_this_librarys_weights_and_values(name):
    ours = KIT.ours(name)
    other = KIT.by_hand(name, KIT.weights(ours))
    x, _ = examples(name, 2, 2, 12) if name in (CLASSIFIER, LANGUAGE) else (RNG.normal(size=(1, 512, 512)), None)
    x = torch.from_numpy(x) if name == LANGUAGE else torch.from_numpy(x).float()
    with torch.no_grad():
        assert relative_error(other(x).numpy(), ours(x).numpy()) < 1e-5


def test_a_weight_that_is_missing_is_refused():
    weights = KIT.weights(KIT.ours(LAYER))
    with pytest.raises(ValueError, match="no weights for out.bias"):
        KIT.by_hand(LAYER, {name: value for name, value in weights.items() if name != "out.bias"})


@pytest.mark.parametrize("implementation", ["dtn", "by hand"])
@pytest.mark.parametrize(("kind", "n"), [(TRAINING, 2), (DECODING, 2)])
def test_steps_of_the_language_model_are_held_to_the_dense_interpreter(kind, n, implementation):
    error, call = prepared(KIT, Task(kind, "torch", implementation, "eager", n, LANGUAGE))
    assert 0 < error < 1e-5
    call()


def test_a_wrong_gradient_is_refused(monkeypatch):
    right = KIT.gradients

    def wrong(model, names, x, labels):
        found = right(model, names, x, labels)
        return {**found, "head.bias": found["head.bias"] * 1.01}

    monkeypatch.setattr(KIT, "gradients", wrong)
    with pytest.raises(WrongOutputError, match="torch by hand eager, n = 2: relative error"):
        prepared(KIT, Task(TRAINING, "torch", "by hand", "eager", 2, CLASSIFIER))


def test_a_wrong_step_is_refused(monkeypatch):
    wrong = replace_first_state(formulas.attention_step)
    monkeypatch.setattr(formulas, "attention_step", wrong)
    with pytest.raises(WrongOutputError):
        prepared(KIT, Task(DECODING, "torch", "by hand", "eager", 2, LANGUAGE))


def replace_first_state(step):
    """A step that forgets the keys."""

    def forgetful(xp, decays, state, q, k, v):
        return step(xp, decays, (0 * state[0], *state[1:]), q, k, v)

    return forgetful


@pytest.mark.parametrize("name", ["opt_einsum", "einx", "cuequivariance"])
@pytest.mark.parametrize("problem", [ORDER_1, ATTENTION])
def test_libraries_compute_the_oracles_function_where_they_are_installed(name, problem):
    try:
        function = LIBRARIES[name](problem)
    except UnavailableError as missing:
        pytest.skip(str(missing))
    q, k, v = map(torch.from_numpy, TENSORS[:3])
    assert relative_error(function(q, k, v).numpy(), value(problem)) < 1e-6
