"""``python -m dtn_core.cli`` is ``dtn``."""

import sys

from . import main

sys.exit(main())
