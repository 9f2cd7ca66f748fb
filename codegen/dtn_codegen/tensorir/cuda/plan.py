"""Where every value of a chunk lives: registers, shared memory, or both; and what that costs.

Decided once, without TVM, so that schedules that cannot fit are never built: the kernel walks over a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import ONES, Index, Param, Read, Relation, terms_of
from dtn_core.passes.pipeline import Chunked
from dtn_core.passes.stream import State, Weights

from .layouts import Layout, layout
from .operations import Map, Matmul, Operation, Reduce, operations, read_by, tile_indices
from .passes import Pass
from .schedule import CudaSchedule

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
OVERHEAD = 48
"""Registers for addresses, loop counters and the operands of one instruction."""
MOST_REGISTERS = 255


@dataclass(frozen=True)
class Plan:
    """One pass over the chunks under a schedule.

    Attributes
    ----------
    part : Pass
    chunked : Chunked
    schedule : CudaSchedule
    dtype : str
        Of tokens and results: ``float16``, ``bfloat16`` or ``float32``.
    sizes : Mapping[str, int]
        Size of every feature axis.
    """

    part: Pass
    chunked: Chunked
    schedule: CudaSchedule
    dtype: str
    sizes: Mapping[str, int]

    # ------------------------------------------------------------------ what there is

    @property
    def axis(self) -> str:
        """The axis of the tokens."""
        return self.chunked.stream.axis

    @property
    def tensor_cores(self) -> bool:
        """Whether products run on tensor cores."""
        return self.dtype != "float32"

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        """What happens in a chunk."""
        return operations(self.part.program)

    @cached_property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Axes of every value: tokens, constants, states and results of operations."""
        found = {p.name: p.axes for p in self.part.program.params}
        return found | {operation.name: operation.axes for operation in self.operations}

    @cached_property
    def used(self) -> frozenset[str]:
        """The tensors that some operation reads."""
        return frozenset(read.tensor for operation in self.operations for read in read_by(operation))

    @cached_property
    def tokens(self) -> tuple[Param, ...]:
        """The arguments along the tokens that are read."""
        return tuple(p for p in self.chunked.stream.tokens if p.name in self.used)

    @cached_property
    def constants(self) -> tuple[Param, ...]:
        """The scalar arguments that are read.

        Raises
        ------
        CompileError
            If an argument without tokens has axes.
        """
        decays = {w.decay.tensor for w in self.weights if isinstance(w.decay, Read)}
        found = [p for p in self.chunked.stream.constants if p.name in self.used | decays]
        for param in found:
            if param.axes:
                raise CompileError(
                    f"{self.chunked.chunk.name}: {param.name} has axes but no tokens; no CUDA kernel holds it"
                )
        return tuple(found)

    @cached_property
    def weights(self) -> tuple[Weights, ...]:
        """The decays of the states and of the operations."""
        carried = {state.weights for state in self.part.states}
        return tuple(w for w in self.chunked.stream.weights if w in carried or {w.rise, w.fall} & self.used)

    @cached_property
    def deferred(self) -> dict[str, Matmul]:
        """Products that are added where they are read: one reader, which adds them to something, or a state."""
        readers: dict[str, int] = {}
        for operation in self.operations:
            for read in read_by(operation):
                readers[read.tensor] = readers.get(read.tensor, 0) + 1
        bare = {
            term.tensor
            for operation in self.operations
            if isinstance(operation, Map) and not operation.order and len(operation.indices) == 2
            for term in terms_of(operation.value)
            if isinstance(term, Read) and term.indices == operation.indices
        }
        added = {state.added for state in self.part.states}
        return {
            operation.name: operation
            for operation in self.operations
            if isinstance(operation, Matmul)
            and operation.scale == 1
            and (
                (operation.name in added and operation.name not in readers)
                or (operation.name in bare and readers[operation.name] == 1 and operation.name not in added)
            )
        }

    # ------------------------------------------------------------------ where it lives

    @property
    def blocked(self) -> str | None:
        """The axis whose columns are shared out over thread blocks: the results' last, if nothing sums over it."""
        if not self.schedule.block:
            return None
        candidates = {p.axes[-1] for p in self.part.results or self.chunked.stream.results if len(p.axes) == 2}
        if len(candidates) != 1:
            return None
        axis = candidates.pop()
        summed = {o.inner for o in self.operations if isinstance(o, Matmul)}
        summed |= {o.summed.axis for o in self.operations if isinstance(o, Reduce)}
        columns_only = all(axes.count(axis) < 2 for axes in self.axes.values())
        return axis if axis not in summed and columns_only and self.size(axis) > self.schedule.block else None

    def size(self, axis: str) -> int:
        """The size of an axis in the whole problem; of the token axis, the chunk."""
        return self.schedule.chunk if axis == self.axis else self.sizes[axis]

    def extent(self, axis: str) -> int:
        """The size of an axis in one thread block."""
        return self.schedule.block if axis == self.blocked else self.size(axis)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value in one thread block."""
        return tuple(self.extent(axis) for axis in self.axes[name])

    def layout(self, rows: int, columns: int) -> Layout:
        """How a tile is spread over the block."""
        return layout(rows, columns, self.schedule.warps, tensor_cores=self.tensor_cores)

    def in_registers(self, product: Matmul) -> bool:
        """Whether the left factor of a product is read from the registers that it was computed in."""
        name = product.left.name
        if product.left.transposed or name in {p.name for p in self.tokens}:
            return False
        rows, columns = self.shape(name)
        return self.layout(rows, columns).whole_rows

    @cached_property
    def staged(self) -> tuple[str, ...]:
        """The computed tiles that a copy in shared memory is kept of."""
        tokens = {p.name for p in self.tokens}
        found: dict[str, None] = {}
        for operation in self.operations:
            if isinstance(operation, Matmul):
                wanted = [operation.right.name]
                if not self.in_registers(operation):
                    wanted.append(operation.left.name)
            else:
                wanted = [r.tensor for r in read_by(operation) if self.crosses(r, tile_indices(operation))]
            found.update(dict.fromkeys(name for name in wanted if name not in tokens))
        return tuple(found)

    def crosses(self, read: Read, indices: tuple[Index, ...]) -> bool:
        """Whether an element is read by another thread than the one that has it in a register."""
        return len(read.indices) == 2 and read.tensor != ONES and read.indices != indices

    def copies(self, name: str) -> int:
        """The 16-bit numbers that an element of a staged tile is rounded to."""
        is_state = name in {state.name for state in self.part.states}
        return self.schedule.halves if is_state and self.tensor_cores else 1

    @property
    def vectors(self) -> tuple[str, ...]:
        """Values with one axis; they live in shared memory."""
        weights = {name for w in self.weights for name in (w.rise, w.fall)}
        names = [*(p.name for p in self.tokens), *(s.name for s in self.part.states)]
        names += [operation.name for operation in self.operations]
        return tuple(name for name in names if len(self.axes[name]) == 1 and name not in weights)

    @property
    def partials(self) -> int:
        """Elements of shared memory for sums that threads share."""
        most = 0
        for operation in self.operations:
            if isinstance(operation, Reduce) and operation.kept:
                rows, columns = (self.extent(i.axis) for i in tile_indices(operation))
                most = max(most, self.layout(rows, columns).row_slots * rows)
        return most

    # ------------------------------------------------------------------ what it costs

    def stride(self, columns: int) -> int:
        """Elements from one row of a tile in shared memory to the next: 16 bytes more than a row, against conflicts."""
        return columns + 16 // BYTES[self.dtype]

    @cached_property
    def shared_bytes(self) -> int:
        """Shared memory of a thread block, in bytes."""
        element = BYTES[self.dtype]
        total = 4 * self.partials
        for param in self.tokens:
            if len(param.axes) == 2:
                rows, columns = self.shape(param.name)
                total += _aligned(self.schedule.stages * rows * self.stride(columns) * element)
        for name in self.staged:
            rows, columns = self.shape(name)
            total += _aligned(self.copies(name) * rows * self.stride(columns) * element)
        return total + sum(_aligned(4 * self.shape(name)[0]) for name in self.vectors)

    @cached_property
    def registers(self) -> int:
        """About how many registers a thread needs."""
        states = sum(self.count(state.name) for state in self.part.states)
        last: dict[str, int] = {}
        for place, operation in enumerate(self.operations):
            for read in read_by(operation):
                last[read.tensor] = place
        most = live = 0
        held: dict[str, int] = {}
        for place, operation in enumerate(self.operations):
            if operation.name not in self.deferred:
                held[operation.name] = self.count(operation.name)
            live = sum(held.values())
            most = max(most, live)
            for name in [n for n in held if last.get(n, place) <= place]:
                del held[name]
        return states + most + OVERHEAD

    def count(self, name: str) -> int:
        """Registers a thread of one value."""
        shape = self.shape(name)
        return self.layout(*shape).registers if len(shape) == 2 else 1 - len(shape)

    @cached_property
    def multiplications(self) -> int:
        """Multiply-adds of a thread block in one chunk."""
        total = 0
        for operation in self.operations:
            if isinstance(operation, Matmul):
                rows, columns = self.shape(operation.name)
                halves = max(self.copies(operation.left.name), self.copies(operation.right.name))
                total += rows * columns * self.extent(operation.inner) * halves
        return total

    def check(self) -> None:
        """Raise what makes the plan impossible on any device.

        Raises
        ------
        CompileError
            With the operation or the size, and what is possible.
        """
        if self.dtype not in BYTES:
            raise CompileError(f"dtype {self.dtype} has no CUDA kernel; there are {', '.join(BYTES)}")
        _ = self.constants
        for name, axes in self.axes.items():
            if len(axes) == 2:
                rows, columns = self.shape(name)
                self.layout(rows, columns)
                if columns % (16 // BYTES[self.dtype]):
                    raise CompileError(f"{name} has rows of {columns} elements, which are not a multiple of 16 bytes")
            if len(axes) > 2:
                raise CompileError(f"{self.chunked.chunk.name}: {name} has {len(axes)} axes; a CUDA kernel holds two")
        names = {state.name for state in self.part.states}
        for operation in self.operations:
            for relation in getattr(operation, "order", ()):
                self._check_order(operation, relation)
        if any(state.weights is not None and state.name not in names for state in self.part.states):
            raise CompileError(f"{self.chunked.chunk.name}: a decayed state is not carried")

    def _check_order(self, operation: Operation, relation: Relation) -> None:
        if isinstance(operation, Matmul) or not {relation.lower, relation.upper} <= set(tile_indices(operation)):
            raise CompileError(f"{self.chunked.chunk.name}: {operation.name} is ordered by an index it does not have")

    def update_of(self, state: State) -> Matmul | None:
        """The product that a state grows by, when it is added to the state's registers directly."""
        return self.deferred.get(state.added)


def _aligned(size: int) -> int:
    return -(-size // 128) * 128
