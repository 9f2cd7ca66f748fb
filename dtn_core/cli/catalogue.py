"""What ``dtn ops`` prints."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from ..operators import Entry, catalogue
from ..operators.knobs import CHOICES

PLAIN_WIDTH = 140


def print_catalogue() -> None:
    """Print the operators, and the knobs of those that have some; to a file or a pipe, one line a row."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=PLAIN_WIDTH)
    console.print(_operators())
    console.print()
    console.print(_knobs())
    console.print("\nAn operator is named with its knobs, as in tensor_attention:mask=tril,order=3")


def _operators() -> Table:
    table = Table("operator", "inputs and output", "what it is", box=box.SIMPLE_HEAD, pad_edge=False)
    for entry in catalogue.values():
        table.add_row(entry.name, entry.signature, entry.summary)
    return table


def _knobs() -> Table:
    """Every knob once, with the operators that take it."""
    table = Table("knob", "values", "default", "meaning", "taken by", box=box.SIMPLE_HEAD, pad_edge=False)
    takers: dict[str, list[str]] = {}
    for entry in catalogue.values():
        for knob in entry.knobs:
            takers.setdefault(knob, []).append(entry.name)
    with_knobs = [entry.name for entry in catalogue.values() if entry.knobs]
    for knob, names in takers.items():
        document = catalogue[names[0]].knobs[knob]
        default = "none" if document.default is None else str(document.default).lower()
        taken = "all of these" if names == with_knobs else ", ".join(names)
        if knob == "mask":
            taken = ", ".join(name + _without(catalogue[name]) for name in names)
        table.add_row(knob, document.values, default, document.meaning, taken)
    return table


def _without(entry: Entry) -> str:
    """The masks that an operator does not take."""
    lacking = [str(mask) for mask in CHOICES["mask"] if mask not in entry.masks]
    return f" (without {', '.join(lacking)})" if lacking else ""
