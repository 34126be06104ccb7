"""``python -m mfenv`` is the command ``mfenv``."""

import sys

from mfenv.cli import main

sys.exit(main())
