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
        ``name``; ``device``, the model that it stands for, empty for any; and ``arch``, its instruction set.
    device : Mapping
        ``name`` and ``compute_version``, as the job ``device`` is answered.
    """
    if target["device"] and not is_named(target["device"], device["name"]):
        return f"for {target['name']}, the device is {device['name']}"
    arch = re.fullmatch(r"sm_(\d+)(\d)([a-z]?)", target["arch"])
    if arch is None or not device["compute_version"]:
        return ""
    major, minor = (int(part) for part in device["compute_version"].split(".")[:2])
    wanted = int(arch[1]), int(arch[2])
    if major == wanted[0] and (minor == wanted[1] or (minor > wanted[1] and not arch[3])):
        return ""
    return f"for {target['arch']}, the device is {device['name']} with compute capability {device['compute_version']}"
