"""What the packages say of themselves when they are imported."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import dtn_core
import dtn_numpy


def run(program, **options):
    """What a fresh process prints, or the last line of its error."""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, **options)
    return child.stdout.strip() if child.returncode == 0 else child.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("package", [dtn_core, dtn_numpy])
def test_the_version_is_that_of_the_distribution(package):
    assert package.__version__ == metadata.version("deep-tensor-network")


@pytest.mark.parametrize("package", [dtn_core, dtn_numpy])
def test_no_package_has_a_name_that_it_does_not_have(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing


def test_the_catalogue_and_the_layers_are_parts_of_the_core_that_load_when_asked_for():
    program = (
        "import sys, dtn_core; before = set(sys.modules); "
        "print(dtn_core.operators.tensor_attention(order=3).name, dtn_core.layers.TensorAttention.__name__, "
        "sorted({'numpy', 'importlib.metadata', 'dtn_core.operators'} & before))"
    )
    assert run(program) == "tensor_attention TensorAttention []"
