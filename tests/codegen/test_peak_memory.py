"""The reported peak is what the generated source holds, measured by tracemalloc (NumPy reports to it).

Tolerance: at most a tenth above, plus 64 KiB for Python objects and temporaries of one expression; not more
than a twentieth below.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import dtn_numpy
from dtn_core.operators import catalogue, tensor_attention, tensor_interaction
from oracle.knobs import shown

KIB = 1024
ATTENTION = [
    {}, {"normalize": "row"}, {"normalize": "diag"}, {"normalize": None, "residual": 0.5}, {"order": 1, "normalize": None}, {"order": 3},
    {"order": 4}, {"asymmetric": True, "order": 3}, {"activation": "relu"}, {"activation": "exp"}, {"activation": "expm"},
    {"product": "hadamard"}, {"scale": 0.3, "residual": 0.5, "eps": 0.1, "normalize": "diag"},
    {"mask": "tril"}, {"mask": "causal"}, {"mask": "causal", "order": 3, "normalize": "row"}, {"mask": "causal", "decay": 0.99},
]  # fmt: skip


def assert_peak(operator, tensors):
    """Measure one call, after another that has compiled and warmed everything."""
    run = dtn_numpy.compile(operator)
    run(*tensors)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    result = run(*tensors)
    measured = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    del result
    explanation = run.explain(*tensors)
    reported = explanation.peak.at(explanation.sizes)
    assert 0.95 * reported - 64 * KIB <= measured <= 1.1 * reported + 64 * KIB


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("knobs", ATTENTION, ids=shown)
def test_of_tensor_attention(rng, knobs, dtype):
    q, k, v = (rng.normal(size=(2048, width)).astype(dtype) for width in (32, 32, 24))
    assert_peak(tensor_attention(**knobs), (q, k, v))


@pytest.mark.parametrize("knobs", [{}, {"normalize": "row"}, {"activation": "expm"}, {"residual": 0.5}], ids=shown)
def test_of_tensor_interaction(rng, knobs):
    assert_peak(tensor_interaction(**knobs), rng.normal(size=(3, 4096, 64)))


@pytest.mark.parametrize("name", ["linear_attention", "ahla", "second_order"])
def test_of_written_operators(rng, name):
    assert_peak(catalogue[name].build(), rng.normal(size=(3, 2048, 32)))


@pytest.mark.parametrize("d", [3, 8, 24, 64])
def test_of_chunks_of_tensors_with_two_features(rng, d):
    """All at once, in turns, and one after another."""
    assert_peak("cov(x[n,d]) -> c[n,d,d]: c[t,a,b] = x[i,a] * x[i,b] where i <= t", (rng.normal(size=(2000, d)),))
    assert_peak(catalogue["two_simplicial"].build(), rng.normal(size=(5, 2000, d)))


def test_of_chunks_in_several_turns(rng):
    q, k, v = rng.normal(size=(3, 20_000, 32))
    assert_peak(tensor_attention(mask="causal"), (q, k, v))


def test_65536_tokens_of_width_64_run_in_a_small_part_of_a_gibibyte():
    q, k, v = np.random.default_rng(0).standard_normal((3, 65_536, 64), dtype=np.float32)
    tracemalloc.start()
    result = dtn_numpy.tensor_attention(q, k, v)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.shape == (65_536, 64)
    assert peak < 64 * KIB**2  # an n×n matrix would be 16 GiB
