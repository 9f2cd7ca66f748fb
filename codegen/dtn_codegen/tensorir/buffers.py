"""The buffers of a kernel on a CPU: a chunk's tensors and the states, as float32 in whole vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dtn_core.ir.nodes import ONES, Expr, Index, Number, Read

from .expressions import value_of
from .layout import Layout, choose
from .pairs import PairIndex
from .schedule import CpuSchedule
from .steps import ACC, RANK, Step
from .walks import TileProgram
from .zeros import Padding

FLOAT = "float32"

Key = tuple[str, bool]
"""A tensor, and whether it is held transposed."""


def extents(program: TileProgram, schedule: CpuSchedule, sizes: Mapping[str, int]) -> dict[str, int]:
    """Places along every axis in the buffers of a chunk: whole vectors of features."""
    vector = schedule.vector
    found = {axis: -(-sizes[axis] // vector) * vector for axis in program.features}
    found[program.axis] = 1 if program.by_token else schedule.chunk
    if program.rows:
        found[program.rows] = schedule.chunk
    return found | {axis: found[first] * found[second] for axis, (first, second) in program.pairs.items()}


def working_set(program: TileProgram, schedule: CpuSchedule, sizes: Mapping[str, int]) -> int:
    """Bytes of a head's chunk and states, each tensor held one way."""
    found = extents(program, schedule, sizes)
    return sum(4 * prod(found[axis] for axis in axes) for axes in program.axes.values())


