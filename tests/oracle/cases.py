"""A program at random with arguments for it: shapes, batches, real or complex numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from dtn_core.ir.functions import FUNCTIONS
from dtn_core.ir.nodes import Program
from dtn_core.notation import parse
from dtn_core.printer import to_notation

from .programs import DECAY, MORE_NAMES, programs

REAL = ("conj", "real", "relu", "abs", "exp", "log", "sqrt", "tanh", "sigmoid", "silu", "gelu", "erf", "step")
COMPLEX = tuple(name for name in REAL if FUNCTIONS[name].holomorphic)
LENGTHS = (5, 3, 7, 1, 0)
WIDTHS = (2, 1, 3)
BATCHES = ((), (), (2,), (1,))


@dataclass(frozen=True)
class Case:
    """A program, the sizes of its axes, the leading axes of each parameter and where its numbers come from."""

    program: Program
    sizes: tuple[tuple[str, int], ...]
    batches: tuple[tuple[int, ...], ...]
    complex: bool
    seed: int

    def __repr__(self):
        """As Python that makes it, to paste into ``test_found_by_fuzzing.py``."""
        lines = to_notation(self.program).replace("\n", "\n    ")
        return (
            f'case("""\n    {lines}""", {dict(self.sizes)}, {self.batches}, complex={self.complex}, seed={self.seed})'
        )

    def _repr_pretty_(self, printer, cycle):  # what hypothesis shows
        printer.text(repr(self))

    @property
    def rng(self):
        """Numbers that are the same each time."""
        return np.random.default_rng(self.seed)

    def arguments(self):
        """Arrays by name, none near 0, of both signs; the decay between 0.3 and 1."""
        rng, sizes, found = self.rng, dict(self.sizes), {}
        for param, batch in zip(self.program.params, self.batches, strict=True):
            shape = (*batch, *(sizes[axis] for axis in param.axes))
            value = rng.uniform(0.3, 1.0, shape)
            if param.name != DECAY:
                value = value * rng.choice([-1, 1], shape)
            if self.complex and param.axes:
                value = value * np.exp(2j * np.pi * rng.uniform(size=shape))
            found[param.name] = np.asarray(value)
        return found


def case(notation, sizes, batches=None, *, complex=False, seed=0):
    """A case written down: what the fuzzer prints."""
    program = parse(notation)
    batches = ((),) * len(program.params) if batches is None else batches
    return Case(program, tuple(sizes.items()), batches, complex, seed)


@st.composite
def cases(draw, lengths=LENGTHS, widths=WIDTHS):
    """Programs of every construct with arguments of small sizes, empty ones among them."""
    complex = draw(st.integers(0, 3)) == 0
    program = draw(programs(COMPLEX if complex else REAL, matrices=True, max_statements=3, names=MORE_NAMES))
    sizes = {"n": draw(st.sampled_from(lengths)), **{axis: draw(st.sampled_from(widths)) for axis in ("d", "e")}}
    batched = draw(st.booleans())
    batches = tuple(draw(st.sampled_from(BATCHES)) if batched else () for _ in program.params)
    kept = tuple((axis, size) for axis, size in sizes.items() if axis in program.axes)
    return Case(program, kept, batches, complex, draw(st.integers(0, 999)))
