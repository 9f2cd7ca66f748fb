"""Imports one backend and prints what it says of itself: a process of its own, started by ``dtn doctor``."""

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


def advice(package: str) -> list[str]:
    """What ``package.advice`` has to say of how it is installed; most backends have no such module.

    Parameters
    ----------
    package : str
        ``"dtn_tensorflow"``.
    """
    if importlib.util.find_spec(f"{package}.advice") is None:
        return []
    found: list[str] = importlib.import_module(f"{package}.advice").advice()
    return found


if __name__ == "__main__":
    print(json.dumps({"devices": devices(sys.argv[1]), "advice": advice(sys.argv[1])}))
