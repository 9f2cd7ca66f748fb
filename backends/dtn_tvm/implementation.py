"""``implementation="tvm"``: which kernel computes a call, compiled when it is first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from dtn_codegen.implementations import PLAIN, Variant
from dtn_codegen.plans import remember
from dtn_codegen.tensorir.tiles import differentiated
from dtn_core.errors import CompileError
from dtn_core.ir.nodes import Param
from dtn_core.operators import Operator
from dtn_core.passes.padding import pad

from . import kernels, records, targets  # kernels first: it says what to install
from .measuring.fit import is_named
from .problem import DTYPES, Problem, tile_program
from .record import shortened
from .trace_schedule import KIND

Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class Choice:
    """A schedule, and where it is from."""

    schedule: kernels.Schedule
    reason: str


class TvmKernels:
    """Implements :class:`dtn_codegen.implementations.Kernels`.

    Parameters
    ----------
    operator : Operator
    layout : {"... n d", "... n h d"}
    of : Variant

    Raises
    ------
    CompileError
        If there are none, saying why.
    """

    def __init__(self, operator: Operator, layout: str, of: Variant = PLAIN) -> None:
        self.plain = Operator(operator.program)  # scalars are arguments: they differ from call to call
        self.operator = Operator(pad(operator.program)) if of.padded else self.plain
        self.program = self.operator.program
        self.layout = layout
        self.of = of
        taken = {"batch", "heads", "h"} & set(self.program.axes)
        if taken:
            raise CompileError(f"its axis {min(taken)} has the name of an axis of kernels; choose another")
        forward = tile_program(self.operator, "forward", resumed=of.resumed)
        self.inputs: tuple[Param, ...] = forward.inputs
        self.outputs: tuple[Param, ...] = forward.outputs
        self.states: frozenset[str] = forward.states
        self.gradients: tuple[str, ...] = ()
        self._axes = frozenset((*forward.features, forward.axis))
        self._why_no_gradient = ""
        self._lacks: dict[tuple[object, ...], str] = {}
        try:
            tile_program(self.operator, "backward", resumed=of.resumed)
            states = (param.name for param in self.inputs if param.name in self.states)
            self.gradients = (*differentiated(self.program), *states)
        except CompileError as error:
            self._why_no_gradient = str(error)
        self._known: dict[tuple[object, ...], kernels.Kernel] = {}

    def variant(self, variant: Variant) -> TvmKernels:
        """The same operator for other calls.

        Raises
        ------
        ValueError
            If there are no such kernels, saying why.
        """
        return _variant(self.plain, self.layout, variant)

    def why_no_gradient(self, sizes: Mapping[str, int], dtype: str, device: str) -> str:
        """Why a device has no kernel of the gradient at these sizes; empty where it has one."""
        if self._why_no_gradient:
            return self._why_no_gradient
        key = (dtype, device, *(size for axis, size in sizes.items() if axis in self._axes))
        if not all(type(part) in (str, int) for part in key):  # symbols of a trace, which no table holds
            return self._lack(sizes, dtype, device)
        if key not in self._lacks:
            remember(self._lacks, key, self._lack(sizes, dtype, device))
        return self._lacks[key]

    def _lack(self, sizes: Mapping[str, int], dtype: str, device: str) -> str:
        target = target_of(device)
        return str(kernels.FAMILIES[target.kind].lacks(self.operator, sizes, dtype, target, resumed=self.of.resumed))

    def check(self, dtype: str) -> None:
        """Raise ValueError for a dtype that there is no kernel for."""
        if dtype not in DTYPES:
            raise ValueError(
                f"implementation='tvm' cannot run {self.operator.name} in {dtype}; "
                f"kernels take {', '.join(DTYPES)}, implementation='native' takes every dtype"
            )

    def forward(
        self, sizes: Mapping[str, int], dtype: str, device: str, inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        """Compute ``outputs``, in place."""
        self.kernel("forward", sizes, dtype, device)(*_spoken((*inputs, *outputs), dtype))

    def backward(
        self, sizes: Mapping[str, int], dtype: str, device: str, inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> None:
        """Compute the cotangents of ``gradients``, in place."""
        self.kernel("backward", sizes, dtype, device)(*_spoken((*inputs, *outputs), dtype))

    def function(self, direction: Direction, sizes: Mapping[str, int], dtype: str, device: str) -> Any:
        """The compiled function, called with inputs, then outputs."""
        return self.kernel(direction, sizes, dtype, device).function

    def kernel(self, direction: Direction, sizes: Mapping[str, int], dtype: str, device: str) -> kernels.Kernel:
        """The kernel for these sizes.

        Raises
        ------
        ValueError
            If this kind of device has none, saying why.
        """
        key = (direction, dtype, device, *sizes.values(), records.versions())
        found = self._known.get(key)
        if found is None:
            target = target_of(device)
            choice = self.choose(direction, sizes, dtype, target)
            try:
                found = kernels.compile(self.problem(direction, sizes, dtype), choice.schedule, target)
            except CompileError as error:
                raise ValueError(
                    f"implementation='tvm' cannot run {self.operator.name} on {target.name}: {error}"
                ) from None
            remember(self._known, key, found)
        return found

    def problem(self, direction: Direction, sizes: Mapping[str, int], dtype: str) -> Problem:
        """What a kernel computes."""
        return Problem(self.operator, direction, dtype, sizes, self.layout, self.of.resumed)

    def choose(self, direction: Direction, sizes: Mapping[str, int], dtype: str, target: targets.Target) -> Choice:
        """The schedule that a record of the plain operator has, or the default one, with the chunk that was asked for.

        Raises
        ------
        ValueError
            For a chunk that no kernel has, or a kind of device that has no kernel.
        """
        plain = Problem(self.plain, direction, dtype, sizes, self.layout)
        try:
            choice = choose(plain, target, self.problem(direction, sizes, dtype))
        except CompileError as error:
            raise ValueError(
                f"implementation='tvm' cannot run {self.operator.name} on {target.name}: {error}"
            ) from None
        if self.of.chunk is None:
            return choice
        try:
            if tile_program(self.operator, direction, resumed=self.of.resumed).by_token:
                raise CompileError("it takes its tokens one at a time")
            return Choice(replace(choice.schedule, chunk=self.of.chunk), f"chunk as given, else {choice.reason}")
        except CompileError as error:
            raise ValueError(
                f"implementation='tvm' cannot run {self.operator.name} with chunk_size={self.of.chunk}: {error}"
            ) from None

    def describe(self, sizes: Mapping[str, int], dtype: str) -> str:
        """The schedules that run at these sizes on this processor, and where they are from."""
        said = []
        directions: tuple[Direction, ...] = ("forward", "backward")
        lack = self.why_no_gradient(sizes, dtype, "cpu")
        for direction in directions[: 1 if lack else 2]:
            choice = self.choose(direction, sizes, dtype, targets.target("cpu"))
            found = choice.schedule.to_json()
            parameters = ", ".join(f"{k}={shortened(v)}" for k, v in found.items() if k != "kind")
            if choice.schedule.by_rows:
                parameters = f"by rows of n×n matrices, {parameters}"
            elif tile_program(self.operator, direction, resumed=self.of.resumed).by_token:
                parameters = f"a token at a time, {parameters}"
            said.append(f"{direction} {parameters} ({choice.reason})")
        if lack:
            said.append(f"the gradient is native: {lack}")
        return "; ".join(said)


class Tvm:
    """Implements :class:`dtn_codegen.implementations.Implementation`."""

    def kernels(self, operator: Operator, layout: str) -> TvmKernels:
        """The kernels of an operator.

        Raises
        ------
        ValueError
            If there are none, saying why.
        """
        return _variant(Operator(operator.program), layout, PLAIN)


IMPLEMENTATION = Tvm()


def _variant(operator: Operator, layout: str, variant: Variant) -> TvmKernels:
    try:
        return _kernels(operator, layout, variant)
    except CompileError as error:
        asked = {"padding_mask": variant.padded, "a state": variant.resumed}
        options = " and ".join(name for name, is_asked in asked.items() if is_asked)
        what = f"{operator.name} with {options}" if options else operator.name
        raise ValueError(f"implementation='tvm' cannot run {what}: {error}") from None


@lru_cache(maxsize=512)
def _kernels(operator: Operator, layout: str, variant: Variant) -> TvmKernels:
    return TvmKernels(operator, layout, variant)


def _spoken(arrays: Sequence[Any], dtype: str) -> Sequence[Any]:
    """``arrays`` as DLPack has them: NumPy's knows no bfloat16, so those are handed over as 16 bits of that type."""
    if dtype != "bfloat16" or not any(isinstance(array, np.ndarray) for array in arrays):
        return arrays
    return [
        kernels.tvm_ffi.from_dlpack(array.view(np.uint16), require_alignment=2)._create_view(array.shape, dtype)
        if isinstance(array, np.ndarray) and array.dtype.name == dtype
        else array
        for array in arrays
    ]


