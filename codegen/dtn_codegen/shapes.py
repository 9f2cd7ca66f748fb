"""The shapes of a call's arguments: sizes of their axes, and leading axes that broadcast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dtn_core.errors import ShapeError
from dtn_core.ir.build import fresh_name
from dtn_core.ir.nodes import Program

from .python import HEADS, has_heads


def shapes_of(arrays: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The shapes of arrays as plain tuples."""
    return [tuple(array.shape) for array in arrays]


def axis_sizes(program: Program, shapes: Sequence[tuple[Any, ...]], layout: str) -> dict[str, Any]:
    """The size of every axis, from the tensors' shapes (None where a shape is not known).

    Parameters
    ----------
    program : Program
        The operator.
    shapes : sequence of tuple
        Of its tensors, in order.
    layout : {"... n d", "... n h d"}
        Where the head axis is.

    Raises
    ------
    ShapeError
        A tensor with too few axes, or an axis of two sizes.
    """
    sizes: dict[str, Any] = {}
    seen: dict[str, tuple[str, tuple[Any, ...]]] = {}
    for param, shape in zip(program.tensors, shapes, strict=True):
        axes = axes_of(program, param.axes, layout)
        if len(shape) < len(axes):
            raise ShapeError(f"{program.name}: {param.name} needs axes [..., {', '.join(axes)}], got shape {shape}")
        for axis, size in zip(axes, shape[len(shape) - len(axes) :], strict=True):
            if axis not in param.axes:  # heads
                continue
            known = sizes.get(axis)
            if known is None:
                sizes[axis], seen[axis] = size, (param.name, shape)
            elif size is not None and known != size:
                first, other = seen[axis]
                raise ShapeError(
                    f"{program.name}: axis {axis} has size {known} in {first} (shape {other}) "
                    f"but {size} in {param.name} (shape {shape})"
                )
    return sizes


def axes_of(program: Program, axes: tuple[str, ...], layout: str) -> tuple[str, ...]:
    """The last axes of a tensor over ``axes``: with the head axis, where the layout has one between them."""
    if layout != HEADS or not has_heads(program, axes):
        return axes
    return (axes[0], fresh_name("h", set(program.axes)), axes[1])


def leading_axes(
    program: Program,
    shapes: Sequence[tuple[Any, ...]],
    layout: str,
    scalars: Mapping[str, tuple[Any, ...]] | None = None,
) -> tuple[Any, ...]:
    """The leading axes that the tensors, and scalars of these shapes, broadcast to; else as :func:`axis_sizes`.

    Raises
    ------
    ShapeError
        Where they do not broadcast.
    """
    given = []
    for param, shape in zip(program.tensors, shapes, strict=True):
        core = len(axes_of(program, param.axes, layout))
        batch = shape[: len(shape) - core] + (shape[1 - core : 2 - core] if core > len(param.axes) else ())
        given.append((param.name, shape, batch))
    given += [(name, shape, shape) for name, shape in (scalars or {}).items()]
    found: list[tuple[Any, str, tuple[Any, ...]]] = []
    for of, shape, batch in given:
        for place, size in enumerate(reversed(batch)):
            if place == len(found):
                found.append((size, of, shape))
                continue
            known, name, other = found[place]
            if size is not None and known is not None and 1 not in (size, known) and size != known:
                raise ShapeError(
                    f"{program.name}: leading axis {-place - 1} has size {known} in {name} (shape {other}) "
                    f"but {size} in {of} (shape {shape}); leading axes broadcast"
                )
            if known == 1 or (known is None and size != 1):
                found[place] = (size, of, shape)
    return tuple(size for size, _, _ in reversed(found))


def whole_shape(
    program: Program, axes: tuple[str, ...], layout: str, leading: Sequence[Any], sizes: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The shape of a tensor over ``axes`` with the leading axes, the last of which are the heads."""
    own = [sizes[axis] for axis in axes]
    if len(axes_of(program, axes, layout)) > len(axes):
        return (*leading[:-1], own[0], *leading[-1:], *own[1:])
    return (*leading, *own)


def broadcasts(shape: Sequence[Any], leading: Sequence[Any]) -> bool:
    """Whether ``shape`` broadcasts against ``leading``; sizes that are not known do.

    Examples
    --------
    >>> broadcasts((3, 1), (2, 3, 4)), broadcasts((2,), (3,))
    (True, False)
    """
    pairs = zip(reversed(shape), reversed(leading), strict=False)
    return all(a is None or b is None or 1 in (a, b) or a == b for a, b in pairs)


def broadcasts_to(shape: Sequence[Any], whole: Sequence[Any]) -> bool:
    """Whether ``shape`` broadcasts to ``whole`` and does not make it larger; sizes that are not known do.

    Examples
    --------
    >>> broadcasts_to((1, 4), (3, 4)), broadcasts_to((3, 4), (1, 4))
    (True, False)
    """
    more = [1] * (len(shape) - len(whole))
    pairs = zip(reversed(shape), reversed([*more, *whole]), strict=False)
    return all(size in (1, None) or each is None or size == each for size, each in pairs)


def flat_leading(leading: Sequence[Any]) -> tuple[Any, Any]:
    """Leading axes as two: everything but the last, and the last (the heads).

    Examples
    --------
    >>> flat_leading((2, 3, 4)), flat_leading(())
    ((6, 4), (1, 1))
    """
    batch = 1
    for size in leading[:-1]:
        batch = batch * size
    return batch, leading[-1] if leading else 1
