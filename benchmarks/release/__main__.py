"""Build a release, install it into clean environments and try it: ``python -m benchmarks.release``.

The commit that is checked out is built (changes that are not committed are not in it). Each target
is a Python, the extras that are installed together, and whether with the lowest versions that
pyproject.toml allows: ``python3.11:llm``, ``python3.12:core``, ``python3.11:core@floors``. Results
are kept by target, so that targets can be run one after the other; environments are deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.parser import Parser as HeaderParser
from pathlib import Path
from typing import Any, cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.release.build import Built, build, inspect, tracked
from benchmarks.release.smoke import CHECKS, Check
from mfenv.cli import Command, script
from mfenv.errors import MfenvError

__all__ = ["HELP", "Row", "Target", "add_arguments", "floors", "run"]

HELP = "build the wheel and the sdist, install them into clean environments, and try them"

_ROOT = Path(__file__).resolve().parents[2]
_ALONE = ("core", "reports", "fast", "ray", "llm", "serving", "training")
_TORCH = "torch==2.13.0"  # first, by name, so that pip takes a CPU build where it finds one
_LIMIT = 1200  # seconds for one check
_TARGET_HELP = "PYTHON:EXTRA[+EXTRA…][@floors]; default: this Python with each extra by itself"


@dataclass(frozen=True, slots=True)
class Target:
    """An environment to make."""

    python: str
    extras: tuple[str, ...]
    floors: bool = False

    @classmethod
    def parse(cls, text: str) -> Target:
        """``PYTHON:EXTRA[+EXTRA…][@floors]``; ``MfenvError`` says what is allowed."""
        rest, at, mode = text.partition("@")
        python, _, names = rest.rpartition(":")
        extras = tuple(names.split("+"))
        if not python or set(extras) - set(CHECKS) or (at and mode != "floors"):
            known = ", ".join(CHECKS)
            raise MfenvError(f"target {text!r} is not allowed; allowed: {_TARGET_HELP}; {known}")
        if shutil.which(python) is None:
            raise MfenvError(f"target {text!r}: there is no {python!r} here")
        return cls(python, extras, bool(at))

    @property
    def name(self) -> str:
        """For tables."""
        return "+".join(self.extras) + (", lowest versions" if self.floors else "")


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was tried."""

    python: str
    target: str
    check: str
    passed: bool
    seconds: float
    note: str = ""


def floors(wheel: Path, extra: str) -> list[str]:
    """The lowest versions that the core or an extra asks for directly, as constraints for pip.

    Those of the core are not among an extra's: packages of the extra may need later ones. torch is
    left out: only one CPU build of it can be had everywhere.
    """
    with zipfile.ZipFile(wheel) as file:
        name = next(n for n in file.namelist() if n.endswith(".dist-info/METADATA"))
        texts = HeaderParser().parsestr(file.read(name).decode()).get_all("Requires-Dist") or []
    lowest = {}
    for requirement in _asked(list(map(Requirement, texts)), extra):
        versions = [s.version for s in requirement.specifier if s.operator == ">="]
        if versions and requirement.name != "torch":
            lowest[canonicalize_name(requirement.name)] = versions[0]
    return [f"{name}=={version}" for name, version in sorted(lowest.items())]


def _asked(requirements: list[Requirement], extra: str) -> Iterator[Requirement]:
    for r in requirements:
        always = r.marker is None or r.marker.evaluate({"extra": ""})
        asked = always if extra == "core" else r.marker and r.marker.evaluate({"extra": extra})
        if not asked or (always and extra != "core"):
            continue
        if r.name != "mfenv":
            yield r
        for nested in r.extras if r.name == "mfenv" else ():
            yield from _asked(requirements, nested)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("targets", nargs="*", metavar="TARGET", help=_TARGET_HELP)
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR", help="(%(default)s)")
    add("--temporary", type=Path, metavar="DIR", help="where environments are made (and deleted)")


def run(args: argparse.Namespace) -> int:
    """Build, install, try; write ``release.md`` and ``.json``. 1 if anything fails."""
    targets = [Target.parse(t) for t in args.targets] or [
        Target(sys.executable, (extra,)) for extra in _ALONE
    ]
    path = args.out / "release.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    args.out.mkdir(parents=True, exist_ok=True)
    if args.temporary is not None:
        args.temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mfenv-release-", dir=args.temporary) as temporary:
        folder = Path(temporary)
        tools = _make(sys.executable, folder / "tools")
        _pip(tools, "build")
        built = build(_ROOT, tools / "python", folder / "build")
        looked = inspect(built, tracked(_ROOT))
        figures["files"] = [{"check": c, "passed": ok, "note": n} for c, ok, n in looked]
        _write(args.out, figures)
        for number, target in enumerate(targets):
            rows = list(_try(target, built, folder / f"environment-{number}"))
            others = [
                row
                for row in figures.get("rows", [])
                if (row["python"], row["target"]) != (rows[0].python, rows[0].target)
            ]
            figures["rows"] = sorted(
                [*others, *map(asdict, rows)], key=lambda r: (r["python"], r["target"])
            )
            _write(args.out, figures)
    print((args.out / "release.md").read_text(encoding="utf-8"), end="")
    return 0 if all(x["passed"] for x in (*figures["files"], *figures["rows"])) else 1


