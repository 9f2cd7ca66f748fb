"""The family of CPU schedules: which are worth measuring, and which to take without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from dtn_codegen.tensorir.rows import ALL
from dtn_codegen.tensorir.schedule import CpuRows, CpuSchedule, Schedule
from dtn_codegen.tensorir.walks import TileProgram
from dtn_core.errors import CompileError
from dtn_core.operators import Operator

from . import threads
from .problem import Problem, check_rows, gradient_lacks, tile_program
from .targets import Target

ORDERED = 32
"""Rows of a chunk of matrices with order."""
PAIRS = 64
"""Tokens of a chunk whose states are over pairs of features: it goes through each of them several times."""
SQUARE = 64
"""Rows of a chunk of matrices without order: no half of a chunk of theirs is computed in vain."""
SHARE = {"forward": (4, 32), "backward": (2, 128)}
"""The part of the features that a chunk has in tokens, and how many at most: they share what a state costs."""
WHOLE = 64
"""Tokens up to which a sequence is one chunk, without states."""
CHUNKS = (16, 32, 64, 128)
ROWS, VECTORS = (2, 4, 8, 16), (1, 2, 4)
"""Rows of an accumulator, and vectors of a row, to choose from."""
UNROLLS = (1, 2, 4)
MANY = 32
"""Registers from which accumulators of several shapes are worth their while."""
FEW = 16_384
"""Tokens of all heads together below which waking TVM's own threads costs more than they give."""
FEW_FLOPS = 10**9
"""The same for n×n matrices, whose work is not that of tokens."""


def space(problem: Problem, target: Target) -> tuple[CpuSchedule, ...]:
    """Valid candidates, the best predicted first."""
    first = default(problem, target)
    found = {first: None}
    if problem.tiles.by_token and not isinstance(first, CpuRows):  # no product of tiles
        return (first,)
    tiles = _accumulators(target)
    for chunk, tokens, features, unroll in product(CHUNKS, tiles, tiles, UNROLLS):
        try:
            found[replace(first, chunk=chunk, tokens=tokens, features=features, unroll=unroll)] = None
        except CompileError:
            continue
    return tuple(found)


def _accumulators(target: Target) -> list[tuple[int, int]]:
    """Rows and columns of accumulators that fill up to half of the registers, and at least a quarter."""
    lanes, registers = target.vectors
    return [
        (rows, vectors * lanes)
        for rows, vectors in product(ROWS, VECTORS)
        if registers <= 4 * rows * vectors <= 2 * registers
    ]


def default(problem: Problem, target: Target) -> CpuSchedule:
    """What to take without measuring."""
    by_token = problem.tiles.by_token  # or why there is no kernel
    check_rows(problem.operator, problem.direction, problem.sizes, resumed=problem.resumed)
    by_rows = problem.by_rows
    length = problem.sizes[problem.axis]
    tasks = problem.sizes["batch"] * problem.sizes["heads"]
    schedule = _measured(problem, target, next((chunk for chunk in CHUNKS if chunk >= length), CHUNKS[-1]))
    few = problem.flops <= FEW_FLOPS if by_rows else length * tasks <= FEW
    awake = few and threads.share_openmp()  # those of OpenMP pay from a few microseconds on
    if target.threads >= 2 and tasks >= target.threads and (awake or not few):
        return schedule
    if few or target.threads < 2:
        return replace(schedule, parallel="serial")
    if by_token and not by_rows:
        return replace(schedule, parallel="heads" if tasks > 1 else "serial")
    return replace(schedule, parallel="split", parts=-(-target.threads // max(1, tasks)))


def _measured(problem: Problem, target: Target, whole: int) -> CpuSchedule:
    """What did well at all shapes of its kind, or one chunk of ``whole``: short ones, unless states are costly."""
    lanes, registers = target.vectors

    def accumulator(rows: int) -> tuple[int, int]:
        rows = min(rows, lanes)
        return rows, registers // 2 // rows * lanes

    by_rows = problem.by_rows
    family: type[CpuSchedule] = CpuRows if by_rows else CpuSchedule
    program = tile_program(problem.operator, problem.direction, rows=True) if by_rows else problem.tiles
    widest, chunk = _widest(program, problem.sizes), _chunk(program, problem.direction, problem.sizes, rows=by_rows)
    chunk = whole if whole <= WHOLE and not by_rows else min(whole, chunk)
    if registers < MANY:
        return family(chunk, accumulator(4), accumulator(4), 1, lanes)

    def filled(extent: int, *rows: int) -> tuple[int, int]:
        """The first that is no wider than ``extent``, or the last: the flatter, the fewer loads a multiplication."""
        found = [accumulator(count) for count in rows]
        return next((shape for shape in found if shape[1] <= extent), found[-1])

    return family(chunk, filled(chunk, 8, 16), filled(widest, 4, 8), 2, lanes)


def _chunk(program: TileProgram, direction: str, sizes: Mapping[str, int], *, rows: bool) -> int:
    """Tokens of a chunk by default, or rows of matrices."""
    if rows:
        square = all(walk.rows is None or walk.rows.side == ALL for walk in program.walks)
        return SQUARE if square else ORDERED
    if program.pairs:
        return PAIRS
    share, most = SHARE[direction]
    return max(chunk for chunk in CHUNKS if chunk <= max(CHUNKS[0], min(_widest(program, sizes) // share, most)))


def _widest(program: TileProgram, sizes: Mapping[str, int]) -> int:
    return max((sizes[axis] for axis in program.features), default=1)


def lacks(operator: Operator, sizes: Mapping[str, int], dtype: str, target: Target, *, resumed: bool) -> str:
    """Why the gradient has no kernel at these sizes; empty where it has one."""
    from dtn_codegen.tensorir.cpu import check_fits

    def check(rows: bool) -> None:
        program = tile_program(operator, "backward", resumed=resumed, rows=rows)
        check_fits(program, CpuSchedule(_chunk(program, "backward", sizes, rows=rows)), sizes)

    return gradient_lacks(operator, sizes, check, resumed=resumed)


def lower(problem: Problem, schedule: Schedule, target: Target) -> Any:
    """The module of a candidate."""
    from dtn_codegen.tensorir.cpu import lower_cpu

    if not isinstance(schedule, CpuSchedule):
        raise CompileError(f"a {schedule.kind} schedule cannot be compiled for {target.name}")
    split, rows = schedule.parallel == "split", isinstance(schedule, CpuRows)
    program = tile_program(problem.operator, problem.direction, split=split, resumed=problem.resumed, rows=rows)
    return lower_cpu(program, schedule, problem.sizes, problem.dtype, problem.layout)
