"""What the segments of a sequence leave behind, folded: into a total, or into what each segment begins with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as tir

from ..walks import Carried
from .elements import real
from .tiles import local, named

THREADS = 256


@dataclass(frozen=True)
class Fold:
    """A pass over segments, an element of a carried tensor a thread.

    Attributes
    ----------
    carried : Carried
        If it is a total, the sum over all segments is written; otherwise, in place of what each segment adds, the state
        that it begins with.
    reverse : bool
        Whether the last segment comes first.
    chunk : int
        Tokens a chunk.
    elements : int
        Of the carried tensor.
    """

    carried: Carried
    reverse: bool
    chunk: int
    elements: int

    @property
    def source(self) -> str:
        """Name of the memory that the segments wrote."""
        return f"{self.carried.name}_segments"

    def grid(self, sequences: Any) -> tuple[Any, ...]:
        """Thread blocks."""
        return (sequences, -(-self.elements // THREADS))

    def emit(self, segments: Any, first: Any, target: Any, decay: Any, count: Any, share: Any, length: Any) -> None:
        """Emit its kernel.

        Parameters
        ----------
        segments : tvm.tirx.Buffer
            ``[sequences, count, elements]``.
        first : tvm.tirx.Buffer
            ``[sequences, elements]``, what the first segment begins with; None for zeros.
        target : tvm.tirx.Buffer
            ``[sequences, elements]`` for a total; else not used.
        decay : callable
            log₂ of the decay of a sequence, from its index; None where the carried tensor does not decay.
        count, share, length : expression
            Segments, chunks in each, and tokens of a sequence.
        """
        sequences = segments.shape[0]
        sequence, part = tir.cta_id([tir.cast(sequences, "int32"), -(-self.elements // THREADS)])
        place = named("place", tir.Bind(part * THREADS + tir.thread_id([THREADS])))
        with tir.If(place < self.elements), tir.Then():
            state = local((1,), "float32", "state")
            tir.buffer_store(state, real(0) if first is None else first[sequence, place], [0])
            with tir.serial(tir.cast(count, "int32")) as turn:
                segment = count - 1 - turn if self.reverse else turn
                added = local((1,), "float32", "added")
                tir.buffer_store(added, segments[sequence, segment, place], [0])
                if not self.carried.total:
                    kept: Any = real(1)
                    if decay is not None:
                        begin, end = (tir.min(length, (segment + more) * share * self.chunk) for more in (0, 1))
                        kept = tir.exp2(decay(sequence) * tir.cast(end - begin, "float32"))
                    tir.buffer_store(segments, state[0], [sequence, segment, place])
                    tir.buffer_store(state, state[0] * kept + added[0], [0])
                else:
                    tir.buffer_store(state, state[0] + added[0], [0])
            if self.carried.total:
                tir.buffer_store(target, state[0], [sequence, place])
