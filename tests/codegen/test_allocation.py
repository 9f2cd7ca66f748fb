"""Memory that a call frees is there for the next one."""

import platform
import subprocess
import sys

import pytest

CHILD = """
import resource
import sys
import numpy as np
from dtn_codegen.allocation import keep_freed_memory

def turn():
    held = [np.ones(50_000) for _ in range(8)]

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(3):
    turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries take no notice")
def test_freed_memory_is_not_mapped_anew():
    counts = {}
    for how in ("keep", "let go"):
        child = subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, text=True, check=True)
        counts[how] = int(child.stdout)
    assert counts["keep"] < 100
    assert counts["let go"] > 10 * max(1, counts["keep"])
