"""What commands take: an operator, axis sizes, a backend. Each is refused with what was expected instead."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dtn_codegen.target import Target

    from ..conform.backends import Backend
    from ..conform.cells import Choice
    from ..conform.operators import Case
    from ..operators import Operator

_SIZE = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(\d+)\s*", re.ASCII)
_NUMBER = r"(\d+(?:\.\d+)?)"
_TIME = re.compile(rf"{_NUMBER}|(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?", re.ASCII)
_ADDRESS = re.compile(r"\[?([^\s\[\]]+)\]?:(\d{1,5})", re.ASCII)
MAX_SIZE = 10**15
MAX_SECONDS = 10**7


def operator(text: str) -> Operator:
    """The operator that ``text`` names.

    Parameters
    ----------
    text : str
        A catalogue name, with knobs or without, or the path of a file of index notation.

    Raises
    ------
    typer.BadParameter
        With the one line, or the line and a caret, that says what is wrong with it.

    Examples
    --------
    >>> operator("tensor_attention:order=3").name
    'tensor_attention'
    """
    from ..errors import DtnError
    from ..operators import load

    try:
        return load(text)
    except (DtnError, ValueError) as error:
        raise typer.BadParameter(_said(text, error), param_hint="OP") from None


def _said(text: str, error: Exception) -> str:
    """An error, which names the file if it is about notation: an empty one does not say which operator it defines."""
    from ..errors import NotationError

    return f"{text}: {str(error).removeprefix('?, ')}" if isinstance(error, NotationError) else str(error)


def sizes(text: str | None) -> dict[str, int] | None:
    """Axis sizes from ``"n=4096,d=64"``.

    Raises
    ------
    typer.BadParameter
        Names the item that is not ``axis=size``.

    Examples
    --------
    >>> sizes("n=4096, d=64")
    {'n': 4096, 'd': 64}
    """
    if text is None:
        return None
    found: dict[str, int] = {}
    for item in text.split(","):
        match = _SIZE.fullmatch(item)
        if match is None:
            raise typer.BadParameter(f"{item.strip()!r} is not axis=size, as in n=4096,d=64,e=64", param_hint="--shape")
        axis, size = match[1], int(match[2][:20])
        if axis in found:
            raise typer.BadParameter(f"axis {axis!r} is given twice", param_hint="--shape")
        if size > MAX_SIZE:
            raise typer.BadParameter(f"axis {axis}: {match[2][:20]} is above 10^15", param_hint="--shape")
        found[axis] = size
    return found


def target(name: str) -> Target:
    """The table of the backend ``name``, if one of that name is installed.

    Raises
    ------
    typer.BadParameter
        Lists the ones there are.
    """
    from dtn_codegen import target as find

    try:
        return find(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--backend") from None


def names(text: str | None, known: Sequence[str], hint: str) -> list[str] | None:
    """A list of names from ``"a,b"``, each of them known and given once; None for None.

    Raises
    ------
    typer.BadParameter
        Names the one that is not, and lists those there are.

    Examples
    --------
    >>> names("torch, jax", ["jax", "torch"], "--frameworks")
    ['torch', 'jax']
    """
    found = _split(text)
    for name, times in Counter(found).items():
        if times > 1:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=hint)
        one_of(name, known, hint)
    return found


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def one_of(name: str, known: Sequence[str], hint: str) -> str:
    """``name`` if it is known.

    Raises
    ------
    typer.BadParameter
        Lists the ones there are.
    """
    if name not in known:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}", param_hint=hint)
    return name


def cases(text: str | None) -> list[Case]:
    """The operators of the conformance matrix that ``--ops`` names; all of them for None.

    A name alone stands for all its combinations of knobs; several are separated by ``;``, or by commas where none has
    knobs.

    Raises
    ------
    typer.BadParameter
        For an operator that is not known, or knobs that clash.
    """
    from ..conform.operators import case
    from ..conform.operators import cases as every
    from ..errors import DtnError

    if text is None:
        return list(every())
    parts = [part.strip() for piece in text.split(";") for part in ([piece] if ":" in piece else piece.split(","))]
    found: dict[str, Case] = {}
    for part in parts:
        own = [each for each in every() if ":" not in part and each.name == part]
        try:
            found.update({each.text: each for each in own or [case(part)]})
        except (DtnError, ValueError) as error:
            raise typer.BadParameter(_said(part, error), param_hint="--ops") from None
    return list(found.values())


def choice(*, dtypes: str | None, forms: str | None, modes: str | None, checks: str | None) -> Choice:
    """The part of the conformance matrix that is asked for.

    Raises
    ------
    typer.BadParameter
        For a name that is not on its axis.
    """
    from ..conform.cells import CHECKS, DTYPES, FORMS, MODES, Choice

    given = {"dtypes": (dtypes, DTYPES), "forms": (forms, FORMS), "modes": (modes, MODES), "checks": (checks, CHECKS)}
    return Choice(**{axis: names(text, list(known), f"--{axis}") for axis, (text, known) in given.items()})


def backends(text: str | None, modules: Sequence[str]) -> list[Backend]:
    """The backends of the conformance matrix that ``--backends`` and ``--backend-module`` name.

    Raises
    ------
    typer.BadParameter
        For a name that is unknown, given twice or not installed, or a module that is not found.
    """
    from ..conform.backends import ConformError, adapter_module, chosen

    try:
        for module in modules:
            adapter_module(module)
    except ConformError as error:  # it names the option
        raise typer.BadParameter(str(error)) from None
    try:
        return chosen(_split(text), modules)
    except ConformError as error:
        raise typer.BadParameter(str(error), param_hint="--backends") from None


def seconds(text: str, option: str) -> float:
    """A time from ``"90"``, ``"90s"``, ``"10m"`` or ``"1h30m"``.

    Raises
    ------
    typer.BadParameter
        If it is none, or nothing.

    Examples
    --------
    >>> seconds("10m", "--time-budget"), seconds("1h30m", "--time-budget")
    (600.0, 5400.0)
    """
    match = _TIME.fullmatch("".join(text.split()))
    parts = (0.0,) if match is None else (float(part or 0) for part in match.groups())
    found = sum(part * unit for part, unit in zip(parts, (1, 3600, 60, 1), strict=False))
    if not 0 < found <= MAX_SECONDS:
        raise typer.BadParameter(f"{text!r} is not a time, as in 90s, 10m, 1h30m", param_hint=option)
    return found


def limit(help: str, least: float) -> Any:
    """An option that is a number of seconds, from ``least`` on; NaN, which no bound excludes, is refused."""
    return typer.Option(min=least, max=MAX_SECONDS, callback=_number, metavar="SECONDS", help=help)


def _number(value: float) -> float:
    if math.isnan(value):
        raise typer.BadParameter(f"{value} is not a number")
    return value


def address(text: str, option: str) -> tuple[str, int]:
    """Host and port from ``"10.0.0.5:9190"``.

    Raises
    ------
    typer.BadParameter
        If there is no port, or none that can be.

    Examples
    --------
    >>> address("localhost:9190", "--rpc")
    ('localhost', 9190)
    """
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or not 0 < int(match[2]) < 65536:
        raise typer.BadParameter(f"{text!r} is not host:port, as in 10.0.0.5:9190", param_hint=option)
    return match[1], int(match[2])
