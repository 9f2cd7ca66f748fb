"""What a kernel computes: an operator or its gradient, for one dtype and one shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from types import MappingProxyType
from typing import Literal

from dtn_codegen.python import LAYOUTS, ir_hash
from dtn_codegen.tensorir.tiles import backward, backward_by_rows, forward, forward_by_rows
from dtn_codegen.tensorir.walks import TileProgram
from dtn_codegen.tensorir.zeros import Padding
from dtn_core.errors import CompileError
from dtn_core.ir.axes import sequence_axes
from dtn_core.ir.nodes import Param
from dtn_core.operators import Operator
from dtn_core.passes.pipeline import candidates, choose

DTYPES = {"float32": 4, "float16": 2, "bfloat16": 2}
CHUNK = 64
"""Tokens a chunk that costs are counted for."""
ENDLESS = 1 << 40
"""More tokens than there are."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A kernel to make.

    Attributes
    ----------
    operator : Operator
        Scalars that are bound become constants of the kernel; the others are arguments, float32 ``[batch, heads]``.
    direction : {"forward", "backward"}
        The operator, or its gradient by its tensors.
    dtype : str
        ``"float32"``, ``"float16"`` or ``"bfloat16"``; sums are taken in float32.
    sizes : Mapping[str, int]
        Of every axis, and of ``"batch"`` and ``"heads"``.
    layout : {"... n d", "... n h d"}
        Tensors are ``[batch, heads, n, d]``, or ``[batch, n, heads, d]``.
    resumed : bool
        Whether the states before the first token are arguments too, and those after the last are results.

    Examples
    --------
    >>> from dtn_core.operators import tensor_attention
    >>> causal = tensor_attention(mask="causal", normalize=None)
    >>> problem = Problem(causal, "forward", "float32", {"batch": 1, "heads": 8, "n": 5000, "d": 64, "e": 64})
    >>> problem.bucket
    'batch=1,heads=8,n=8192,d=64,e=64'
    >>> [argument.name for argument in problem.inputs], [result.name for result in problem.outputs]
    (['q', 'k', 'v'], ['o'])
    """

    operator: Operator
    direction: Literal["forward", "backward"]
    dtype: str
    sizes: Mapping[str, int]
    layout: str = "... n d"
    resumed: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise CompileError(f"{self.operator.name}: no kernel for {self.dtype}; kernels take {', '.join(DTYPES)}")
        if self.direction not in ("forward", "backward"):
            raise ValueError(f"direction={self.direction!r} is not one of 'forward', 'backward'")
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r} is not one of {', '.join(map(repr, LAYOUTS))}")
        missing = {"batch", "heads", *self.operator.program.axes} - set(self.sizes)
        if missing:
            raise ValueError(f"{self.operator.name}: sizes {dict(self.sizes)} lack {', '.join(sorted(missing))}")
        object.__setattr__(self, "sizes", MappingProxyType({axis: int(size) for axis, size in self.sizes.items()}))

    @cached_property
    def ir_hash(self) -> str:
        """The hash of the operator's definition."""
        return ir_hash(self.operator.program)

    @property
    def axis(self) -> str:
        """The axis of the tokens."""
        return self.tiles.axis

    @property
    def tiles(self) -> TileProgram:
        """The operator as a tile program, with n×n matrices by their rows if there is none without.

        Raises
        ------
        CompileError
            If it has none, saying why.
        """
        return tile_program(self.operator, self.direction, resumed=self.resumed)

    @property
    def by_rows(self) -> bool:
        """Whether its default is to go through n×n matrices by their rows."""
        return self.sizes[self.axis] < rows_below(self.operator, self.direction, self.sizes, resumed=self.resumed)

    @property
    def inputs(self) -> tuple[Param, ...]:
        """The kernel's arguments in order: the operator's parameters, then cotangents of its outputs."""
        return self.tiles.inputs

    @property
    def outputs(self) -> tuple[Param, ...]:
        """The kernel's results, which follow its arguments."""
        return self.tiles.outputs

    def shape(self, param: Param) -> tuple[int, ...]:
        """The shape of an argument or result."""
        batch, heads = self.sizes["batch"], self.sizes["heads"]
        sizes = tuple(self.sizes[axis] for axis in param.axes)
        if self.layout == LAYOUTS[1] and len(sizes) > 1 and param.axes[0] == self.axis:
            return (batch, sizes[0], heads, *sizes[1:])
        return (batch, heads, *sizes)

    def kind(self, param: Param) -> str:
        """The dtype of an argument or result."""
        return "float32" if self.tiles.is_wide(param) else self.dtype

    @property
    def bucket(self) -> str:
        """Shapes that share a schedule: the number of tokens is rounded up to a power of two."""
        sizes = {**self.sizes, self.axis: 1 << max(0, self.sizes[self.axis] - 1).bit_length()}
        return ",".join(f"{axis}={size}" for axis, size in sizes.items())

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products, at chunks of 64 tokens."""
        return self.flops_at(CHUNK)

    def flops_at(self, chunk: int) -> int:
        """Those at another length of chunks; triangles count half. No kernel does fewer than at chunks of one token."""
        program = tile_program(self.operator, self.direction, resumed=self.resumed, rows=self.by_rows or None)
        return int(operations(program, self.sizes, chunk) * self.sizes["batch"] * self.sizes["heads"])

    @property
    def bytes(self) -> int:
        """Bytes of arguments and results: each is read or written once."""
        params = (*self.inputs, *self.outputs)
        return sum(prod(self.shape(param)) * DTYPES[self.kind(param)] for param in params)

    @property
    def key(self) -> tuple[object, ...]:
        """What two equal problems share."""
        bound = tuple(sorted(self.operator.scalars.items()))
        sizes = tuple(sorted(self.sizes.items()))
        return self.ir_hash, bound, self.direction, self.dtype, sizes, self.layout, self.resumed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def operations(program: TileProgram, sizes: Mapping[str, int], chunk: int) -> float:
    """Multiplications and additions of the matrix products of one head, at a length of chunks; triangles count half."""
    length = sizes[program.axis]
    chunk = 1 if program.by_token else chunk
    inside = {**sizes, program.axis: chunk, program.rows: chunk}
    inside.update({axis: inside[first] * inside[second] for axis, (first, second) in program.pairs.items()})
    total = 0.0
    for walk in program.walks:
        repeated = 1.0
        if walk.rows is not None:
            repeated = length / chunk if walk.rows.side == "all" else (length / chunk + 1) / 2
        for step in walk.body:
            for contraction in step.contractions:
                triangles = sum(program.is_triangular(f.tensor) is not None for f in contraction.factors)
                triangles += step.order is not None and not program.rows
                extents = prod(inside[index.axis] for index in (*step.indices, *contraction.summed))
                total += 2 * extents / 2 ** min(1, triangles) * length / chunk * repeated
    return total


def check_rows(operator: Operator, direction: str, sizes: Mapping[str, int], *, resumed: bool = False) -> None:
    """Raise CompileError where there are only kernels by rows and the native source takes no n×n matrix.

    Those matrices cost a kernel what they cost the native source, or less; to do without them is another matter.
    """
    program = tile_program(operator, direction, resumed=resumed)
    if not program.rows:
        return
    form = choose(candidates(operator.program), sizes)
    if form.chunked is None and any(s.axes.count(program.axis) > 1 for s in form.program.statements):
        return
    said = f"with {program.axis}={sizes[program.axis]} the native source does without n×n matrices, a kernel does not"
    try:
        tile_program(operator, direction, resumed=resumed, rows=False)
    except CompileError as error:
        said = f"{said}: {error}"
    raise CompileError(said)


def gradient_lacks(
    operator: Operator, sizes: Mapping[str, int], check: Callable[[bool], object], *, resumed: bool
) -> str:
    """Why there is no kernel of a gradient at these sizes, with states nor by rows; empty where there is one.

    ``check`` raises CompileError where a device has none with states (False), or none by rows (True).
    """
    program = tile_program(operator, "backward", resumed=resumed)
    try:
        check_rows(operator, "backward", sizes, resumed=resumed)
        check(bool(program.rows))
        return ""
    except CompileError as error:
        why = str(error)
    if program.rows or not sizes[program.axis] < rows_below(operator, "backward", sizes, resumed=resumed):
        return why
    try:
        check(True)
    except CompileError as error:
        return f"{why}; and by rows of n×n matrices, {error}"
    return ""


def rows_below(operator: Operator, direction: str, sizes: Mapping[str, int], *, resumed: bool = False) -> int:
    """The number of tokens below which going through n×n matrices by their rows is less work than any other way.

    It is asked where the other way takes states over pairs of features; 0 where there are no such matrices.
    """
    features = tuple(
        (axis, sizes[axis]) for axis in operator.program.axes if axis not in sequence_axes(operator.program)
    )
    return 0 if resumed else _rows_below(operator, direction, features)


@lru_cache(maxsize=512)
def _rows_below(operator: Operator, direction: str, features: tuple[tuple[str, int], ...]) -> int:
    program = tile_program(operator, direction)
    if program.rows:
        return ENDLESS
    if not program.pairs:
        return 0
    try:
        rows = tile_program(operator, direction, rows=True)
    except CompileError:
        return 0
    sizes = {**dict(features), program.axis: ENDLESS}
    return int(ENDLESS * operations(program, sizes, CHUNK) / operations(rows, sizes, CHUNK))


@lru_cache(maxsize=512)
def tile_program(
    operator: Operator, direction: str, *, split: bool = False, resumed: bool = False, rows: bool | None = None
) -> TileProgram:
    """The tile program of an operator or its gradient, its bound scalars as constants.

    Parameters
    ----------
    operator : Operator
    direction : {"forward", "backward"}
    split : bool
        For sequences in parts that are computed side by side.
    resumed : bool
        With states as arguments and results.
    rows : bool, optional
        Whether n×n matrices are gone through by chunks of their rows; by default where there is no form without.

    Raises
    ------
    CompileError
        If it has none, saying why.
    """
    if rows is None:
        try:
            return tile_program(operator, direction, split=split, resumed=resumed, rows=False)
        except CompileError as error:
            try:
                return tile_program(operator, direction, split=split, resumed=resumed, rows=True)
            except CompileError as other:
                raise CompileError(f"{error}; and by rows of n×n matrices, {other}") from None
    if rows:
        found = _by_rows(operator, direction, split=split, resumed=resumed)
    else:
        made = forward if direction == "forward" else backward
        found = made(candidates(operator.program)[0], split=split, resumed=resumed)
    Padding(found)  # refuses sums past the end of an axis, which no schedule helps
    return found.bound(operator.scalars)


def _by_rows(operator: Operator, direction: str, *, split: bool, resumed: bool) -> TileProgram:
    """By rows, from the first form of the operator that has that."""
    if resumed:
        raise CompileError(f"{operator.name}: there is no state to hand on")
    reasons = []
    for lowered in candidates(operator.program):
        try:
            by_rows = forward_by_rows if direction == "forward" else backward_by_rows
            return by_rows(lowered, split=split)
        except CompileError as error:
            reasons.append(str(error))
    raise CompileError(reasons[-1])
