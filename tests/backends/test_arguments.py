"""What a call accepts and refuses: shapes, dtypes, layouts, scalars, sizes 0 and 1."""

from __future__ import annotations

import builtins
import keyword
import math

import frameworks
import numpy as np
import pytest

from dtn_codegen.names import RESERVED
from dtn_codegen.signature import CALLS
from dtn_core.errors import CompileError, NotationError, ShapeError
from dtn_core.interpret import interpret
from dtn_core.notation import parse
from dtn_core.operators import PARAMETER, tensor_attention, tensor_interaction

N, D, E = 5, 3, 2
VARIANTS = {
    "default": {}, "row": {"normalize": "row"}, "diag": {"normalize": "diag"}, "order 1": {"order": 1}, "order 4": {"order": 4},
    "hadamard": {"product": "hadamard"}, "relu": {"activation": "relu"}, "exp": {"activation": "exp"}, "expm": {"activation": "expm"},
    "tril": {"mask": "tril"}, "causal": {"mask": "causal"}, "causal with decay": {"mask": "causal", "decay": 0.9},
    "causal expm": {"mask": "causal", "activation": "expm"}, "residual": {"residual": 0.5, "normalize": None}, "side k": {"side": "k", "eps": 0.1},
}  # fmt: skip
every_variant = pytest.mark.parametrize("knobs", VARIANTS.values(), ids=VARIANTS.keys())


def reference(*tensors, build=tensor_attention, **knobs):
    operator = build(**knobs)
    return interpret(operator.program, *tensors, **operator.scalars)


def assert_close(got, expected, tolerance=1e-9):
    assert got.shape == expected.shape
    assert np.max(np.abs(got - expected), initial=0) <= tolerance * np.max(np.abs(expected), initial=0)


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [*sorted(RESERVED - {*dir(builtins), *keyword.kwlist} - CALLS), "getattr", "np_", "_lift", "_chunked", "fall"],
    )
    def test_any_of_the_names_that_generated_functions_use(self, backend, rng, name):
        text = f"{name}({name}[n,d], v[n,e]) -> o[n,e]: o[t,c] = {name}[t,a]*{name}[i,a]*v[i,c] where i <= t decay 0.9"
        x, v = rng.normal(size=(N, D)), rng.normal(size=(N, E))
        function = backend.dtn.compile(text)
        expected = interpret(function.operator.program, x, v)
        assert_close(backend.numpy(function(backend.array(x), backend.array(v), chunk_size=2)), expected)
        if backend.differentiable:
            total = backend.dtn.compile(text.replace("-> o[n,e]", "-> s") + "\n s = o[t,c] * v[t,c]")
            assert all(np.isfinite(d).all() for d in backend.gradients(total, [x, v]))

    def test_no_tensor_at_all_is_refused(self, backend):
        with pytest.raises(CompileError, match="f takes no tensor"):
            backend.dtn.compile("f(g) -> o: o = 2 * g")

    @pytest.mark.parametrize("name", sorted(CALLS))
    def test_the_name_of_an_argument_of_every_call_is_refused(self, backend, name):
        with pytest.raises(CompileError, match=f"parameter {name} has the name of an argument of every call"):
            backend.dtn.compile(f"f({name}[n,d]) -> o[n]: o[t] = {name}[t,a] * {name}[i,a] where i <= t")


class TestSizes:
    @every_variant
    @pytest.mark.parametrize(
        "shape", [(0, 3, 2), (1, 3, 2), (5, 1, 2), (5, 3, 1), (1, 1, 1)], ids=["n=0", "n=1", "d=1", "e=1", "all 1"]
    )
    def test_small(self, backend, rng, shape, knobs):
        n, d, e = shape
        tensors = 0.5 + rng.random((n, d)), 0.5 + rng.random((n, d)), rng.normal(size=(n, e))
        got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), **knobs))
        assert_close(got, reference(*tensors, **knobs))

    @every_variant
    def test_empty_batch(self, backend, knobs):
        tensors = np.zeros((0, N, D)), np.zeros((0, N, D)), np.zeros((0, N, E))
        assert backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), **knobs)).shape == (0, N, E)

    @pytest.mark.parametrize(
        "knobs", [{}, {"mask": "causal"}, {"activation": "expm"}, {"product": "hadamard"}], ids=str
    )
    @pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 1), (1, 1)], ids=["n=0", "n=1", "d=1", "all 1"])
    def test_small_tensor_interaction(self, backend, rng, shape, knobs):
        tensors = [0.5 + rng.random(shape) for _ in range(3)]
        got = backend.numpy(backend.dtn.tensor_interaction(*map(backend.array, tensors), **knobs))
        assert_close(got, reference(*tensors, build=tensor_interaction, **knobs))

    @pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 1)], ids=["n=0", "n=1", "d=1"])
    @pytest.mark.parametrize("knobs", [{}, {"mask": "causal", "decay": 0.9}, {"activation": "expm"}], ids=str)
    def test_gradients_of_small(self, gradients, rng, shape, knobs):
        tensors = [0.5 + rng.random(shape) for _ in range(3)]
        run = gradients.dtn.tensor_attention
        found = gradients.gradients(lambda *t: gradients.loss(run(*t, **knobs), np.ones(shape)), tensors)
        assert all(gradient.shape == shape and np.all(np.isfinite(gradient)) for gradient in found)


