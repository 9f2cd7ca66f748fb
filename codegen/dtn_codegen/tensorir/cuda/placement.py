"""Where every value of a walk lives: registers, shared memory, or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import ONES, Index, MatrixFunction, Param, Read
from dtn_core.passes.stream import Weights

from ..steps import Contraction, Step
from ..walks import Carried, TileProgram
from .layouts import Layout, layout
from .passes import Pass
from .schedule import CudaSchedule

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
MATRIX = 2
PADDING = 4
"""Elements between the rows of a float32 matrix in shared memory, against conflicts."""


@dataclass(frozen=True)
class Operand:
    """A factor of a product of matrices; transposed where its summed axis is first (left) or last (right)."""

    name: str
    transposed: bool


@dataclass(frozen=True)
class Product:
    """``Σ left[row, k] · right[k, column]`` over an axis."""

    left: Operand
    right: Operand
    inner: str


@dataclass(frozen=True)
class Placement:
    """The values of one pass under a schedule.

    Attributes
    ----------
    part : Pass
    program : TileProgram
    schedule : CudaSchedule
    dtype : str
        Of tokens and results: ``float16``, ``bfloat16`` or ``float32``.
    sizes : Mapping[str, int]
        Size of every feature axis.
    """

    part: Pass
    program: TileProgram
    schedule: CudaSchedule
    dtype: str
    sizes: Mapping[str, int]

    # ------------------------------------------------------------------ what there is

    @property
    def tensor_cores(self) -> bool:
        """Whether products run on tensor cores; a walk that takes one token at a time has no products of matrices."""
        return self.dtype != "float32" and not self.program.by_token

    @property
    def tile_dtype(self) -> str:
        """Of tiles in shared memory."""
        return self.dtype if self.tensor_cores else "float32"

    @property
    def chunk(self) -> int:
        """Tokens a chunk."""
        return 1 if self.program.by_token else self.schedule.chunk

    @property
    def span(self) -> int:
        """Chunks from one that the states before are left in memory of to the next."""
        return self.schedule.chunk // self.chunk

    @property
    def steps(self) -> tuple[Step, ...]:
        """What happens before the first chunk, and in each."""
        return self.part.steps

    @cached_property
    def used(self) -> frozenset[str]:
        """The tensors that some step reads, or that are written as they are."""
        return frozenset({*self.part.written, *(read.tensor for step in self.steps for read in step.reads)})

    @cached_property
    def tokens(self) -> tuple[Param, ...]:
        """The arguments along the tokens that are read."""
        return tuple(p for p in self.program.inputs if self.program.axis in p.axes and p.name in self.used)

    @cached_property
    def scalars(self) -> tuple[Param, ...]:
        """The arguments without axes that are read."""
        decays = {decay.tensor for decay in self.decays}
        return tuple(p for p in self.program.inputs if not p.axes and p.name in self.used | decays)

    @cached_property
    def decays(self) -> tuple[Read, ...]:
        """The decays that are tensors: of states, and of orders."""
        found = [w.decay for w in self.weights] + [s.order.decay for s in self.steps if s.order is not None]
        return tuple(dict.fromkeys(decay for decay in found if isinstance(decay, Read)))

    @cached_property
    def given(self) -> tuple[Param, ...]:
        """What is read that has no tokens and comes from outside: arguments with axes, and totals of earlier walks."""
        own = {c.name for c in self.part.walk.carried} | {step.name for step in self.steps}
        totals = {c.name for walk in self.program.walks if walk.rows is None for c in walk.carried if c.total} - own
        inputs = [p for p in self.program.inputs if p.axes and self.program.axis not in p.axes]
        found = [*inputs, *(Param(name, self.program.axes[name]) for name in sorted(totals))]
        return tuple(p for p in found if p.name in self.used)

    @cached_property
    def loaded(self) -> tuple[Param, ...]:
        """What an earlier walk left of each chunk, and this one reads."""
        return tuple(Param(name, self.program.axes[name]) for name in self.part.walk.loaded if name in self.used)

    @property
    def outgoing(self) -> dict[str, str]:
        """What a later walk reads of each chunk, and its name there: states before it, and tensors of its tokens."""
        walk = self.part.walk
        stored = walk.rows.stored if walk.rows is not None else {}
        return {name: name for name in (*walk.saved, *walk.stored)} | dict(stored)

    @cached_property
    def rows(self) -> tuple[Param, ...]:
        """What is read of the rows of an n×n matrix that the thread block is for."""
        rows = self.part.walk.rows
        names = rows.read if rows is not None else ()
        return tuple(Param(name, self.program.axes[name]) for name in names if name in self.used)

    @cached_property
    def held(self) -> tuple[Param, ...]:
        """What is in registers and shared memory from before the first chunk, and stays as it is."""
        return (*self.given, *self.rows)

    @cached_property
    def incoming(self) -> tuple[Param, ...]:
        """What comes from memory as a tile in every chunk."""
        return tuple(p for p in (*self.tokens, *self.loaded) if len(self.program.axes[p.name]) == MATRIX)

    @cached_property
    def weights(self) -> tuple[Weights, ...]:
        """The decays that occur."""
        carried = {c.weights for c in self.part.walk.carried}
        return tuple(w for w in self.program.weights if w in carried or {w.rise, w.fall, w.whole} & self.used)

    @cached_property
    def carried(self) -> dict[str, Carried]:
        """The carried tensors by name."""
        return {c.name: c for c in self.part.walk.carried}

    # ------------------------------------------------------------------ sizes

    @cached_property
    def blocked(self) -> str | None:
        """The axis whose columns are shared out over thread blocks: the results' last, if nothing sums over it."""
        candidates = {p.axes[-1] for p in self.program.outputs if len(p.axes) == MATRIX}
        # What is left for later walks has one scale, so all of a tensor is in one thread block.
        whole = self.scaled and bool(self.outgoing)
        if not self.schedule.block or len(candidates) != 1 or whole or self.part.walk.rows or self.part.written:
            return None
        axis = candidates.pop()
        names = {step.name for step in self.steps} | self.used
        summed = {index.axis for step in self.steps for c in step.contractions for index in c.summed}
        once = all(self.program.axes.get(name, ()).count(axis) < MATRIX for name in names)
        return axis if axis not in summed and once and self.size(axis) > self.schedule.block else None

    @property
    def blocks(self) -> int:
        """Thread blocks that share the columns of a result."""
        return self.size(self.blocked) // self.schedule.block if self.blocked is not None else 1

    def size(self, axis: str) -> int:
        """The size of an axis in the whole problem; of the token axis, the chunk."""
        if axis in self.program.pairs:
            first, second = self.program.pairs[axis]
            return self.sizes[first] * self.sizes[second]
        return self.chunk if axis in (self.program.axis, self.program.rows) else self.sizes[axis]

    def extent(self, axis: str) -> int:
        """The size of an axis in one thread block."""
        return self.schedule.block if axis == self.blocked else self.size(axis)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value in one thread block."""
        return tuple(self.extent(axis) for axis in self.program.axes[name])

    def layout(self, rows: int, columns: int) -> Layout:
        """How a tile is spread over the block."""
        return layout(rows, columns, self.schedule.warps, tensor_cores=self.tensor_cores)

    # ------------------------------------------------------------------ where values live

    def product(self, step: Step, contraction: Contraction) -> Product:
        """A contraction of a matrix step as a product of two matrices.

        Raises
        ------
        CompileError
            If it is none.
        """
        row, column = step.indices
        factors = contraction.factors
        if len(contraction.summed) == 1 and len(factors) == MATRIX:
            (inner,) = contraction.summed
            left = next((f for f in factors if len(f.indices) == MATRIX and set(f.indices) == {row, inner}), None)
            right = next((f for f in factors if len(f.indices) == MATRIX and set(f.indices) == {inner, column}), None)
            if left is not None and right is not None and left is not right:
                return Product(
                    Operand(left.tensor, left.indices[0] == inner),
                    Operand(right.tensor, right.indices[1] == inner),
                    inner.axis,
                )
        shown = " · ".join(f"{f.tensor}[{','.join(i.name for i in f.indices)}]" for f in factors)
        raise CompileError(
            f"{self.program.name}: {step.name} sums {shown}; a CUDA kernel multiplies two matrices over one axis"
        )

    def in_registers(self, product: Product) -> bool:
        """Whether the left factor of a product is read from the registers that it was computed in.

        What is held for all chunks is read from shared memory instead: registers are for what is computed.
        """
        name = product.left.name
        outside = {p.name for p in (*self.tokens, *self.loaded, *self.rows)}
        return not product.left.transposed and name not in outside and self.layout(*self.shape(name)).whole_rows

    @cached_property
    def staged(self) -> tuple[str, ...]:
        """The tiles that a copy in shared memory is kept of, besides tokens and loaded states."""
        outside = {p.name for p in (*self.tokens, *self.loaded)}
        found: dict[str, None] = {}
        for step in self.steps:
            wanted = [r.tensor for r in self.elementwise(step) if self.crosses(r, self.tile_of(step))]
            for contraction in step.contractions if len(step.indices) == MATRIX else ():
                product = self.product(step, contraction)
                wanted.append(product.right.name)
                if not self.in_registers(product):
                    wanted.append(product.left.name)
            found.update(dict.fromkeys(name for name in wanted if name not in outside))
        return tuple(found)

    @cached_property
    def function_width(self) -> int:
        """Rows of the largest matrix that a function is taken of; 0 where there is none."""
        return max(map(self.width_of_function, self.steps), default=0)

    def width_of_function(self, step: Step) -> int:
        """Rows of the matrix that a step takes a function of; 0 where it takes none."""
        if not isinstance(step.finish, MatrixFunction):
            return 0
        return len(step.finish.grid) * self.extent(step.finish.indices[0].axis)

    def elementwise(self, step: Step) -> Iterator[Read]:
        """The reads of a step at one element: all but the factors of products, and what functions of a matrix read."""
        if step.is_matrix_function:
            return
        inside = [] if len(step.indices) == MATRIX else [r for c in step.contractions for r in c.factors]
        yield from inside
        yield from (r for r in step.reads if r not in {r for c in step.contractions for r in c.factors})

    def tile_of(self, step: Step) -> tuple[Index, ...]:
        """The indices of the tile that a step runs over: rows, columns; those of a sum are (kept, summed)."""
        summed = [] if len(step.indices) == MATRIX else [i for c in step.contractions for i in c.summed]
        return (*step.indices, *dict.fromkeys(summed))

    @staticmethod
    def crosses(read: Read, indices: tuple[Index, ...]) -> bool:
        """Whether an element is read by another thread than the one that has it in a register."""
        return len(read.indices) == MATRIX and read.tensor != ONES and read.indices != indices

    @property
    def scaled(self) -> bool:
        """Whether tiles are scaled before they are rounded: float16 has not the range of a sum over tokens."""
        return self.tile_dtype == "float16"

    @cached_property
    def left_in_registers(self) -> frozenset[str]:
        """The values that some product reads from registers."""
        products = [self.product(s, c) for s in self.steps if len(s.indices) == MATRIX for c in s.contractions]
        return frozenset(product.left.name for product in products if self.in_registers(product))

    @cached_property
    def measured(self) -> tuple[str, ...]:
        """The tiles whose largest element all warps have to know."""
        matrices = (name for name in self.outgoing if len(self.program.axes[name]) == MATRIX)
        return tuple(dict.fromkeys((*self.staged, *matrices))) if self.scaled else ()

    def copies(self, name: str) -> int:
        """The 16-bit numbers that an element of a staged tile is rounded to."""
        wide = name in self.carried or name in {p.name for p in self.given}
        return self.schedule.halves if wide and self.tensor_cores else 1

    @cached_property
    def vectors(self) -> tuple[str, ...]:
        """Values with one axis; they live in shared memory."""
        weights = {name for w in self.program.weights for name in (w.rise, w.fall)}
        names = dict.fromkeys([*(p.name for p in (*self.tokens, *self.held, *self.loaded)), *self.carried])
        names.update(dict.fromkeys(step.name for step in self.steps))
        return tuple(name for name in names if len(self.program.axes[name]) == 1 and name not in weights)

    @cached_property
    def partials(self) -> int:
        """Elements of shared memory for sums that threads share."""
        most = 0
        for step in self.steps:
            for contraction in step.contractions if len(step.indices) < MATRIX else ():
                tile = (*step.indices, *contraction.summed)
                if len(tile) == MATRIX:
                    rows, columns = (self.extent(index.axis) for index in tile)
                    most = max(most, self.layout(rows, columns).row_slots * rows)
        return most

    @cached_property
    def sums(self) -> int:
        """Elements of shared memory for the longest vector that is a sum."""
        return max((self.shape(s.name)[0] for s in self.steps if len(s.indices) == 1 and s.groups), default=0)
