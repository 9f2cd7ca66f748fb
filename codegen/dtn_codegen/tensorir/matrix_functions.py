"""Functions of small matrices on a CPU: what stands between the walks of an operator with ``expm``.

By scaling and squaring: with ``Y = X / 2^s`` of norm at most 1/2, ``P = φ₁(Y)`` by its power series and
``E = Y·P = e^Y − I``, every doubling of Y is ``P ← P + E·P/2``, ``E ← 2E + E²``.  E is kept without the identity, whose
digits it would lose.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import Index, MatrixFunction

from .buffers import FLOAT, Buffers
from .scaling import MOST_SQUARINGS, TERMS
from .steps import Step


class MatrixFunctions(Buffers):
    """Emits ``expm`` and ``phi1`` of a matrix, or of a block matrix of which one block is wanted."""

    def matrix_function(self, step: Step) -> None:
        """Compute the block of a function that a step is."""
        value = step.finish
        assert isinstance(value, MatrixFunction)
        rows, columns = value.indices
        if rows.axis != columns.axis:
            raise CompileError(f"{step.name}: {value.function} of {rows.axis} × {columns.axis}, which is not square")
        size, extent = self.sizes[rows.axis], self.extents[rows.axis]
        width = len(value.grid) * extent
        names = ("scaled", "phi", "less", "work")
        scaled, phi, less, work = buffers = [T.alloc_buffer((width, width), FLOAT) for _ in names]
        for name, buffer in zip(names, buffers, strict=True):
            IRBuilder.name(name, buffer)
        self.assemble(value, scaled, size, extent)
        squarings = self.scale(scaled, width)
        self.fill(phi, width, width)
        self.add_identity(phi, len(value.grid), size, extent)
        with T.serial(TERMS) as turn:
            self.multiply(work, scaled, phi, width)
            inverse = T.float32(1) / T.cast(TERMS + 1 - turn, FLOAT)
            self.elementwise(phi, width, lambda at: inverse * work[at])
            self.add_identity(phi, len(value.grid), size, extent)
        self.multiply(less, scaled, phi, width)
        with T.serial(squarings):
            self.multiply(work, less, phi, width)
            self.elementwise(phi, width, lambda at: phi[at] + T.float32(0.5) * work[at])
            self.multiply(work, less, less, width)
            self.elementwise(less, width, lambda at: T.float32(2) * less[at] + work[at])
        result = phi
        if value.function == "expm":
            self.add_identity(less, len(value.grid), size, extent)
            result = less
        top, left = (place * extent for place in value.block)
        target = self.buffers[step.name, self.native(step.name)]
        with T.serial(size) as i, T.serial(size) as j:
            at: dict[Index, Any] = {rows: i, columns: j}
            places = [at[index] for index in step.indices]
            T.buffer_store(target, result[top + i, left + j], places[::-1] if self.native(step.name) else places)

    def assemble(self, value: MatrixFunction, matrix: Any, size: int, extent: int) -> None:
        """The block matrix; what lies past the end of a block is 0."""
        self.fill(matrix, len(value.grid) * extent, len(value.grid) * extent)
        rows, columns = value.indices
        for down, row in enumerate(value.grid):
            for across, cell in enumerate(row):
                if cell is not None:
                    with T.serial(size) as i, T.serial(size) as j:
                        element = self.load(cell, {rows: i, columns: j})
                        T.buffer_store(matrix, element, [down * extent + i, across * extent + j])

    def scale(self, matrix: Any, width: int) -> Any:
        """Halve a matrix until its rows sum to 1/2 at most; how often that was."""
        largest, total = (T.alloc_buffer((1,), FLOAT, scope="local") for _ in range(2))
        T.buffer_store(largest, T.float32(0.5), [0])
        with T.serial(width) as row:
            T.buffer_store(total, T.float32(0), [0])
            with T.serial(width) as column:
                element = matrix[row, column]
                T.buffer_store(total, total[0] + T.Select(element < 0, -element, element), [0])
            T.buffer_store(largest, T.max(largest[0], total[0]), [0])
        halvings = T.cast(T.ceil(T.log2(largest[0] + largest[0])), "int64")
        count = T.bind(T.max(T.min(halvings, T.int64(MOST_SQUARINGS)), T.int64(0)))
        with T.serial(count):
            self.elementwise(matrix, width, lambda at: T.float32(0.5) * matrix[at])
        return count

    def multiply(self, out: Any, left: Any, right: Any, width: int) -> None:
        """``out = left · right``."""
        vector = self.schedule.vector
        lanes = T.alloc_buffer((1, vector), FLOAT, scope="local")
        with T.serial(width) as row, T.serial(width // vector) as block:
            with T.vectorized(vector) as lane:
                T.buffer_store(lanes, T.float32(0), [0, lane])
            with T.serial(width) as k, T.vectorized(vector) as lane:
                term = left[row, k] * right[k, block * vector + lane]
                T.buffer_store(lanes, lanes[0, lane] + term, [0, lane])
            with T.vectorized(vector) as lane:
                T.buffer_store(out, lanes[0, lane], [row, block * vector + lane])

    def elementwise(self, out: Any, width: int, value: Any) -> None:
        """``out[at] = value(at)`` for every element."""
        with T.serial(width) as row:
            for column, lane in self.vectors(width):
                T.buffer_store(out, value((row, column + lane)), [row, column + lane])

    def add_identity(self, matrix: Any, blocks: int, size: int, extent: int) -> None:
        """Add the identity, which ends where each block does."""
        with T.serial(blocks) as block, T.serial(size) as i:
            place = block * extent + i
            T.buffer_store(matrix, matrix[place, place] + T.float32(1), [place, place])
