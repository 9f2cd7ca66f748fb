"""Imports one backend and prints the devices it computes on: a process of its own, started by ``dtn doctor``."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys


def devices(package: str) -> list[str]:
    """The devices that ``package.training`` finds; a backend without training computes on the processor.

    Parameters
    ----------
    package : str
        ``"dtn_torch"``.
    """
    importlib.import_module(package)
    if importlib.util.find_spec(f"{package}.training") is None:
        return ["cpu"]
    found: list[str] = importlib.import_module(f"{package}.training").devices()
    return found


if __name__ == "__main__":
    print(json.dumps(devices(sys.argv[1])))
