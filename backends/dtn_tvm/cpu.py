"""The family of CPU schedules: which are worth measuring, and which to take without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from dtn_codegen.tensorir.schedule import CpuSchedule, Schedule
from dtn_codegen.tensorir.walks import TileProgram
from dtn_core.errors import CompileError

from . import threads
from .problem import Problem, tile_program
from .targets import Target

CHUNK = 32
PAIRS = 64
"""Tokens of a chunk whose states are over pairs of features: it goes through each of them several times."""
PAIRED = 8 * 2**20
"""Bytes of a head's chunk and states from which a gradient over pairs of features is slower than the native one."""
CHUNKS = (16, 32, 64, 128)
TILES = ((8, 16), (16, 16), (4, 32), (8, 32), (4, 64))
UNROLLS = (1, 2, 4)
WIDE = 64
FEW = 16_384
"""Tokens of all heads together below which waking TVM's own threads costs more than they give."""


def space(problem: Problem, target: Target) -> tuple[CpuSchedule, ...]:
    """Valid candidates, the best predicted first."""
    first = default(problem, target)
    found = {first: None}
    if problem.tiles.by_token:  # no product of tiles
        return (first,)
    for chunk, tokens, features, unroll in product(CHUNKS, TILES, TILES, UNROLLS):
        try:
            found[replace(first, chunk=chunk, tokens=tokens, features=features, unroll=unroll)] = None
        except CompileError:
            continue
    return tuple(found)


def default(problem: Problem, target: Target) -> CpuSchedule:
    """What to take without measuring."""
    by_token = problem.tiles.by_token  # or why there is no kernel
    length = problem.sizes[problem.axis]
    tasks = problem.sizes["batch"] * problem.sizes["heads"]
    schedule = _measured(problem, next((chunk for chunk in CHUNKS if chunk >= length), CHUNKS[-1]))
    few = length * tasks <= FEW
    awake = few and threads.share_openmp()  # those of OpenMP pay from a few microseconds on
    if target.threads >= 2 and tasks >= target.threads and (awake or not few):
        return schedule
    if few or target.threads < 2:
        return replace(schedule, parallel="serial")
    if problem.direction == "backward" or by_token:
        return replace(schedule, parallel="heads" if tasks > 1 else "serial")
    return replace(schedule, parallel="split", parts=-(-target.threads // max(1, tasks)))


def _measured(problem: Problem, whole: int) -> CpuSchedule:
    """What did well at all shapes of its kind, or one chunk of ``whole``: short ones, unless states are costly."""
    widest = max((problem.sizes[axis] for axis in problem.tiles.features), default=1)
    if problem.tiles.pairs:
        return CpuSchedule(min(whole, PAIRS))
    if problem.direction == "backward" or widest > WIDE:
        return CpuSchedule(min(whole, CHUNK))
    return CpuSchedule(min(whole, CHUNKS[0]), features=(4, 64), unroll=1)


def lacks(program: TileProgram, sizes: Mapping[str, int]) -> str:
    """Why the gradient has no kernel at these sizes of features; empty where it has one."""
    from dtn_codegen.tensorir.cpu import check_fits

    try:
        check_fits(program, CpuSchedule(PAIRS if program.pairs else CHUNK), sizes, PAIRED if program.pairs else None)
    except CompileError as error:
        return str(error)
    return ""


def lower(problem: Problem, schedule: Schedule, target: Target) -> Any:
    """The module of a candidate."""
    from dtn_codegen.tensorir.cpu import lower_cpu

    if not isinstance(schedule, CpuSchedule):
        raise CompileError(f"a {schedule.kind} schedule cannot be compiled for {target.name}")
    split = schedule.parallel == "split"
    program = tile_program(problem.operator, problem.direction, split=split, resumed=problem.resumed)
    return lower_cpu(program, schedule, problem.sizes, problem.dtype, problem.layout)
