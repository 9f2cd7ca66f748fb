"""How the elements of a tile are spread over the registers of a thread block."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from dtn_core.errors import CompileError


@dataclass(frozen=True)
class WarpTile:
    """Accumulators of ``mma.m16n8k16``: each warp owns a rectangle, in tiles of 16×8 with 4 elements a lane.

    Attributes
    ----------
    rows, columns : int
        Of the whole tile.
    down, across : int
        Warps along the rows and along the columns; where their product is below the warps of the block, the
        others do the same work again.
    """

    rows: int
    columns: int
    down: int
    across: int

    @classmethod
    def of(cls, rows: int, columns: int, warps: int) -> WarpTile:
        """As many warps along the rows as there are, the rest along the columns."""
        if rows % 16 or columns % 16:
            raise CompileError(f"tensor cores need tiles of multiples of 16 × 16, got {rows} × {columns}")
        down = gcd(warps, rows // 16)
        return cls(rows, columns, down, gcd(warps // down, columns // 16))

    @property
    def row_tiles(self) -> int:
        """Tiles of 16 rows that a warp has."""
        return self.rows // (16 * self.down)

    @property
    def column_tiles(self) -> int:
        """Tiles of 8 columns that a warp has."""
        return self.columns // (8 * self.across)

    @property
    def registers(self) -> int:
        """32-bit registers a thread."""
        return self.row_tiles * self.column_tiles * 4

    @property
    def whole_rows(self) -> bool:
        """Whether a warp has its rows whole, so that they may be the left factor of a product as they are."""
        return self.across == 1

    @property
    def row_slots(self) -> int:
        """Threads that share a row."""
        return 4 * self.across


@dataclass(frozen=True)
class ThreadTile:
    """Accumulators of plain multiply-adds: thread ``(y, x)`` owns rows ``y + i·down`` and columns ``x + j·across``."""

    rows: int
    columns: int
    down: int
    across: int

    @classmethod
    def of(cls, rows: int, columns: int, warps: int) -> ThreadTile:
        """16 threads along the columns, the rest along the rows."""
        across = gcd(16, columns)
        return cls(rows, columns, gcd(32 * warps // across, rows), across)

    @property
    def row_tiles(self) -> int:
        """Rows that a thread has."""
        return self.rows // self.down

    @property
    def column_tiles(self) -> int:
        """Columns that a thread has."""
        return self.columns // self.across

    @property
    def registers(self) -> int:
        """32-bit registers a thread."""
        return self.row_tiles * self.column_tiles

    @property
    def whole_rows(self) -> bool:
        """Registers of one thread are never read by another: every factor goes through shared memory."""
        return False

    @property
    def row_slots(self) -> int:
        """Threads that share a row."""
        return self.across


Layout = WarpTile | ThreadTile


def layout(rows: int, columns: int, warps: int, *, tensor_cores: bool) -> Layout:
    """The layout of a tile of ``rows × columns`` in a block of ``warps``.

    Examples
    --------
    >>> layout(64, 128, 8, tensor_cores=True)
    WarpTile(rows=64, columns=128, down=4, across=2)
    """
    return (WarpTile if tensor_cores else ThreadTile).of(rows, columns, warps)
