"""Operators whose tensors have two axes a token besides its own, in as many chunks at once as a budget holds."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from frameworks import chosen

from dtn_codegen.source import target
from dtn_core.interpret import interpret
from dtn_core.operators import as_operator, catalogue
from dtn_core.passes.differentiate import differentiate

N, D, CHUNK = 23, 3, 2
OPERATORS = {
    "covariance": as_operator("cov(x[n,d]) -> c[n,d,d]: c[t,a,b] = x[i,a] * x[i,b] where i <= t"),
    "decayed": as_operator("cov(x[n,d]) -> c[n,d,d]: c[t,a,b] = x[i,a] * x[i,b] where i <= t decay 0.9"),
    "two_simplicial": catalogue["two_simplicial"].build(),
    "function of a state": as_operator("""
f(q[n,d], k[n,d], v[n,d]) -> o[n,d]:
    S[t,a,b] = k[i,a] * v[i,b] where i <= t
    o[t,c] = q[t,a] * tanh(S[t,a,b]) * S[t,b,c]
"""),
}
BUDGETS = {"a chunk at a time": 1, "several turns": 180, "one turn": 2**18}
every_operator = pytest.mark.parametrize("name", OPERATORS)
every_budget = pytest.mark.parametrize("elements", BUDGETS.values(), ids=BUDGETS)


def compiled(backend, name, elements):
    """The operator's generated source with another number of elements at once."""
    source, costs = backend.dtn.compile(OPERATORS[name]).source, target(backend.name).costs
    for budget in {costs.at_once, costs.whole} - {0}:
        assert str(budget) in source
        source = source.replace(str(budget), str(elements))
    names: dict = {}
    exec(source, names)  # noqa: S102 - the library's own text
    if "_crowded" in names:  # JAX takes half of the budget on some machines, and where there are several devices
        names["_crowded"] = lambda: False
    return names[OPERATORS[name].program.name]


def made(rng, name, *batch):
    program = OPERATORS[name].program
    tensors = [rng.normal(size=(*batch, N, D)) for _ in program.tensors]
    return tensors, rng.normal(size=(*batch, N, *[D] * (len(program.outputs[0].axes) - 1)))


@lru_cache
def gradient_program(name):
    program = OPERATORS[name].program
    return differentiate(program, [param.name for param in program.tensors])


def expected(name, tensors, c):
    """Gradients of ``Σ c o`` by the tensors, by the dense interpreter."""
    found = interpret(gradient_program(name), *tensors, c)
    return found if isinstance(found, tuple) else (found,)


def assert_close(found, wanted, tolerance=1e-10):
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        assert np.max(np.abs(one - other)) <= tolerance * np.max(np.abs(other))


def test_leading_axes_that_broadcast_this_way_and_that(backend, rng):
    leads = [(3, 1, 2), (2, 2), (2, 1), (3, 1, 2), (2, 2)]
    tensors = [rng.normal(size=(*lead, N, D)) for lead in leads]
    found = backend.dtn.compile(OPERATORS["two_simplicial"])(*map(backend.array, tensors), chunk_size=CHUNK)
    assert_close([backend.numpy(found)], [interpret(OPERATORS["two_simplicial"].program, *tensors)])


@every_budget
@every_operator
@pytest.mark.parametrize("length", [N, 20])
def test_values(backend, rng, name, elements, length):
    tensors = [x[..., :length, :] for x in made(rng, name, 2)[0]]
    found = compiled(backend, name, elements)(*map(backend.array, tensors), chunk_size=CHUNK)
    assert_close([backend.numpy(found)], [interpret(OPERATORS[name].program, *tensors)])


@every_budget
@every_operator
def test_two_pieces_are_the_whole(backend, rng, name, elements):
    tensors, _ = made(rng, name)
    run = compiled(backend, name, elements)
    head, tail = ([backend.array(x[part]) for x in tensors] for part in (slice(0, 9), slice(9, N)))
    first, state = run(*head, return_state=True, chunk_size=CHUNK)
    second = run(*tail, initial_state=state, chunk_size=CHUNK)
    found = np.concatenate([backend.numpy(first), backend.numpy(second)])
    assert_close([found], [interpret(OPERATORS[name].program, *tensors)])


@every_budget
@every_operator
def test_gradients(gradients, rng, name, elements):
    tensors, c = made(rng, name, 2)
    run = compiled(gradients, name, elements)
    found = gradients.gradients(lambda *t: gradients.loss(run(*t, chunk_size=CHUNK), c), tensors)
    assert_close(found, expected(name, tensors, c), 1e-9)


@every_budget
@pytest.mark.parametrize("name", ["covariance", "function of a state"])
def test_second_gradients(gradients, rng, name, elements):
    tensors, c = made(rng, name)
    directions = [rng.normal(size=x.shape) for x in tensors]
    run = compiled(gradients, name, elements)
    found = gradients.second(lambda *t: gradients.loss(run(*t, chunk_size=CHUNK), c), tensors, directions)
    step = 1e-5
    up, down = (expected(name, [x + s * d for x, d in zip(tensors, directions, strict=True)], c) for s in (step, -step))
    assert_close(found, [(one - other) / (2 * step) for one, other in zip(up, down, strict=True)], 1e-6)


@pytest.mark.skipif(chosen() != "torch", reason="vmap of PyTorch")
@every_budget
@every_operator
def test_vmap_of_values_and_gradients(backend, rng, name, elements):
    import torch

    tensors, c = made(rng, name, 3)
    run = compiled(backend, name, elements)
    given = [*map(backend.array, tensors), backend.array(c)]

    def loss(*tensors):
        *own, weights = tensors
        return (run(*own, chunk_size=CHUNK) * weights).sum()

    values = torch.vmap(lambda *t: run(*t, chunk_size=CHUNK))(*given[:-1])
    assert_close([backend.numpy(values)], [interpret(OPERATORS[name].program, *tensors)])
    found = torch.vmap(torch.func.grad(loss, tuple(range(len(tensors)))))(*given)
    assert_close([backend.numpy(x) for x in found], expected(name, tensors, c), 1e-9)
