"""`implementation="tvm"` in every framework, against its own generated source."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import numpy as np
import pytest

HAS_TVM = any(found.name == "apache-tvm" for found in importlib.metadata.distributions())  # tests/tvm is a "tvm" too
CAUSAL = {"mask": "causal", "normalize": None}


@pytest.fixture
def kernels(backend):
    """The framework, if kernels can run in it."""
    if not HAS_TVM:
        pytest.skip("Apache TVM is not installed")
    if backend.name == "jax" and importlib.util.find_spec("jax_tvm_ffi") is None:
        pytest.skip("jax-tvm-ffi is not installed")
    return backend


def given(backend, *shapes):
    rng = np.random.default_rng(0)
    return [backend.array(rng.uniform(0.1, 1.1, shape).astype(np.float32) / shape[-1] ** 0.5) for shape in shapes]


def close(backend, found, wanted, tolerance=1e-5):
    found, wanted = backend.numpy(found), backend.numpy(wanted)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize(
    "knobs", [CAUSAL, {"mask": "causal", "decay": 0.9, "residual": 0.5}, {}, {"mask": "tril"}], ids=str
)
def test_values(kernels, knobs):
    q, k, v = given(kernels, (2, 3, 70, 16), (2, 3, 70, 16), (2, 3, 70, 20))
    attend = kernels.dtn.tensor_attention
    close(kernels, attend(q, k, v, implementation="tvm", **knobs), attend(q, k, v, implementation="native", **knobs))


@pytest.mark.parametrize("layout", ["... n d", "... n h d"])
def test_layouts_and_leading_axes_that_broadcast(kernels, layout):
    q, k, v = given(kernels, (2, 20, 3, 16), (1, 20, 3, 16), (20, 3, 8))
    attend = kernels.dtn.tensor_attention
    if layout == "... n d":
        q, k, v = given(kernels, (2, 3, 20, 16), (1, 3, 20, 16), (3, 20, 8))
    found = attend(q, k, v, layout=layout, implementation="tvm", **CAUSAL)
    close(kernels, found, attend(q, k, v, layout=layout, **CAUSAL))


def test_a_scalar_for_every_head(kernels):
    q, k, v = given(kernels, *[(2, 3, 20, 8)] * 3)
    (decay,) = given(kernels, (2, 3))
    attend = kernels.dtn.tensor_attention
    found = attend(q, k, v, decay=decay, implementation="tvm", **CAUSAL)
    close(kernels, found, attend(q, k, v, decay=decay, **CAUSAL))


def test_an_input_is_left_as_it_was(kernels):
    tensors = given(kernels, *[(2, 20, 8)] * 3)
    before = [np.array(kernels.numpy(x)) for x in tensors]
    first = np.array(kernels.numpy(kernels.dtn.tensor_attention(*tensors, implementation="tvm", **CAUSAL)))
    second = kernels.dtn.tensor_attention(*tensors, implementation="tvm", **CAUSAL)
    assert all(np.array_equal(kernels.numpy(x), y) for x, y in zip(tensors, before, strict=True))
    assert np.array_equal(kernels.numpy(second), first)


@pytest.mark.parametrize("knobs", [CAUSAL, {"mask": "tril"}], ids=str)
def test_gradients(kernels, gradients, knobs):
    shape = (2, 20, 8)
    tensors = [np.asarray(kernels.numpy(x)) for x in given(kernels, *[shape] * 3)]
    weights = np.ones(shape, np.float32)

    def by(implementation):
        def loss(q, k, v):
            output = kernels.dtn.tensor_attention(q, k, v, implementation=implementation, **knobs)
            return gradients.loss(output, weights)

        return gradients.gradients(loss, tensors)

    for found, wanted in zip(by("tvm"), by("native"), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.skipif(HAS_TVM, reason="Apache TVM is installed")
def test_what_to_install(backend):
    with pytest.raises(
        ValueError, match=r"implementation='tvm' cannot run .*: pip install 'deep-tensor-network\[tvm\]'"
    ):
        backend.dtn.tensor_attention(*given(backend, *[(5, 3)] * 3), implementation="tvm")
