"""What pyproject.toml claims to support is what the tox environments ``*-lowest`` install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = {"demo", "bench", "all", "dev", "tvm"}  # of TVM there is one version that works


def numbers(version):
    """``(2, 0)`` of ``2.0.0``: trailing zeros say nothing."""
    found = [int(part) for part in version.split(".")]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def test_the_lowest_versions_are_those_that_are_claimed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *(v for k, v in project["optional-dependencies"].items() if k not in TOOLS)]
    claimed = dict(re.match(r"([\w.-]+)>=([\d.]+)", line).groups() for group in groups for line in group)
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints-lowest.txt").read_text().splitlines() if "==" in line
    )
    assert {name: numbers(version) for name, version in claimed.items()} == {
        name: numbers(version) for name, version in pinned.items()
    }
