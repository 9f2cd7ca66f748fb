"""What ``dtn doctor`` says of this TensorFlow beside its devices."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping

from dtn_core.cpuinfo import cpuinfo

__all__ = ["advice"]

SWITCH = "TF_ENABLE_ONEDNN_OPTS"
BY_ITSELF = {"avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"}
"""TensorFlow 2.9 and later use oneDNN on x86 processors with one of these, and elsewhere where they are told to."""


def advice(environment: Mapping[str, str] = os.environ) -> list[str]:
    """What would make TensorFlow faster here, a line each.

    Parameters
    ----------
    environment : mapping of str to str
        Variables that TensorFlow starts with.

    Examples
    --------
    >>> advice({"TF_ENABLE_ONEDNN_OPTS": "1"})
    []
    """
    flags = cpuinfo("flags").split()
    if SWITCH in environment or platform.machine() != "x86_64" or not flags or BY_ITSELF.intersection(flags):
        return []
    return [f"computes without oneDNN on this processor; with {SWITCH}=1 in the environment its products are faster"]
