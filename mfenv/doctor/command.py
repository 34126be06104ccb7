"""``mfenv doctor``: what is installed and found, and what to do about what is missing."""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium

import mfenv
from mfenv.doctor.data import DataFile, read_data
from mfenv.doctor.machine import Machine, read_machine
from mfenv.doctor.packages import CORE, Extra, install_command, read_extra, read_extras
from mfenv.doctor.plugins import GROUPS, Found, read_plugins
from mfenv.envs.registration import SOCIETY

__all__ = ["HELP", "VARIABLES", "Report", "add_arguments", "examine", "run"]

HELP = "what is installed and found here, and what to do about what is missing"

VARIABLES = {
    "OPENAI_API_KEY": "the key of a served model",
    "OPENAI_BASE_URL": "the server where a specification names none",
    "OPENAI_ORG_ID": "of the openai package",
    "OPENAI_PROJECT_ID": "of the openai package",
    "HF_TOKEN": "the key of the Hugging Face hub",
    "MFENV_OPENAI_PROMPTS": "form of the prompts of a served model",
    "MFENV_OPENAI_CONCURRENCY": "requests in flight",
    "MFENV_OPENAI_TIMEOUT": "seconds for a request",
    "MFENV_OPENAI_GIVE_UP": "seconds without an answer until a run stops",
    "MFENV_OPENAI_THINKING_TOKENS": "tokens of thinking",
    "MFENV_CACHE": "file of a served model's answers, or off",
    "MFENV_DATA": "folder of real data for the tests",
}
"""Environment variables that are read, and what for. Their values are never shown."""

_LITTLE_DISK = 2.0  # GiB
_WIDTH, _LINE = 12, 100  # of the names, of a line


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found."""

    version: str
    core_problem: str | None
    """Why the synthetic society cannot be played here; ``None`` where it can."""
    extras: tuple[Extra, ...]
    """The core first."""
    machine: Machine
    plugins: tuple[Found, ...]
    data: tuple[DataFile, ...]
    variables: dict[str, bool]
    """Environment variable → whether it is set."""
    missing: tuple[str, ...]
    """What was asked for and is not here, with what to do."""

    @property
    def code(self) -> int:
        """The exit code."""
        return 1 if self.core_problem or self.missing else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add(
        "--extra",
        action="append",
        default=[],
        metavar="NAME",
        help="exit with 1 if this extra is not installed; may be repeated",
    )
    add(
        "--data",
        action="append",
        type=Path,
        default=[],
        metavar="PATH",
        help="a folder or file of events to look at; exit with 1 if there are none or one cannot "
        "be read; may be repeated",
    )
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="(%(default)s)")
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 0, or 1 if the core does not work or what was asked for is missing."""
    report = examine(args.extra, args.data, args.runs)
    if args.json:
        print(json.dumps(_as_json(report), indent=2))
    else:
        print("\n".join(_lines(report)))
    return report.code


def examine(
    extras: Sequence[str] = (), data: Sequence[Path] = (), runs: Path = Path("runs")
) -> Report:
    """Look at everything. ``MfenvError`` for an extra that does not exist."""
    asked = [read_extra(name) for name in dict.fromkeys(extras)]
    machine, plugins = read_machine(runs), read_plugins()
    files = [file for path in data for file in read_data(path)]
    return Report(
        version=mfenv.__version__,
        core_problem=_core_problem(plugins),
        extras=tuple(read_extras()),
        machine=machine,
        plugins=tuple(plugins),
        data=tuple(files),
        variables={name: bool(os.environ.get(name)) for name in VARIABLES},
        missing=tuple(_missing(asked, machine, plugins, files)),
    )


def _core_problem(plugins: Sequence[Found]) -> str | None:
    """Why the core does not work: a package, a foreign package of our name, or an episode."""
    if problems := read_extra(CORE).problems:
        return f"{'; '.join(problems)}: {install_command(CORE)}"
    if shadowed := next((p.error for p in plugins if p.shadowed), None):
        return shadowed
    if not any(p.ours for p in plugins):
        return "no command of mfenv's is registered: pip install --force-reinstall mfenv"
    try:
        env = gymnasium.make(SOCIETY, disable_env_checker=True)
        env.reset(seed=0)
        env.step(0)
        env.close()
    except Exception as error:  # whatever it is, the person is told
        return f"{SOCIETY} fails with {type(error).__name__}: {error}"
    return None


def _missing(
    asked: Sequence[Extra], machine: Machine, plugins: Sequence[Found], files: Sequence[DataFile]
) -> Iterator[str]:
    for extra in asked:
        if extra.problems:
            yield f"extra {extra.name}: {install_command(extra.name)}"
        elif machine.torch_problem and any(p.name == "torch" for p in extra.packages):
            yield f"extra {extra.name}: {machine.torch_problem}; {_TORCH}"
        for p in plugins:
            if p.extra == extra.name and not extra.problems:
                yield f"extra {extra.name}: {p.name} ({p.group}) cannot be loaded all the same"
    for file in files:
        if file.problem is not None:
            yield f"data {file.path}: {_after(file)}; list what is wrong: mfenv data validate PATH"


_TORCH = "install a torch for this machine (a CPU build is enough), then mfenv again"


