"""differentiate: reverse mode as a table of rules; the gradient of a program is a program.

The cotangent of a complex tensor x is ``∂L/∂Re x + i ∂L/∂Im x`` (PyTorch's and TensorFlow's convention;
JAX's is its conjugate), so a factor's rule multiplies with the conjugates of the others.

==========================  ==========================================================
statement                   rule, ȳ the cotangent of its left side
==========================  ==========================================================
product (contraction)       each factor: ȳ times the conjugates of the other factors
sum                         each term by itself
``f(x)``                    ``ȳ · conj(f'(x))``, f' from ``ir.functions``
``conj(x)``, ``real(x)``    ``conj(ȳ)``, ``real(ȳ)``
``abs(x)``                  ``real(ȳ) · x / |x|``
``select(m, x)``            ``select(m, ȳ)``
``f(X)`` of a matrix        blocks of ``f([[Xᴴ, Ȳ], [0, Xᴴ]])`` (Fréchet derivative)
``decay g``                 ``(Σ over one more token between − itself) / g``
==========================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..errors import CompileError
from ..ir.build import fresh_index, fresh_name
from ..ir.functions import FUNCTIONS
from ..ir.nodes import (
    ONES,
    ZERO,
    Apply,
    Expr,
    Extent,
    Index,
    MatrixFunction,
    Number,
    Param,
    Product,
    Program,
    Read,
    Relation,
    Statement,
    Sum,
    all_indices,
    children,
    factors_of,
    indices_of,
    map_children,
    product,
    reads,
    reciprocal,
    sum_of,
    terms_of,
)
from ..ir.order import restrict
from ..ir.verify import verify


def differentiate(program: Program, wrt: Iterable[str] | None = None) -> Program:
    """The vector-Jacobian product of ``program``.

    Parameters
    ----------
    program : Program
        Any program (best one that is flat).
    wrt : iterable of str, optional
        Parameters to differentiate by; default all but masks.

    Returns
    -------
    Program
        Its parameters are those of ``program`` and then one cotangent per output ``o``, called ``d_o`` if that is
        free; its outputs are ``d_x``, if free, for each x of ``wrt``, of the shape of x.

    Raises
    ------
    CompileError
        If ``wrt`` names no parameter, or a function has no derivative where it stands.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> from dtn_core.printer import to_notation
    >>> from dtn_core.passes.flatten import flatten
    >>> program = parse("dot(x[n], y[n]) -> s: s = x[i] * y[i]")
    >>> print(to_notation(flatten(differentiate(program, ["x"]))))
    dot_vjp(x[n], y[n], d_s) -> d_x[n]:
        d_x[i0] = d_s * conj(y[i0])
    """
    return _Reverse(program, wrt).run()


class _Reverse:
    def __init__(self, program: Program, wrt: Iterable[str] | None) -> None:
        self.program = program
        tested = masks(program)
        self.wrt = tuple(wrt) if wrt is not None else tuple(p.name for p in program.params if p.name not in tested)
        unknown = [name for name in self.wrt if name not in {p.name for p in program.params}]
        if unknown:
            raise CompileError(f"{program.name} has no parameter {unknown[0]!r} to differentiate by")
        self.statements: list[Statement] = list(program.statements)
        self.taken = {p.name for p in program.params} | {s.name for s in program.statements} | set(program.axes)
        self.indices = {index.name for statement in program.statements for index in all_indices(statement)}
        self.cotangents: dict[str, list[tuple[tuple[Index, ...], Expr]]] = {}

    def run(self) -> Program:
        params = list(self.program.params)
        shapes = {p.name: p.axes for p in self.program.params}
        for output in self.program.outputs:
            name = fresh_name(f"d_{output.name}", self.taken)
            params.append(Param(name, output.axes))
            indices = next(s.indices for s in self.program.statements if s.name == output.name)
            self.cotangents.setdefault(output.name, []).append((indices, Read(name, indices)))
        for statement in reversed(self.program.statements):
            if statement.name in self.cotangents:
                self.reverse(statement, self.gather(statement.name, statement.indices, f"d_{statement.name}"))
        outputs = []
        for name in self.wrt:
            indices = tuple(Index(f"i{place}", axis) for place, axis in enumerate(shapes[name]))
            target = fresh_name(f"d_{name}", self.taken)
            value = self.total(name, indices)
            if not shapes[name]:  # scalars are real
                value = self.define("scalar", (), value)
                value = Apply("real", (value,))
            self.statements.append(Statement(target, indices, value))
            outputs.append(Param(target, shapes[name]))
        made = Program(f"{self.program.name}_vjp", tuple(params), tuple(outputs), tuple(self.statements))
        return verify(made)

    # ------------------------------------------------------------- plumbing

    def define(self, hint: str, indices: tuple[Index, ...], value: Expr, order: tuple[Relation, ...] = ()) -> Read:
        if isinstance(value, Read) and value.indices == indices and not order:
            return value
        name = fresh_name(hint, self.taken)
        self.statements.append(Statement(name, indices, value, order))
        return Read(name, indices)

    def gather(self, name: str, indices: tuple[Index, ...], hint: str) -> Read:
        """The cotangent of ``name`` over ``indices``, all contributions added."""
        value = self.total(name, indices)
        return value if isinstance(value, Read) else self.define(hint, indices, value)

    def total(self, name: str, indices: tuple[Index, ...]) -> Expr:
        parts: list[Expr] = []
        for own, value in self.cotangents.get(name, []):
            read = value if isinstance(value, Read) else self.define(f"d_{name}_part", own, value)
            names = dict(zip(own, indices, strict=True))
            parts.append(Read(read.tensor, tuple(names[index] for index in read.indices)))
        return sum_of(*parts) if parts else product(ZERO, _one(indices)) if indices else ZERO

    def add(self, read: Read, value: Expr, order: tuple[Relation, ...], present: Iterable[Index]) -> None:
        """Contribute ``value`` to the cotangent of what ``read`` reads."""
        taken = set(self.indices)
        left: list[Index] = []
        extra: list[Relation] = []
        for index in read.indices:
            if index in left:  # a diagonal: the cotangent lives on the diagonal only
                twin = fresh_index(f"{index.name}_{len(left)}", index.axis, taken)
                extra.append(Relation(index, twin, sign="=="))
                left.append(twin)
            else:
                left.append(index)
        known = {*present, *(i for r in order for i in (r.lower, r.upper))}
        missing = tuple(index for index in left if index not in known)
        if missing:
            value = product(value, _one(tuple(dict.fromkeys(missing))))
        made = self.define(f"d_{read.tensor}_part", tuple(left), value, (*order, *extra))
        self.cotangents.setdefault(read.tensor, []).append((made.indices, made))

    # ---------------------------------------------------------------- rules

    def reverse(self, statement: Statement, bar: Read) -> None:
        value = statement.value
        if isinstance(value, MatrixFunction):
            self.matrix_function(value, bar)
            return
        for term in terms_of(value):
            factors = factors_of(term)
            for place, factor in enumerate(factors):
                others = factors[:place] + factors[place + 1 :]
                if isinstance(factor, Number | Extent) or not reads(factor):
                    continue
                rest = product(bar, *(self.conjugate(other) for other in others))
                carried = {*indices_of(term), *statement.indices}
                order = restrict(statement.order, carried)
                self.factor(factor, rest, order)
            for place, relation in enumerate(restrict(statement.order, {*indices_of(term), *statement.indices})):
                if isinstance(relation.decay, Read):
                    self.decay(statement, term, bar, place)

    def factor(self, factor: Expr, rest: Expr, order: tuple[Relation, ...]) -> None:
        """Push the cotangent ``rest`` of one factor to the tensors it reads."""
        own = tuple(dict.fromkeys(indices_of(factor)))
        present = {*indices_of(rest), *(i for r in order for i in (r.lower, r.upper))}
        if isinstance(factor, Read):
            self.add(factor, rest, order, present)
            return
        if not isinstance(factor, Apply):
            raise CompileError(f"no derivative of {type(factor).__name__} inside a product")
        missing = tuple(index for index in own if index not in present)
        bar = self.define("d_factor", own, product(rest, _one(missing)) if missing else rest, order)
        self.pointwise(factor, bar)

    def pointwise(self, value: Apply, bar: Read) -> None:
        operand = value.operands[-1]
        if not reads(operand):
            return
        match value.function:
            case "conj":
                result: Expr = Apply("conj", (bar,))
            case "real":
                result = Apply("real", (bar,))
            case "select":
                result = Apply("select", (value.operands[0], bar))
            case "abs":
                result = product(Apply("real", (bar,)), operand, reciprocal(Apply("abs", (operand,))))
            case name:
                derivative = FUNCTIONS[name].derivative
                assert derivative is not None
                slope = self.separated(derivative(operand))
                terms = [product(bar, self.conjugate(term)) for term in terms_of(slope)]
                result = sum_of(*terms)
        self.operand(operand, result, bar)

    def separated(self, expr: Expr) -> Expr:
        """``expr`` with sums and products inside functions made statements of their own."""
        made = map_children(expr, self.separated)
        if not isinstance(made, Apply):
            return made
        operands = [
            self.define("slope_arg", indices_of(operand), operand) if isinstance(operand, Sum | Product) else operand
            for operand in made.operands
        ]
        return Apply(made.function, tuple(operands))

    def operand(self, operand: Expr, result: Expr, bar: Read) -> None:
        """Pass ``result``, the cotangent of a function's operand, on."""
        if isinstance(operand, Read):
            summed = self.define("d_arg", bar.indices, result)
            self.add(operand, summed, (), bar.indices)
            return
        made = self.define("d_arg", bar.indices, result)
        factors = factors_of(operand) if isinstance(operand, Product) else (operand,)
        for place, factor in enumerate(factors):
            if reads(factor):
                others = factors[:place] + factors[place + 1 :]
                self.factor(factor, product(made, *(self.conjugate(other) for other in others)), ())

    def conjugate(self, expr: Expr) -> Expr:
        """Conj of an expression, pushed down to reads."""
        match expr:
            case Number() | Extent():
                return expr
            case Apply("conj", (inner,)):
                return inner
            case Apply("real" | "abs" | "step", _):
                return expr
            case Product(factors):
                return product(*(self.conjugate(factor) for factor in factors))
            case Apply("recip", (Extent(),)):
                return expr
            case Read():
                return Apply("conj", (expr,))
        own = tuple(dict.fromkeys(indices_of(expr)))
        return Apply("conj", (self.define("slope", own, expr),))

    def matrix_function(self, value: MatrixFunction, bar: Read) -> None:
        size = len(value.grid)
        row, column = value.indices[-2:]
        turned = {row: column, column: row}
        adjoint: list[list[Read | None]] = [[None] * size for _ in range(size)]
        for r, cells in enumerate(value.grid):
            for c, cell in enumerate(cells):
                if cell is not None:
                    transposed = Read(cell.tensor, tuple(turned.get(index, index) for index in cell.indices))
                    adjoint[c][r] = self.define(f"{cell.tensor}_h", value.indices, Apply("conj", (transposed,)))
        seed: list[list[Read | None]] = [[None] * size for _ in range(size)]
        seed[value.block[0]][value.block[1]] = self.define("seed", value.indices, bar)
        zero: list[Read | None] = [None] * size
        grid = tuple((*adjoint[r], *seed[r]) for r in range(size))
        grid += tuple((*zero, *adjoint[r]) for r in range(size))
        for r, cells in enumerate(value.grid):
            for c, cell in enumerate(cells):
                if cell is not None:
                    frechet = replace(value, grid=grid, block=(r, size + c))
                    made = self.define(f"d_{cell.tensor}_part", value.indices, frechet)
                    self.cotangents.setdefault(cell.tensor, []).append((cell.indices, made))

    def decay(self, statement: Statement, term: Expr, bar: Read, place: int) -> None:
        """``d g^k = k g^k / g``, with k the number of tokens s between: ``i < s <= t``."""
        order = restrict(statement.order, {*indices_of(term), *statement.indices})
        relation = order[place]
        assert isinstance(relation.decay, Read)
        between = fresh_index(f"{relation.upper.name}_between", relation.upper.axis, set(self.indices))
        split = (
            Relation(relation.lower, between, relation.decay, "<"),
            Relation(between, relation.upper, relation.decay),
        )
        whole = product(bar, *(self.conjugate(factor) for factor in factors_of(term)))
        counted = product(whole, _one((between,)))
        powers = self.define("d_powers", (), counted, (*order[:place], *split, *order[place + 1 :]))
        made = self.define(f"d_{relation.decay.tensor}_part", (), product(powers, reciprocal(relation.decay)))
        self.cotangents.setdefault(relation.decay.tensor, []).append(((), made))


def _one(indices: tuple[Index, ...]) -> Read:
    """The tensor of ones over ``indices``."""
    return Read(ONES, indices)


def masks(program: Program) -> set[str]:
    """The tensors that ``select`` tests and nothing else reads; nothing is differentiated by them."""
    tested: set[str] = set()
    other: set[str] = set()

    def walk(expr: Expr) -> None:
        if isinstance(expr, Apply) and expr.function == "select" and isinstance(expr.operands[0], Read):
            tested.add(expr.operands[0].tensor)
            walk(expr.operands[1])
            return
        if isinstance(expr, Read):
            other.add(expr.tensor)
        for child in children(expr):
            walk(child)

    for statement in program.statements:
        walk(statement.value)
    return tested - other
