"""``python -m benchmarks.fuzz``: as ``mfenv bench fuzz``."""

import sys
from typing import cast

from benchmarks.fuzz import command
from mfenv.cli import Command, script

sys.exit(script(cast(Command, command), "python -m benchmarks.fuzz"))