class TestZeros:
    @every_variant
    def test_zero_values_give_zero(self, backend, rng, knobs):
        q, k = rng.normal(size=(2, N, D))
        got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, (q, k, np.zeros((N, E)))), **knobs))
        assert np.array_equal(got, np.zeros((N, E)))

    @pytest.mark.parametrize("kind", [float, complex])
    @pytest.mark.parametrize("mask", [None, "tril", "causal"])
    @pytest.mark.parametrize("normalize", ["trace", "diag", "row"])
    def test_zero_scores_give_zero(self, backend, normalize, mask, kind):
        zero, v = np.zeros((N, D), kind), np.ones((N, E), kind)
        got = backend.numpy(
            backend.dtn.tensor_attention(*map(backend.array, (zero, zero, v)), normalize=normalize, mask=mask)
        )
        assert np.array_equal(got, np.zeros((N, E)))

    def test_zero_scores_and_eps_give_zero(self, backend):
        zero, v = np.zeros((N, D)), np.ones((N, E))
        got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, (zero, zero, v)), eps=1e-6))
        assert np.array_equal(got, np.zeros((N, E)))


class TestLayouts:
    @every_variant
    def test_heads_after_tokens(self, backend, rng, knobs):
        tensors = [0.3 + 0.3 * rng.normal(size=(2, N, 4, width)) for width in (D, D, E)]
        tensors[1] = tensors[0] + 0.3 * tensors[1]
        got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), layout="... n h d", **knobs))
        expected = reference(*(x.swapaxes(1, 2) for x in tensors), **knobs).swapaxes(1, 2)
        assert_close(got, expected, 1e-8)

    def test_of_an_operator_with_an_axis_called_h(self, backend, rng):
        text = "f(x[n,h], y[n,h]) -> o[n,h]: o[t,a] = x[t,b]*y[i,b]*y[i,a] where i <= t"
        x, y = rng.normal(size=(2, 2, N, 4, D))
        got = backend.dtn.compile(text, layout="... n h d")(backend.array(x), backend.array(y))
        expected = interpret(parse(text), x.swapaxes(1, 2), y.swapaxes(1, 2)).swapaxes(1, 2)
        assert_close(backend.numpy(got), expected, 1e-8)

    def test_of_tensor_interaction(self, backend, rng):
        tensors = list(rng.normal(size=(3, 2, N, 4, D)))
        got = backend.numpy(backend.dtn.tensor_interaction(*map(backend.array, tensors), layout="... n h d"))
        expected = reference(*(x.swapaxes(1, 2) for x in tensors), build=tensor_interaction).swapaxes(1, 2)
        assert_close(got, expected)

    def test_without_a_batch(self, backend, rng):
        tensors = list(rng.normal(size=(3, N, 4, D)))
        got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), layout="... n h d"))
        assert_close(got, reference(*(x.swapaxes(0, 1) for x in tensors)).swapaxes(0, 1))

    def test_heads_broadcast(self, backend, rng):
        q, k, v = rng.normal(size=(N, 4, D)), rng.normal(size=(N, 1, D)), rng.normal(size=(N, 1, D))
        got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, (q, k, v)), layout="... n h d"))
        assert_close(got, reference(*(x.swapaxes(0, 1) for x in (q, k, v))).swapaxes(0, 1))

    def test_weights_have_no_heads(self, backend, rng):
        x, w = rng.normal(size=(2, N, 4, D)), rng.normal(size=(D, E))
        run = backend.dtn.compile("f(x[n,d], w[d,e]) -> y[n,e]: y[i,c] = x[i,a]*w[a,c]", layout="... n h d")
        assert_close(backend.numpy(run(backend.array(x), backend.array(w))), x @ w)

    def test_an_unknown_layout_is_refused(self, backend):
        with pytest.raises(ValueError, match="layout='n d' is not one of '... n d', '... n h d'"):
            backend.dtn.compile(tensor_attention(), layout="n d")


