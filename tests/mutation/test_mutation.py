"""The suite bites: every seeded fault in the compiler makes a test fail that passes without it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mutation.faults import CAUGHT, FAULTS

ROOT = Path(__file__).parents[2]
BACKENDS = sorted({fault.backend for fault in FAULTS})
TESTS_FAILED = 1
SECONDS = 900


def run(tests, backend, fault=""):
    """Run some tests in a process of their own, stopping at the first failure."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed here")
    paths = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "DTN_BACKEND": backend, "DTN_FAULT": fault, "PYTHONPATH": paths}
    options = [
        "-p",
        "mutation.seeded",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-q",
        "-x",
        "-rf",
        "--tb=no",
        "--no-header",
    ]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_fault_the_same_tests_pass(backend):
    tests = dict.fromkeys(test for fault in FAULTS if fault.backend == backend for test in fault.tests)
    found = run(tests, backend)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_is_caught(fault, record_property):
    found = run(fault.tests, fault.backend, fault.name)
    assert found.returncode == TESTS_FAILED, f"no test noticed: {fault.name}\n{found.stdout}{found.stderr}"
    caught = re.search(r"^FAILED (\S+?::.*?)( - .*)?$", found.stdout, re.MULTILINE)
    assert caught, found.stdout
    record_property(CAUGHT, f"{fault.name} ({fault.backend}): {caught.group(1)}")
