"""Statements of a lowered program as Python expressions: terms, factors, and axes that fit each other."""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property

from dtn_core.cost import Polynomial, live_elements
from dtn_core.errors import CompileError
from dtn_core.ir.axes import sequence_axes
from dtn_core.ir.nodes import (
    ONES,
    Apply,
    Expr,
    Extent,
    Index,
    MatrixFunction,
    Number,
    Product,
    Program,
    Read,
    Relation,
    Statement,
    Sum,
    factors_of,
    reads,
    terms_of,
)
from dtn_core.passes.accumulate import added_product, is_matrix_product, is_product_of_each

from .maps import merged
from .matrix_functions import matrix_function
from .names import python_name
from .products import einsum, inner, matmul, matvec
from .target import Target, fill
from .triangles import masked, masks


class Expressions:
    """Writes statements of ``program`` as expressions of ``target``.

    While it does, it notes what the function around them must provide: ``used`` prelude functions,
    ``sizes`` of axes, and ``lifted`` scalar arguments that must be arrays.

    Parameters
    ----------
    target : Target
    program : Program
    complex_input : bool
    long : sequence of str, optional
        The axes that may be as long as a sequence; by default those that look like it in ``program``.
    batched : bool
        Whether matrices are in batches with a single leading axis, if that can be.
    """

    def __init__(
        self,
        target: Target,
        program: Program,
        *,
        complex_input: bool,
        long: Sequence[str] | None = None,
        batched: bool = False,
    ) -> None:
        self.target = target
        self.program = program
        self.complex = complex_input
        self.batched = batched
        self.long = sequence_axes(program) if long is None else long
        self.current = ""  # the statement being written
        self.used: dict[str, None] = {}
        self.sizes: dict[str, None] = {}
        self.lifted: dict[str, None] = {}
        self.tiles: dict[str, tuple[str, ast.expr]] | None = None  # triangles of powers, when they are named once
        self.spent: set[str] = set()  # matrix products that nothing reads again: may be overwritten
        self.arrays = {p.name for p in program.tensors} | {s.name for s in program.statements}
        self.loose = {self.name(p.name) for p in program.scalars}  # rank-0 values that may be Python numbers
        for statement in program.statements:
            if not statement.indices and not statement.order and self.is_loose(statement.value):
                self.loose.add(self.name(statement.name))

    def name(self, name: str) -> str:
        """The Python name of a tensor, an axis or a scalar."""
        return python_name(name)

    def is_loose(self, value: Expr) -> bool:
        """Whether a value is made of numbers, sizes and scalars alone: then it may be a Python number."""
        match value:
            case Number() | Extent():
                return True
            case Apply():
                return _is_inverse_size(value)
            case Read(name):
                return self.name(name) in self.loose
            case Product(parts) | Sum(parts):
                return all(self.is_loose(part) for part in parts)
        return False

    def extent(self, axis: str) -> ast.expr:
        self.sizes[axis] = None
        return ast.Name(self.name(axis), ast.Load())

    @cached_property
    def held(self) -> dict[str, Polynomial]:
        """The elements that are held while each statement runs."""
        names = [statement.name for statement in self.program.statements]
        return dict(zip(names, live_elements(self.program), strict=True))

    # ------------------------------------------------------------ statements

    def use(self, template: str) -> str:
        """``template``, noting the prelude functions that it refers to, and those that they do."""
        for name in dict.fromkeys(re.findall(r"\w+", template)):
            if name in self.target.prelude and name not in self.used:
                self.used[name] = None  # it may refer to itself
                self.use(self.target.prelude[name].partition("(")[2])
                self.used[name] = self.used.pop(name)  # after those that it refers to
        return template

    def over(self, x: ast.expr, in_place: str, plain: str) -> str:
        """The template that writes over ``x`` if there is one and nothing reads ``x`` again, else the ``plain`` one."""
        spent = isinstance(x, ast.Name) and x.id in self.spent
        return self.use((spent and in_place) or plain)

    def spend(self, statements: Mapping[str, Statement], freed: Iterable[str], once: Container[str]) -> None:
        """Note which of the tensors ``freed`` by the next statement it may write over.

        Those are matrix products, whose own gradient does not read them, that are read ``once``: the gradient of what
        read them before might (a square keeps what it squared).
        """
        known = (statements[name] for name in freed if name in statements and name in once)
        self.spent = {self.name(s.name) for s in known if is_matrix_product(s) or added_product(s) is not None}

    def statement(self, statement: Statement) -> ast.expr:
        """The value of a statement."""
        value = statement.value
        self.current = statement.name
        if isinstance(value, MatrixFunction):
            return self.permuted(matrix_function(self, value), value.indices, statement.indices)
        total = self.accumulated(statement)
        if total is not None:
            return total
        tensor = False  # whether what was added so far is one, and no number
        for term in terms_of(value):
            pair = self.pair(term, statement) if tensor else None
            if total is not None and pair is not None:
                total = fill(self.target.plus_each, _x=total, _a=pair[0], _b=pair[1])
                continue
            shown, negative = self.term(term, statement)
            if total is None:
                total = ast.UnaryOp(ast.USub(), shown) if negative else shown
            else:
                total = ast.BinOp(total, ast.Sub() if negative else ast.Add(), shown)
            tensor = tensor or any(read.indices for read in reads(term))
        assert total is not None
        return total

    def pair(self, term: Expr, statement: Statement) -> tuple[ast.expr, ast.expr] | None:
        """Two tensors whose product a term is, element by element, if it is that and can be added in one operation."""
        if not self.target.plus_each or not is_product_of_each(replace(statement, value=term)):
            return None
        a, b = (self.aligned(*self.value(factor), statement.indices) for factor in factors_of(term))
        return a, b

    def accumulated(self, statement: Statement) -> ast.expr | None:
        """A tensor plus a matrix product as one operation, if it is that and there is one."""
        found = added_product(statement) if self.target.plus else None
        if found is None:
            return None
        before, product = found
        left, right = map(self.value, product.factors)
        return matmul(self, left, right, statement.indices, before)

    def term(self, term: Expr, statement: Statement) -> tuple[ast.expr, bool]:
        """A term's expression and whether it is to be subtracted."""
        coefficient = Fraction(1)
        scale: list[Expr] = []
        tensors: list[Expr] = []
        for factor in factors_of(term):
            if isinstance(factor, Number):
                coefficient *= factor.value
            elif isinstance(factor, Extent) or _is_inverse_size(factor):
                scale.append(factor)
            else:
                tensors.append(factor)
        out = statement.indices
        value = self.tensor_product(tensors, out, statement.order) if tensors else None
        first = scale[0] if scale else None
        if value is None and isinstance(first, Extent) and abs(coefficient) == 1:
            value = fill(self.target.extent, _n=self.extent(first.axis))  # n, not 1 * n
            del scale[0]
        negative = coefficient < 0
        if abs(coefficient) != 1 or value is None:
            number = constant(abs(coefficient))
            value = number if value is None else ast.BinOp(number, ast.Mult(), value)
        for factor in scale:
            if isinstance(factor, Extent):
                value = ast.BinOp(value, ast.Mult(), fill(self.target.extent, _n=self.extent(factor.axis)))
            else:
                axis = factor.operands[0].axis  # type: ignore[union-attr]
                value = fill(self.target.per_extent, _a=value, _n=self.extent(axis))
        return value, negative

    def tensor_product(self, tensors: Sequence[Expr], out: tuple[Index, ...], order: tuple[Relation, ...]) -> ast.expr:
        """A product of tensors, summed over what is not in ``out``, where the order holds."""
        if len(tensors) == 1:
            only = tensors[0]
            if isinstance(only, Read) and only.tensor == ONES and len(order) == 1 and len(only.indices) == 2:
                return self.permuted(masks(self, order, only.indices), only.indices, out)
            value, own = self.value(only)
            if order:
                return self.permuted(masked(self, value, own, order), own, out)
            return self.unary(value, own, out)
        if order:
            raise CompileError(f"an order on a product of {len(tensors)} tensors is not lowered")
        operands = [self.value(tensor) for tensor in tensors]
        divisor = tensors[-1]
        if isinstance(divisor, Apply) and divisor.function == "recip" and not self.complex and len(tensors) == 2:
            return self.quotient(operands[0], divisor.operands[0], out)
        summed = {index for _, own in operands for index in own} - set(out)
        repeated = any(len(set(own)) < len(own) for _, own in operands)
        if not summed and not repeated:
            ordered = sorted(operands, key=lambda pair: len(pair[1]))
            product: ast.expr | None = None
            for value, own in ordered:
                aligned = self.aligned(value, own, out)
                product = aligned if product is None else ast.BinOp(product, ast.Mult(), aligned)
            assert product is not None
            return product
        if len(operands) == 2:
            for special in (matmul, matvec, merged, inner):
                found = special(self, operands[0], operands[1], out)
                if found is not None:
                    return found
        return einsum(self, operands, out)

    def quotient(self, left: tuple[ast.expr, tuple[Index, ...]], divisor: Expr, out: tuple[Index, ...]) -> ast.expr:
        """One tensor divided by another, 0 where the divisor is 0."""
        below, own = self.value(divisor)
        if isinstance(divisor, Read) and not own:
            below = self.scalar_array(divisor)
        below = self.aligned(fill(self.target.nonzero, _x=below), own, out)
        return fill(self.target.quotient, _a=self.aligned(*left, out), _d=below)

    def value(self, tensor: Expr) -> tuple[ast.expr, tuple[Index, ...]]:
        """A factor as an expression with named axes."""
        match tensor:
            case Read(name, indices):
                if name == ONES:
                    for index in indices:
                        self.extent(index.axis)
                    shape = ast.Tuple([ast.Name(self.name(i.axis), ast.Load()) for i in indices], ast.Load())
                    return fill(self.target.ones, _shape=shape, _like=self.like), indices
                return ast.Name(self.name(name), ast.Load()), indices
            case Apply(function, operands):
                own = tuple(
                    dict.fromkeys(index for operand in operands for read in reads(operand) for index in read.indices)
                )
                return self.pointwise(function, operands, own), own
        raise CompileError(f"{type(tensor).__name__} inside a product is not lowered")

    def scalar_array(self, scalar: Number | Read) -> ast.expr:
        """A number or scalar as an array of the framework."""
        if isinstance(scalar, Number):
            return fill(self.target.scalar, _x=constant(scalar.value), _like=self.like)
        if scalar.tensor not in self.arrays:
            self.lifted[scalar.tensor] = None
        elif self.name(scalar.tensor) in self.loose:
            return fill(self.target.scalar, _x=self.name(scalar.tensor), _like=self.like)
        return ast.Name(self.name(scalar.tensor), ast.Load())

    @property
    def like(self) -> str:
        return self.name(self.program.tensors[0].name)

    def pointwise(self, function: str, operands: Sequence[Expr], own: tuple[Index, ...]) -> ast.expr:
        """A function of each element; ``own`` are the indices of the result."""
        values = []
        for operand in operands:
            if isinstance(operand, Number | Extent):
                number = constant(operand.value) if isinstance(operand, Number) else self.extent(operand.axis)
                values.append(fill(self.target.scalar, _x=number, _like=self.like))
                continue
            value, indices = self.value(operand)
            if isinstance(operand, Read) and not operand.indices:
                value = self.scalar_array(operand)
            kept = tuple(dict.fromkeys(indices))
            if kept != indices:
                value = einsum(self, [(value, indices)], kept)
            values.append(self.aligned(value, kept, own))
        templates = self.target.functions
        if self.complex and function in self.target.complex_functions:
            templates = self.target.complex_functions
        template = templates[function]
        self.use(template)
        if len(values) == 2:
            return fill(template, _m=values[0], _x=values[1])
        return fill(template, _x=values[0])

    # ------------------------------------------------------------- alignment

    def permuted(self, value: ast.expr, own: tuple[Index, ...], out: tuple[Index, ...]) -> ast.expr:
        """``value`` with its axes in the order of ``out`` (the same indices)."""
        if own == out:
            return value
        if own[:-2] == out[:-2] and own[-2:] == out[:-3:-1]:
            return fill(self.target.transpose, _x=value)
        return einsum(self, [(value, own)], out)

    def aligned(self, value: ast.expr, own: tuple[Index, ...], out: tuple[Index, ...]) -> ast.expr:
        """``value`` broadcastable against a tensor over ``out``: axes in order, new ones of size 1."""
        value = self.permuted(value, own, tuple(index for index in out if index in own))
        places = [index in own for index in out]
        if all(places):
            return value
        if not own:
            name = value.id if isinstance(value, ast.Name) else ""
            if name in self.loose:
                self.used["_lift"] = None
                return fill("_lift(_x, _n)", _x=value, _n=ast.Constant(len(out)))
        if self.target.new_axis and places.count(False) == 1:
            return fill(self.target.new_axis, _x=value, _i=ast.Constant(places.index(False) - len(places)))
        items: list[ast.expr] = [ast.Constant(Ellipsis)]
        items += [ast.Slice() if present else ast.Constant(None) for present in places]
        return ast.Subscript(value, ast.Tuple(items, ast.Load()), ast.Load())

    def unary(self, value: ast.expr, own: tuple[Index, ...], out: tuple[Index, ...]) -> ast.expr:
        """A sum, diagonal, transpose or broadcast of one tensor."""
        if len(set(own)) == len(own):
            kept = tuple(index for index in own if index in out)
            if kept != own:
                axes = [place - len(own) for place, index in enumerate(own) if index not in out]
                items: list[ast.expr] = [ast.Constant(axis) for axis in axes]
                shown = items[0] if len(items) == 1 else ast.Tuple(items, ast.Load())
                value = fill(self.target.total, _x=value, _axes=shown)
            return self.aligned(value, kept, out)
        if len(own) == 2:
            return self.unary(fill(self.target.diagonal, _x=value), own[:1], out)
        return einsum(self, [(value, own)], out)


def _is_inverse_size(expr: Expr) -> bool:
    """Whether ``expr`` is one over the size of an axis."""
    return isinstance(expr, Apply) and expr.function == "recip" and isinstance(expr.operands[0], Extent)


def constant(value: Fraction) -> ast.expr:
    """A number as an integer where it is one that every framework has, else as a float."""
    exact = value.denominator == 1 and abs(value) < 2**53
    return ast.Constant(value.numerator if exact else float(value))
