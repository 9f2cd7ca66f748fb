"""What PyTorch's own machinery asks of an operator."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from collections import Counter

import frameworks
import numpy as np
import pytest

if frameworks.chosen() != "torch":
    pytest.skip("DTN_BACKEND is not torch", allow_module_level=True)

import torch
import torch._dynamo.testing
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import dtn_torch as dtn
from dtn_codegen import loading
from dtn_core.operators import PARAMETER, tensor_attention, tensor_interaction
from dtn_torch import packs

VARIANTS = {
    "default": {}, "row": {"normalize": "row"}, "order 3": {"order": 3, "normalize": "diag"}, "hadamard": {"product": "hadamard"},
    "relu": {"activation": "relu"}, "expm": {"activation": "expm"}, "tril": {"mask": "tril"}, "causal": {"mask": "causal"},
    "decay": {"mask": "causal", "decay": 0.9}, "scalars": {"scale": 0.5, "residual": 0.5, "eps": 0.1},
}  # fmt: skip
every_variant = pytest.mark.parametrize("knobs", VARIANTS.values(), ids=VARIANTS.keys())


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (0.3 + 0.3 * torch.randn(2, 5, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    return [q, q + 0.3 * k, v]


class Strides(TorchDispatchMode):
    """Notes the strides of what products of batches of matrices are given."""

    def __init__(self):
        super().__init__()
        self.strides = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.baddbmm, torch.ops.aten.baddbmm_):
            self.strides += [x.stride() for x in args if isinstance(x, torch.Tensor)]
        return function(*args, **(kwargs or {}))


class Counts(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


class TestAutograd:
    @every_variant
    def test_gradcheck(self, tensors, knobs):
        leaves = [x[:1, :4].requires_grad_() for x in tensors]
        assert torch.autograd.gradcheck(dtn.compile(tensor_attention(**knobs)), leaves)

    @every_variant
    def test_gradgradcheck(self, tensors, knobs):
        leaves = [x[0, :3, :2].requires_grad_() for x in tensors]
        assert torch.autograd.gradgradcheck(dtn.compile(tensor_attention(**knobs)), leaves)

    @pytest.mark.parametrize(
        "lines",
        [
            "o[i,c] = S[i,j] * S[i,j] * v[j,c] + S[i,j] * v[j,c]   where j <= i",
            "G[i,j] = gelu(S[i,j])\n    o[i,c] = G[i,j] * v[j,c] + S[i,j] * v[j,c]   where j <= i",
            "o[i,c] = relu(S[i,j]) * S[i,j] * S[i,j] * v[j,c] + S[i,j] * v[j,c]   where j <= i",
        ],
    )
    def test_scores_that_are_read_twice(self, tensors, lines):
        run = dtn.compile(f"f(q[n,d], k[n,d], v[n,e]) -> o[n,e]:\n    S[i,j] = q[i,a] * k[j,a]\n    {lines}")
        leaves = [x[0].requires_grad_() for x in tensors]
        assert torch.autograd.gradcheck(run, leaves)
        assert torch.autograd.gradgradcheck(run, leaves)

    @pytest.mark.parametrize(("decay", "n"), [(0.9, 1100), (0.9, 600), (0.5, 200)])
    def test_a_trace_that_decays_out_of_the_normal_numbers(self, decay, n):
        generator = torch.Generator().manual_seed(0)
        leaves = [torch.randn(n, 4, generator=generator).requires_grad_() for _ in range(3)]
        keep = torch.arange(n) < 10
        o = dtn.tensor_attention(*leaves, mask="causal", decay=decay, padding_mask=keep)
        assert all(x.isfinite().all() for x in (o, *torch.autograd.grad(o.sum(), leaves)))

    def test_gradcheck_of_complex_input(self, tensors):
        leaves = [(x[0] + 0.2j * x[1]).requires_grad_() for x in tensors]
        assert torch.autograd.gradcheck(dtn.compile(tensor_attention()), leaves)

    def test_gradcheck_of_scalars(self, tensors):
        gamma, scale = torch.tensor([0.9, 0.8], dtype=torch.float64), torch.tensor([0.5, 0.7], dtype=torch.float64)
        run = lambda s, g: dtn.tensor_attention(*tensors, scale=s, decay=g, mask="causal", normalize=None)  # noqa: E731
        assert torch.autograd.gradcheck(run, [scale.requires_grad_(), gamma.requires_grad_()])

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_only_one_input_requires_a_gradient(self, tensors, place):
        tensors[place].requires_grad_()
        dtn.tensor_attention(*tensors).sum().backward()
        assert [x.grad is not None for x in tensors] == [p == place for p in range(3)]

    def test_no_input_requires_a_gradient(self, tensors):
        assert not dtn.tensor_attention(*tensors).requires_grad

    def test_the_gradient_of_an_expanded_tensor_is_summed(self, tensors):
        q, k, v = tensors
        leaf = q[:1].clone().requires_grad_()
        dtn.tensor_attention(leaf.expand(2, 5, 3), k, v).sum().backward()
        whole = leaf.detach().expand(2, 5, 3).clone().requires_grad_()
        dtn.tensor_attention(whole, k, v).sum().backward()
        assert torch.allclose(leaf.grad, whole.grad.sum(0, keepdim=True))

    def test_the_gradient_of_a_sum_is_multiplied_in_memory_of_its_own(self):
        """A product of matrices whose elements are one copies them every time."""
        given = [torch.randn(2, 3, 40, 4, requires_grad=True) for _ in range(3)]
        o = dtn.tensor_attention(*given, mask="causal", normalize=None, chunk_size=4)
        with Strides() as watched:
            made = torch.autograd.grad(o.sum(), given, retain_graph=True)
        assert len(watched.strides) > 10
        assert all(min(strides) > 0 for strides in watched.strides)
        for x, expected in zip(made, torch.autograd.grad(o, given, torch.ones_like(o)), strict=True):
            assert torch.equal(x, expected)

    def test_the_gradient_of_a_view_reaches_its_base(self, tensors):
        base = torch.stack(tensors).requires_grad_()
        dtn.tensor_attention(*base).sum().backward()
        assert base.grad.shape == base.shape
        assert base.grad.abs().sum(dim=(1, 2, 3)).min() > 0

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_checkpoints(self, tensors, reentrant):
        def run(*t):
            return dtn.tensor_attention(*t, mask="causal", decay=0.9, chunk_size=2).square().sum()

        given = [x.requires_grad_() for x in tensors]
        expected = torch.autograd.grad(run(*given), given)
        checkpoint(run, *given, use_reentrant=reentrant).backward()
        for x, gradient in zip(given, expected, strict=True):
            assert torch.equal(x.grad, gradient)

    def test_inference_mode(self, tensors):
        with torch.inference_mode():
            inside = dtn.tensor_attention(*tensors)
        assert torch.equal(inside, dtn.tensor_attention(*tensors))

    def test_no_warning_is_given(self, tensors):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            dtn.tensor_attention(*(x.clone().requires_grad_() for x in tensors), mask="tril").sum().backward()


class TestTransforms:
    @every_variant
    def test_vmap(self, tensors, knobs):
        run = dtn.compile(tensor_attention(**knobs))
        assert torch.allclose(torch.func.vmap(run)(*tensors), run(*tensors), rtol=1e-9)

    def test_vmap_over_one_tensor(self, tensors):
        q, k, v = tensors
        run = dtn.compile(tensor_attention())
        got = torch.func.vmap(run, in_dims=(0, None, None))(q, k[0], v[0])
        assert torch.allclose(got, run(q, k[0], v[0]), rtol=1e-9)

    @pytest.mark.parametrize("knobs", [{}, {"normalize": None, "order": 3}, {"decay": 0.9}], ids=str)
    def test_vmap_of_chunks_loops_over_nothing(self, knobs):
        """PyTorch warns where an operation has no batching rule, as none that writes over a tensor's triangle has."""
        run = dtn.compile(tensor_attention(mask="causal", **knobs))
        each = torch.func.grad(lambda *t: run(*t).square().mean(), argnums=(0, 1, 2))
        generator = torch.Generator().manual_seed(0)
        tensors = [torch.randn(2, 3, 150, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value, gradients = torch.vmap(run)(*tensors), torch.vmap(each)(*tensors)
        assert torch.allclose(value, run(*tensors), rtol=1e-9)
        for member in (0, 1):
            expected = each(*(x[member] for x in tensors))
            for found, other in zip(gradients, expected, strict=True):
                assert torch.allclose(found[member], other, rtol=1e-9, atol=1e-12)

    @every_variant
    def test_grad(self, tensors, knobs):
        run = dtn.compile(tensor_attention(**knobs))
        found = torch.func.grad(lambda *t: run(*t).sum(), argnums=(0, 1, 2))(*tensors)
        leaves = [x.clone().requires_grad_() for x in tensors]
        run(*leaves).sum().backward()
        for gradient, leaf in zip(found, leaves, strict=True):
            assert torch.allclose(gradient, leaf.grad, rtol=1e-9)

    def test_per_sample_gradients(self, tensors):
        run = dtn.compile(tensor_attention())
        each = torch.func.vmap(torch.func.grad(lambda q, k, v: run(q, k, v).sum()))(*tensors)
        leaf = tensors[0].clone().requires_grad_()
        run(leaf, *tensors[1:]).sum().backward()
        assert torch.allclose(each, leaf.grad, rtol=1e-9)

    def test_jacrev_equals_jacfwd(self, tensors):
        q, k, v = (x[0] for x in tensors)
        run = lambda q: dtn.tensor_attention(q, k, v)  # noqa: E731
        assert torch.allclose(torch.func.jacrev(run)(q), torch.func.jacfwd(run)(q), rtol=1e-9)

    def test_hessian_is_symmetric(self, tensors):
        q, k, v = (x[0, :3, :2] for x in tensors)
        hessian = torch.func.hessian(lambda q: dtn.tensor_attention(q, k, v).sum())(q).reshape(6, 6)
        assert torch.allclose(hessian, hessian.T, rtol=1e-8, atol=1e-12)


def test_importing_the_backend_imports_neither_torchs_compiler_nor_what_few_calls_need():
    """The first takes twice as long as PyTorch itself."""
    code = "import torch, sys; before = set(sys.modules); import dtn_torch; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = done.stdout.split()
    assert "dtn_codegen.function" in added
    assert not [name for name in added if name.startswith("torch.")]
    assert not {"dtn_core.explain", "dtn_codegen.packed", "dtn_torch.layers"} & set(added)


class TestHeadsInside:
    """Layout ``"... n h d"``: a product of several batches copies what lies so, each time that it reads it."""

    @pytest.mark.parametrize(("batch", "copies"), [(1, 0), (3, 3)])
    def test_arguments_are_laid_out_once(self, batch, copies):
        q, k, v = torch.rand(3, batch, 64, 2, 4, dtype=torch.float64).unbind(0)
        operator = dtn.compile(tensor_attention(), layout="... n h d")
        with Counts() as counted:
            got = operator(q, k, v)
        assert counted.counts["clone"] == copies
        turned = [x.transpose(-2, -3).contiguous() for x in (q, k, v)]
        assert torch.allclose(got, dtn.tensor_attention(*turned).transpose(-2, -3), rtol=1e-9)

    def test_what_is_expanded_or_has_several_leading_axes(self):
        k, v = torch.rand(2, 2, 3, 64, 2, 4, dtype=torch.float64).unbind(0)
        q = torch.rand(1, 1, 64, 1, 4, dtype=torch.float64).expand(k.shape)
        operator = dtn.compile(tensor_attention(), layout="... n h d")
        expected = dtn.tensor_attention(*(x.transpose(-2, -3) for x in (q, k, v))).transpose(-2, -3)
        assert torch.allclose(operator(q, k, v), expected, rtol=1e-9)
        mapped = torch.vmap(operator, in_dims=(None, 1, 1), out_dims=1)(q[:, 0], k, v)
        assert torch.allclose(mapped, expected, rtol=1e-9)


class TestDecays:
    """What a tensor of decays holds is read again once it was written to."""

    @pytest.mark.parametrize("kind", [torch.Tensor.clone, torch.nn.Parameter], ids=["tensor", "parameter"])
    def test_a_tensor_is_read_once(self, tensors, monkeypatch, kind):
        operator, read = dtn.compile(tensor_attention(mask="causal", decay=PARAMETER)), []
        monkeypatch.setattr(operator.signature, "check_decays", lambda name, values: read.append(values.tolist()))
        decay = kind(torch.tensor([0.5, 0.75]))
        for _ in range(3):
            operator(*tensors, decay=decay)
        assert read == [[0.5, 0.75]]
        with torch.no_grad():
            decay[1] = 0.25
        operator(*tensors, decay=decay)
        operator(*tensors, decay=decay.detach().clone())
        assert read == [[0.5, 0.75], [0.5, 0.25], [0.5, 0.25]]

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_what_is_written_later_is_refused(self, tensors, mode):
        operator = dtn.compile(tensor_attention(mask="causal", decay=PARAMETER))
        with mode():
            decay = torch.tensor([0.5, 0.75])
            operator(*tensors, decay=decay)
            decay[0] = 1.5
            with pytest.raises(ValueError, match=r"decay=\[1.5, 0.75\] is outside"):
                operator(*tensors, decay=decay)


class TestCompile:
    """``torch.compile`` with ``fullgraph=True``: no graph break, the same values, gradients too."""

    @pytest.fixture(autouse=True)
    def _fresh(self):
        torch._dynamo.reset()

    @every_variant
    def test_the_functional_interface(self, tensors, knobs):
        run = torch.compile(lambda q, k, v: dtn.tensor_attention(q, k, v, **knobs), fullgraph=True, backend="aot_eager")
        assert torch.allclose(run(*tensors), dtn.tensor_attention(*tensors, **knobs), rtol=1e-9)

    def test_an_operator_after_which_many_were_made(self, tensors, monkeypatch):
        monkeypatch.setattr(loading, "MAX_RECENT", 2)
        operator = dtn.compile(tensor_attention(scale=0.3))
        expected = operator(*tensors)
        for scale in range(1, 5):
            dtn.compile(tensor_attention(scale=scale))(*tensors)
        assert torch.allclose(torch.compile(operator, fullgraph=True, backend="aot_eager")(*tensors), expected)

    @every_variant
    def test_a_compiled_operator(self, tensors, knobs):
        operator = dtn.compile(tensor_attention(**knobs))
        run = torch.compile(operator, fullgraph=True, backend="aot_eager")
        assert torch.allclose(run(*tensors), operator(*tensors), rtol=1e-9)

    def test_with_inductor(self, tensors):
        run = torch.compile(lambda q, k, v: dtn.tensor_attention(q, k, v), fullgraph=True)
        assert torch.allclose(run(*tensors), dtn.tensor_attention(*tensors), rtol=1e-9)

    @pytest.mark.parametrize("knobs", [{}, {"mask": "causal"}], ids=str)
    def test_dynamic_shapes_are_compiled_once(self, knobs):
        counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
        run = torch.compile(
            lambda q, k, v: dtn.tensor_attention(q, k, v, **knobs), fullgraph=True, dynamic=True, backend=counter
        )
        for n in (6, 9, 130):
            q, k, v = torch.rand(3, 2, n, 4, dtype=torch.float64)
            assert torch.allclose(run(q, k, v), dtn.tensor_attention(q, k, v, **knobs), rtol=1e-9)
        assert counter.frame_count == 1

    @pytest.mark.parametrize("dynamic", [False, True])
    @pytest.mark.parametrize("knobs", [{}, {"mask": "causal", "decay": 0.9, "eps": 0.1}], ids=str)
    def test_numbers_and_tensors_without_leading_axes(self, knobs, dynamic):
        x = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))

        def run(x, scale):
            return dtn.tensor_attention(x, x, x, scale=scale, **knobs)

        compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        assert torch.allclose(compiled(x, 0.5), run(x, 0.5), rtol=1e-5)

    @every_variant
    def test_gradients(self, tensors, knobs):
        def loss(*t):
            return (dtn.tensor_attention(*t, **knobs) ** 2).sum()

        found, expected = [], []
        for function, gradients in (
            (torch.compile(loss, fullgraph=True, backend="aot_eager"), found),
            (loss, expected),
        ):
            leaves = [x.clone().requires_grad_() for x in tensors]
            function(*leaves).backward()
            gradients += [x.grad for x in leaves]
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-8)

    @pytest.mark.parametrize("layout", ["... n d", "... n h d"])
    @pytest.mark.parametrize("knobs", [{"normalize": None}, {"decay": 0.9}], ids=str)
    def test_a_causal_operator_that_runs_in_turns_is_one_operation(self, knobs, layout):
        shape = (1, 2, 4200, 32) if layout == "... n d" else (1, 4200, 2, 32)
        tensors = torch.rand(3, *shape, dtype=torch.float64).unbind(0)
        operator = dtn.compile(tensor_attention(mask="causal", **knobs), layout=layout)
        graphs = []

        def backend(graph, _):
            graphs.append([str(node.target) for node in graph.graph.nodes])
            return graph.forward

        torch.compile(operator, fullgraph=True, backend=backend)(*tensors)
        assert sum("dtn.tensor_attention" in target for target in graphs[0]) == 1
        assert not any("matmul" in target for target in graphs[0])
        compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(*tensors), operator(*tensors), rtol=1e-9)
        mapped = torch.vmap(lambda q: operator(q, *tensors[1:]))
        stacked = torch.stack([tensors[0], 2 * tensors[0]])
        assert torch.allclose(torch.compile(mapped, fullgraph=True, backend="aot_eager")(stacked), mapped(stacked))

    def test_gradients_of_a_causal_operator_that_runs_in_turns(self):
        tensors = torch.rand(3, 1, 2, 4200, 32, dtype=torch.float64).unbind(0)
        operator = dtn.compile(tensor_attention(mask="causal"))

        def loss(*t):
            return (operator(*t) ** 2).sum()

        leaves = [x.clone().requires_grad_() for x in tensors]
        expected = torch.autograd.grad(loss(*leaves), leaves)
        found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves), leaves)
        by_func = torch.compile(torch.func.grad(loss, argnums=(0, 1, 2)), fullgraph=True, backend="aot_eager")(*tensors)
        for a, b, c in zip(found, expected, by_func, strict=True):
            assert torch.allclose(a, b, rtol=1e-8)
            assert torch.allclose(c, b, rtol=1e-8)

    def test_the_gradient_of_a_decay_alone_where_it_runs_in_turns(self):
        tensors = torch.rand(3, 1, 2, 4200, 32, dtype=torch.float64).unbind(0)
        decay = torch.tensor(0.9, dtype=torch.float64).requires_grad_()

        def loss(decay):
            return (dtn.tensor_attention(*tensors, mask="causal", decay=decay) ** 2).sum()

        (expected,) = torch.autograd.grad(loss(decay), decay)
        (found,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(decay), decay)
        assert torch.allclose(found, expected, rtol=1e-8)

    def test_a_decay_for_each_head_of_tensors_without_heads_where_it_runs_in_turns(self):
        tensors = torch.rand(3, 4200, 64, dtype=torch.float64).unbind(0)
        decay = torch.tensor([0.9, 0.7], dtype=torch.float64)
        run = lambda *t: dtn.tensor_attention(*t, mask="causal", decay=decay).reshape(2, -1)  # noqa: E731
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(*tensors), run(*tensors), rtol=1e-9)

    def test_an_output_without_the_leading_axes_where_it_runs_in_turns(self):
        run = dtn.compile("f(q[n,d], w[d]) -> o[n,d], y[d]: o[t,a] = q[t,b]*q[i,b]*q[i,a] where i <= t; y[a] = 2*w[a]")
        q, w = torch.rand(2, 4200, 32, dtype=torch.float64), torch.rand(32, dtype=torch.float64)
        found, expected = torch.compile(run, fullgraph=True, backend="aot_eager")(q, w), run(q, w)
        for a, b in zip(found, expected, strict=True):
            assert torch.allclose(a, b.expand_as(a), rtol=1e-9)

    def test_a_padding_mask(self, tensors):
        keep = torch.tensor([[True, True, False, True, False], [True, True, True, True, False]])
        run = torch.compile(lambda *t: dtn.tensor_attention(*t, padding_mask=keep), fullgraph=True, backend="aot_eager")
        assert torch.allclose(run(*tensors), dtn.tensor_attention(*tensors, padding_mask=keep), rtol=1e-9)

    def test_notation_of_ones_own(self, tensors):
        operator = dtn.compile("f(x[n,d], g) -> y[n,d]: m[a] = x[i,a] / n; y[i,a] = g * x[i,a] - m[a]")
        run = torch.compile(lambda x: operator(x, g=2.0), fullgraph=True, backend="aot_eager")
        assert torch.allclose(run(tensors[0]), operator(tensors[0], g=2.0))

    def test_export(self, tensors):
        class Model(torch.nn.Module):
            def forward(self, q, k, v):
                return dtn.tensor_attention(q, k, v)

        exported = torch.export.export(Model(), tuple(tensors))
        assert torch.allclose(exported.module()(*tensors), dtn.tensor_attention(*tensors), rtol=1e-9)


