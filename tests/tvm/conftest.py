"""Kernels are for a machine with Apache TVM: `pip install 'deep-tensor-network[tvm]'`."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads must not spin against TVM's
