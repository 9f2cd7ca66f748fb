"""Lowered programs as TVM kernels: tile programs for any target, and what a target makes of them."""