CAUSAL = {"trace": {}, "no norm": {"normalize": None}, "order 3": {"order": 3}, "decay": {"decay": 0.9}}
every_causal = pytest.mark.parametrize("knobs", CAUSAL.values(), ids=CAUSAL.keys())
LENGTHS = (1, 7, 31, 64, 70, 200)


def close(found, expected):
    """Equal to 1e-10 of the largest value."""
    return (found - expected).abs().max() <= 1e-10 * expected.abs().max()


class TestAnyLength:
    """A length that is a symbol to what is traced: one graph serves all, the oracle being what runs eagerly."""

    @staticmethod
    def tensors(length):
        return 0.2 + torch.rand(3, 2, length, 4, dtype=torch.float64)

    @every_causal
    def test_one_graph_with_gradients(self, knobs):
        graphs = []

        def counting(graph, example):
            graphs.append(graph)
            return graph

        def run(x):
            return dtn.tensor_attention(*x.unbind(0), mask="causal", **knobs)

        compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=counting)
        for length in LENGTHS[1:]:  # 1 is compiled for itself
            x = self.tensors(length).requires_grad_()
            found, expected = compiled(x), run(x)
            assert close(found, expected)
            weights = torch.rand_like(expected)
            found, expected = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected))
            assert close(found, expected)
        assert len(graphs) == 1

    @every_causal
    def test_export(self, knobs):
        class Model(torch.nn.Module):
            def forward(self, x):
                return dtn.tensor_attention(*x.unbind(0), mask="causal", **knobs)

        lengths = ({2: torch.export.Dim("n", min=1, max=2**20)},)
        exported = torch.export.export(Model(), (self.tensors(10),), dynamic_shapes=lengths).module()
        for length in LENGTHS:
            x = self.tensors(length)
            assert close(exported(x), Model()(x))

    def test_states_are_those_of_the_tokens(self):
        operator = dtn.compile(tensor_attention(mask="causal", decay=0.9))

        def run(x, state):
            return operator(*x.unbind(0), initial_state=state, return_state=True)

        compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="eager")
        for length in LENGTHS[1:4]:
            x = self.tensors(length)
            state = operator(*self.tensors(5).unbind(0), return_state=True)[1]
            (found, after), (expected, state) = compiled(x, state), run(x, state)
            for a, b in zip((found, *after), (expected, *state), strict=True):
                assert close(a, b)

    def test_a_decay_that_changes(self):
        def run(x, decay):
            return dtn.tensor_attention(*x.unbind(0), mask="causal", scale=decay, decay=decay)

        compiled = torch.compile(run, fullgraph=True, backend="eager")
        x = self.tensors(7)
        for decay in (0.5, 0.6, 0.7):
            assert close(compiled(x, decay), run(x, decay))


