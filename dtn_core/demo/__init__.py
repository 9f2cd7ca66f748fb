"""``dtn demo``: the same classifier trained on the same handwriting in every framework, and compared."""

from .process import DemoError
from .run import run

__all__ = ["DemoError", "run"]
