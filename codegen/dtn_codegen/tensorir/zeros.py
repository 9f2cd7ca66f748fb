"""Where tensors are 0 past the end of an axis, and which steps must see to it.

Buffers are whole vectors long and chunks whole chunks, so sums run past the end of axes.  Arguments are 0 there; most
steps keep it so, as a product does.  A step whose value is not 0 where its operands are, ``exp`` for one, is masked.
"""

from __future__ import annotations

from dtn_core.errors import CompileError
from dtn_core.ir.functions import FUNCTIONS
from dtn_core.ir.nodes import ONES, Apply, Expr, Index, Product, Read, Sum

from .pairs import PairIndex, parts_of
from .steps import ACC, Step
from .walks import TileProgram

VANISHING = frozenset(
    {"conj", "real", "abs", "recip", "sqrt", "tanh", "silu", "relu", "gelu", "erf", "step"} & FUNCTIONS.keys()
)
"""Functions of one operand that are 0 at 0; a reciprocal is, by the rule for divisions."""


class Padding:
    """Which steps are masked.

    Parameters
    ----------
    program : TileProgram

    Raises
    ------
    CompileError
        For a sum over an axis along which nothing is 0 past the end.
    """

    def __init__(self, program: TileProgram) -> None:
        self.axis = program.axis
        self.open = {weight.rise for weight in program.weights} | {ONES}
        self.masked: set[tuple[Step, Index]] = set()
        for walk in program.walks:
            for step in walk.setup:
                self.visit(step, constant=True)
            for step in (*walk.body, *(walk.rows.tail if walk.rows is not None else ())):
                self.visit(step, constant=False)
        for step in program.tail:
            self.visit(step, constant=True)

    def must_mask(self, step: Step, index: Index) -> bool:
        """Whether ``step`` has to store 0 past the end of ``index``."""
        return (step, index) in self.masked

    def visit(self, step: Step, *, constant: bool) -> None:
        for contraction in step.contractions:
            for index in contraction.summed:
                if not any(self.ends(read, index) for read in contraction.factors):
                    raise CompileError(f"{step.name} sums along {index.axis} over what does not end there")
        for index in step.indices:
            if self.vanishes(step.finish, step, index):
                continue
            if isinstance(index, PairIndex):
                if not all(self.vanishes(step.finish, step, part) for part in index.parts):
                    raise CompileError(f"{step.name} is not 0 past the end of {index.axis}")
                continue
            if constant and index.axis == self.axis:
                self.open.add(step.name)  # made once for chunks of any length
            else:
                self.masked.add((step, index))

    def ends(self, read: Read, index: Index) -> bool:
        """Whether a tensor is 0 past the end of ``index``."""
        return index in parts_of(read.indices) and not (read.tensor in self.open and index.axis == self.axis)

    def vanishes(self, expr: Expr, step: Step, index: Index) -> bool:
        """Whether ``expr`` is 0 past the end of ``index``."""
        if expr == ACC:
            return all(any(self.ends(f, index) for f in c.factors) for c in step.contractions) or any(
                self.vanishes(group.factor, step, index) for group in step.groups[-1:]
            )
        match expr:
            case Read():
                return self.ends(expr, index) and expr.tensor != ONES
            case Apply("select", operands):
                return any(self.vanishes(operand, step, index) for operand in operands)
            case Apply(function, (operand,)):
                return function in VANISHING and self.vanishes(operand, step, index)
            case Product(factors):
                return any(self.vanishes(factor, step, index) for factor in factors)
            case Sum(terms):
                return all(self.vanishes(term, step, index) for term in terms)
        return False