class TestPackedSequencesInOneGraph:
    """``cu_seqlens`` under ``torch.compile``: one operation, whatever the lengths."""

    STARTS = [0, 4, 4, 9]

    def same(self, run, *leaves):
        """A graph gives what eager does: results and gradients."""
        for found, wanted in zip(*(self.flat(f(*leaves)) for f in (self.compiled(run), run)), strict=True):
            assert close(found, wanted)
        slopes = [
            torch.autograd.grad(sum(x.square().sum() for x in self.flat(f(*leaves))), leaves)
            for f in (self.compiled(run), run)
        ]
        for found, wanted in zip(*slopes, strict=True):
            assert close(found, wanted)

    @staticmethod
    def compiled(run):
        torch._dynamo.reset()
        return torch.compile(run, fullgraph=True, backend="aot_eager")

    @staticmethod
    def flat(found):
        return torch.utils._pytree.tree_leaves(found)

    @staticmethod
    def given(*shape, count=3):
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(count)]

    @pytest.mark.parametrize("starts", [list, torch.tensor, lambda x: torch.tensor(x, dtype=torch.int32)])
    def test_starts_as_a_list_and_as_a_tensor(self, starts):
        starts = starts(self.STARTS)
        self.same(lambda *x: dtn.tensor_attention(*x, mask="causal", cu_seqlens=starts), *self.given(2, 3, 9, 4))

    @every_variant
    def test_operators(self, knobs):
        self.same(lambda *x: dtn.tensor_attention(*x, cu_seqlens=self.STARTS, **knobs), *self.given(9, 3))

    def test_states_and_a_decay_for_each_head(self):
        knobs = {"mask": "causal", "normalize": None, "layout": "... n h d", "return_state": True}
        _, state = dtn.tensor_attention(
            *self.given(2, 9, 3, 4), decay=torch.full((3,), 0.5), cu_seqlens=self.STARTS, **knobs
        )
        decay = torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64).requires_grad_()

        def run(q, k, v, decay, *state):
            return dtn.tensor_attention(q, k, v, decay=decay, cu_seqlens=self.STARTS, initial_state=state, **knobs)

        self.same(run, *self.given(2, 9, 3, 4), decay, *(x.detach().requires_grad_() for x in state))
        found, after = self.compiled(run)(*self.given(2, 9, 3, 4), decay, *state)
        assert type(after) is type(state)
        assert (found.shape, [x.shape for x in after]) == ((2, 9, 3, 4), [x.shape for x in state])

    def test_a_decay_for_each_head_of_tensors_without_heads(self):
        decay = torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64).requires_grad_()

        def run(q, k, v, decay):
            return dtn.tensor_attention(q, k, v, mask="causal", decay=decay, cu_seqlens=self.STARTS, return_state=True)

        self.same(run, *self.given(9, 4), decay)

    def test_a_result_that_has_no_tokens(self):
        run = dtn.compile("f(x[n,d], w[d]) -> y[n,d], s[d]: y[i,a] = 2 * x[i,a] * w[a]; s[a] = x[i,a]")
        self.same(
            lambda x, w: run(x, w, cu_seqlens=self.STARTS), *self.given(2, 9, 3, count=1), *self.given(3, count=1)
        )

    def test_other_lengths_and_numbers_of_sequences_are_the_same_graph(self):
        counter = torch._dynamo.testing.CompileCounter()
        run = lambda x, starts: dtn.tensor_attention(x, x, x, mask="causal", cu_seqlens=starts)  # noqa: E731
        compiled = torch.compile(run, fullgraph=True, backend=counter, dynamic=True)
        for starts in ([0, 4, 9], [0, 9, 9], [0, 3, 5, 12], [0, 2, 3, 4, 20]):
            x, starts = torch.randn(starts[-1], 4), torch.tensor(starts)
            assert close(compiled(x, starts), run(x, starts))
        assert counter.frame_count == 1

    def test_starts_that_are_wrong_are_refused_where_the_graph_runs(self):
        x = torch.randn(9, 4)
        run = torch.compile(lambda x: dtn.tensor_attention(x, x, x, cu_seqlens=[0, 5, 4, 9]), fullgraph=True)
        with pytest.raises(ValueError, match=r"cu_seqlens\[2\] is 4, less than cu_seqlens\[1\], which is 5"):
            run(x)

    def test_the_registered_operations_pass_opcheck(self):
        given, starts = self.given(2, 9, 4), torch.tensor(self.STARTS)
        function = dtn.compile(tensor_attention(mask="causal", normalize=None))
        self.compiled(lambda *x: function(*x, cu_seqlens=starts))(*given)
        ((name, _),) = function._packs.values()
        torch.library.opcheck(packs.packed, (given, starts, name))
        given = [x.detach() for x in given]
        torch.library.opcheck(packs.packed_gradient, (given, starts, given[:1], name))


