"""Which CUDA schedules there are, what is refused, and what the cost model says; without a compiler."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("tvm", reason="apache-tvm is not installed")

from dtn_codegen.tensorir.cuda.cost import check_fits
from dtn_codegen.tensorir.cuda.lower import launches
from dtn_codegen.tensorir.cuda.passes import levels
from dtn_codegen.tensorir.cuda.schedule import CudaRows, CudaSchedule
from dtn_codegen.tensorir.schedule import CpuSchedule, Schedule
from dtn_core.errors import CompileError
from dtn_core.operators import as_operator, tensor_attention
from dtn_tvm import cuda, kernels
from dtn_tvm.problem import Problem
from dtn_tvm.targets import target
from oracle.by_rows import SOFTMAX
from oracle.cuda_cases import CASES, Case, causal

H100, A100 = target("nvidia/h100"), target("nvidia/a100")


def problem(batch=1, n=8192, heads=16, d=128, dtype="bfloat16", operator=None, direction="forward") -> Problem:
    sizes = {"batch": batch, "heads": heads, "n": n, "d": d, "e": d}
    return Problem(operator or causal(), direction, dtype, sizes)


@pytest.mark.parametrize("device", [H100, A100], ids=["h100", "a100"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_candidate_fits_the_device(device, dtype):
    wanted = problem(dtype=dtype)
    limits = cuda.device(device, dtype)
    found = kernels.space(wanted, device)
    assert len(found) > 10
    assert len(set(found)) == len(found)
    for schedule in found:
        for plan in launches(wanted.tiles, schedule, wanted.sizes, dtype).plans:
            check_fits(plan, limits)


def test_the_default_is_the_best_predicted():
    assert kernels.default(problem(), H100) == kernels.space(problem(), H100)[0]


def test_few_sequences_are_split_and_many_are_not():
    assert kernels.default(problem(batch=1, heads=8, n=65536, d=64), H100).split > 0
    assert kernels.default(problem(batch=64, heads=16, n=2048, d=64), H100).split == 0


def test_columns_are_shared_out_only_where_nothing_sums_over_them():
    assert any(schedule.block for schedule in kernels.space(problem(), H100))
    backward = kernels.space(problem(d=64, dtype="float16", direction="backward"), H100)
    assert not any(schedule.block for schedule in backward)


def test_a_schedule_is_the_same_after_json():
    schedule = CudaSchedule(chunk=32, warps=8, stages=3, block=64, halves=2, split=132)
    assert Schedule.from_json(schedule.to_json()) == schedule


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("chunk", 24, "chunk=24 .* multiple of 16"),
        ("warps", 6, "warps=6 .* power of two"),
        ("stages", 0, "stages=0 .* 1 to 4"),
        ("block", 8, "block=8 .* multiple of 16"),
        ("halves", 3, "halves=3 .* 1 or 2"),
        ("split", -1, "split=-1 .* number of thread blocks"),
    ],
)
def test_a_schedule_says_what_it_expects(name, value, message):
    with pytest.raises(CompileError, match=message):
        replace(CudaSchedule(), **{name: value})


def test_states_are_computed_level_by_level():
    (walk,) = Case(causal(order=3), "float16", 1, 32, 32).problem.tiles.walks
    assert levels(walk) == (("o_state_past", "o_state_2_past"), ("o_past",))


def test_loading_is_what_is_moved():
    """Order 2 reads q, k and v once and writes o once."""
    wanted = problem(d=64)
    (plan,) = launches(wanted.tiles, CudaSchedule(), wanted.sizes, "bfloat16").plans
    assert plan.bytes_of_chunk == 4 * 64 * 64 * 2


@pytest.mark.parametrize(
    ("operator", "d", "message"),
    [
        (
            tensor_attention(mask="causal", normalize=None, product="hadamard"),
            64,
            r"states of a sequence take 1024 KiB, the registers of a multiprocessor hold 256",
        ),
        (causal(), 40, "multiples of 16 × 16"),
        (
            as_operator("f(q[n,d], k[n,d], v[n,e]) -> o[n,e]: o[t,c] = q[t,a]*erf(k[j,a])*v[j,c] where j <= t"),
            64,
            "erf",
        ),
    ],
    ids=["pairs", "d", "a function"],
)
def test_what_has_no_kernel_says_why(operator, d, message):
    with pytest.raises(CompileError, match=message):
        kernels.space(problem(d=d, operator=operator), H100)


def test_rows_of_matrices_where_there_are_no_states_or_too_large_ones():
    """Both kinds compete where both fit; a walk over rows has a thread block for each chunk of them."""
    hadamard = causal(product="hadamard")
    assert {type(s) for s in kernels.space(problem(operator=SOFTMAX), H100)} == {CudaRows}
    assert {type(s) for s in kernels.space(problem(operator=hadamard, n=2048, d=64), H100)} == {CudaRows}
    assert {type(s) for s in kernels.space(problem(operator=hadamard, n=128, d=16), H100)} == {CudaRows, CudaSchedule}
    assert {type(s) for s in kernels.space(problem(n=128, d=16), H100)} == {CudaSchedule}


@pytest.mark.parametrize(("n", "has_one"), [(2048, True), (1 << 20, False)])
def test_a_gradient_by_rows_only_as_long_as_that_is_less_work(n, has_one):
    hadamard = problem(operator=causal(product="hadamard"), n=n, d=64)
    why = cuda.lacks(hadamard.operator, hadamard.sizes, "float32", H100, resumed=False)
    assert (why == "") == has_one
    assert has_one or "one feature of a pair" in why


def test_no_rows_where_the_native_source_does_without():
    with pytest.raises(CompileError, match="the native source does without n×n matrices"):
        kernels.space(problem(operator=tensor_attention(product="hadamard", normalize="row"), n=1 << 20, d=64), H100)


def test_a_schedule_that_does_not_fit_is_refused_when_it_is_compiled():
    with pytest.raises(CompileError, match="bytes of shared memory, the device has 166912"):
        kernels.lower(problem(), CudaSchedule(warps=8), A100)
    with pytest.raises(CompileError, match="registers, it can have 255"):
        kernels.lower(problem(), CudaSchedule(warps=4, stages=1), H100)


def test_a_schedule_of_another_device_is_refused():
    with pytest.raises(CompileError, match="a cpu schedule cannot be compiled for nvidia/h100"):
        kernels.lower(problem(), CpuSchedule(), H100)


def test_every_case_fits_an_h100():
    for case in CASES.values():
        kernels.lower(case.problem, case.schedule, H100)
