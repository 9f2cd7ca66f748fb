"""Lowered programs as TVM TensorIR."""
