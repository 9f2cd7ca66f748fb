"""The hand-written twins in PyTorch compute the operator, whatever their settings."""

import numpy as np
import pytest

from bench.oracle import relative_error, second_order, second_order_gradients

torch = pytest.importorskip("torch")
from bench import peers  # noqa: E402 - needs torch

N, RNG = 256, np.random.default_rng(0)
TENSORS = RNG.normal(size=(4, 1, 2, N, 6))


def grouped(q, k, v, chunk, tokens):
    return peers.grouped_twin(q, k, v, chunk=chunk, tokens=tokens, step=peers.group_step)


PEERS = {
    "dense": peers.dense,
    "twin 32": lambda q, k, v: peers.twin(q, k, v, chunk=32),
    "twin of one chunk": lambda q, k, v: peers.twin(q, k, v, chunk=N),
    "grouped twin": lambda q, k, v: grouped(q, k, v, 32, 64),
    "grouped twin of one group": lambda q, k, v: grouped(q, k, v, 64, N),
    "grouped twin of one chunk a group": lambda q, k, v: grouped(q, k, v, 32, 32),
}


@pytest.mark.parametrize("name", PEERS)
def test_value_and_gradients_are_the_oracles(name):
    q, k, v, g = map(torch.from_numpy, TENSORS)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    o = PEERS[name](*leaves)
    assert relative_error(o.detach().numpy(), second_order(*TENSORS[:3], np.arange(N))) < 1e-11
    for got, expected in zip(torch.autograd.grad(o, leaves, g), second_order_gradients(*TENSORS), strict=True):
        assert relative_error(got.numpy(), expected) < 1e-11
