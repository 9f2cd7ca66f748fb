"""How often kernels go over the sequence: once a walk, or once more for each level of states.

A walk is one pass: chunk after chunk, one thread block a sequence.  For few sequences each is cut into segments that
run side by side.  A segment begins with the states that all segments before it leave, so these are computed first,
level by level: those that tokens alone make up, then those that read them, and so on.  A pass for each level writes
what each segment adds; a fold over the segments makes the values that they begin with; then the walk itself runs.

A walk that is repeated for the rows of an n×n matrix has a thread block for each chunk of rows instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import ONE, Read, product, reads, terms_of

from ..steps import ACC, Step
from ..walks import Carried, TileProgram, Walk


@dataclass(frozen=True)
class Pass:
    """One kernel that walks over the tokens.

    Attributes
    ----------
    name : str
        Of its function.
    walk : Walk
        What it does.
    starts : tuple[str, ...]
        The states that begin with a given value in each segment; the others begin at zero.
    ends : tuple[str, ...]
        The carried tensors whose value after each segment is written.
    written : tuple[str, ...]
        The results without tokens that it writes; such a pass takes no tokens.
    replayed : tuple[str, ...]
        The states that it computes once more for each span of tokens, from what they were before it.
    """

    name: str
    walk: Walk
    starts: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    replayed: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[Step, ...]:
        """All that happens, in order."""
        walk = self.walk
        tail = walk.rows.tail if walk.rows is not None else ()
        return (*walk.setup, *walk.replay, *walk.body, *tail)

    @property
    def segmented(self) -> bool:
        """Whether several thread blocks may share a sequence."""
        states = {c.name for c in self.walk.carried if not c.total}
        return self.walk.rows is None and not self.written and states <= {*self.starts, *self.ends}

    @property
    def share(self) -> str:
        """What of a sequence a thread block is for: one of its ``"segments"`` or ``"chunks"``; empty for all of it."""
        return "chunks" if self.walk.rows is not None else "segments" if self.segmented else ""


def passes(program: TileProgram, *, split: bool) -> tuple[Pass, ...]:
    """The passes of a program.

    Parameters
    ----------
    program : TileProgram
    split : bool
        Whether sequences are cut into segments.

    Raises
    ------
    CompileError
        If the program does more than walk, or cannot be split.
    """
    if program.by_token and split:
        raise CompileError(f"{program.name} takes its tokens one at a time; its sequences are not cut into segments")
    if any(step.takes_apart for step in program.steps):
        raise CompileError(f"{program.name} sums over one feature of a pair; that has no CUDA kernel")
    made: list[Pass] = []
    for number in range(len(program.walks)):
        walk = _prepared(program, number, program.walks[number])
        if walk.replay:
            made.append(_replaying(program, f"walk_{number}", walk))
            continue
        if walk.rows is not None:
            made.append(Pass(f"walk_{number}", walk))
            continue
        totals = tuple(c.name for c in walk.carried if c.total)
        states = tuple(c.name for c in walk.carried if not c.total)
        if split and states:
            done: tuple[str, ...] = ()
            for level, names in enumerate(levels(walk)):
                made.append(_states(walk, f"walk_{number}_states_{level}", names, done))
                done += names
        made.append(Pass(f"walk_{number}", walk, states if split else (), totals))
    short = (p.name for p in program.outputs if program.axis not in p.axes)
    written = tuple(name for name in short if name not in program.states)
    if written:
        last = Walk(program.tail, ())
        made.append(Pass("last", _prepared(program, len(program.walks), last, written), written=written))
    return tuple(made)


def _prepared(program: TileProgram, number: int, walk: Walk, wanted: Iterable[str] = ()) -> Walk:
    """A walk that begins with what earlier ones computed without tokens and it reads: each pass computes that anew."""
    steps = (*walk.replay, *walk.steps)
    names = {*wanted, *(read.tensor for step in steps for read in step.reads)} - {step.name for step in steps}
    before: list[Step] = []
    for step in reversed([step for earlier in program.walks[:number] for step in earlier.setup]):
        if step.name in names:
            before.append(step)
            names |= {read.tensor for read in step.reads}
    return replace(walk, setup=(*before[::-1], *walk.setup))


def _replaying(program: TileProgram, name: str, walk: Walk) -> Pass:
    """A pass back that also carries the states forward, within each span of tokens."""
    before = (carried for earlier in program.walks for carried in earlier.carried)
    states = tuple(replace(carried, first="", last="") for carried in before if carried.name in walk.loaded)
    part = replace(walk, carried=(*walk.carried, *states), loaded=())
    totals = tuple(carried.name for carried in walk.carried if carried.total)
    return Pass(name, part, ends=totals, replayed=walk.loaded)


def levels(walk: Walk) -> tuple[tuple[str, ...], ...]:
    """Names of the states of a walk, those first that need no other to be computed.

    Raises
    ------
    CompileError
        If what is added to a state depends on it, so that segments cannot run side by side.
    """
    states = {c.name: c for c in walk.carried if not c.total}
    for carried in states.values():
        _check_linear(walk, carried)
    needs = {name: needed(walk, [name])[1] - {name} for name in states}
    found: list[tuple[str, ...]] = []
    done: set[str] = set()
    while len(done) < len(states):
        ready = tuple(name for name in states if name not in done and needs[name] <= done)
        if not ready:
            raise CompileError(f"{', '.join(states)} depend on one another; a sequence cannot be split")
        found.append(ready)
        done.update(ready)
    return tuple(found)


def needed(walk: Walk, wanted: Iterable[str]) -> tuple[tuple[Step, ...], set[str]]:
    """The steps of the body that carried tensors need, and the states among what they read."""
    states = {c.name for c in walk.carried}
    names = set(wanted)
    while True:
        steps = []
        read_names = set(names)
        for step in reversed(walk.body):
            if step.name in read_names:
                steps.append(step)
                read_names |= {read.tensor for read in step.reads}
        grown = names | (read_names & states)
        if grown == names:
            return tuple(steps[::-1]), names
        names = grown


def update_of(walk: Walk, name: str) -> Step:
    """The step that gives a carried tensor its next value."""
    return next(step for step in walk.body if step.name == name)


def in_place(step: Step) -> bool:
    """Whether a step can begin with what is added to its sums, and accumulate the products on top of that."""
    if step.order is not None or any(group.factor != ONE for group in step.groups):
        return False
    terms = terms_of(step.finish)
    return terms.count(ACC) == 1 and not any(ACC in reads(term) for term in terms if term != ACC)


def _states(walk: Walk, name: str, names: tuple[str, ...], done: tuple[str, ...]) -> Pass:
    steps, carried = needed(walk, names)
    kept = tuple(replace(c, last="") for c in walk.carried if c.name in carried)
    part = replace(walk, body=steps, carried=kept, saved=(), stored=(), results=())
    part = replace(part, loaded=part.reads(walk.loaded))
    return Pass(name, part, tuple(n for n in done if n in carried), names)


def _check_linear(walk: Walk, carried: Carried) -> None:
    """Whether a state is ``whole · state + added``, with nothing of it in what is added."""
    step = update_of(walk, carried.name)
    own = Read(carried.name, step.indices)
    kept = own if carried.weights is None else product(Read(carried.weights.whole), own)
    terms = [term for term in terms_of(step.finish) if carried.name in {read.tensor for read in reads(term)}]
    added = {read.tensor for contraction in step.contractions for read in contraction.factors}
    if terms != [kept] or carried.name in added:
        raise CompileError(f"{carried.name} is not a sum over the tokens; a sequence cannot be split")
