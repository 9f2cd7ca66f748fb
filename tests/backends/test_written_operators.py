"""Operators of a user's own, in index notation, in every backend."""

from __future__ import annotations

import numpy as np
import pytest

from dtn_core.interpret import interpret
from dtn_core.notation import parse
from dtn_core.operators import catalogue
from oracle.differences import along, direction_like, inner

OPERATORS = {
    "linear attention": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[i,c] = q[i,a]*k[j,a]*v[j,c]",
    "ahla": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*q[i,b]*k[j,b]*v[j,c]   where j <= i <= t",
    "two-simplicial": "f(q[n,d], k[n,d], l[n,d], v[n,e], w[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*l[j,a]*v[i,c]*w[j,c]   where i <= t, j <= t",
    "second order with decay": "f(q[n,d], k[n,d], v[n,e], g) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*k[i,b]*q[j,b]*v[j,c]   where i <= j <= t decay g",
    "two decays": "f(q[n,d], k[n,d], v[n,e], g, h) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*k[j,a]*v[i,c]   where i <= t decay g, j <= t decay h",
    "decays that are computed": "f(q[n,d], k[n,d], v[n,e], g, h) -> o[n,e], p[n,e]:\n    s = sigmoid(g)\n    r = s*h\n    o[t,c] = q[t,a]*k[i,a]*k[i,b]*q[j,b]*v[j,c]   where i <= j <= t decay s\n    p[t,c] = q[t,a]*k[i,a]*v[i,c] / r   where i <= t decay r",
    "decays of one order": "f(q[n,d], k[n,d], v[n,e], g, h) -> o[n,e], p[n,e]: o[t,c] = q[t,a]*k[i,a]*v[i,c]   where i <= t decay g, i <= t decay h\n    p[t,c] = q[t,a]*k[i,a]*k[i,b]*q[j,b]*v[j,c]   where i <= j <= t decay g, i <= t decay 0.5",
    "strict order": "f(q[n,d], k[n,d], v[n,e], g) -> o[n,e], p[n,e]: o[t,c] = q[t,a]*k[i,a]*v[i,c]   where i < t\n    p[t,c] = q[t,a]*k[i,a]*k[i,b]*q[j,b]*v[j,c]   where i <= j < t decay g",
    "strict order of n×n matrices": "f(q[n,d], k[n,d], v[n,e], g) -> o[n,e], p[n,n]:\n    S[i,j] = q[i,a]*k[j,a]\n    E[i,j] = exp(S[i,j])\n    o[i,c] = E[i,j]*v[j,c]   where j < i\n    p[i,j] = E[i,j]   where i < j decay g",
    "mirrored order": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*k[i,a]*v[i,c]   where t <= i",
    "prefix sum": "f(x[n,d]) -> y[n,d]: y[t,a] = x[i,a]   where i <= t",
    "prefix of a prefix": "f(x[n,d]) -> y[n,d]: s[t,a] = x[i,a]   where i <= t\n    y[t,a] = s[i,a]   where i <= t",
    "dense n×n argument, causal": "f(B[n,n], q[n,d], v[n,e]) -> o[n,e]: o[t,c] = B[t,i]*v[i,c]*q[i,a]   where i <= t",
    "equal indices": "f(q[n,d], v[n,e]) -> o[d,e]: o[a,c] = q[i,a]*v[j,c]   where i == j",
    "layer norm": "f(x[n,d], g[d], b[d], eps) -> y[n,d]:\n    mu[t] = x[t,c] / d\n    z[t,c] = x[t,c] - mu[t]\n    var[t] = z[t,c]*z[t,c] / d + eps\n    sd[t] = sqrt(var[t])\n    y[t,c] = z[t,c]*g[c]/sd[t] + b[c]",
    "softmax attention": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]:\n    S[i,j] = q[i,a]*k[j,a]\n    E[i,j] = exp(S[i,j])\n    r[i] = E[i,j]\n    o[i,c] = E[i,j]*v[j,c]/r[i]",
    "causal softmax attention": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]:\n    S[i,j] = q[i,a]*k[j,a]\n    E[i,j] = exp(S[i,j])\n    r[i] = E[i,j]   where j <= i\n    o[i,c] = E[i,j]*v[j,c]/r[i]   where j <= i",
    "gelu MLP": "f(x[n,d], w[d,e], b[e], u[e,d]) -> y[n,d]:\n    h[i,p] = x[i,a]*w[a,p] + b[p]\n    g[i,p] = gelu(h[i,p])\n    y[i,a] = g[i,p]*u[p,a]",
    "gated": "f(x[n,d], w[d,e], u[d,e]) -> y[n,e]:\n    a[i,p] = x[i,c]*w[c,p]\n    b[i,p] = x[i,c]*u[c,p]\n    s[i,p] = silu(a[i,p])\n    y[i,p] = s[i,p]*b[i,p]",
    "heads as an axis": "f(x[n,m], w[m,h,d], b[h,d]) -> y[n,h,d]: y[i,h1,a] = x[i,m1]*w[m1,h1,a] + b[h1,a]",
    "selection": "f(keep[n], x[n,d]) -> y[d]: z[i,a] = select(keep[i], x[i,a])\n    y[a] = z[i,a]",
    "every function": "f(x[n,d]) -> y[n,d]:\n    p[i,a] = sigmoid(x[i,a])\n    l[i,a] = log(p[i,a])\n    s[i,a] = sqrt(p[i,a])\n    t[i,a] = tanh(x[i,a])\n    e[i,a] = erf(x[i,a])\n    m[i,a] = abs(x[i,a])\n    g[i,a] = gelu(x[i,a])\n    u[i,a] = silu(x[i,a])\n    r[i,a] = relu(x[i,a])\n    y[i,a] = l[i,a] + s[i,a]*t[i,a] + e[i,a]*m[i,a] - g[i,a]*u[i,a] + r[i,a]/p[i,a]",
    "matrix exponential": "f(x[n,d], y[n,d]) -> o[n,d]:\n    T[a,b] = x[i,a]*y[i,b] / n\n    E[a,b] = expm(T[a,b])\n    o[i,a] = E[a,b]*x[i,b]",
    "two outputs": "f(q[n,d], v[n,e]) -> s[d,e], o[n,e]:\n    s[a,c] = q[j,a]*v[j,c]\n    o[i,c] = q[i,a]*s[a,c]",
    "a scalar output": "f(x[n,d]) -> s: s = x[i,a]*x[i,a] / n",
    "a vector output": "f(x[n,d]) -> s[d]: s[a] = x[i,a] / n",
    "a matrix times a vector": "f(x[n,d], b[d]) -> s[n]: s[i] = x[i,a]*b[a]",
    "a vector times a matrix": "f(x[n,d], w[n]) -> s[d]: s[a] = w[i]*x[i,a]",
    "an inner product of rows": "f(q[n,d], k[n,d]) -> s[n]: s[i] = q[i,a]*k[i,a]",
    "an inner product of columns": "f(q[n,d], k[n,d]) -> s[d]: s[a] = q[i,a]*k[i,a]",
    "an inner product of vectors": "f(w[n], u[n]) -> s: s = w[i]*u[i]",
    "an inner product of matrices": "f(q[n,d], k[n,d]) -> s: s = q[i,a]*k[i,a]",
    "a trace and a diagonal": "f(B[n,n]) -> r, s[n]:\n    r = B[i,i]\n    s[i] = B[i,i]",
    "an output with an axis twice": "f(x[n,d]) -> c[d,d]: c[a,b] = x[i,a]*x[i,b]",
    "a transpose": "f(x[n,d]) -> y[d,n]: y[a,i] = 2*x[i,a]",
    "a copy": "f(x[n,d]) -> y[n,d]: y[i,a] = x[i,a]",
    "a constant": "f(x[n,d]) -> y[n,d]: y[i,a] = 0*x[i,a] + 3",
    "rational constants": "f(x[n,d]) -> y[n,d]: y[i,a] = x[i,a]/3 - 0.1*x[i,a] + 1e-3",
    "a name that is a Python keyword of frameworks": "f(np[n,d], torch[n,d], tf[n,d]) -> jnp[n,d]: jnp[i,a] = np[i,a]*torch[i,a] + tf[i,a]",
    "names the source uses": "f(dtype[n,d], wide[n,d]) -> math[n,d]: math[i,a] = dtype[i,a]*wide[i,a]",
    "an operator named like its framework": "torch(jax[n,d]) -> numpy[n,d]: numpy[i,a] = jax[i,a]*jax[i,a]",
    "the conjugate of a statement": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e]:\n    T[i,j] = q[i,a]*k[j,a]\n    o[i,c] = conj(T[i,j])*v[j,c]",
    "an upper triangle": "f(q[n,d], k[n,d]) -> o[n,n]: o[i,j] = q[i,a]*k[j,a]   where i <= j",
    "a triangle of what is read again": "f(q[n,d], k[n,d], v[n,e]) -> o[n,e], p[n,e]:\n    S[i,j] = q[i,a]*k[j,a]\n    M[i,j] = S[i,j]   where j <= i\n    T[i,j] = tanh(M[i,j])\n    R[i,j] = sigmoid(S[i,j])\n    o[i,c] = T[i,j]*v[j,c]\n    p[i,c] = R[i,j]*v[j,c]",
    "indices that begin with one letter": "f(x[n,d,e], y[n,d]) -> o[n,e]: o[i,a2] = x[i,a1,a2]*y[i,a1]",
    "a cross-attention of two lengths": "f(q[n,d], k[m,d], v[m,e]) -> o[n,e]: o[i,c] = q[i,a]*k[j,a]*v[j,c] / m",
}  # fmt: skip
SIZES = {"n": 5, "m": 4, "d": 3, "e": 2, "h": 2}
SCALARS = {"g": 0.9, "h": 0.8, "eps": 1e-2}
every_operator = pytest.mark.parametrize("text", OPERATORS.values(), ids=OPERATORS.keys())


