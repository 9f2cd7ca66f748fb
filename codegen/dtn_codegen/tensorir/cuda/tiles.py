"""Tiles in registers and in shared memory, and what a thread sees of them while it walks over its elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as tir

from .layouts import Layout

Expression = Any
"""A TVM expression; TVM's Python types say no more."""


@dataclass(frozen=True)
class Fragment:
    """A float32 tile in the registers of a thread block."""

    layout: Layout
    buffer: Any

    def at(self, element: Element) -> Expression:
        """The element that the thread is at."""
        return self.buffer[element.position]

    def put(self, element: Element, value: Expression) -> None:
        """Write the element that the thread is at."""
        tir.buffer_store(self.buffer, value, list(element.position))


@dataclass(frozen=True)
class SharedTile:
    """A tile in shared memory: ``buffer[copy, row, column]``.

    Attributes
    ----------
    buffer : tvm.tirx.Buffer
    first : expression
        The first copy to read.
    inverse : expression or None
        What an element is multiplied by, if it was scaled before it was rounded.
    copies : int
        1, or 2 where the sum of two copies is the value.
    """

    buffer: Any
    first: Expression = 0
    copies: int = 1
    inverse: Expression = None

    def address(self, copy: int, row: Expression, column: Expression) -> Expression:
        """Where an element is."""
        return tir.address_of(self.buffer[self.first + copy, row, column])

    def value(self, row: Expression, column: Expression) -> Expression:
        """An element in float32."""
        total = tir.cast(self.buffer[self.first, row, column], "float32")
        for copy in range(1, self.copies):
            total = total + tir.cast(self.buffer[self.first + copy, row, column], "float32")
        return total if self.inverse is None else total * self.inverse


@dataclass(frozen=True)
class Element:
    """Where a thread is in its part of a tile: row and column in the tile, position among its registers."""

    row: Expression
    column: Expression
    position: tuple[Expression, ...]
    layout: Layout


Columns = Callable[[], AbstractContextManager[Element]]
"""A loop over the columns of a row."""


class Engine(Protocol):
    """Emits products of tiles and moves accumulators: on tensor cores, or by plain multiply-adds."""

    def fragment(self, layout: Layout, name: str) -> Fragment:
        """Accumulators for a tile, not yet set."""

    def each(self, layout: Layout) -> AbstractContextManager[Element]:
        """A loop over the elements of the thread."""

    def each_row(self, layout: Layout) -> AbstractContextManager[tuple[Expression, Expression, Columns]]:
        """A loop over the rows of the thread: row, slot among the threads that share it, and its columns."""

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
        """``out += left · right``; an operand is transposed when its summed axis is first (left) or last (right).

        A left factor from registers is multiplied by ``scale`` before it is rounded.
        """

    def stage(self, fragment: Fragment, tile: SharedTile, scale: Expression = None) -> None:
        """Copy accumulators, times ``scale``, to shared memory in the dtype of the tile."""

    def store(
        self,
        fragment: Fragment,
        address: Callable[[Expression, Expression], Expression],
        inside: Callable[[Expression], Expression] | None,
        scale: Expression = None,
    ) -> None:
        """Write accumulators, times ``scale``, to memory in the dtype of the arguments, where ``inside(row)``."""


def scaled(value: Expression, scale: Expression) -> Expression:
    """``value · scale``, where there is one."""
    return value if scale is None else value * scale


def local(shape: tuple[int, ...], dtype: str, name: str) -> Any:
    """An array in the registers of each thread."""
    return named(name, tir.alloc_buffer(shape, dtype, scope="local"))


def named(name: str, value: Any) -> Any:
    """``value``, called ``name`` in the source."""
    IRBuilder.name(name, value)
    return value


def ptx(instruction: str, *operands: Expression) -> None:
    """One PTX instruction."""
    tir.evaluate(tir.ptx[instruction](*operands))


@contextmanager
def where(condition: Callable[[Expression], Expression] | None, row: Expression) -> Iterator[None]:
    """What follows only where ``condition(row)``, if there is a condition."""
    if condition is None:
        yield
    else:
        with tir.If(condition(row)), tir.Then():
            yield