class TestAutocast:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_single_precision_tensors_stay_in_single_precision(self, tensors, dtype):
        single = [x.float() for x in tensors]
        with torch.autocast("cpu", dtype=dtype):
            inside = dtn.tensor_attention(*single)
        assert inside.dtype == torch.float32
        assert torch.equal(inside, dtn.tensor_attention(*single))

    def test_half_precision_tensors_keep_their_dtype(self, tensors):
        half = [x.bfloat16() for x in tensors]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = dtn.tensor_attention(*half)
        assert inside.dtype == torch.bfloat16

    def test_gradients_pass_through(self, tensors):
        leaves = [x.float().requires_grad_() for x in tensors]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = dtn.tensor_attention(*leaves).sum()
        loss.backward()
        assert all(torch.isfinite(x.grad).all() for x in leaves)


class TestCopies:
    @every_variant
    def test_pickle(self, tensors, knobs):
        operator = dtn.compile(tensor_attention(**knobs))
        again = pickle.loads(pickle.dumps(operator))  # noqa: S301 - made two lines above
        assert torch.equal(again(*tensors), operator(*tensors))

    def test_deepcopy(self, tensors):
        operator = dtn.compile(tensor_interaction(residual=0.5), layout="... n h d")
        again = copy.deepcopy(operator)
        heads = [x[:, :, None] for x in tensors]
        assert again.layout == "... n h d"
        assert torch.equal(again(*heads), operator(*heads))

    def test_deepcopy_of_a_module_that_holds_an_operator(self, tensors):
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.operator = dtn.compile(tensor_attention())

            def forward(self, *t):
                return self.operator(*t)

        assert torch.equal(copy.deepcopy(Model())(*tensors), dtn.tensor_attention(*tensors))