def arguments(program, rng, batch=(2,), kind="real"):
    """Random tensors by parameter, masks as numbers 0 and 1, and scalars."""
    tensors = {}
    for param in program.tensors:
        shape = (*batch, *(SIZES[axis] for axis in param.axes))
        tensors[param.name] = (
            rng.normal(size=shape) if kind == "real" else direction_like(rng, np.zeros(shape, complex))
        )
        if param.name == "keep":
            tensors[param.name] = (rng.random(shape) < 0.6).astype(float)
    return tensors, {param.name: SCALARS[param.name] for param in program.scalars}


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def assert_equal(backend, got, expected, tolerance=1e-9):
    got, expected = as_tuple(got), as_tuple(expected)
    for a, b in zip(map(backend.numpy, got), expected, strict=True):
        assert a.shape == b.shape
        assert np.max(np.abs(a - b), initial=0) <= tolerance * max(np.max(np.abs(b), initial=0), 1e-3)


@every_operator
def test_value(backend, rng, text):
    program = parse(text)
    tensors, scalars = arguments(program, rng)
    got = backend.dtn.compile(text)(*map(backend.array, tensors.values()), **scalars)
    assert_equal(backend, got, interpret(program, **tensors, **scalars))


@every_operator
def test_value_without_leading_axes(backend, rng, text):
    program = parse(text)
    tensors, scalars = arguments(program, rng, batch=())
    got = backend.dtn.compile(text)(*map(backend.array, tensors.values()), **scalars)
    assert_equal(backend, got, interpret(program, **tensors, **scalars))


