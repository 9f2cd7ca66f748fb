"""Generated CUDA text, run under the emulator of the warp instructions, against the dense interpreter in float64."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tvm", reason="apache-tvm is not installed")

from emulator import Emulated, available
from emulator.program import EmulatedProgram

from dtn_codegen.tensorir.cuda.schedule import CudaSchedule
from dtn_tvm import cuda
from oracle.cuda_cases import CASES, KINDS, VARIANTS, Case, causal

pytestmark = pytest.mark.skipif(bool(available()), reason=available() or "can be emulated")


def emulated(case: Case, folder) -> EmulatedProgram:
    problem = case.problem
    program = cuda.program_of(problem, type(case.schedule))
    return EmulatedProgram(program, case.schedule, problem.sizes, case.dtype, folder, case.layout)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name in VARIANTS else name for name in CASES]
)
def test_kernels_agree_with_the_interpreter(name, rng, tmp_path):
    case = CASES[name]
    program, inputs = emulated(case, tmp_path), case.inputs(rng)
    expected = case.expected(inputs)
    for backwards in (False, True):  # the order in which warps happen to run
        case.check(program(*inputs, backwards=backwards), expected)
    assert program.conflicts == 0, "matrix loads hit a bank of shared memory twice"


def test_a_kernel_serves_any_length_and_any_number_of_heads(rng, tmp_path):
    program = emulated(Case(causal(), "float16", 1, 32, 32, CudaSchedule(split=4)), tmp_path)
    for n, heads in ((1, 1), (63, 1), (64, 2), (65, 3), (300, 1)):
        case = Case(causal(), "float16", n, 32, 32, heads=heads)
        inputs = case.inputs(rng)
        case.check(program(*inputs), case.expected(inputs))


@pytest.mark.parametrize("size", [1e-3, 30.0])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_float16_holds_states_beyond_its_range(size, direction, rng, tmp_path):
    """Normalised results are small where states, and what reads them, end far beyond 65504 (or below its last bit)."""
    case = Case(causal(normalize="trace"), "float16", 150, 32, 32, CudaSchedule(chunk=32), direction)
    inputs = case.inputs(rng)
    inputs[:2] = [(size * x.astype(np.float64)).astype(np.float16) for x in inputs[:2]]
    outputs, expected = emulated(case, tmp_path)(*inputs), case.expected(inputs)
    (largest,) = (np.abs(x.astype(np.float64)).max() for x in inputs[:1])
    assert size < 1 or largest**4 * 32**2 > 65504
    places = slice(0, 1) if direction == "forward" else slice(2, 3)  # of v: that of q and k is beyond the range itself
    case.check(outputs[places], expected[places])


def test_two_halves_of_a_state_lose_nothing_that_one_keeps(rng, tmp_path):
    """Small integers: scores and products are exact, sums of 512 tokens have more bits than one bfloat16."""
    errors = []
    inputs = [rng.integers(0, 3, (1, 2, 512, 32)).astype(KINDS["bfloat16"]) for _ in range(3)]
    for halves in (1, 2):
        case = Case(causal(order=1), "bfloat16", 512, 32, 32, CudaSchedule(halves=halves))
        (output,), (value,) = emulated(case, tmp_path)(*inputs), case.expected(inputs)
        errors.append(np.abs(output - value.astype(KINDS["bfloat16"]).astype(np.float64)).max())
    assert errors[0] > 0
    assert errors[1] == 0


@pytest.mark.parametrize("barrier", range(3))
def test_the_emulator_sees_a_missing_barrier(barrier, rng, tmp_path):
    """Every barrier in the loop over chunks is needed: without it the numbers change in one order of the warps."""
    case = CASES["order 2, bfloat16"]
    program, inputs = emulated(case, tmp_path), case.inputs(rng)
    start = program.source.index("for (int turn")
    parts = program.source[start:].split("tvm_builtin_cuda_cta_sync();")
    assert len(parts) == 4
    joined = "tvm_builtin_cuda_cta_sync();".join(parts[: barrier + 1]) + parts[barrier + 1]
    rest = "".join(f"tvm_builtin_cuda_cta_sync();{part}" for part in parts[barrier + 2 :])
    expected = case.expected(inputs)
    broken = emulated(case, tmp_path)
    broken.emulated = Emulated(program.source[:start] + joined + rest, tmp_path)
    wrong = [broken(*inputs, backwards=backwards) for backwards in (False, True)]
    assert not all(
        np.allclose(output, expected[0], rtol=1e-2, atol=1e-2 * np.abs(expected[0]).max()) for (output,) in wrong
    )


def test_the_emulator_sees_a_missing_wait(rng, tmp_path):
    case = CASES["order 1, float16"]
    program, inputs = emulated(case, tmp_path), case.inputs(rng)
    text = program.source.replace('asm volatile("cp.async.wait_group 0;"', 'asm volatile("nothing;"')
    calls = [line for line in text.splitlines() if "wait_group_0();" in line and "{" not in line]
    program.emulated = Emulated(text.replace(calls[0], ""), tmp_path)
    with pytest.raises(AssertionError):
        case.check(program(*inputs), case.expected(inputs))


def test_the_emulator_names_what_it_does_not_know(tmp_path):
    text = (
        "__forceinline__ __device__ void tvm_builtin_ptx_setmaxnreg(int n) {\n  asm();\n}\n"
        'extern "C" __global__ void __launch_bounds__(32) main_kernel(float* __restrict__ o_ptr) {\n}\n'
    )
    with pytest.raises(NotImplementedError, match="tvm_builtin_ptx_setmaxnreg"):
        Emulated(text, tmp_path).text()
