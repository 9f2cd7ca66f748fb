"""The passes, one after another, each verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import prod

from ..cost import Polynomial, elements, peak_elements, score
from ..errors import CompileError
from ..ir.axes import sequence_axes
from ..ir.build import fresh_index
from ..ir.nodes import Index, Param, Program
from .backward import Backward, backward
from .causal import causal
from .contract import contract
from .divide import divide
from .factor import factor
from .flatten import flatten
from .low_rank import low_rank, why_not
from .schedule import Scan, held, schedule
from .stream import Stream, stream

LONG = 65_536
FEATURES = 64
SHORT = 16
CHUNKS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Costs:
    """What chunks cost a framework beside what is computed in them, as measured.

    Attributes
    ----------
    alone, among : int
        Flops that one more chunk is worth: called by itself, and among many that are computed at once.
    state : int
        Flops that each element of the states is worth, once a chunk.
    at_once : int
        Elements of the widest tensor, taken to be the first argument where none has two feature axes, whose chunks are
        computed at once: their tiles stay in a processor's cache.
    whole : int
        Elements up to which all chunks of a sequence are, where a loop over a few costs more than the cache saves.
    """

    alone: int = 2_000_000
    among: int = 100_000
    state: int = 75
    at_once: int = 2**17
    whole: int = 0


COSTS = Costs()
FEW = 4
"""Of fewer chunks than these at once each is computed by itself, which is quicker."""
MANY = 8
"""Chunks other than those for long sequences and usual features are worth it from so many on."""


@dataclass(frozen=True)
class Chunked:
    """A causal program lowered in its three parts.

    Attributes
    ----------
    stream : Stream
        How the parts fit together.
    before, chunk, after : Program
        The lowered parts.
    size : int
        Tokens a chunk, unless the caller says otherwise.
    costs : Costs
        What chose it.
    """

    stream: Stream
    before: Program | None
    chunk: Program
    after: Program | None
    size: int
    costs: Costs = COSTS

    @cached_property
    def token(self) -> Program | None:
        """The recurrent step, lowered, if there is one and sequences may come in pieces."""
        token = self.stream.token if self.stream.resumable else None
        if token is None:
            return None
        return divide(contract(token, dict.fromkeys(token.axes, FEATURES)))

    @cached_property
    def backward(self) -> Backward:
        """The gradient of a chunk, lowered."""
        made = backward(self.stream, self.chunk)
        sizes = {**dict.fromkeys(made.chunk.axes, FEATURES), self.stream.axis: self.size}
        return replace(made, chunk=factor(divide(contract(made.chunk, sizes))))

    @property
    def parallel(self) -> bool:
        """Whether many chunks may be computed at once: tensors begin with their tokens."""
        return all(p.axes[0] == self.stream.axis for p in (*self.stream.tokens, *self.stream.results))

    @cached_property
    def widths(self) -> tuple[tuple[str, ...], ...]:
        """What a token has of each tensor that has two axes or more beside its own, the first argument's first.

        None where there is no such tensor: then all are about as wide as the first argument.
        """
        axis = self.stream.axis
        rests = [_without(axis, s.axes) for s in self.chunk.statements if axis in s.axes]
        wide = dict.fromkeys(rest for rest in rests if len(rest) > 1)
        return (_without(axis, self.stream.tokens[0].axes), *wide) if wide else ()

    def wider(self, sizes: Mapping[str, int]) -> int:
        """How many elements the widest tensor of a chunk has for each of the first argument's."""
        inside = {**sizes, self.stream.axis: self.size}
        widths = [prod(inside[axis] for axis in rest) for rest in self.widths]
        return max(widths) // max(1, widths[0]) if widths else 1

    @property
    def scans(self) -> tuple[Scan, ...]:
        """How states pass from chunk to chunk."""
        return tuple(
            Scan(
                state.name,
                state.added,
                f"{state.name}_first",
                state.after,
                state.axes,
                None if state.weights is None else state.weights.whole,
                reverse=False,
            )
            for state in self.stream.states
        )

    @property
    def backward_scans(self) -> tuple[Scan, ...]:
        """How states pass forward and their cotangents backward."""
        made = self.backward
        cotangents = tuple(
            replace(
                scan,
                carried=made.cotangents[scan.added],
                added=made.gradients[scan.carried],
                start=f"{made.cotangents[scan.added]}_last",
                end=f"{made.gradients[scan.carried]}_first",
                reverse=True,
            )
            for scan in self.scans
        )
        return (*self.scans, *cotangents)

    @property
    def wholes(self) -> tuple[Program, ...]:
        """The parts that run over the whole sequence."""
        return tuple(part for part in (self.before, self.after) if part is not None)

    def score(self, sizes: Mapping[str, int]) -> int:
        """What the compiler minimises, as for a program."""
        length = sizes[self.stream.axis]
        inside = {**sizes, self.stream.axis: min(self.size, length)}
        count = -(-length // self.size)
        states = sum(prod(sizes[axis] for axis in state.axes) for state in self.stream.states)
        apiece = self.costs.among if self.parallel else self.costs.alone
        total = (score(self.chunk, inside) + apiece + self.costs.state * states) * count
        return total + sum(score(part, sizes) for part in self.wholes)

    @cached_property
    def axes(self) -> tuple[str, str]:
        """What costs call the tokens of a chunk and those computed at once: ``C``, ``G``, or else what is no axis."""
        taken = {axis for part in (self.chunk, *self.wholes) for axis in part.axes}
        chunk, group = (fresh_index(name, name, taken).name for name in "CG")
        return chunk, group

    def walk(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes of :attr:`axes`, at one leading index."""
        return dict(zip(self.axes, self._walk(sizes), strict=True))

    def _walk(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        length = sizes[self.stream.axis]
        if length < 2 * self.size:
            return max(1, length), max(1, length)
        if not self.parallel:
            return self.size, self.size
        width = prod(sizes[axis] for axis in self.stream.tokens[0].axes if axis != self.stream.axis)
        width *= self.wider(sizes)
        most = self.costs.whole if width * length <= self.costs.whole else self.costs.at_once
        fit = most // max(1, width * self.size)
        if fit < FEW:
            return self.size, self.size
        count = length // self.size
        turns = -(-count // fit)
        return self.size, -(-count // turns) * self.size

    def peak_elements(self, sizes: Mapping[str, int]) -> Polynomial:
        """Elements held at the peak: results and states, and the tensors of the tokens computed at once."""
        axis = self.stream.axis
        full = {**sizes, **self.walk(sizes)}
        own = {p.name for p in self.stream.tokens} | {state.name for state in self.stream.states}
        chunk, group = (full[each] for each in self.axes)
        steps = schedule(self.chunk, self.scans if group > chunk else ())
        inside = held(steps, {p.name for p in self.chunk.params} - own, axis, self.axes, full)
        results = sum(map(_elements, self.stream.results), Polynomial())
        states = sum((_elements(Param(state.name, state.axes)) for state in self.stream.states), Polynomial())
        several = group < sizes[axis] - sizes[axis] % chunk
        if several:  # a turn's tensors beside the whole results that its own are written to
            inside = inside + states + results
        early = sum((_elements(p) for p in self.before.outputs), Polynomial()) if self.before else Polynomial()
        peaks = [early + inside]
        if self.before is not None:
            peaks.append(peak_elements(self.before, sizes))
        if self.after is not None:
            peaks.append(early + results + peak_elements(self.after, sizes))
        return max(peaks, key=lambda p: p.at(full))


def _without(axis: str, axes: tuple[str, ...]) -> tuple[str, ...]:
    """``axes`` without the first that is ``axis``, in an order that says nothing."""
    place = axes.index(axis)
    return tuple(sorted(axes[:place] + axes[place + 1 :]))


def _elements(param: Param) -> Polynomial:
    return elements(Index("i", axis) for axis in param.axes)


@dataclass(frozen=True)
class Lowered:
    """A program as it is computed: straight-line steps of at most two tensors each.

    Attributes
    ----------
    definition, program : Program
        As written, and as computed on the whole sequence at once.
    rules : Mapping[str, str]
        For each step, the rule that produced it.
    complex_input : bool
        Whether it is for complex arguments.
    dense_reasons : Mapping[str, str]
        For each n×n step that could not be avoided, why.
    chunked : Chunked or None
        When set, how it is computed instead: chunk by chunk.
    """

    definition: Program
    program: Program
    rules: Mapping[str, str]
    complex_input: bool = False
    dense_reasons: Mapping[str, str] = field(default_factory=dict)
    chunked: Chunked | None = None

    def __hash__(self) -> int:
        return hash((self.program, self.complex_input, self.chunked is None))

    def score(self, sizes: Mapping[str, int]) -> int:
        """What the compiler minimises at ``sizes``."""
        return self.chunked.score(sizes) if self.chunked is not None else score(self.program, sizes)


def assumed_sizes(program: Program, given: Mapping[str, int] | None = None, long: int = LONG) -> dict[str, int]:
    """Axis sizes to optimise for: the given ones, else long sequences and narrow features (n ≫ d)."""
    sequences = sequence_axes(program)
    sizes = {axis: long if axis in sequences else FEATURES for axis in program.axes}
    sizes.update({axis: size for axis, size in (given or {}).items() if axis in sizes})
    return sizes


def flattened(program: Program, *, complex_input: bool) -> tuple[Program, set[str]]:
    """Flatten and rewrite matrix exponentials; also the names that rewriting introduced."""
    flat = flatten(program, complex_input=complex_input)
    ranked = low_rank(flat)
    if ranked is flat:
        return flat, set()
    added = {s.name for s in ranked.statements} - {s.name for s in flat.statements}
    return flatten(ranked, complex_input=complex_input), added


def lower(program: Program, sizes: Mapping[str, int] | None = None, *, complex_input: bool = False) -> Lowered:
    """Lower to steps on the whole sequence at once.

    Parameters
    ----------
    program : Program
        The definition.
    sizes : Mapping[str, int], optional
        Axis sizes to optimise for; the result is correct at any.
    complex_input : bool
        Whether arguments are complex; ``conj`` of a real argument is dropped.
    """
    flat, added = flattened(program, complex_input=complex_input)
    final = divide(contract(flat, assumed_sizes(program, sizes)))
    rules = _rules(final, program, flat, added)
    return Lowered(program, final, rules, complex_input, why_not(flat))


def lower_chunked(
    program: Program,
    sizes: Mapping[str, int] | None = None,
    *,
    complex_input: bool = False,
    costs: Costs = COSTS,
) -> Lowered:
    """Lower a program with order to linear time: chunk by chunk, with states between.

    Raises
    ------
    CompileError
        If it has no order, or no linear form, with the reason.
    """
    return _chunkings(program, tuple((sizes or {}).items()), complex_input, costs)[0]


def _chunkings(
    program: Program, given: tuple[tuple[str, int], ...], complex_input: bool, costs: Costs
) -> tuple[Lowered, ...]:
    """The linear form with each size of a chunk, the cheapest first."""
    full = assumed_sizes(program, dict(given))
    forms = [_at_costs(form, costs) for form in _of_each_size(program, given, complex_input)]
    return tuple(sorted(forms, key=lambda form: form.score(full)))


def _at_costs(form: Lowered, costs: Costs) -> Lowered:
    assert form.chunked is not None
    return replace(form, chunked=replace(form.chunked, costs=costs))


@lru_cache(maxsize=512)
def _of_each_size(program: Program, given: tuple[tuple[str, int], ...], complex_input: bool) -> tuple[Lowered, ...]:
    """The linear form with each size of a chunk: the same for all costs, which choose among them."""
    sizes = dict(given)
    flat, added = flattened(program, complex_input=complex_input)
    if not any(relation for statement in flat.statements for relation in statement.order):
        raise CompileError(f"{program.name}: nothing is ordered")
    ordered, reasons = causal(flat)
    if reasons:
        raise CompileError(next(iter(reasons.values())))
    parts = stream(ordered)
    full = assumed_sizes(program, sizes)
    before, after = (None if p is None else divide(contract(p, full)) for p in (parts.before, parts.after))
    body = flatten(parts.chunk, complex_input=complex_input)
    dense = lower(program, sizes, complex_input=complex_input)
    states = dict.fromkeys([name for state in parts.states for name in (state.added, state.after)], "state")
    found = []
    for size in CHUNKS:
        chunk = divide(contract(body, {**dict.fromkeys(parts.chunk.axes, FEATURES), **full, parts.axis: size}))
        made = Chunked(parts, before, chunk, after, size)
        rules: dict[str, str] = {}
        for part in (*made.wholes, made.chunk):
            rules.update(_rules(part, program, ordered, added))
        found.append(Lowered(program, dense.program, {**rules, **states}, complex_input, {}, made))
    return tuple(found)


def _rules(final: Program, program: Program, flat: Program, added: set[str]) -> dict[str, str]:
    written = {statement.name for statement in program.statements}
    stages = {statement.name for statement in flat.statements}
    rules = {}
    for statement in final.statements:
        name = statement.name
        if name in added:
            rules[name] = "low-rank matrix exponential"
        elif name in written:
            rules[name] = "as written"
        elif name in stages:
            rules[name] = "simplify" if "_state" not in name else "causal contraction"
        elif statement.order:
            rules[name] = "order, evaluated densely"
        else:
            rules[name] = "contraction path"
    return rules


@lru_cache(maxsize=1024)
def _whole(program: Program, length: int, complex_input: bool) -> Lowered:
    return lower(program, assumed_sizes(program, long=length), complex_input=complex_input)


@lru_cache(maxsize=512)
def candidates(program: Program, complex_input: bool = False, costs: Costs = COSTS) -> tuple[Lowered, ...]:
    """The lowered forms worth choosing from: the best for long sequences and usual features first.

    In linear time one with each size of a chunk; of the others the best for long sequences, then that for short ones.
    """
    found: dict[object, Lowered] = {}
    reason = ""
    try:
        found.update((form, form) for form in _chunkings(program, (), complex_input, costs))
    except CompileError as error:
        reason = str(error)
    for length in (LONG, SHORT):
        lowered = _whole(program, length, complex_input)
        if reason and any(s.order for s in lowered.program.statements):
            lowered = Lowered(
                program, lowered.program, lowered.rules, complex_input, {**lowered.dense_reasons, "order": reason}
            )
        found.setdefault(lowered, lowered)
    return tuple(found.values())


def choose(forms: tuple[Lowered, ...], sizes: Mapping[str, int]) -> Lowered:
    """The cheapest of ``forms`` at ``sizes``; the first, made for long sequences, wins a draw."""
    if len(forms) == 1:
        return forms[0]
    first, *others = forms
    return min((first, *(form for form in others if _many(form, sizes))), key=lambda form: form.score(sizes))


def _many(form: Lowered, sizes: Mapping[str, int]) -> bool:
    """Whether there are chunks enough for their size to matter more than their number, if it has chunks."""
    chunked = form.chunked
    return chunked is None or sizes[chunked.stream.axis] >= MANY * chunked.size
