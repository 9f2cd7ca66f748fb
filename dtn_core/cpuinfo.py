"""What the system says of the processor."""

from __future__ import annotations

import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def cpuinfo(*fields: str) -> str:
    """What Linux says of the first core under one of these names; nothing on other systems.

    Examples
    --------
    >>> cpuinfo("no such field")
    ''
    """
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    return next((value.strip() for key, _, value in (x.partition(":") for x in lines) if key.strip() in fields), "")


def cores() -> int:
    """Cores that this process may use.

    Examples
    --------
    >>> cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
