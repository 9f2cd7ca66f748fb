"""The dense interpreter: takes the IR literally, in NumPy float64/complex128.

Every statement is evaluated as written, with its full index space (an order is a 0/1 matrix, a decay a matrix of
powers), no rewriting and no sharing; NumPy says in which order the tensors of a product meet.  It is slow on purpose
and is the reference that everything else is held to.  With ``exact=True`` it computes in rational numbers, so that a
rewrite rule can be checked to equality.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import CompileError, ShapeError
from .ir.nodes import (
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
    factors_of,
    indices_of,
    terms_of,
)
from .ir.order import restrict

Array = NDArray[Any]

LARGEST = 2**27
"""Elements of a partial product, beyond which NumPy sums over everything at once."""

_ERF, _ERFC = (np.vectorize(function, otypes=[float]) for function in (math.erf, math.erfc))


def _recip(x: Array) -> Array:
    if x.dtype == object:
        return np.array([Fraction(0) if y == 0 else 1 / Fraction(y) for y in x.flat], dtype=object).reshape(x.shape)
    zero = x == 0
    return np.asarray(np.where(zero, 0, 1 / np.where(zero, 1, x)))


_POINTWISE: dict[str, Callable[..., Array]] = {
    "conj": np.conjugate,
    "real": lambda x: x if x.dtype == object else np.real(x),
    "abs": np.abs,
    "select": lambda keep, x: np.where(keep != 0, x, 0 * np.where(keep != 0, x, 0)),
    "recip": _recip,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.where(x > 0, x, 0 * x),
    "gelu": lambda x: x * _ERFC(-x / math.sqrt(2)) / 2,
    "erf": _ERF,
    "step": lambda x: np.where(x > 0, 1 + 0 * x, 0 * x),
}


def interpret(program: Program, *args: ArrayLike, exact: bool = False, **named: ArrayLike) -> Any:
    """Evaluate ``program`` densely.

    Parameters
    ----------
    program : Program
        Any IR, before or after passes.
    *args, **named : array_like
        One per parameter, in the signature's order or by name.  A tensor has shape ``[..., *axes]``,
        a scalar ``[...]``; leading axes broadcast.
    exact : bool
        Compute in :class:`fractions.Fraction` (no transcendental functions, no matrix functions).

    Returns
    -------
    numpy.ndarray or tuple of numpy.ndarray
        The outputs, float64 or complex128 (object when exact), with the leading axes that all arguments broadcast to.

    Raises
    ------
    ShapeError
        If a tensor has too few axes or an axis has two sizes.

    Examples
    --------
    >>> from dtn_core.notation import parse
    >>> program = parse("prefix(x[n]) -> y[n]: y[t] = x[i] where i <= t")
    >>> interpret(program, [1, 2, 3])
    array([1., 3., 6.])
    """
    return Interpreter(program, exact).evaluate(args, named)


class Interpreter:
    """One evaluation of a program; a subclass says in which arithmetic (see :meth:`contract`, :meth:`rounded`)."""

    def __init__(self, program: Program, exact: bool = False) -> None:
        self.program = program
        self.exact = exact
        self.sizes: dict[str, int] = {}
        self.values: dict[str, Array] = {}
        self.axes = {param.name: param.axes for param in program.params}

    def evaluate(self, args: Sequence[ArrayLike], named: Mapping[str, ArrayLike]) -> Any:
        """The outputs; arguments as for :func:`interpret`."""
        program = self.program
        if len(args) > len(program.params):
            raise TypeError(f"{program.name} takes {len(program.params)} argument(s), got {len(args)}")
        for param, value in zip(program.params, args, strict=False):
            self.bind(param.name, value)
        for name, value in named.items():
            self.bind(name, value)
        for param in program.params:
            if param.name not in self.values:
                raise TypeError(f"{program.name}: argument {param.name} is missing")
        with np.errstate(all="ignore"):
            for statement in program.statements:
                self.values[statement.name] = self.rounded(self.statement(statement))
        results = tuple(self.result(output) for output in program.outputs)
        return results[0] if len(results) == 1 else results

    def result(self, output: Param) -> Array:
        """An output with the leading axes that all arguments broadcast to."""
        value = self.values[output.name]
        batches = (self.values[p.name].shape[: self.values[p.name].ndim - len(p.axes)] for p in self.program.params)
        core = value.shape[value.ndim - len(output.axes) :]
        return np.broadcast_to(value, np.broadcast_shapes(*batches) + core).copy()

    def contract(self, operands: Sequence[tuple[Array, tuple[int, ...]]], out: tuple[int, ...]) -> Array:
        """Sum of products over the labels of the last axes that are not in ``out``; leading axes broadcast."""
        arguments: list[Any] = []
        for array, labels in operands:
            arguments += [array, [Ellipsis, *labels]]
        path = ("greedy", LARGEST) if not self.exact and len(operands) > 2 else False
        return np.asarray(np.einsum(*arguments, [Ellipsis, *out], optimize=path))

    def rounded(self, x: Array) -> Array:
        """What is stored of a value that was computed."""
        return x

    def bind(self, name: str, value: ArrayLike) -> None:
        """Take an argument in: its sizes, and its leading axes."""
        if name not in self.axes or name in self.values:
            raise TypeError(f"{self.program.name}: unexpected or repeated argument {name}")
        array = np.asarray(value)
        if self.exact:
            array = np.array([Fraction(x) for x in array.flat], dtype=object).reshape(array.shape)
        else:
            array = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
        axes = self.axes[name]
        if array.ndim < len(axes):
            raise ShapeError(f"{name} needs axes [..., {', '.join(axes)}], got shape {array.shape}")
        for axis, size in zip(axes, array.shape[array.ndim - len(axes) :], strict=True):
            if self.sizes.setdefault(axis, size) != size:
                raise ShapeError(f"axis {axis} has size {self.sizes[axis]} before {name} and {size} in {name}")
        self.values[name] = array

    # A value with named indices is (array, indices): the array's last axes, in that order.

    def statement(self, statement: Statement) -> Array:
        """The value of a statement."""
        if isinstance(statement.value, MatrixFunction):
            return self.transpose(self.matrix_function(statement.value), statement.value.indices, statement.indices)
        total: Array | None = None
        for term in terms_of(statement.value):
            value = self.term(term, statement.indices, statement.order)
            total = value if total is None else np.asarray(total + value)
        assert total is not None
        shape = tuple(self.sizes[index.axis] for index in statement.indices)
        batch = total.shape[: total.ndim - len(shape)]
        return np.array(np.broadcast_to(total, batch + shape))

    def term(self, term: Expr, out: tuple[Index, ...], order: tuple[Relation, ...]) -> Array:
        """A term summed over every index that is not in ``out``."""
        operands: list[tuple[Array, tuple[Index, ...]]] = [self.value(factor) for factor in factors_of(term)]
        carried = {index for _, indices in operands for index in indices}
        operands += [self.relation(relation) for relation in restrict(order, carried.union(out))]
        labels = {index: number for number, index in enumerate({i: None for _, ids in operands for i in ids})}
        present = tuple(labels[index] for index in out if index in labels)
        value = self.contract([(array, tuple(labels[index] for index in ids)) for array, ids in operands], present)
        missing = tuple(slice(None) if index in labels else None for index in out)
        return value[(Ellipsis, *missing)]

    def value(self, factor: Expr) -> tuple[Array, tuple[Index, ...]]:
        """A factor, and the indices of its axes."""
        match factor:
            case Number(value):
                return np.array(value if self.exact else float(value)), ()
            case Extent(axis):
                return np.array(Fraction(self.sizes[axis]) if self.exact else float(self.sizes[axis])), ()
            case Read("one", indices):
                ones = np.ones([self.sizes[index.axis] for index in indices])
                return (np.full(ones.shape, Fraction(1), dtype=object) if self.exact else ones), indices
            case Read(tensor, indices):
                return self.values[tensor], indices
            case Apply(function, operands):
                indices = indices_of(factor)
                arrays = [self.elementwise(operand, indices) for operand in operands]
                return self.rounded(self.pointwise(function, arrays)), indices
        raise CompileError(f"{type(factor).__name__} inside a product; write it as a statement of its own")

    def pointwise(self, function: str, operands: Sequence[Array]) -> Array:
        """A function of numbers."""
        return np.asarray(_POINTWISE[function](*operands))

    def elementwise(self, expr: Expr, indices: tuple[Index, ...]) -> Array:
        """``expr`` with nothing summed, its axes aligned to ``indices``."""
        total: Array | None = None
        for term in terms_of(expr):
            value: Array = np.array(Fraction(1) if self.exact else 1.0)
            for factor in factors_of(term):
                if isinstance(factor, Product):
                    array = self.elementwise(factor, indices)
                else:
                    array, own = self.value(factor)
                    kept = tuple(dict.fromkeys(own))
                    if kept != own:
                        array = self.diagonal(array, own, kept)
                    array = self.transpose(array, kept, tuple(index for index in indices if index in kept))
                    array = array[(Ellipsis, *(slice(None) if index in kept else None for index in indices))]
                value = self.rounded(np.asarray(value * array))
            total = value if total is None else np.asarray(total + value)
        assert total is not None
        return np.asarray(total)

    @staticmethod
    def diagonal(array: Array, own: tuple[Index, ...], kept: tuple[Index, ...]) -> Array:
        labels = {index: number for number, index in enumerate(kept)}
        return np.asarray(
            np.einsum(array, [Ellipsis, *(labels[i] for i in own)], [Ellipsis, *(labels[i] for i in kept)])
        )

    @staticmethod
    def transpose(array: Array, source: tuple[Index, ...], target: tuple[Index, ...]) -> Array:
        batch = array.ndim - len(source)
        return array.transpose(*range(batch), *(batch + source.index(index) for index in target))

    def relation(self, relation: Relation) -> tuple[Array, tuple[Index, ...]]:
        """1, or the power of the decay, where a relation holds, else 0; and its indices."""
        size = self.sizes[relation.upper.axis]
        gap = np.arange(size)[:, None] - np.arange(size)[None, :]  # upper - lower
        holds = {"<=": gap >= 0, "<": gap > 0, "==": gap == 0}[relation.sign]
        if relation.decay is None:
            weight: Array = holds.astype(object if self.exact else float)
        else:
            decay, _ = self.value(relation.decay)
            weight = np.where(holds, decay[..., None, None] ** np.where(holds, gap, 0), 0)
        return weight, (relation.upper, relation.lower)

    def product(self, a: Array, b: Array) -> Array:
        """The product of two matrices."""
        return self.contract([(a, (0, 1)), (b, (1, 2))], (0, 2))

    def cell(self, cell: Read, indices: tuple[Index, ...]) -> Array:
        return self.transpose(self.values[cell.tensor], cell.indices, indices)

    def matrix_function(self, expr: MatrixFunction) -> Array:
        """A block of a function of a block matrix."""
        if self.exact:
            raise CompileError(f"{expr.function} has no exact value")
        cells = [cell for row in expr.grid for cell in row if cell is not None]
        shape = np.broadcast_shapes(*(self.cell(cell, expr.indices).shape for cell in cells))
        zero = np.zeros(shape)
        grid = [
            [zero if cell is None else np.broadcast_to(self.cell(cell, expr.indices), shape) for cell in row]
            for row in expr.grid
        ]
        rows = [np.concatenate(row, axis=-1) for row in grid]
        evaluate = matrix_phi1 if expr.function == "phi1" else matrix_exp
        value = evaluate(np.concatenate(rows, axis=-2), self.product)
        size, (row, column) = shape[-1], expr.block
        return value[..., row * size : (row + 1) * size, column * size : (column + 1) * size]


def matrix_exp(x: Array, product: Callable[[Array, Array], Array] = np.matmul) -> Array:
    """Matrix exponential by scaling, a Taylor series to rounding, and squaring; ``x[..., m, m]``."""
    norm = float(np.max(np.sum(np.abs(x), axis=-1), initial=0.0))
    if not np.isfinite(norm):
        return np.full_like(x, np.nan)
    squarings = max(0, math.ceil(math.log2(norm / 0.5))) if norm > 0.5 else 0
    scaled = x / 2.0**squarings
    total = term = np.broadcast_to(np.eye(x.shape[-1]), x.shape)
    for k in range(1, 20):  # 0.5**20 / 20! is below 1e-24
        term = product(term, scaled) / k
        total = total + term
    for _ in range(squarings):
        total = product(total, total)
    return np.asarray(total)


def matrix_phi1(x: Array, product: Callable[[Array, Array], Array] = np.matmul) -> Array:
    """``φ₁(X) = (e^X − I) / X``, as the upper right block of ``exp([[X, I], [0, 0]])``."""
    m = x.shape[-1]
    eye = np.broadcast_to(np.eye(m), x.shape)
    top = np.concatenate([x, eye], axis=-1)
    return matrix_exp(np.concatenate([top, np.zeros_like(top)], axis=-2), product)[..., :m, m:]