class TestBroadcasting:
    @every_variant
    def test_batch_and_heads(self, backend, rng, knobs):
        q, k, v = (0.3 + 0.3 * rng.normal(size=shape) for shape in ((2, 1, N, D), (4, N, D), (1, 1, N, E)))
        k = q + 0.3 * k
        got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, (q, k, v)), **knobs))
        assert got.shape == (2, 4, N, E)
        assert_close(got, reference(q, k, v, **knobs), 1e-8)

    def test_values_may_have_more_axes_than_scores(self, backend, rng):
        q, k, v = rng.normal(size=(N, D)), rng.normal(size=(N, D)), rng.normal(size=(3, 2, N, E))
        assert_close(backend.numpy(backend.dtn.tensor_attention(*map(backend.array, (q, k, v)))), reference(q, k, v))

    def test_scores_may_have_more_axes_than_values(self, backend, rng):
        q, k, v = rng.normal(size=(3, 2, N, D)), rng.normal(size=(3, 2, N, D)), rng.normal(size=(N, E))
        assert_close(backend.numpy(backend.dtn.tensor_attention(*map(backend.array, (q, k, v)))), reference(q, k, v))

    def test_a_batch_of_one_against_an_empty_one(self, backend):
        q, k, v = np.ones((1, N, D)), np.ones((0, N, D)), np.ones((1, N, E))
        assert backend.numpy(backend.dtn.tensor_attention(*map(backend.array, (q, k, v)))).shape == (0, N, E)


