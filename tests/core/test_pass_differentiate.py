"""differentiate: the gradient program against differences of the program itself.

Rational programs are differenced in exact arithmetic with a step of 1e-40; the others in float64, by a
sixth-order stencil, real and complex.  A cotangent of a complex tensor is ``∂L/∂Re + i ∂L/∂Im``.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from dtn_core.errors import CompileError
from dtn_core.interpret import interpret
from dtn_core.ir.functions import FUNCTIONS
from dtn_core.ir.nodes import Read
from dtn_core.ir.verify import verify
from dtn_core.notation import parse
from dtn_core.operators import catalogue, tensor_attention, tensor_interaction
from dtn_core.passes.differentiate import differentiate
from dtn_core.passes.flatten import flatten
from dtn_core.passes.pipeline import lower
from dtn_core.printer import to_notation
from oracle.differences import along, direction_like, exactly_along, inner, twice_along
from oracle.exact import outputs
from oracle.knobs import attention_knobs, interaction_knobs, sample, shown

SIZES = {"n": 3, "d": 2, "e": 2}


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def generic(rng, *shape, positive=False):
    """Fractions with large denominators: no sum of their products is 0 by accident, where relu has a kink."""
    values = [Fraction(int(n), 1009) for n in rng.integers(1, 1009, int(np.prod(shape, dtype=int)))]
    signs = rng.choice([1] if positive else [-1, 1], len(values))
    return np.array([int(s) * x for s, x in zip(signs, values, strict=True)], dtype=object).reshape(shape)


def assert_exact(text, rng, positive=()):
    """Every gradient equals the exact difference along a random direction."""
    program = parse(text)
    gradient = differentiate(program)
    arguments = [generic(rng, *(SIZES[a] for a in p.axes), positive=p.name in positive) for p in program.params]
    cotangents = [generic(rng, *(SIZES[a] for a in o.axes)) for o in program.outputs]
    gradients = outputs(gradient, [*arguments, *cotangents])

    def loss(values):
        return sum(np.sum(c * y) for c, y in zip(cotangents, outputs(program, values), strict=True))

    names = [param.name for param in program.params]
    for output, found in zip(gradient.outputs, gradients, strict=True):
        place = names.index(output.name.removeprefix("d_"))
        direction = generic(rng, *arguments[place].shape)

        def moved(t, place=place, direction=direction):
            return loss([x + t * direction if p == place else x for p, x in enumerate(arguments)])

        expected = exactly_along(moved)
        assert expected is not None, "the test sits on a kink"
        assert found.shape == arguments[place].shape
        assert abs(np.sum(found * direction) - expected) < Fraction(1, 10**60), program.params[place].name


CASES = {
    "a product": "f(x[n], y[n]) -> s: s = x[i] * y[i]",
    "a square": "f(x[n]) -> s[n]: s[i] = x[i] * x[i]",
    "a cube": "f(x[n]) -> s: s = x[i] * x[i] * x[i]",
    "a contraction": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: T[i,j] = q[i,a]*k[j,a]; o[i,c] = T[i,j]*v[j,c]",
    "a sum": "f(x[n,d]) -> s[n]: s[i] = x[i,a]",
    "a mean": "f(x[n,d]) -> s[n]: s[i] = x[i,a] / d",
    "sums of terms": "f(x[n], y[n]) -> s[n]: s[i] = 2 * x[i] - 3 * y[i] * x[i] + 1",
    "a term broadcast": "f(x[n], w[d]) -> s[n,d]: s[i,a] = x[i] + w[a]",
    "a sum over an index of another term": "f(x[n], w[d]) -> s[n]: s[i] = x[i] + w[a]",
    "a transpose": "f(x[n,d]) -> s[d,n]: s[a,i] = x[i,a]",
    "a trace": "f(q[n,d], k[n,d]) -> r: T[i,j] = q[i,a]*k[j,a]; r = T[x,x]",
    "a diagonal of an argument": "f(m[n,n], w[n]) -> s: s = m[i,i] * w[i]",
    "a diagonal of three, and an index of the name that its second would have": "f(m[d,d,d,d], w[d]) -> s: s = m[a,a,a,a_2] * w[a_2]",
    "a decay, and an index of the name of those between": "f(x[n], w[n], g) -> y[n]: y[t] = x[t_between] * w[t] where t_between <= t decay g",
    "a matrix read both ways": "f(m[n,n]) -> s[n,n]: s[i,j] = m[i,j] * m[j,i]",
    "a scalar": "f(x[n], g) -> s[n]: s[i] = g * g * x[i]",
    "a scalar alone": "f(x[n], g) -> s[n]: s[i] = x[i] + g",
    "a quotient": "f(x[n], y[n]) -> s[n]: s[i] = x[i] / y[i]",
    "division by a trace": "f(q[n,d], v[n,e]) -> o[n,e]: T[i,j] = q[i,a]*q[j,a]; r = T[x,x]; o[i,c] = T[i,j]*v[j,c]/r",
    "an argument that is not read": "f(x[n], y[n]) -> s[n]: s[i] = x[i]",
    "two outputs": "f(x[n]) -> s[n], r: s[i] = x[i]*x[i]; r = x[i]",
    "an output read by another": "f(x[n]) -> s[n], r: s[i] = x[i]*x[i]; r = s[i] * x[i]",
    "a statement read twice": "f(x[n]) -> r: s[i] = x[i]*x[i]; r = s[i]*s[j]*x[j]",
    "an order": "f(x[n], w[n]) -> y[n]: y[t] = x[i] * w[t] where i <= t",
    "a mirrored order": "f(x[n], w[n]) -> y[n]: y[t] = x[i] * w[t] where t <= i",
    "a chain": "f(x[n], w[n]) -> y[n]: y[t] = x[j] * w[i] where j <= i <= t",
    "an order of an absent index": "f(x[n]) -> y[n]: y[t] = x[t] * one[i:n] where i <= t",
    "an equality": "f(x[n], w[n]) -> y: y = x[i] * w[j] where i == j",
    "a decay that is a number": "f(x[n], w[n]) -> y[n]: y[t] = x[i] * w[t] where i <= t decay 0.5",
    "a decay that is an argument": "f(x[n], g) -> y[n]: y[t] = x[i] * x[t] where i <= t decay g",
    "a decay along a chain": "f(x[n], g) -> y[n]: y[t] = x[j] * x[i] where j <= i <= t decay g",
    "a decay that is also a factor": "f(x[n], g) -> y[n]: y[t] = g * x[i] where i <= t decay g",
    "a term without the ordered index": "f(x[n], w[n]) -> y[n]: y[t] = x[j] * x[i] + w[j] where j <= i <= t",
    "relu": "f(x[n]) -> y[n]: y[i] = relu(x[i]) * x[i]",
    "abs": "f(x[n]) -> y[n]: y[i] = abs(x[i]) * x[i]",
    "conj and real": "f(x[n]) -> y[n]: y[i] = conj(x[i]) * real(x[i])",
    "select": "f(m[n], x[n]) -> y[n]: y[i] = select(m[i], x[i]) * x[i]",
    "a selection that leaves some out": "f(x[n], w[n]) -> y[n]: m[i] = step(x[i]); y[i] = select(m[i], w[i]) * w[i]",
    "a function of a function": "f(x[n]) -> y[n]: y[i] = relu(abs(x[i])) * x[i]",
    "a function of a scalar": "f(x[n], g) -> y[n]: y[i] = abs(g) * x[i]",
    "causal tensor attention": "f(q[n,d], k[n,d], v[n,e], g) -> o[n,e]:\n T[i,j] = q[i,a]*k[l,a]*k[l,b]*q[j,b] where l <= j <= i decay g\n r[i] = T[x,x] where x <= i decay g\n o[i,c] = T[i,j]*v[j,c]/r[i]",
}  # fmt: skip


@pytest.mark.parametrize("text", CASES.values(), ids=CASES.keys())
def test_exact_gradients(rng, text):
    assert_exact(text, rng, positive=("g",))


RATIONAL = [
    k for k in attention_knobs() if k["activation"] in (None, "relu") and "scale" in k and k.get("order", 2) < 4
]


@pytest.mark.parametrize("knobs", sample(RATIONAL, 16, seed=3), ids=shown)
def test_exact_gradients_of_tensor_attention(rng, knobs):
    text = tensor_attention(**knobs).notation
    assert_exact(text, rng, positive=("decay", "scale", "residual", "eps"))


def assert_close_in_floats(program, arguments, rng, tolerance=1e-8):
    """Every gradient agrees with a difference along a random direction, relative to the two's norms."""
    gradient = differentiate(program)
    values = as_tuple(interpret(program, *arguments))
    cotangents = [direction_like(rng, y) for y in values]
    gradients = as_tuple(interpret(gradient, *arguments, *cotangents))
    names = [param.name for param in program.params]
    for output, found in zip(gradient.outputs, gradients, strict=True):
        name = output.name.removeprefix("d_")
        place = names.index(name)
        direction = direction_like(rng, arguments[place])

        def loss(t, place=place, direction=direction):
            moved = [x + t * direction if p == place else x for p, x in enumerate(arguments)]
            return sum(inner(c, y) for c, y in zip(cotangents, as_tuple(interpret(program, *moved)), strict=True))

        scale = np.linalg.norm(found) * np.linalg.norm(direction)
        rounding = 1e-10 * (1 + abs(loss(0)))  # of a difference with step 1e-4
        assert abs(inner(found, direction) - along(loss)) <= tolerance * scale + rounding, name


