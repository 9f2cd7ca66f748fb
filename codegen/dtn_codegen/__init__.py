"""Lowered programs to the source text of each framework."""

from .source import emit, target, targets
from .target import Target

__all__ = ["Target", "emit", "target", "targets"]
