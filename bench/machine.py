"""Where and from what the figures come."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from dtn_core.cpuinfo import cores, cpuinfo

PACKAGES = (
    "deep-tensor-network",
    "numpy",
    "opt_einsum",
    "einx",
    "cuequivariance",
    "torch",
    "triton",
    "flash-linear-attention",
    "jax",
    "jaxlib",
    "tensorflow",
    "apache-tvm",
)
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
"""Vector units by the flag that Linux shows of them, the widest first."""


def processor() -> str:
    """The processor's own name where the system says it."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def plain(processor: str) -> str:
    """A processor's name without marks and words that say nothing.

    Examples
    --------
    >>> plain("Intel(R) Xeon(R) Processor"), plain("AMD EPYC")
    ('Intel Xeon', 'AMD EPYC')
    """
    return re.sub(r"\((R|TM)\)", "", processor).removesuffix(" Processor")


def vectors() -> str:
    """The processor's vector unit, of those in ``VECTORS``, where the system says it: names are shared."""
    flags = cpuinfo("flags", "Features").split()
    return next((unit for flag, unit in VECTORS.items() if flag in flags), "")


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Of those packages that are installed."""
    installed = {}
    for package in packages:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def memory() -> int | None:
    """Bytes of memory, where the system says it."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None


def commit() -> dict[str, Any] | None:
    """What is checked out, and whether files differ from it; None outside a repository."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )

    try:
        head = git("rev-parse", "HEAD")
    except FileNotFoundError:
        return None
    if head.returncode:
        return None
    changed = git("status", "--porcelain", "--", ":/", ":!results").stdout.strip()  # results are no change of the code
    return {"hash": head.stdout.strip(), "changed": bool(changed)}


def describe(accelerator: str | None = None) -> dict[str, Any]:
    """Machine, versions, commit and date, as they are written next to the figures."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "processor": processor(),
            "vectors": vectors(),
            "cores": cores(),
            "accelerator": accelerator,
            "memory": memory(),
            "system": f"{platform.system()} {platform.machine()}",
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        },
        "python": platform.python_version(),
        "versions": versions(),
    }


def slug(accelerator: str | None = None) -> str:
    """A file's name for this machine: its processor, vector unit and cores, or its accelerator.

    Examples
    --------
    >>> slug("NVIDIA H100 80GB HBM3")
    'nvidia-h100-80gb-hbm3'
    """
    text = accelerator or f"{plain(processor())} {vectors()} {cores()} cores"
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
