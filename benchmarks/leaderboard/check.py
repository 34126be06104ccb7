"""The whole check of an entry that came from somewhere: nothing in it is believed.

:mod:`benchmarks.fidelity.entry` says what an entry is and finds what is missing, changed or too
much. Here an entry is held against the track's official list, against what may be published of real
people's data, and its scores, where it brings any, against those that its journals give.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare import FORECASTERS
from benchmarks.fidelity.conditions import CORE
from benchmarks.fidelity.entry import (
    NAME,
    Entry,
    Manifest,
    inspect_entry,
    read_manifest,
    read_texts,
)
from benchmarks.fidelity.lists import OfficialList, label_digest, official
from benchmarks.fidelity.scores import score
from benchmarks.fidelity.tracks import SPLITS, TRACKS
from benchmarks.untrusted import MAX_BYTES, read_json
from mfenv.errors import MfenvError

__all__ = [
    "MIN_SEEDS",
    "OFFICIAL",
    "OWN",
    "PATTERNS",
    "WORD",
    "Checked",
    "Standing",
    "check",
    "claims",
    "cut",
    "is_command",
    "one_line",
    "too_large",
]

MIN_SEEDS = 5
"""An entry with fewer gets no rank."""

OFFICIAL, OWN = "official", "own list"

_LONGEST = 400  # characters of a problem
_ROUNDING = 2e-6  # figures have six decimals; the last may differ between machines


@dataclass(frozen=True, slots=True)
class Standing:
    """How an entry stands to the official list of its track and split."""

    events: str
    """``official``, ``first K of the official list`` or ``own list``."""
    unranked: Sequence[str]
    """Why it gets no rank; nothing where it gets one."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in a folder. It is valid where there are no problems."""

    folder: Path
    digest: str
    """SHA-256 of ``entry.json``, which has the hashes of all other files; "" without one."""
    problems: Sequence[str]
    """One line each."""
    manifest: Manifest | None = None
    entry: Entry | None = None
    standing: Standing | None = None
    scores: dict[str, Any] | None = None

    @property
    def valid(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems


def check(folder: Path) -> Checked:
    """Look at all of an entry; raises nothing that an entry can cause."""
    try:
        manifest = read_manifest(folder)
    except MfenvError as error:
        return Checked(folder, "", [one_line(error)])
    digest = hashlib.sha256((folder / "entry.json").read_bytes()).hexdigest()
    if large := [*_too_large(folder, manifest)]:
        return Checked(folder, digest, [one_line(x) for x in large], manifest)
    entry, errors = inspect_entry(folder)
    problems: list[MfenvError | str] = [*errors]
    track = TRACKS.get(manifest.track)
    if track is None or manifest.split not in SPLITS:
        problems.append(
            f"{folder / 'entry.json'}: track {cut(manifest.track)}, split {cut(manifest.split)}: "
            f"unknown; known: {', '.join(TRACKS)} and {', '.join(SPLITS)}"
        )
    open_text = track is not None and track.open_text
    problems += [f"{folder / 'entry.json'}: {x}" for x in _too_long(manifest)]
    if not open_text:
        problems += [f"{folder}: {x}" for x in _private(folder, manifest, entry)]
    standing = scores = None
    if entry is not None:
        standing, wrong = _standing(entry)
        problems += [f"{folder}: {x}" for x in wrong]
        if open_text:
            problems += _texts(entry)
    if entry is not None and not problems:
        try:
            scores = score(entry)
            problems += claims(folder, scores)
        except MfenvError as error:
            problems.append(error)
    return Checked(
        folder, digest, [one_line(x) for x in problems], manifest, entry, standing, scores
    )


_MAX_BYTES = 512 * 2**20  # of all files
_MAX = {"warmup": 5000, "horizon": 5000, "batch": 5000, "methods": 50}
_MAX_SEEDS, _MAX_CASES, _MAX_CONDITIONS = 100, 5000, 50


def _too_large(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What would take too long to read and to score, before any of it is read."""
    for name, found, most in (
        ("seeds", len(manifest.seeds), _MAX_SEEDS),
        ("n_cases", manifest.n_cases, _MAX_CASES),
        ("conditions", len(manifest.conditions), _MAX_CONDITIONS),
        *(
            (f"conditions.{condition}.{key}", x if isinstance(x, int) else len(x), most)
            for condition, facts in manifest.conditions.items()
            for key, most in _MAX.items()
            for x in [getattr(facts, key)]
        ),
    ):
        if found > most:
            yield f"{folder / 'entry.json'}: {name}: {found:,}; allowed: at most {most:,}"
    for facts in manifest.conditions.values():
        for method in facts.methods:
            if method in FORECASTERS:
                yield (
                    f"{folder / 'entry.json'}: method {method!r} has the name of a baseline; "
                    f"rename it"
                )
    yield from too_large(folder)


def too_large(folder: Path) -> Iterator[str]:
    """Files of an entry, or all of them together, that are too large to be read."""
    total = 0
    for root, _, files in os.walk(folder):
        for path in sorted(Path(root, name) for name in files):
            size = path.lstat().st_size
            total += size
            if size > MAX_BYTES:
                yield f"{path}: {size:,} bytes; allowed: at most {MAX_BYTES:,}"
    if total > _MAX_BYTES:
        yield f"{folder}: {total:,} bytes in all; allowed: at most {_MAX_BYTES:,}"


def one_line(problem: MfenvError | str) -> str:
    """A problem as one line that a terminal can show; it may quote what a stranger wrote."""
    text = " ".join(str(problem).split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


# -- the official list -----------------------------------------------------------------------


def _standing(entry: Entry) -> tuple[Standing, list[str]]:
    """How an entry stands to the official list, and where it contradicts it."""
    manifest = entry.manifest
    wanted = official(manifest.track, manifest.split)
    if wanted is None:
        return Standing(OWN, ["there is no official list of this track and split"]), []
    k = len(entry.cases)
    mine = [case.event for case in entry.cases]
    if mine != [case.event for case in wanted.core[:k]]:
        wrong = []
        if manifest.events in wanted.prefixes:
            wrong.append(
                "cases.jsonl: the events are not those of the official list, whose hash "
                "entry.json gives"
            )
        return Standing(OWN, ["its events are not those of the official list"]), wrong
    wrong = [
        f"cases.jsonl: line {i + 1}: {name} {getattr(case, name)!r} is not that of the official "
        f"list, {getattr(known, name)!r}"
        for i, (case, known) in enumerate(zip(entry.cases, wanted.core[:k], strict=True))
        for name in ("group", "domain", "language")
        if getattr(case, name) != getattr(known, name)
    ]
    if manifest.events != wanted.prefixes[k - 1]:
        wrong.append(
            f"entry.json: events is {manifest.events}, but cases.jsonl has the first {k} events of "
            f"the official list, whose hash is {wanted.prefixes[k - 1]}"
        )
    whole = k == len(wanted.core)
    events = OFFICIAL if whole else f"first {k} of the official list"
    return Standing(events, [*_unranked(entry, wanted)]), wrong


def _unranked(entry: Entry, wanted: OfficialList) -> Iterator[str]:
    """Why an entry on the official events gets no rank."""
    manifest, k = entry.manifest, len(entry.cases)
    if k < len(wanted.core):
        yield f"it has {k} of the {len(wanted.core)} events"
    core = manifest.conditions.get(CORE)
    if core is None:
        yield f"it has no condition {CORE!r}"
        return
    if (core.warmup, core.horizon) != (wanted.warmup, wanted.horizon):
        yield (
            f"its warm-up and horizon are {core.warmup} and {core.horizon}, the official ones "
            f"{wanted.warmup} and {wanted.horizon}"
        )
        return
    if manifest.annotator != wanted.annotator:
        yield f"its annotator is {manifest.annotator}, the official one {wanted.annotator}"
        return
    n = wanted.warmup + wanted.horizon
    other = [
        i
        for i, (case, known) in enumerate(zip(entry.cases, wanted.core, strict=False))
        if label_digest(case.real[:n]) != known.real
    ]
    if other:
        shown = ", ".join(map(str, other[:5])) + (", …" if len(other) > 5 else "")
        yield f"the labels of the real people are not the official ones in cases {shown}"
    if len(manifest.seeds) < MIN_SEEDS:
        yield f"it has {len(manifest.seeds)} seeds, {MIN_SEEDS} are needed"


# -- what may be published -------------------------------------------------------------------


_LIMITS = {"command": 4000, "sampling": 600}
_LIMIT = 300  # characters of any other text

WORD = r"[A-Za-z0-9][A-Za-z0-9+=._@:/-]{0,119}"
_NUMBERS = r"Sampling\((?:[a-z_]{1,30}=[A-Za-z0-9.]{1,20}(?:, )?){0,12}\)"
PATTERNS = {
    "package": r"[0-9][0-9A-Za-z.+-]{0,39}",
    "machine": r"[0-9]{1,5} CPU cores \([a-z0-9_]{1,20}\), Python [0-9a-z.+]{1,20}"
    r"(?:, torch [0-9a-z.+]{1,40})?(?:, [A-Za-z0-9][A-Za-z0-9._() -]{0,39})?",
    "annotator": WORD,
    "prompts": r"[0-9a-f]{64}",
    "events": r"[0-9a-f]{64}",
    "baseline": NAME.pattern,
    "data.file": r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}",
    "data.sha256": r"[0-9a-f]{64}|a folder",
    "domain": r"[A-Z][A-Za-z]{1,19}",
    "language": r"[a-z]{2,3}",
    "condition": rf"{CORE}|[a-z]{{1,20}}=[a-z0-9.]{{1,20}}",
    "method": r"[A-Za-z0-9+=._-]{1,60}",
    "identity": r"[A-Za-z0-9+=._@:-]{1,200}",
    "sampling": rf"[a-z-]{{1,30}}: Preset\(policy={_NUMBERS}, mean_field={_NUMBERS}\)",
    "backbone's field": r"[a-z][a-z_]{0,29}",
    "backbone": rf"{WORD}|[a-z_]{{1,40}}(?:, [a-z_]{{1,40}}){{1,9}}",
    "currency": r"[A-Z]{3}",
}
"""What texts may look like in an entry on real people's events: no room for anything they wrote."""


def _strings(manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    """Every text of a manifest, as (kind, where it stands, text); its files are all known."""
    for name in ("package", "machine", "annotator", "prompts", "events", "baseline"):
        yield name, name, getattr(manifest, name)
    for name, text in manifest.data.items():
        yield f"data.{name}", f"data.{name}", text
    for i, model in enumerate(manifest.backbone):
        for name, text in model.items():
            yield "backbone's field", f"backbone.{i}", name
            yield "backbone", f"backbone.{i}.{name}", text
    for name, facts in manifest.conditions.items():
        yield "condition", "conditions", name
        yield "sampling", f"conditions.{name}.sampling", facts.sampling
        for method, identity in facts.methods.items():
            yield "method", f"conditions.{name}.methods", method
            yield "identity", f"conditions.{name}.methods.{method}", identity
    for judge, annotator in manifest.judges.items():
        yield "method", "judges", judge
        yield "annotator", f"judges.{judge}", annotator
    for currency in manifest.cost or {}:
        yield "currency", "cost", currency
    yield "command", "command", manifest.command


def _too_long(manifest: Manifest) -> list[str]:
    """Texts that are no names any more."""
    return [
        f"{where}: {len(text):,} characters; allowed: at most {_LIMITS.get(kind, _LIMIT)}"
        for kind, where, text in _strings(manifest)
        if len(text) > _LIMITS.get(kind, _LIMIT)
    ]


def _private(folder: Path, manifest: Manifest, entry: Entry | None) -> Iterator[str]:
    """What an entry on a track of real people's posts holds that may not be published."""
    for name in ("texts", "README.md"):
        if (folder / name).exists():
            yield (
                f"{name} is there, but what is written on track {manifest.track} can quote real "
                f"people; keep it beside the entry"
            )
    for kind, where, text in _strings(manifest):
        allowed = PATTERNS.get(kind)
        if allowed is not None and not re.fullmatch(allowed, text):
            yield (
                f"entry.json: {where}: {cut(text)} could be somebody's text; allowed on track "
                f"{manifest.track}: {allowed}"
            )
    if not is_command(manifest.command, "fidelity"):
        yield (
            f"entry.json: command: {cut(manifest.command)} is not 'mfenv bench fidelity' with "
            f"options that have one value each, without spaces"
        )
    for i, case in enumerate(entry.cases if entry is not None else ()):
        for kind, text in (("domain", case.domain or "None"), ("language", case.language)):
            if not re.fullmatch(PATTERNS[kind], text):
                yield (
                    f"cases.jsonl: line {i + 1}: {kind}: {cut(text)} could be somebody's text; "
                    f"allowed on track {manifest.track}: {PATTERNS[kind]}"
                )


def is_command(text: str, job: str) -> bool:
    """Whether this is a command of options, each with one word at most behind it.

    A file of events may stand before the options of ``bench intervention``.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        return False
    if words[:3] != ["mfenv", "bench", job]:
        return False
    options = [re.fullmatch(r"--[a-z][a-z-]{1,29}(?:=.*)?", word) is not None for word in words]
    return all(
        (re.fullmatch(r"[A-Za-z0-9+=,._@:/{}|~-]{1,2000}", word) and (options[i] or options[i - 1]))
        or (i == 3 and job == "intervention" and re.fullmatch(PATTERNS["data.file"], word))
        for i, word in enumerate(words)
        if i >= 3
    )


def cut(text: str) -> str:
    """A text for a message, cut."""
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


def _texts(entry: Entry) -> list[MfenvError | str]:
    """What is wrong with the texts of an open track's entry."""
    problems: list[MfenvError | str] = []
    for condition, facts in entry.manifest.conditions.items():
        for method in facts.methods:
            try:
                for _ in read_texts(entry, entry.folder, condition, method):
                    pass
            except MfenvError as error:
                problems.append(error)
    return problems


# -- scores ----------------------------------------------------------------------------------


def claims(folder: Path, computed: dict[str, Any]) -> list[MfenvError | str]:
    """Where ``scores.json``, if there, is not what the journals give."""
    path = folder / "scores.json"
    if not path.exists():
        return []
    try:
        claimed = read_json(path)
    except MfenvError as error:
        return [error]
    found = _difference(claimed, computed, "")
    return [] if found is None else [f"{path}: {found}; take the file out, or score again"]


def _difference(claimed: Any, computed: Any, where: str) -> str | None:
    """The first place where two trees of figures differ."""
    if isinstance(computed, dict) and isinstance(claimed, dict):
        for key in (*computed, *sorted(set(claimed) - set(computed))):
            path = f"{where}.{key}" if where else str(key)
            if key not in claimed or key not in computed:
                return f"{path} is {'missing' if key in computed else 'not a score'}"
            if found := _difference(claimed[key], computed[key], path):
                return found
        return None
    if isinstance(computed, list) and isinstance(claimed, list) and len(computed) == len(claimed):
        pairs = enumerate(zip(claimed, computed, strict=True))
        return next((f for i, (a, b) in pairs if (f := _difference(a, b, f"{where}.{i}"))), None)
    numbers = (int, float)
    if type(computed) in numbers and type(claimed) in numbers:
        same = abs(claimed) < 1e300 and math.isclose(
            claimed, computed, rel_tol=1e-6, abs_tol=_ROUNDING
        )
    else:
        same = type(claimed) is type(computed) and claimed == computed
    shown = one_line(repr(claimed))[:60]
    return None if same else f"{where} is {shown}, the journals give {computed!r}"