def _try(target: Target, built: Built, folder: Path) -> Iterator[Row]:
    """Make the environment, install, and try; the environment is gone afterwards."""
    python = subprocess.run(
        [target.python, "-c", "import platform; print(platform.python_version())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    start = time.perf_counter()
    try:
        scripts = _make(target.python, folder)
        note = _install(scripts, target, built.wheel)
    except MfenvError as error:
        yield Row(python, target.name, "install", False, time.perf_counter() - start, str(error))
        return
    yield _told(Row(python, target.name, "install", True, time.perf_counter() - start, note))
    work = folder / "work"
    work.mkdir()
    for extra in dict.fromkeys(("core", *target.extras)):
        for check in CHECKS[extra]:
            start = time.perf_counter()
            problem = _problem(check, scripts, work)
            seconds = time.perf_counter() - start
            yield _told(Row(python, target.name, check.name, not problem, seconds, problem))
    shutil.rmtree(folder)


def _make(python: str, folder: Path) -> Path:
    """Make an environment; returns the folder of its scripts."""
    result = subprocess.run([python, "-m", "venv", folder], capture_output=True, text=True)
    if result.returncode:
        raise MfenvError(f"{python} -m venv failed: {_end(result.stderr)}")
    return folder / ("Scripts" if os.name == "nt" else "bin")


def _install(scripts: Path, target: Target, wheel: Path) -> str:
    """Install the wheel with its extras; returns what is worth saying."""
    extras = [e for e in target.extras if e != "core"]
    needs_torch = {"llm", "serving", "training"} & set(extras)
    if needs_torch:
        _pip(scripts, _TORCH)
    chosen: list[str] = []
    if target.floors:
        lowest = {c for extra in target.extras for c in floors(wheel, extra)}
        constraints = scripts.parent / "floors.txt"
        constraints.write_text("\n".join(sorted(lowest)), encoding="utf-8")
        chosen = ["--constraint", str(constraints)]
    named = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    _pip(scripts, named, *chosen)
    return ", ".join(sorted(lowest)) if target.floors else (_TORCH if needs_torch else "")


def _pip(scripts: Path, *what: str) -> None:
    argv = [str(scripts / "python"), "-m", "pip", "install", "--quiet", *what]
    result = subprocess.run(argv, capture_output=True, text=True, env=_environ(scripts))
    if result.returncode:
        raise MfenvError(f"pip install {' '.join(what)}: {_end(result.stderr)}")


def _problem(check: Check, scripts: Path, work: Path) -> str:
    """Run a check; an empty text, or what is wrong."""
    argv = [str(scripts / check.argv[0]), *check.argv[1:]]
    environ = {**_environ(scripts), **dict(check.environ)}
    try:
        result = subprocess.run(
            argv, capture_output=True, text=True, cwd=work, env=environ, timeout=_LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"no end after {_LIMIT} s"
    if result.returncode != check.code:
        return f"exit code {result.returncode}: {_end(result.stderr or result.stdout)}"
    if "Traceback" in result.stderr:
        return f"a traceback: {_end(result.stderr)}"
    if check.says not in result.stdout + result.stderr:
        return f"does not say {check.says!r}"
    return ""


def _environ(scripts: Path) -> dict[str, str]:
    """As for a person: nothing of this process's Python, no models from a hub, one thread."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MFENV_"))}
    path = os.pathsep.join((str(scripts), kept.get("PATH", "")))
    return kept | {"PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def _end(text: str) -> str:
    """The last words, on one line, without folders of this machine."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    told = " ".join(lines[-3:]).replace(tempfile.gettempdir(), "…").replace(str(Path.home()), "~")
    return told[-400:]


def _told(row: Row) -> Row:
    verdict = "pass" if row.passed else "FAIL"
    line = f"{verdict}  {row.seconds:6.1f} s  {row.python}  {row.target}: {row.check}"
    print(f"{line}  {row.note}".rstrip(), file=sys.stderr, flush=True)
    return row


def _write(out: Path, figures: dict[str, Any]) -> None:
    rows = figures.get("rows", [])
    lines = [
        "# Release: built, installed, tried",
        "",
        "A clean copy of the commit is built; each row's environment is new and holds nothing but "
        "the wheel, its extras and what they ask for. Seconds are of a busy machine with 2 cores.",
        "",
        "- command: `python -m benchmarks.release TARGET…`",
        f"- {sum(r['passed'] for r in rows)} of {len(rows)} checks pass",
        "",
        "| what is built | | |",
        "|---|---|---|",
        *(f"| {f['check']} | {_verdict(f)} | {f['note']} |" for f in figures["files"]),
        "",
        "| Python | extras | check | | seconds | |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['python']} | {r['target']} | {r['check']} | {_verdict(r)} | "
            f"{r['seconds']:.1f} | {r['note'].replace('|', ' ')} |"
            for r in rows
        ),
        "",
    ]
    (out / "release.md").write_text("\n".join(lines), encoding="utf-8")
    text = json.dumps(figures, indent=1, sort_keys=True) + "\n"
    (out / "release.json").write_text(text, encoding="utf-8")


def _verdict(row: dict[str, Any]) -> str:
    return "pass" if row["passed"] else "**fail**"


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.release"))
