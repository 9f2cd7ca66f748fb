"""The forms of an operator as generated functions, each made when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

from dtn_core.ir.nodes import Program
from dtn_core.operators import Operator
from dtn_core.passes.padding import MASK, pad
from dtn_core.passes.pipeline import Lowered, candidates

from .loading import loaded
from .names import python_name
from .python import emit_program, ir_hash
from .streaming import emit_chunked
from .target import Target


class Forms:
    """An operator's forms, in one framework and layout.

    Parameters
    ----------
    target : Target
    operator : Operator
    layout : {"... n d", "... n h d"}
    """

    def __init__(self, target: Target, operator: Operator, layout: str) -> None:
        self.target = target
        self.operator = operator
        self.layout = layout
        self._modules: dict[tuple[Lowered, bool], ModuleType] = {}
        self._functions: dict[tuple[Lowered, bool, str], Callable[..., Any] | None] = {}

    def program(self, padded: bool) -> Program:
        """The definition, with or without a padding mask."""
        return _padded(self.operator.program) if padded else self.operator.program

    def candidates(self, padded: bool = False, complex_input: bool = False) -> tuple[Lowered, ...]:
        """The forms worth choosing from in this framework, the one for long sequences first."""
        return candidates(self.program(padded), complex_input, self.target.costs)

    def text(self, form: Lowered, *, widen: bool = True) -> str:
        """Source text of one form."""
        if form.chunked is not None:
            return emit_chunked(self.target, form, scalars=self.operator.scalars, layout=self.layout, widen=widen)
        return emit_program(
            self.target,
            form.definition,
            form.program,
            scalars=self.operator.scalars,
            layout=self.layout,
            complex_input=form.complex_input,
            widen=widen,
        )

    def function(self, form: Lowered, *, widen: bool = True) -> Callable[..., Any]:
        """The Python function of one form, of tensors, a mask and scalars; its source is shown in tracebacks."""
        found = self._found(form, widen, python_name(form.program.name))
        assert found is not None
        return found

    def step(self, form: Lowered, *, widen: bool = True) -> Callable[..., Any] | None:
        """The function of one token more, with the states as ``initial_state``, if the form has one."""
        return self._found(form, widen, f"{form.program.name}_step")

    def _found(self, form: Lowered, widen: bool, name: str) -> Callable[..., Any] | None:
        """A function of one form's module, called with tensors first."""
        key = form, widen, name
        if key not in self._functions:
            generated = getattr(self._module(form, widen), name, None)
            self._functions[key] = generated and self._reordered(form, generated)
        return self._functions[key]

    def _module(self, form: Lowered, widen: bool) -> ModuleType:
        found = self._modules.get((form, widen))
        if found is None:
            hashed = f"<dtn {ir_hash(form.definition)} {self.target.name}>"
            found = self._modules[form, widen] = loaded(self.text(form, widen=widen), form.program.name, hashed)
        return found

    def _reordered(self, form: Lowered, generated: Callable[..., Any]) -> Callable[..., Any]:
        program = self.operator.program
        order = tuple(param.name for param in form.definition.params)
        tensors = {MASK, *(param.name for param in program.tensors)}
        wanted = (*(name for name in order if name in tensors), *(param.name for param in program.scalars))
        if wanted == order:
            return generated
        places = [wanted.index(name) for name in order]
        return lambda *values, **extra: generated(*[values[place] for place in places], **extra)


@lru_cache(maxsize=512)
def _padded(program: Program) -> Program:
    return pad(program)
