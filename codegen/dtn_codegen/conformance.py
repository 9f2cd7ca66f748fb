"""Generated functions in the forms of the conformance matrix, for the adapters of the backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from typing import Any, ClassVar

from dtn_core.conform.adapter import Adapter, Array, Computed
from dtn_core.conform.cells import Cell
from dtn_core.operators import Operator
from dtn_core.passes.pipeline import Lowered

from .function import Function


class GeneratedAdapter(Adapter):
    """An adapter of a backend whose operators are :class:`~dtn_codegen.function.Function`.

    Attributes
    ----------
    function_type : type
        The backend's subclass.
    packages : tuple of str
        The distributions whose versions are recorded.
    """

    function_type: ClassVar[type[Function]]
    packages: ClassVar[tuple[str, ...]]

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        self.compiled: dict[tuple[Operator, str, str], Computed] = {}

    def compile(self, operator: Operator, form: str, layout: str) -> Computed:
        """The operator in a form; every check of an operator calls the same one."""
        key = operator, form, layout
        if key not in self.compiled:
            self.compiled[key] = self.formed(operator, form, layout)
        return self.compiled[key]

    def formed(self, operator: Operator, form: str, layout: str) -> Computed:
        """The operator in a form, compiled now."""
        function_type: Any = self.function_type
        return in_form(_formed(function_type, form)(operator, layout), form, self.chunk)

    def reset(self) -> None:
        """Let go what was compiled."""
        self.compiled.clear()

    def versions(self) -> Mapping[str, str]:
        """Of the packages that compute."""
        return {name: metadata.version(name) for name in self.packages}

    def why_not(self, cell: Cell) -> str:
        """What the framework lacks; exported programs are called, not differentiated."""
        lack = super().why_not(cell)
        if not lack and cell.mode == "export" and cell.check.endswith("gradient"):
            return "an exported program is called, not differentiated"
        return lack


class Whole:
    """The whole sequence in one call, in the form that ``function`` chooses.

    Parameters
    ----------
    function : Function
        The compiled operator.
    chunk : int, optional
        Tokens of a chunk; the cost model chooses where it is not given.
    """

    def __init__(self, function: Function, chunk: int | None = None) -> None:
        self.function = function
        self.options: dict[str, Any] = {} if chunk is None else {"chunk_size": chunk}

    @property
    def source(self) -> str:
        """The generated text of the form."""
        forms = self.function.forms
        return forms.text(self.function.choose(forms.candidates(), None))

    def __call__(self, *tensors: Array, padding_mask: Array | None = None) -> tuple[Array, ...]:
        return several(self.function(*tensors, padding_mask=padding_mask, **self.options))

    def resumed(self, tensors: Sequence[Array], at: int) -> tuple[Array, ...]:
        """Two calls, the state handed on."""
        head, tail = self.split(tensors, at)
        first, state = self.function(*head, return_state=True, **self.options)
        second = self.function(*tail, initial_state=state, **self.options)
        return self.joined([several(first), several(second)])

    def split(self, tensors: Sequence[Array], at: int) -> tuple[list[Array], list[Array]]:
        """The first tokens of every tensor, and the rest."""
        places = self.function.tokens.places
        return (
            [_part(x, place, slice(0, at)) for x, place in zip(tensors, places, strict=True)],
            [_part(x, place, slice(at, None)) for x, place in zip(tensors, places, strict=True)],
        )

    def joined(self, pieces: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
        """Pieces of every output one after another."""
        joined = self.function.arrays.joined
        places = self.function.tokens.result_places
        return tuple(joined([piece[i] for piece in pieces], place) for i, place in enumerate(places))


class Recurrent(Whole):
    """A step for every token."""

    def __call__(self, *tensors: Array, padding_mask: Array | None = None) -> tuple[Array, ...]:
        return self.joined(self.steps(self.function.init_state(*tensors), tensors))

    def resumed(self, tensors: Sequence[Array], at: int) -> tuple[Array, ...]:
        """Steps from the state of a call."""
        head, tail = self.split(tensors, at)
        first, state = self.function(*head, return_state=True)
        return self.joined([several(first), *self.steps(state, tail)])

    def steps(self, state: Any, tensors: Sequence[Array]) -> list[tuple[Array, ...]]:
        """The outputs of each token, with an axis of tokens."""
        function = self.function
        count = next(int(x.shape[place]) for x, place in zip(tensors, function.tokens.places, strict=True) if place)
        made = []
        for token in range(count):
            one = [
                function.arrays.squeeze(_part(x, place, slice(token, token + 1)), place) if place else x
                for x, place in zip(tensors, function.tokens.places, strict=True)
            ]
            found, state = function.step(state, *one)
            outputs = zip(several(found), function.tokens.result_places, strict=True)
            made.append(tuple(function.arrays.expand(x, place) for x, place in outputs))
        return made


def in_form(function: Function, form: str, chunk: int) -> Whole:
    """``function`` called in a form of the matrix; with chunks of ``chunk`` tokens in the form that has some."""
    return Recurrent(function) if form == "recurrent" else Whole(function, chunk if form == "chunked" else None)


def second_of(outputs: Sequence[Array]) -> tuple[Array, ...]:
    """Of outputs for two examples, those of the second."""
    return tuple(x[1] for x in outputs)


def several(result: Any) -> tuple[Array, ...]:
    """The outputs, a tuple even of one."""
    return result if isinstance(result, tuple) else (result,)


@cache
def _formed(function_type: Any, form: str) -> Any:
    """``function_type`` that computes in one form whatever the sizes."""

    def choose(self: Function, forms: tuple[Lowered, ...], sizes: Mapping[str, int] | None) -> Lowered:
        return [each for each in forms if each.chunked is None][-1] if form == "dense" else forms[0]

    return type(f"{form.capitalize()}{function_type.__name__}", (function_type,), {"choose": choose})


def _part(x: Array, place: int, which: slice) -> Array:
    return x[(..., which, *[slice(None)] * (-place - 1))] if place else x
