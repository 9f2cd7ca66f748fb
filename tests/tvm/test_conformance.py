"""Kernels in the conformance matrix: what the library refuses is a gap in its own words, and nothing else is."""

from __future__ import annotations

import pytest

pytest.importorskip("tvm.tirx", reason="Apache TVM is not installed")  # this folder is called tvm as well
torch = pytest.importorskip("torch")

from dtn_core.conform.adapter import GapError  # noqa: E402
from dtn_core.conform.operators import case  # noqa: E402
from dtn_core.operators import tensor_attention  # noqa: E402
from dtn_tvm.conformance import TvmAdapter  # noqa: E402

CAUSAL = case("tensor_attention:normalize=None,mask=causal").operator


@pytest.fixture(scope="module")
def adapter():
    return TvmAdapter()


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand((9, 4), generator=generator).to(dtype) for _ in range(3)]


def test_an_operator_without_kernels(adapter):
    with pytest.raises(
        GapError, match=r"^implementation='tvm' cannot run it: .*a function of an n×n matrix; no kernel$"
    ):
        adapter.compile(tensor_attention(product="hadamard", activation="expm"), "linear", "... n d")


def test_a_dtype_without_kernels(adapter):
    call = adapter.compile(CAUSAL, "linear", "... n d")
    with pytest.raises(GapError, match=r"^implementation='tvm' cannot run it in float64; kernels take float32"):
        call(*tensors(torch.float64))


@pytest.mark.parametrize("mode", ["jit", "export"])
def test_what_is_refused_is_refused_before_a_graph_is_made(adapter, mode):
    call = adapter.compile(CAUSAL, "linear", "... n d")
    with pytest.raises(GapError, match="in float64"):
        adapter.transform(mode, call, tensors(torch.float64))


def test_any_other_error_is_a_fault(adapter):
    call = adapter.compile(CAUSAL, "linear", "... n d")
    q, k, v = tensors()
    with pytest.raises(ValueError, match="axis n"):
        call(q, k[:-1], v)


def test_the_source_is_that_of_the_kernel(adapter):
    assert "T.prim_func" in adapter.compile(CAUSAL, "linear", "... n d").source
