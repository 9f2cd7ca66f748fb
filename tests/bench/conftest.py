"""The bench is no part of what is installed: it is found beside the tests, after everything that is installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