class TestScalars:
    @pytest.mark.parametrize("layout", ["... n d", "... n h d"])
    @pytest.mark.parametrize("name", ["scale", "residual", "eps", "decay"])
    def test_one_value_a_head(self, backend, rng, name, layout):
        tensors = list(rng.normal(size=(3, 2, 4, N, D)))  # batch, heads
        values = np.array([0.9, 0.8, 0.7, 0.6])
        mask = {"mask": "causal"} if name == "decay" else {}
        given = [x.swapaxes(1, 2) for x in tensors] if layout == "... n h d" else tensors
        run = backend.dtn.tensor_attention
        got = backend.numpy(run(*map(backend.array, given), **mask, **{name: backend.array(values)}, layout=layout))
        got = got.swapaxes(1, 2) if layout == "... n h d" else got
        for head in range(4):
            assert_close(got[:, head], reference(*(x[:, head] for x in tensors), **mask, **{name: float(values[head])}))

    def test_one_value_a_batch_entry_and_head(self, backend, rng):
        tensors, values = list(rng.normal(size=(3, 2, 4, N, D))), rng.random((2, 4))
        got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), residual=backend.array(values)))
        for entry, head in np.ndindex(2, 4):
            assert_close(got[entry, head], reference(*(x[entry, head] for x in tensors), residual=values[entry, head]))

    def test_one_value_a_head_of_tensors_without_heads(self, backend, rng):
        tensors, values = list(rng.normal(size=(3, N, D))), np.array([0.9, 0.8, 0.7])
        knobs = {"mask": "causal", "decay": backend.array(values)}
        got = backend.numpy(backend.dtn.tensor_attention(*map(backend.array, tensors), chunk_size=2, **knobs))
        for head, value in enumerate(values):
            assert_close(got[head], reference(*tensors, mask="causal", decay=value))

    @pytest.mark.parametrize("value", [1j, np.array(1j)], ids=["number", "tensor"])
    def test_a_complex_value_beside_real_tensors_is_refused(self, backend, rng, value):
        run, x = backend.dtn.compile("f(x[n,d], g) -> y[n,d]: y[i,a] = g * x[i,a]"), rng.normal(size=(N, D))
        given = value if isinstance(value, complex) else backend.array(value)
        with pytest.raises(TypeError, match="f: g is complex and the tensors are real; expected both"):
            run(backend.array(x), g=given)
        assert_close(backend.numpy(run(backend.array(x + 0j), g=given)), 1j * x)

    def test_a_native_number(self, backend, rng):
        tensors = list(rng.normal(size=(3, N, D)))
        got = backend.dtn.tensor_attention(*map(backend.array, tensors), residual=backend.array(np.array(0.5)))
        assert_close(backend.numpy(got), reference(*tensors, residual=0.5))

    def test_a_neutral_value_changes_nothing(self, backend, rng):
        tensors = [backend.array(x) for x in rng.normal(size=(3, N, D))]
        plain = backend.numpy(backend.dtn.tensor_attention(*tensors))
        neutral = backend.numpy(backend.dtn.tensor_attention(*tensors, scale=1, residual=0, eps=0, decay=None))
        assert np.array_equal(plain, neutral)

    def test_a_native_zero_counts_as_a_value(self, backend, rng):
        tensors = list(rng.normal(size=(3, N, D)))
        got = backend.dtn.tensor_attention(*map(backend.array, tensors), eps=backend.array(np.array(0.0)))
        assert_close(backend.numpy(got), reference(*tensors))

    def test_bound_scalars_can_be_given_anew(self, backend, rng):
        tensors = list(rng.normal(size=(3, N, D)))
        run = backend.dtn.compile(tensor_attention(residual=0.5))
        assert_close(
            backend.numpy(run(*map(backend.array, tensors), residual=0.25)), reference(*tensors, residual=0.25)
        )

    def test_a_missing_one_is_refused(self, backend, rng):
        tensors = [backend.array(x) for x in rng.normal(size=(3, N, D))]
        with pytest.raises(TypeError, match="tensor_attention: scalar argument scale is missing"):
            backend.dtn.compile(tensor_attention(scale=PARAMETER))(*tensors)

    @pytest.mark.parametrize("decay", [0.0, -0.1, 1.1])
    def test_a_decay_outside_its_range_is_refused(self, backend, rng, decay):
        tensors = [backend.array(x) for x in rng.normal(size=(3, N, D))]
        with pytest.raises(ValueError, match="decay=.* is outside"):
            backend.dtn.tensor_attention(*tensors, mask="causal", decay=decay)

    @pytest.mark.parametrize("value", [np.float32(0.5), np.array([0.5, 0.5], np.float32)], ids=["number", "array"])
    def test_what_numpy_has(self, backend, rng, value):
        tensors = [backend.array(x) for x in rng.normal(size=(3, 2, N, D))]
        for name, knobs in {"scale": {}, "decay": {"mask": "causal"}}.items():
            found, expected = (backend.dtn.tensor_attention(*tensors, **knobs, **{name: x}) for x in (value, 0.5))
            assert_close(backend.numpy(found), backend.numpy(expected))

    @pytest.mark.parametrize("value", ["0.5", None, [0.5]])
    def test_a_scale_that_is_not_a_number_is_refused(self, backend, rng, value):
        tensors = [backend.array(x) for x in rng.normal(size=(3, N, D))]
        with pytest.raises((TypeError, ValueError), match="scale"):
            backend.dtn.tensor_attention(*tensors, scale=value)

    @pytest.mark.parametrize("name", ["scale", "residual", "eps", "decay"])
    @pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, True, False, np.float32(np.nan)], ids=type)
    def test_a_number_that_is_none_is_refused(self, backend, rng, name, value):
        tensors = [backend.array(x) for x in rng.normal(size=(3, N, D))]
        with pytest.raises(ValueError, match=f"tensor_attention: {name}=.* is not a finite number"):
            backend.dtn.tensor_attention(*tensors, mask="causal", **{name: value})
        run = backend.dtn.compile(tensor_attention(mask="causal", **{name: PARAMETER}))
        with pytest.raises(ValueError, match=f"tensor_attention: {name}=.* is not a finite number"):
            run(*tensors, **{name: value})

    def test_a_negative_eps_is_refused(self, backend, rng):
        tensors = [backend.array(x) for x in rng.normal(size=(3, N, D))]
        run = backend.dtn.compile(tensor_attention(eps=0.1))
        for eps in (-1, -0.5, np.float32(-0.5)):
            with pytest.raises(ValueError, match="tensor_attention: eps=-.* is negative"):
                backend.dtn.tensor_attention(*tensors, eps=eps)
            with pytest.raises(ValueError, match="tensor_attention: eps=-.* is negative"):
                run(*tensors, eps=eps)

    def test_a_large_integer(self, backend, rng):
        """More than fits into the integers of a framework, and then into its floating numbers."""
        run, x = backend.dtn.compile("f(x[n,d], g) -> y[n,d]: y[i,a] = g * x[i,a]"), rng.normal(size=(N, D))
        assert_close(backend.numpy(run(backend.array(x), g=10**30)), 1e30 * x)
        with pytest.raises(ValueError, match="f: g is an integer beyond the largest float"):
            run(backend.array(x), g=10**400)

    def test_the_dtype_of_a_scalar_does_not_widen_the_result(self, backend, rng):
        tensors = [backend.array(x, "float32") for x in rng.normal(size=(3, 2, N, D))]
        result = backend.dtn.tensor_attention(*tensors, scale=backend.array(np.array([0.5, 0.7])))
        assert backend.dtype(result) == "float32"


