"""``python -m dtn_core.cli`` is ``dtn``."""

import sys

from .main import main

sys.exit(main())
