"""A thread block: its arguments, its memory, its barriers, and the way it takes along a sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from tvm.backend.cuda.lang.alloc_pool import SMEMPool
from tvm.tirx.script.builder import ir as tir

from dtn_core.ir.nodes import ONES

from ..steps import Step
from ..zeros import Padding
from .arguments import Arguments
from .elements import Values, real
from .multiply_add import MultiplyAdd
from .placement import MATRIX, PADDING
from .plan import Plan
from .scaling import Scale, largest_of_block, largest_of_warp
from .tensorcore import TensorCores
from .tiles import Engine, Expression, SharedTile, local, named


class Block:
    """What the threads of a block share while they walk over a sequence.

    Parameters
    ----------
    plan : Plan
        Of the pass.
    arguments : Arguments
        Of the function, and the memory between its passes.
    """

    def __init__(self, plan: Plan, arguments: Arguments) -> None:
        self.plan = plan
        self.arguments = arguments
        self.length = arguments.length
        self.walk = plan.part.walk
        self.segments = {"chunks": arguments.chunks, "segments": arguments.segments}.get(plan.part.share, tir.int64(1))
        self.axis = plan.program.axis
        self.chunk = plan.chunk
        self.threads = 32 * plan.schedule.warps
        self.values = Values(plan.program.axis, plan.program.weights, plan.program.constants)
        self.padding = Padding(plan.program)
        self.incoming: dict[str, Any] = {}
        self.written: set[str] = set()
        self.read: set[str] = set()

    # ------------------------------------------------------------------ where elements are

    def feature(self, axis: str, place: Expression) -> Expression:
        """A feature of the thread block as one of the whole problem."""
        return place + self.column_block * self.plan.extent(axis) if axis == self.plan.blocked else place

    def features(self, name: str, places: tuple[Expression, ...]) -> tuple[Expression, ...]:
        """The same for all axes of a tensor without tokens."""
        return tuple(map(self.feature, self.plan.program.axes[name], places))

    def outside(self, name: str, places: tuple[Expression, ...]) -> tuple[Expression, ...]:
        """The same in an argument or result, where a pair of features is two axes."""
        program = self.plan.program
        found: list[Expression] = []
        for axis, place in zip(program.axes[name], self.features(name, places), strict=True):
            if axis in program.pairs:
                count = self.plan.size(program.pairs[axis][1])
                found += [place // count, place % count]
            else:
                found.append(place)
        return tuple(found)

    # ------------------------------------------------------------------ memory

    def enter(self) -> None:
        """The grid, shared memory, and the registers of what is carried."""
        plan = self.plan
        grid = tir.cta_id([tir.cast(self.arguments.sequences, "int32"), plan.blocks, tir.cast(self.segments, "int32")])
        names = ("sequence", "column_block", "segment")
        self.sequence, self.column_block, self.segment = map(named, names, grid)
        self.thread = named("thread", tir.thread_id([self.threads]))
        self.engine: Engine = MultiplyAdd(self.thread)
        if plan.tensor_cores:
            self.engine = TensorCores(plan.dtype, self.thread)
        pool = SMEMPool()

        def tile(name: str, copies: int) -> Any:
            rows, columns = plan.shape(name)
            shape = (copies, rows, plan.stride(columns))
            return named(f"{name}_shared", pool.alloc(shape, plan.tile_dtype, align=128))

        for param in plan.incoming:
            self.incoming[param.name] = tile(param.name, plan.schedule.stages)
        for name in plan.staged:
            self.values.tiles[name] = SharedTile(tile(name, plan.copies(name)), 0, plan.copies(name))
        for name in plan.vectors:
            self.values.vectors[name] = named(f"{name}_shared", pool.alloc(plan.shape(name), "float32", align=128))
        if plan.partials:
            self.partials = named("partials", pool.alloc((plan.partials,), "float32", align=128))
        if plan.measured:
            warps = plan.schedule.warps
            self.maxima = named("maxima", pool.alloc((len(plan.measured), warps), "uint32", align=128))
        if plan.sums:
            self.values.sums = named("sums", pool.alloc((plan.sums,), "float32", align=128))
        if plan.function_width:
            width = plan.function_width
            square = (1, width, width + PADDING)
            self.function = [named(name, pool.alloc(square, "float32", align=128)) for name in ("function", "series")]
            self.norms = named("norms", pool.alloc((width,), "float32", align=128))
        pool.commit()
        matrices = {*plan.measured, *plan.left_in_registers, *self.loaded_matrices()} if plan.scaled else set()
        self.scales = {name: Scale.named(name) for name in sorted(matrices)}
        for name, held in self.values.tiles.items():
            if name in self.scales:
                self.values.tiles[name] = replace(held, inverse=self.scales[name].inverse[0])
        for name in (*plan.carried, *(p.name for p in plan.held)):
            shape = plan.shape(name)
            if len(shape) == MATRIX:
                self.values.fragments[name] = self.engine.fragment(plan.layout(*shape), name)
            elif not shape:
                self.values.scalars[name] = local((1,), "float32", name)

    def begin(self) -> None:
        """Scalars and decays; what is given, and what is carried, before the first chunk."""
        for param in self.plan.scalars:
            scalar = self.values.scalars[param.name] = local((1,), "float32", param.name)
            tir.buffer_store(scalar, self.arguments.given(param.name, self.sequence, ()), [0])
        for decay in self.plan.decays:
            if decay.tensor in self.values.scalars:
                logarithm = local((1,), "float32", f"log_{decay.tensor}")
                tir.buffer_store(logarithm, tir.log2(self.values.scalars[decay.tensor][0]), [0])
                self.values.log_decays[decay] = logarithm[0]
        for param in self.plan.given:
            self.set(param.name, partial(self.given, param.name))
        if self.walk.rows is not None:
            self.rows_origin = named("rows_origin", tir.Bind(self.segment * self.chunk))
            self.values.origins = {self.plan.program.rows: self.rows_origin}
            remaining = tir.cast(self.length, "int32") - self.rows_origin
            rows_count = named("rows_count", tir.Bind(tir.min(remaining, self.chunk)))
            self.values.counts[self.plan.program.rows] = rows_count
        for param in self.plan.rows:
            self.set(param.name, partial(self.row, param.name))
        for name, carried in self.plan.carried.items():
            if name in self.plan.part.starts:
                self.set(name, partial(self.start, name))
            elif carried.first and name not in self.plan.part.ends:
                self.set(name, partial(self.before, name, carried.first))
            else:
                self.set(name, lambda places: real(0))

    def given(self, name: str, places: tuple[Expression, ...]) -> Expression:
        """An element of what has no tokens and comes from outside."""
        return tir.cast(self.arguments.given(name, self.sequence, self.features(name, places)), "float32")

    def row(self, name: str, places: tuple[Expression, ...]) -> Expression:
        """An element of what is read along the rows of the thread block."""
        assert self.walk.rows is not None
        rows, of = self.plan.program.rows, self.walk.rows.read[name]
        if of not in {p.name for p in self.plan.program.inputs}:
            value = tir.cast(self.arguments.buffers[f"{of}_saved"][(self.sequence, self.segment, *places)], "float32")
            scales = self.arguments.buffers.get(f"{of}_scales")
            return value if scales is None else value / scales[self.sequence, self.segment]
        place, *feature = places
        inside = place < self.values.counts[rows]
        token = tir.Select(inside, self.rows_origin + place, 0)
        element = self.arguments.token(of, self.sequence, token, *feature)
        return tir.Select(inside, tir.cast(element, "float32"), real(0))

    def before(self, name: str, first: str, places: tuple[Expression, ...]) -> Expression:
        """An element of a state before the first token."""
        return self.arguments.given(first, self.sequence, self.outside(name, places))

    def start(self, name: str, places: tuple[Expression, ...]) -> Expression:
        """An element of a state that the segment begins with."""
        return self.arguments.buffers[f"{name}_segments"][self.segment_at(name, places)]

    def segment_at(self, name: str, places: tuple[Expression, ...]) -> tuple[Expression, ...]:
        return (self.sequence, self.segment, *self.features(name, places))

    def set(self, name: str, value: Callable[[tuple[Expression, ...]], Expression]) -> None:
        """Set a value without tokens, of any rank, from its element at ``places``; and its copy in shared memory."""
        if name in self.values.fragments:
            fragment = self.values.fragments[name]
            with self.engine.each(fragment.layout) as element:
                fragment.put(element, value((element.row, element.column)))
            self.keep(name)
        elif name in self.values.vectors:
            self.write_fence(name)
            with self.each_of(self.plan.shape(name)[0]) as place:
                tir.buffer_store(self.values.vectors[name], value((place,)), [place])
        else:
            tir.buffer_store(self.values.scalars[name], value(()), [0])

    def put(self, name: str, target: Any, at: Callable[[tuple[Expression, ...]], tuple[Expression, ...]]) -> None:
        """Write a value without tokens, of any rank, in the dtype of ``target``."""

        def store(value: Expression, *places: Expression) -> None:
            tir.buffer_store(target, tir.cast(value, target.dtype), list(at(places)))

        if name in self.values.fragments:
            fragment = self.values.fragments[name]
            with self.engine.each(fragment.layout) as element:
                store(fragment.at(element), element.row, element.column)
        elif name in self.values.vectors:
            self.read_fence(name)
            with self.each_of(self.plan.shape(name)[0]) as place:
                store(self.values.vectors[name][place], place)
        else:
            store(self.values.scalars[name][0])

    def loaded_matrices(self) -> list[str]:
        """The matrices that an earlier walk left."""
        return [p.name for p in self.plan.loaded if len(p.axes) == MATRIX]

    def keep(self, name: str) -> None:
        """Make a computed tile ready to be a factor: its copy in shared memory, or its scale."""
        if name in self.plan.staged:
            self.stage(name)
        elif name in self.plan.left_in_registers:
            self.measure(name)

    def stage(self, name: str) -> None:
        """Copy a tile to shared memory."""
        self.measure(name)
        self.write_fence(name)
        self.engine.stage(self.values.fragments[name], self.values.tiles[name], self.factor(name))

    def factor(self, name: str) -> Expression:
        """What a tile is multiplied by before it is rounded; None where it is not."""
        return self.scales[name].factor[0] if name in self.scales else None

    def measure(self, name: str) -> None:
        """Choose the scale of a tile, where it has one."""
        if name in self.plan.measured:
            slot = self.plan.measured.index(name)
            own = f"largest of {name}"
            self.write_fence(own)
            warp, warps = self.thread // 32, self.plan.schedule.warps
            fragment, fence = self.values.fragments[name], partial(self.read_fence, own)
            self.scales[name].set(largest_of_block(self.engine, fragment, self.maxima, slot, warp, warps, fence))
        elif name in self.scales:
            self.scales[name].set(largest_of_warp(self.engine, self.values.fragments[name]))

    def finish(self) -> None:
        """Write what is carried after the last chunk."""
        for name in self.plan.part.ends:
            end = self.arguments.buffers[f"{name}_segments"]
            self.put(name, end, partial(self.segment_at, name))
        ending = {name: carried.last for name, carried in self.plan.carried.items() if carried.last}
        if ending:
            final = tir.int32(0) if self.walk.reverse else tir.cast(self.segments - 1, "int32")
            with tir.If(self.segment == final), tir.Then():
                for name, last in ending.items():
                    self.put(name, self.arguments.buffers[last], partial(self.sequence_at, name))

    def sequence_at(self, name: str, places: tuple[Expression, ...]) -> tuple[Expression, ...]:
        heads = self.arguments.heads
        return (self.sequence // heads, self.sequence % heads, *self.outside(name, places))

    # ------------------------------------------------------------------ barriers

    def barrier(self) -> None:
        """Wait for all threads of the block."""
        tir.evaluate(tir.cuda.cta_sync())
        self.written.clear()
        self.read.clear()

    def read_fence(self, *names: str) -> None:
        """Before reading shared memory: a barrier if it was written since the last one."""
        if self.written.intersection(names):
            self.barrier()
        self.read.update(names)

    def write_fence(self, name: str) -> None:
        """Before writing shared memory: a barrier if it was read or written since the last one."""
        if name in self.read | self.written:
            self.barrier()
        self.written.add(name)

    def fence_reads(self, step: Step) -> None:
        """Before a step reads elements: a barrier if another thread wrote one of them."""
        tile = self.plan.tile_of(step)
        names = set()
        for read in self.plan.elementwise(step):
            if read.tensor in self.values.vectors or self.plan.crosses(read, tile) or read.tensor in self.incoming:
                names.add(read.tensor)
        self.read_fence(*(names - {ONES}))

    # ------------------------------------------------------------------ loops

    @contextmanager
    def strided(self, count: int) -> Iterator[Expression]:
        """A loop over ``count`` places shared out over the threads."""
        with tir.unroll(-(-count // self.threads)) as turn:
            place = turn * self.threads + self.thread
            if count % self.threads:
                with tir.If(place < count), tir.Then():
                    yield place
            else:
                yield place

    each_of = strided
