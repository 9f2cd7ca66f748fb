"""Build an operator in Python instead of notation; the result is the same IR."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from .ir.functions import FUNCTIONS, MATRIX_FUNCTIONS
from .ir.nodes import (
    MINUS_ONE,
    SIGNS,
    ZERO,
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
    Sign,
    Statement,
    Sum,
    factors_of,
    indices_of,
    number,
    product,
    reads,
    reciprocal,
    sum_of,
    terms_of,
)
from .ir.verify import verify


class Expression:
    """An index expression under construction; ``+ - * /`` combine expressions and numbers."""

    def __init__(self, expr: Expr) -> None:
        self.expr = expr

    @staticmethod
    def of(value: Expression | int | float | Fraction) -> Expression:
        """``value`` itself, or a number as an expression."""
        return value if isinstance(value, Expression) else Expression(number(value))

    def __add__(self, other: Expression | int | float | Fraction) -> Expression:
        return Expression(sum_of(self.expr, Expression.of(other).expr))

    def __mul__(self, other: Expression | int | float | Fraction) -> Expression:
        right = Expression.of(other).expr
        return Expression(sum_of(*(product(a, b) for a in terms_of(self.expr) for b in terms_of(right))))

    def __neg__(self) -> Expression:
        return Expression(MINUS_ONE) * self

    def __sub__(self, other: Expression | int | float | Fraction) -> Expression:
        return self + -Expression.of(other)

    def __truediv__(self, other: Expression | int | float | Fraction) -> Expression:
        below = Expression.of(other).expr
        if isinstance(below, Sum):
            raise ValueError("a sum in a denominator is written as a statement of its own")
        if any(factor == ZERO for factor in factors_of(below)):
            raise ValueError("division by the number 0")
        return self * Expression(reciprocal(below))

    def __rtruediv__(self, other: int | float | Fraction) -> Expression:
        return Expression.of(other) / self

    __radd__ = __add__
    __rmul__ = __mul__


class Tensor:
    """A declared or assigned tensor; call it with index names to read it."""

    def __init__(self, name: str, axes: tuple[str, ...]) -> None:
        self.name = name
        self.axes = axes

    def __call__(self, *indices: str) -> Expression:
        if len(indices) != len(self.axes):
            raise ValueError(f"{self.name} has {len(self.axes)} axes {self.axes}, got indices {indices}")
        return Expression(Read(self.name, tuple(map(Index, indices, self.axes))))


class OperatorBuilder:
    """Collects parameters and statements.

    Examples
    --------
    >>> from dtn_core.printer import to_notation
    >>> b = OperatorBuilder("scores")
    >>> q, k = b.tensor("q", "n", "d"), b.tensor("k", "m", "d")
    >>> s = b.assign("s", ("i", "j"), q("i", "a") * k("j", "a"))
    >>> print(to_notation(b.program("s")))
    scores(q[n,d], k[m,d]) -> s[n,m]:
        s[i,j] = q[i,a] * k[j,a]
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.params: list[Param] = []
        self.statements: list[Statement] = []

    def tensor(self, name: str, *axes: str) -> Tensor:
        """Declare a tensor parameter."""
        self.params.append(Param(name, axes))
        return Tensor(name, axes)

    def scalar(self, name: str) -> Expression:
        """Declare a scalar parameter."""
        self.params.append(Param(name))
        return Expression(Read(name))

    @staticmethod
    def extent(axis: str) -> Expression:
        """The size of an axis."""
        return Expression(Extent(axis))

    @staticmethod
    def apply(function: str, *operands: Expression) -> Expression:
        """A pointwise function, or ``expm`` of a matrix."""
        if function in MATRIX_FUNCTIONS:
            read = operands[0].expr
            if not isinstance(read, Read):
                raise ValueError(f"{function} takes an indexed tensor; assign the expression first")
            return Expression(MatrixFunction(function, ((read,),), (0, 0), read.indices))
        if function not in FUNCTIONS:
            raise ValueError(f"unknown function {function!r}; known: {', '.join(FUNCTIONS)}")
        for operand in operands:
            if isinstance(operand.expr, Sum) or sum(bool(read.indices) for read in reads(operand.expr)) > 1:
                raise ValueError(
                    f"{function} takes one indexed tensor; write the sum or product as a statement of its own"
                )
        return Expression(Apply(function, tuple(operand.expr for operand in operands)))

    def assign(
        self,
        name: str,
        indices: Sequence[str],
        value: Expression,
        order: Sequence[tuple[str, str] | tuple[str, Sign, str]] = (),
        decay: Expression | float | None = None,
    ) -> Tensor:
        """Append ``name[indices] = value where lower <= upper, …``.

        ``order`` lists (lower, upper) pairs, or (lower, sign, upper) with the sign ``"<="``, ``"<"`` or ``"=="``.

        Raises
        ------
        ValueError
            If an index of ``indices`` or ``order`` is not in ``value``, or a sign is none.
        """
        ranges = {index.name: index for index in indices_of(value.expr)}
        signed = [(pair[0], pair[1] if len(pair) == 3 else "<=", pair[-1]) for pair in order]
        for lower, sign, upper in signed:
            if sign not in SIGNS:
                raise ValueError(f"{name}: the sign of an order is one of {', '.join(SIGNS)}, got {sign!r}")
            known = ranges.get(lower) or ranges.get(upper)
            if known is None:
                raise ValueError(f"{name}: neither {lower} nor {upper} is an index of the value")
            for index in (lower, upper):
                ranges.setdefault(index, Index(index, known.axis))
        missing = [index for index in indices if index not in ranges]
        if missing:
            raise ValueError(f"{name}: output index {missing[0]} appears nowhere on the right")
        weight = None if decay is None else Expression.of(decay).expr
        if not isinstance(weight, Number | Read | None):
            raise ValueError(f"{name}: decay is a number or a scalar, got {weight}; assign it to a scalar first")
        relations = tuple(
            Relation(ranges[lower], ranges[upper], None if sign == "==" else weight, sign)
            for lower, sign, upper in signed
        )
        left = tuple(ranges[index] for index in indices)
        self.statements.append(Statement(name, left, value.expr, relations))
        return Tensor(name, tuple(index.axis for index in left))

    def program(self, *outputs: str) -> Program:
        """The verified program with the named outputs.

        Raises
        ------
        VerificationError
            If the program breaks a rule of the IR.
        """
        axes = {statement.name: statement.axes for statement in self.statements}
        found = tuple(Param(name, axes.get(name, ())) for name in outputs)
        return verify(Program(self.name, tuple(self.params), found, tuple(self.statements)))
