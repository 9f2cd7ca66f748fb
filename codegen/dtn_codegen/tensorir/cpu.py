"""Tile programs as TensorIR for a CPU: one function that walks the chunks of every head.

Everything between arguments and results lives in buffers of a chunk, padded to whole vectors with zeros; tokens past
the end of a sequence are zeros as well, so that no product needs to know of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import Param

from .buffers import FLOAT, working_set
from .memory import Memory
from .prefetch import Prefetch, Tokens
from .rows import AFTER, BEFORE
from .schedule import CpuSchedule
from .steps import RANK, Step
from .walks import Carried, Rows, TileProgram, Walk

MAX_WORKING_SET = 32 * 2**20
"""Bytes of a head's buffers beyond which there is no point in a kernel that holds them in a cache."""


def lower_cpu(
    program: TileProgram, schedule: CpuSchedule, sizes: Mapping[str, int], dtype: str, layout: str = "... n d"
) -> tvm.IRModule:
    """A module whose ``main(*inputs, *outputs)`` computes ``program`` for any batch, heads and tokens.

    Parameters
    ----------
    program : TileProgram
        What to compute.
    schedule : CpuSchedule
        How.
    sizes : Mapping[str, int]
        Sizes of the feature axes.
    dtype : str
        Of tensors; scalars are float32 ``[batch, heads]``.
    layout : {"... n d", "... n h d"}
        Tensors are ``[batch, heads, n, d]``, or ``[batch, n, heads, d]`` where they have two axes.

    Raises
    ------
    CompileError
        If a head's buffers do not fit, or sizes and schedule do not.
    """
    return tvm.IRModule({"main": _Kernel(program, schedule, sizes, dtype, layout).function()})


def check_fits(program: TileProgram, schedule: CpuSchedule, sizes: Mapping[str, int]) -> None:
    """Raise CompileError for a kernel that would not stay in a cache."""
    taken = working_set(program, schedule, sizes)
    if taken > MAX_WORKING_SET:
        raise CompileError(
            f"{program.name}: a head's chunk and states take {taken >> 20} MiB, "
            f"more than the {MAX_WORKING_SET >> 20} of a cache"
        )


