"""What Linux says of the processor."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def cpuinfo(*fields: str) -> str:
    """What is said of the first core under one of these names; nothing on other systems.

    Examples
    --------
    >>> cpuinfo("no such field")
    ''
    """
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    return next((value.strip() for key, _, value in (x.partition(":") for x in lines) if key.strip() in fields), "")