def _after(file: DataFile) -> str:
    """The problem without the path that stands before it."""
    return (file.problem or "").removeprefix(f"{file.path}: ")


def _as_json(report: Report) -> dict[str, Any]:
    out = asdict(report)
    for value, extra in zip(out["extras"], report.extras, strict=True):
        value |= {"problems": extra.problems, "install": install_command(extra.name)}
    return {"ok": report.code == 0, **out}


def _lines(report: Report) -> Iterator[str]:
    """The report as text, safe for a terminal: names and errors of others are escaped."""
    sections: list[tuple[str, Callable[[Report], Iterator[tuple[str, str]]]]] = [
        ("machine", _machine_rows),
        ("extras", _extra_rows),
        ("found", _plugin_rows),
        ("data", _data_rows),
        ("environment", _variable_rows),
    ]
    yield f"mfenv {report.version}, Python {report.machine.python}, {report.machine.system}"
    works = "works" if report.core_problem is None else _plain(report.core_problem)
    yield from _wrapped("core", works)
    for title, rows in sections:
        yield ""
        yield title
        for name, text in rows(report):
            # Names that are too long for their column have the text below them.
            head = _plain(name) if len(name) < _WIDTH else ""
            if name and not head:
                yield f"  {_plain(name)}"
            yield from _wrapped(head, text)
    if report.missing:
        yield ""
        yield "asked for and missing"
        for text in report.missing:
            yield f"  {_plain(text)}"


def _wrapped(name: str, text: str) -> list[str]:
    """A row of a section; commands and paths are never cut."""
    return textwrap.wrap(
        _plain(text),
        _LINE,
        initial_indent=f"  {name:{_WIDTH}}",
        subsequent_indent=" " * (_WIDTH + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _plain(text: str) -> str:
    """One line without control characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def _machine_rows(report: Report) -> Iterator[tuple[str, str]]:
    m = report.machine
    memory = "" if m.memory_gib is None else f", {m.memory_gib:.1f} GiB of memory"
    yield "CPU", f"{m.cores} cores{memory}"
    for a in m.accelerators:
        size = "" if a.memory_gib is None else f", {a.memory_gib:.1f} GiB"
        yield a.kind, f"{a.name}{size}"
    if m.torch_problem:
        yield "torch", f"{m.torch_problem}; {_TORCH}"
    elif not m.accelerators:
        yield (
            "GPU",
            "none found" + ("" if m.torch else " (torch, which would tell, is not installed)"),
        )
    little = "; little: give another folder with --out" if m.disk_free_gib < _LITTLE_DISK else ""
    yield "disk", f"{m.disk_free_gib:.1f} GiB free at {m.disk_folder}{little}"
    yield (
        "browser",
        f"{m.browser or 'no Chromium'} (only the tests of the leaderboard's site use one)",
    )


def _extra_rows(report: Report) -> Iterator[tuple[str, str]]:
    for extra in report.extras:
        parts = [x for x in report.extras if x.name != CORE and _includes(extra, x)]
        told = {p.name for x in parts for p in x.packages}
        own = [p for p in extra.packages if p.name not in told and p.problem is None]
        there = ", ".join([*(x.name for x in parts), *(f"{p.name} {p.installed}" for p in own)])
        if extra.problems:
            yield extra.name, f"no: {'; '.join(extra.problems)}"
            yield "", install_command(extra.name)
        else:
            yield extra.name, f"yes: {there}"


def _includes(extra: Extra, other: Extra) -> bool:
    """Whether an extra asks for all that another one does, and more."""
    return {p.name for p in other.packages} < {p.name for p in extra.packages}


def _plugin_rows(report: Report) -> Iterator[tuple[str, str]]:
    for group in GROUPS:
        here = [p for p in report.plugins if p.group == group]
        loaded = [
            p.name if p.ours else f"{p.name} ({p.distribution})"
            for p in here
            if p.extra is None and p.error is None
        ]
        yield group, ", ".join(loaded) or "none"
        for extra in dict.fromkeys(p.extra for p in here if p.extra is not None):
            names = ", ".join(p.name for p in here if p.extra == extra)
            yield "", f"{names}: need the extra {extra}: {install_command(extra)}"
        for p in here:
            if p.error is not None:
                yield "", f"{p.name} of {p.distribution} cannot be loaded: {p.error}"


def _data_rows(report: Report) -> Iterator[tuple[str, str]]:
    yield "synthetic", "the synthetic society: always here"
    for f in report.data:
        if f.problem is not None:
            what = f"{f.kind}; {_after(f)}" if f.kind else _after(f)
        elif not f.events:
            what = f"{f.kind}: no events, passed over"
        else:
            what = f"{f.kind}; {f.events:,} events, {f.posts:,} posts"
        yield f.path, what
    if not report.data:
        yield "real", "none was looked for: mfenv doctor --data FOLDER"


def _variable_rows(report: Report) -> Iterator[tuple[str, str]]:
    for name, is_set in report.variables.items():
        if is_set:
            yield name, f"set ({VARIABLES[name]})"
    unset = [name for name, is_set in report.variables.items() if not is_set]
    yield "not set", ", ".join(unset)
