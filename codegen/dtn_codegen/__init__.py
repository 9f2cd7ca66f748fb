"""Lowered programs to the source text of each framework."""

from .source import broken_targets, emit, target, targets
from .target import Target

__all__ = ["Target", "broken_targets", "emit", "target", "targets"]