class TestDevices:
    def test_the_meta_device_gives_shapes(self):
        q, k, v = (torch.empty(shape, device="meta") for shape in ((2, 5, 3), (2, 5, 3), (2, 5, 4)))
        for knobs in VARIANTS.values():
            result = dtn.tensor_attention(q, k, v, **knobs)
            assert result.device.type == "meta"
            assert result.shape == (2, 5, 4)

    def test_a_subclass_of_tensor_is_accepted(self, tensors):
        parameter = torch.nn.Parameter(tensors[0])
        assert torch.allclose(dtn.tensor_attention(parameter, *tensors[1:]), dtn.tensor_attention(*tensors))

    def test_a_conjugate_view(self, tensors):
        z = torch.complex(tensors[0], tensors[1])
        lazy = z.conj()
        assert lazy.is_conj()
        assert torch.allclose(dtn.tensor_attention(lazy, z, z), dtn.tensor_attention(lazy.resolve_conj(), z, z))

    def test_a_numpy_array_is_refused(self, tensors):
        with pytest.raises(TypeError, match=r"tensor_attention: k is a ndarray, expected a torch.Tensor"):
            dtn.tensor_attention(tensors[0], np.ones((2, 5, 3)), tensors[2])


@pytest.mark.parametrize(
    "shapes", [((2, 3), (2, 3), (2, 3)), ((2, 3), (), (3,)), ((2, 1), (1, 3), (2, 3)), ((), (), ())], ids=str
)
@pytest.mark.parametrize("decay", [None, 0.9, torch.tensor([0.5, 0.8, 1.0], dtype=torch.float64)], ids=str)
def test_chunks_of_tensors_with_any_leading_axes_are_the_dense_form(shapes, decay):
    f = dtn.compile(tensor_attention(mask="causal", **({} if decay is None else {"decay": 0.9})))
    decays = {} if decay is None else {"decay": decay}
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(*lead, 13, 4, generator=generator, dtype=torch.float64).requires_grad_() for lead in shapes]

    def run(size):
        o = f(*given, chunk_size=size, **decays)
        return o, *torch.autograd.grad(o.square().sum(), given)

    for made, dense in zip(run(2), run(13), strict=True):
        torch.testing.assert_close(made, dense, rtol=1e-9, atol=1e-12)


def test_many_chunks_whose_states_are_wide_are_the_dense_form():
    given = [torch.randn(300, 32, dtype=torch.float64, requires_grad=True) for _ in range(3)]  # 75 chunks, a head

    def run(size):
        o = dtn.tensor_attention(*given, mask="causal", chunk_size=size)
        return o, *torch.autograd.grad(o.square().sum(), given)

    for made, dense in zip(run(4), run(300), strict=True):
        torch.testing.assert_close(made, dense, rtol=1e-9, atol=1e-12)