@every_operator
def test_gradients(gradients, rng, text):
    program = parse(text)
    tensors, scalars = arguments(program, rng, batch=())
    names = [name for name in tensors if name != "keep"]
    compiled = gradients.dtn.compile(text)
    weights = [direction_like(rng, y) for y in as_tuple(interpret(program, **tensors, **scalars))]

    def native(*values):
        given = {**{name: gradients.array(x) for name, x in tensors.items()}, **dict(zip(names, values, strict=True))}
        results = as_tuple(compiled(*given.values(), **scalars))
        return sum(gradients.loss(y, c) for y, c in zip(results, weights, strict=True))

    found = gradients.gradients(native, [tensors[name] for name in names])
    for name, gradient in zip(names, found, strict=True):
        direction = direction_like(rng, tensors[name])

        def loss(t, name=name, direction=direction):
            moved = {**tensors, name: tensors[name] + t * direction}
            return sum(
                inner(c, y) for c, y in zip(weights, as_tuple(interpret(program, **moved, **scalars)), strict=True)
            )

        scale = np.linalg.norm(gradient) * np.linalg.norm(direction) + abs(loss(0)) * 1e-3
        assert abs(inner(gradient, direction) - along(loss)) <= 1e-7 * scale + 1e-9, name


REAL_ONLY = ("gelu", "silu", "relu", "erf", "every function", "gated", "layer norm", "softmax", "selection")
HOLOMORPHIC = [name for name in OPERATORS if not any(word in name for word in REAL_ONLY)]


@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_complex_value(backend, rng, name):
    program = parse(OPERATORS[name])
    tensors, scalars = arguments(program, rng, kind="complex")
    got = backend.dtn.compile(OPERATORS[name])(*map(backend.array, tensors.values()), **scalars)
    assert_equal(backend, got, interpret(program, **tensors, **scalars))


@pytest.mark.parametrize("name", ["linear_attention", "ahla", "second_order"])
def test_catalogued(backend, rng, name):
    operator = catalogue[name].build()
    tensors, _ = arguments(operator.program, rng, kind="complex")
    assert_equal(
        backend,
        backend.dtn.compile(operator)(*map(backend.array, tensors.values())),
        interpret(operator.program, **tensors),
    )


@pytest.mark.parametrize("function", ["gelu", "silu", "relu", "erf"])
def test_a_function_of_real_numbers_refuses_complex_ones(backend, function):
    run = backend.dtn.compile(f"f(x[n]) -> y[n]: y[i] = {function}(x[i])")
    with pytest.raises(TypeError, match=f"f: {function} is not defined for complex input"):
        run(backend.array(np.ones(3, complex)))


