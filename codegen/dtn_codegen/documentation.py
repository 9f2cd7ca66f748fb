"""Docstrings of the public functions: what each parameter means in one place, and an example of the framework.

A knob is described where its operator is defined, an argument of a call where it is taken; ``help`` shows both, so
references between the two are written out here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from types import FunctionType, MethodType
from typing import Any, NamedTuple, TypeVar, cast

from dtn_core import operators

from . import examples
from .functional import Functional

Public = TypeVar("Public", bound=Callable[..., Any])

_SECTION = re.compile(r"^(\w[\w ]*)\n-+\n", re.MULTILINE)
_REFERENCE = re.compile(r"(?:See|As|As in) :(?:func|meth):`[\w.]+`\.")


class Entry(NamedTuple):
    """What a docstring says of a parameter: its type, if it names one, and the indented lines below."""

    kind: str
    text: str


def documented(
    function: Public,
    package: str,
    example: str,
    *,
    notes: str = "",
    operator: Callable[..., Any] | None = None,
    like: Callable[..., Any] | None = None,
) -> Public:
    """A method that says everything about itself.

    Parameters
    ----------
    function : bound method
        Returned as a copy, which costs no more to call.
    package : str
        The package whose function it is.
    example : str
        The last section of its docstring, which runs in that package.
    notes : str
        A paragraph for the end of the section before.
    operator : function, optional
        What defines the operator: whatever it says of a parameter is said here first.
    like : function, optional
        The method that the docstring refers to for the rest.

    Examples
    --------
    >>> from .functional import Functional
    >>> class Double(Functional):
    ...     def double(self, x):
    ...         '''Twice a number.'''
    ...         return 2 * x
    >>> double = documented(Double(object).double, "dtn_mine", ">>> dtn.double(2)")
    >>> double(3)
    6
    >>> double.__doc__.splitlines()[-1]
    '>>> dtn.double(2)'
    """
    method = cast(MethodType, function)
    own = cast(FunctionType, method.__func__)
    copy = FunctionType(own.__code__, own.__globals__, own.__name__, own.__defaults__, own.__closure__)
    copy.__kwdefaults__ = own.__kwdefaults__
    copy.__annotations__ = own.__annotations__
    copy.__module__ = package
    copy.__qualname__ = own.__name__
    if own.__doc__ is not None:  # None under python -OO
        other = [inspect.cleandoc(each.__doc__ or "") if each else "" for each in (operator, like)]
        text = _written_out(inspect.cleandoc(own.__doc__), *other)
        parts = [text, notes.strip(), f"Examples\n--------\n{example.strip()}"]
        copy.__doc__ = "\n\n".join(part for part in parts if part)
    return cast(Public, MethodType(copy, method.__self__))


def published(
    functional: Functional, package: str, setup: str, notes: str, gradients: str = ""
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """``compile``, ``tensor_attention`` and ``tensor_interaction`` of a package.

    Parameters
    ----------
    functional : Functional
        Whose methods they are.
    package : str
    setup : str
        The lines of an example that import the package as ``dtn`` and make q, k and v, as :mod:`.examples` says.
    notes : str
        What holds in its framework.
    gradients : str
        An example of gradients, where there are any.

    Examples
    --------
    >>> import dtn_numpy
    >>> dtn_numpy.tensor_attention.__doc__.partition(",")[0]
    'Tensor Attention ``T(q'
    """
    attention = examples.ATTENTION.format(setup=setup) + gradients
    interaction = examples.INTERACTION.format(setup=setup)
    return (
        documented(functional.compile, package, examples.COMPILE.format(setup=setup)),
        documented(functional.tensor_attention, package, attention, notes=notes, operator=operators.tensor_attention),
        documented(
            functional.tensor_interaction,
            package,
            interaction,
            notes=notes,
            operator=operators.tensor_interaction,
            like=functional.tensor_attention,
        ),
    )


def _written_out(text: str, operator: str, like: str) -> str:
    """A docstring in which no parameter and no error is a reference."""
    head, *parts = _SECTION.split(text)
    written = [head.rstrip()]
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in ("Parameters", "Raises"):
            referred = _entries(_section(like, name), references=False) | _entries(body, references=False)
            defined = _entries(_section(operator, name)) if name == "Parameters" else {}
            body = "\n".join(_merged(_entries(body), referred, defined))
        written.append(f"{name}\n{'-' * len(name)}\n{body.rstrip()}")
    return "\n\n".join(written)


def _merged(own: Iterable[str], called: Mapping[str, Entry], defined: Mapping[str, Entry]) -> Iterator[str]:
    """The lines of a section: of each name what the operator says, then what the call does."""

    def said(name: str) -> Entry:
        entries = [each[name] for each in (called, defined) if name in each]
        kind = next((entry.kind for entry in entries if entry.kind), "")
        return Entry(kind, "\n".join(entry.text for entry in reversed(entries)))

    for entry, names in groupby(own, key=said):
        yield ", ".join(names) + (f" : {entry.kind}" if entry.kind else "")
        yield entry.text


def _section(text: str, name: str) -> str:
    _, *parts = _SECTION.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True)).get(name, "")


def _entries(body: str, *, references: bool = True) -> dict[str, Entry]:
    """What a section says of each name; nothing of those for which it refers to another docstring, if so asked."""
    found: dict[str, Entry] = {}
    for entry in re.split(r"\n(?=\S)", body.strip()):
        head, _, text = entry.partition("\n")
        names, _, kind = head.partition(" : ")
        if references or not _REFERENCE.match(text.strip()):
            found.update(dict.fromkeys(names.split(", "), Entry(kind, text)) if names else {})
    return found
