"""What the packages say of themselves when they are imported, and of what is not installed."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

import dtn_core
import dtn_numpy

FRAMEWORKS = {"dtn_torch": "torch", "dtn_jax": "jax", "dtn_tensorflow": "tensorflow"}


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


@pytest.mark.parametrize(("package", "framework"), FRAMEWORKS.items())
def test_a_framework_that_is_not_installed_is_named_with_what_installs_it(package, framework):
    said = run(f"import sys; sys.modules[{framework!r}] = None; import {package}")
    assert said == (
        f"ModuleNotFoundError: {framework} is not installed; "
        f"to install it: pip install 'deep-tensor-network[{framework}]'"
    )


@pytest.mark.parametrize(("package", "framework"), FRAMEWORKS.items())
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import a_part_of_it", "ModuleNotFoundError: No module named 'a_part_of_it'"),
        ("raise ImportError('libframework.so: cannot open')", "ImportError: libframework.so: cannot open"),
    ],
)
def test_an_error_within_an_installed_framework_is_shown_as_it_is(package, framework, text, error, tmp_path):
    (tmp_path / f"{framework}.py").write_text(text)
    assert run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {package}") == error
