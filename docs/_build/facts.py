"""What pages say of the code is read from the code: a hook of MkDocs.

A line ``<!-- facts: NAME ARGUMENTS -->`` on a page becomes what the function of that name returns.
Tables of measurements and model cards, which stand beside what they describe, are pages too.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[2]
_MARK = re.compile(r"^<!-- facts: (\w+) ?(.*?) -->$", flags=re.M)
_WEIGHTS = ROOT / "agents" / "weights"
_CARDS = sorted(card.parent.name for card in _WEIGHTS.glob("*/README.md"))


def on_files(files: Files, config: Any) -> Files:
    """Add the tables of measurements (results/) and the model cards (models/)."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        files.append(File.generated(config, f"results/{path.name}", content=text))
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    for name in _CARDS:
        text = (_WEIGHTS / name / "README.md").read_text(encoding="utf-8")
        text = text.replace("../../../benchmarks/results/", "../results/")
        text = re.sub(r"\.\./([\w-]+)/README\.md", r"\1.md", text)
        files.append(File.generated(config, f"models/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the facts of a page."""
    return _MARK.sub(lambda m: FACTS[m[1]](*m[2].split()), markdown)


def track(name: str) -> str:
    """How a track is played, and the official list of each of its splits."""
    from benchmarks.fidelity.lists import official
    from benchmarks.fidelity.tracks import SPLITS, TRACKS

    t = TRACKS[name]
    rows = [
        ("split", *SPLITS),
        ("---", *["---"] * len(SPLITS)),
    ]
    lists = [official(name, split) for split in SPLITS]
    cells: list[tuple[str, Callable[[Any], str]]] = [
        ("events", lambda x: f"`{x.data['file']}`" if t.files else x.data["file"]),
        ("SHA-256 of them", lambda x: f"`{x.data['sha256'][:16]}…`"),
        ("cases that are long enough", lambda x: f"{len(x.events)}"),
        ("cases of the core grid", lambda x: f"{len(x.core)}"),
        ("of so many events", lambda x: f"{len({c.group for c in x.core})}"),
        ("SHA-256 of the list", lambda x: f"`{x.prefixes[-1][:16]}…`"),
        ("annotator of the real reactions", lambda x: f"`{x.annotator}`"),
    ]
    for head, show in cells:
        rows.append((head, *("" if x is None else show(x) for x in lists)))
    settings = [
        ("posts an event needs", f"{t.min_posts}"),
        ("warm-up, horizon, batch", f"{t.warmup}, {t.horizon}, {t.batch}"),
        ("backbone where none is named", f"`{t.backbone}`"),
        ("texts that may be published with an entry", "yes" if t.open_text else "no"),
    ]
    lines = ["| setting | |", "|---|---|", *(f"| {a} | {b} |" for a, b in settings), ""]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def tracks() -> str:
    """One line a track."""
    from benchmarks.fidelity.tracks import TRACKS

    rows = [
        f"| [{t.name}]({t.name}.md) | {t.what} | {'none needed' if t.files is None else 'yours'} |"
        for t in TRACKS.values()
    ]
    return "\n".join(["| track | what is played | data |", "|---|---|---|", *rows])


def labels() -> str:
    """The dimensions and their labels, in order."""
    from mfenv.labels import DIMENSIONS

    rows = [f"| `{d.name}` | {', '.join(d.labels)} |" for d in DIMENSIONS]
    return "\n".join(["| dimension | labels |", "|---|---|", *rows])


def interventions() -> str:
    """The kinds of intervention: flat actions, cost, decay."""
    from mfenv.interventions import COSTS, DECAY, INTENSITIES, KINDS

    n = len(INTENSITIES)
    rows = [
        f"| `{kind}` | {1 + n * k} to {n + n * k} | {COSTS[k]:g} | "
        f"{f'{DECAY[k]:.0%}' if DECAY[k] else 'acts once'} |"
        for k, kind in enumerate(KINDS)
    ]
    head = "| kind | actions (low, medium, high) | cost at full strength | left after a step |"
    return "\n".join([head, "|---|---|---|---|", "| none | 0 | 0 | |", *rows])


def archetypes() -> str:
    """The types of people in the synthetic society."""
    from mfenv.events.synthetic.archetypes import ARCHETYPES

    rows = [f"| {a.name} | {a.share:.0%} | {a.descriptions[0]} |" for a in ARCHETYPES]
    return "\n".join(["| type | share | a self-description |", "|---|---|---|", *rows])


def methods() -> str:
    """Every registered method with the first line of its documentation."""
    from mfenv import plugins

    rows = []
    for name in plugins.names("mfenv.methods"):
        factory = plugins.load("mfenv.methods", name)
        learned = len(inspect.signature(factory).parameters) > 2
        first = (inspect.getdoc(factory) or "").partition("\n\n")[0].replace("\n", " ")
        rows.append(f"| `{name}{':DIR' if learned else ''}` | {first} |")
    return "\n".join(["| method | what the agents go by |", "|---|---|", *rows])


def results() -> str:
    """Every table of measurements."""
    rows = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        rows.append(f"| [{title}](results/{path.name}) | `benchmarks/results/{path.name}` |")
    return "\n".join(["| table | file |", "|---|---|", *rows])


def modules(package: str, *without: str) -> str:
    """The reference of every module of a package that has something public.

    Modules and packages that are named in ``without`` have pages of their own.
    """
    parts = []
    for name, is_package in _modules(package, without):
        # What a package exports is documented by its modules.
        members = ", members: false" if is_package else ""
        parts.append(f"::: {name}\n    options: {{show_root_full_path: true{members}}}\n")
    return "\n".join(parts)


def _modules(package: str, without: Sequence[str]) -> Iterator[tuple[str, bool]]:
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        if found.name in without or found.name.rpartition(".")[2].startswith("_"):
            continue
        yield found.name, found.ispkg
        if found.ispkg:
            yield from _modules(found.name, without)


def commands() -> str:
    """The help of every command and of each of its jobs."""
    os.environ["COLUMNS"] = "82"  # what a page has room for
    return "\n".join(
        f"{'#' * (2 if prog.count(' ') == 1 else 3)} `{prog}`\n\n```text\n{parser.format_help()}```\n"
        for prog, parser in parsers()
    )


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser of every command, and of every job or action of those that have some."""
    from mfenv import plugins
    from mfenv.cli import GROUP, Jobs, Parser

    def made(module: Any, prog: str) -> argparse.ArgumentParser:
        parser = Parser(prog=prog, description=module.HELP, allow_abbrev=False)
        module.add_arguments(parser)
        return parser

    for name in plugins.names(GROUP):
        command = plugins.load(GROUP, name)
        parser = made(command, f"mfenv {name}")
        yield parser.prog, parser
        jobs = getattr(getattr(command, "run", None), "__self__", None)
        if isinstance(jobs, Jobs):
            for job, (module, _) in jobs.jobs.items():
                prog = f"mfenv {name} {job}"
                yield prog, made(importlib.import_module(module), prog)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from ((f"mfenv {name} {x}", p) for x, p in action.choices.items())


FACTS: dict[str, Callable[..., str]] = {
    f.__name__: f
    for f in (
        archetypes,
        commands,
        interventions,
        labels,
        methods,
        modules,
        results,
        track,
        tracks,
    )
}
