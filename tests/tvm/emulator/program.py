"""Runs a lowered program launch by launch on the emulated device, memory between passes poisoned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tvm

from dtn_codegen.tensorir.cuda.build import source
from dtn_codegen.tensorir.cuda.lower import Launches, launches, lower_cuda
from dtn_codegen.tensorir.cuda.plan import Plan
from dtn_codegen.tensorir.cuda.schedule import CudaSchedule
from dtn_codegen.tensorir.walks import TileProgram

from . import Emulated

KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
TARGET = {"kind": "cuda", "arch": "sm_90a", "max_num_threads": 1024, "thread_warp_size": 32}


class EmulatedProgram:
    """A program under a schedule, as CUDA text that runs on the CPU.

    Attributes
    ----------
    conflicts : int
        Bank conflicts of the matrix loads of the last run.
    """

    def __init__(
        self,
        program: TileProgram,
        schedule: CudaSchedule,
        sizes: Mapping[str, int],
        dtype: str,
        folder: Path,
        layout: str = "... n d",
    ) -> None:
        self.program = program
        self.schedule = schedule
        self.sizes = sizes
        self.dtype = dtype
        self.interleaved = layout == "... n h d"
        self.launches: Launches = launches(program, schedule, sizes, dtype)
        module = lower_cuda(program, schedule, sizes, dtype, layout)
        self.source = source(module, tvm.target.Target(TARGET))
        self.emulated = Emulated(self.source, folder)
        self.conflicts = 0

    def __call__(self, *inputs: np.ndarray, backwards: bool = False) -> list[np.ndarray]:
        """The outputs, of ``[batch, heads, n, features]`` inputs."""
        batch, heads = inputs[0].shape[:2]
        length = inputs[0].shape[2]
        sequences, chunks = batch * heads, -(-length // self.schedule.chunk)
        segments = 1
        if self.schedule.split:
            segments = max(1, min(self.schedule.split // sequences, chunks))
        memory: dict[str, Any] = {"batch": batch, "heads": heads, "n": length}
        for param, value in zip(self.program.inputs, inputs, strict=True):
            kind = KINDS["float32" if self.program.is_wide(param) else self.dtype]
            memory[param.name] = np.ascontiguousarray(self.arranged(param.axes, value)).astype(kind)
        for param in self.program.outputs:
            shape = (batch, heads, *(length if a == self.program.axis else self.sizes[a] for a in param.axes))
            kind = KINDS["float32" if self.program.is_wide(param) else self.dtype]
            poisoned = np.full(shape, np.nan).astype(kind)
            memory[param.name] = np.ascontiguousarray(self.arranged(param.axes, poisoned))
        for scratch in self.launches.scratch:
            count = {"spans": (chunks,), "segments": (segments,), "": ()}[scratch.count]
            memory[scratch.name] = np.full((sequences, *count, *scratch.shape), np.nan).astype(KINDS[scratch.dtype])
        self.conflicts = 0
        for name, stage in zip(self.emulated.launches, self.launches.stages, strict=True):
            if isinstance(stage, Plan):
                shares = {"chunks": chunks, "segments": segments, "": 1}
                grid = (sequences, stage.blocks, shares[stage.part.share])
            else:
                grid = stage.grid(sequences)
            self.conflicts += self.emulated.run(name, grid, memory, backwards=backwards)
        return [self.arranged(p.axes, memory[p.name]).astype(np.float64) for p in self.program.outputs]

    def arranged(self, axes: tuple[str, ...], value: np.ndarray) -> np.ndarray:
        """Heads and tokens exchanged where the layout has them so."""
        interleaved = self.interleaved and len(axes) == 2 and axes[0] == self.program.axis
        return value.swapaxes(1, 2) if interleaved else value