class TestKnobsThatAreEqual:
    """``True``, ``1``, ``1.0`` and ``np.int64(1)`` are one key of a dict."""

    @pytest.mark.parametrize("order", [True, 1.0, np.True_, np.float32(1), [1]], ids=repr)
    def test_an_order_is_refused_whatever_was_compiled_before(self, backend, rng, order):
        tensors = [backend.array(x) for x in rng.normal(size=(3, N, D))]
        backend.dtn.tensor_attention(*tensors, order=1)
        with pytest.raises(ValueError, match="tensor_attention: order=.* is not an integer >= 1"):
            backend.dtn.tensor_attention(*tensors, order=order)

    @pytest.mark.parametrize("value", [1, 1.0, np.True_, [True]], ids=repr)
    def test_so_is_a_truth_value(self, backend, rng, value):
        tensors = [backend.array(x) for x in rng.normal(size=(3, N, D))]
        backend.dtn.tensor_attention(*tensors, asymmetric=True)
        with pytest.raises(ValueError, match="tensor_attention: asymmetric=.* is not a bool"):
            backend.dtn.tensor_attention(*tensors, asymmetric=value)

    @pytest.mark.parametrize("knob", ["side", "mask", "layout", "implementation"])
    def test_what_is_no_key_at_all_is_named(self, backend, rng, knob):
        tensors = [backend.array(x) for x in rng.normal(size=(3, N, D))]
        with pytest.raises(ValueError, match=rf"{knob}=\['q'\]"):
            backend.dtn.tensor_attention(*tensors, **{knob: ["q"]})

    def test_an_integer_of_numpy_is_an_order(self, backend, rng):
        tensors = [backend.array(x) for x in rng.normal(size=(3, N, D))]
        run = backend.dtn.tensor_attention
        found, expected = (backend.numpy(run(*tensors, order=order)) for order in (np.int64(3), 3))
        assert np.array_equal(found, expected)


class TestDtypes:
    @pytest.mark.parametrize("dtype", [*frameworks.HALVES, *frameworks.FULL, *frameworks.COMPLEX])
    @every_variant
    def test_the_result_has_the_dtype_of_the_tensors(self, backend, rng, dtype, knobs):
        if dtype in frameworks.COMPLEX and knobs.get("activation") == "relu":
            pytest.skip("relu is not defined for complex numbers")
        tensors = [backend.array(x, dtype) for x in rng.random((3, N, D))]
        assert backend.dtype(backend.dtn.tensor_attention(*tensors, **knobs)) == dtype

    PAIRS = (("float32", "float64"), ("float16", "float32"), ("bfloat16", "float32"), ("float32", "complex64"), ("float64", "complex64"), ("float16", "bfloat16"))  # fmt: skip

    @pytest.mark.parametrize(("first", "second"), PAIRS)
    def test_mixed_ones_are_promoted_as_the_framework_promotes(self, backend, rng, first, second):
        if not backend.promotes:
            pytest.skip(f"{backend.name} does not promote")
        if backend.name == "numpy" and (first, second) == ("float16", "bfloat16"):
            pytest.skip("NumPy has no common dtype of these")
        q, k, v = rng.random((3, N, D))
        natives = [backend.array(q, first), backend.array(k, first), backend.array(v, second)]
        expected = backend.dtype(natives[0] * natives[2])
        result = backend.dtn.tensor_attention(*natives)
        assert backend.dtype(result) == expected
        assert np.allclose(backend.numpy(result), reference(q, k, v), rtol=2e-2)

    @pytest.mark.parametrize(("first", "second"), PAIRS)
    def test_mixed_ones_are_a_type_error_where_the_framework_does_not_promote(self, backend, rng, first, second):
        if backend.promotes:
            pytest.skip(f"{backend.name} promotes")
        q, k, v = rng.random((3, N, D))
        with pytest.raises(TypeError, match=f"q has dtype {first} and v {second}"):
            backend.dtn.tensor_attention(backend.array(q, first), backend.array(k, first), backend.array(v, second))

    @pytest.mark.parametrize("dtype", ["int32", "int64", "bool", "uint8"])
    def test_integers_are_refused(self, backend, dtype):
        ones, whole = backend.array(np.ones((N, D))), backend.array(np.ones((N, D), dtype))
        with pytest.raises(TypeError, match=f"tensor_attention: k has dtype .*{dtype}; expected floating or complex"):
            backend.dtn.tensor_attention(ones, whole, ones)

    @pytest.mark.parametrize(
        ("value", "kind"), [(None, "NoneType"), (object(), "object"), ([[1.0], [1.0, 2.0]], "list")]
    )
    def test_what_is_no_tensor_is_refused_by_name(self, backend, value, kind):
        if backend.name == "numpy":
            pytest.skip("NumPy makes an array of anything")
        ones = backend.array(np.ones((N, D)))
        with pytest.raises(TypeError, match=f"tensor_attention: k (is a {kind}, expected|has dtype object)"):
            backend.dtn.tensor_attention(ones, value, ones)

    @pytest.mark.parametrize(
        "knobs",
        [{}, {"normalize": "row"}, {"normalize": "diag"}, {"order": 1}, {"order": 3, "normalize": None}],
        ids=str,
    )
    @pytest.mark.parametrize("dtype", frameworks.HALVES)
    def test_halves_err_at_most_four_times_as_much_as_a_dense_einsum(self, backend, rng, dtype, knobs):
        if backend.name == "numpy" and dtype == "bfloat16":
            pytest.skip("NumPy's einsum has no bfloat16")
        natives = [backend.array(0.1 + 0.2 * rng.random((32, 8)), dtype) for _ in range(3)]
        q, k, v = natives
        order, normalize = knobs.get("order", 2), knobs.get("normalize", "trace")
        scores = backend.einsum("ia,ja->ij", q, k)
        t = scores
        for place in range(1, order):
            t = backend.einsum("il,jl->ij" if place % 2 else "il,lj->ij", t, scores)
        if normalize == "trace":
            dense = backend.einsum("ij,jc->ic", t, v) / backend.einsum("ii->", t)
        elif normalize == "row":
            dense = backend.einsum("ij,jc->ic", t, v) / backend.einsum("ij->i", t)[:, None]
        elif normalize == "diag":
            dense = backend.einsum("ij,jc->ic", t, v) / backend.einsum("ii->i", t)[:, None]
        else:
            dense = backend.einsum("ij,jc->ic", t, v)
        exact = reference(*(backend.numpy(x).astype(np.float64) for x in natives), **knobs)
        theirs = np.max(np.abs(backend.numpy(dense) - exact))
        ours = np.max(np.abs(backend.numpy(backend.dtn.tensor_attention(*natives, **knobs)) - exact))
        assert np.isfinite(theirs)
        assert ours <= 4 * theirs

    @pytest.mark.parametrize("dtype", frameworks.HALVES)
    def test_halves_are_summed_in_single_precision(self, backend, dtype):
        # 4096 ones: a sum in bfloat16 stops at 256, in float16 at 2048
        ones = backend.array(np.ones((4096, 1)), dtype)
        got = backend.numpy(backend.dtn.tensor_attention(ones, ones, ones, order=1, normalize="row"))
        assert np.array_equal(got, np.ones((4096, 1)))

    def test_a_state_beyond_the_range_of_float16_does_not_overflow(self, backend):
        big = backend.array(np.full((8, 4), 60.0), "float16")  # the trace is about 1e10
        got = backend.numpy(backend.dtn.tensor_attention(big, big, big))
        assert np.allclose(got, 60.0, rtol=1e-3)

    def test_small_scores_in_float16_do_not_vanish(self, backend):
        small = backend.array(np.full((8, 4), 1e-3), "float16")  # the trace is about 1e-10
        got = backend.numpy(backend.dtn.tensor_attention(small, small, backend.array(np.ones((8, 4)), "float16")))
        assert np.allclose(got, 1.0, rtol=1e-3)


