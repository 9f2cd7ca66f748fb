"""The family of CUDA schedules: which are worth measuring, and which to take without.

Nothing here needs a GPU: kernels are compiled for the target by nvcc.

Verified without one: the generated text compiles for sm_80 and sm_90a without spilled registers, and run under an
emulator of the warp instructions (``tests/tvm/emulator``) it agrees with the dense interpreter.  Not verified without
one, but by ``tests/gpu`` on a card: that the machine code does too; that kernels are queued on the stream that the
framework made current (TVM's CUDA runtime asks ``TVMFFIEnvGetStream`` for it, which ``tvm_ffi`` sets from the tensors
of a call); and every number of ``dtn_codegen.tensorir.cuda.cost``, which is estimated from data sheets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

from dtn_codegen.tensorir.cuda.cost import PROCESSORS, Device, check_fits, seconds
from dtn_codegen.tensorir.cuda.lower import Launches, launches
from dtn_codegen.tensorir.cuda.schedule import CudaRows, CudaSchedule
from dtn_codegen.tensorir.schedule import Schedule
from dtn_codegen.tensorir.walks import TileProgram
from dtn_core.errors import CompileError
from dtn_core.operators import Operator

from .problem import Problem, check_rows, gradient_lacks, tile_program
from .targets import Target

CHUNKS = (64, 32, 128, 16)
WARPS = (4, 8, 16, 2)
STAGES = (2, 1, 3)
BLOCKS = (0, 64, 32)
NARROW = 16
"""Columns of a block where states over pairs of features leave no room for more."""
FULL = (1, 2)
"""Thread blocks a multiprocessor that sequences are cut into, where there are too few of them."""
_FLOPS = {"float32": 2e13, "float16": 3e14, "bfloat16": 3e14}
_BANDWIDTH = 1.5e12


def device(target: Target, dtype: str) -> Device:
    """What bounds kernels on a target; where that is not documented, what an A100 has."""
    known = target.ceilings
    return Device(
        target.shared_memory,
        target.registers,
        PROCESSORS.get(target.arch, PROCESSORS["sm_80"]),
        known.bandwidth if known else _BANDWIDTH,
        known.flops[dtype] if known else _FLOPS[dtype],
    )


@lru_cache(maxsize=256)
def space(problem: Problem, target: Target) -> tuple[CudaSchedule, ...]:
    """Candidates that fit the device, the best predicted first."""
    check_rows(problem.operator, problem.direction, problem.sizes, resumed=problem.resumed)
    limits = device(target, problem.dtype)
    sequences = problem.sizes["batch"] * problem.sizes["heads"]
    length = problem.sizes[problem.axis]
    found: dict[CudaSchedule, float] = {}
    reason: CompileError | None = None
    there = {CudaSchedule: not problem.tiles.rows, CudaRows: problem.by_rows}
    families = [family for family, has_program in there.items() if has_program]
    candidates = ((family, plain) for family in families for plain in _schedules(program_of(problem, family), family))
    for family, plain in candidates:
        if plain.chunk > max(CHUNKS[-1], 2 * length):
            continue
        program = program_of(problem, family)
        for split in (0, *(limits.processors * full for full in FULL)):
            schedule = replace(plain, split=split)
            try:
                made = _fitting(program, schedule, problem.sizes, problem.dtype, limits)
            except CompileError as error:
                reason = reason or error
                break
            if plain.block and all(plan.blocked is None for plan in made.plans):
                break
            folds = len(made.stages) - len(made.plans)
            found[schedule] = seconds(made.plans, folds, limits, sequences, length)
            enough = sequences * max(plan.blocks for plan in made.plans) >= limits.processors * max(FULL)
            if split == 0 and (enough or all(plan.part.walk.rows is not None for plan in made.plans)):
                break
    if not found:
        raise reason or CompileError(f"{problem.operator.name} has no CUDA kernel for {target.name}")
    return tuple(sorted(found, key=lambda schedule: found[schedule]))


def _schedules(program: TileProgram, family: type[CudaSchedule]) -> Iterator[CudaSchedule]:
    """Schedules of a family that differ in what a program does, none of them split."""
    chunks, stages, blocks = CHUNKS, STAGES, BLOCKS
    if program.by_token:  # nothing is copied ahead, and only the way back leaves states once a chunk
        chunks, stages = CHUNKS if any(walk.replay for walk in program.walks) else CHUNKS[-1:], STAGES[:1]
    if program.pairs:
        blocks = (*BLOCKS, NARROW)
    for chunk, warps, stage, block in product(chunks, WARPS, stages, blocks):
        yield family(chunk, warps, stage, block)


def _fitting(
    program: TileProgram, schedule: CudaSchedule, sizes: Mapping[str, int], dtype: str, limits: Device
) -> Launches:
    """What a program launches under a schedule; CompileError if that does not fit the device."""
    made = launches(program, schedule, sizes, dtype)
    for plan in made.plans:
        check_fits(plan, limits)
    return made


def program_of(problem: Problem, family: type[Schedule]) -> TileProgram:
    """What schedules of a family are of; rows of matrices are computed side by side."""
    rows = family.by_rows
    return tile_program(problem.operator, problem.direction, split=rows, resumed=problem.resumed, rows=rows)


def default(problem: Problem, target: Target) -> CudaSchedule:
    """What to take without measuring: the best predicted."""
    return space(problem, target)[0]


def lacks(operator: Operator, sizes: Mapping[str, int], dtype: str, target: Target, *, resumed: bool) -> str:
    """Why a gradient has no kernel on a device; empty where it has one."""

    def check(rows: bool) -> None:
        program = tile_program(operator, "backward", resumed=resumed, rows=rows)
        features = tuple((axis, int(sizes[axis])) for axis in program.features)
        if reason := _unfit(operator, rows, features, dtype, target, resumed):
            raise CompileError(reason)

    return gradient_lacks(operator, sizes, check, resumed=resumed)


@lru_cache(maxsize=256)
def _unfit(
    operator: Operator, rows: bool, features: tuple[tuple[str, int], ...], dtype: str, target: Target, resumed: bool
) -> str:
    """Why no schedule of a gradient fits a device, however many tokens there are; empty where one does."""
    program = tile_program(operator, "backward", split=rows, resumed=resumed, rows=rows)
    limits, reason = device(target, dtype), ""
    for schedule in _schedules(program, CudaRows if rows else CudaSchedule):
        try:
            _fitting(program, schedule, dict(features), dtype, limits)
        except CompileError as error:
            reason = reason or str(error)
        else:
            return ""
    return reason


def lower(problem: Problem, schedule: Schedule, target: Target) -> Any:
    """The module of a candidate."""
    from dtn_codegen.tensorir.cuda.lower import lower_cuda

    if not isinstance(schedule, CudaSchedule):
        raise CompileError(f"a {schedule.kind} schedule cannot be compiled for {target.name}")
    program = program_of(problem, type(schedule))
    _fitting(program, schedule, problem.sizes, problem.dtype, device(target, problem.dtype))
    return lower_cuda(program, schedule, problem.sizes, problem.dtype, problem.layout)


def build(module: Any, target: Any) -> Any:
    """Machine code for the target, whether or not there is a GPU."""
    from dtn_codegen.tensorir.cuda.build import build as build_cuda

    return build_cuda(module, target)
