"""``python -m benchmarks.faults``: as ``mfenv bench faults``."""

import sys
from typing import cast

from benchmarks.faults import command
from mfenv.cli import Command, script

sys.exit(script(cast(Command, command), "python -m benchmarks.faults"))
