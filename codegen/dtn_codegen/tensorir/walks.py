"""The form of tile programs: walks over the chunks of a sequence, of steps, with states between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from dtn_core.ir.nodes import Param
from dtn_core.passes.stream import Weights

from .steps import Step


@dataclass(frozen=True)
class Carried:
    """A tensor carried along a walk, overwritten by a step of every chunk.

    Attributes
    ----------
    total
        Whether what counts is its value after the walk, a sum over all tokens; otherwise it is a state that every
        chunk reads.
    partial
        In a walk over a part of the sequence: whether it is the sum over that part, 0 at first; otherwise it starts as
        what all earlier parts have summed.
    weights
        Its decay, if it has one.
    first
        The argument that it is before the first chunk; empty where it is 0.
    last
        The result that it is after the last chunk; empty where nothing outside asks for it.
    """

    name: str
    axes: tuple[str, ...]
    total: bool = False
    partial: bool = False
    weights: Weights | None = None
    first: str = ""
    last: str = ""


@dataclass(frozen=True)
class Rows:
    """What a walk is repeated for: the rows of an n×n matrix, a chunk of them at a time.

    Attributes
    ----------
    read
        For each tensor along the rows that is known, the tensor along the tokens that it is.
    stored
        For each tensor along the rows that is written to memory, the tensor along the tokens that it becomes.
    results
        For each result along the tokens, the tensor along the rows.
    gathered
        Tensors along the tokens that are sums over all rows: each chunk of rows adds its part to what is in memory.
    tail
        Steps after the last chunk of tokens.
    side
        Which tokens a row takes part with: those ``"before"`` it and itself, those ``"after"`` it and itself, or
        ``"all"``.
    """

    read: Mapping[str, str]
    stored: Mapping[str, str]
    results: Mapping[str, str]
    tail: tuple[Step, ...]
    side: str = "all"
    gathered: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Its tensors that are read from memory or written there, as they are."""
        return frozenset({*self.read, *self.stored, *self.results.values(), *self.gathered})


@dataclass(frozen=True)
class Walk:
    """One pass over the tokens of a sequence, chunk by chunk.

    Attributes
    ----------
    setup
        Steps that no token takes part in, before the first chunk.
    body
        Steps of a chunk.
    carried
        What passes from chunk to chunk.
    saved, loaded
        States that are written to memory before each chunk, and those that an earlier walk wrote there.
    stored
        Tensors of tokens that are written to memory in each chunk, for later walks that load them.
    results
        Outputs along the tokens.
    reverse
        Whether it goes from the last chunk to the first.
    replay
        Steps that compute ``loaded`` states once more, token by token, from what an earlier walk saved before each
        segment of tokens; empty where it saved them before each chunk.
    rows
        Where the walk is repeated for every chunk of rows, what for; ``carried`` are then sums over its tokens.
    """

    setup: tuple[Step, ...]
    body: tuple[Step, ...]
    carried: tuple[Carried, ...] = ()
    saved: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    reverse: bool = False
    replay: tuple[Step, ...] = ()
    rows: Rows | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """Setup and body, and what comes after the last chunk."""
        return (*self.setup, *self.body, *(self.rows.tail if self.rows is not None else ()))

    def reads(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of ``names`` that it reads."""
        found = {read.tensor for step in self.steps for read in step.reads}
        return tuple(name for name in names if name in found)


@dataclass(frozen=True)
class TileProgram:
    """An operator as walks.

    Attributes
    ----------
    name : str
        Of the operator.
    axis : str
        The axis of the tokens.
    inputs, outputs : tuple[Param, ...]
        Arguments of the kernel, in order.
    walks : tuple[Walk, ...]
        One after another.
    tail : tuple[Step, ...]
        Steps after the last walk.
    weights : tuple[Weights, ...]
        Powers of decays along a chunk.
    axes : Mapping[str, tuple[str, ...]]
        The axes of every tensor.
    constants : Mapping[str, float]
        Scalars that are no arguments.
    pairs : Mapping[str, tuple[str, str]]
        The two axes that an axis of pairs is made of.
    by_token : bool
        Whether a chunk is one token, whatever the schedule says, and no tensor inside has an axis of tokens.
    rows : str
        The axis of rows of walks that are repeated for chunks of them; empty where there are none.
    """

    name: str
    axis: str
    inputs: tuple[Param, ...]
    outputs: tuple[Param, ...]
    walks: tuple[Walk, ...]
    tail: tuple[Step, ...]
    weights: tuple[Weights, ...]
    axes: Mapping[str, tuple[str, ...]]
    constants: Mapping[str, float] = field(default_factory=dict)
    pairs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    by_token: bool = False
    rows: str = ""

    def bound(self, scalars: Mapping[str, float]) -> TileProgram:
        """The program with values for some of its scalar arguments."""
        values = {p.name: float(scalars[p.name]) for p in self.inputs if p.name in scalars and not p.axes}
        inputs = tuple(p for p in self.inputs if p.name not in values)
        return replace(self, inputs=inputs, constants={**self.constants, **values})

    @cached_property
    def states(self) -> frozenset[str]:
        """The arguments and results that are states before the first token, or after the last."""
        carried = [carried for walk in self.walks for carried in walk.carried]
        return frozenset(name for each in carried for name in (each.first, each.last) if name)

    @cached_property
    def totals(self) -> frozenset[str]:
        """What walks sum over all of their tokens."""
        return frozenset(carried.name for walk in self.walks for carried in walk.carried if carried.total)

    def is_wide(self, param: Param) -> bool:
        """Whether an argument or result is float32 whatever the tensors are: scalars and states."""
        return not param.axes or param.name in self.states

    @property
    def features(self) -> tuple[str, ...]:
        """Every axis but that of the tokens and that of the rows, and those of pairs of others."""
        own = [*self.axes.values(), *(param.axes for param in (*self.inputs, *self.outputs))]  # some that nothing reads
        found = dict.fromkeys(axis for axes in own for axis in axes)
        return tuple(axis for axis in found if axis not in (self.axis, self.rows) and axis not in self.pairs)

    @cached_property
    def handed_on(self) -> frozenset[str]:
        """Tensors of walks over rows and before them that lie in memory as their axes say."""
        if not self.rows:
            return frozenset()
        found = {name for walk in self.walks for name in (*walk.stored, *walk.loaded)}
        return frozenset(found.union(*(walk.rows.names for walk in self.walks if walk.rows is not None)))

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps."""
        return (*(step for walk in self.walks for step in walk.steps), *self.tail)

    def is_triangular(self, name: str) -> Step | None:
        """The step of a tensor that is 0 on one side of its diagonal."""
        if self.rows:
            return None
        return next((step for step in self.steps if step.name == name and step.order is not None), None)
