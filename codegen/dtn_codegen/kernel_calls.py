"""Calls that kernels compute: which kernels they are, and what they cannot do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dtn_core.operators import Operator
from dtn_core.passes.padding import MASK

from . import implementations
from .dtypes import dtype_name
from .implementations import NATIVE, Kernels, Variant
from .shapes import axis_sizes, leading_axes, shapes_of
from .state import check_state

if TYPE_CHECKING:
    from .function import Function


def find_kernels(framework: str, operator: Operator, layout: str, name: str | None) -> Kernels | None:
    """The kernels that implementation ``name`` computes ``operator`` with; None if it is generated source.

    Raises
    ------
    ValueError
        For an implementation that there is not, or that cannot run, saying why.
    """
    if name in (None, NATIVE):
        return None
    refused = f"implementation={name!r} cannot run {operator.name} in {framework}"
    known = implementations.names()
    if name not in known:
        raise ValueError(f"{refused}; available: {', '.join(map(repr, known))}")
    try:
        return implementations.implementation(str(name)).kernels(operator, layout)
    except ImportError as error:
        raise ValueError(f"{refused}: {error}") from error


class Checked(NamedTuple):
    """A call that kernels compute: which, at what leading axes and sizes; the type of states to return."""

    kernels: Kernels
    leading: tuple[Any, ...]
    sizes: dict[str, Any]
    state: Any


def call_kernels(
    function: Function,
    tensors: Sequence[Any],
    named: Mapping[str, Any],
    padding_mask: Any,
    initial_state: Any,
    return_state: bool,
    chunk_size: int | None,
) -> Any:
    """Evaluate by kernels; the arguments are those of a call, with real tensors of one dtype.

    Raises
    ------
    ValueError
        For what no kernel computes, saying what does.
    """
    key, checked = function.plans.recall(tensors, named, padding_mask, initial_state, return_state, chunk_size)
    new = checked is None
    if new:
        bound, named = function.signature.bind(tensors, named)
        tensors = function.convert(bound)
        if padding_mask is not None:
            padding_mask = function.convert_mask(padding_mask)
        checked = _check(function, tensors, named, padding_mask, initial_state, return_state, chunk_size)
        function.plans.remember(key, checked)
    kernels, leading, sizes, kind = checked
    if 0 in leading or 0 in sizes.values():  # there is nothing to walk along
        return function.native(
            *tensors, padding_mask=padding_mask, initial_state=initial_state, return_state=return_state,
            chunk_size=chunk_size, **named,
        )  # fmt: skip
    arguments = dict(zip(function.signature.tensors, tensors, strict=True))
    if function.signature.scalars:
        values = function.scalar_values(named, tensors, shapes_of(tensors) if new else None)
        arguments.update(zip(function.signature.scalars, values, strict=True))
    arguments[MASK] = padding_mask
    if kernels.states:
        before = [param.name for param in kernels.inputs if param.name in kernels.states]
        arguments.update(zip(before, initial_state or [0.0] * len(before), strict=True))
    found = function.run_kernels(kernels, [arguments[param.name] for param in kernels.inputs], leading, sizes)
    count = len(function.operator.program.outputs)
    result = found[0] if count == 1 else tuple(found[:count])
    return result if kind is None else (result, kind(*found[count:]))


def _check(
    function: Function,
    tensors: Sequence[Any],
    named: Mapping[str, Any],
    padding_mask: Any,
    initial_state: Any,
    return_state: bool,
    chunk_size: int | None,
) -> Checked:
    """Refuse what there is no kernel for, and what is no call at all."""
    padded, resumed = padding_mask is not None, initial_state is not None or return_state
    given = (*tensors, padding_mask) if padded else tuple(tensors)
    function.tokens.check_options(resumed, chunk_size)
    kernels = function.variant(Variant(padded, resumed, chunk_size))
    shapes = shapes_of(given)
    sizes = axis_sizes(kernels.program, shapes, function.layout)
    leading = leading_axes(kernels.program, shapes, function.layout, function.signature.scalar_shapes(named, shapes))
    if function.check_dtypes(given):
        raise ValueError(f"{_refused(function)} with complex tensors; implementation='native' can")
    dtypes = list(dict.fromkeys(dtype_name(tensor) for tensor in tensors))
    if len(dtypes) > 1:
        raise ValueError(f"{_refused(function)} with tensors of {' and '.join(dtypes)}: a kernel takes one dtype")
    kernels.check(dtypes[0])
    streams = function.tokens.streams(complex_input=False)
    if streams is not None and initial_state is not None:
        known = not function.tracing()
        at = sizes if known else None  # None: neither is looked at
        check_state(function.__name__, streams, initial_state, at, leading, tensors)
    return Checked(kernels, leading, sizes, streams.kind if streams is not None and return_state else None)


def describe_options(function: Function) -> str:
    """What becomes of the options of a call: of a padding mask, of states, and of packed sequences."""
    said = ["padding_mask is an argument of the kernel"]
    try:
        function.variant(Variant(padded=True))
    except ValueError as error:
        said = [str(error)]
    streams = function.tokens.streams(complex_input=False)
    if streams is not None and streams.resumable:
        said.append("initial_state is one too, and the last state a result of it")
    return ", ".join([*said, "cu_seqlens runs it once for all sequences of about one length"])


def as_kernels(native: Function, kernels: Kernels) -> Callable[..., tuple[Any, ...]]:
    """``native`` called as kernels are: their inputs in order, and their outputs as a tuple."""
    names = [param.name for param in kernels.inputs]
    before = [name for name in names if name in kernels.states]
    streams = native.tokens.streams(complex_input=False)

    def call(*arguments: Any) -> tuple[Any, ...]:
        named = dict(zip(names, arguments, strict=True))
        options: dict[str, Any] = {}
        if MASK in named:
            options["padding_mask"] = named.pop(MASK) != 0
        if before and streams is not None:
            options.update(initial_state=streams.kind(*(named.pop(name) for name in before)), return_state=True)
        tensors = [named.pop(param.name) for param in native.operator.program.tensors]
        found = native(*tensors, **named, **options)
        result, states = found if before else (found, ())
        return (*(result if isinstance(result, tuple) else (result,)), *states)

    return call


def _refused(function: Function) -> str:
    return f"implementation={function.implementation!r} cannot run {function.__name__}"
