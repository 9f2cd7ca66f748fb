"""What one framework looks like to the emitter: a table of expression templates."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from dtn_core.passes.pipeline import COSTS, Costs

ELSEWHERE = 2**27
"""Elements of the widest tensor at once where no cache is to hold them: on a card, and in PyTorch's compiled graphs."""


def _filled(node: Any, holes: Mapping[str, ast.expr]) -> Any:
    """A copy of ``node`` in which the names that are holes are what fills them."""
    if isinstance(node, list):
        return [_filled(item, holes) for item in node]
    if isinstance(node, ast.Name) and node.id in holes:
        return holes[node.id]
    if not isinstance(node, ast.AST) or isinstance(node, ast.expr_context | ast.operator | ast.unaryop | ast.cmpop):
        return node
    return type(node)(*(_filled(getattr(node, name), holes) for name in node._fields))


def fill(template: str, **holes: ast.expr | str | int | float) -> ast.expr:
    """The expression ``template`` with its holes (names such as ``_x``) replaced by expressions.

    Examples
    --------
    >>> ast.unparse(fill("np.exp(_x)", _x="scores"))
    'np.exp(scores)'
    """
    nodes: dict[str, ast.expr] = {}
    for name, value in holes.items():
        if isinstance(value, str):
            value = ast.Name(value, ast.Load())
        elif isinstance(value, int | float):
            value = ast.Constant(value)
        nodes[name] = value
    return _filled(_parsed(template), nodes)  # type: ignore[no-any-return]


_PARSED: dict[str, ast.expr] = {}


def _parsed(template: str) -> ast.expr:
    if template not in _PARSED:
        _PARSED[template] = parsed(template, "eval").body
    return _PARSED[template]


_PARSING = Lock()


def parsed(source: str, mode: str = "exec") -> Any:
    """The tree of a text, made by one thread at a time: CPython 3.11 counts its depth for all threads together."""
    with _PARSING:
        return ast.parse(source, mode=mode)


@dataclass(frozen=True, eq=False)
class Target:
    """A framework: where it is installed from, and how it writes each operation.

    Templates are Python expressions whose holes start with an underscore.

    Attributes
    ----------
    name, package, framework, extra : str
        ``"torch"``, the thin package ``"dtn_torch"``, the module it imports, the pip extra.
    imports : str
        The generated source's only import.
    functions : Mapping[str, str]
        Pointwise functions of ``_x`` (``_m`` and ``_x`` for ``select``).
    complex_functions : Mapping[str, str]
        The ones written differently for complex input.
    matmul : Mapping[tuple[bool, bool], str]
        Product of ``_a`` and ``_b``, by which of them is transposed.
    batched : str
        The same for what is likely a batch of matrices with a single leading axis, where there is a quicker way.
    plus_each : str
        ``_x`` plus the product of ``_a`` and ``_b``, element by element, in one operation; empty where a framework
        puts them together by itself, or has none.
    plus, plus_over : str
        ``_x`` plus the product of ``_a`` and ``_b`` in one operation, where there is one; the same for a ``_x`` that
        nothing reads again, in its own memory.
    transpose, diagonal, einsum, total, concat : str
        Matrix transpose and diagonal of ``_x``; ``_spec`` over the operands appended; sum over ``_axes``; blocks along
        ``_axis``.
    new_axis, flatten : str
        ``_x`` with one axis of size 1 more at ``_i``, and with its axes from ``_i`` to ``_j`` as one, where that is
        quicker than an index and a reshape.
    matvec : Mapping[bool, str]
        Product of the matrix ``_a`` and the vector ``_b``, by whether ``_a`` is transposed, where einsum is slower.
    sums_by_letter : bool
        Whether an einsum sums indices in the order of their letters; XLA copies, at every call, a matrix whose axes
        lie in another one.
    elementwise : bool
        Whether a long inner product is quicker elementwise and summed, with a temporary, than as an einsum.
    elementwise_in_turns : bool
        Whether that of the tokens that are computed at once is, whose temporary is little beside the sequence.
    tril, triu : tuple[str, str]
        Triangles of ``_x``, with the diagonal and without.
    tril_over, triu_over : tuple[str, str]
        Those of a ``_x`` that nothing reads again, in its own memory; empty where there is no such thing.
    ones, zeros_like, flip, gaps : str
        Ones of ``_shape``; ``_x`` turned round along ``_i``; ``_gaps``: a vector 0 … ``_n`` − 1.
    size : str
        Size of axis ``_i`` of ``_x``, for shapes.
    known_size : str
        The same as a number, 1 where it is not known yet; empty where ``size`` is one.
    extent, per_extent : str
        A size ``_n`` as a factor, and ``_a`` divided by it, which is 0 where the size is.
    arrays : str or None
        What turns an argument ``_x`` into an array, when calls may pass something else.
    dtype, wide, cast : str
        Common dtype of ``_args``, the dtype to compute in, and the conversion of ``_x`` to ``_dtype``.
    heads : str
        Exchange of the last but one and last but two axes of ``_x`` (layout ``"... n h d"``).
    heads_once : str
        The same for an ``_x`` that is read more than once, where products copy what lies otherwise each time; empty
        where they do not.
    expm : str
        Matrix exponential of ``_x``.
    zeros, broadcast : str
        Zeros of ``_shape``, and the common leading shape of ``_shapes``.
    placed : str
        ``_states`` with the leading axes of ``_tensors``, on the devices of these, if a framework keeps account;
        ``_own`` and ``_ranks`` are the numbers of axes that are not leading.
    shape, scalar_shape : str
        Shape of a tensor ``_x``, and of a scalar argument that may be a number.
    power : str
        An integer exponent ``_x`` of a decay.
    nonzero, quotient : str
        ``_a`` divided by ``_d``, giving 0 where a divisor ``_x`` is 0: ``_d`` is ``_x`` made safe.
    prelude : Mapping[str, str]
        Source of functions that templates refer to by name, included when used.
    costs : Costs
        What chunks cost the framework.
    differentiate : tuple[str, ...]
        The prelude functions that give chunked code a gradient of its own; none where the framework's is kept.
    """

    name: str
    package: str
    framework: str
    extra: str
    imports: str
    functions: Mapping[str, str]
    matmul: Mapping[tuple[bool, bool], str]
    transpose: str
    diagonal: str
    einsum: str
    total: str
    concat: str
    tril: tuple[str, str]
    triu: tuple[str, str]
    ones: str
    zeros_like: str
    flip: str
    gaps: str
    size: str
    dtype: str
    wide: str
    cast: str
    heads: str
    expm: str
    zeros: str
    broadcast: str
    known_size: str = ""
    placed: str = ""
    heads_once: str = ""
    new_axis: str = ""
    flatten: str = ""
    tril_over: tuple[str, str] = ("", "")
    triu_over: tuple[str, str] = ("", "")
    shape: str = "_x.shape"
    scalar_shape: str = "getattr(_x, 'shape', ())"
    power: str = "_x"
    nonzero: str = "_x"
    quotient: str = "_a / _d"
    extent: str = "_n"
    per_extent: str = "_a / (_n or float('inf'))"
    scalar: str = "_x"
    arrays: str | None = None
    sums_by_letter: bool = False
    elementwise: bool = True
    elementwise_in_turns: bool = False
    matvec: Mapping[bool, str] = field(default_factory=dict)
    batched: str = ""
    plus_each: str = ""
    plus: str = ""
    plus_over: str = ""
    complex_functions: Mapping[str, str] = field(default_factory=dict)
    prelude: Mapping[str, str] = field(default_factory=dict)
    costs: Costs = COSTS
    differentiate: tuple[str, ...] = ()
