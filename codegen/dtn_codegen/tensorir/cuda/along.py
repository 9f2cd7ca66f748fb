"""The way of a thread block along its sequence: chunks copied ahead, what is left for later walks, and results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx import all as all_of
from tvm.tirx.script.builder import ir as tir

from ..rows import AFTER, ALL, BEFORE
from ..steps import Step
from .block import Block
from .elements import real
from .placement import BYTES, MATRIX
from .tiles import Expression, SharedTile, local, named, ptx


class Along(Block):
    """Chunk after chunk of a segment, or from the last span of tokens to the first."""

    @contextmanager
    def chunks(self) -> Iterator[None]:
        """A loop over the chunks of the segment, tokens copied ahead."""
        stages = self.plan.schedule.stages
        begin, end = self.range()
        first = named("first", tir.Bind(tir.cast(begin, "int32")))
        stop = named("stop", tir.Bind(tir.cast(end, "int32")))

        def number(turn: Expression) -> Expression:
            return stop - 1 - turn if self.walk.reverse else first + turn

        for ahead in range(stages - 1):
            self.fetch(number(ahead), ahead, first, stop)
        with tir.serial(tir.max(stop - first, 0)) as turn:
            IRBuilder.name("turn", turn)
            self.at = named("chunk", tir.Bind(number(turn)))
            self.origin = named("origin", tir.Bind(self.at * self.chunk))
            remaining = tir.cast(self.length, "int32") - self.origin
            self.values.counts[self.axis] = named("count", tir.Bind(tir.min(remaining, self.chunk)))
            if self.walk.rows is not None:
                self.values.origins[self.axis] = self.origin
            if stages == 1:
                self.barrier()
                self.fetch(self.at, 0, first, stop)
            ptx("cp.async.wait_group", max(0, stages - 2))
            self.barrier()
            for name, buffer in self.incoming.items():
                inverse = self.scales[name].inverse[0] if name in self.scales else None
                self.values.tiles[name] = SharedTile(buffer, turn % stages if stages > 1 else 0, 1, inverse)
            self.load_narrow(self.plan.used)
            if stages > 1:
                self.fetch(number(turn + (stages - 1)), (turn + (stages - 1)) % stages, first, stop)
            yield

    @contextmanager
    def spans(self) -> Iterator[Expression]:
        """A loop over spans of tokens from the last to the first: how many tokens there are in each."""
        span, length = self.plan.span, tir.cast(self.length, "int32")
        count = (length + (span - 1)) // span
        with tir.serial(count) as turn:
            first = named("first", tir.Bind((count - 1 - turn) * span))
            self.at = first
            yield named("tokens", tir.Bind(tir.min(length - first, span)))

    @contextmanager
    def tokens(self, count: Expression, steps: Iterable[Step], *, reverse: bool = False) -> Iterator[Expression]:
        """A loop over the ``count`` tokens of a span, as far as ``steps`` read them: the number of each in the span."""
        read = {read.tensor for step in steps for read in step.reads}
        first = self.at
        with tir.serial(count) as turn:
            self.barrier()
            place = count - 1 - turn if reverse else turn
            self.origin = named("origin", tir.Bind(first + place))
            self.load_narrow(read)
            yield place
        self.barrier()

    def range(self) -> tuple[Expression, Expression]:
        """The chunks that the thread block takes: from the first to before the second."""
        total = self.arguments.chunks
        if self.walk.rows is not None:
            sides = {BEFORE: (0, self.segment + 1), AFTER: (self.segment, total), ALL: (0, total)}
            return sides[self.walk.rows.side]
        share = self.arguments.share if self.plan.part.segmented else total
        return self.segment * share, tir.min(self.segment * share + share, total)

    def fetch(self, chunk: Expression, slot: Expression, first: Expression, stop: Expression) -> None:
        """Start copying the tiles of a chunk to shared memory; what is past the end is zero."""
        width = 16 // BYTES[self.plan.dtype]
        exists = all_of(first <= chunk, chunk < stop)
        for name, buffer in self.incoming.items():
            rows, columns = self.plan.shape(name)
            is_token = name not in self.walk.loaded
            with self.strided(rows * columns // width) as place:
                row, column = place // (columns // width), place % (columns // width) * width
                if is_token:
                    token = chunk * self.chunk + row
                    inside = all_of(exists, token < tir.cast(self.length, "int32"))
                    axes = self.plan.program.axes[name]
                    token = tir.Select(inside, token, 0)
                    element = self.arguments.token(name, self.sequence, token, self.feature(axes[1], column))
                else:
                    inside = exists
                    places = self.features(name, (row, column))
                    element = self.arguments.buffers[f"{name}_saved"][
                        (self.sequence, tir.Select(inside, chunk, 0), *places)
                    ]
                size = tir.Select(inside, tir.uint32(16), tir.uint32(0))
                target = tir.address_of(buffer[slot, row, column])
                ptx("cp.async.cg.shared.global", target, tir.address_of(element), 16, size)
        ptx("cp.async.commit_group")

    def load_narrow(self, wanted: Collection[str]) -> None:
        """Tokens that are wanted, and what an earlier walk left, without a row: read directly."""
        for param in self.plan.tokens:
            if param.name not in self.incoming and param.name in wanted:
                if not self.plan.program.axes[param.name]:
                    self.values.scalars[param.name] = local((1,), "float32", param.name)
                self.set(param.name, partial(self.narrow, param.name))
        for name in self.loaded_matrices() if self.scales else ():
            factor = self.arguments.buffers[f"{name}_scales"][self.sequence, self.memory_place]
            tir.buffer_store(self.scales[name].inverse, real(1) / factor, [0])
            tir.buffer_store(self.scales[name].factor, factor, [0])
        for param in self.plan.loaded:
            if len(param.axes) < MATRIX:
                if not param.axes:
                    self.values.scalars[param.name] = local((1,), "float32", param.name)
                self.set(param.name, partial(self.saved, param.name))

    def narrow(self, name: str, places: tuple[Expression, ...]) -> Expression:
        """An element of the chunk's tokens, where they are no matrix: one of each token, or one token's features."""
        if self.plan.program.by_token:
            element = self.arguments.token(name, self.sequence, self.origin, *self.features(name, places))
            return tir.cast(element, "float32")
        inside = places[0] < self.values.count
        element = self.arguments.token(name, self.sequence, tir.Select(inside, self.origin + places[0], 0))
        return tir.Select(inside, tir.cast(element, "float32"), real(0))

    def saved(self, name: str, places: tuple[Expression, ...]) -> Expression:
        """An element of what an earlier walk left of the chunk."""
        return self.arguments.buffers[f"{name}_saved"][self.chunk_at(name, places)]

    def chunk_at(self, name: str, places: tuple[Expression, ...]) -> tuple[Expression, ...]:
        return (self.sequence, self.memory_place, *self.features(name, places))

    @property
    def memory_place(self) -> Expression:
        """Where what is left of the chunk is among that of all others."""
        return self.at // self.plan.span if self.plan.span > 1 else self.at

    def recalled(self, name: str, token: Expression, places: tuple[Expression, ...]) -> Expression:
        """An element of a state before a token of the span."""
        return self.arguments.buffers[f"{name}_replayed"][self.token_at(name, token, places)]

    def token_at(self, name: str, token: Expression, places: tuple[Expression, ...]) -> tuple[Expression, ...]:
        return (self.sequence, token, *self.features(name, places))

    def leave_states(self, names: Collection[str]) -> None:
        """Write states before a chunk for a later walk, once a span."""
        with ExitStack() as where:
            if names and self.plan.span > 1:
                self.read_fence(*names)
                where.enter_context(tir.If(self.at % self.plan.span == 0))
                where.enter_context(tir.Then())
            self.leave(names)

    def leave(self, names: Iterable[str]) -> None:
        """Write states before a chunk, or tensors of its tokens, for a later walk."""
        for name in names:
            memory = self.plan.outgoing[name]
            saved = self.arguments.buffers[f"{memory}_saved"]
            if name in self.values.fragments:

                def address(row: Expression, column: Expression, name: str = name, saved: Any = saved) -> Expression:
                    return tir.address_of(saved[self.chunk_at(name, (row, column))])

                if name not in self.plan.staged:
                    self.measure(name)
                self.engine.store(self.values.fragments[name], address, None, self.factor(name))
                if name in self.scales:
                    with tir.If(self.thread == 0), tir.Then():
                        scales = self.arguments.buffers[f"{memory}_scales"]
                        tir.buffer_store(scales, self.scales[name].factor[0], [self.sequence, self.memory_place])
            else:
                self.put(name, saved, partial(self.chunk_at, name))

    def write_result(self, result: str, name: str) -> None:
        """Write a result of the chunk's tokens, which is the tensor ``name``."""
        axes = self.plan.program.axes[name]
        if self.plan.program.by_token:
            self.write_token(name)
            return

        def inside(row: Expression) -> Expression:
            return row < self.values.counts[axes[0]]

        def address(row: Expression, column: Expression) -> Expression:
            place = self.origin + row, self.feature(axes[1], column)
            return tir.address_of(self.arguments.token(result, self.sequence, *place))

        if len(axes) == MATRIX:
            self.engine.store(self.values.fragments[name], address, inside)
            return
        self.read_fence(name)
        with self.each_of(self.chunk) as row, tir.If(inside(row)), tir.Then():
            self.arguments.write_token(result, self.values.vectors[name][row], self.sequence, self.origin + row)

    def write_token(self, name: str) -> None:
        """Write a result of the one token of the chunk."""
        if name not in self.values.vectors:
            with tir.If(self.thread == 0), tir.Then():
                self.arguments.write_token(name, self.values.scalars[name][0], self.sequence, self.origin)
            return
        self.read_fence(name)
        with self.each_of(self.plan.shape(name)[0]) as place:
            value = self.values.vectors[name][place]
            self.arguments.write_token(name, value, self.sequence, self.origin, *self.features(name, (place,)))
