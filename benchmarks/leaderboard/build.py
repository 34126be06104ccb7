"""``mfenv leaderboard build``: a static site of several entries, and its figures as files.

The site is a pure function of the entries and of what ``verify`` found: the same give the same
bytes, in whatever order they are named.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.leaderboard import planner_board
from benchmarks.leaderboard.check import Checked, check, one_line
from benchmarks.leaderboard.outcomes import CheckedOutcomes, check_outcomes, is_outcomes
from benchmarks.leaderboard.pages import entry_page, index_page, method_page
from benchmarks.leaderboard.planner_board import (
    UNKNOWN,
    Outcome,
    achieved,
    outcome_page,
    planner_boards,
    site_fidelity,
)
from benchmarks.leaderboard.planner_pages import outcome_entry_page, planners_page
from benchmarks.leaderboard.rows import Submission, as_csv, as_json, boards, slug
from benchmarks.leaderboard.verification import read_verification, verification_path
from mfenv.errors import MfenvError

__all__ = ["HELP", "add_arguments", "run", "site"]

HELP = "build a static site from entries"

FORMAT = "mfenv-leaderboard/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("entries", type=Path, nargs="+", metavar="ENTRY", help="folders of entries")
    add("--site", type=Path, required=True, metavar="DIR", help="folder of the site")
    add(
        "--skip-invalid",
        action="store_true",
        help="leave invalid entries out and say so, instead of refusing",
    )


def run(args: argparse.Namespace) -> int:
    """Check all entries, then write the site in one move."""
    if args.site.exists() and any(args.site.iterdir()) and not _is_site(args.site):
        raise MfenvError(f"{args.site}: exists and is no site of a leaderboard; choose another")
    submissions: list[Submission | Outcome] = []
    skipped: dict[str, str] = {}
    for folder in sorted(args.entries, key=lambda p: (p.name, str(p))):
        submission, problem = _read(folder, submissions)
        if submission is not None:
            submissions.append(submission)
        elif args.skip_invalid:
            skipped[folder.name] = problem
            print(f"left out: {folder}: {problem}", file=sys.stderr)
        else:
            raise MfenvError(
                f"{folder}: {problem}; mfenv leaderboard validate shows all of it, --skip-invalid "
                f"leaves such entries out"
            )
    files = site(submissions, skipped)
    args.site.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".site-", dir=args.site.parent) as scratch:
        part = Path(scratch) / "site"
        for name, text in files.items():
            path = part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        shutil.rmtree(args.site, ignore_errors=True)
        part.replace(args.site)
    print(f"{args.site / 'index.html'}: {len(submissions)} entries")
    return 0


def _read(
    folder: Path, others: Sequence[Submission | Outcome]
) -> tuple[Submission | Outcome | None, str]:
    """A valid entry with what was found of it, or the first thing that is wrong."""
    if not folder.is_dir():
        raise MfenvError(f"{folder}: no such folder; give the folders of entries")
    checked = check_outcomes(folder) if is_outcomes(folder) else check(folder)
    if not checked.valid:
        return None, _relative(checked, folder)
    if any(other.checked.digest == checked.digest for other in others):
        return None, "is there twice"
    path = verification_path(folder)
    found = read_verification(path) if path.is_file() else None
    if found is not None and found.entry != checked.digest:
        print(f"{path}: is about another version of the entry; not used", file=sys.stderr)
        found = None
    if isinstance(checked, CheckedOutcomes):
        return Outcome(checked, found), ""
    return Submission(checked, found), ""


def _relative(checked: Checked | CheckedOutcomes, folder: Path) -> str:
    """The first problem, without where the entry happens to lie."""
    return one_line(checked.problems[0].replace(f"{folder}/", "").replace(f"{folder}: ", ""))


def _is_site(folder: Path) -> bool:
    try:
        value = json.loads((folder / "leaderboard.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("format") == FORMAT


def site(submissions: Sequence[Submission | Outcome], skipped: Mapping[str, str]) -> dict[str, str]:
    """All files of the site: relative path → text."""
    measured = [s for s in submissions if isinstance(s, Submission)]
    played = [s for s in submissions if isinstance(s, Outcome)]
    skipped = dict(sorted(skipped.items()))
    planners = planner_boards(played, measured)
    made = boards(measured, achieved(planners))
    value = {
        "format": FORMAT,
        "boards": [as_json(board) for board in made],
        "planners": [planner_board.as_json(board) for board in planners],
        "left_out": skipped,
    }
    pages = {
        "index.html": index_page(made, skipped),
        "planners.html": planners_page(planners, skipped),
        "method.html": method_page(),
        **{f"entries/{slug(s.checked)}.html": entry_page(s) for s in measured},
    }
    for outcome in played:
        assert outcome.checked.standing is not None
        fidelity, source = site_fidelity(outcome.entry, measured)
        unranked = [*outcome.checked.standing.unranked, *([] if fidelity else [UNKNOWN])]
        name = f"entries/{outcome_page(outcome.checked)}.html"
        pages[name] = outcome_entry_page(outcome, fidelity, source, unranked)
    return {
        **pages,
        "leaderboard.json": json.dumps(value, indent=1, sort_keys=True) + "\n",
        "leaderboard.csv": as_csv(made),
        "planners.csv": planner_board.as_csv(planners),
    }
