"""Runs compiled kernels on the device they are for: checks their values, then takes their time.

Needs Python, NumPy and apache-tvm-ffi, and nothing of this library: a bundle carries this folder to a machine that has
neither a compiler nor TVM.
"""
