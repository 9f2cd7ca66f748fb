"""The ``dtn`` command: operators shown, explained and written out, the installation examined, the demo run."""

from .main import main

__all__ = ["main"]