class TestViews:
    """Tensors that are not contiguous, or share memory."""

    @every_variant
    def test_transposed(self, backend, rng, knobs):
        if not backend.strided:
            pytest.skip(f"{backend.name} has no strides")
        tensors = [0.3 + 0.3 * rng.normal(size=(width, N)) for width in (D, D, E)]
        tensors[1] = tensors[0] + 0.3 * tensors[1]
        got = backend.numpy(backend.dtn.tensor_attention(*(backend.array(x).T for x in tensors), **knobs))
        assert_close(got, reference(*(x.T for x in tensors), **knobs), 1e-8)

    @every_variant
    def test_every_other_element(self, backend, rng, knobs):
        if not backend.strided:
            pytest.skip(f"{backend.name} has no strides")
        tensors = [0.3 + 0.3 * rng.normal(size=(2 * N, 2 * width)) for width in (D, D, E)]
        tensors[1] = tensors[0] + 0.3 * tensors[1]
        got = backend.numpy(backend.dtn.tensor_attention(*(backend.array(x)[::2, ::2] for x in tensors), **knobs))
        assert_close(got, reference(*(x[::2, ::2] for x in tensors), **knobs), 1e-8)

    @every_variant
    def test_expanded(self, backend, rng, knobs):
        q, v = 0.3 + 0.3 * rng.normal(size=(1, N, D)), rng.normal(size=(1, N, E))
        grow = {"numpy": np.broadcast_to, "torch": lambda x, shape: x.expand(shape)}.get(backend.name)
        if grow is None:
            pytest.skip(f"{backend.name} has no strides")
        q_, v_ = grow(backend.array(q), (3, N, D)), grow(backend.array(v), (3, N, E))
        got = backend.numpy(backend.dtn.tensor_attention(q_, q_, v_, **knobs))
        assert_close(got, np.broadcast_to(reference(q, q, v, **knobs), (3, N, E)), 1e-8)

    def test_the_same_tensor_three_times(self, backend, rng):
        x = rng.normal(size=(N, D))
        native = backend.array(x)
        assert_close(backend.numpy(backend.dtn.tensor_attention(native, native, native)), reference(x, x, x))


