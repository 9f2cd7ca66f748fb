"""Gradients of every input, by the framework's own reverse mode, against differences of the dense interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from frameworks import sampled

from dtn_core.interpret import interpret
from dtn_core.operators import tensor_attention, tensor_interaction
from oracle.conditioned import well_conditioned
from oracle.differences import along, direction_like, inner, twice_along
from oracle.knobs import attention_knobs, interaction_knobs, shown

SEED = 12
N, D, E = 4, 3, 2


def tensors_for(rng, kind, build, knobs, *shapes):
    """Well-conditioned tensors."""
    operator = build(**knobs)
    return well_conditioned(rng, kind, shapes, lambda *t: interpret(operator.program, *t, **operator.scalars))[0]


def assert_gradients(backend, build, knobs, tensors, rng):
    """Along a random direction of each tensor, the gradient of ``Re <c, o>`` is the difference of the interpreter's."""
    operator = build(**knobs)
    compiled = backend.dtn.compile(operator)
    reference = lambda *values: interpret(operator.program, *values, **operator.scalars)  # noqa: E731
    c = direction_like(rng, reference(*tensors))
    found = backend.gradients(lambda *natives: backend.loss(compiled(*natives), c), tensors)
    for place, gradient in enumerate(found):
        direction = direction_like(rng, tensors[place])

        def loss(t, place=place, direction=direction):
            return inner(c, reference(*(x + t * direction if p == place else x for p, x in enumerate(tensors))))

        assert gradient.shape == tensors[place].shape
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        rounding = 1e-10 * (1 + abs(loss(0)))  # of a difference with step 1e-4
        assert abs(inner(gradient, direction) - along(loss)) <= 1e-7 * scale + rounding, operator.program.params[
            place
        ].name


def kinds(combinations):
    found = []
    for place, knobs in enumerate(combinations):
        kind = "real" if knobs["activation"] == "relu" or place % 2 else "complex"
        found.append(pytest.param(knobs, kind, id=f"{kind},{shown(knobs)}"))
    return found


@pytest.mark.parametrize(("knobs", "kind"), kinds(sampled(attention_knobs(), 80, SEED)))
def test_of_tensor_attention(gradients, rng, knobs, kind):
    tensors = tensors_for(rng, kind, tensor_attention, knobs, (2, N, D), (2, N, D), (2, N, E))
    assert_gradients(gradients, tensor_attention, knobs, tensors, rng)


@pytest.mark.parametrize(("knobs", "kind"), kinds(sampled(interaction_knobs(), 30, SEED)))
def test_of_tensor_interaction(gradients, rng, knobs, kind):
    tensors = tensors_for(rng, kind, tensor_interaction, knobs, (2, N, D), (2, N, D), (2, N, D))
    assert_gradients(gradients, tensor_interaction, knobs, tensors, rng)


def test_of_tensors_that_are_broadcast_are_summed(gradients, rng):
    q, k, v = rng.normal(size=(2, 1, N, D)), rng.normal(size=(3, N, D)), rng.normal(size=(N, E))
    assert_gradients(gradients, tensor_attention, {}, [q, k, v], rng)


