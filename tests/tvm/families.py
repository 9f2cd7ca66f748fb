"""A family of schedules that does every thing a schedule can do wrong; the tuner cannot tell it from the real one.

The kernel is ``y = 2 x``.  The behaviour is a parameter of the schedule, so a search meets good and bad candidates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import tvm
import tvm.script
from tvm.script import tirx as T

from dtn_codegen.python import ir_hash
from dtn_codegen.tensorir import schedule
from dtn_core.operators import as_operator

NOTATION = "twice(x[n,d]) -> y[n,d]: y[i,a] = 2 * x[i,a]"
OPERATOR = as_operator(NOTATION)

SOURCE = """
@T.prim_func
def main(x: T.Buffer({shape}, "float32"), y: T.Buffer({shape}, "float32")):
    T.func_attr({{"global_symbol": "main", "tirx.noalias": True}})
    for b, h, i in T.grid({batch}, {heads}, {rows}):
        for j in {loop}({d}):
            y[b, h, i, j] = x[b, h, i, j] * T.float32({factor})
    {call}
"""

# No candidate is trusted: each of these is a way to lose one.
BEHAVIOURS = {
    "good": "",
    "slow": 'T.evaluate(T.call_extern("int32", "usleep", 20000))',
    "segfault": 'T.evaluate(T.call_extern("int32", "raise", 11))',
    "hang": 'T.evaluate(T.call_extern("int32", "pause"))',
    "wrong": "",
    "unwritten": "",
    "missing": 'T.evaluate(T.call_extern("int32", "no_such_function_anywhere"))',
}


@dataclass(frozen=True)
class Problem:
    operator: object
    direction: str
    dtype: str
    sizes: dict

    @property
    def inputs(self):
        return self.operator.program.tensors

    @property
    def outputs(self):
        return self.operator.program.outputs

    def shape(self, param):
        return tuple(self.sizes.values())

    def kind(self, param):
        return self.dtype

    @property
    def ir_hash(self):
        return ir_hash(self.operator.program)

    @property
    def bucket(self):
        return ",".join(f"{axis}={1 << (size - 1).bit_length()}" for axis, size in self.sizes.items())

    def flops_at(self, chunk):
        return math.prod(self.sizes.values())

    @property
    def bytes(self):
        return 8 * math.prod(self.sizes.values())


@dataclass(frozen=True)
class Schedule(schedule.Schedule):
    behaviour: str = "good"
    loop: str = "T.serial"

    kind: ClassVar[str] = "twice"


class Kernel:
    def __init__(self, executable):
        self.executable = executable

    def export(self, path):
        self.executable.export_library(str(path))


OFFERED = []  # the schedules of the space, the default first; tests say which


def space(problem, target):
    return tuple(OFFERED)


def default(problem, target):
    return OFFERED[0]


def lower(problem, schedule, target):
    shape = tuple(problem.sizes.values())
    batch, heads, n, d = shape
    text = SOURCE.format(
        shape=shape,
        batch=batch,
        heads=heads,
        rows=n - 1 if schedule.behaviour == "unwritten" else n,
        d=d,
        loop=schedule.loop,
        factor=3 if schedule.behaviour == "wrong" else 2,
        call=BEHAVIOURS[schedule.behaviour],
    )
    return tvm.IRModule({"main": tvm.script.from_source(text, extra_vars={"T": T})})


def compile(problem, schedule, target):
    if schedule.behaviour == "unbuildable":
        raise ValueError("this schedule cannot be lowered\nthe accumulator does not fit")
    return Kernel(tvm.compile(lower(problem, schedule, target), target.tvm))
