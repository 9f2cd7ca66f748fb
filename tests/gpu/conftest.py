"""Skips this folder, with one reason, on a machine that cannot run it."""

from __future__ import annotations

import shutil
from functools import cache

import pytest


@cache
def why_not() -> str:
    """Why kernels cannot run on a GPU here, or an empty string."""
    try:
        import torch
        import tvm  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return "" if shutil.which("nvcc") else "nvcc is not installed"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU."""
    if why_not():
        for item in items:
            if "gpu" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {why_not()}"))