class TestRefusals:
    def ones(self, backend, *shapes):
        return [backend.array(np.ones(shape)) for shape in shapes]

    @pytest.mark.parametrize(
        ("shapes", "message"),
        [
            (((5, 3), (5, 4), (5, 2)), r"axis d has size 3 in q \(shape \(5, 3\)\) but 4 in k \(shape \(5, 4\)\)"),
            (((5, 3), (6, 3), (5, 2)), r"axis n has size 5 in q \(shape \(5, 3\)\) but 6 in k \(shape \(6, 3\)\)"),
            (((5, 3), (5, 3), (7, 2)), r"axis n has size 5 in q \(shape \(5, 3\)\) but 7 in v \(shape \(7, 2\)\)"),
            (((2, 5, 3), (3, 5, 3), (5, 2)), r"leading axis -1 has size 2 in q \(shape \(2, 5, 3\)\) but 3 in k"),
            (((2, 4, 5, 3), (3, 1, 5, 3), (5, 2)), r"leading axis -2 has size 2 in q .* but 3 in k"),
            (((5,), (5, 3), (5, 2)), r"q needs axes \[..., n, d\], got shape \(5,\)"),
            (((5, 3), (5, 3), ()), r"v needs axes \[..., n, e\], got shape \(\)"),
            (((5, 3), (1, 3), (5, 2)), r"axis n has size 5 in q .* but 1 in k"),
        ],
    )
    def test_a_wrong_shape_names_the_axis_and_both_sizes(self, backend, shapes, message):
        with pytest.raises(ShapeError, match=f"tensor_attention: {message}"):
            backend.dtn.tensor_attention(*self.ones(backend, *shapes))

    def test_a_wrong_shape_is_a_value_error(self, backend):
        with pytest.raises(ValueError, match="axis d has size 3 in q"):
            backend.dtn.tensor_attention(*self.ones(backend, (5, 3), (5, 4), (5, 2)))

    def test_tensor_interaction_wants_values_as_wide_as_queries(self, backend):
        with pytest.raises(ShapeError, match="tensor_interaction: axis d has size 3 in q .* but 2 in v"):
            backend.dtn.tensor_interaction(*self.ones(backend, (5, 3), (5, 3), (5, 2)))

    def test_too_few_axes_for_heads(self, backend):
        with pytest.raises(ShapeError, match=r"q needs axes \[..., n, h, d\], got shape \(5, 3\)"):
            backend.dtn.tensor_attention(*self.ones(backend, (5, 3), (5, 3), (5, 2)), layout="... n h d")

    def test_a_wrong_shape_after_a_right_one(self, backend):
        backend.dtn.tensor_attention(*self.ones(backend, (5, 3), (5, 3), (5, 2)))
        with pytest.raises(ShapeError, match="axis d has size 3"):
            backend.dtn.tensor_attention(*self.ones(backend, (5, 3), (5, 4), (5, 2)))

    def test_a_scalar_that_does_not_broadcast_against_the_leading_axes(self, backend):
        tensors = self.ones(backend, (2, 5, 3), (2, 5, 3), (2, 5, 2))
        with pytest.raises(ValueError, match="scale"):
            backend.dtn.tensor_attention(*tensors, scale=backend.array(np.ones(3)))

    def test_a_missing_tensor(self, backend):
        with pytest.raises(TypeError, match="tensor argument v is missing"):
            backend.dtn.compile(tensor_attention())(*self.ones(backend, (5, 3), (5, 3)))

    def test_a_tensor_too_many(self, backend):
        with pytest.raises(TypeError, match="takes 3 tensors"):
            backend.dtn.compile(tensor_attention())(*self.ones(backend, (5, 3), (5, 3), (5, 2), (5, 2)))

    def test_an_unexpected_name(self, backend):
        with pytest.raises(TypeError, match="unexpected argument 'scal'; known: q, k, v"):
            backend.dtn.compile(tensor_attention())(*self.ones(backend, (5, 3), (5, 3), (5, 2)), scal=2.0)

    def test_an_argument_twice(self, backend):
        (q, k, v) = self.ones(backend, (5, 3), (5, 3), (5, 2))
        with pytest.raises(TypeError, match="q is given twice, by its place and by name"):
            backend.dtn.compile(tensor_attention())(q, k, v, q=q)

    @pytest.mark.parametrize("implementation", ["cuda", "", "Native", 3])
    def test_an_unknown_implementation(self, backend, implementation):
        with pytest.raises(
            ValueError, match="implementation=.* cannot run tensor_attention in .*; available: None, 'native'"
        ):
            backend.dtn.tensor_attention(*self.ones(backend, (5, 3), (5, 3), (5, 2)), implementation=implementation)

    def test_the_native_implementation_can_be_asked_for(self, backend):
        tensors = self.ones(backend, (5, 3), (5, 3), (5, 2))
        assert backend.numpy(backend.dtn.tensor_attention(*tensors, implementation="native")).shape == (5, 2)

    def test_knobs_that_clash(self, backend):
        with pytest.raises(ValueError, match="product='hadamard' clashes with order=3"):
            backend.dtn.tensor_attention(*self.ones(backend, (5, 3), (5, 3), (5, 2)), product="hadamard", order=3)

    def test_an_eps_without_a_denominator(self, backend):
        with pytest.raises(ValueError, match="eps clashes with normalize=None"):
            backend.dtn.tensor_attention(*self.ones(backend, (5, 3), (5, 3), (5, 2)), normalize=None, eps=1e-6)

    def test_notation_that_does_not_parse(self, backend):
        with pytest.raises(NotationError, match="f, line 1, column 25: unknown tensor z"):
            backend.dtn.compile("f(x[n]) -> y[n]: y[i] = z[i]")

    @pytest.mark.parametrize("definition", [3, None, ["f"], b"f(x[n]) -> y[n]: y[i] = x[i]"])
    def test_something_that_is_not_an_operator(self, backend, definition):
        with pytest.raises(TypeError, match="expected index notation, a Program or an Operator"):
            backend.dtn.compile(definition)


