"""Operators with n×n matrices as tile programs: a chunk of rows of the matrices at a time, which are never there whole.

Where every n×n matrix is a function of its elements, as ``relu(Q M Kᵀ)`` or a product of scores, a result of a token is
a sum over all others of what depends on the two.  So a chunk of tokens, the rows, goes through the sequence as a walk
does, and what is carried along is its results.  Time is n², memory that of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from dtn_core.errors import CompileError
from dtn_core.ir.nodes import (
    ONES,
    Expr,
    Index,
    MatrixFunction,
    Param,
    Product,
    Program,
    Read,
    Statement,
    Sum,
    indices_of,
    map_reads,
    map_statement,
    reads,
    statement_reads,
    sum_of,
    terms_of,
)

from .dependencies import needed
from .staged import Staged
from .states import total
from .steps import RANK, fuse
from .walks import Rows, TileProgram, Walk

BEFORE, AFTER, ALL = "before", "after", "all"
MIRRORED = {BEFORE: AFTER, AFTER: BEFORE, ALL: ALL}
GATHERING = 0.5
"""What reading and writing the sums of a chunk of tokens costs, in products."""
MOST_GATHERED = 2
"""Of more sums than these nothing is gained."""


def by_rows(
    program: Program, axis: str, params: Sequence[Param], outputs: Sequence[Param], *, split: bool = False
) -> TileProgram:
    """``program`` as walks, those that need n×n matrices repeated for every chunk of their rows.

    Parameters
    ----------
    program : Program
        As it is computed on the whole sequence at once, or the gradient of that.
    axis : str
        Of the tokens.
    params, outputs : sequence of Param
    split : bool
        For sequences in parts that are computed side by side.

    Raises
    ------
    CompileError
        If it multiplies n×n matrices with each other, or has no tile form for another reason.
    """
    return _ByRows(tokens_first(program, axis), axis, params, outputs, split=split).build(())


def tokens_first(program: Program, axis: str) -> Program:
    """``program`` whose tensors of tokens and features have the tokens first, as arguments and results do."""
    swapped = {s.name for s in program.statements if s.axes.count(axis) == 1 and s.axes[0] != axis}
    swapped -= {output.name for output in program.outputs}
    if any(len(s.axes) != RANK or isinstance(s.value, MatrixFunction) for s in program.statements if s.name in swapped):
        return program

    def change(read: Read) -> Read:
        return Read(read.tensor, read.indices[::-1]) if read.tensor in swapped else read

    made = []
    for statement in program.statements:
        changed = map_statement(statement, change)
        made.append(replace(changed, indices=changed.indices[::-1]) if statement.name in swapped else changed)
    return replace(program, statements=tuple(made))


class _ByRows(Staged):
    """Sorts statements into walks over tokens and, for what sums over the other tokens of each, walks over rows."""

    def __init__(
        self, program: Program, axis: str, params: Sequence[Param], outputs: Sequence[Param], *, split: bool
    ) -> None:
        super().__init__(program, axis, params, outputs, split=split)
        self.rows = f"{axis}_row"
        self.matrices: dict[str, Statement] = {}
        self.targets: list[tuple[int, Statement]] = []  # sums over the other tokens

    def build(self, states: Sequence[object]) -> TileProgram:
        """The program."""
        for statement in self.program.statements:
            self.place(statement)
        found = {stage: self.gathered(stage) for stage in sorted({stage for stage, _ in self.targets})}
        every = [each for group in found.values() for each in group]
        self.elsewhere = {name for each in every for name in (*each.results, *each.gathered)}
        last = max((self.stages[o.name] for o in self.outputs if self.axis in o.axes), default=0)
        count = 1 + max([last, *(stage for stage, _ in self.sums), *found])
        targets = {statement.name for _, statement in self.targets}
        made = {s.name for s in self.tokens}
        stored = {name for each in every for name in (*each.tokens, *each.rows.values()) if name in made}
        walks: list[Walk] = []
        for stage in range(count):
            here = [name for name in sorted(stored) if self.stages[name] == stage]
            walks.append(self.walk(stage, (), stored=here, known=targets))
            walks += [self.repeated(stage, each, stored | targets) for each in found.get(stage, ())]
        kept = {name for walk in walks for name in walk.loaded}
        kept |= {name for walk in walks if walk.rows is not None for name in walk.rows.read.values()}
        walks = [self.trimmed(walk, kept) for walk in walks if walk.body or walk.setup]
        tail = fuse([s for stage, s in self.small if stage == count], [o.name for o in self.outputs])
        name = self.program.name
        return TileProgram(
            name, self.axis, self.params, self.outputs, tuple(walks), tail, (), self.axes, rows=self.rows
        )

    def place(self, statement: Statement) -> None:
        """Find the first walk that can compute ``statement``; matrices are computed wherever they are read."""
        count = statement.axes.count(self.axis)
        own = set(statement.indices)
        self.axes[statement.name] = statement.axes
        stage = max((self.stages.get(r.tensor, 0) for r in statement_reads(statement)), default=0)
        summed = {
            term: [i for i in dict.fromkeys(indices_of(term)) if i.axis == self.axis and i not in own]
            for term in terms_of(statement.value)
        }
        if count > 1:
            if isinstance(statement.value, MatrixFunction):
                raise CompileError(f"{self.program.name}: {statement.name} is a function of an n×n matrix; no kernel")
            if count > 2 or any(summed.values()):
                raise CompileError(f"{self.program.name}: {statement.name} multiplies n×n matrices; that has no kernel")
            self.matrices[statement.name] = statement
            self.stages[statement.name] = stage
        elif count == 1 and any(summed.values()):
            if statement.order:
                raise CompileError(f"{self.program.name}: {statement.name} is a sum under an order; no kernel")
            self.target(statement, stage, summed)
        elif any(read.tensor in self.matrices for term in summed for read in reads(term)):
            self.place(self.row_by_row(statement, summed))
        else:
            super().place(statement)

    def target(self, statement: Statement, stage: int, summed: Mapping[Expr, Sequence[Index]]) -> None:
        """A statement of tokens that sums over others."""
        sums = [term for term in terms_of(statement.value) if summed[term]]
        if any(len(summed[term]) > 1 for term in sums):
            raise CompileError(f"{self.program.name}: {statement.name} sums over two tokens at once; no kernel")
        rest = [term for term in terms_of(statement.value) if not summed[term]]
        name = f"{statement.name}_sum" if rest else statement.name
        self.axes[name] = statement.axes
        self.stages[name] = self.stages[statement.name] = stage + 1
        self.targets.append((stage, replace(statement, name=name, value=sum_of(*sums))))
        if rest:
            self.tokens.append(replace(statement, value=sum_of(Read(name, statement.indices), *rest)))

    def row_by_row(self, statement: Statement, summed: Mapping[Expr, Sequence[Index]]) -> Statement:
        """``statement``, which sums over the elements of matrices, as a sum of their rows' sums."""
        terms = []
        for place, term in enumerate(terms_of(statement.value)):
            if not any(read.tensor in self.matrices for read in reads(term)):
                terms.append(term)
                continue
            if not summed[term]:
                raise CompileError(f"{self.program.name}: {statement.name} reads the diagonal of a matrix; no kernel")
            row = Statement(f"{statement.name}_row_{place}", (summed[term][0], *statement.indices), term)
            self.place(row)
            terms.append(Read(row.name, row.indices))
        return replace(statement, value=sum_of(*terms))

    # -------------------------------------------------------------- walks over rows

    def gathered(self, stage: int) -> list[_RowStatements]:
        """What the walks over rows of a stage have to compute: one walk for each side of the rows that tokens are on.

        A matrix that one token sums along its rows and another along its columns, as in ``dQ = dS K, dK = dSᵀ Q``, is
        computed once if the sums of one of them are gathered along the tokens.  Where parts of the rows are computed
        side by side none are, as both would write to the same memory.
        """
        targets = [statement for at, statement in self.targets if at == stage]
        sides = {statement.name: self.side(statement) for statement in targets}
        best: list[_RowStatements] = []
        for count in range(1 if self.split else min(len(targets), MOST_GATHERED) + 1):
            for names in combinations(sides, count):
                turned = {name: MIRRORED[side] if name in names else side for name, side in sides.items()}
                found = self.grouped(targets, turned, names)
                if not best or sum(each.cost for each in found) < sum(each.cost for each in best):
                    best = found
        for each in best:
            self.finish(each, stage, sides.keys(), each.sums.values())
            self.axes.update(each.axes)
        return best

    def grouped(
        self, targets: Sequence[Statement], sides: Mapping[str, str], gathered: Collection[str]
    ) -> list[_RowStatements]:
        """Targets by the side of the rows that tokens are on."""
        found = []
        for side in dict.fromkeys(sides.values()):
            made = _RowStatements(self.axis, self.rows, self.matrices, dict(self.axes), side)
            for statement in targets:
                if sides[statement.name] == side:
                    made.add(statement, gathered=statement.name in gathered)
            found.append(made)
        return found

    def finish(self, found: _RowStatements, stage: int, sums: Collection[str], made: Collection[str]) -> None:
        """Outputs that follow from those ``sums`` of a stage that are ``made`` in one walk over rows."""
        for output in self.outputs:
            if output.name in made:
                found.results[output.name] = found.named(output.name)
                continue
            if output.name in sums or self.axis not in output.axes or self.stages[output.name] != stage + 1:
                continue
            earlier = {s.name for s in self.tokens if self.stages[s.name] <= stage}
            statements = needed(self.tokens, {output.name}, earlier)
            known = {r.tensor for s in statements for r in statement_reads(s)} - {s.name for s in statements}
            if all(name in made or self.stages.get(name, 0) <= stage for name in known):
                found.finish(output.name, statements)

    def side(self, statement: Statement) -> str:
        """Where the tokens are that a sum over other tokens takes part of, as far as orders say."""
        (own,) = (index for index in statement.indices if index.axis == self.axis)
        (other,) = {index for index in indices_of(statement.value) if index.axis == self.axis} - {own}
        return self.side_of(statement.value, own, other)

    def side_of(self, value: Expr, row: Index, other: Index) -> str:
        """Where a value that depends on two tokens is not 0, as far as orders say."""
        match value:
            case Read(tensor, indices) if tensor in self.matrices:
                statement = self.matrices[tensor]
                own = dict(zip(statement.indices, indices, strict=True))
                for relation in statement.order:
                    return BEFORE if own[relation.upper] == row else AFTER
                back = {index: name for name, index in own.items()}
                return self.side_of(statement.value, back[row], back[other])
            case Product(factors):
                return next((s for s in (self.side_of(f, row, other) for f in factors) if s != ALL), ALL)
            case Sum(terms):
                sides = {self.side_of(term, row, other) for term in terms}
                return sides.pop() if len(sides) == 1 else ALL
        return ALL

    def repeated(self, stage: int, found: _RowStatements, stored: set[str]) -> Walk:
        """The walk over the rows of a stage."""
        sums = [total(name, indices, self.axes) for name, indices in (found.carried | found.gathered).items()]
        renewals = [renewal for _, renewal, _ in sums]
        names = (*found.sums, *found.gathered)
        rows = Rows(
            {name: of for name, of in found.rows.items() if name not in found.sums},
            found.sums,
            found.results,
            fuse(list(found.tail.values()), found.results.values()),
            found.side,
            tuple(found.gathered),
        )
        read = {r.tensor for s in found.body.values() for r in statement_reads(s)}
        return Walk(
            (),  # the walk over tokens of this stage has it
            fuse(
                [*found.body.values(), *renewals],
                names,
                {renewal.name: name for renewal, name in zip(renewals, names, strict=True)},
            ),
            tuple(carried for _, _, carried in sums[: len(found.carried)]),
            loaded=tuple(sorted(read & stored)),
            rows=rows,
        )

    @staticmethod
    def trimmed(walk: Walk, kept: set[str]) -> Walk:
        """``walk`` that writes to memory only what is read there."""
        if walk.rows is None:
            return walk
        stored = {name: of for name, of in walk.rows.stored.items() if of in kept}
        return replace(walk, rows=replace(walk.rows, stored=stored))


