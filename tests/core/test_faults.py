"""Faults of the mutation run are texts of the library: whoever changes such a text hears of it here, in a second."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mutation.faults import FAULTS


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_text_of_a_fault_occurs_once(fault):
    text = Path(importlib.util.find_spec(fault.module).origin).read_text()
    assert text.count(fault.old) == 1
    assert fault.new != fault.old
