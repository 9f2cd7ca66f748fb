"""Packed sequences: several of different lengths, one after another along one axis, each computed by itself.

Sequences whose lengths have equally many binary digits are computed together, as a batch padded to the longest
of them: less than half of its places are padding, and there are few batches.  The padding comes first, so that
nothing is between a sequence's last token and the state after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dtn_core.errors import ShapeError
from dtn_core.ir.axes import sequence_axes
from dtn_core.ir.nodes import Program

from .python import HEADS, has_heads
from .shapes import axes_of, axis_sizes, shapes_of, whole_shape
from .state import check_state

if TYPE_CHECKING:
    from .function import Function


@dataclass(frozen=True)
class Batch:
    """Sequences that are computed together.

    Attributes
    ----------
    members : np.ndarray
        Their numbers, ``[M]``.
    rows : np.ndarray
        The token at each place, ``[M, L]``; before a sequence's first token its first token.
    real : np.ndarray or None
        Where the tokens are its own, ``[M, L]``; None if everywhere.
    """

    members: np.ndarray
    rows: np.ndarray
    real: np.ndarray | None


@dataclass(frozen=True)
class Packing:
    """How packed sequences are computed.

    Attributes
    ----------
    batches : tuple[Batch, ...]
    tokens, sequences : np.ndarray
        Where each token, and each sequence, is in the batches one after another.
    """

    batches: tuple[Batch, ...]
    tokens: np.ndarray
    sequences: np.ndarray


@lru_cache(maxsize=16)
def packing(starts: tuple[int, ...], *, exact: bool, empty: bool) -> Packing:
    """Divide sequences into batches.

    Parameters
    ----------
    starts : tuple of int
        Where each sequence starts, and where the last ends.
    exact : bool
        Whether only sequences of one length may be together.
    empty : bool
        Whether anything depends on the empty ones.

    Examples
    --------
    >>> [batch.rows.tolist() for batch in packing((0, 3, 4, 6), exact=False, empty=False).batches]
    [[[3]], [[0, 1, 2], [4, 4, 5]]]
    """
    first, lengths = np.array(starts[:-1], int), np.diff(np.array(starts, int))
    classes = lengths if exact else np.frexp(lengths.astype(float))[1]  # the number of binary digits
    batches, tokens, count = [], np.zeros(starts[-1], int), 0
    for chosen in np.unique(classes) if empty else np.unique(classes[lengths > 0]):
        members = np.flatnonzero(classes == chosen)
        longest = int(lengths[members].max())
        places = np.arange(longest) - (longest - lengths[members])[:, None]
        rows = first[members][:, None] + np.maximum(places, 0)
        real = places >= 0
        tokens[rows[real]] = count + np.flatnonzero(real)
        count += real.size
        batches.append(Batch(members, rows, None if real.all() else real))
    if not batches:
        batches.append(Batch(np.arange(len(lengths)), np.zeros((len(lengths), 0), int), None))
    return Packing(tuple(batches), tokens, np.argsort(np.concatenate([batch.members for batch in batches])))


def evaluate_packed(
    function: Function,
    tensors: Sequence[Any],
    named: Mapping[str, Any],
    cu_seqlens: Any,
    initial_state: Any,
    return_state: bool,
    chunk_size: int | None,
) -> Any:
    """Call ``function`` on packed sequences; the arguments are those of a call.

    Raises
    ------
    ValueError
        If ``cu_seqlens`` is not integers from 0 to the number of tokens that do not decrease, if it is not
        known yet (traced), or if the operator cannot be packed.
    """
    tensors, scalars = function.signature.bind(tensors, named)
    return _Call(function, function.convert(tensors), scalars, cu_seqlens).run(initial_state, return_state, chunk_size)


def packed_shape(
    program: Program,
    axes: tuple[str, ...],
    layout: str,
    leading: Sequence[Any],
    sizes: Mapping[str, Any],
    count: Any,
) -> tuple[Any, ...]:
    """The shape of a result or a state over ``axes`` of ``count`` packed sequences.

    Parameters
    ----------
    program, layout
        The operator, and where its head axis is.
    axes : tuple of str
        Of the result or state; one with the tokens' axis has no axis of the sequences.
    leading : sequence of int
        The leading axes of the tensors, heads last.
    sizes : Mapping[str, int]
        Of all axes.
    count : int
        How many sequences.
    """
    if _token_axis(program) in axes:
        return whole_shape(program, axes, layout, leading, sizes)
    split = len(leading) - _behind(program, layout)
    return (*leading[:split], count, *leading[split:], *(sizes[axis] for axis in axes))


def _behind(program: Program, layout: str) -> int:
    """How many leading axes come after that of the sequences."""
    return int(layout == HEADS and any(has_heads(program, param.axes) for param in program.tensors))


class _Call:
    """One call on packed sequences: N of them, on an axis after the batch axes and before the heads."""

    def __init__(self, function: Function, tensors: Sequence[Any], scalars: Mapping[str, Any], cu_seqlens: Any) -> None:
        self.function = function
        self.arrays = function.arrays
        self.program = function.operator.program
        self.layout = function.layout
        self.tensors = tensors
        self.scalars = scalars
        self.axis = _token_axis(self.program)
        shapes = shapes_of(tensors)
        self.sizes = axis_sizes(self.program, shapes, self.layout)
        function.scalar_values(scalars, tensors, shapes)
        self.streams: Any = function.tokens.streams(complex_input=function.check_dtypes(tensors))
        self.starts = _starts(function, cu_seqlens, self.sizes[self.axis])
        self.behind = _behind(self.program, self.layout)

    def run(self, initial_state: Any, return_state: bool, chunk_size: int | None) -> Any:
        """The results, and the states if they are asked for."""
        function, arrays = self.function, self.arrays
        resuming = initial_state is not None
        if resuming or return_state or chunk_size is not None:
            function.tokens.check_streams(resuming or return_state)
        if resuming:
            self.check_states(initial_state)
        outputs = self.program.outputs
        empty = resuming or return_state or any(self.axis not in output.axes for output in outputs)
        # padding before the first token would make a state that is handed in decay
        packs = packing(self.starts, exact=resuming and _decays(self.program), empty=empty)
        scalars = {name: self.scalar(value) for name, value in self.scalars.items()}
        results: list[list[Any]] = [[] for _ in outputs]
        states: list[Any] = []
        for batch in packs.batches:
            options: dict[str, Any] = {"chunk_size": chunk_size, "return_state": return_state}
            if batch.real is not None:
                mask = arrays.constant(batch.real, self.tensors[0])
                options["padding_mask"] = arrays.expand(mask, -2) if self.behind else mask
            if resuming:
                options["initial_state"] = self.states_of(initial_state, batch)
            given = [self.batch(x, p.axes, batch) for x, p in zip(self.tensors, self.program.tensors, strict=True)]
            found = function(*given, **options, **scalars)
            if return_state:
                found, state = found
                states.append(state)
            for column, result, output in zip(results, found if len(outputs) > 1 else (found,), outputs, strict=True):
                column.append(self.each(result, output.axes, batch))
        made = tuple(self.unpacked(column, o.axes, packs) for column, o in zip(results, outputs, strict=True))
        value = made if len(outputs) > 1 else made[0]
        if not return_state:
            return value
        columns = zip(zip(*states, strict=True), self.streams.axes, strict=True)
        joined = (self.in_order(list(column), self.place(axes), packs) for column, axes in columns)
        return value, self.streams.kind(*joined)

    # ------------------------------------------------------------ into batches

    def place(self, axes: tuple[str, ...]) -> int:
        """Where the axis of the sequences is in a batch of tensors over ``axes``."""
        return -len(axes) - 1 - self.behind

    def token(self, axes: tuple[str, ...]) -> int:
        """Where the axis of the tokens is in a tensor over ``axes``."""
        full = axes_of(self.program, axes, self.layout)
        return full.index(self.axis) - len(full)

    def batch(self, x: Any, axes: tuple[str, ...], batch: Batch) -> Any:
        """A tensor of the tokens of a batch; one that has no tokens is shared."""
        target = self.place(axes)
        if self.axis not in axes:
            return x if len(x.shape) < -target else self.arrays.expand(x, target)
        while len(x.shape) < -target - 1:
            x = self.arrays.expand(x, -len(x.shape) - 1)
        token = self.token(axes)
        x = self.arrays.take(x, batch.rows, token)
        return x if token - 1 == target else self.arrays.move(x, token - 1, target)

    def scalar(self, value: Any) -> Any:
        """A scalar argument with the axis of the sequences, if it has leading axes."""
        rank = len(getattr(value, "shape", ()))
        return self.arrays.expand(value, self.place(())) if rank > self.behind else value

    def states_of(self, states: Any, batch: Batch) -> Any:
        """The states of the sequences of a batch."""
        pairs = zip(states, self.streams.axes, strict=True)
        return self.streams.kind(*(self.arrays.take(x, batch.members, self.place(axes)) for x, axes in pairs))

    def check_states(self, states: Any) -> None:
        """Refuse states that are not one for each sequence."""
        check_state(self.function.__name__, self.streams, states, None, None, self.tensors)
        count = len(self.starts) - 1
        for name, axes, state in zip(self.streams.names, self.streams.axes, states, strict=True):
            shape, place = tuple(state.shape), self.place(axes)
            if len(shape) < -place or shape[place] not in (count, None):
                wanted = ", ".join(("...", str(count), *["h"] * self.behind, *axes))
                raise ShapeError(
                    f"{self.function.__name__}: state {name} has shape {shape}, expected [{wanted}]: "
                    f"one for each of {count} packed sequences"
                )

    # ---------------------------------------------------------- out of batches

    def each(self, result: Any, axes: tuple[str, ...], batch: Batch) -> Any:
        """A result of a batch, repeated for every sequence where it does not depend on one (``y = d``)."""
        place, count = self.place(axes), len(batch.members)
        if len(result.shape) >= -place and (result.shape[place] != 1 or count == 1):
            return result
        while len(result.shape) < -place:
            result = self.arrays.expand(result, -len(result.shape) - 1)
        return self.arrays.take(result, np.zeros(count, int), place)

    def unpacked(self, pieces: list[Any], axes: tuple[str, ...], packs: Packing) -> Any:
        """The results of all batches, in the order of the tokens, or of the sequences."""
        place = self.place(axes)
        if self.axis not in axes:
            return self.in_order(pieces, place, packs)
        token = self.token(axes)
        if token - 1 != place:
            pieces = [self.arrays.move(y, place, token - 1) for y in pieces]
        flat = self.arrays.joined([self.arrays.merged(y, token) for y in pieces], token)
        return self.arrays.take(flat, packs.tokens, token)

    def in_order(self, pieces: list[Any], place: int, packs: Packing) -> Any:
        """The results of all batches, in the order of the sequences along the axis at ``place``."""
        return self.arrays.take(self.arrays.joined(pieces, place), packs.sequences, place)


def _token_axis(program: Program) -> str:
    """The axis along which sequences are packed."""
    axes = sequence_axes(program)
    if len(axes) != 1:
        raise ValueError(f"{program.name}: cu_seqlens needs one sequence axis, found {len(axes)}")
    for tensor in (*program.tensors, *program.outputs):
        if tensor.axes.count(axes[0]) > 1:
            raise ValueError(f"{program.name}: {tensor.name} has axis {axes[0]} twice, it cannot be packed")
    return axes[0]


def _decays(program: Program) -> bool:
    return any(relation.decay is not None for statement in program.statements for relation in statement.order)


def _starts(function: Function, cu_seqlens: Any, total: int | None) -> tuple[int, ...]:
    """``cu_seqlens`` as integers, checked."""

    def refuse(message: str) -> ValueError:
        return ValueError(f"{function.__name__}: {message}")

    if isinstance(cu_seqlens, str | bytes) or not (isinstance(cu_seqlens, Sequence) or hasattr(cu_seqlens, "shape")):
        kind = type(cu_seqlens).__name__
        raise TypeError(f"{function.__name__}: cu_seqlens is a {kind}, expected integers [N + 1]: a list or a vector")
    if isinstance(cu_seqlens, Sequence | np.ndarray):
        values: np.ndarray | None = np.asarray(cu_seqlens)
    else:
        values = function.arrays.numbers(cu_seqlens, wait=True)
    if values is None:
        raise refuse("cu_seqlens is traced; its values decide what is computed: pass a list or a concrete vector")
    if values.ndim != 1 or not values.size:
        raise refuse(f"cu_seqlens has shape {values.shape}, expected [N + 1] for N sequences")
    if values.dtype.kind not in "iu":
        raise TypeError(f"{function.__name__}: cu_seqlens has dtype {values.dtype}, expected integers")
    starts = tuple(values.tolist())
    if starts[0] != 0:
        raise refuse(f"cu_seqlens[0] is {starts[0]}, expected 0")
    for place, (start, end) in enumerate(pairwise(starts), 1):
        if end < start:
            raise refuse(f"cu_seqlens[{place}] is {end}, less than cu_seqlens[{place - 1}], which is {start}")
    if total is None:
        raise refuse("cu_seqlens needs a number of tokens that is known")
    if starts[-1] != total:
        raise refuse(f"cu_seqlens ends with {starts[-1]}, but there are {total} tokens")
    return starts
