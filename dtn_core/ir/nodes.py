"""The nodes of the IR: frozen, compared by value, hashed once.

A :class:`Program` is a list of :class:`Statement`, each the assignment of an index expression to a
named tensor.  Every index that is not on the left of a statement is summed, separately in each term
of a sum; :class:`Relation` orders (or equates) two indices that run over one axis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import wraps
from typing import Any, Literal, TypeVar, dataclass_transform, get_args

Sign = Literal["<=", "<", "=="]
"""How two indices of one axis are ordered."""
SIGNS: tuple[Sign, ...] = get_args(Sign)

_Class = TypeVar("_Class", bound=type)
_Node = TypeVar("_Node")
_Value = TypeVar("_Value")


@dataclass_transform(frozen_default=True)
def node(cls: _Class) -> _Class:
    """Make ``cls`` a frozen dataclass whose hash is computed once, however deep the tree."""
    made: Any = dataclass(frozen=True)(cls)
    made.__hash__ = remembered(made.__hash__)
    made.__getstate__ = _fields  # string hashes differ from process to process
    return made  # type: ignore[no-any-return]


def remembered(function: Callable[[_Node], _Value]) -> Callable[[_Node], _Value]:
    """``function`` of a node, computed once for each node and kept on it."""
    key = f"_{function.__module__}.{function.__qualname__}"

    @wraps(function)
    def known(node: _Node) -> _Value:
        kept: dict[str, Any] = node.__dict__
        if key not in kept:
            kept[key] = function(node)
        return kept[key]  # type: ignore[no-any-return]

    return known


def _fields(node: Any) -> dict[str, Any]:
    return {key: value for key, value in node.__dict__.items() if not key.startswith("_")}


@node
class Index:
    """An index variable and the axis it runs over."""

    name: str
    axis: str


@node
class Number:
    """An exact rational constant."""

    value: Fraction


@node
class Extent:
    """The size of an axis, used as a number."""

    axis: str


@node
class Read:
    """An element of a tensor, ``tensor[indices]``; a scalar when there are no indices."""

    tensor: str
    indices: tuple[Index, ...] = ()


@node
class Apply:
    """A pointwise function of its operands; nothing is summed inside it."""

    function: str
    operands: tuple[Expr, ...]


@node
class Product:
    """A product of factors, numbers first (see :func:`product`)."""

    factors: tuple[Expr, ...]


@node
class Sum:
    """A sum of terms; each sums its own indices that are not on the left."""

    terms: tuple[Expr, ...]


@node
class MatrixFunction:
    """One block of a function of a block matrix.

    ``grid`` is a square arrangement of operands (``None`` is a zero block), ``block`` the one wanted,
    counted from 0.  A plain ``expm(T[i,j])`` is a 1×1 grid.  Grids make the set closed under
    differentiation: the Fréchet derivative of f at X along E is block (0, 1) of f([[X, E], [0, X]]).
    The last two of ``indices`` are the matrix, any before them run over independent matrices.
    """

    function: str
    grid: tuple[tuple[Read | None, ...], ...]
    block: tuple[int, int]
    indices: tuple[Index, ...]


Expr = Number | Extent | Read | Apply | Product | Sum | MatrixFunction


@node
class Relation:
    """``lower <= upper`` (or ``<`` or ``==``), weighted ``decay ** (upper - lower)`` when there is a decay."""

    lower: Index
    upper: Index
    decay: Number | Read | None = None
    sign: Sign = "<="

    @property
    def equal(self) -> bool:
        """Whether it says that both are one index."""
        return self.sign == "=="

    @property
    def strict(self) -> bool:
        """Whether it excludes that both are one index."""
        return self.sign == "<"

    def __str__(self) -> str:
        return f"{self.lower.name} {self.sign} {self.upper.name}"


@node
class Statement:
    """``name[indices] = value where order``."""

    name: str
    indices: tuple[Index, ...]
    value: Expr
    order: tuple[Relation, ...] = ()

    @property
    def axes(self) -> tuple[str, ...]:
        """Axis of every index on the left, in order."""
        return tuple(index.axis for index in self.indices)


@node
class Param:
    """An argument: a tensor over named axes, or a scalar when there are none."""

    name: str
    axes: tuple[str, ...] = ()


@node
class Program:
    """An operator: parameters, outputs (names of statements) and statements in order of definition."""

    name: str
    params: tuple[Param, ...]
    outputs: tuple[Param, ...]
    statements: tuple[Statement, ...]

    @property
    def tensors(self) -> tuple[Param, ...]:
        """The parameters that have axes."""
        return tuple(param for param in self.params if param.axes)

    @property
    def scalars(self) -> tuple[Param, ...]:
        """The parameters without axes."""
        return tuple(param for param in self.params if not param.axes)

    @property
    def axes(self) -> tuple[str, ...]:
        """Every axis of the signature, in order of first appearance."""
        found: dict[str, None] = {}
        for param in self.params + self.outputs:
            found.update(dict.fromkeys(param.axes))
        return tuple(found)


ONES = "one"
"""Name of the tensor of ones, ``one[a:d]``: 1 for every index; it may be read over any axes."""

ONE = Number(Fraction(1))
MINUS_ONE = Number(Fraction(-1))
ZERO = Number(Fraction(0))


def number(value: int | float | Fraction) -> Number:
    """Exact constant of a Python number; a float stands for its shortest decimal, so that it prints as typed."""
    return Number(Fraction(repr(value)) if isinstance(value, float) else Fraction(value))


def product(*factors: Expr) -> Expr:
    """Canonical product: flattened, numbers folded to the front, a lone factor bare.

    >>> x = Read("x", (Index("i", "n"),))
    >>> product(number(2), product(x, number(3))) == Product((number(6), x))
    True
    """
    coefficient = Fraction(1)
    rest: list[Expr] = []
    stack = list(reversed(factors))
    while stack:
        factor = stack.pop()
        if isinstance(factor, Product):
            stack.extend(reversed(factor.factors))
        elif isinstance(factor, Number):
            coefficient *= factor.value
        else:
            rest.append(factor)
    if coefficient != 1 or not rest:
        rest.insert(0, Number(coefficient))
    return rest[0] if len(rest) == 1 else Product(tuple(rest))


def sum_of(*terms: Expr) -> Expr:
    """Canonical sum: flattened, a lone term bare, the empty sum zero."""
    flat: list[Expr] = []
    for term in terms:
        flat.extend(term.terms if isinstance(term, Sum) else (term,))
    flat = [term for term in flat if term != ZERO] or [ZERO]
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))


def reciprocal(value: Expr) -> Expr:
    """``1 / value``; exact for numbers, otherwise the pointwise ``recip`` (0 where ``value`` is 0)."""
    if isinstance(value, Number):
        return Number(1 / value.value)
    if isinstance(value, Product):
        return product(*(reciprocal(factor) for factor in value.factors))
    return Apply("recip", (value,))


def factors_of(expr: Expr) -> tuple[Expr, ...]:
    """The factors of a product, or the expression itself as its only factor."""
    return expr.factors if isinstance(expr, Product) else (expr,)


def terms_of(expr: Expr) -> tuple[Expr, ...]:
    """The terms of a sum, or the expression itself as its only term."""
    return expr.terms if isinstance(expr, Sum) else (expr,)


def children(expr: Expr) -> tuple[Expr, ...]:
    """The direct subexpressions."""
    if isinstance(expr, Apply):
        return expr.operands
    if isinstance(expr, Product):
        return expr.factors
    if isinstance(expr, Sum):
        return expr.terms
    if isinstance(expr, MatrixFunction):
        return tuple(cell for row in expr.grid for cell in row if cell is not None)
    return ()


def map_children(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """``expr`` with its operands, factors or terms changed, in canonical form; what has none as it is."""
    match expr:
        case Apply(function, operands):
            return Apply(function, tuple(map(change, operands)))
        case Product(factors):
            return product(*map(change, factors))
        case Sum(terms):
            return sum_of(*map(change, terms))
    return expr


def subexpressions(expr: Expr) -> Iterator[Expr]:
    """``expr`` and everything in it, outside in and left to right."""
    yield expr
    for child in children(expr):
        yield from subexpressions(child)


@remembered
def reads(expr: Expr) -> tuple[Read, ...]:
    """Every read in ``expr``, left to right."""
    if isinstance(expr, Read):
        return (expr,)
    return tuple(read for child in children(expr) for read in reads(child))


@remembered
def indices_of(expr: Expr) -> tuple[Index, ...]:
    """The distinct indices of ``expr`` in order of first appearance."""
    found: dict[Index, None] = {}
    for read in reads(expr):
        found.update(dict.fromkeys(read.indices))
    return tuple(found)


@remembered
def all_indices(statement: Statement) -> tuple[Index, ...]:
    """Every index of a statement: left, right and order."""
    found: dict[Index, None] = dict.fromkeys(statement.indices)
    found.update(dict.fromkeys(indices_of(statement.value)))
    for relation in statement.order:
        found.update(dict.fromkeys((relation.lower, relation.upper)))
    return tuple(found)


@remembered
def statement_reads(statement: Statement) -> tuple[Read, ...]:
    """Every read of a statement, the decays of its order included."""
    decays = [relation.decay for relation in statement.order if isinstance(relation.decay, Read)]
    return (*reads(statement.value), *decays)


def use_counts(program: Program) -> Counter[str]:
    """How often each tensor is read by statements, and once more where it is an output."""
    counts = Counter(read.tensor for statement in program.statements for read in statement_reads(statement))
    counts.update(output.name for output in program.outputs)
    return counts


def map_reads(expr: Expr, change: Callable[[Read], Read]) -> Expr:
    """``expr`` with every read replaced."""
    match expr:
        case Read():
            return change(expr)
        case Apply(function, operands):
            return Apply(function, tuple(map_reads(operand, change) for operand in operands))
        case Product(factors):
            return Product(tuple(map_reads(factor, change) for factor in factors))
        case Sum(terms):
            return Sum(tuple(map_reads(term, change) for term in terms))
        case MatrixFunction(grid=grid):
            cells = tuple(tuple(None if cell is None else change(cell) for cell in row) for row in grid)
            return replace(expr, grid=cells)
    return expr


def map_order(order: tuple[Relation, ...], change: Callable[[Read], Read]) -> tuple[Relation, ...]:
    """``order`` with every decay that is read replaced."""
    return tuple(
        replace(relation, decay=change(relation.decay)) if isinstance(relation.decay, Read) else relation
        for relation in order
    )


def map_statement(statement: Statement, change: Callable[[Read], Read]) -> Statement:
    """``statement`` with every read replaced, those in its decays included."""
    value, order = map_reads(statement.value, change), map_order(statement.order, change)
    return Statement(statement.name, statement.indices, value, order)