@pytest.mark.parametrize("wrt", [(0,), (1,), (2,), (0, 2)])
def test_of_some_inputs_only(gradients, rng, wrt):
    q, k, v = rng.normal(size=(3, N, D))
    c = rng.normal(size=(N, D))
    run = gradients.dtn.tensor_attention
    every = gradients.gradients(lambda *t: gradients.loss(run(*t), c), [q, k, v])
    some = gradients.gradients(lambda *t: gradients.loss(run(*t), c), [q, k, v], wrt)
    for place, gradient in zip(wrt, some, strict=True):
        assert np.allclose(gradient, every[place], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_have_the_dtype_of_their_tensor(gradients, rng, dtype):
    tensors = [x.astype(dtype) for x in rng.normal(size=(3, N, D))]
    weights = np.ones((N, D), dtype)
    found = gradients.gradients(lambda *t: gradients.loss(gradients.dtn.tensor_attention(*t), weights), tensors)
    assert [gradient.dtype.name for gradient in found] == [dtype] * 3


SCALARS = {
    "scale": {"scale": 0.7},
    "residual": {"residual": 0.5},
    "residual without normalisation": {"residual": 0.5, "normalize": None},
    "eps": {"eps": 0.1},
    "eps of rows": {"eps": 0.1, "normalize": "row"},
    "decay": {"mask": "causal", "decay": 0.9},
    "decay without normalisation": {"mask": "causal", "decay": 0.9, "normalize": None, "order": 3},
    "decay of one": {"mask": "causal", "decay": 1.0},
}


@pytest.mark.parametrize("knobs", SCALARS.values(), ids=SCALARS.keys())
@pytest.mark.parametrize("build", [tensor_attention, tensor_interaction])
def test_of_scalars_one_a_head(gradients, rng, build, knobs):
    if build is tensor_interaction and "order" in knobs:
        knobs = {name: value for name, value in knobs.items() if name != "order"}
    name = next(name for name in ("scale", "residual", "eps", "decay") if name in knobs)
    operator = build(**knobs)
    tensors = list(rng.normal(size=(3, 2, N, D)))
    scalar = knobs[name] * np.array([1.0, 0.9])
    c, direction = rng.normal(size=(2, N, D)), rng.normal(size=2)
    run = getattr(gradients.dtn, build.__name__)
    others = {knob: value for knob, value in knobs.items() if knob != name}
    loss = lambda s: gradients.loss(run(*map(gradients.array, tensors), **others, **{name: s}), c)  # noqa: E731
    (found,) = gradients.gradients(loss, [scalar])
    expected = along(lambda t: inner(c, interpret(operator.program, *tensors, **{name: scalar + t * direction})))
    assert found.shape == (2,)
    assert found @ direction == pytest.approx(expected, rel=1e-6, abs=1e-8)


SECOND = {
    "default": {}, "rows": {"normalize": "row"}, "diagonal": {"normalize": "diag"}, "order 3": {"order": 3, "normalize": None},
    "hadamard": {"product": "hadamard"}, "exp": {"activation": "exp"}, "expm": {"activation": "expm"},
    "tril": {"mask": "tril"}, "causal": {"mask": "causal"}, "causal with decay": {"mask": "causal", "decay": 0.9},
    "causal expm": {"mask": "causal", "activation": "expm"},
}  # fmt: skip


@pytest.mark.parametrize("knobs", SECOND.values(), ids=SECOND.keys())
def test_second_gradients(gradients, rng, knobs):
    operator = tensor_attention(**knobs)
    tensors = tensors_for(rng, "real", tensor_attention, knobs, (N, D), (N, D), (N, E))
    compiled = gradients.dtn.compile(operator)
    c = rng.normal(size=(N, E))
    s, t = ([rng.normal(size=x.shape) for x in tensors] for _ in range(2))
    found = gradients.second(lambda *natives: gradients.loss(compiled(*natives), c), tensors, s)

    def loss(a, b):
        moved = [x + a * u + b * w for x, u, w in zip(tensors, s, t, strict=True)]
        return inner(c, interpret(operator.program, *moved, **operator.scalars))

    scale = sum(np.linalg.norm(g) * np.linalg.norm(w) for g, w in zip(found, t, strict=True))
    assert abs(sum(inner(g, w) for g, w in zip(found, t, strict=True)) - twice_along(loss)) <= 1e-6 * scale + 1e-8


class TestZeroDenominators:
    """A denominator that is exactly 0 gives output 0 and finite gradients, never NaN."""

    @pytest.mark.parametrize("mask", [None, "tril", "causal"])
    @pytest.mark.parametrize("activation", [None, "relu", "exp", "expm"])
    @pytest.mark.parametrize("normalize", ["trace", "diag", "row"])
    def test_at_zero(self, gradients, normalize, activation, mask):
        knobs = {"normalize": normalize, "activation": activation, "mask": mask}
        zero, ones = np.zeros((N, D)), np.ones((N, E))
        run = gradients.dtn.tensor_attention
        found = gradients.gradients(lambda *t: gradients.loss(run(*t, **knobs), ones), [zero, zero, ones])
        assert all(np.all(np.isfinite(gradient)) for gradient in found)

    @pytest.mark.parametrize("kind", ["real", "complex"])
    @pytest.mark.parametrize("normalize", ["trace", "diag", "row"])
    @pytest.mark.parametrize("build", [tensor_attention, tensor_interaction])
    def test_at_zero_of_either_operator_and_kind(self, gradients, build, normalize, kind):
        zero = np.zeros((N, D), complex if kind == "complex" else float)
        ones = np.ones_like(zero)
        run = getattr(gradients.dtn, build.__name__)
        found = gradients.gradients(lambda *t: gradients.loss(run(*t, normalize=normalize), ones), [zero, zero, ones])
        assert all(np.all(np.isfinite(gradient)) for gradient in found)

    def test_a_zero_token_among_others(self, gradients, rng):
        q, k, v = rng.normal(size=(3, N, D))
        q[1] = 0
        ones, run = np.ones((N, D)), gradients.dtn.tensor_attention
        found = gradients.gradients(lambda *t: gradients.loss(run(*t, normalize="diag"), ones), [q, k, v])
        assert all(np.all(np.isfinite(gradient)) for gradient in found)

    def test_second_gradients_at_zero(self, gradients):
        zero, ones = np.zeros((N, D)), np.ones((N, D))
        loss = lambda *t: gradients.loss(gradients.dtn.tensor_attention(*t), ones)  # noqa: E731
        found = gradients.second(loss, [zero, zero, ones], [ones, ones, ones])
        assert all(np.all(np.isfinite(gradient)) for gradient in found)
