"""What an operator's definition says about the forms and checks that exist for it; no framework is asked."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..errors import CompileError
from ..explain import certificate, two_sequence_axes
from ..interpret import interpret
from ..ir.axes import sequence_axes
from ..ir.functions import real_only
from ..ir.nodes import Program
from ..operators import Operator
from ..passes.padding import pad
from ..passes.pipeline import Lowered, assumed_sizes, candidates
from .operators import Case
from .sizes import place, shapes

COMPLEX = ("complex64", "complex128")


def why_not(case: Case, form: str, check: str, dtype: str) -> str:
    """Why a form or a check does not exist for an operator; empty if it does."""
    program = case.operator.program
    if dtype in COMPLEX:
        undefined = real_only(program)
        if undefined:
            return f"{undefined[0]} is not defined for complex input"
    return _why_no_form(program, form) or _why_no_check(case, form, check)


def has_heads(program: Program, axes: tuple[str, ...]) -> bool:
    """Whether a tensor over ``axes`` is one of tokens and features, which has heads between them in ``... n h d``."""
    return len(axes) == 2 and axes[0] in sequence_axes(program)


def decays(program: Program) -> bool:
    """Whether an order of the program is weighted."""
    return any(relation.decay is not None for statement in program.statements for relation in statement.order)


@cache
def _why_no_form(program: Program, form: str) -> str:
    forms = candidates(program)
    if form == "linear" and two_sequence_axes(forms[0]):
        return f"there is no linear form: {certificate(forms[0], forms, assumed_sizes(program))}"
    if form in ("chunked", "recurrent"):
        if forms[0].chunked is None:
            return f"it does not stream: {forms[0].dense_reasons.get('order', 'nothing in it is ordered')}"
        if form == "recurrent" and not resumable(forms[0]):
            return "it has no state to hand on: it needs the whole sequence at once"
    return ""


def _why_no_check(case: Case, form: str, check: str) -> str:
    program = case.operator.program
    first = candidates(program)[0]
    if check == "split-resume":
        if form == "dense":
            return "the dense form computes the whole sequence at once and has no state"
        return "" if resumable(first) else "it has no state to hand on: it needs the whole sequence at once"
    if check == "causality":
        return "" if is_causal(case.operator) else "by its definition tokens see later ones"
    if check == "padding":
        return _why_no_padding(case, form)
    if check == "layout" and not any(has_heads(program, param.axes) for param in program.params):
        return "no tensor has tokens and features, between which heads would stand"
    return ""


def _why_no_padding(case: Case, form: str) -> str:
    program = case.operator.program
    if form == "recurrent":
        return "a step takes one token, which is a real one"
    if decays(program) and not is_causal(case.operator):
        return "a decay counts padded places, so that leaving them out is something else"
    try:
        padded = pad(program)
    except CompileError as error:
        return str(error)
    first, own = candidates(padded)[0], candidates(program)[0]
    if form == "chunked" and (first.chunked is None or resumable(first) < resumable(own)):
        return "with a padding_mask it needs the whole sequence at once"
    return ""


def resumable(form: Lowered) -> bool:
    """Whether a sequence may come in pieces."""
    return form.chunked is not None and form.chunked.stream.resumable


@cache
def is_causal(operator: Operator) -> bool:
    """Whether, in the dense interpreter, no result changes when later tokens do."""
    program = operator.program
    axes = sequence_axes(program)
    if len(axes) != 1 or any(axes[0] not in output.axes for output in program.outputs):
        return False
    rng = np.random.default_rng(0)
    scalars: dict[str, Any] = dict(operator.scalars)
    tensors = [0.3 + 0.4 * rng.random(shape) for shape in shapes(program, {axes[0]: 4})]
    changed = [np.array(x) for x in tensors]
    for x, param in zip(changed, program.tensors, strict=True):
        if axes[0] in param.axes:
            x[place(param.axes, axes[0], slice(2, None))] += 0.5
    one, other = (interpret(program, *each, **scalars) for each in (tensors, changed))
    outputs = zip(*(x if isinstance(x, tuple) else (x,) for x in (one, other)), strict=True)
    for (a, b), output in zip(outputs, program.outputs, strict=True):
        seen = place(output.axes, axes[0], slice(0, 2))
        if not np.allclose(a[seen], b[seen], rtol=1e-12, atol=0):
            return False
    return True