class Buffers:
    """The tensors of one head, and expressions of their elements.

    Parameters
    ----------
    program : TileProgram
    schedule : CpuSchedule
    sizes : Mapping[str, int]
        Of the feature axes.
    """

    def __init__(self, program: TileProgram, schedule: CpuSchedule, sizes: Mapping[str, int]) -> None:
        self.program = program
        self.schedule = schedule
        self.sizes = {axis: sizes[axis] for axis in program.features}
        self.chunk = 1 if program.by_token else schedule.chunk
        self.segment = schedule.chunk  # tokens between two states that are written to memory
        self.layout: Layout = choose(program)
        self.padding = Padding(program)
        self.extents = extents(program, schedule, sizes)
        self.buffers: dict[Key, Any] = {}
        self.tables: dict[Number | Read, Any] = {}
        self.decays: dict[Number | Read, Any] = {}
        self.empty: dict[str, Any] = {}  # for each state, 0 in the first chunk, where it is 0 as well, and 1 later
        self.length: Any = None  # of a sequence
        self.tokens: Any = None  # in the chunk at hand
        self.first: Any = None  # of them
        self.row_tokens: Any = None  # in the chunk of rows at hand
        self.row_first: Any = None

    def forms(self, name: str) -> tuple[bool, ...]:
        """The ways that a tensor is held."""
        return self.layout.forms.get(name, (False,))

    def native(self, name: str) -> bool:
        """Whether a tensor is computed transposed."""
        return self.forms(name)[0]

    def shape(self, name: str, *, transposed: bool) -> tuple[int, int]:
        """Rows and columns of a tensor's buffer; a vector is one row."""
        extents = [self.extents[axis] for axis in self.program.axes[name]]
        if len(extents) == RANK:
            return (extents[1], extents[0]) if transposed else (extents[0], extents[1])
        return 1, extents[0] if extents else 1

    def allocate(self, names: Iterable[str]) -> None:
        """Buffers, filled with zeros where some places are never written: those count for nothing."""
        self.buffers = {}
        for name in names:
            for form in self.forms(name):
                rows, columns = self.shape(name, transposed=form)
                buffer = T.alloc_buffer((rows, columns), FLOAT)
                IRBuilder.name(f"{name}_transposed" if form else name, buffer)
                self.buffers[name, form] = buffer
                if not self.is_whole(name):
                    self.fill(buffer, rows, columns)

    def is_whole(self, name: str) -> bool:
        """Whether every place of a tensor is written before it is read."""
        axes = [part for axis in self.program.axes[name] for part in self.program.pairs.get(axis, (axis,))]
        padded = any(self.extents[axis] != self.sizes.get(axis, self.extents[axis]) for axis in axes)
        return not padded and self.program.is_triangular(name) is None

    def clear(self, name: str) -> None:
        """Zeros in every form of a tensor."""
        for form in self.forms(name):
            rows, columns = self.shape(name, transposed=form)
            self.fill(self.buffers[name, form], rows, columns)

    def fill(self, buffer: Any, rows: Any, columns: int) -> None:
        """Zeros everywhere."""
        with T.serial(rows) as row:
            for column, lane in self.vectors(columns):
                T.buffer_store(buffer, T.float32(0), [row, column + lane])

    def vectors(self, columns: int) -> Iterator[tuple[Any, Any]]:
        """Loops over whole vectors of a row; yields where one starts, and the lane."""
        width = self.schedule.vector if columns % self.schedule.vector == 0 else 1
        return vectors_of(columns, width)

    def pieces(self, size: int) -> Iterator[tuple[Any, Any]]:
        """Loops over the elements of a row that need not be whole vectors."""
        whole = size - size % self.schedule.vector
        if whole:
            yield from vectors_of(whole, self.schedule.vector)
        if size > whole:
            with T.serial(size - whole) as rest:
                yield whole, rest

    def turn(self, name: str) -> None:
        """The other form of a tensor that is read both ways."""
        forms = self.layout.forms.get(name, (False,))
        if len(forms) == 1:
            return
        source, target = (self.buffers[name, form] for form in forms)
        rows, columns = self.shape(name, transposed=forms[0])
        width = self.schedule.vector
        with T.serial(rows // width) as down, T.serial(columns // width) as across:
            top, left = down * width, across * width
            for place, line in enumerate(_transposed([source[top + i, T.ramp(left, 1, width)] for i in range(width)])):
                T.buffer_store(target, line, [left + place, T.ramp(top, 1, width)])

    def load(self, read: Read, at: Mapping[Index, Any], along: Index | None = None) -> Any:
        """One element (or a vector) of a tensor."""
        if read.tensor == ONES:
            return T.float32(1)
        places = [self.at(index, at) for index in read.indices]
        form = self.layout.form(read, along) if len(places) == RANK else False
        row, column = (places[::-1] if form else places) if len(places) == RANK else (0, places[0] if places else 0)
        return self.buffers[read.tensor, form][row, column]

    def at(self, index: Index, at: Mapping[Index, Any]) -> Any:
        """The place of an index; that of a pair may be said by what it is made of."""
        if isinstance(index, PairIndex) and index not in at:
            first, second = index.parts
            return at[first] * self.extents[second.axis] + at[second]
        return at[index]

    def value(self, expr: Expr, at: Mapping[Index, Any], along: Index | None, accumulated: Any = None) -> Any:
        """An expression at the indices of a tile."""

        def leaf(read: Read) -> Any:
            return accumulated if read == ACC else self.load(read, at, along)

        return value_of(expr, leaf, self.size)

    def size(self, axis: str) -> Any:
        """The size of an axis as a number."""
        return T.cast(self.extent(axis), FLOAT)

    def extent(self, axis: str) -> Any:
        """The size of an axis, as it is in memory."""
        return self.length if axis == self.program.axis else self.sizes[axis]

    def power(self, decay: Number | Read, low: Any, high: Any, between: Any) -> Any:
        """``γ^(between + high − low)``; ``between`` the firsts of two chunks, 0 if they are one."""
        table, chunk = self.tables[decay], self.chunk
        inside = table[0, high - low + chunk]
        if isinstance(between, int):
            return inside
        apart = T.pow(self.decays[decay], T.cast(T.max(between - chunk, 0), "float64"))
        across = T.cast(apart, FLOAT) * table[0, high + chunk] * table[0, 2 * chunk - low]
        return T.Select(between == 0, inside, across)

    def before(self, index: Index) -> Any:
        """Tokens before the chunk that an index runs over."""
        return self.row_first if index.axis == self.program.rows else self.first

    def finished(self, step: Step, at: Mapping[Index, Any], along: Index | None, accumulated: Any) -> Any:
        """The value that a step stores: 0 outside its order and past the end of an axis."""
        value = self.value(step.finish, at, along, accumulated)
        if step.order is not None:
            low, high = at[step.order.lower], at[step.order.upper]
            between: Any = 0
            if self.program.rows:
                between = self.before(step.order.upper) - self.before(step.order.lower)
            if step.order.decay is not None:
                value = value * self.power(step.order.decay, low, high, between)
            holds = low < between + high if step.order.strict else low <= between + high
            value = T.Select(holds, value, T.float32(0))
        for index in step.indices:
            if self.padding.must_mask(step, index):
                ends = {self.program.axis: self.tokens, self.program.rows: self.row_tokens}
                value = T.Select(at[index] < (ends | self.sizes)[index.axis], value, T.float32(0))
        return value


def vectors_of(columns: int, width: int) -> Iterator[tuple[Any, Any]]:
    """Loops over ``columns`` by vectors: where each starts, and the lane."""
    with T.serial(columns // width) as block, T.vectorized(width) as lane:
        yield block * width, lane


def _transposed(lines: list[Any]) -> list[Any]:
    """The columns of a square of vectors: blocks of 1, 2, 4, ... beside the diagonal change places."""
    width = len(lines)
    lines = [T.bind(line) for line in lines]
    size = 1
    while size < width:
        for place in range(width):
            if place & size:
                continue
            pair = [lines[place], lines[place | size]]
            upper = [width + (lane ^ size) if lane & size else lane for lane in range(width)]
            lower = [width + lane if lane & size else lane | size for lane in range(width)]
            lines[place], lines[place | size] = (T.bind(T.Shuffle(pair, indices)) for indices in (upper, lower))
        size *= 2
    return lines
