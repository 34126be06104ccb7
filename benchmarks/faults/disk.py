"""A disk that is full: in the middle of the journals, and again at the report."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from pathlib import Path

from benchmarks.faults.row import (
    SMALL,
    Outcome,
    Row,
    Trial,
    command,
    digests,
    one_line_of,
    simulate,
    whole_steps,
)

__all__ = ["ROW"]

_SIZES = {"in the journals": 0.5, "at the report": 1.2}
"""Size of the disk, as a part of what the journals take."""

_SCRIPT = """
mount -t tmpfs -o size="$2" tmpfs "$1/disk" || exit 90
shift 2; folder="$1"; shift
"$@"; code=$?
cp -a "$folder/disk" "$folder/full" && mount -o remount,size=64m "$folder/disk" || exit 91
"$@" >"$folder/again.out" 2>"$folder/again.err"; echo $? >"$folder/again.code"
cp -a "$folder/disk" "$folder/after"
exit $code
"""


def run(trial: Trial) -> Outcome:
    """Fill a small disk, look at what is left, make room, and go on."""
    quiet = trial.folder / "quiet"
    if simulate(quiet).returncode:
        return Outcome(False, "the undisturbed run failed")
    wanted = digests(quiet)
    size = sum(p.stat().st_size for p in (quiet / "journals").iterdir())
    said, kept, kind = [], [], "a tmpfs"
    for where, share in _SIZES.items():
        place = trial.folder / re.sub(r"\W", "-", where)
        (place / "disk").mkdir(parents=True)
        full = _in_namespace(place, round(size * share))
        if full is None:
            kind = "RLIMIT_FSIZE"
            full = _limited(place, round(size * share / 3))
        line = one_line_of(full)
        if line is None or "make room" not in line.lower():
            return Outcome(False, f"{where}: {full.stderr.strip()[-300:]!r} ({full.returncode})")
        kept.append(whole_steps(place / "full" / "run"))  # raises where a journal is damaged
        if digests(place / "after" / "run") != wanted:
            said_then = (place / "again.err").read_text(encoding="utf-8")[-300:]
            return Outcome(False, f"{where}: another result after going on: {said_then!r}")
        said.append(line)
    total = whole_steps(quiet)
    return Outcome(
        True,
        f"on {kind}: one line each time, {kept[0]} and {kept[1]} of {total} steps kept, the same "
        f"bytes after going on",
    )


def _in_namespace(place: Path, size: int) -> subprocess.CompletedProcess[str] | None:
    """The run on a disk of so many bytes, then of more; ``None`` where none can be mounted."""
    if shutil.which("unshare") is None:
        return None
    words = command("simulate", *SMALL, "--out", str(place / "disk" / "run"))
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _SCRIPT, "sh", str(place), str(size), str(place), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    return done if (place / "again.code").is_file() else None


def _limited(place: Path, size: int) -> subprocess.CompletedProcess[str]:
    """The run with files of at most so many bytes, then without a limit."""
    out = place / "disk" / "run"

    def limit() -> None:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )

    full = simulate(out, preexec_fn=limit)
    shutil.copytree(place / "disk", place / "full")
    again = simulate(out)
    (place / "again.err").write_text(again.stderr, encoding="utf-8")
    shutil.copytree(place / "disk", place / "after")
    return full


ROW = Row(
    "disk-full",
    "the disk is full in the journals, and at the report",
    "one clear line, the steps before are whole, and with room the run goes on to the same bytes",
    run,
)
