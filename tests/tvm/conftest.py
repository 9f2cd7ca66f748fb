"""Fixtures of the tests of kernels and tuning; where Apache TVM is not installed there is nothing to collect."""

from __future__ import annotations

import os
from importlib.metadata import distributions
from pathlib import Path

import pytest

HERE = Path(__file__).parent
os.environ.setdefault("TVM_NUM_THREADS", "2")  # parallel schedules, however many cores the tests are given

if all(found.name != "apache-tvm" for found in distributions()):  # this folder is called tvm as well
    collect_ignore_glob = ["test_*.py"]


def set_behaviours(monkeypatch, *behaviours):
    """Make the fake family consist of some behaviours; processes of the tuner find the family too."""
    import families

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    offered = [b if isinstance(b, families.Schedule) else families.Schedule(b) for b in behaviours]
    monkeypatch.setattr(families, "OFFERED", offered)


def small_problem():
    """``y = 2 x`` for a small x."""
    import families

    return families.Problem(families.OPERATOR, "forward", "float32", {"batch": 1, "heads": 2, "n": 300, "d": 16})


@pytest.fixture
def offer(monkeypatch):
    """Says what the fake family consists of."""
    return lambda *behaviours: set_behaviours(monkeypatch, *behaviours)


@pytest.fixture
def problem():
    """``y = 2 x`` for a small x."""
    return small_problem()


@pytest.fixture(scope="session")
def built_bundle(tmp_path_factory):
    """A bundle of one good candidate, one that is wrong and one that crashes; a fourth does not compile."""
    from dtn_tvm.bundle import build
    from dtn_tvm.candidates import Options
    from dtn_tvm.targets import target

    path = tmp_path_factory.mktemp("bundle") / "bundle.zip"
    with pytest.MonkeyPatch.context() as patch:
        set_behaviours(patch, "good", "wrong", "segfault", "unbuildable")
        progress = build([small_problem()], target("cpu"), path, Options(family="families", trials=8))
    assert progress.failures == {"does not build": 1}
    return path