class _Kernel(Memory):
    def __init__(
        self, program: TileProgram, schedule: CpuSchedule, sizes: Mapping[str, int], dtype: str, layout: str
    ) -> None:
        super().__init__(program, schedule, sizes, dtype, layout)
        check_fits(program, schedule, sizes)

    # -------------------------------------------------------------- the function

    def function(self) -> Any:
        with IRBuilder() as made, T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
            self.signature()
            self.workspace()
            if self.schedule.parallel == "split":
                self.by_parts()
            else:
                loop = T.serial if self.schedule.parallel == "serial" else T.parallel
                with loop(self.batch * self.heads) as head:
                    self.by_head(head)
        return made.get()

    # -------------------------------------------------------------- walks

    def by_head(self, head: Any) -> None:
        """All walks of one head, one after another."""
        self.start(head, self.program.walks, self.program.tail)
        for walk in self.program.walks:
            for step in walk.setup:
                self.step(step)
            if walk.rows is not None:
                self.walk_rows(walk, walk.rows, head, T.int64(0), 1)
            elif walk.body:
                for carried in walk.carried:
                    self.begin(carried, head)
                if walk.replay:
                    self.walk_segments(walk, head)
                else:
                    self.walk(walk, head, 0, self.chunks)
                for carried in walk.carried:
                    self.end(carried, head)
        self.finish(head)

    def by_parts(self) -> None:
        """Each walk over all parts of all sequences at once; it starts from what the walks before it have summed."""
        count, parts = self.batch * self.heads, self.schedule.parts
        share = T.ceildiv(self.chunks, parts)
        walks = self.program.walks
        for place, walk in enumerate(walks):
            with T.parallel(count * parts) as task:
                head = T.bind(T.cast(task // parts, "int64"))
                part = T.bind(T.cast(task % parts, "int64"))
                self.start(head, walks[: place + 1], ())
                self.earlier(walks[: place + 1], head)
                if walk.rows is not None:
                    self.walk_rows(walk, walk.rows, head, part, parts)
                    continue
                for carried in walk.carried:
                    if carried.partial:
                        self.clear(carried.name)
                    else:
                        done = parts - 1 - part if walk.reverse else part
                        self.fold(carried, head, done, share, reverse=walk.reverse)
                self.walk(walk, head, part * share, T.min(self.chunks, (part + 1) * share))
                for carried in walk.carried:
                    if carried.partial:
                        self.hand_over(self.sums, carried.name, head * parts + part, load=False)
        if any(self.program.axis not in output.axes for output in self.program.outputs):
            with T.parallel(count) as task:
                head = T.bind(T.cast(task, "int64"))
                self.start(head, walks, self.program.tail)
                self.earlier(walks, head)
                for carried in walks[-1].carried:
                    if carried.partial and carried.total:
                        self.fold(carried, head, parts, share)
                for carried, reverse in [(carried, walk.reverse) for walk in walks for carried in walk.carried]:
                    if carried.partial and carried.last:
                        self.fold(carried, head, parts, share, reverse=reverse)
                        self.end(carried, head)
                self.finish(head)

    def start(self, head: Any, walks: Sequence[Walk], tail: Sequence[Step]) -> None:
        """The buffers of a head, its constants, and the powers of its decays."""
        self.head_index = head
        self.tokens = self.length
        self.replayed: dict[str, Any] = {}
        for name in (name for walk in walks if walk.replay for name in walk.loaded):
            rows, columns = self.shape(name, transposed=self.native(name))
            self.replayed[name] = T.alloc_buffer((self.segment * rows, columns), FLOAT)
        steps = [*(step for walk in walks for step in walk.steps), *tail]
        used = {read.tensor for step in steps for read in step.reads} | {step.name for step in steps}
        used |= {carried.name for walk in walks for carried in walk.carried}
        used |= {name for walk in walks for name in (*walk.saved, *walk.loaded)}
        used |= {name for walk in walks if walk.rows is not None for name in walk.rows.names}
        self.allocate(name for name in self.program.axes if name in used)
        self.registers()
        for param in self.program.inputs:
            if self.program.axis not in param.axes and (param.name, self.native(param.name)) in self.buffers:
                self.stage_constant(param, head, param.name)
        for name, value in self.program.constants.items():
            if (name, False) in self.buffers:
                T.buffer_store(self.buffers[name, False], T.float32(value), [0, 0])
        self.powers()

    def earlier(self, walks: Sequence[Walk], head: Any) -> None:
        """What the walks before the last of ``walks`` have summed, and the steps that need no tokens."""
        share = T.ceildiv(self.chunks, self.schedule.parts)
        for place, walk in enumerate(walks):
            for step in walk.setup:
                self.step(step)
            for carried in walk.carried if place < len(walks) - 1 else ():
                if carried.partial and carried.total:
                    self.fold(carried, head, self.schedule.parts, share)

    def finish(self, head: Any) -> None:
        """Results that have no tokens."""
        self.tokens = self.length
        for step in self.program.tail:
            self.step(step)
        for output in self.program.outputs:
            if self.program.axis not in output.axes and output.name not in self.program.states:
                self.write_constant(output, head, output.name)

    def begin(self, carried: Carried, head: Any) -> None:
        """What a carried tensor is before the first chunk."""
        if not carried.first:
            self.clear(carried.name)
            return
        param = next(p for p in self.program.inputs if p.name == carried.first)
        self.stage_constant(param, head, carried.name)

    def end(self, carried: Carried, head: Any) -> None:
        """After the last chunk: turn a sum where it is read the other way too; write a state where it is asked for."""
        if carried.total:
            self.turn(carried.name)
        if carried.last:
            param = next(p for p in self.program.outputs if p.name == carried.last)
            self.write_constant(param, head, carried.name)

    def fold(self, carried: Carried, head: Any, count: Any, share: Any, *, reverse: bool = False) -> None:
        """What it is before the first chunk and the sums of the first (or last) ``count`` parts, decayed since."""
        self.begin(carried, head)
        form = self.native(carried.name)
        rows, columns = self.shape(carried.name, transposed=form)
        target, source = self.buffers[carried.name, form], self.sums[carried.name]
        chunk, parts = self.chunk, self.schedule.parts
        with T.serial(count) as place:
            part = T.bind(parts - 1 - place if reverse else place)
            kept: Any = T.float32(1)
            if carried.weights is not None:
                first, last = (T.min(self.length, edge * share * chunk) for edge in (part, part + 1))
                power = T.pow(self.decay(carried.weights.decay), T.cast(last - first, "float64"))
                kept = T.bind(T.cast(power, FLOAT))
            with T.serial(rows) as row:
                for column, lane in self.vectors(columns):
                    added = source[(head * parts + part) * rows + row, column + lane]
                    value = kept * target[row, column + lane] + added
                    T.buffer_store(target, value, [row, column + lane])
        self.turn(carried.name)

    def walk(self, walk: Walk, head: Any, begin: Any, end: Any) -> None:
        """One pass over the chunks from ``begin`` to ``end``."""
        inputs = [p for p in self.program.inputs if self.program.axis in p.axes and walk.reads([p.name])]
        with T.serial(end - begin) as turn:
            chunk = T.bind(end - 1 - turn if walk.reverse else begin + T.cast(turn, "int64"))
            first = T.bind(chunk * self.chunk)
            self.first = first
            self.tokens = T.bind(T.min(self.length - first, T.int64(self.chunk)))
            for param in inputs:
                self.stage(param, head, first)
            self.falling(walk)
            self.save(walk, head, chunk)
            for name in walk.loaded:
                self.hand_over(self.kept, name, head * self.chunks + chunk, load=True)
            if walk.rows is not None:
                self.gather(walk.rows, head, chunk)
            states = [c for c in walk.carried if not (c.total or c.partial)]
            if self.schedule.parallel != "split":  # parts start from what is before them
                empty = sorted(c.name for c in states if not c.first)
                self.empty = {name: T.bind(T.cast(turn > 0, "int64")) for name in empty}
            self.prefetch = self.requests(walk, inputs, head, first)
            idle = {c.name for c in states if self.schedule.parallel == "split" or not c.last}
            for place, step in enumerate(walk.body):
                if step.name not in idle or any(r.tensor == step.name for s in walk.body[place + 1 :] for r in s.reads):
                    self.step(step)
                    continue
                with T.If(turn < end - begin - 1), T.Then():  # nothing reads the last one
                    self.step(step)
            self.empty, self.prefetch = {}, None
            for name in walk.stored:
                self.hand_over(self.kept, name, head * self.chunks + chunk, load=False)
            if walk.rows is not None:
                self.gathered(walk.rows, head, chunk)
            for param in self.program.outputs:
                if param.name in walk.results:
                    self.write(param, head, first)
        self.tokens = self.length

    def walk_rows(self, walk: Walk, rows: Rows, head: Any, begin: Any, stride: int) -> None:
        """A pass over the chunks for every ``stride``-th chunk of rows."""
        inputs = {param.name: param for param in self.program.inputs}
        outputs = {param.name: param for param in self.program.outputs}
        with T.serial(T.ceildiv(T.max(self.chunks - begin, T.int64(0)), stride)) as turn:
            chunk = T.bind(begin + T.cast(turn, "int64") * stride)
            self.row_chunk = chunk
            self.row_first = T.bind(chunk * self.chunk)
            self.row_tokens = T.bind(T.min(self.length - self.row_first, T.int64(self.chunk)))
            self.tokens = self.row_tokens
            for name, of in rows.read.items():
                if of in inputs:
                    self.stage(inputs[of], head, self.row_first, name)
                else:
                    self.hand_over(self.kept, of, head * self.chunks + chunk, load=True, name=name)
            for carried in walk.carried:
                self.clear(carried.name)
            ends = {"before": (0, chunk + 1), "after": (chunk, self.chunks), "all": (0, self.chunks)}
            first, last = ends[rows.side]
            self.walk(walk, head, first, last)
            for carried in walk.carried:
                self.end(carried, head)
            self.tokens = self.row_tokens
            for step in rows.tail:
                self.step(step)
            for name, of in rows.stored.items():
                self.hand_over(self.kept, of, head * self.chunks + chunk, load=False, name=name)
            for of, name in rows.results.items():
                self.write(outputs[of], head, self.row_first, name)
        self.tokens = self.length

    def gather(self, rows: Rows, head: Any, chunk: Any) -> None:
        """What the rows so far have added to the sums of a chunk of tokens."""
        first = self.row_chunk == (chunk if rows.side == BEFORE else 0)
        for name in rows.gathered:
            with T.If(first):
                with T.Then():
                    self.clear(name)
                with T.Else():
                    self.hand_over(self.kept, name, head * self.chunks + chunk, load=True)

    def gathered(self, rows: Rows, head: Any, chunk: Any) -> None:
        """Keep these sums for the next rows; after the last of them, results are written."""
        last = self.row_chunk == (chunk if rows.side == AFTER else self.chunks - 1)
        results = {param.name: param for param in self.program.outputs}
        for name in rows.gathered:
            if name in results:
                with T.If(last), T.Then():
                    self.write(results[name], head, self.first)
            self.hand_over(self.kept, name, head * self.chunks + chunk, load=False)

    def save(self, walk: Walk, head: Any, chunk: Any) -> None:
        """Write the states before a chunk to memory; where chunks are single tokens, before a segment of them."""
        with ExitStack() as where:
            if walk.saved and self.segment > self.chunk:
                where.enter_context(T.If(chunk % self.segment == 0))
                where.enter_context(T.Then())
            for name in walk.saved:
                self.hand_over(self.kept, name, head * self.segments + chunk * self.chunk // self.segment, load=False)

    def walk_segments(self, walk: Walk, head: Any) -> None:
        """One pass from the last token to the first, the states before each computed anew from the segment's."""
        inputs = [p for p in self.program.inputs if self.program.axis in p.axes]
        forward = [p for p in inputs if p.name in {read.tensor for step in walk.replay for read in step.reads}]
        backward = [p for p in inputs if walk.reads([p.name])]
        self.tokens = T.int64(1)
        with T.serial(self.segments) as turn:
            segment = T.bind(self.segments - 1 - turn)
            first = T.bind(segment * self.segment)
            count = T.bind(T.min(self.length - first, T.int64(self.segment)))
            for name in walk.loaded:
                self.hand_over(self.kept, name, head * self.segments + segment, load=True)
            with T.serial(count) as token:
                for name in walk.loaded:
                    self.hand_over(self.replayed, name, token, load=False)
                for param in forward:
                    self.stage(param, head, first + token)
                for step in walk.replay:
                    self.step(step)
            with T.serial(count) as back:
                token = T.bind(count - 1 - back)
                for name in walk.loaded:
                    self.hand_over(self.replayed, name, token, load=True)
                for param in backward:
                    self.stage(param, head, first + token)
                for step in walk.body:
                    self.step(step)
                for param in self.program.outputs:
                    if param.name in walk.results:
                        self.write(param, head, first + token)
        self.tokens = self.length

    def requests(self, walk: Walk, inputs: Sequence[Param], head: Any, first: Any) -> Prefetch:
        """For the chunk after the one that begins at ``first``."""
        tiles = {step.name: self.tiles(step) for step in walk.body if step.is_matmul and step.order is None}
        results = [param for param in self.program.outputs if param.name in walk.results]
        tokens = [
            Tokens(
                self.arguments[param.name], self.sizes[param.axes[1]], partial(self.row, param, head), param in results
            )
            for param in (*inputs, *results)
            if len(param.axes) == RANK
        ]
        following = first - self.chunk if walk.reverse else first + self.chunk
        return Prefetch(tiles, tokens, following, self.chunk, self.length)