def tensors(rng, kind, widths, n=4):
    """q, k, v near each other and not centred, so that denominators stay away from 0."""
    made = [0.2 + 0.3 * rng.normal(size=(n, width)) for width in widths]
    if kind == "complex":
        made = [x + 0.3j * rng.normal(size=x.shape) for x in made]
    made[1] = made[0] + 0.3 * made[1]
    return made


def both_kinds(combinations):
    found = []
    for place, knobs in enumerate(combinations):
        kind = "real" if knobs["activation"] == "relu" or place % 2 else "complex"
        found.append(pytest.param(knobs, kind, id=f"{kind},{shown(knobs)}"))
    return found


@pytest.mark.parametrize(("knobs", "kind"), both_kinds(sample(attention_knobs(), 100, seed=4)))
def test_gradients_of_tensor_attention(rng, knobs, kind):
    operator = tensor_attention(**knobs)
    scalars = [np.array(operator.scalars[param.name]) for param in operator.program.scalars]
    assert_close_in_floats(operator.program, [*tensors(rng, kind, (3, 3, 2)), *scalars], rng)


@pytest.mark.parametrize(("knobs", "kind"), both_kinds(sample(interaction_knobs(), 40, seed=4)))
def test_gradients_of_tensor_interaction(rng, knobs, kind):
    operator = tensor_interaction(**knobs)
    scalars = [np.array(operator.scalars[param.name]) for param in operator.program.scalars]
    assert_close_in_floats(operator.program, [*tensors(rng, kind, (3, 3, 3)), *scalars], rng)