class TestCompile:
    TEXT = "f(x[n]) -> y[n]: y[i] = 2 * x[i]"

    def test_the_same_text_is_compiled_once(self, backend):
        assert backend.dtn.compile(self.TEXT) is backend.dtn.compile(self.TEXT)

    def test_the_same_operator_is_compiled_once(self, backend):
        assert backend.dtn.compile(tensor_attention(scale=0.5)) is backend.dtn.compile(tensor_attention(scale=0.5))

    def test_another_scalar_is_another_function(self, backend):
        assert backend.dtn.compile(tensor_attention(scale=0.5)) is not backend.dtn.compile(tensor_attention(scale=0.25))

    def test_another_layout_is_another_function(self, backend):
        text = "f(x[n,d]) -> y[n,d]: y[i,a] = 2 * x[i,a]"
        assert backend.dtn.compile(text) is not backend.dtn.compile(text, layout="... n h d")

    def test_it_is_named_after_its_operator_and_shows_its_notation(self, backend):
        compiled = backend.dtn.compile(self.TEXT)
        assert compiled.__name__ == "f"
        assert "y[i] = 2 * x[i]" in compiled.__doc__
        assert repr(compiled) == f"<f(x[n]) -> y[n], compiled for {compiled.target.framework}>"

    def test_it_shows_a_layout_that_is_not_the_usual_one(self, backend):
        shown = repr(backend.dtn.compile("f(x[n,d]) -> y[n,d]: y[i,a] = 2 * x[i,a]", layout="... n h d"))
        assert shown.endswith(", layout '... n h d'>")

    def test_its_source_computes_the_same(self, backend, rng):
        compiled = backend.dtn.compile(tensor_attention())
        tensors = [backend.array(x) for x in rng.normal(size=(3, N, D))]
        namespace = {}
        exec(compile(compiled.source, "source", "exec"), namespace)  # noqa: S102 - the library's own text
        got = backend.numpy(namespace["tensor_attention"](*tensors))
        assert_close(got, backend.numpy(compiled(*tensors)), 1e-12)

    def test_its_explanation_is_for_the_sizes_of_the_tensors(self, backend, rng):
        compiled = backend.dtn.compile(tensor_attention())
        tensors = [backend.array(rng.normal(size=(2, 7, width)), "float32") for width in (D, D, E)]
        explanation = compiled.explain(*tensors)
        assert explanation.sizes == {"n": 7, "d": D, "e": E}
        assert explanation.dtype == "float32"
        assert explanation.backend == backend.name
        with pytest.raises(TypeError, match="tensor argument k is missing"):
            compiled.explain(tensors[0])

    def test_a_list_of_numbers_is_an_array_where_the_framework_takes_it_for_one(self, backend):
        run = backend.dtn.compile(self.TEXT)
        if backend.name == "torch":
            with pytest.raises(TypeError, match="f: x is a list, expected a torch.Tensor"):
                run([1.0, 2.0])
        else:
            assert backend.numpy(run([1.0, 2.0])).tolist() == [2, 4]
