"""Padding: tokens where ``padding_mask`` is False count for nothing and give output 0."""

from __future__ import annotations

from dataclasses import replace

from ..errors import CompileError
from ..ir.axes import sequence_axes
from ..ir.build import fresh_name
from ..ir.nodes import (
    MINUS_ONE,
    ONES,
    Apply,
    Expr,
    Extent,
    Index,
    MatrixFunction,
    Param,
    Product,
    Program,
    Read,
    Statement,
    factors_of,
    indices_of,
    map_children,
    map_statement,
    product,
    sum_of,
    terms_of,
)
from ..ir.verify import verify

MASK = "padding_mask"

_KEEPS_ZERO = {"conj", "real", "abs", "select", "relu", "gelu", "silu", "tanh", "erf", "step"}
_ENDLESS_AT_ZERO = {"log", "sqrt"}
"""Functions that have no finite value or slope at 0: at padded tokens they are taken at 1 instead."""


def pad(program: Program) -> Program:
    """``program`` with a parameter ``padding_mask[n]``: as if the padded tokens were not there.

    Arguments are 0 at padded tokens and so are outputs.  A sum over tokens whose terms do not vanish there
    by themselves (``exp`` of a score does not) counts the real ones only, and the axis size is their
    number.  A decay still counts places, padded ones included.

    Raises
    ------
    CompileError
        If the operator has no sequence axis, or several, or a matrix function along it.
    """
    return _Padding(program).run()


class _Padding:
    def __init__(self, program: Program) -> None:
        long = sequence_axes(program)
        if len(long) != 1:
            raise CompileError(f"{program.name}: padding_mask needs one sequence axis, found {len(long)}")
        self.program = program
        self.axis = long[0]
        self.taken = {p.name for p in program.params} | {s.name for s in program.statements} | set(program.axes)
        self.taken.add(MASK)
        self.vanishing: dict[str, set[int]] = {}  # places of a tensor's indices at which padding gives 0
        self.first: list[Statement] = []
        self.counted = ""
        self.ones = ""

    def run(self) -> Program:
        """The padded program."""
        names: dict[str, str] = {}
        for param in self.program.tensors:
            if self.axis in param.axes:
                names[param.name] = fresh_name(f"{param.name}_kept", self.taken)
                self.first.append(self.selected(names[param.name], param.name, param.axes))
                self.vanishing[names[param.name]] = {i for i, a in enumerate(param.axes) if a == self.axis}
        outputs = {o.name: fresh_name(f"{o.name}_all", self.taken) for o in self.program.outputs if self.axis in o.axes}
        names.update(outputs)
        body: list[Statement] = []
        for statement in self.program.statements:
            renamed = map_statement(
                replace(statement, name=names.get(statement.name, statement.name)),
                lambda read: Read(names.get(read.tensor, read.tensor), read.indices),
            )
            finite = replace(renamed, value=self.finite(renamed.value, body))
            body.append(self.counting(finite))
        last = [self.selected(o.name, outputs[o.name], o.axes) for o in self.program.outputs if o.name in outputs]
        params = (*self.program.params, Param(MASK, (self.axis,)))
        return verify(replace(self.program, params=params, statements=(*self.first, *body, *last)))

    def selected(self, name: str, source: str, axes: tuple[str, ...]) -> Statement:
        indices = tuple(Index(f"i{place}", axis) for place, axis in enumerate(axes))
        value: Expr = Read(source, indices)
        for index in indices:
            if index.axis == self.axis:
                value = Apply("select", (Read(MASK, (index,)), value))
        return Statement(name, indices, value)

    def finite(self, expr: Expr, body: list[Statement]) -> Expr:
        """``expr`` with the operands of logarithms and roots 1 at padded tokens, where nothing times 0 is NaN then."""
        inner = map_children(expr, lambda part: self.finite(part, body))
        if not isinstance(inner, Apply) or inner.function not in _ENDLESS_AT_ZERO:
            return inner
        own = indices_of(expr)
        tokens = [index for index in own if index.axis == self.axis]
        if not tokens:
            return inner
        (kept,) = inner.operands
        for index in tokens:
            kept = Apply("select", (Read(MASK, (index,)), kept))
        real = product(MINUS_ONE, *(Read(self.real_tokens(), (index,)) for index in tokens))
        made = Statement(fresh_name("finite", self.taken), own, sum_of(kept, Read(ONES, tuple(tokens)), real))
        body.append(made)
        self.vanishing[made.name] = set()
        return Apply(inner.function, (Read(made.name, own),))

    def counting(self, statement: Statement) -> Statement:
        """The statement with its sums over tokens restricted to real ones."""
        value = statement.value
        if isinstance(value, MatrixFunction):
            if self.axis in statement.axes:
                # e^0 is the identity at padded tokens, which no output and no masked sum reads
                self.vanishing[statement.name] = set()
            return statement
        terms = []
        zero_everywhere: set[int] | None = None
        for term in terms_of(value):
            factors = [self.sized(factor) for factor in factors_of(term)]
            zeros = {index for factor in factors for index in self.zeros(factor)}
            free = set(indices_of(term)) - set(statement.indices)
            summed = [index for index in free if index.axis == self.axis and index not in zeros]
            factors += [Read(self.real_tokens(), (index,)) for index in sorted(summed, key=lambda i: i.name)]
            terms.append(product(*factors))
            places = {place for place, index in enumerate(statement.indices) if index in zeros}
            zero_everywhere = places if zero_everywhere is None else zero_everywhere & places
        self.vanishing[statement.name] = zero_everywhere or set()
        return replace(statement, value=sum_of(*terms))

    def zeros(self, factor: Expr) -> set[Index]:
        """The token indices at whose padded values ``factor`` is 0."""
        if isinstance(factor, Read):
            return {factor.indices[place] for place in self.vanishing.get(factor.tensor, ())}
        if isinstance(factor, Apply) and factor.function in _KEEPS_ZERO:
            return self.zeros(factor.operands[-1])
        if isinstance(factor, Product):
            return {index for inner in factor.factors for index in self.zeros(inner)}
        return set()

    def sized(self, expr: Expr) -> Expr:
        """``expr`` with the size of the token axis replaced by the number of real tokens."""
        if expr == Extent(self.axis):
            return Read(self.number_of_tokens())
        if isinstance(expr, Apply):
            return Apply(expr.function, tuple(self.sized(operand) for operand in expr.operands))
        if isinstance(expr, Product):
            return product(*map(self.sized, expr.factors))
        return expr

    def real_tokens(self) -> str:
        """Name of the vector that is 1 at real tokens and 0 at padded ones."""
        if not self.ones:
            self.ones = fresh_name("real_token", self.taken)
            index = Index("i0", self.axis)
            value = Apply("select", (Read(MASK, (index,)), Read(ONES, (index,))))
            self.first.append(Statement(self.ones, (index,), value))
            self.vanishing[self.ones] = {0}
        return self.ones

    def number_of_tokens(self) -> str:
        """Name of the number of real tokens."""
        if not self.counted:
            source = self.real_tokens()
            self.counted = fresh_name("real_tokens", self.taken)
            self.first.append(Statement(self.counted, (), Read(source, (Index("i0", self.axis),))))
        return self.counted
