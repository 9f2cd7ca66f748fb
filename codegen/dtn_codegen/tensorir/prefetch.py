"""Requests for the tokens of the next chunk, and its results, made while the processor multiplies those of this one.

Between two chunks there is nothing to do but to wait for memory, and at no other time is anything asked of it.  A few
lines before each tile of a chunk's products are there in time and leave the tile's own loads their place in the queue,
which all of them at once would not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm.tirx.script import builder as T

LINE = 64
"""Bytes that come from memory at once."""
NEAREST, DATA = 3, 1
"""How LLVM is asked: a line into the nearest cache, and no instructions."""


@dataclass(frozen=True)
class Tokens:
    """Where the tokens of an argument are.

    Attributes
    ----------
    buffer
        The argument, a row a token.
    columns : int
        Features of a token.
    row : callable
        From the number of a token to its row.
    written : bool
        Whether it is a result: its lines come as this core's own, so that writing to them need not wait.
    """

    buffer: Any
    columns: int
    row: Callable[[Any], Any]
    written: bool = False

    @property
    def width(self) -> int:
        """Elements of a line."""
        return LINE // int(tvm.DataType(self.buffer.dtype).itemsize)

    @property
    def lines(self) -> int:
        """Lines of a token."""
        return -(-self.columns // self.width)


class Prefetch:
    """The requests of one chunk.

    Parameters
    ----------
    tiles : Mapping[str, int]
        For each product of a chunk, in order, its tiles.
    arguments : sequence of Tokens
    first : expression
        The first token of the next chunk; where there is none, tokens at an end of the sequence are asked for again.
    chunk : int
        Tokens of a chunk.
    length : expression
        Tokens of the sequence.
    """

    def __init__(
        self, tiles: Mapping[str, int], arguments: Sequence[Tokens], first: Any, chunk: int, length: Any
    ) -> None:
        self.arguments = tuple(arguments)
        self.first, self.chunk, self.length = first, chunk, length
        self.begins: dict[str, int] = {}
        self.tiles = 0
        for name, count in tiles.items():
            self.begins[name] = self.tiles
            self.tiles += count

    def before(self, product: str, tile: Any) -> None:
        """The requests before a tile of a product."""
        if product not in self.begins:
            return
        place = T.cast(self.begins[product] + tile, "int64")
        for argument in self.arguments:
            share = -(-argument.lines * self.chunk // self.tiles)
            with T.unroll(share) as part:
                line = place * share + part
                token = T.max(T.min(self.first + line // argument.lines, self.length - 1), T.int64(0))
                address = T.address_of(argument.buffer[argument.row(token), line % argument.lines * argument.width])
                how = map(T.int32, (argument.written, NEAREST, DATA))
                T.evaluate(tvm.tirx.call_intrin("void", "tirx.prefetch", address, *how))
