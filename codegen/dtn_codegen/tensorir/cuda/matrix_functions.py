"""Functions of a matrix by a whole thread block: scaling and squaring in float32, whatever the tensors are.

Two matrices in shared memory, X and P, and two accumulators in registers.  The recurrence is the processor's
(``tensorir/matrix_functions.py``): P is the series of φ₁ at ``X / 2^s``, X becomes ``e^X − I``, and both are doubled s
times.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script.builder import ir as tir

from dtn_core.ir.nodes import MatrixFunction

from ..scaling import MOST_SQUARINGS, TERMS
from ..steps import Step
from .block import Block
from .elements import real
from .layouts import ThreadTile
from .multiply_add import MultiplyAdd
from .tiles import Expression, Fragment, SharedTile, local


class MatrixFunctions(Block):
    """Emits ``expm`` and ``phi1`` of a matrix, or of a block matrix of which one block is wanted."""

    def matrix_function(self, step: Step, target: Fragment) -> None:
        """Compute the block of a function that a step is."""
        value = step.finish
        assert isinstance(value, MatrixFunction)
        rows, columns = value.indices
        size = self.plan.extent(rows.axis)
        width = self.plan.width_of_function(step)
        thread = MultiplyAdd(self.thread)
        tile = ThreadTile.of(width, width, self.plan.schedule.warps)
        first, second = (thread.fragment(tile, f"{step.name}_{which}") for which in ("first", "second"))
        x, p = (SharedTile(buffer) for buffer in self.function)

        def set_each(to: SharedTile, element_of: Callable[[Any], Expression]) -> None:
            with thread.each(tile) as element:
                tir.buffer_store(to.buffer, element_of(element), [0, element.row, element.column])

        def product(out: Fragment, right: SharedTile) -> None:
            with thread.each(tile) as element:
                out.put(element, real(0))
            thread.multiply(out, x, right, width, left_transposed=False, right_transposed=False)

        self.barrier()
        set_each(x, lambda _: real(0))
        self.barrier()
        for down, row in enumerate(value.grid):
            for across, cell in enumerate(row):
                if cell is not None:
                    fragment = self.values.fragments[cell.tensor]
                    with self.engine.each(fragment.layout) as element:
                        at = dict(zip(cell.indices, (element.row, element.column), strict=True))
                        place = [0, down * size + at[rows], across * size + at[columns]]
                        tir.buffer_store(x.buffer, fragment.at(element), place)
        self.barrier()
        squarings = self.halve(x, width, set_each)
        set_each(p, lambda element: _identity(element.row, element.column))
        self.barrier()
        with tir.serial(TERMS) as turn:
            product(first, p)
            self.barrier()
            inverse = real(1) / tir.cast(TERMS + 1 - turn, "float32")
            set_each(p, lambda at: inverse * first.at(at) + _identity(at.row, at.column))
            self.barrier()
        product(first, p)
        self.barrier()
        set_each(x, first.at)
        self.barrier()
        with tir.serial(squarings):
            product(first, p)
            product(second, x)
            self.barrier()
            set_each(p, lambda at: p.value(at.row, at.column) + real(0.5) * first.at(at))
            set_each(x, lambda at: real(2) * x.value(at.row, at.column) + second.at(at))
            self.barrier()
        top, left = (place * size for place in value.block)
        with self.engine.each(target.layout) as element:
            at = dict(zip(step.indices, (element.row, element.column), strict=True))
            i, j = top + at[rows], left + at[columns]
            if value.function == "expm":
                target.put(element, x.value(i, j) + _identity(i, j))
            else:
                target.put(element, p.value(i, j))

    def halve(
        self, x: SharedTile, width: int, set_each: Callable[[SharedTile, Callable[[Any], Expression]], None]
    ) -> Expression:
        """Halve a matrix until its rows sum to 1/2 at most; how often that was, the same in every thread."""
        total, largest, factor = (local((1,), "float32", name) for name in ("total", "largest", "factor"))
        with self.each_of(width) as row:
            tir.buffer_store(total, real(0), [0])
            with tir.serial(width) as column:
                tir.buffer_store(total, total[0] + tir.abs(x.value(row, column)), [0])
            tir.buffer_store(self.norms, total[0], [row])
        self.barrier()
        tir.buffer_store(largest, real(0.5), [0])
        with tir.serial(width) as row:
            tir.buffer_store(largest, tir.max(largest[0], self.norms[row]), [0])
        halvings = tir.cast(tir.ceil(tir.log2(largest[0] + largest[0])), "int32")
        count = tir.Bind(tir.max(tir.min(halvings, MOST_SQUARINGS), 0))
        tir.buffer_store(factor, real(1), [0])
        with tir.serial(count):
            tir.buffer_store(factor, real(0.5) * factor[0], [0])
        set_each(x, lambda at: factor[0] * x.value(at.row, at.column))
        return count


def _identity(row: Expression, column: Expression) -> Expression:
    return tir.Select(row == column, real(1), real(0))
