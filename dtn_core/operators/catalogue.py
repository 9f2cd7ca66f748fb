"""The catalogue by name, and operators from the command line's text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .knobs import CHOICES, INTERACTION_MASKS, KNOBS, KnobDoc, check
from .operator import Operator, as_operator
from .tensor_attention import tensor_attention
from .tensor_interaction import tensor_interaction

MAX_FILE = 100_000

_WRITTEN = {
    "linear_attention": (
        "First-order linear attention, causal",
        """linear_attention(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
    o[t,c] = q[t,a] * conj(k[j,a]) * v[j,c]   where j <= t""",
    ),
    "ahla": (
        "Asymmetric higher-order linear attention (arXiv 2510.27258 section 6), causal",
        """ahla(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
    o[t,c] = q[t,a] * conj(k[i,a]) * q[i,b] * conj(k[j,b]) * v[j,c]   where j <= i <= t""",
    ),
    "second_order": (
        "Second-order causal attention without normalisation",
        """second_order(q[n,d], k[n,d], v[n,e]) -> o[n,e]:
    o[t,c] = q[t,a] * conj(k[i,a]) * k[i,b] * conj(q[j,b]) * v[j,c]   where i <= j <= t""",
    ),
    "two_simplicial": (
        "Two independent attended tokens a query, causal",
        """two_simplicial(q[n,d], k[n,d], l[n,d], v[n,e], w[n,e]) -> o[n,e]:
    o[t,c] = q[t,a] * k[i,a] * l[j,a] * v[i,c] * w[j,c]   where i <= t, j <= t""",
    ),
}


@dataclass(frozen=True)
class Entry:
    """A catalogue entry.

    Attributes
    ----------
    name, summary, signature : str
        Name, one line, and ``q[n,d], … -> o[n,e]``.
    knobs : dict[str, KnobDoc]
        The knobs it takes.
    build : callable
        ``build(**knobs) -> Operator``.
    masks : tuple
        The values that its knob ``mask`` takes.

    Examples
    --------
    >>> list(catalogue)
    ['tensor_attention', 'tensor_interaction', 'linear_attention', 'ahla', 'second_order', 'two_simplicial']
    >>> entry = catalogue["ahla"]
    >>> entry.summary
    'Asymmetric higher-order linear attention (arXiv 2510.27258 section 6), causal'
    >>> entry.build()
    <Operator ahla(q[n,d], k[n,d], v[n,e]) -> o[n,e]>
    >>> catalogue["tensor_attention"].knobs["order"].values
    'integer from 1 to 64'
    """

    name: str
    summary: str
    signature: str
    knobs: dict[str, KnobDoc]
    build: Callable[..., Operator]
    masks: tuple[str | None, ...] = CHOICES["mask"]

    def check(self, knobs: Mapping[str, Any]) -> None:
        """Refuse knobs that clash, without building anything.

        Raises
        ------
        ValueError
            As ``build``.
        """
        check(self.name, knobs, self.masks)


def _knobbed(build: Callable[..., Operator], summary: str, signature: str, masks: tuple[str | None, ...]) -> Entry:
    knobs = {name: KNOBS[name] for name in inspect.signature(build).parameters}
    return Entry(build.__name__, summary, signature, knobs, build, masks)


def _written(name: str, summary: str, text: str) -> Entry:
    head = text.partition(":\n")[0]

    def build() -> Operator:
        return as_operator(text)

    return Entry(name, summary, head.removeprefix(name).replace("(", "", 1).replace(") ->", " ->"), {}, build)


catalogue: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _knobbed(
            tensor_attention,
            "Token mixing by a product of score matrices",
            "q[n,d], k[n,d], v[n,e] -> o[n,e]",
            CHOICES["mask"],
        ),
        _knobbed(
            tensor_interaction,
            "Channel mixing by a product of feature matrices",
            "q[n,d], k[n,d], v[n,d] -> o[n,d]",
            INTERACTION_MASKS,
        ),
        *(_written(name, summary, text) for name, (summary, text) in _WRITTEN.items()),
    )
}


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no name of a file: too long
        return False


def load(text: str) -> Operator:
    """An operator from a catalogue name with knobs, or from the path of a file of index notation.

    Parameters
    ----------
    text : str
        ``"tensor_attention"``, ``"tensor_attention:mask=tril,order=3"`` or ``"my_operator.dtn"``.

    Returns
    -------
    Operator
        What ``compile`` of every backend takes.

    Raises
    ------
    ValueError
        Unknown operator or knob, a value that does not parse, or knobs that clash.
    NotationError
        A file whose notation is wrong.

    Examples
    --------
    >>> load("tensor_attention:order=3,normalize=none")
    <Operator tensor_attention(q[n,d], k[n,d], v[n,e]) -> o[n,e], order=3, normalize=None>
    >>> load("tensor_attention:order=zero")
    Traceback (most recent call last):
    ValueError: tensor_attention: order='zero' is not an integer >= 1
    """
    name, _, rest = text.partition(":")
    entry = catalogue.get(name)
    if entry is not None:
        knobs: dict[str, Any] = {}
        for knob, value in (_knob(entry, item) for item in rest.split(",") if item):
            if knob in knobs:
                raise ValueError(f"{name}: knob {knob} is given twice")
            knobs[knob] = value
        return entry.build(**knobs)
    path = Path(text)
    if _is_file(path):
        content = path.read_bytes()
        if len(content) > MAX_FILE:
            raise ValueError(f"{text}: {len(content):,} bytes of notation; at most {MAX_FILE:,} are read")
        try:
            return as_operator(content.decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"{text}: not UTF-8 text at byte {error.start}") from None
    known = ", ".join(catalogue)
    raise ValueError(f"{name!r} is neither a file nor an operator of the catalogue ({known})")


def _knob(entry: Entry, item: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in item.partition("="))
    if name not in entry.knobs:
        known = ", ".join(entry.knobs) or "none"
        raise ValueError(f"{entry.name}: unknown knob {name!r}; known: {known}")
    if not equals:
        raise ValueError(f"{entry.name}: knob {name} needs a value, as in {name}={entry.knobs[name].default}")
    if value.lower() in ("none", "true", "false"):
        return name, {"none": None, "true": True, "false": False}[value.lower()]
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value
