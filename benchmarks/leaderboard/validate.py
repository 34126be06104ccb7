"""``mfenv leaderboard validate``: what an entry is, and everything that is wrong with it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.leaderboard.check import Checked, check
from benchmarks.leaderboard.outcomes import CheckedOutcomes, check_outcomes, facts, is_outcomes
from mfenv.errors import MfenvError

__all__ = ["HELP", "add_arguments", "facts_of", "run"]

HELP = "check an entry: whole, unchanged, on the official events, nothing private in it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("entry", type=Path, metavar="ENTRY", help="folder of the entry")
    parser.add_argument("--json", action="store_true", help="print JSON only")


def run(args: argparse.Namespace) -> int:
    """Print what the entry is and ``valid``, or its problems; returns 2 where there are any."""
    if not args.entry.is_dir():
        raise MfenvError(f"{args.entry}: no such folder; give the folder of an entry")
    checked = check_outcomes(args.entry) if is_outcomes(args.entry) else check(args.entry)
    found = facts_of(checked)
    if args.json:
        print(json.dumps({**found, "problems": checked.problems, "valid": checked.valid}, indent=1))
        return 0 if checked.valid else 2
    for name, value in found.items():
        print(f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    if checked.valid:
        print("valid")
        return 0
    for problem in checked.problems:
        print(f"mfenv: error: {problem}", file=sys.stderr)
    return 2


def facts_of(checked: Checked | CheckedOutcomes) -> dict[str, Any]:
    """What the entry says it is; only of a readable one."""
    found = facts(checked) if isinstance(checked, CheckedOutcomes) else _fidelity_facts(checked)
    return {name: _clean(value) for name, value in found.items()}


def _fidelity_facts(checked: Checked) -> dict[str, Any]:
    manifest, entry = checked.manifest, checked.entry
    if manifest is None:
        return {}
    usage = [c.usage for c in manifest.conditions.values()]
    found: dict[str, Any] = {
        "entry": checked.digest,
        "track": manifest.track,
        "split": manifest.split,
        "backbone": [" ".join(model.values()) for model in manifest.backbone],
        "conditions": [*manifest.conditions],
        "methods": sorted({m for c in manifest.conditions.values() for m in c.methods}),
        "cases": manifest.n_cases,
        "seeds": len(manifest.seeds),
        "decisions": sum(u.decisions for u in usage),
        "tokens": sum(u.prompt_tokens + u.completion_tokens for u in usage),
    }
    if entry is not None and checked.standing is not None:
        found["events"] = checked.standing.events
        found["rank"] = "yes" if not checked.standing.unranked else "none"
        if checked.standing.unranked:
            found["why no rank"] = [*checked.standing.unranked]
    return found


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
    return [_clean(v) for v in value] if isinstance(value, list) else value
