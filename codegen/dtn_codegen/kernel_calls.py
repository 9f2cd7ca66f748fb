"""Calls that kernels compute: which kernels they are, and what they cannot do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dtn_core.operators import Operator

from . import implementations
from .implementations import NATIVE, Kernels
from .shapes import axis_sizes, leading_axes

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


def call_kernels(
    function: Function,
    kernels: Kernels,
    tensors: Sequence[Any],
    named: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Any:
    """Evaluate by kernels: plain calls, with real tensors of one dtype.

    Parameters
    ----------
    function : Function
    kernels : Kernels
        Of its operator.
    tensors, named
        As they were given.
    options : Mapping[str, Any]
        The other arguments of the call; None where one was not given.

    Raises
    ------
    ValueError
        For what no kernel computes, saying what does.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{_refused(function)} with {name}; implementation='native' can")
    key, known = function.recall(tensors, named)
    if known is None:
        bound, named = function.bind(tensors, named)
        tensors = function.convert(bound)
        checked = _check(function, kernels, tensors)
        function.remember(key, checked)
    else:
        checked = known
    program = function.operator.program
    arguments = {param.name: tensor for param, tensor in zip(program.tensors, tensors, strict=True)}
    if program.scalars:
        values = function.scalar_values(named, tensors, new=known is None)
        arguments.update({param.name: value for param, value in zip(program.scalars, values, strict=True)})
    results = function.run_kernels(kernels, [arguments[param.name] for param in kernels.inputs], *checked)
    return results[0] if len(results) == 1 else tuple(results)


def _check(function: Function, kernels: Kernels, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The leading axes and the sizes of the operator's axes."""
    program = function.operator.program
    shapes = [tuple(tensor.shape) for tensor in tensors]
    sizes = axis_sizes(program, shapes, function.layout)
    leading = leading_axes(program, shapes, function.layout)
    if function.check_dtypes(tensors):
        raise ValueError(f"{_refused(function)} with complex tensors; implementation='native' can")
    dtypes = list(dict.fromkeys(dtype_name(tensor) for tensor in tensors))
    if len(dtypes) > 1:
        raise ValueError(f"{_refused(function)} with tensors of {' and '.join(dtypes)}: a kernel takes one dtype")
    kernels.check(dtypes[0])
    return leading, sizes


def _refused(function: Function) -> str:
    return f"implementation={function.implementation!r} cannot run {function.__name__}"


def dtype_name(array: Any) -> str:
    """The name of an array's dtype, the same in every framework."""
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")