@dataclass
class _RowStatements:
    """Statements of a walk over rows: each matrix with one of its indices along the rows, the other along tokens."""

    axis: str
    axis_of_rows: str
    matrices: Mapping[str, Statement]
    axes: dict[str, tuple[str, ...]]
    side: str
    body: dict[str, Statement] = field(default_factory=dict)
    tail: dict[str, Statement] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)  # for each tensor along the rows, that along the tokens
    tokens: set[str] = field(default_factory=set)
    sums: dict[str, str] = field(default_factory=dict)  # the same for what is carried
    carried: dict[str, tuple[Index, ...]] = field(default_factory=dict)
    gathered: dict[str, tuple[Index, ...]] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)

    def named(self, tensor: str) -> str:
        """A tensor of tokens along the rows."""
        name = f"{tensor}_row"
        self.axes[name] = tuple(self.axis_of_rows if axis == self.axis else axis for axis in self.axes[tensor])
        return name

    @property
    def cost(self) -> float:
        """What a chunk of rows costs with one of tokens, in products; the half of it where tokens are on one side."""
        products = sum(
            any(index not in statement.indices for index in indices_of(term))
            for statement in self.body.values()
            for term in terms_of(statement.value)
        )
        return (products + GATHERING * len(self.gathered)) * (1 if self.side == ALL else 0.5)

    def add(self, statement: Statement, *, gathered: bool = False) -> None:
        """A sum over the other tokens: of those along the rows if it is gathered, else of those along the tokens."""
        (own,) = (index for index in statement.indices if index.axis == self.axis)
        others = [i for i in dict.fromkeys(indices_of(statement.value)) if i.axis == self.axis and i != own]
        roles = {index: self.row(index) for index in (others if gathered else [own])}
        name = statement.name if gathered else self.named(statement.name)
        indices = tuple(roles.get(index, index) for index in statement.indices)
        value = map_reads(statement.value, self.reader(roles))
        self.body[f"{name}_added"] = Statement(f"{name}_added", indices, value)
        if gathered:
            self.gathered[name] = indices
        else:
            self.carried[name], self.sums[name] = indices, statement.name

    def finish(self, output: str, statements: Sequence[Statement]) -> None:
        """Results that follow from the sums of their rows."""
        for statement in statements:
            roles = {i: self.row(i) for i in (*statement.indices, *indices_of(statement.value)) if i.axis == self.axis}
            name = self.named(statement.name)
            self.tail[name] = Statement(
                name,
                tuple(roles.get(index, index) for index in statement.indices),
                map_reads(statement.value, self.reader(roles)),
            )
        for name in self.tail:
            self.rows.pop(name, None)
        self.results[output] = self.named(output)

    def row(self, index: Index) -> Index:
        """An index of tokens that runs along the rows."""
        return Index(f"{index.name}_row", self.axis_of_rows)

    def reader(self, roles: Mapping[Index, Index]) -> Callable[[Read], Read]:
        """What a read becomes where some indices of tokens run along the rows."""

        def change(read: Read) -> Read:
            indices = tuple(roles.get(index, index) for index in read.indices)
            if read.tensor in self.matrices:
                return Read(self.matrix(read, roles), self.rows_first(indices))
            long = [index for index in indices if index.axis in (self.axis, self.axis_of_rows)]
            if read.tensor == ONES or not long:
                return Read(read.tensor, indices)
            if long[0].axis == self.axis:
                self.tokens.add(read.tensor)
                return Read(read.tensor, indices)
            name = self.named(read.tensor)
            self.rows[name] = read.tensor
            return Read(name, indices)

        return change

    def rows_first(self, indices: Iterable[Index]) -> tuple[Index, ...]:
        """The indices of a matrix as all have them: what rows sum of it is a product with it on the left."""
        return tuple(sorted(indices, key=lambda index: index.axis != self.axis_of_rows))

    def matrix(self, read: Read, roles: Mapping[Index, Index]) -> str:
        """The tensor of a matrix, or of the matrix turned, as it is read."""
        first, second = (index for index in read.indices if index.axis == self.axis)
        if first == second:
            raise CompileError(f"{read.tensor} is read along its diagonal; that has no kernel by rows")
        turned = first not in roles
        name = f"{read.tensor}_turned" if turned else read.tensor
        if name in self.body:
            return name
        statement = self.matrices[read.tensor]
        own = [index for index in statement.indices if index.axis == self.axis]
        along = own[1] if turned else own[0]
        inner = {along: self.row(along)}

        def at(index: Index) -> Index:
            return inner.get(index, index)

        value = map_reads(statement.value, self.reader(inner))
        order = tuple(replace(r, lower=at(r.lower), upper=at(r.upper)) for r in statement.order)
        indices = self.rows_first(map(at, statement.indices))
        self.axes[name] = tuple(index.axis for index in indices)
        self.body[name] = Statement(name, indices, value, order)
        return name