@pytest.mark.parametrize("name", ["linear_attention", "ahla", "second_order"])
def test_gradients_of_written_operators(rng, name):
    assert_close_in_floats(catalogue[name].build().program, tensors(rng, "complex", (3, 3, 2)), rng)


def test_gradients_of_two_simplicial(rng):
    assert_close_in_floats(catalogue["two_simplicial"].build().program, tensors(rng, "real", (3, 3, 3, 2, 2)), rng)


class TestFunctions:
    @pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("select", "step")])
    def test_of_real_input(self, rng, name):
        x = 0.5 + rng.random(5) if name in ("log", "sqrt") else rng.normal(size=5)
        assert_close_in_floats(parse(f"f(x[n]) -> y[n]: y[i] = {name}(x[i])"), [x], rng)

    @pytest.mark.parametrize(
        "name", [name for name, f in FUNCTIONS.items() if f.holomorphic and name not in ("select", "step")]
    )
    def test_of_complex_input(self, rng, name):
        z = 1.5 + 0.3 * direction_like(rng, np.zeros(5, complex))
        assert_close_in_floats(parse(f"f(x[n]) -> y[n]: y[i] = {name}(x[i])"), [z], rng)

    @pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("select", "step", "log", "sqrt")])
    def test_of_a_composition(self, rng, name):
        text = f"f(x[n], w[n]) -> y[n]: u[i] = {name}(x[i]); z[i] = u[i] * w[i]; y[i] = tanh(z[i]) * x[i]"
        assert_close_in_floats(parse(text), list(rng.normal(size=(2, 5))), rng)

    def test_the_derivative_of_relu_at_zero_is_zero(self):
        gradient = differentiate(parse("f(x[n]) -> y[n]: y[i] = relu(x[i])"))
        assert interpret(gradient, np.zeros(2), np.ones(2)).tolist() == [0, 0]

    def test_the_derivative_of_abs_at_zero_is_zero(self):
        gradient = differentiate(parse("f(x[n]) -> y[n]: y[i] = abs(x[i])"))
        assert interpret(gradient, np.zeros(2), np.ones(2)).tolist() == [0, 0]

    def test_division_by_zero_has_finite_gradients(self):
        gradient = differentiate(parse("f(x[n], y[n]) -> z[n]: z[i] = x[i] / y[i]"))
        d_x, d_y = interpret(gradient, np.ones(2), np.zeros(2), np.ones(2))
        assert d_x.tolist() == [0, 0]
        assert d_y.tolist() == [0, 0]


