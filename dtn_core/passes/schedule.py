"""schedule: the order in which the steps of a chunk run, and what each lets go of.

A chunk on its own runs its statements as they stand.  Many chunks at once need, between them, the states
before every chunk: these follow by a scan as soon as what each chunk adds is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..cost import Polynomial, elements
from ..errors import CompileError
from ..ir.nodes import ONES, Index, Program, Statement, statement_reads


@dataclass(frozen=True)
class Scan:
    """A state carried from chunk to chunk: ``carried[c + 1] = whole · carried[c] + added[c]``.

    Attributes
    ----------
    carried, added : str
        The state as a chunk reads it, and what a chunk adds to it.
    start, end : str
        The state before the first chunk and the one after the last, in the direction of the scan.
    axes : tuple[str, ...]
        Axes of the state.
    whole : str or None
        The power of the decay that a whole chunk is worth.
    reverse : bool
        Whether it runs from the last chunk to the first, as cotangents do.
    """

    carried: str
    added: str
    start: str
    end: str
    axes: tuple[str, ...]
    whole: str | None
    reverse: bool


@dataclass(frozen=True)
class Step:
    """A statement or a scan, and the tensors that nothing after it reads."""

    action: Statement | Scan
    freed: tuple[str, ...]

    @property
    def made(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Names and axes of the tensors that it makes."""
        if isinstance(self.action, Scan):
            return ((self.action.carried, self.action.axes), (self.action.end, self.action.axes))
        return ((self.action.name, self.action.axes),)


def schedule(program: Program, scans: Iterable[Scan] = ()) -> tuple[Step, ...]:
    """Order the statements of ``program`` and the scans between them.

    Parameters
    ----------
    program : Program
        A lowered chunk; ``carried`` of each scan is one of its parameters, ``added`` one of its outputs.
    scans : iterable of Scan
        None for a chunk on its own.

    Raises
    ------
    CompileError
        If a state within a chunk depends on itself.
    """
    waiting: list[Statement] = list(program.statements)
    scanning = list(scans)
    ready = {p.name for p in program.params} - {scan.carried for scan in scanning} | {ONES}
    order: list[Statement | Scan] = []
    while waiting or scanning:
        found: Statement | Scan | None = next((s for s in scanning if s.added in ready), None)
        if isinstance(found, Scan):
            scanning.remove(found)
            ready.add(found.carried)
        else:
            found = next((s for s in waiting if all(r.tensor in ready for r in statement_reads(s))), None)
            if found is None:
                raise CompileError(f"{program.name}: its states depend on one another in a circle")
            waiting.remove(found)
            ready.add(found.name)
        order.append(found)
    return _with_freed(order, {output.name for output in program.outputs} - {s.added for s in scans})


def _with_freed(order: Sequence[Statement | Scan], kept: set[str]) -> tuple[Step, ...]:
    last: dict[str, int] = {}
    for position, action in enumerate(order):
        if isinstance(action, Scan):
            last[action.carried] = last[action.added] = position
            continue
        if action.indices:
            last[action.name] = position
        for read in statement_reads(action):
            if read.tensor in last:
                last[read.tensor] = position
    freed: list[list[str]] = [[] for _ in order]
    for name, position in last.items():
        if name not in kept:
            freed[position].append(name)
    return tuple(Step(action, tuple(names)) for action, names in zip(order, freed, strict=True))


def held(
    steps: Sequence[Step], shared: Iterable[str], axis: str, walk: tuple[str, str], sizes: Mapping[str, int]
) -> Polynomial:
    """The most elements that the computed tensors of a schedule have at one time, in closed form.

    Parameters
    ----------
    steps : sequence of Step
        A schedule; if it has scans, of many chunks at once.
    shared : iterable of str
        Parameters that are the same for every chunk.
    axis : str
        The axis of the tokens.
    walk : tuple[str, str]
        What the tokens of a chunk, and those of all chunks computed at once, are called.
    sizes : Mapping[str, int]
        Of all axes, those of ``walk`` among them.
    """
    chunk, group = walk
    many = any(isinstance(step.action, Scan) for step in steps)
    once = {ONES, *shared}
    live: dict[str, Polynomial] = {}
    most = Polynomial()
    for step in steps:
        for name, axes in step.made:
            size = elements(Index("i", a) for a in axes).rename(axis, chunk)
            if isinstance(step.action, Statement) and all(r.tensor in once for r in statement_reads(step.action)):
                once.add(name)
            elif many and not (isinstance(step.action, Scan) and name == step.action.end):
                size = size.times_count(chunk, group)
            if axes:
                live[name] = size
        total = sum(live.values(), Polynomial())
        if total.at(sizes) > most.at(sizes):
            most = total
        for name in step.freed:
            live.pop(name, None)
    return most
