"""What ``dtn tune`` does, after its arguments were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from dtn_core.errors import DtnError
from dtn_core.operators import Operator

from .candidates import Options
from .measuring.bundle import BundleError, kept, measure
from .measuring.start import INTERRUPTED
from .record import Record, shape, shortened
from .records import to_change
from .targets import Target
from .targets import target as named_target
from .view import View, console, counted, duration

if TYPE_CHECKING:
    from .problem import Problem

SHORT = {"b": "batch", "h": "heads"}


def problem(
    operator: Operator, direction: Literal["forward", "backward"], dtype: str, given: Mapping[str, int]
) -> Problem:
    """The problem of a command line.

    Parameters
    ----------
    operator : Operator
    direction : {"forward", "backward"}
    dtype : str
    given : Mapping[str, int]
        Axis sizes, ``b`` and ``h`` for batch and heads, which are 1 where they are not given.

    Raises
    ------
    ValueError
        Names the axis that is missing, given twice, or not of the operator.
    """
    from .problem import Problem

    axes = operator.program.axes
    sizes: dict[str, int] = {}
    names: dict[str, str] = {}
    for name, size in given.items():
        axis = name if name in axes else SHORT.get(name, name)
        if axis not in (*SHORT.values(), *axes):
            known = ", ".join([*SHORT, *axes])
            raise ValueError(f"{operator.name} has no axis {name!r}; its axes are {known}")
        if size < 1:
            raise ValueError(f"axis {name!r} has size {size}; expected at least 1")
        if axis in names:
            raise ValueError(f"axis {axis!r} is given twice, as {names[axis]!r} and as {name!r}")
        sizes[axis], names[axis] = size, name
    missing = [axis for axis in axes if axis not in sizes]
    if missing:
        raise ValueError(f"{operator.name}: size of axis {missing[0]!r} is missing, as in {missing[0]}=64")
    return Problem(operator, direction, dtype, {"batch": 1, "heads": 1, **sizes})


def check_operator(operator: Operator) -> None:
    """Raise ValueError for an operator that ``implementation="tvm"`` refuses, as it does."""
    from .implementation import IMPLEMENTATION

    IMPLEMENTATION.kernels(operator, "... n d")


def target(text: str) -> Target:
    """The target of a command line; TVM has to be there."""
    from .toolchain import check_toolchain

    try:
        check_toolchain()
    except ImportError as error:
        raise DtnError(str(error)) from None
    return named_target(text)


def run_tune(
    what: Problem, where: Target, records: Path, options: Options, rpc: tuple[str, int] | None, key: str
) -> int:
    """``dtn tune OP``: search, show, file the record.

    Returns
    -------
    int
        Exit status; 130 after Ctrl-C.
    """
    from .site import local, remote
    from .tune import tune

    to = console()
    if not records.parent.is_dir():
        raise DtnError(f"records {records}: there is no folder {records.parent}")
    if records.exists():
        to_change(records)
    site = local(where) if rpc is None else remote(where, *rpc, key, options.measure_timeout)
    with site, View(to, what.operator.name).shown() as view:
        record, progress = tune(what, where, site, records, options, view)
    out = Console(markup=False, highlight=False, emoji=False)
    for line in report(record, progress.done, progress.resumed, dict(progress.failures)):
        out.print(line, soft_wrap=True)
    if progress.interrupted:
        to.print(f"stopped after {progress.done} of {progress.total} candidates; run again to go on", soft_wrap=True)
        return INTERRUPTED
    out.print(f"record in {records}; used where DTN_RECORDS or dtn_tvm.use_records names it", soft_wrap=True)
    return 0


def report(record: Record, done: int, resumed: int, failures: Mapping[str, int]) -> list[str]:
    """What was found, line by line."""
    receipt = record.receipt
    counted = ", ".join(f"{count} {reason}" for reason, count in failures.items()) or "none"
    lines = [
        f"{record.operator} {record.direction}, {record.dtype}, {shape(record.sizes)}, on {receipt.device}",
        f"candidates  {done} measured" + (f", {resumed} of them by an earlier run" if resumed else ""),
        f"failed      {counted}",
        f"best        {duration(receipt.seconds)}"
        + (f", {receipt.roofline:.0%} of the roofline" if receipt.roofline is not None else ""),
        "errors      " + ", ".join(f"{name} {error:.1e}" for name, error in receipt.errors.items()),
        "schedule    " + ", ".join(f"{name}={shortened(value)}" for name, value in record.schedule.items()),
    ]
    if dict(receipt.checked) != dict(record.sizes):
        lines[4] += f", compared at {shape(receipt.checked)}"
    return lines


def run_build(problems: Sequence[Problem], where: Target, path: Path, options: Options) -> int:
    """``dtn tune build``: compile candidates into a bundle."""
    from .bundle import build

    lacking: list[str] = []
    with View(console(), f"compiling for {where.name}").shown() as view:
        progress = build(problems, where, path, options, view, lacking.append)
    built = progress.done - progress.failures.total()
    print(f"{path}: {counted(built, 'candidate')} for {where.name}, {path.stat().st_size / (1 << 20):.1f} MiB")
    for reason, count in progress.failures.items():
        print(f"left out: {count} {reason}, as in {progress.details[reason]}")
    for reason in lacking:
        print(f"left out: {reason}")
    print(f"on the machine of the device: python {path.name} -o results.json --budget 300")
    print("then here:                    dtn tune import results.json --records PATH")
    return 0


def run_measure(path: Path, results: Path, budget: float) -> int:
    """``dtn tune measure``: what ``python bundle.zip`` does, by this library's code."""
    to = console()

    def tell(state: Mapping[str, Any]) -> None:
        last = state["last"]
        said = duration(last["seconds"]) if "seconds" in last else f"{last['failure']}: {last['detail']}"
        to.print(f"{state['done']}/{state['total']}  {said}", soft_wrap=True)

    try:
        found = measure(path, results, budget, tell)
    except BundleError as error:
        raise DtnError(str(error)) from None
    except KeyboardInterrupt:
        to.print(kept(results), soft_wrap=True)
        return INTERRUPTED
    total = sum(len(entry["candidates"]) for entry in found["manifest"]["problems"])
    print(f"{len(found['measured'])} of {total} candidates measured on {found['device']}; results in {results}")
    return 0


def run_import(path: Path, records: Path) -> int:
    """``dtn tune import``: file what was measured elsewhere."""
    from .bundle import import_results

    target("cpu")  # says what is missing
    lacking: list[str] = []
    try:
        made = import_results(path, records, leave_out=lacking.append)
    except BundleError as error:
        raise DtnError(str(error)) from None
    for record in made:
        best = duration(record.receipt.seconds)
        print(f"{record.operator} {record.direction}, {record.dtype}, {shape(record.sizes)}: {best}")
    for reason in lacking:
        print(f"left out: {reason}")
    print(f"{counted(len(made), 'record')} of {made[0].receipt.device} in {records}")
    return 0
