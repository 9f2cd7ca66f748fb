"""stream: a causal program as what happens to one chunk of tokens, and the states that pass between chunks.

Every causal contraction and prefix sum becomes two parts: inside the chunk, the same ordered contraction
over its few tokens; and what the earlier tokens add, read from a state without a token axis::

    X[p]   = Σ_{i <= p, i in chunk} γ^(p−i) …  +  γ^(p+1) · query[p] · State
    State' = γ^C · State + Added,  Added = Σ_i γ^(C−1−i) key[i] · value[i]

so no power of γ is ever larger than 1.  What runs backwards, ``where t <= i``, is the same of the tokens from the last
to the first (see ``mirror``).  One chunk of all tokens is the dense form.  For a single token,
the recurrent step, the state takes the token in first and is then read, without a token axis anywhere::

    State' = γ · State + key · value,  X = query · State'

A strict order, ``i < p``, leaves the diagonal out of the first sum, and reads γ · State in the last.

Full sums over the sequence (``mask="tril"``) and what has no tokens are computed before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..errors import CompileError
from ..ir.axes import sums_over
from ..ir.build import canonical_key, fresh_name
from ..ir.nodes import (
    ONE,
    ONES,
    Apply,
    Expr,
    Extent,
    Index,
    MatrixFunction,
    Number,
    Param,
    Program,
    Read,
    Relation,
    Statement,
    children,
    map_children,
    map_reads,
    product,
    statement_reads,
    sum_of,
)
from ..ir.terms import Factor, Term, single_term
from ..ir.verify import verify
from .mirror import mirror


@dataclass(frozen=True)
class Weights:
    """Powers of one decay along a chunk: ``rise`` γ^(p+1), ``fall`` γ^(C−1−p), ``whole`` γ^C."""

    decay: Number | Read
    rise: str
    fall: str
    whole: str


@dataclass(frozen=True)
class State:
    """A sum over all earlier tokens: its tensor before and after a chunk, what the chunk adds, its axes and decay."""

    name: str
    after: str
    added: str
    axes: tuple[str, ...]
    weights: Weights | None

    @property
    def update(self) -> Statement:
        """``after = γ^C · name + added``."""
        indices = tuple(Index(chr(ord("a") + place), axis) for place, axis in enumerate(self.axes))
        kept: Expr = Read(self.name, indices)
        if self.weights is not None:
            kept = product(Read(self.weights.whole), kept)
        return Statement(self.after, indices, sum_of(kept, Read(self.added, indices)))


@dataclass(frozen=True)
class Stream:
    """A program in three parts along ``axis``.

    Attributes
    ----------
    before, after : Program or None
        What needs the whole sequence, before and after the chunks.
    chunk : Program
        One chunk: its parameters are tensors of the chunk's tokens, constants, states and weights; its
        outputs are results for its tokens, then what it adds to the states.
    token : Program or None
        One token: parameters are its tensors without ``axis``, constants and states; outputs are its results, then
        the states after it.  None where a tensor would have no axis left.
    states : tuple[State, ...]
    weights : tuple[Weights, ...]
    tokens, constants, results : tuple[Param, ...]
        Parameters sliced along ``axis``, passed whole, and outputs along ``axis``.
    mirrored : tuple[tuple[str, str], ...]
        The tokens and results that are turned round, from the last to the first, each with what is turned: an argument
        or a tensor that is computed before, or a result under its own name.
    """

    axis: str
    before: Program | None
    chunk: Program
    token: Program | None
    after: Program | None
    states: tuple[State, ...]
    weights: tuple[Weights, ...]
    tokens: tuple[Param, ...]
    constants: tuple[Param, ...]
    results: tuple[Param, ...]
    mirrored: tuple[tuple[str, str], ...] = ()

    @cached_property
    def whole(self) -> str:
        """What needs the whole sequence, so that it may not be fed in pieces; nothing if it may."""
        if self.mirrored:
            return f"{self.mirrored[-1][1]} runs backwards"
        if self.after is not None:
            return f"{self.after.statements[0].name} is made of what all tokens leave"
        early = self.before.statements if self.before else ()
        tokens = {p.name for p in self.before.params if self.axis in p.axes} if self.before else set()
        for statement in early:
            if any(read.tensor in tokens for read in statement_reads(statement)):
                return f"{statement.name} is made of all tokens"
            if self.axis in _sizes_read(statement.value):
                return f"{statement.name} depends on how many tokens there are"
        return ""

    @property
    def resumable(self) -> bool:
        """Whether a sequence may be fed in pieces."""
        return not self.whole


def stream(program: Program) -> Stream:
    """Split a program whose orders are single relations (the output of ``causal``).

    Raises
    ------
    CompileError
        If it has no such form, saying why.
    """
    return _Splitter(program).run()


class _Splitter:
    def __init__(self, program: Program) -> None:
        self.program = program
        axes = {r.upper.axis for s in program.statements for r in s.order}
        if len(axes) != 1:
            raise CompileError(f"{program.name}: {len(axes)} axes are ordered; chunks run along one")
        self.axis = axes.pop()
        mirrored = mirror(program, self.axis)
        self.program = program = mirrored.program
        self.mirrored = mirrored.names
        self.shapes = mirrored.axes
        self.statements = {s.name: s for s in program.statements}
        self.states: list[State] = []
        self.weights: dict[Number | Read, Weights] = {}
        self.made: list[Statement] = []
        self.updates: list[Statement] = []
        self.recurrent: list[Statement] = []  # of one token
        self.known: dict[tuple[object, Number | Read | None], tuple[str, tuple[int, ...]]] = {}
        self.taken = set(self.shapes) | set(program.axes)

    def run(self) -> Stream:
        before, inside, after = self.sorted()
        before, inside = self.counted(before, inside)
        for statement in inside:
            if statement.order:
                self.split(statement)
            else:
                self.made.append(statement)
                self.recurrent.append(self.at_one_token(statement))
        self.made += self.updates
        names = {s.name for s in inside}
        internal = names | {s.name for s in self.states}
        weight_names = {name for w in self.weights.values() for name in (w.rise, w.fall)}
        needed = dict.fromkeys(r.tensor for s in self.made for r in statement_reads(s))
        local = {s.name for s in self.made} | internal | weight_names
        inputs = [Param(name, self.shapes[name]) for name in needed if name in self.shapes and name not in local]
        inputs += self.carriers(self.made, [*inputs, *(Param(s.name, s.axes) for s in self.states)])
        tokens = tuple(p for p in inputs if self.axis in p.axes)
        decays = [w.decay.tensor for w in self.weights.values() if isinstance(w.decay, Read)]
        constants = [p for p in inputs if self.axis not in p.axes]
        constants += [Param(name) for name in dict.fromkeys(decays) if name not in {p.name for p in constants}]
        wanted = {r.tensor for s in after for r in statement_reads(s)} | {o.name for o in self.program.outputs}
        results = tuple(Param(s.name, s.axes) for s in inside if self.mirrored.get(s.name, s.name) in wanted)
        if not tokens or any(self.axis not in p.axes for p in results):
            raise CompileError(f"{self.program.name}: a result of the chunks has no axis {self.axis}")
        weighted = [
            p for w in self.weights.values() for p in (Param(w.rise, (self.axis,)), Param(w.fall, (self.axis,)))
        ]
        chunk = Program(
            f"{self.program.name}_chunk",
            (*tokens, *constants, *(Param(s.name, s.axes) for s in self.states), *weighted),
            (*results, *(Param(s.added, s.axes) for s in self.states)),
            tuple(self.made),
        )
        return Stream(
            self.axis,
            self.part("before", before, inside + after),
            verify(chunk),
            self.token(tokens, constants, results),
            self.part("after", after, []),
            tuple(self.states),
            tuple(self.weights.values()),
            tokens,
            tuple(constants),
            results,
            tuple((p.name, self.mirrored[p.name]) for p in (*tokens, *results) if p.name in self.mirrored),
        )

    def token(self, tokens: Sequence[Param], constants: Sequence[Param], results: Sequence[Param]) -> Program | None:
        """The program of one token, whose tensors have no axis of tokens."""
        shapes = [
            Param(p.name, tuple(axis for axis in p.axes if axis != self.axis)) for p in (*tokens, *constants, *results)
        ]
        given, made = shapes[: len(tokens)], shapes[len(tokens) + len(constants) :]
        if not all(p.axes for p in (*given, *made)):
            return None
        states = [Param(s.name, s.axes) for s in self.states]
        after = [Param(s.after, s.axes) for s in self.states]
        params = (*given, *constants, *states)
        return verify(Program(f"{self.program.name}_token", params, (*made, *after), tuple(self.recurrent)))

    def at_one_token(self, statement: Statement) -> Statement:
        """``statement`` without indices over the axis of tokens."""
        indices = tuple(index for index in statement.indices if index.axis != self.axis)
        return Statement(statement.name, indices, _without(self.axis, statement.value))

    # -------------------------------------------------------------- sorting

    def sorted(self) -> tuple[list[Statement], list[Statement], list[Statement]]:
        """Statements that come before the chunks, inside them, and after them."""
        causal = {old for new, old in self.mirrored.items() if new in self.statements}  # what is turned back
        late = set(causal)
        early = {*self.mirrored.values()} - causal  # read whole, to be turned round
        for statement in self.program.statements:
            sources = {r.tensor for r in statement_reads(statement)}
            if sum(axis == self.axis for axis in statement.axes) > 1:
                raise CompileError(f"{self.program.name}: {statement.name} has two axes {self.axis}")
            if statement.order or sources & causal:
                causal.add(statement.name)
            if sources & late or (sources & causal and sums_over(statement, self.axis)):
                late.add(statement.name)
                if statement.order:
                    raise CompileError(f"{self.program.name}: {statement.name} is causal in a sum of the whole")
        for statement in reversed(self.program.statements):
            if statement.name in causal:
                continue
            if sums_over(statement, self.axis) or statement.name in early or self.axis not in statement.axes:
                early.add(statement.name)
                early.update(r.tensor for r in statement_reads(statement))
        before = [s for s in self.program.statements if s.name in early]
        after = [s for s in self.program.statements if s.name in late]
        inside = [s for s in self.program.statements if s.name not in early and s.name not in late]
        return before, inside, after

    def part(self, suffix: str, statements: list[Statement], readers: list[Statement]) -> Program | None:
        if not statements:
            return None
        needed = dict.fromkeys(r.tensor for s in statements for r in statement_reads(s))
        own = {s.name for s in statements}
        inputs = [Param(name, self.shapes[name]) for name in needed if name not in own and name in self.shapes]
        params = (*inputs, *self.carriers(statements, inputs))
        if not any(param.axes for param in params):  # a tensor says what arrays are like
            params = (*self.program.tensors[:1], *params)
        used = {r.tensor for s in readers for r in statement_reads(s)} | {o.name for o in self.program.outputs}
        used |= {old for new, old in self.mirrored.items() if new in used}
        outputs = tuple(Param(s.name, s.axes) for s in statements if s.name in used)
        return verify(Program(f"{self.program.name}_{suffix}", params, outputs, tuple(statements)))

    def counted(self, before: list[Statement], inside: list[Statement]) -> tuple[list[Statement], list[Statement]]:
        """The size of the sequence, and its inverse, as numbers computed before: within a chunk it is another."""
        names: dict[Expr, Read] = {}

        def sized(expr: Expr) -> Expr:
            hints = {Extent(self.axis): "{}_whole", Apply("recip", (Extent(self.axis),)): "inv_{}_whole"}
            if expr not in hints:
                return map_children(expr, sized)
            if expr not in names:
                names[expr] = Read(fresh_name(hints[expr].format(self.axis), self.taken))
            return names[expr]

        inside = [replace(statement, value=sized(statement.value)) for statement in inside]
        added = [Statement(read.tensor, (), size) for size, read in names.items()]
        self.statements.update({statement.name: statement for statement in (*added, *inside)})
        self.shapes.update({statement.name: statement.axes for statement in added})
        return [*added, *before], inside

    def carriers(self, statements: list[Statement], inputs: list[Param]) -> list[Param]:
        """Parameters of the program that give axes their sizes where none of ``inputs`` does."""
        known = {axis for param in inputs for axis in param.axes}
        found: list[Param] = []
        for axis in dict.fromkeys(axis for s in statements for axis in _sizes_read(s.value)):
            if axis not in known:
                able = [p for p in self.program.params if axis in p.axes]
                found.append(min(able, key=lambda p: (self.axis in p.axes, len(p.axes))))
                known.update(found[-1].axes)
        return found

    # -------------------------------------------------------------- splitting

    def split(self, statement: Statement) -> None:
        """One causal contraction or prefix sum: its part in the chunk, from the state, and the state's update."""
        term = single_term(statement)
        if term is None or len(statement.order) != 1:
            raise CompileError(f"{self.program.name}: {statement.name} has no chunked form")
        relation = statement.order[0]
        leaf, root = relation.lower, relation.upper
        if root not in statement.indices or leaf in statement.indices or relation.equal:
            raise CompileError(f"{self.program.name}: {statement.name} has no order that ends at its token")
        at_leaf = [f for f in term.factors if leaf in f.indices]
        rest = [f for f in term.factors if leaf not in f.indices]
        outside = {index for f in rest for index in f.indices} | set(statement.indices)
        found = dict.fromkeys(index for f in at_leaf for index in f.indices)
        features = tuple(index for index in found if index != leaf and index in outside)
        weights = self.weights_of(relation.decay)
        name = statement.name
        read = self.state_of(name, leaf, features, at_leaf, relation.decay, weights)
        taken_in = product(*term.coefficient, *(f.expression() for f in rest), *self.at_token(read, relation))
        self.recurrent.append(self.at_one_token(Statement(name, statement.indices, taken_in)))
        self.made.append(replace(statement, name=fresh_name(f"{name}_within", self.taken)))
        earlier = [*term.coefficient, *(f.expression() for f in rest), read]
        if weights is not None:
            earlier.append(Read(weights.rise, (root,)))
        inner = Read(self.made[-1].name, statement.indices)
        if rest or weights is not None or term.coefficient:
            carried = {i for f in rest for i in f.indices} | set(features) | ({root} if weights else set())
            left = tuple(index for index in statement.indices if index in carried)
            self.made.append(Statement(fresh_name(f"{name}_before", self.taken), left, product(*earlier)))
            outer = Read(self.made[-1].name, left)
        else:
            outer = read
        self.made.append(Statement(name, statement.indices, sum_of(inner, outer)))

    def at_token(self, state: Read, relation: Relation) -> tuple[Expr, ...]:
        """What one token reads of a state: with itself, or where the order is strict, as it was before."""
        if relation.strict:
            return (state,) if relation.decay is None else (relation.decay, state)
        return (next(Read(s.after, state.indices) for s in self.states if s.name == state.tensor),)

    def state_of(
        self,
        name: str,
        leaf: Index,
        features: tuple[Index, ...],
        at_leaf: list[Factor],
        decay: Number | Read | None,
        weights: Weights | None,
    ) -> Read:
        """The read of the state that sums ``at_leaf``, one that exists already if it is the same sum."""
        summed = Term((), tuple(at_leaf)).expression()
        key, places = canonical_key(features, summed, ())
        if (key, decay) in self.known:
            found, order = self.known[key, decay]
            by_place = {places[index]: index for index in features}
            return Read(found, tuple(by_place[place] for place in order))
        names = [fresh_name(f"{name}_{suffix}", self.taken) for suffix in ("past", "next", "added")]
        state = State(names[0], names[1], names[2], tuple(index.axis for index in features), weights)
        self.states.append(state)
        self.known[key, decay] = (state.name, tuple(places[index] for index in features))
        falling = [Factor(Read(weights.fall, (leaf,)))] if weights is not None else []
        self.updates.append(Statement(state.added, features, Term((), (*at_leaf, *falling)).expression()))
        kept: Expr = Read(state.name, features)
        if decay is not None:
            kept = product(decay, kept)
        self.recurrent.append(self.at_one_token(Statement(state.after, features, sum_of(kept, summed))))
        return Read(state.name, features)

    def weights_of(self, decay: Number | Read | None) -> Weights | None:
        if decay is None:
            return None
        if decay not in self.weights:
            self.weights[decay] = Weights(
                decay, fresh_name("rise", self.taken), fresh_name("fall", self.taken), fresh_name("whole", self.taken)
            )
        return self.weights[decay]


def _without(axis: str, expr: Expr) -> Expr:
    """``expr`` at the only element of ``axis``."""
    match expr:
        case Read(tensor, indices):
            kept = tuple(index for index in indices if index.axis != axis)
            return ONE if tensor == ONES and not kept else Read(tensor, kept)
        case MatrixFunction(indices=indices):  # of a matrix a token
            one = replace(expr, indices=tuple(index for index in indices if index.axis != axis))
            return map_reads(one, lambda read: Read(read.tensor, tuple(i for i in read.indices if i.axis != axis)))
    return map_children(expr, lambda part: _without(axis, part))


def _sizes_read(expr: Expr) -> Iterator[str]:
    """The axes whose size ``expr`` depends on: as a number, or as that of a tensor of ones."""
    match expr:
        case Extent(axis):
            yield axis
        case Read(tensor, indices) if tensor == ONES:
            yield from (index.axis for index in indices)
    for child in children(expr):
        yield from _sizes_read(child)
