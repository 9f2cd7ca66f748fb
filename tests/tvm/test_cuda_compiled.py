"""Generated CUDA text, compiled by nvcc for two architectures; needs no GPU."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("tvm", reason="apache-tvm is not installed")

from emulator import Emulated

from dtn_codegen.tensorir.cuda.build import source, usage
from dtn_core.errors import CompileError
from dtn_core.operators import tensor_attention
from dtn_tvm import kernels
from dtn_tvm.problem import Problem
from dtn_tvm.targets import target
from oracle.cuda_cases import CASES, RACED, Case, causal

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")

CARDS = {"sm_80": "nvidia/a100", "sm_90a": "nvidia/h100"}
QUICK = ["order 2, bfloat16", "order 2, float32", "decay of each head, split", "gradient, float16"]


def text_of(case: Case, card: str) -> str:
    device = target(card)
    return source(kernels.lower(case.problem, case.schedule, device), device.tvm)


def compiled_without_spills(problem: Problem, schedule, card: str) -> None:
    device = target(card)
    text = source(kernels.lower(problem, schedule, device), device.tvm)
    for registers, spilled in usage(text, device.arch):
        assert spilled == 0, f"{registers} registers and {spilled} bytes spilled"


@pytest.mark.parametrize("arch", CARDS)
@pytest.mark.parametrize("name", QUICK)
def test_kernels_compile_and_spill_no_registers(name, arch):
    compiled_without_spills(CASES[name].problem, CASES[name].schedule, CARDS[arch])


@pytest.mark.thorough
@pytest.mark.parametrize("arch", CARDS)
@pytest.mark.parametrize("name", [name for name in CASES if name not in (*QUICK, "order 2, wide")])
def test_every_kernel_compiles_and_spills_no_registers(name, arch):
    compiled_without_spills(CASES[name].problem, CASES[name].schedule, CARDS[arch])


def raced(batch: int, n: int, heads: int, d: int, dtype: str, direction: str = "forward") -> Problem:
    return Problem(causal(), direction, dtype, {"batch": batch, "heads": heads, "n": n, "d": d, "e": d})


def test_the_default_of_the_widest_raced_shape_spills_nothing():
    problem = raced(*RACED[0], "bfloat16")
    compiled_without_spills(problem, kernels.default(problem, target("nvidia/h200")), "nvidia/h200")


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", RACED)
@pytest.mark.parametrize("place", range(6))
def test_the_best_predicted_candidates_spill_nothing(shape, dtype, place):
    problem = raced(*shape, dtype)
    candidates = kernels.space(problem, target("nvidia/h200"))
    compiled_without_spills(problem, candidates[place * len(candidates) // 6], "nvidia/h200")


def test_products_of_16_bits_run_on_tensor_cores_and_float32_does_not():
    half, single = text_of(CASES["order 2, bfloat16"], "nvidia/h100"), text_of(CASES["order 2, float32"], "nvidia/h100")
    assert "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" in half
    assert "mma.sync" not in single
    assert "tf32" not in single


def test_an_exported_kernel_is_machine_code_without_text(tmp_path):
    device = target("nvidia/h100")
    problem = CASES["order 1, float16"].problem
    kernel = kernels.compile(problem, kernels.default(problem, device), device)
    kernel.export(tmp_path / "kernel.so")
    held = (tmp_path / "kernel.so").read_bytes()
    assert held.count(b"\x7fELF") >= 2, "the library, and the machine code of the kernel in it"
    assert b"__global__" not in held


def test_what_nvcc_says_is_in_the_error():
    with pytest.raises(CompileError, match=r"nvcc refused a kernel for sm_90a:\n.*error"):
        usage("__global__ void f() { nothing; }", "sm_90a")


def test_one_function_launches_all_passes(tmp_path):
    """One kernel where sequences are many; where they are split, a pass and a fold for each level of states."""
    for case, count in (
        (CASES["order 2, float16"], 1),
        (CASES["order 2, split"], 5),
        (Case(tensor_attention(), "float16", 64, 32, 32), 5),
    ):
        assert len(Emulated(text_of(case, "nvidia/h100"), tmp_path).launches) == count
