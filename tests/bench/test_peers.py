"""What is written by hand in PyTorch computes the operators, whatever its settings."""

import numpy as np
import pytest

from bench.case import SECOND_ORDER, UnavailableError
from bench.libraries import LIBRARIES
from bench.oracle import relative_error
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
from bench import by_hand, chunked, modules  # noqa: E402 - needs torch

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


@pytest.mark.parametrize("name", ["attention layer", "causal attention layer", "classifier"])
def test_modules_have_this_librarys_weights_and_values(name):
    ours = modules.ours(name)
    other = modules.LAYERS[name]() if name in modules.LAYERS else modules.Classifier()
    modules.load(other, dict(ours.named_parameters()))
    x = torch.from_numpy(RNG.normal(size=(2, 8, 8) if name == "classifier" else (1, 512, 512))).float()
    with torch.no_grad():
        assert relative_error(other(x).numpy(), ours(x).numpy()) < 1e-5


@pytest.mark.parametrize("name", ["opt_einsum", "einx", "cuequivariance"])
@pytest.mark.parametrize("problem", [ORDER_1, ATTENTION])
def test_libraries_compute_the_oracles_function_where_they_are_installed(name, problem):
    try:
        function = LIBRARIES[name](problem)
    except UnavailableError as missing:
        pytest.skip(str(missing))
    q, k, v = map(torch.from_numpy, TENSORS[:3])
    assert relative_error(function(q, k, v).numpy(), value(problem)) < 1e-6
