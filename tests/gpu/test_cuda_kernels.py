"""Every family of CUDA kernels on a real card, in every dtype; on the stream that PyTorch made current."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from dtn_codegen.tensorir.cuda.schedule import CudaSchedule
from oracle.cuda_cases import CASES, KINDS, RACED, Case, causal


@cache
def card():
    """The target of the card that is here."""
    import torch

    from dtn_tvm import targets

    name = torch.cuda.get_device_name()
    for known in targets.names():
        if known != "cpu" and targets.target(known).device in name:
            return targets.target(known)
    major, minor = torch.cuda.get_device_capability()
    shared = torch.cuda.get_device_properties(0).shared_memory_per_block_optin
    arch = f"sm_{major}{minor}" + ("a" if major >= 9 else "")
    return targets.target(json.dumps({"kind": "cuda", "arch": arch, "max_shared_memory_per_block": shared}))


def on_card(value: np.ndarray, kind: str):
    import torch

    return torch.from_numpy(value.astype(np.float32)).to("cuda", getattr(torch, kind)).contiguous()


def run(case: Case, schedule: CudaSchedule, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a compiled kernel, NaN where it writes nothing."""
    import torch

    from dtn_tvm import kernels

    problem = case.problem
    kernel = kernels.compile(problem, schedule, card())
    interleaved = case.layout == "... n h d"

    def arranged(param, value):
        return value.swapaxes(1, 2) if interleaved and len(param.axes) == 2 else value

    given = [on_card(arranged(p, x), problem.kind(p)) for p, x in zip(problem.inputs, inputs, strict=True)]
    made = [
        torch.full(problem.shape(p), torch.nan, dtype=getattr(torch, case.dtype), device="cuda")
        for p in problem.outputs
    ]
    kernel(*given, *made)
    found = [x.double().cpu().numpy() for x in made]
    return [arranged(p, x) for p, x in zip(problem.outputs, found, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_the_interpreter(name, rng):
    from dtn_core.errors import CompileError

    case = CASES[name]
    inputs = case.inputs(rng)
    try:
        outputs = run(case, case.schedule, inputs)
    except CompileError as error:
        pytest.skip(f"does not fit {card().name}: {error}")
    case.check(outputs, case.expected(inputs))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("order", [1, 2])
def test_defaults_agree_with_the_interpreter(order, direction, dtype, rng):
    from dtn_tvm import kernels

    case = Case(causal(order=order), dtype, 200, 64, 64, direction=direction, heads=3)
    inputs = case.inputs(rng)
    case.check(run(case, kernels.default(case.problem, card()), inputs), case.expected(inputs))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", RACED)
def test_raced_shapes_agree_with_the_native_path_in_float64(shape, dtype, rng):
    import torch

    import dtn_torch
    from dtn_tvm import kernels

    batch, n, heads, d = shape
    case = Case(causal(), dtype, n, d, d, heads=batch * heads)
    inputs = [0.05 * x.astype(np.float32) for x in case.inputs(rng)]
    inputs = [x.astype(KINDS[dtype]) for x in inputs]
    (output,) = run(case, kernels.default(case.problem, card()), inputs)
    wide = [on_card(x, "float64") for x in inputs]
    expected = dtn_torch.tensor_attention(*wide, mask="causal", normalize=None).cpu().numpy()
    torch.cuda.empty_cache()
    case.check([output], [expected])


@pytest.mark.parametrize("name", ["order 2, float16", "order 2, split"])
def test_kernels_run_on_the_current_stream(name, rng):
    """What is queued before on the same stream, behind a long wait, is what the kernel reads."""
    import torch

    from dtn_tvm import kernels

    case = CASES[name]
    problem, inputs = case.problem, case.inputs(rng)
    kernel = kernels.compile(problem, case.schedule, card())
    given = [on_card(x, case.dtype) for x in inputs]
    late = [torch.zeros_like(x) for x in given]
    made = torch.zeros_like(given[2])
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        for target, value in zip(late, given, strict=True):
            target.copy_(value)
        kernel(*late, made)
        result = made.double()
    assert not stream.query(), "the kernel waited for the stream instead of being queued on it"
    stream.synchronize()
    case.check([result.cpu().numpy()], case.expected(inputs))


def test_the_gradient_of_the_framework_is_the_kernel(rng):
    import torch

    import dtn_torch

    q, k, v = (on_card(0.3 * rng.standard_normal((1, 2, 100, 32)), "float32").requires_grad_() for _ in range(3))
    out = dtn_torch.tensor_attention(q, k, v, mask="causal", normalize=None, implementation="tvm")
    found = torch.autograd.grad(out.square().sum(), (q, k, v))
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    native = dtn_torch.tensor_attention(*wide, mask="causal", normalize=None)
    for one, other in zip(found, torch.autograd.grad(native.square().sum(), wide), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))
