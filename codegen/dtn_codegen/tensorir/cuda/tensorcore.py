"""Products on tensor cores: ``mma.sync.m16n8k16`` on float16 or bfloat16 with float32 accumulators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm.tirx.script.builder import ir as tir

from .layouts import Layout
from .tiles import Columns, Element, Expression, Fragment, SharedTile, local, ptx, scaled, where

LOAD = "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
LOAD_TRANSPOSED = "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"


class TensorCores:
    """Emits products of 16-bit tiles, and moves accumulators.

    Parameters
    ----------
    dtype : str
        ``float16`` or ``bfloat16``.
    thread : expression
        Index of the thread in its block.
    """

    def __init__(self, dtype: str, thread: Expression) -> None:
        kind = {"float16": "f16", "bfloat16": "bf16"}[dtype]
        self.dtype = dtype
        self.multiply_add = f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32"
        self.round_pair = f"cvt.rn.{kind}x2.f32"
        self.warp = thread // 32
        self.lane = thread % 32

    def fragment(self, layout: Layout, name: str) -> Fragment:
        """Accumulators for a tile, not yet set."""
        return Fragment(layout, local((layout.row_tiles * layout.column_tiles, 4), "float32", name))

    def origin(self, layout: Layout) -> tuple[Expression, Expression]:
        """First row and column of the warp."""
        row = self.warp % layout.down * (16 * layout.row_tiles)
        column = self.warp // layout.down % layout.across * (8 * layout.column_tiles)
        return row, column

    def element(self, layout: Layout, t: Expression, u: Expression, j: Expression) -> Element:
        """Number ``j`` of the lane's elements of tile ``t, u``."""
        row, column = self.origin(layout)
        return Element(
            row + t * 16 + self.lane // 4 + j // 2 * 8,
            column + u * 8 + self.lane % 4 * 2 + j % 2,
            (t * layout.column_tiles + u, j),
            layout,
        )

    @contextmanager
    def each(self, layout: Layout) -> Iterator[Element]:
        """A loop over the elements of the thread."""
        with (
            tir.unroll(layout.row_tiles) as t,
            tir.unroll(layout.column_tiles) as u,
            tir.unroll(4) as j,
        ):
            yield self.element(layout, t, u, j)

    @contextmanager
    def each_row(self, layout: Layout) -> Iterator[tuple[Expression, Expression, Columns]]:
        """A loop over the rows of the thread: row, slot among the threads that share it, and its columns."""
        slot = self.warp // layout.down % layout.across * 4 + self.lane % 4
        with tir.unroll(layout.row_tiles) as t, tir.unroll(2) as half:

            @contextmanager
            def columns() -> Iterator[Element]:
                with tir.unroll(layout.column_tiles) as u, tir.unroll(2) as j:
                    yield self.element(layout, t, u, half * 2 + j)

            yield self.element(layout, t, 0, half * 2).row, slot, columns

    # ------------------------------------------------------------------ products

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
        layout = out.layout
        row, column = self.origin(layout)
        with tir.unroll(inner // 16) as k:
            for low in range(left.copies if isinstance(left, SharedTile) else 1):
                a = local((layout.row_tiles, 4), "uint32", "a")
                with tir.unroll(layout.row_tiles) as t:
                    if isinstance(left, Fragment):
                        self.from_registers(a, t, left, k, scale)
                    else:
                        self.load_left(a, t, left, low, row + t * 16, k * 16, transposed=left_transposed)
                for right_low in range(right.copies - low):  # low · low is below the rounding of the rest
                    with tir.unroll(layout.column_tiles // 2) as u:
                        b = local((4,), "uint32", "b")
                        self.load_right(b, right, right_low, k * 16, column + u * 16, transposed=right_transposed)
                        with tir.unroll(layout.row_tiles) as t, tir.unroll(2) as half:
                            tile = t * layout.column_tiles + u * 2 + half
                            c = [out.buffer[tile, j] for j in range(4)]
                            factors = [*(a[t, j] for j in range(4)), b[half * 2], b[half * 2 + 1]]
                            ptx(self.multiply_add, *c, *factors, *c)

    def from_registers(self, a: Any, t: Expression, left: Fragment, k: Expression, scale: Expression) -> None:
        """Accumulators as the left factor: the lane that has an element of the one has it of the other."""
        for j in range(4):
            tile = t * left.layout.column_tiles + k * 2 + j // 2
            values = (left.buffer[tile, j % 2 * 2 + place] for place in range(2))
            self.pair(a[t, j], *(scaled(value, scale) for value in values))

    def load_left(
        self, a: Any, t: Expression, tile: SharedTile, copy: int, row: Expression, k: Expression, *, transposed: bool
    ) -> None:
        """16×16 of a left factor."""
        registers = [a[t, j] for j in range(4)]
        if transposed:
            place = k + self.lane // 16 * 8 + self.lane % 8, row + self.lane // 8 % 2 * 8
        else:
            place = row + self.lane % 16, k + self.lane // 16 * 8
        ptx(LOAD_TRANSPOSED if transposed else LOAD, *registers, tile.address(copy, *place))

    def load_right(
        self, b: Any, tile: SharedTile, copy: int, k: Expression, column: Expression, *, transposed: bool
    ) -> None:
        """16×16 of a right factor, for two tiles of 8 columns."""
        registers = [b[j] for j in range(4)]
        if transposed:
            place = column + self.lane // 16 * 8 + self.lane % 8, k + self.lane // 8 % 2 * 8
        else:
            place = k + self.lane % 16, column + self.lane // 16 * 8
        ptx(LOAD if transposed else LOAD_TRANSPOSED, *registers, tile.address(copy, *place))

    # ------------------------------------------------------------------ moves

    def pair(self, word: Expression, low: Expression, high: Expression) -> None:
        """Two neighbours rounded to 16 bits each, in one word."""
        ptx(self.round_pair, word, high, low)

    def rest(self, value: Expression) -> Expression:
        """What rounding to 16 bits loses."""
        return value - tir.cast(tir.cast(value, self.dtype), "float32")

    @contextmanager
    def each_pair(self, layout: Layout) -> Iterator[tuple[Element, Element]]:
        """A loop over pairs of neighbouring columns."""
        with (
            tir.unroll(layout.row_tiles) as t,
            tir.unroll(layout.column_tiles) as u,
            tir.unroll(2) as half,
        ):
            yield self.element(layout, t, u, half * 2), self.element(layout, t, u, half * 2 + 1)

    def stage(self, fragment: Fragment, tile: SharedTile, scale: Expression = None) -> None:
        """Copy accumulators, times ``scale``, to shared memory, rounded."""
        with self.each_pair(fragment.layout) as (first, second):
            word = local((1,), "uint32", "word")
            values = scaled(fragment.at(first), scale), scaled(fragment.at(second), scale)
            self.pair(word[0], *values)
            ptx("st.shared.b32", tile.address(0, first.row, first.column), word[0])
            if tile.copies == 2:
                self.pair(word[0], *(self.rest(value) for value in values))
                ptx("st.shared.b32", tile.address(1, first.row, first.column), word[0])

    def store(
        self,
        fragment: Fragment,
        address: Callable[[Expression, Expression], Expression],
        inside: Callable[[Expression], Expression] | None,
        scale: Expression = None,
    ) -> None:
        """Write accumulators, times ``scale``, to memory in the dtype of the arguments, where ``inside(row)``."""
        with self.each_pair(fragment.layout) as (first, second):
            word = local((1,), "uint32", "word")
            self.pair(word[0], scaled(fragment.at(first), scale), scaled(fragment.at(second), scale))
            with where(inside, first.row):
                ptx("st.global.b32", address(first.row, first.column), word[0])