def choose(problem: Problem, target: targets.Target, variant: Problem | None = None) -> Choice:
    """The schedule of a record for this shape, or for the nearest one, or the default (of the variant that runs)."""
    found = records.find(problem, target)
    reason = found.reason
    if found.record is not None:
        schedule = kernels.Schedule.from_json(found.record.schedule)
        plain = variant in (None, problem)
        if schedule.kind == KIND and not plain:
            reason = "the record's trace is of plain calls"
        elif schedule.by_rows and variant is not None and variant.resumed:
            reason = "the record's rows of matrices are of plain calls"
        elif not found.exact and schedule.by_rows != kernels.default(problem, target).by_rows:
            reason = f"at the {reason}, rows of matrices or states, whichever is less work there, are more here"
        else:
            return Choice(schedule, reason)
    return Choice(kernels.default(variant or problem, target), f"default schedule: {reason}")


@lru_cache(maxsize=16)
def target_of(device: str) -> targets.Target:
    """The target of a device.

    Raises
    ------
    ValueError
        For a card that is not in the table of targets.
    """
    if device == "cpu":
        return targets.target("cpu")
    known = [targets.target(name) for name in targets.names() if name != "cpu"]
    for found in known:
        if is_named(found.device, device):
            return found
    raise ValueError(f"no target for {device!r}; known: {', '.join(found.name for found in known)}")
