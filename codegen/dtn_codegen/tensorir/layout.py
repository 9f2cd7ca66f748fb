"""How tensors of a tile program lie in memory, so that products read along rows.

The inner loop of a product is "broadcast A times a row of B": the index that runs along the vector must be the last one
in memory in B and in the result; A may lie either way.  Which index that is, is chosen for each product, so that as few
tensors as possible are needed both ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dtn_core.ir.nodes import Index, Read

from .pairs import PairIndex, parts_of, second_of
from .steps import RANK, Step
from .walks import TileProgram

COPY = 1.0
"""What having a tensor the other way too costs an element."""

STRIDED = 2.0
"""What reading a tensor against its grain costs an element."""

ALONG = 0.25
"""What summing along a vector costs an element: its lanes are added at the end."""

NARROW = 0.25
"""What it costs if the vectors of a product run along the tokens of a chunk, which are few."""

WIDE = 16.0
"""How much more all of this costs for a tensor over pairs of features, which is so much larger."""

SELDOM = 0.1
"""How much less it costs to have a tensor along rows the other way too: once for all of the tokens."""

SWEEPS = 4


@dataclass(frozen=True)
class Layout:
    """Which way each matrix is held.

    Attributes
    ----------
    forms : Mapping[str, tuple[bool, ...]]
        For each tensor of two axes, whether it is held transposed; where it is held both ways, the way it is computed
        comes first.
    """

    forms: Mapping[str, tuple[bool, ...]]

    def vector(self, step: Step) -> Index:
        """The index of a step's tensor that is last in memory."""
        return (
            _last(step.indices, transposed=self.forms[step.name][0]) if len(step.indices) == RANK else step.indices[-1]
        )

    def form(self, read: Read, along: Index | None) -> bool:
        """The form to read a tensor in, ``along`` an index if there is such a form."""
        forms = self.forms[read.tensor]
        lasts = {form: _last(read.indices, transposed=form) for form in forms}
        return next((form for form, last in lasts.items() if along in (last, *second_of(last))), forms[0])

    def is_along(self, read: Read, along: Index) -> bool:
        """Whether ``read`` can be read along an index without strides."""
        last = _last(read.indices, transposed=self.form(read, along)) if len(read.indices) == RANK else along
        return along not in parts_of(read.indices) or along in (last, *second_of(last))


def _last(indices: tuple[Index, ...], *, transposed: bool) -> Index:
    return indices[0] if transposed else indices[-1]


def choose(program: TileProgram) -> Layout:
    """The cheapest layout found: from a few starting points, a tensor turned at a time, or those of a step."""
    matrices = [name for name, axes in program.axes.items() if len(axes) == RANK]
    given = {p.name for p in program.inputs} | program.handed_on
    written = {o.name for o in program.outputs if program.axis in o.axes}
    used = {read.tensor for step in program.steps for read in step.reads} | {step.name for step in program.steps}
    free = [name for name in matrices if name not in given and name in used]
    turns: dict[tuple[str, ...], None] = {(name,): None for name in free}
    for step in program.steps:
        own = (step.name,) if step.name in free else ()
        others = dict.fromkeys(r.tensor for r in step.reads if r.tensor in free and r.tensor != step.name)
        turns.update({(*own, other): None for other in others})
        if others:
            turns.update(dict.fromkeys([tuple(others), (*own, *others)]))
    copies = {name: WIDE if set(program.axes[name]) & program.pairs.keys() else 1.0 for name in matrices}
    copies |= dict.fromkeys(_seldom(program), SELDOM)
    best: tuple[float, dict[str, bool]] | None = None
    for start in (False, True):
        native = {name: start and name not in given | written for name in matrices}
        cost = _cost(program, native, written, copies)
        for _ in range(SWEEPS):
            before = cost
            for names in turns:
                native.update({name: not native[name] for name in names})
                turned = _cost(program, native, written, copies)
                if turned < cost:
                    cost = turned
                else:
                    native.update({name: not native[name] for name in names})
            if cost == before:
                break
        if best is None or cost < best[0]:
            best = cost, native
    assert best is not None
    return Layout(_forms(program, best[1], written))


def _forms(program: TileProgram, native: Mapping[str, bool], written: Iterable[str]) -> dict[str, tuple[bool, ...]]:
    forms = {name: [form] for name, form in native.items()}
    needed = [need for step in program.steps for need in _needs(step, native)]
    for name, form in [*needed, *((name, False) for name in written if name in native)]:
        if form not in forms[name]:
            forms[name].append(form)
    return {name: tuple(found) for name, found in forms.items()}


def _needs(step: Step, native: Mapping[str, bool]) -> list[tuple[str, bool]]:
    """Which form of which tensor ``step`` reads along, but for sums along vectors that any form may do for."""
    matrices = [read for read in step.reads if len(set(read.indices)) == RANK]
    summed = [read for c in step.contractions for read in c.factors]
    if not step.indices:
        if not summed or len(summed[0].indices) < RANK:
            return []
        along = _last(summed[0].indices, transposed=native[summed[0].tensor])
    else:
        along = _last(step.indices, transposed=len(step.indices) == RANK and native[step.name])
        if step.groups and not (step.is_matmul or step.takes_apart):
            matrices = [read for read in matrices if read not in summed]
    return [(read.tensor, read.indices[0] == along) for read in matrices if along in read.indices]


def _cost(
    program: TileProgram, native: Mapping[str, bool], written: Iterable[str], copies: Mapping[str, float]
) -> float:
    forms = _forms(program, native, written)
    layout = Layout(forms)
    cost = sum(COPY * copies[name] * (len(found) - 1) for name, found in forms.items())
    narrow = sum(step.is_matmul and layout.vector(step).axis == program.axis for step in program.steps)
    return cost + NARROW * narrow + sum(_strides(step, layout) for step in program.steps)


def _seldom(program: TileProgram) -> Iterator[str]:
    """Tensors that are had the other way too once for all of the tokens, and not once a chunk."""
    yield from (step.name for step in program.tail)
    for walk in program.walks:
        yield from (step.name for step in walk.setup)
        yield from (carried.name for carried in walk.carried if carried.total)
        if walk.rows is not None:
            yield from (step.name for step in walk.rows.tail)
            yield from walk.rows.read


def _strides(step: Step, layout: Layout) -> float:
    """What reading against the grain costs a step."""
    along = layout.vector(step) if step.indices else None
    contracted = {read for c in step.contractions for read in c.factors}
    summing = STRIDED if sums_along(step, layout) is None else ALONG
    cost = 0.0
    for read in step.reads:
        if len(read.indices) < RANK or (step.is_matmul and read in contracted):
            continue
        if along is not None and layout.is_along(read, along):
            continue
        size = WIDE if any(isinstance(index, PairIndex) for index in read.indices) else 1.0
        cost += size * (summing if read in contracted else STRIDED)
    return cost


def sums_along(step: Step, layout: Layout) -> Index | None:
    """The summed index that a sum's vectors run along; None if they run along its result."""
    matrices = [f for c in step.contractions for f in c.factors if len(f.indices) == RANK]
    if step.indices and all(layout.is_along(f, layout.vector(step)) for f in matrices):
        return None
    for index in dict.fromkeys(index for c in step.contractions for index in c.summed):
        if all(index in c.summed for c in step.contractions) and all(layout.is_along(f, index) for f in matrices):
            return index
    return None
