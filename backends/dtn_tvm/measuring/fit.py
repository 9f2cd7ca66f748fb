"""Whether a device is the one that kernels are for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def is_named(model: str, name: str) -> bool:
    """Whether a driver's name of a device has the model as a word of its own.

    Examples
    --------
    >>> is_named("A100", "NVIDIA A100-SXM4-80GB"), is_named("A10", "NVIDIA A100-SXM4-80GB")
    (True, False)
    """
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(model)}(?![A-Za-z0-9])", name) is not None


def misfit(target: Mapping[str, Any], device: Mapping[str, Any]) -> str:
    """Why kernels for a target are not for a device; empty where they are.

    Parameters
    ----------
    target : Mapping
        ``name``; ``device``, the model that it stands for, empty for any; ``arch``, its instruction set; and ``flags``,
        which a processor has to have.
    device : Mapping
        ``name``, ``compute_version`` and ``flags``, as the job ``device`` is answered.

    Examples
    --------
    >>> level4 = {"name": "json", "device": "", "arch": "x86-64-v4", "flags": ["avx2", "avx512f"]}
    >>> misfit(level4, {"name": "a processor", "compute_version": "", "flags": ["avx2"]})
    'for x86-64-v4, the device is a processor, which lacks avx512f'
    """
    if target["device"] and not is_named(target["device"], device["name"]):
        return f"for {target['name']}, the device is {device['name']}"
    if device.get("flags"):  # a processor that says what it has
        lacking = [flag for flag in target["flags"] if flag not in device["flags"]]
        wanted = target["arch"] or "another processor"
        return f"for {wanted}, the device is {device['name']}, which lacks {', '.join(lacking)}" if lacking else ""
    arch = re.fullmatch(r"sm_(\d+)(\d)([a-z]?)", target["arch"])
    if arch is None or not device["compute_version"]:
        return ""
    major, minor = (int(part) for part in device["compute_version"].split(".")[:2])
    least = int(arch[1]), int(arch[2])
    if major == least[0] and (minor == least[1] or (minor > least[1] and not arch[3])):
        return ""
    return f"for {target['arch']}, the device is {device['name']} with compute capability {device['compute_version']}"
