"""Gradients of operators computed in chunks, against the dense interpreter of the gradient program."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from frameworks import chosen

from dtn_core.interpret import interpret
from dtn_core.operators import PARAMETER, catalogue, tensor_attention, tensor_interaction
from dtn_core.passes.differentiate import differentiate

N, D, CHUNK = 23, 3, 5
OPERATORS = {
    "trace": tensor_attention(mask="causal"),
    "decay": tensor_attention(mask="causal", decay=0.9),
    "row": tensor_attention(mask="causal", normalize="row", decay=0.95),
    "diag": tensor_attention(mask="causal", normalize="diag", residual=0.3, scale=0.7),
    "order_1": tensor_attention(mask="causal", order=1, normalize=None),
    "order_3": tensor_attention(mask="causal", order=3, normalize=None),
    "asymmetric": tensor_attention(mask="causal", asymmetric=True, normalize=None),
    "hadamard": tensor_attention(mask="causal", product="hadamard"),
    "tril": tensor_attention(mask="tril"),
    "interaction": tensor_interaction(mask="causal"),
    "two_simplicial": catalogue["two_simplicial"].build(),
    "ahla": catalogue["ahla"].build(),
}


@lru_cache
def gradient_program(name):
    program = OPERATORS[name].program
    return differentiate(program, [param.name for param in program.tensors])


def expected(name, tensors, c):
    """Gradients of ``Σ c o`` by the tensors, by the dense interpreter."""
    operator = OPERATORS[name]
    program = gradient_program(name)
    names = [param.name for param in program.tensors]
    found = interpret(program, **dict(zip(names, [*tensors, c], strict=True)), **operator.scalars)
    return found if isinstance(found, tuple) else (found,)


def made(rng, name, *batch):
    """Tensors of the operator and weights of its output."""
    count = len(OPERATORS[name].program.tensors)
    return [rng.normal(size=(*batch, N, D)) for _ in range(count)], rng.normal(size=(*batch, N, D))


@pytest.mark.parametrize("name", OPERATORS)
def test_by_every_tensor(gradients, rng, name):
    tensors, c = made(rng, name, 2)
    compiled = gradients.dtn.compile(OPERATORS[name])
    found = gradients.gradients(lambda *t: gradients.loss(compiled(*t, chunk_size=CHUNK), c), tensors)
    for one, other in zip(found, expected(name, tensors, c), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * abs(other).max())


@pytest.mark.parametrize("name", ["trace", "decay", "tril", "two_simplicial"])
def test_of_tensors_that_broadcast(gradients, rng, name):
    tensors, c = made(rng, name, 2, 3)
    tensors[1] = tensors[1][:1, :1]
    compiled = gradients.dtn.compile(OPERATORS[name])
    found = gradients.gradients(lambda *t: gradients.loss(compiled(*t, chunk_size=CHUNK), c), tensors)
    full = [np.broadcast_to(t, (2, 3, N, D)) for t in tensors]
    wanted = list(expected(name, full, c))
    wanted[1] = wanted[1].sum((0, 1), keepdims=True)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * abs(other).max())


@pytest.mark.parametrize("name", ["trace", "decay", "order_3", "two_simplicial"])
def test_a_second_time(gradients, rng, name):
    tensors, c = made(rng, name)
    directions = [rng.normal(size=t.shape) for t in tensors]
    compiled = gradients.dtn.compile(OPERATORS[name])
    found = gradients.second(lambda *t: gradients.loss(compiled(*t, chunk_size=CHUNK), c), tensors, directions)

    def moved(step):
        return expected(name, [t + step * d for t, d in zip(tensors, directions, strict=True)], c)

    step = 1e-5
    for one, up, down in zip(found, moved(step), moved(-step), strict=True):
        other = (up - down) / (2 * step)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * abs(other).max())


@pytest.mark.parametrize("name", ["trace", "decay"])
def test_in_several_turns_as_in_one(gradients, rng, name):
    tensors, c = rng.normal(size=(3, 64, 150, 32)), rng.normal(size=(64, 150, 32))
    compiled = gradients.dtn.compile(OPERATORS[name])
    found = [
        gradients.gradients(lambda *t, s=size: gradients.loss(compiled(*t, chunk_size=s), c), list(tensors))
        for size in (4, 150)
    ]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9 * abs(other).max())


def test_a_second_time_in_several_turns_as_in_one(gradients, rng):
    tensors, c = rng.normal(size=(3, 64, 150, 32)), rng.normal(size=(64, 150, 32))
    directions = list(rng.normal(size=(3, 64, 150, 32)))
    compiled = gradients.dtn.compile(tensor_attention(mask="causal", normalize=None))
    found = [
        gradients.second(lambda *t, s=size: gradients.loss(compiled(*t, chunk_size=s), c), list(tensors), directions)
        for size in (4, 150)
    ]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9 * abs(other).max())


@pytest.mark.parametrize("normalize", ["trace", None])
def test_through_the_state_and_by_the_decay(gradients, rng, normalize):
    operator = tensor_attention(mask="causal", normalize=normalize, decay=PARAMETER)
    compiled = gradients.dtn.compile(operator)
    tensors, c = [rng.normal(size=(2, N, D)) for _ in range(3)], rng.normal(size=(2, N, D))
    decay = np.array(0.9)

    def loss(decay, *t):
        first, state = compiled(*[x[:, :9] for x in t], decay=decay, return_state=True, chunk_size=4)
        second = compiled(*[x[:, 9:] for x in t], decay=decay, initial_state=state, chunk_size=CHUNK)
        return gradients.loss(first, c[:, :9]) + gradients.loss(second, c[:, 9:])

    found = gradients.gradients(loss, [decay, *tensors])
    program = differentiate(operator.program)
    given = dict(zip([param.name for param in program.tensors], [*tensors, c], strict=True))
    results = interpret(program, **given, **{**operator.scalars, "decay": 0.9})
    wanted = dict(zip([output.name for output in program.outputs], results, strict=True))
    names = ["d_decay", "d_q", "d_k", "d_v"]
    for one, name in zip(found, names, strict=True):
        other = wanted[name].sum() if name == "d_decay" else wanted[name]
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * abs(other).max())


@pytest.mark.skipif(chosen() != "torch", reason="saved tensors are a thing of PyTorch")
def test_only_arguments_are_kept(backend):
    import torch

    tensors = torch.randn(3, 2, 512, 16).unbind(0)
    leaves = [t.clone().requires_grad_() for t in tensors]
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        backend.dtn.compile(tensor_attention(mask="causal", normalize=None))(*leaves, chunk_size=16)
    known = {t.data_ptr() for t in leaves}
    assert sum(t.numel() for t in kept if t.data_ptr() not in known) <= 2 * 2 * 16 * 16  # the states of zeros


@pytest.mark.skipif(chosen() not in ("torch", "jax"), reason="forward mode of PyTorch and JAX")
def test_forward_mode_over_reverse_mode(backend, rng):
    x, k, v = rng.normal(size=(3, 11, D))
    compiled = backend.dtn.compile(OPERATORS["trace"])

    def loss(q):
        return compiled(q, backend.array(k), backend.array(v), chunk_size=4).sum()

    if backend.name == "jax":
        import jax as of
    else:
        import torch.func as of
    q = backend.array(x)
    one, other = of.jacfwd(of.grad(loss))(q), of.jacrev(of.grad(loss))(q)
    np.testing.assert_allclose(backend.numpy(one), backend.numpy(other), rtol=1e-9, atol=1e-9)
    tangent = backend.array(rng.normal(size=x.shape))
    _, forward = of.jvp(loss, (q,), (tangent,))
    np.testing.assert_allclose(backend.numpy(forward), backend.numpy((of.grad(loss)(q) * tangent).sum()), rtol=1e-9)
