"""The kernel that nothing on a processor is faster than: multiply-adds in registers, on every thread, and nothing else.

NumPy's BLAS is no such ceiling: the one in its wheels stays below what a kernel for the processor's own vectors
reaches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .targets import Target

ROWS, STEPS = 12, 1 << 16  # enough independent sums to fill the pipelines of two units; about 0.5 ms

_SOURCE = """
@T.prim_func
def main(x: T.Buffer((2, {lanes}), "float32"), o: T.Buffer(({threads}, {rows}, {lanes}), "float32")):
    T.func_attr({{"global_symbol": "main", "tirx.noalias": True}})
    for thread in T.parallel({threads}):
        sums = T.alloc_buffer(({rows}, {lanes}), "float32", scope="local")
        for row in T.unroll({rows}):
            for lane in T.vectorized({lanes}):
                sums[row, lane] = x[1, lane]
        for step in range({steps}):
            for row in T.unroll({rows}):
                for lane in T.vectorized({lanes}):
                    sums[row, lane] = sums[row, lane] * x[0, lane] + x[1, lane]
        for row in T.unroll({rows}):
            for lane in T.vectorized({lanes}):
                o[thread, row, lane] = sums[row, lane]
"""


def described(target: Target) -> dict[str, Any]:
    """Shapes of its argument and result, and its operations, for :func:`dtn_tvm.measuring.timing.ceilings`."""
    lanes, _ = target.vectors
    return {
        "input": [2, lanes],
        "output": [target.threads, ROWS, lanes],
        "flops": 2 * lanes * ROWS * STEPS * target.threads,
    }


def compiled(target: Target) -> Any:
    """The kernel for a processor, as TVM's executable."""
    import tvm
    import tvm.script
    from tvm.script import tirx

    lanes, _ = target.vectors
    text = _SOURCE.format(lanes=lanes, rows=ROWS, steps=STEPS, threads=target.threads)
    function = tvm.script.from_source(text, extra_vars={"T": tirx})
    return tvm.compile(tvm.IRModule({"main": function}), target.tvm)


def export(target: Target, library: Path) -> None:
    """Compile it into a library."""
    compiled(target).export_library(str(library))
