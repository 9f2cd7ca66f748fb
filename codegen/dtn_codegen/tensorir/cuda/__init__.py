"""Tile programs as CUDA kernels.

``schedule`` has the parameters, ``passes`` how often the sequence is walked, ``layouts`` and ``plan`` where every value
lives, ``cost`` what that takes; none of these imports TVM.  ``kernel`` follows a plan, ``tensorcore`` and
``multiply_add`` emit its products, ``lower`` puts passes and folds into one function, ``build`` makes machine code.
"""
