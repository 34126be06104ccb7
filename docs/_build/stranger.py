"""A stranger's path, timed: a fresh clone, then every command of the tutorial as it stands there.

``python docs/_build/stranger.py`` prints a table of seconds as Markdown, beside the machine; with
``--write`` the table takes the place of the one on the tutorial's page. Nothing of the checkout but
what is committed is used, and no package of this Python's.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from blocks import blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = "docs/tutorial/index.md"
_TABLE = re.compile(r"(?<=## How long it takes\n\n).*", flags=re.S)


def main() -> int:
    """Clone, run, print; 1 where a command failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="an empty one to work in (a temporary one)")
    parser.add_argument("--write", action="store_true", help="put the table on the page")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stranger-") as temporary:
        folder = args.folder or Path(temporary)
        started = os.getloadavg()[0]
        rows, ok = _walk(folder / "mfenv")
        table = _table(rows, started)
    print(table)
    if args.write and ok:
        page = ROOT / PAGE
        page.write_text(_TABLE.sub(lambda _: table, page.read_text("utf-8")), encoding="utf-8")
    return 0 if ok else 1


def _walk(checkout: Path) -> tuple[list[tuple[str, float]], bool]:
    kept = ("PATH", "HOME", "LANG", "OMP_NUM_THREADS", "TMPDIR")
    kept += tuple(name for name in os.environ if name.startswith("PIP_"))
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment["PATH"] = f"{checkout / '.venv' / 'bin'}:{environment['PATH']}"  # activated
    rows = []
    clone = ["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(checkout)]
    subprocess.run(clone, check=True)
    for block in blocks((checkout / PAGE).read_text(encoding="utf-8")):
        if block.title:
            (checkout / block.title).write_text(block.text, encoding="utf-8")
        for line in block.lines if block.kind == "sh" else ():
            if line.startswith(". "):
                continue  # the environment is in the path from the start
            print(f"$ {line}", flush=True)
            begun = time.monotonic()
            done = subprocess.run(["sh", "-c", line], cwd=checkout, env=environment)
            rows.append((line, time.monotonic() - begun))
            if done.returncode:
                print(f"failed with {done.returncode}", file=sys.stderr)
                return rows, False
    return rows, True


def _table(rows: list[tuple[str, float]], load: float) -> str:
    lines = ["| command | seconds |", "|---|---|"]
    lines += [f"| `{' '.join(line.split())}` | {seconds:.0f} |" for line, seconds in rows]
    lines.append(f"| all of it | {sum(seconds for _, seconds in rows):.0f} |")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = (
        f"Measured on a clean clone by `python docs/_build/stranger.py`: {os.cpu_count()} cores "
        f"({platform.machine()}), {memory:.0f} GiB of memory, Python {platform.python_version()}"
    )
    busy = f"; other work kept the machine busy (load {load:.0f})" if load > 1 else ""
    return "\n".join([*lines, "", f"{machine}{busy}.", ""])


if __name__ == "__main__":
    sys.exit(main())
