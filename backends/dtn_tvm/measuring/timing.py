"""How long a kernel takes, and how long anything could at least take on this device."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .device import Device

SPAN = 0.02  # seconds: shorter kernels are run several times between two looks at the clock
PATIENCE = 0.6  # seconds that one kernel is measured for, at least
AT_LEAST, AT_MOST = 5, 50  # looks at the clock
SHORT_RUNS = 500  # of a kernel of less than a millisecond: one at least is not disturbed by what else runs
HOPELESS = 3.0  # times the best so far: one look is enough


def seconds(run: Callable[[], object], wait: Callable[[], None], best: float | None = None) -> list[float]:
    """Times of one run each, after a run that is not counted.

    Parameters
    ----------
    run : callable
        Starts the kernel.
    wait : callable
        Returns when it has ended.
    best : float, optional
        The best known time; a kernel three times slower is looked at once.
    """
    once = _span(run, wait, 1)  # the first run loads and warms up
    once = _span(run, wait, 1)
    if best is not None and once > HOPELESS * best:
        return [once]
    number = max(1, int(SPAN / max(once, 1e-7)))
    looks = min(AT_MOST, max(AT_LEAST, int(PATIENCE / max(once * number, 1e-7))))
    return [_span(run, wait, number) for _ in range(looks)]


def _span(run: Callable[[], object], wait: Callable[[], None], number: int) -> float:
    wait()
    start = time.perf_counter()
    for _ in range(number):
        run()
    wait()
    return (time.perf_counter() - start) / number


def ceilings(device: Device, about: Mapping[str, Any] | None, folder: Path) -> dict[str, float]:
    """What the device reaches in plain work, at best: a large copy, and on a processor multiply-adds in registers.

    Parameters
    ----------
    device : Device
    about : Mapping or None
        A kernel of nothing but multiply-adds: ``library``, ``input``, ``output`` and ``flops``.
    folder : Path
        Where its library is.

    Returns
    -------
    dict
        ``bandwidth``, bytes read and written a second; ``flops`` a second in float32, if there is such a kernel.
    """
    found = {"bandwidth": _processor_copy() if device.kind == "cpu" else _card_copy(device)}
    if about is not None:
        kernel = device.load(folder / about["library"])
        halved = np.stack([np.full(about["input"][1], 0.5), np.ones(about["input"][1])])  # its sums stay finite
        arguments = [device.put(halved, "float32"), device.empty(tuple(about["output"]), "float32")]
        times = [_span(lambda: kernel(*arguments), device.wait, 1) for _ in range(SHORT_RUNS)]
        found["flops"] = about["flops"] / min(times)
    return found


def _card_copy(device: Device) -> float:
    size = 1 << 30
    source, to = device.empty((size,), "int8"), device.empty((size,), "int8")
    return 2 * size / min(seconds(lambda: device.copy(source, to), device.wait))


def _processor_copy() -> float:
    threads, size = int(os.environ.get("TVM_NUM_THREADS") or 1), 1 << 27
    source, to = np.ones(size, np.int8), np.zeros(size, np.int8)
    parts = list(zip(np.array_split(source, threads), np.array_split(to, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        times = seconds(lambda: list(pool.map(lambda part: np.copyto(part[1], part[0]), parts)), _at_once)
    return 2 * size / min(times)


def _at_once() -> None:
    """NumPy has ended when it returns."""
