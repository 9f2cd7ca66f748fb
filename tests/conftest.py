"""Options and fixtures of the whole suite; this folder also makes ``tests/oracle`` importable."""

from __future__ import annotations

import os

import numpy as np
import pytest

try:
    from hypothesis import HealthCheck, Phase, settings
except ImportError:  # property tests skip themselves without hypothesis
    settings = None

if settings is not None:
    settings.register_profile(
        "fixed",
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
        phases=[Phase.explicit, Phase.generate],  # shrinking a program takes minutes; those drawn are small already
        report_multiple_bugs=False,
    )
    settings.load_profile("fixed")


collect_ignore_glob = ["*/conftest.py"]  # they have no doctests, and share one module name


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--update-golden``, ``--programs`` and ``--first-seed``."""
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the generated source to tests/codegen/golden instead of comparing",
    )
    parser.addoption(
        "--programs",
        type=int,
        default=int(os.environ.get("DTN_PROGRAMS", "0")),
        help="how many random programs to hold to the interpreter (default: DTN_PROGRAMS, else a few)",
    )
    parser.addoption("--first-seed", type=int, default=0, help="where a long run of random programs starts")


def pytest_report_header() -> str:
    """Which backend the suites in tests/backends and tests/conformance run against, and which sample."""
    seed = os.environ.get("DTN_CONFORM_SEED", "0")
    return f"DTN_BACKEND: {os.environ.get('DTN_BACKEND', 'numpy')}, seed of the conformance sample: {seed}"


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20231118)
