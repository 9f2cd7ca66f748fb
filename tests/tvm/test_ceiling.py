"""The kernel that the roofline of a processor is measured by."""

import pytest

pytest.importorskip("tvm", reason="apache-tvm is not installed")

from dtn_tvm.ceiling import ROWS, compiled
from dtn_tvm.targets import target


def test_its_sums_stay_in_registers():
    """A sum that is stored in every step makes it several times slower than kernels that it should be a ceiling of."""
    triple = "x86_64-unknown-linux-gnu"
    text = compiled(target(f'{{"kind": "llvm", "mtriple": "{triple}", "mcpu": "x86-64-v4"}}')).mod.inspect_source("asm")
    words = [line.split() for line in text.splitlines() if line.split()]
    adds = [place for place, line in enumerate(words) if line[0].startswith("vfmadd")]
    stored = [place for place in adds if words[place + 1][0].startswith("vmov") and words[place + 1][-1].endswith(")")]
    assert len(adds) >= ROWS
    assert stored == []