class TestMatrixFunctions:
    @pytest.mark.parametrize("kind", ["real", "complex"])
    def test_the_matrix_exponential(self, rng, kind):
        text = (
            "f(x[n,d], y[n,d], v[n,d]) -> o[n,d]: T[a,b] = x[i,a]*y[i,b]; E[a,b] = expm(T[a,b]); o[i,a] = E[a,b]*v[i,b]"
        )
        assert_close_in_floats(parse(text), tensors(rng, kind, (3, 3, 3)), rng)

    def test_the_matrix_exponential_of_an_argument(self, rng):
        text = "f(m[d,d], v[d]) -> o[d]: E[a,b] = expm(m[a,b]); o[a] = E[a,b]*v[b]"
        assert_close_in_floats(parse(text), [rng.normal(size=(3, 3)), rng.normal(size=3)], rng)

    def test_phi1(self, rng):
        text = "f(m[d,d], v[d]) -> o[d]: E[a,b] = phi1(m[a,b]); o[a] = E[a,b]*v[b]"
        assert_close_in_floats(parse(text), [rng.normal(size=(3, 3)), rng.normal(size=3)], rng)

    def test_the_low_rank_form(self, rng):
        program = lower(tensor_attention(activation="expm").program, complex_input=True).program
        assert_close_in_floats(program, tensors(rng, "complex", (3, 3, 2)), rng)

    def test_a_block_of_a_grid(self, rng):
        text = "f(m[d,d], w[d,d], v[d]) -> o[d]: F[a,b] = expm(m[a,b], w[a,b]; 0, m[a,b])[0,1]; o[a] = F[a,b]*v[b]"
        assert_close_in_floats(parse(text), [*rng.normal(size=(2, 3, 3)), rng.normal(size=3)], rng)

    @pytest.mark.parametrize("kind", ["real", "complex"])
    def test_a_matrix_and_its_transpose(self, rng, kind):
        text = (
            "f(m[d,d], v[d]) -> o[d]: E[a,b] = expm(m[a,b]); F[a,b] = expm(m[b,a]); o[a] = E[a,b]*v[b] + 2*F[a,b]*v[b]"
        )
        m, v = rng.normal(size=(3, 3)), rng.normal(size=3)
        assert_close_in_floats(parse(text), [m + 0.3j * m.T if kind == "complex" else m, v], rng)

    def test_a_block_of_a_grid_of_transposed_blocks(self, rng):
        text = "f(m[d,d], w[d,d], v[d]) -> o[d]: F[a,b] = expm(m[a,b], w[a,b]; 0, m[a,b])[0,1]; o[a] = F[a,b]*v[b]"
        program = parse(text)
        value = program.statements[0].value
        (first, second), last = value.grid
        turned = Read(first.tensor, first.indices[::-1])
        mixed = replace(value, grid=((turned, second), last))
        program = replace(program, statements=(replace(program.statements[0], value=mixed), *program.statements[1:]))
        assert_close_in_floats(verify(program), [*rng.normal(size=(2, 3, 3)), rng.normal(size=3)], rng)


