"""``python bundle.zip -o results.json --budget 300``: what a bundle does when it is run."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from .bundle import BundleError, kept, measure
from .process import HERE
from .start import INTERRUPTED


def main() -> int:
    """Measure the bundle that is running.

    Returns
    -------
    int
        Exit status: 1 if something does not fit, 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        Of status 143 after SIGTERM, as a scheduler of jobs sends it: what was unpacked is removed.
    """
    parser = argparse.ArgumentParser(
        prog=f"python {HERE.name}",
        description="Check and measure the kernels of this bundle on the device of this machine.",
        epilog="Needs Python, NumPy and apache-tvm-ffi. An interrupted run goes on where it stopped.",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("results.json"), help="default: %(default)s")
    parser.add_argument("--budget", type=_seconds, default=300.0, metavar="SECONDS", help="default: %(default)g")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _unwind)
    try:
        found = measure(HERE, given.output, given.budget, _tell)
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {kept(given.output)}", file=sys.stderr)
        return INTERRUPTED
    total = sum(len(problem["candidates"]) for problem in found["manifest"]["problems"])
    print(f"{len(found['measured'])} of {total} candidates measured on {found['device']}; results in {given.output}")
    return 0


def _unwind(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, as in 300")
    return found


def _tell(state: Mapping[str, Any]) -> None:
    last = state["last"]
    said = f"{last['seconds'] * 1e3:.3f} ms" if "seconds" in last else f"{last['failure']}: {last['detail']}"
    print(f"{state['done']}/{state['total']}  {said}", flush=True)
