"""Padding: tokens where ``padding_mask`` is False count for nothing and give output 0."""

from __future__ import annotations

from dataclasses import replace

from ..errors import CompileError
from ..ir.axes import sequence_axes
from ..ir.nodes import Apply, Index, Param, Program, Read, Statement, map_statement

MASK = "padding_mask"


def pad(program: Program) -> Program:
    """``program`` with a parameter ``padding_mask[n]`` that selects the real tokens of every argument and output.

    For the catalogue this equals leaving the padded tokens out: every term of T has a factor of q or k
    at each token it involves, and every output a factor of v.

    Raises
    ------
    CompileError
        If the operator has no sequence axis, or several.
    """
    long = sequence_axes(program)
    if len(long) != 1:
        raise CompileError(f"{program.name}: padding_mask needs one sequence axis, found {len(long)}")
    axis = long[0]
    taken = {p.name for p in program.params} | {s.name for s in program.statements} | set(program.axes)
    selected: dict[str, str] = {}
    first: list[Statement] = []
    for param in program.tensors:
        if axis in param.axes:
            selected[param.name] = _fresh(f"{param.name}_kept", taken)
            first.append(_select(selected[param.name], param.name, param.axes, axis))
    raw = {o.name: _fresh(f"{o.name}_all", taken) for o in program.outputs if axis in o.axes}
    names = {**selected, **raw}

    def rename(read: Read) -> Read:
        return Read(names.get(read.tensor, read.tensor), read.indices)

    body = [map_statement(replace(s, name=names.get(s.name, s.name)), rename) for s in program.statements]
    last = [_select(o.name, raw[o.name], o.axes, axis) for o in program.outputs if o.name in raw]
    return replace(program, params=(*program.params, Param(MASK, (axis,))), statements=(*first, *body, *last))


def _select(name: str, source: str, axes: tuple[str, ...], axis: str) -> Statement:
    indices = tuple(Index(f"i{place}", a) for place, a in enumerate(axes))
    token = indices[axes.index(axis)]
    return Statement(name, indices, Apply("select", (Read(MASK, (token,)), Read(source, indices))))


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
