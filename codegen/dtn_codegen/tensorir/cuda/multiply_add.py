"""Products by plain float32 multiply-adds, operands from shared memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tvm.tirx.script.builder import ir as tir

from .layouts import Layout
from .tiles import Columns, Element, Expression, Fragment, SharedTile, local, ptx, scaled, where

UNROLL = 4


class MultiplyAdd:
    """Emits products of float32 tiles, and moves accumulators.

    Parameters
    ----------
    thread : expression
        Index of the thread in its block.
    """

    def __init__(self, thread: Expression) -> None:
        self.thread = thread

    def fragment(self, layout: Layout, name: str) -> Fragment:
        """Accumulators for a tile, not yet set."""
        return Fragment(layout, local((layout.row_tiles, layout.column_tiles), "float32", name))

    def element(self, layout: Layout, i: Expression, j: Expression) -> Element:
        """Element ``i, j`` of the thread."""
        row = self.thread // layout.across % layout.down + i * layout.down
        return Element(row, self.thread % layout.across + j * layout.across, (i, j), layout)

    @contextmanager
    def each(self, layout: Layout) -> Iterator[Element]:
        """A loop over the elements of the thread."""
        with tir.unroll(layout.row_tiles) as i, tir.unroll(layout.column_tiles) as j:
            yield self.element(layout, i, j)

    @contextmanager
    def each_row(self, layout: Layout) -> Iterator[tuple[Expression, Expression, Columns]]:
        """A loop over the rows of the thread: row, slot among the threads that share it, and its columns."""
        with tir.unroll(layout.row_tiles) as i:

            @contextmanager
            def columns() -> Iterator[Element]:
                with tir.unroll(layout.column_tiles) as j:
                    yield self.element(layout, i, j)

            yield self.element(layout, i, 0).row, self.thread % layout.across, columns

    def multiply(
        self,
        out: Fragment,
        left: Fragment | SharedTile,
        right: SharedTile,
        inner: int,
        *,
        left_transposed: bool,
        right_transposed: bool,
        scale: Expression = None,
    ) -> None:
        """``out += left · right``; an operand is transposed when its summed axis is first (left) or last (right)."""
        assert isinstance(left, SharedTile), "the plan stages every factor"
        assert scale is None, "float32 is never scaled"
        layout = out.layout
        with tir.serial(inner // UNROLL) as step, tir.unroll(UNROLL) as offset:
            k = step * UNROLL + offset
            a = local((layout.row_tiles,), "float32", "a")
            b = local((layout.column_tiles,), "float32", "b")
            with tir.unroll(layout.row_tiles) as i:
                row = self.element(layout, i, 0).row
                tir.buffer_store(a, left.value(*((k, row) if left_transposed else (row, k))), [i])
            with tir.unroll(layout.column_tiles) as j:
                column = self.element(layout, 0, j).column
                tir.buffer_store(b, right.value(*((column, k) if right_transposed else (k, column))), [j])
            with tir.unroll(layout.row_tiles) as i, tir.unroll(layout.column_tiles) as j:
                tir.buffer_store(out.buffer, out.buffer[i, j] + a[i] * b[j], [i, j])

    def stage(self, fragment: Fragment, tile: SharedTile, scale: Expression = None) -> None:
        """Copy accumulators, times ``scale``, to shared memory."""
        with self.each(fragment.layout) as element:
            value = scaled(fragment.at(element), scale)
            tir.buffer_store(tile.buffer, value, [tile.first, element.row, element.column])

    def store(
        self,
        fragment: Fragment,
        address: Callable[[Expression, Expression], Expression],
        inside: Callable[[Expression], Expression] | None,
        scale: Expression = None,
    ) -> None:
        """Write accumulators, times ``scale``, to memory, where ``inside(row)``."""
        with self.each(fragment.layout) as element, where(inside, element.row):
            ptx("st.global.f32", address(element.row, element.column), scaled(fragment.at(element), scale))