def test_relu_of_complex_scores_is_refused(backend):
    z = backend.array(np.ones((4, 3), complex))
    with pytest.raises(TypeError, match="tensor_attention: relu is not defined for complex input"):
        backend.dtn.tensor_attention(z, z, z, activation="relu")


def test_real_and_abs_of_complex_input(backend, rng):
    text = "f(z[n]) -> y[n]: r[i] = real(z[i]); m[i] = abs(z[i]); y[i] = r[i]*z[i] + m[i]*conj(z[i])"
    z = direction_like(rng, np.zeros(5, complex))
    assert_equal(backend, backend.dtn.compile(text)(backend.array(z)), z.real * z + abs(z) * z.conj())


def test_division_by_zero_is_zero(backend):
    run = backend.dtn.compile("f(x[n], y[n]) -> z[n]: z[i] = x[i] / y[i]")
    got = backend.numpy(run(backend.array(np.array([1.0, 2.0, 0.0])), backend.array(np.array([2.0, 0.0, 0.0]))))
    assert got.tolist() == [0.5, 0, 0]


def test_complex_division_by_zero_is_zero(backend):
    run = backend.dtn.compile("f(x[n], y[n]) -> z[n]: z[i] = x[i] / y[i]")
    got = backend.numpy(run(backend.array(np.array([1j, 2j])), backend.array(np.array([2j, 0]))))
    assert got.tolist() == [0.5, 0]


def test_select_gives_an_exact_zero_where_x_is_not_a_number(backend):
    run = backend.dtn.compile("f(keep[n], x[n]) -> y[n]: y[i] = select(keep[i], x[i])")
    keep, x = np.array([True, False, False]), np.array([5.0, np.nan, np.inf])
    assert backend.numpy(run(backend.array(keep), backend.array(x))).tolist() == [5, 0, 0]


def test_large_arguments_do_not_overflow(backend):
    text = "f(x[n]) -> s[n], t[n], u[n]: s[i] = sigmoid(x[i]); t[i] = tanh(x[i]); u[i] = silu(x[i])"
    s, t, u = backend.dtn.compile(text)(backend.array(np.array([-1e4, 1e4])))
    assert backend.numpy(s).tolist() == [0, 1]
    assert backend.numpy(t).tolist() == [-1, 1]
    assert backend.numpy(u).tolist() == [0, 1e4]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_small_sigmoid_has_all_digits(backend, dtype):
    x = np.array([-80, -30, -1, 0, 30], dtype)
    found = backend.dtn.compile("f(x[n]) -> s[n], l[n]: s[i] = sigmoid(x[i]); l[i] = log(s[i])")(backend.array(x))
    expected = 1 / (1 + np.exp(-x.astype(float)))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(backend.numpy(found[0]), expected, rtol=1e3 * eps)
    np.testing.assert_allclose(backend.numpy(found[1]), np.log(expected), rtol=1e3 * eps, atol=eps)


def test_arguments_by_name_in_any_order(backend, rng):
    text = "f(x[n,d], w[d,e], g) -> y[n,e]: y[i,c] = g * x[i,a] * w[a,c]"
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    got = backend.dtn.compile(text)(g=2.0, w=backend.array(w), x=backend.array(x))
    assert_equal(backend, got, 2 * x @ w)


def test_a_scalar_between_tensors_in_the_signature(backend, rng):
    text = "f(x[n,d], g, w[d,e]) -> y[n,e]: y[i,c] = g * x[i,a] * w[a,c]"
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 2))
    assert_equal(backend, backend.dtn.compile(text)(backend.array(x), backend.array(w), g=2.0), 2 * x @ w)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f(x[n,d]) -> s: s = 1 / d", 1 / 2),
        ("f(x[n,d]) -> s:\n    t = 2 * d\n    s = exp(t) / t", np.exp(4) / 4),
        ("f(x[n,d]) -> s:\n    t = 2 * d\n    s = select(t, t) * x[i,a]", 24),
    ],
)
def test_sizes_are_numbers_like_others(backend, text, expected):
    result = backend.dtn.compile(text)(backend.array(np.ones((3, 2))))
    assert backend.dtype(result) == "float64"
    assert backend.numpy(result) == pytest.approx(expected)


def test_an_output_of_scalars_only_is_a_tensor(backend):
    result = backend.dtn.compile("f(x[n], g) -> s: s = 2 * g")(backend.array(np.ones(3)), g=0.7)
    assert backend.dtype(result) == "float64"
    assert backend.numpy(result) == pytest.approx(1.4)