class TestClosure:
    """The derivative is a program like any other: it prints, lowers and differentiates again."""

    @pytest.mark.parametrize("knobs", sample(attention_knobs(), 25, seed=6), ids=shown)
    def test_it_reads_as_notation(self, knobs):
        gradient = differentiate(tensor_attention(**knobs).program)
        assert parse(to_notation(gradient)) == gradient

    @pytest.mark.parametrize("knobs", sample(attention_knobs(), 25, seed=7), ids=shown)
    def test_its_lowered_form_has_the_same_value(self, rng, knobs):
        operator = tensor_attention(**knobs)
        gradient = differentiate(flatten(operator.program))
        q, k, v = tensors(rng, "real", (3, 3, 2))
        arguments = [q, k, v, *operator.scalars.values(), rng.normal(size=(4, 2))]
        lowered = lower(gradient).program
        for a, b in zip(interpret(gradient, *arguments), interpret(lowered, *arguments), strict=True):
            assert np.max(np.abs(a - b), initial=0) <= 1e-9 * max(np.max(np.abs(a), initial=0), 1e-3)

    @pytest.mark.parametrize(
        "operator",
        [tensor_attention(), tensor_attention(activation="expm"), tensor_attention(order=3, mask="causal", normalize="diag"),
         tensor_attention(activation="exp", normalize="row"), tensor_interaction(), tensor_interaction(activation="expm")],
        ids=lambda operator: f"{operator.name} {operator.knobs['activation']} {operator.knobs['mask']}",
    )  # fmt: skip
    def test_second_derivatives(self, rng, operator):
        """``d²L/dx dx`` along two directions, from the gradient of the gradient, against differences of L."""
        program = operator.program
        q, k, v = tensors(rng, "real", (3, 3, 3))
        c = rng.normal(size=v.shape)
        twice = differentiate(differentiate(program, ["q"]), ["q"])
        s, t = rng.normal(size=(2, *q.shape))
        found = inner(interpret(twice, q, k, v, c, s), t)
        expected = twice_along(lambda a, b: inner(c, interpret(program, q + a * s + b * t, k, v)))
        assert found == pytest.approx(expected, rel=1e-6)


class TestArguments:
    def test_only_what_is_asked_for(self):
        gradient = differentiate(parse("f(x[n], y[n]) -> s: s = x[i] * y[i]"), ["y"])
        assert [output.name for output in gradient.outputs] == ["d_y"]

    def test_masks_are_left_out(self):
        gradient = differentiate(parse("f(m[n], x[n]) -> y[n]: y[i] = select(m[i], x[i])"))
        assert [output.name for output in gradient.outputs] == ["d_x"]

    def test_the_cotangents_come_after_the_parameters(self):
        gradient = differentiate(parse("f(x[n]) -> s[n], r: s[i] = x[i]; r = x[i]"))
        assert [param.name for param in gradient.params] == ["x", "d_s", "d_r"]

    def test_names_that_are_taken_are_not_reused(self, rng):
        text = "f(x[n], d_x[n]) -> d_y[n]: d_y[i] = x[i] * x[i] * d_x[i]"
        gradient = differentiate(parse(text))
        assert len({p.name for p in gradient.params} | {o.name for o in gradient.outputs}) == 5

    def test_an_unknown_name_is_refused(self):
        with pytest.raises((CompileError, ValueError), match="z"):
            differentiate(parse("f(x[n]) -> y[n]: y[i] = x[i]"), ["z"])

    def test_a_gradient_of_a_real_scalar_is_real(self, rng):
        gradient = differentiate(parse("f(x[n], g) -> y[n]: y[i] = g * x[i]"))
        z = direction_like(rng, np.zeros(3, complex))
        _, d_g = interpret(gradient, z, 2.0, z)
        assert d_g.imag == 0

    def test_the_documented_convention_for_complex_input(self):
        # L = Re(conj(c) z²) at z: ∂L/∂Re z + i ∂L/∂Im z = conj(2 z) c
        gradient = differentiate(parse("f(z[n]) -> y[n]: y[i] = z[i] * z[i]"))
        z, c = np.array([1 + 2j]), np.array([3 - 1j])
        assert np.allclose(interpret(gradient, z, c), np.conj(2 * z) * c)


def test_the_gradient_of_linear_attention_reads_as_expected():
    text = "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[i,c] = q[i,a] * k[j,a] * v[j,c]"
    lines = to_notation(flatten(differentiate(parse(text)), complex_input=False)).splitlines()[1:]
    assert {line.split(" = ")[0].strip().split("[")[0] for line in lines} == {"d_q", "d_k", "d_v"}
    assert all(
        isinstance(statement.value.factors[0], Read) for statement in flatten(differentiate(parse(text))).statements
    )
