"""What a pass under a schedule needs of a device, and what no device can run.

Decided without TVM, so that schedules that cannot fit are never built: the kernel follows a plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import ONES, Apply, Expr, MatrixFunction, factors_of, terms_of

from ..steps import Step
from .layouts import ThreadTile
from .placement import BYTES, MATRIX, PADDING, Placement

FUNCTIONS = (
    "recip", "exp", "log", "relu", "sqrt", "tanh", "sigmoid", "silu", "abs", "step", "conj", "real", "select",
)  # fmt: skip
"""The pointwise functions that kernels have."""
OVERHEAD = 48
"""Registers for addresses, loop counters and the operands of one instruction."""


@dataclass(frozen=True)
class Plan(Placement):
    """One pass under a schedule: where its values live, and what that costs."""

    # ------------------------------------------------------------------ what it costs

    def stride(self, columns: int) -> int:
        """Elements from one row of a tile in shared memory to the next: 16 bytes more than a row, against conflicts."""
        return columns + 16 // BYTES[self.tile_dtype]

    @cached_property
    def shared_bytes(self) -> int:
        """Shared memory of a thread block, in bytes."""
        element = BYTES[self.tile_dtype]
        tiles = [(p.name, self.schedule.stages) for p in self.incoming]
        tiles += [(name, self.copies(name)) for name in self.staged]
        total = (
            _aligned(4 * len(self.measured) * self.schedule.warps)
            + _aligned(4 * self.partials)
            + _aligned(4 * self.sums)
            + sum(_aligned(4 * self.shape(name)[0]) for name in self.vectors)
        )
        width = self.function_width
        total += 2 * _aligned(4 * width * (width + PADDING)) + _aligned(4 * width)
        for name, copies in tiles:
            rows, columns = self.shape(name)
            total += _aligned(copies * rows * self.stride(columns) * element)
        return total

    @cached_property
    def registers(self) -> int:
        """About how many registers a thread needs."""
        steps = self.steps
        last = {read.tensor: place for place, step in enumerate(steps) for read in step.reads}
        most = live = sum(self.count(name) for name in (*self.carried, *self.held_in_registers))
        held: dict[str, int] = {}
        for place, step in enumerate(steps):
            if step.name not in self.carried:
                held[step.name] = self.count(step.name)
            most = max(most, live + sum(held.values()) + self.function_registers(step))
            held = {name: count for name, count in held.items() if last.get(name, place) > place}
        if self.part.walk.rows is not None:  # where an element is in its matrix says whether it counts
            most += max(self.count(step.name) for step in steps) // 4
        return most + OVERHEAD

    @cached_property
    def held_in_registers(self) -> tuple[str, ...]:
        """What is held and read from registers in every chunk; of the rest a copy in shared memory is enough."""
        body = self.part.walk.body
        read = {r.tensor for s in body for r in self.elementwise(s) if not self.crosses(r, self.tile_of(s))}
        read |= {f.tensor for s in body for c in s.contractions for f in c.factors} & self.left_in_registers
        return tuple(p.name for p in self.held if len(p.axes) == MATRIX and p.name in read)

    def function_registers(self, step: Step) -> int:
        """Registers a thread of the two accumulators of a function of a matrix."""
        width = self.width_of_function(step)
        if not width:
            return 0
        return 2 * ThreadTile.of(width, width, self.schedule.warps).registers

    def count(self, name: str) -> int:
        """Registers a thread of one value."""
        shape = self.shape(name)
        return self.layout(*shape).registers if len(shape) == MATRIX else 1 - len(shape)

    @cached_property
    def multiplications(self) -> int:
        """Multiply-adds of a thread block in one chunk."""
        total = 0
        for step in self.part.walk.body:
            for contraction in step.contractions if len(step.indices) == MATRIX else ():
                product = self.product(step, contraction)
                rows, columns = self.shape(step.name)
                halves = max(self.copies(product.left.name), self.copies(product.right.name))
                total += rows * columns * self.extent(product.inner) * halves
        return total

    @cached_property
    def bytes_of_chunk(self) -> int:
        """Bytes that a thread block moves to and from memory in one chunk."""
        results = [p for p in self.program.outputs if p.name in self.part.walk.results]
        each = [p.name for p in (*self.tokens, *self.loaded, *results)]
        left = self.outgoing if self.part.walk.rows is None else ()  # rows are written once
        total = BYTES[self.dtype] * sum(prod(self.shape(name)) for name in each)
        total += BYTES[self.tile_dtype] * sum(prod(self.shape(name)) for name in left) // self.span
        return total + 2 * BYTES["float32"] * sum(prod(self.shape(name)) for name in self.part.replayed)

    # ------------------------------------------------------------------ what there is no kernel for

    def check(self) -> None:
        """Raise what no device can run.

        Raises
        ------
        CompileError
            With the step, or the size and those that are possible.
        """
        if self.dtype not in BYTES:
            raise CompileError(f"dtype {self.dtype} has no CUDA kernel; there are {', '.join(BYTES)}")
        known = {p.name for p in (*self.tokens, *self.scalars, *self.held, *self.loaded)} | set(self.carried)
        known |= set(self.program.constants)
        known |= {name for w in self.program.weights for name in (w.rise, w.fall, w.whole)} | {ONES}
        for step in self.steps:
            for name in {read.tensor for read in step.reads} - known - {step.name}:
                raise CompileError(
                    f"{self.program.name}: {step.name} reads {name}, which an earlier walk prepares; no CUDA kernel"
                )
            known.add(step.name)
            self._check(step)
        for name in {step.name for step in self.steps} | (self.used - {ONES}):
            shape = self.shape(name)
            if len(shape) == MATRIX:
                self.layout(*shape)
                if shape[1] * BYTES[self.dtype] % 16:
                    raise CompileError(f"{name} has rows of {shape[1]} elements; they must be a multiple of 16 bytes")

    def _check(self, step: Step) -> None:
        if isinstance(step.finish, MatrixFunction):
            self._check_function(step, step.finish)
            return
        if len(step.indices) < MATRIX:
            for contraction in step.contractions:
                if len({*step.indices, *contraction.summed}) > MATRIX:
                    raise CompileError(f"{self.program.name}: {step.name} sums over more than a matrix")
            if step.order is not None:
                raise CompileError(f"{self.program.name}: {step.name} is ordered; a CUDA kernel orders matrices")
        for expr in (step.finish, *(group.factor for group in step.groups)):
            for function in _functions(expr):
                if function not in FUNCTIONS:
                    raise CompileError(f"{self.program.name}: {step.name} applies {function}; no CUDA kernel has it")

    def _check_function(self, step: Step, function: MatrixFunction) -> None:
        rows, columns = function.indices
        said = f"{self.program.name}: {step.name} is {function.function} of {rows.axis} × {columns.axis}"
        if rows.axis != columns.axis:
            raise CompileError(f"{said}, which is not square")
        outside = {p.name for p in (*self.tokens, *self.loaded)}
        if any(read.tensor in outside for read in step.reads):
            raise CompileError(f"{said} tokens; a CUDA kernel takes functions of matrices without tokens")


def _functions(expr: Expr) -> Iterator[str]:
    for term in terms_of(expr):
        for factor in factors_of(term):
            if isinstance(factor, Apply):
                yield factor.function
                for operand in factor.operands:
                    yield from _functions(operand)
            elif factor not in (term, expr):
                yield from _functions(factor)


def _aligned(size: int) -> int:
    return -(-size // 128) * 128
