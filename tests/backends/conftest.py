"""The ``backend`` fixture: the framework of this process."""

from __future__ import annotations

import importlib.util
import os
import sys

import frameworks
import pytest

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")  # before JAX starts; what is not sharded is computed on the first


@pytest.fixture(scope="session")
def _framework():
    name = frameworks.chosen()
    if name not in frameworks.KINDS:
        raise pytest.UsageError(f"DTN_BACKEND={name} is not one of {', '.join(frameworks.KINDS)}")
    if importlib.util.find_spec(name) is None:
        raise pytest.UsageError(f"DTN_BACKEND={name}, which is not installed here")
    return frameworks.KINDS[name]()


@pytest.fixture(autouse=True)
def _nothing_compiled():
    """What ``torch.compile`` compiled in one test counts against its limit of recompilations in the next."""
    yield
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


@pytest.fixture
def backend(_framework):
    """The chosen framework, with float64 enabled where that is a setting."""
    with _framework.session():
        yield _framework


@pytest.fixture
def gradients(backend):
    """The chosen framework, if it differentiates."""
    if not backend.differentiable:
        pytest.skip(f"{backend.name} has no gradients")
    return backend
