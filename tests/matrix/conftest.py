"""Runs ``dtn conform`` on the toy backends of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def conform(tmp_path):
    """``conform(*arguments, **environment)`` runs the command with ``--out tmp_path``."""

    def run(*arguments, **environment):
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
        return subprocess.run(
            [sys.executable, "-m", "dtn_core.cli", "conform", "--out", str(tmp_path), *arguments],
            env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return run
