"""How far functions of a matrix are scaled and their series summed, on every kind of device."""

TERMS = 8
"""Of the power series: what follows is below the last digit of float32 where the norm is at most 1/2."""
MOST_SQUARINGS = 64
"""Enough for every finite norm at which the result is finite."""
