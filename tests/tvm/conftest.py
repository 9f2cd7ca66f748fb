"""Fixtures of the tests of kernels and tuning; without Apache TVM there is nothing to collect."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent

if find_spec("tvm") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def offer(monkeypatch):
    """Makes the fake family consist of some behaviours; processes of the tuner find the family too."""
    import families

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))

    def set_behaviours(*behaviours, loop="T.serial"):
        offered = [b if isinstance(b, families.Schedule) else families.Schedule(b, loop) for b in behaviours]
        monkeypatch.setattr(families, "OFFERED", offered)

    return set_behaviours


@pytest.fixture
def problem():
    """``y = 2 x`` for a small x."""
    import families

    return families.Problem(families.OPERATOR, "forward", "float32", {"batch": 1, "heads": 2, "n": 300, "d": 16})
