"""`implementation="tvm"` in PyTorch: registered operators, compilation, derivatives, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("tvm.tirx", reason="Apache TVM is not installed")  # this folder is called tvm as well
torch = pytest.importorskip("torch")

import dtn_torch as dtn  # noqa: E402
from dtn_core.operators import catalogue, tensor_attention  # noqa: E402
from dtn_torch import kernels as torch_kernels  # noqa: E402
from dtn_torch.kernels import kernel, kernel_gradient  # noqa: E402
from dtn_tvm import kernels, records  # noqa: E402
from dtn_tvm.candidates import record_of  # noqa: E402
from dtn_tvm.implementation import IMPLEMENTATION  # noqa: E402
from dtn_tvm.record import Receipt  # noqa: E402
from dtn_tvm.targets import target  # noqa: E402

CAUSAL = {"mask": "causal", "normalize": None}


def tensors(*shape, dtype=torch.float32, count=3, grad=False):
    generator = torch.Generator().manual_seed(0)
    made = [(torch.rand(shape, generator=generator) + 0.1).div(shape[-1] ** 0.5).to(dtype) for _ in range(count)]
    return [x.requires_grad_(grad) for x in made]


def close(found, wanted, tolerance=1e-5):
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    error = (found.double() - wanted.double()).abs().max()
    assert error <= tolerance * wanted.double().abs().max()


def gradients(function, given):
    result = function(*given)
    return torch.autograd.grad(result.square().sum(), given)


KNOBS = [CAUSAL, {"mask": "causal", "decay": 0.9}, {}, {"mask": "tril"}]
"""The last one has no kernel of its gradient: native."""


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_values_and_gradients_are_those_of_generated_source(knobs):
    given = tensors(2, 3, 70, 16, grad=True)

    def run(implementation):
        return lambda q, k, v: dtn.tensor_attention(q, k, v, implementation=implementation, **knobs)

    close(run("tvm")(*given), run("native")(*given))
    for found, wanted in zip(gradients(run("tvm"), given), gradients(run("native"), given), strict=True):
        close(found, wanted, 1e-4)


@pytest.mark.parametrize("knobs", KNOBS[1:], ids=str)
def test_compiled_without_a_break(knobs):
    given = tensors(2, 3, 70, 16, grad=True)

    def run(q, k, v):
        return dtn.tensor_attention(q, k, v, implementation="tvm", **knobs)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    close(compiled(*given), run(*given))
    for found, wanted in zip(gradients(compiled, given), gradients(run, given), strict=True):
        close(found, wanted, 1e-4)


def test_compiled_for_any_number_of_tokens():
    compiled = torch.compile(
        lambda q, k, v: dtn.tensor_attention(q, k, v, implementation="tvm", **CAUSAL),
        fullgraph=True, dynamic=True, backend="aot_eager",
    )  # fmt: skip
    for n in (70, 33, 5):
        given = tensors(1, 2, n, 16)
        close(compiled(*given), dtn.tensor_attention(*given, **CAUSAL))


def test_mapped_over_any_axis_of_some_tensors():
    (q,), (k,), (v,) = tensors(2, 3, 9, 4, count=1), tensors(2, 9, 4, count=1), tensors(3, 2, 9, 4, count=1)

    def attend(q, k, v):
        return dtn.tensor_attention(q, k, v, implementation="tvm", **CAUSAL)

    found = torch.func.vmap(attend, in_dims=(1, None, 0))(q, k, v)
    close(found, torch.stack([attend(q[:, i], k, v[i]) for i in range(3)]))


FUNC = torch.func
TRANSFORMS = {
    "grad": lambda f: FUNC.grad(lambda q: f(q).square().sum()),
    "vjp": lambda f: lambda q: FUNC.vjp(f, q)[1](q)[0],
    "jacrev": FUNC.jacrev,
    "jacrev in pieces": lambda f: FUNC.jacrev(f, chunk_size=1),
    "hessian": lambda f: FUNC.hessian(lambda q: f(q).square().sum()),
    "grad of grad": lambda f: FUNC.grad(lambda q: FUNC.grad(lambda q: f(q).square().sum())(q).square().sum()),
    "grad of jvp": lambda f: FUNC.grad(lambda q: FUNC.jvp(f, (q,), (q,))[1].square().sum()),
    "map of grad": lambda f: lambda q: FUNC.vmap(FUNC.grad(lambda q: f(q).square().sum()))(torch.stack([q, 2 * q])),
    "grad of map": lambda f: FUNC.grad(lambda q: FUNC.vmap(f)(torch.stack([q, 2 * q])).square().sum()),
}


@pytest.mark.parametrize("knobs", [CAUSAL, {"mask": "tril"}], ids=str)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_transforms_nest_around_a_kernel(transform, knobs):
    q, k, v = tensors(1, 2, 9, 4)

    def run(implementation):
        return transform(lambda q: dtn.tensor_attention(q, k, v, implementation=implementation, **knobs))(q)

    close(run("tvm"), run("native"), 1e-4)


@pytest.mark.parametrize("name", ["grad", "map of grad", "grad of map"])
def test_transforms_in_a_graph(name):
    q, k, v = tensors(1, 2, 9, 4)

    def run(implementation):
        return TRANSFORMS[name](lambda q: dtn.tensor_attention(q, k, v, implementation=implementation, **CAUSAL))

    close(torch.compile(run("tvm"), fullgraph=True, backend="aot_eager")(q), run("native")(q), 1e-4)


def test_the_transformed_gradient_by_a_decay():
    given, decay = tensors(1, 2, 9, 4), torch.tensor([0.9, 0.8])

    def run(implementation):
        knobs = {"implementation": implementation, **CAUSAL}
        return torch.func.grad(lambda d: dtn.tensor_attention(*given, decay=d, **knobs).square().sum())(decay)

    close(run("tvm"), run("native"), 1e-4)


def test_the_transformed_gradient_by_states():
    given, keep = tensors(1, 2, 9, 4), torch.arange(9) % 3 > 0
    first = tensors(1, 2, 4, 4, count=2)

    def run(implementation):
        function = dtn.compile(tensor_attention(**CAUSAL), implementation=implementation)

        def loss(*states):
            result, last = function(*given, initial_state=states, padding_mask=keep, return_state=True)
            return sum(x.square().sum() for x in (result, *last))

        return torch.func.grad(loss, argnums=(0, 1))(*first)

    for found, wanted in zip(run("tvm"), run("native"), strict=True):
        close(found, wanted, 1e-4)


@pytest.mark.parametrize("by_decay", [False, True])
def test_many_cotangents_at_once_of_a_recorded_call(by_decay):
    given, cotangents = tensors(1, 2, 9, 4, grad=True), tensors(3, 1, 2, 9, 4, count=1)[0]
    decay = torch.tensor([0.9, 0.8], requires_grad=by_decay)
    leaves = [*given, decay] if by_decay else given

    def run(implementation):
        result = dtn.tensor_attention(*given, decay=decay, implementation=implementation, **CAUSAL)
        pull = lambda c, **options: torch.autograd.grad(result, leaves, c, retain_graph=True, **options)  # noqa: E731
        return *torch.func.vmap(pull)(cotangents), *pull(cotangents, is_grads_batched=True)

    for found, wanted in zip(run("tvm"), run("native"), strict=True):
        close(found, wanted, 1e-4)


def test_the_first_call_of_all_may_be_a_compiled_one():
    text = "first_of_all(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = 0.5 * q[t,a] * k[i,a] * v[i,c] where i <= t"
    compiled = torch.compile(dtn.compile(text, implementation="tvm"), fullgraph=True, backend="aot_eager")
    given = tensors(1, 2, 9, 16)
    found = compiled(*given)
    close(found, dtn.compile(text)(*given))


def test_states_and_a_mask_compiled_without_a_break():
    function = dtn.compile(tensor_attention(mask="causal"), implementation="tvm")
    given, mask = tensors(2, 3, 20, 8, grad=True), torch.arange(20) % 3 > 0
    first = tuple(torch.rand(2, 3, *(8,) * rank, requires_grad=True) for rank in (2, 0, 2))

    def run(q, k, v, *states):
        return function(q, k, v, initial_state=states, padding_mask=mask, return_state=True)

    def loss(found):
        return sum(x.square().sum() for x in (found[0], *found[1]))

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    found, wanted = compiled(*given, *first), run(*given, *first)
    assert type(found[1]) is type(wanted[1])
    for one, other in zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True):
        close(one, other)
    leaves = (*given, *first)
    pairs = zip(torch.autograd.grad(loss(found), leaves), torch.autograd.grad(loss(wanted), leaves), strict=True)
    for one, other in pairs:
        close(one, other, 1e-4)


def test_second_derivatives_by_a_state():
    given = tensors(1, 2, 9, 4, grad=True)
    first = tuple(torch.rand(1, 2, 4, 4, requires_grad=True) for _ in range(2))

    def second(implementation):
        function = dtn.compile(tensor_attention(**CAUSAL), implementation=implementation)
        result, last = function(*given, initial_state=first, return_state=True)
        loss = result.square().sum() + last[1].square().sum()
        found = torch.autograd.grad(loss, (*given, *first), create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in found), first)

    for found, wanted in zip(second("tvm"), second("native"), strict=True):
        close(found, wanted, 1e-4)


def test_whoever_looks_at_a_call_sees_the_registered_operator():
    function = dtn.compile(tensor_attention(**CAUSAL), implementation="tvm")
    given = tensors(1, 2, 9, 4)
    function(*given)  # with nobody looking the kernel is called as it stands
    graph = torch.fx.experimental.proxy_tensor.make_fx(function)(*given).graph
    assert "dtn.kernel.default" in [str(node.target) for node in graph.nodes]


def test_packed_sequences_are_one_operation_of_a_graph():
    given, starts = tensors(9, 4, grad=True), torch.tensor([0, 4, 4, 9])
    run = lambda *x: dtn.tensor_attention(*x, implementation="tvm", cu_seqlens=starts, **CAUSAL)  # noqa: E731
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    close(compiled(*given), run(*given), 1e-5)
    slopes = (torch.autograd.grad(f(*given).square().sum(), given) for f in (compiled, run))
    for found, wanted in zip(*slopes, strict=True):
        close(found, wanted, 1e-4)


def test_the_registered_operators_pass_opcheck():
    function = dtn.compile(tensor_attention(mask="causal", normalize=None), implementation="tvm")
    name = function._entry
    given = tensors(1, 2, 5, 4, grad=True)
    torch.library.opcheck(kernel, (given, name))
    torch.library.opcheck(kernel_gradient, (given, tensors(1, 2, 5, 4, count=1, grad=True), name))


def test_second_derivatives():
    given = tensors(1, 2, 20, 4, grad=True)

    def second(implementation):
        result = dtn.tensor_attention(*given, implementation=implementation, **CAUSAL)
        first = torch.autograd.grad(result.square().sum(), given, create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), given)

    for found, wanted in zip(second("tvm"), second("native"), strict=True):
        close(found, wanted, 1e-4)


def test_forward_mode_is_native():
    q, k, v, tangent = tensors(1, 2, 40, 16, count=4)

    def run(implementation):
        return lambda q: dtn.tensor_attention(q, k, v, implementation=implementation, **CAUSAL)

    for found, wanted in zip(*(torch.func.jvp(run(i), (q,), (tangent,)) for i in ("tvm", "native")), strict=True):
        close(found, wanted)
    with torch.autograd.forward_ad.dual_level():
        moved = run("tvm")(torch.autograd.forward_ad.make_dual(q, tangent))
        close(torch.autograd.forward_ad.unpack_dual(moved).tangent, wanted)


def test_the_gradient_by_a_decay_is_native():
    given = tensors(1, 2, 20, 4)
    decay = torch.tensor([0.9, 0.8], requires_grad=True)

    def by_decay(implementation):
        result = dtn.tensor_attention(*given, decay=decay, implementation=implementation, **CAUSAL)
        return torch.autograd.grad(result.square().sum(), decay)[0]

    close(by_decay("tvm"), by_decay("native"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(dtype):
    given = tensors(2, 70, 16, dtype=dtype, grad=True)
    tolerance = 4 * torch.finfo(dtype).eps
    wide = [x.detach().float().requires_grad_() for x in given]

    def run(implementation):
        return lambda q, k, v: dtn.tensor_attention(q, k, v, implementation=implementation, **CAUSAL)

    close(run("tvm")(*given), run("native")(*wide).to(dtype), tolerance)
    for found, wanted in zip(gradients(run("tvm"), given), gradients(run("native"), wide), strict=True):
        close(found, wanted.to(dtype), 4 * tolerance)


def test_a_card_is_named_as_cuda_names_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the card of {device}")
    on_a_card = SimpleNamespace(is_cpu=False, is_cuda=True, device="cuda:1")
    assert torch_kernels._device(on_a_card) == "the card of cuda:1"


def test_inputs_are_read_wherever_they_are():
    q, k, v = tensors(3, 70, 2, 16)
    given = (q.transpose(1, 2), k[:1].transpose(1, 2), v.flip(-1)[:, :, 0].unsqueeze(1))
    assert not any(x.is_contiguous() for x in given[:2])
    close(dtn.tensor_attention(*given, implementation="tvm"), dtn.tensor_attention(*given))


def test_tensors_that_are_negated_as_they_are_read():
    """``x.conj().imag`` is contiguous for some ``x``, and its memory holds the other sign."""
    given, (cotangent,) = tensors(1, 2, 20, 4), tensors(1, 2, 20, 4, count=1)

    def negated(x):
        view = torch._neg_view(-x)
        assert view.is_neg()
        assert view.is_contiguous()
        return view

    def value_and_gradients(implementation, tensors, cotangent):
        leaves = [x.detach().requires_grad_() for x in tensors]
        result = dtn.tensor_attention(*leaves, implementation=implementation, **CAUSAL)
        return result, *torch.autograd.grad(result, leaves, cotangent)

    found = value_and_gradients("tvm", map(negated, given), negated(cotangent))
    for one, other in zip(found, value_and_gradients("native", given, cotangent), strict=True):
        close(one, other, 1e-4)
    with torch.no_grad():
        close(dtn.tensor_attention(*map(negated, given), implementation="tvm", **CAUSAL), found[0])


def test_heads_between_tokens_and_features():
    given = tensors(2, 70, 3, 16)
    close(
        dtn.tensor_attention(*given, layout="... n h d", implementation="tvm", **CAUSAL),
        dtn.tensor_attention(*given, layout="... n h d", **CAUSAL),
    )


@pytest.mark.parametrize("shape", [(0, 3, 8, 4), (2, 3, 0, 4), (8, 4)])
def test_nothing_and_no_leading_axes(shape):
    given = tensors(*shape)
    found = dtn.tensor_attention(*given, implementation="tvm", **CAUSAL)
    assert found.shape == shape
    if found.numel():
        close(found, dtn.tensor_attention(*given, **CAUSAL))


def test_a_user_s_operator_with_several_outputs():
    function = """pair(x[n,d], y[n,e]) -> u[n,e], m[d,e]:
        u[t,c] = x[t,a] * x[i,a] * y[i,c]   where i <= t
        m[a,c] = x[i,a] * y[i,c]"""
    sums = "sums(x[n,d], y[n,e]) -> u[n,e], m[d,e]:\n    m[a,c] = x[i,a] * y[i,c]\n    u[t,c] = x[t,a] * m[a,c]"
    given = tensors(2, 20, 4, count=2)
    for text in (function, sums):
        results = (dtn.compile(text, implementation=way)(*given) for way in ("tvm", "native"))
        for found, wanted in zip(*results, strict=True):
            close(found, wanted)


class TestRefusals:
    """ValueErrors that say why, and what to do."""

    function = dtn.compile(tensor_attention(mask="causal", normalize=None), implementation="tvm")

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"padding_mask": torch.ones(7, dtype=torch.bool)}, ValueError, "axis n has size 8 in q .* but 7"),
            ({"initial_state": (torch.ones(4, 4),)}, TypeError, "initial_state is a tuple of 1, expected 2 tensors"),
            ({"initial_state": (torch.ones(4, 4), torch.ones(4, 3))}, ValueError, r"has shape \(4, 3\)"),
            ({"chunk_size": 0}, ValueError, "chunk_size=0 is not an integer >= 1"),
            ({"chunk_size": 18}, ValueError, "with chunk_size=18: chunk=18 is not a multiple"),
            (
                {"cu_seqlens": [0, 8], "padding_mask": torch.ones(8, dtype=torch.bool)},
                ValueError,
                "cu_seqlens clashes with padding_mask",
            ),
        ],
    )
    def test_options(self, options, error, message):
        with pytest.raises(error, match=message):
            self.function(*tensors(8, 4), **options)

    @pytest.mark.parametrize(
        ("dtype", "message"),
        [(torch.float64, "in float64; kernels take float32"), (torch.complex64, "complex tensors")],
    )
    def test_dtypes(self, dtype, message):
        with pytest.raises(ValueError, match=message):
            self.function(*(x.to(dtype) for x in tensors(8, 4)))

    def test_two_dtypes(self):
        q, k, v = tensors(8, 4)
        with pytest.raises(ValueError, match="tensors of float32 and float16"):
            self.function(q, k, v.half())

    def test_an_operator_without_a_kernel(self):
        with pytest.raises(ValueError, match="implementation='tvm' cannot run tensor_attention: .*two axes n"):
            dtn.tensor_attention(*tensors(8, 4), activation="expm", mask="causal", implementation="tvm")

    def test_a_chunk_of_tokens_that_are_taken_one_at_a_time(self):
        function = dtn.compile(catalogue["two_simplicial"].build(), implementation="tvm")
        with pytest.raises(ValueError, match="with chunk_size=32: it takes its tokens one at a time"):
            function(*tensors(8, 4, count=5), chunk_size=32)


def test_explain_says_that_tokens_come_one_at_a_time():
    function = dtn.compile(catalogue["two_simplicial"].build(), implementation="tvm")
    form = function.explain(*tensors(1, 8, 64, 16, count=5)).form
    assert "forward a token at a time, " in form
    assert "backward a token at a time, " in form


def test_explain_says_why_the_gradient_is_native():
    function = dtn.compile(tensor_attention(product="hadamard"), implementation="tvm")
    assert "the gradient is native: " in function.explain(*tensors(1, 8, 5000, 16)).form


def test_explain_says_that_matrices_are_gone_through_by_rows():
    function = dtn.compile(tensor_attention(activation="relu"), implementation="tvm")
    form = function.explain(*tensors(1, 8, 64, 16)).form
    assert "forward by rows of n×n matrices, " in form
    assert "backward by rows of n×n matrices, " in form


@pytest.mark.parametrize(
    ("operator", "fits", "reason"),
    [
        (catalogue["two_simplicial"].build(), 64, "registers"),
        (tensor_attention(activation="expm"), 32, "shared memory"),
    ],
    ids=["two simplicial", "expm"],
)
def test_a_gradient_that_does_not_fit_a_card_is_native(operator, fits, reason):
    found, card = IMPLEMENTATION.kernels(operator, "... n d"), "NVIDIA H100 80GB HBM3"
    sizes = {"batch": 1, "heads": 1, "n": 64, "d": fits, "e": fits}
    assert not found.why_no_gradient(sizes, "float32", "cpu")
    assert not found.why_no_gradient(sizes, "float32", card)
    assert reason in found.why_no_gradient({**sizes, "d": 2 * fits, "e": 2 * fits}, "float32", card)


def test_a_record_by_rows_is_not_taken_where_states_are_less_work(tmp_path):
    """Rows of matrices take n², and a record of few tokens may be the nearest one there is."""
    operator = tensor_attention(mask="causal", product="hadamard", normalize=None)
    found, cpu = IMPLEMENTATION.kernels(operator, "... n d"), target("cpu")
    sizes = {"batch": 1, "heads": 2, "n": 96, "d": 16, "e": 16}
    of = found.problem("forward", sizes, "float32")
    schedule = {**kernels.default(of, cpu).to_json(), "unroll": 4}
    assert schedule["kind"] == "cpu-rows"
    receipt = Receipt("cpu", 1e-3, {"rms": 0.0}, {"rms": 1e-5}, sizes)
    records.use_records(add_record(tmp_path / "records.jsonl", of, cpu, schedule, receipt))
    try:
        assert found.choose("forward", {**sizes, "n": 100}, "float32", cpu).schedule.to_json() == schedule
        long = found.choose("forward", {**sizes, "n": 8192}, "float32", cpu)
        assert not long.schedule.by_rows
        assert "whichever is less work there, are more here" in long.reason
        records.use_records(add_record(tmp_path / "damaged.jsonl", of, cpu, {**schedule, "unroll": 0}, receipt))
        with pytest.warns(UserWarning, match="line 1 is skipped: .*unroll=0: expected at least 1"):
            found.choose("forward", sizes, "float32", cpu)
    finally:
        records.use_records()


@pytest.mark.parametrize(("key", "value"), [("d_o", "d_q"), ("q_", "d_q_")])
def test_arguments_with_the_names_of_cotangents(key, value):
    text = f"f(q[n,d], {key}[n,d], {value}[n,e]) -> o[n,e]:\n o[t,c] = q[t,a]*{key}[i,a]*{value}[i,c] where i <= t"
    given = tensors(37, 8, grad=True)
    found, wanted = (gradients(dtn.compile(text, implementation=name), given) for name in ("tvm", "native"))
    for one, other in zip(found, wanted, strict=True):
        close(one, other, 1e-4)


@pytest.mark.parametrize("name", ["q_row", "n_row", "q_added"])
def test_a_name_that_a_kernel_gives_to_something_of_its_own_is_refused(name):
    axes = ("n_row", "g") if name == "n_row" else ("e", name)
    text = f"f(q[n,d], {axes[1]}[n,{axes[0]}]) -> o[n,{axes[0]}]: o[t,c] = q[t,a]*q[i,a]*{axes[1]}[i,c] where i <= t"
    with pytest.raises(ValueError, match=f"{name} is what a kernel calls a tensor of its own"):
        dtn.compile(text, implementation="tvm")(*tensors(9, 4, count=2))


def test_a_record_that_is_written_later_is_used(tmp_path):
    found, cpu = IMPLEMENTATION.kernels(tensor_attention(**CAUSAL), "... n d"), target("cpu")
    sizes = {"batch": 1, "heads": 2, "n": 64, "d": 16, "e": 16}
    of = found.problem("forward", sizes, "float32")
    default = kernels.default(of, cpu).to_json()
    receipt = Receipt("cpu", 1e-3, {"rms": 0.0}, {"rms": 1e-5}, sizes)
    try:
        records.use_records(add_record(tmp_path / "records.jsonl", of, cpu, default, receipt))
        assert found.kernel("forward", sizes, "float32", "cpu").schedule.to_json() == default
        faster, other = replace(receipt, seconds=1e-4), {**default, "unroll": 4 if default["unroll"] != 4 else 2}
        add_record(tmp_path / "records.jsonl", of, cpu, other, faster)
        assert found.kernel("forward", sizes, "float32", "cpu").schedule.to_json() == other
    finally:
        records.use_records()


def add_record(path, problem, of, schedule, receipt):
    records.add(path, [record_of(problem, of, schedule, {"engine": "grid"}, receipt)])
    return path


def test_a_gradient_too_large_for_a_cache_is_native():
    operator = tensor_attention(mask="causal", product="hadamard", normalize=None)
    found = IMPLEMENTATION.kernels(operator, "... n d")
    sizes = {"batch": 1, "heads": 1, "n": 64, "d": 128, "e": 128}
    assert not found.why_no_gradient(sizes, "float32", "cpu"), "by rows"
    assert "more than the 32 of a cache" in found.why_no_gradient({**sizes, "n": 65_536}, "float32", "cpu")


def test_explain_says_which_schedule_runs():
    function = dtn.compile(tensor_attention(mask="causal", normalize=None), implementation="tvm")
    explained = function.explain(*tensors(1, 8, 8192, 64))
    assert explained.implementation == "tvm"
    assert "forward chunk=" in explained.form
    assert "default schedule: no records" in explained.form
    assert "padding_mask is an argument of the kernel, initial_state is one too" in explained.form
    assert "cu_seqlens runs it once for all sequences of about one length" in explained.form
    assert explained.linear
