"""An entry: a folder from which every score can be computed again, and which claims none.

    entry.json                          what was run: track, list of events, models, settings
    cases.jsonl                         one line a case: hashes of its ids, the real labels
    journals/CONDITION/METHOD.jsonl     one line a step: who acted, labels, counts, tokens, a hash
    likelihoods/CONDITION/METHOD.jsonl  one line a case: the likelihood of its real actions
    judges/JUDGE/…                      the labels of a second annotator, where there is one
    texts/CONDITION/METHOD.jsonl        what was written, on tracks whose texts are open

On tracks of real people's posts the last part stays in a folder of its own, beside the entry, since
simulated texts can quote them; the public lines carry its hashes. Paths are made of the names that
``entry.json`` declares and are never taken from it, so an entry cannot reach outside its folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.untrusted import (
    MAX_LINE,
    MAX_NUMBER,
    is_number,
    json_lines,
    only_known,
    parse_json,
    read_bytes,
    shown,
    strangers,
)
from mfenv.distributions import counts
from mfenv.dynamics.journal import canonical
from mfenv.dynamics.records import StepRecord
from mfenv.errors import DataError, MfenvError
from mfenv.labels import N_LABELS, Labels, decode_code, encode_code

__all__ = [
    "FORMAT",
    "NAME",
    "CaseFacts",
    "ConditionFacts",
    "Entry",
    "Manifest",
    "Played",
    "Usage",
    "Verdict",
    "Written",
    "inspect_entry",
    "load_entry",
    "read_manifest",
    "read_texts",
    "text_folder",
    "text_hash",
    "write_entry",
]

FORMAT = "mfenv-entry/1"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+=._-]{0,99}")
"""What conditions and methods are called: they become names of files."""

_OPTIONAL = ("entry.json", "scores.json", "README.md")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHORT = re.compile(r"[0-9a-f]{32}")
Floats = NDArray[np.float64]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a condition's runs cost, as measured."""

    decisions: int
    seconds: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class ConditionFacts:
    """One condition's settings, methods and cost."""

    warmup: int
    horizon: int
    batch: int
    sampling: str
    """Name and parameters."""
    methods: Mapping[str, str]
    """Name → name with the hash of what it learned, adapters among it."""
    cases: Sequence[int]
    """Indices of the cases that are played; all but those that are too short."""
    usage: Usage


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that ``entry.json`` holds."""

    track: str
    split: str
    data: Mapping[str, str]
    """File name and SHA-256 of the events."""
    events: str
    """SHA-256 of the list of cases, by id."""
    n_cases: int
    backbone: Sequence[Mapping[str, str]]
    """What identifies each model: name, revision, prompts' hash, quantisation, …"""
    annotator: str
    prompts: str
    """SHA-256 of the prompts' data files."""
    seeds: Sequence[int]
    baseline: str
    """The method without a mean field that likelihoods are compared with."""
    conditions: Mapping[str, ConditionFacts]
    package: str
    """Version of mfenv."""
    machine: str
    command: str
    judges: Mapping[str, str] = field(default_factory=dict)
    """Second annotators: folder → name."""
    cost: Mapping[str, float] | None = None
    """Money, by currency, where a served model was paid for."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Relative path → SHA-256, of the public part and of the texts."""


@dataclass(frozen=True, slots=True)
class CaseFacts:
    """A case without anything that names it."""

    event: str  # SHA-256 of its id
    group: str  # SHA-256 of the group's id
    domain: str | None
    language: str
    real: Labels  # (n, 8) of the first reactions, warm-up and horizon of every condition


@dataclass(frozen=True, slots=True)
class Played:
    """One condition's runs as arrays; C cases, S seeds, W and H reactions."""

    cases: Sequence[int]  # (C,) indices of the entry's cases
    warmup: Labels  # (C, W, 8) of the real people
    real: Labels  # (C, H, 8)
    simulated: Mapping[str, Labels]  # method → (S, C, H, 8)
    tokens: Mapping[str, NDArray[np.int64]]  # method → (S, C, steps, 2) of prompts, written
    texts: Mapping[str, NDArray[np.str_]]  # method → (S, C, steps) hashes of what was written
    likelihoods: Mapping[str, Floats]  # method → (C, 3) sums of -log p, tokens, actions
    judged: Mapping[str, tuple[Labels, Mapping[str, Labels]]] = field(default_factory=dict)
    """Second annotator → its labels of the real ``(C, H, 8)`` and simulated reactions."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A second annotator's labels, as they are written."""

    name: str
    real: Sequence[Labels]  # of each case, as many as it has in the entry
    simulated: Mapping[tuple[str, str], Iterator[tuple[int, int, int, Labels]]]
    """(condition, method) → (case, seed, step, labels), by case and seed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder that was read and found to be whole."""

    folder: Path
    manifest: Manifest
    cases: Sequence[CaseFacts]
    played: Mapping[str, Played]
    """By condition."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written in one step, from the part that holds the texts."""

    case: int
    seed: int
    step: int
    actions: Sequence[str]
    mean_field: str


def text_folder(folder: Path) -> Path:
    """Where the texts of a private track's entry are: beside it."""
    return folder.with_name(folder.name + ".private")


# -- writing ---------------------------------------------------------------------------------


def write_entry(
    folder: Path,
    manifest: Manifest,
    cases: Sequence[CaseFacts],
    runs: Mapping[tuple[str, str], Iterator[tuple[int, int, Sequence[StepRecord]]]],
    likelihoods: Mapping[tuple[str, str], Floats],
    *,
    open_text: bool,
    judges: Mapping[str, Verdict] | None = None,
) -> None:
    """Write an entry in one move.

    ``runs`` gives, for every (condition, method), its runs by case and seed as (case, seed, rollout
    steps); ``likelihoods`` the sums ``(cases, 3)``. Without ``open_text`` the texts go to
    :func:`text_folder`. Raises ``MfenvError`` where the folder holds something that is no entry.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "entry.json").is_file():
        raise MfenvError(f"{folder}: exists and is no entry; choose another --out")
    part = folder.with_name(folder.name + ".part")
    private = text_folder(part)
    for old in (part, private):
        shutil.rmtree(old, ignore_errors=True)
        old.mkdir(parents=True)
    files: dict[str, str] = {}

    def put(root: Path, path: str, lines: Iterator[bytes]) -> None:
        target, digest = root / path, hashlib.sha256()
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for line in lines:
                file.write(line)
                digest.update(line)
        files[path] = digest.hexdigest()

    put(part, "cases.jsonl", (canonical(_case_json(case)) for case in cases))
    if not open_text:  # however an entry is kept, its texts are not committed by oversight
        (private / ".gitignore").write_text("*\n", encoding="utf-8")
    for (condition, method), each in runs.items():
        for name in (condition, method):
            if not NAME.fullmatch(name):
                raise MfenvError(f"{name!r} cannot be a name in an entry; allowed: {NAME.pattern}")
        texts = part if open_text else private
        path = f"{condition}/{method}.jsonl"
        public: list[bytes] = []

        def written(
            each: Iterator[tuple[int, int, Sequence[StepRecord]]] = each,
            public: list[bytes] = public,
        ) -> Iterator[bytes]:
            for case, seed, steps in each:
                for record in steps:
                    line = canonical(_text_json(case, seed, record))
                    public.append(canonical(_step_json(case, seed, record, _hash(line))))
                    yield line

        put(texts, f"texts/{path}", written())
        put(part, f"journals/{path}", iter(public))
        rows = likelihoods[condition, method]
        put(
            part,
            f"likelihoods/{path}",
            (
                canonical({"case": i, "sums": None if np.isnan(row).any() else row.tolist()})
                for i, row in enumerate(rows)
            ),
        )
    for judge, verdict in (judges or {}).items():
        put(
            part,
            f"judges/{judge}/cases.jsonl",
            (canonical({"real": _codes(labels)}) for labels in verdict.real),
        )
        for (condition, method), steps in verdict.simulated.items():
            put(
                part,
                f"judges/{judge}/{condition}/{method}.jsonl",
                (
                    canonical({"case": c, "seed": s, "step": t, "labels": _codes(labels)})
                    for c, s, t, labels in steps
                ),
            )
    names = {judge: verdict.name for judge, verdict in (judges or {}).items()}
    whole = {**asdict(manifest), "format": FORMAT, "files": files, "judges": names}
    (part / "entry.json").write_text(
        json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for new, old in ((part, folder), (private, text_folder(folder))):
        shutil.rmtree(old, ignore_errors=True)
        if any(new.iterdir()):
            new.replace(old)
        else:
            new.rmdir()


def _case_json(case: CaseFacts) -> dict[str, Any]:
    return {
        "event": case.event,
        "group": case.group,
        "domain": case.domain,
        "language": case.language,
        "real": _codes(case.real),
    }


def _text_json(case: int, seed: int, record: StepRecord) -> dict[str, Any]:
    return {
        "case": case,
        "seed": seed,
        "step": record.step,
        "actions": list(record.texts),
        "mean_field": record.mean_field,
    }


def _step_json(case: int, seed: int, record: StepRecord, text: str) -> dict[str, Any]:
    return {
        "case": case,
        "seed": seed,
        "step": record.step,
        "agents": [int(record.agents[0]), int(record.agents[-1])],  # first and last, both included
        "labels": _codes(record.labels),
        "counts": counts(record.labels).astype(int).tolist(),
        "tokens": [record.prompt_tokens, record.completion_tokens],
        "text": text,
    }


def _codes(labels: Labels) -> str:
    return " ".join(decode_code(row) for row in labels)


def text_hash(case: int, seed: int, record: StepRecord) -> str:
    """What stands in a public line for the texts of a step."""
    return _hash(canonical(_text_json(case, seed, record)))


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:32]


# -- reading ---------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``entry.json`` alone. Raises ``DataError`` that names the field."""
    path = folder / "entry.json"
    if not path.is_file():
        raise MfenvError(f"{folder}: no entry: it has no entry.json")
    value = parse_json(path, read_bytes(path, MAX_LINE), "(all)")

    def bad(name: str, problem: str) -> DataError:
        return DataError(str(path), "(all)", name, problem)

    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise bad("format", f"this is no entry ({FORMAT})")
    only_known(bad, "", value, {*Manifest.__dataclass_fields__, "format"})
    if re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)):
        raise bad("(all)", "holds half a character (a lone surrogate)")
    for name, kind in (
        ("track", str),
        ("split", str),
        ("events", str),
        ("annotator", str),
        ("prompts", str),
        ("baseline", str),
        ("package", str),
        ("machine", str),
        ("command", str),
        ("data", dict),
        ("conditions", dict),
        ("files", dict),
        ("backbone", list),
        ("seeds", list),
        ("n_cases", int),
    ):
        if not isinstance(value.get(name), kind) or isinstance(value.get(name), bool):
            raise bad(name, f"must be there and be of type {kind.__name__}")
    if not value["backbone"] or not all(
        isinstance(b, dict) and all(isinstance(x, str) for kv in b.items() for x in kv)
        for b in value["backbone"]
    ):
        raise bad("backbone", "must be a list of at least one model: names and texts")
    seeds = value["seeds"]
    if not seeds or any(type(s) is not int or s < 0 for s in seeds) or len({*seeds}) < len(seeds):
        raise bad("seeds", "must be a list of different whole numbers of at least 0")
    if max(seeds) >= MAX_NUMBER:
        raise bad("seeds", f"must be less than {MAX_NUMBER}")
    if not 1 <= value["n_cases"] <= 10**6:
        raise bad("n_cases", "must be from 1 to 1,000,000")
    if not value["conditions"]:
        raise bad("conditions", "must name at least one")
    value.setdefault("judges", {})
    if not isinstance(value["judges"], dict) or not all(map(NAME.fullmatch, value["judges"])):
        raise bad("judges", f"must map names to texts; allowed as names: {NAME.pattern}")
    for name, kind in (("data", str), ("files", str), ("judges", str)):
        if not all(isinstance(x, kind) for kv in value[name].items() for x in kv):
            raise bad(name, "must map texts to texts")
    if set(value["data"]) != {"file", "sha256"}:
        raise bad("data", "must hold file and sha256, nothing else")
    cost = value.get("cost")
    if cost is not None and not (
        isinstance(cost, dict) and all(is_number(x) and x >= 0 for x in cost.values())
    ):
        raise bad("cost", "must be null, or map currencies to numbers of at least 0")
    conditions = {
        name: _condition(bad, name, condition, value["n_cases"])
        for name, condition in value["conditions"].items()
    }
    known: dict[str, Any] = {name: value.get(name) for name in Manifest.__dataclass_fields__}
    known["conditions"] = conditions
    return Manifest(**known)


def _condition(bad: Any, name: str, value: Any, n_cases: int) -> ConditionFacts:
    where = f"conditions.{name}"
    if not NAME.fullmatch(name):
        raise bad("conditions", f"{shown(name)} is not allowed as a name: {NAME.pattern}")
    if not isinstance(value, dict):
        raise bad(where, "must be an object")
    for key in ("warmup", "horizon", "batch"):
        if type(value.get(key)) is not int or not 1 <= value[key] <= 10**6:
            raise bad(f"{where}.{key}", "must be a whole number of at least 1")
    if not isinstance(value.get("sampling"), str):
        raise bad(f"{where}.sampling", "must be a text")
    methods, cases = value.get("methods"), value.get("cases")
    if not isinstance(methods, dict) or not methods:
        raise bad(f"{where}.methods", "must name at least one method")
    for method, identity in methods.items():
        if not NAME.fullmatch(method) or not isinstance(identity, str):
            raise bad(f"{where}.methods", f"{shown(method)} is not allowed: {NAME.pattern}")
    if (
        not isinstance(cases, list)
        or not cases
        or any(type(c) is not int or not 0 <= c < n_cases for c in cases)
        or cases != sorted({*cases})
    ):
        raise bad(f"{where}.cases", f"must be growing whole numbers from 0 to {n_cases - 1}")
    usage = value.get("usage")
    if not isinstance(usage, dict) or not all(
        is_number(usage.get(k)) and usage[k] >= 0 for k in Usage.__dataclass_fields__
    ):
        raise bad(f"{where}.usage", f"must hold {', '.join(Usage.__dataclass_fields__)}")
    only_known(bad, f"{where}.usage.", usage, Usage.__dataclass_fields__)
    only_known(bad, f"{where}.", value, ConditionFacts.__dataclass_fields__)
    return ConditionFacts(
        warmup=value["warmup"],
        horizon=value["horizon"],
        batch=value["batch"],
        sampling=value["sampling"],
        methods=methods,
        cases=cases,
        usage=Usage(**{k: usage[k] for k in Usage.__dataclass_fields__}),
    )


def load_entry(folder: Path) -> Entry:
    """Read an entry and check that it is whole: hashes, every case, method, seed and step.

    Raises ``DataError`` (file, line, field, what is wrong) or ``MfenvError``.
    """
    entry, problems = inspect_entry(folder)
    if entry is None:
        raise problems[0]
    return entry


def inspect_entry(folder: Path) -> tuple[Entry | None, list[MfenvError]]:
    """Like :func:`load_entry`, but look at every file: the entry, or everything that is wrong."""
    problems: list[MfenvError] = []

    def tried(read: Callable[..., _T], *given: Any) -> _T | None:
        try:
            return read(*given)
        except MfenvError as error:
            problems.append(error)
            return None

    manifest = tried(read_manifest, folder)
    if manifest is None:
        return None, problems
    needed = _needed(manifest)
    if strange := sorted(set(manifest.files) ^ needed):
        word = "missing" if strange[0] in needed else "not part of an entry"
        where = str(folder / "entry.json")
        problems.append(DataError(where, "(all)", "files", f"{shown(strange[0])} is {word}"))
        return None, problems
    problems += strangers(folder, needed, _OPTIONAL)
    cases = tried(_cases, folder, manifest)
    parts = {}
    for name, facts in manifest.conditions.items():

        def journals(part: str, name: str = name, facts: ConditionFacts = facts) -> dict[str, Any]:
            return {m: tried(_journal, folder, manifest, name, m, part) for m in facts.methods}

        parts[name] = _Parts(
            journals("journals"),
            {m: tried(_likelihood, folder, manifest, name, m) for m in facts.methods},
            {judge: journals(f"judges/{judge}") for judge in manifest.judges},
        )
    if cases is None:
        return None, problems
    judged = {j: tried(_judged_real, folder, manifest, j, cases) for j in manifest.judges}
    if problems:
        return None, problems
    played = {
        name: tried(_played, folder, manifest, cases, judged, name, part)
        for name, part in parts.items()
    }
    whole = {name: x for name, x in played.items() if x is not None}
    return (None if problems else Entry(folder, manifest, cases, whole)), problems


def _needed(manifest: Manifest) -> set[str]:
    """Every file of an entry but ``entry.json``, its texts included."""
    parts = ["journals", "likelihoods", "texts", *(f"judges/{j}" for j in manifest.judges)]
    return {"cases.jsonl", *(f"judges/{judge}/cases.jsonl" for judge in manifest.judges)} | {
        f"{part}/{condition}/{method}.jsonl"
        for condition, facts in manifest.conditions.items()
        for method in facts.methods
        for part in parts
    }


@dataclass(frozen=True, slots=True)
class _Parts:
    """What was read of a condition, by method."""

    journals: Mapping[str, Any]
    likelihoods: Mapping[str, Any]
    judged: Mapping[str, Mapping[str, Any]]  # by second annotator


def _played(
    folder: Path,
    manifest: Manifest,
    cases: Sequence[CaseFacts],
    judged: Mapping[str, Any],
    name: str,
    parts: _Parts,
) -> Played:
    """Put a condition together; its cases must be long enough, and its cost what was journalled."""
    facts = manifest.conditions[name]
    n = facts.warmup + facts.horizon
    for i in facts.cases:
        if len(cases[i].real) < n:
            raise DataError(
                str(folder / "cases.jsonl"),
                f"line {i + 1}",
                "real",
                f"{len(cases[i].real)} reactions, condition {name} needs {n}",
            )
    real = np.stack([cases[i].real[:n] for i in facts.cases])
    played = Played(
        cases=facts.cases,
        warmup=real[:, : facts.warmup],
        real=real[:, facts.warmup :],
        simulated={m: journal.labels for m, journal in parts.journals.items()},
        tokens={m: journal.tokens for m, journal in parts.journals.items()},
        texts={m: journal.texts for m, journal in parts.journals.items()},
        likelihoods=parts.likelihoods,
        judged={
            judge: (
                np.stack([judged[judge][i][facts.warmup : n] for i in facts.cases]),
                {m: journal.labels for m, journal in journals.items()},
            )
            for judge, journals in parts.judged.items()
        },
    )
    prompt, completion = np.sum([x.sum(axis=(0, 1, 2)) for x in played.tokens.values()], axis=0)
    found = {
        "decisions": sum(x[..., 0].size for x in played.simulated.values()),
        "prompt_tokens": int(prompt),
        "completion_tokens": int(completion),
    }
    for key, value in found.items():
        if getattr(facts.usage, key) != value:
            raise DataError(
                str(folder / "entry.json"),
                "(all)",
                f"conditions.{name}.usage.{key}",
                f"{getattr(facts.usage, key)} found, the journals have {value}",
            )
    return played


def read_texts(entry: Entry, root: Path, condition: str, method: str) -> Iterator[Written]:
    """What a method wrote, by case, seed and step, from ``root/texts``.

    Each line is compared with its hash in the public part. Raises ``DataError`` where one is
    another or absent, and ``MfenvError`` where there is no such file.
    """
    facts, hashes = entry.manifest.conditions[condition], entry.played[condition].texts[method]
    name = f"texts/{condition}/{method}.jsonl"
    path = root / name
    lines = _lines(root, entry.manifest, name)
    places = {(c, s): (i, k) for i, s in enumerate(entry.manifest.seeds)
              for k, c in enumerate(facts.cases)}  # fmt: skip
    for case, seed, step, first, last in _steps(facts, entry.manifest.seeds):
        where, value = next(lines, ("(end)", None))
        if value is None:
            raise DataError(str(path), where, "case", f"ends before case {case}, seed {seed}")
        actions, mean_field = value.get("actions"), value.get("mean_field")
        if (
            set(value) != {"case", "seed", "step", "actions", "mean_field"}
            or not isinstance(actions, list)
            or not all(isinstance(text, str) for text in (*actions, mean_field))
        ):
            raise DataError(
                str(path), where, "(all)", "must hold case, seed, step, actions and mean_field"
            )
        index = (*places[case, seed], (first - facts.warmup) // facts.batch)
        if (
            (value["case"], value["seed"], value["step"]) != (case, seed, step)
            or len(actions) != last - first + 1
            or _hash(canonical(value)) != hashes[index]
        ):
            raise DataError(
                str(path), where, "(all)", f"is not the text of case {case}, seed {seed}, step "
                f"{step}: its hash in journals/{condition}/{method}.jsonl is another"
            )  # fmt: skip
        yield Written(case, seed, step, actions, mean_field)
    if (extra := next(lines, None)) is not None:
        raise DataError(str(path), extra[0], "(all)", "more steps than there are")


def _lines(folder: Path, manifest: Manifest, name: str) -> Iterator[tuple[str, Any]]:
    """(line, value) of a file of the public part, after its hash was checked."""
    return json_lines(folder / name, manifest.files[name])


def _cases(folder: Path, manifest: Manifest) -> list[CaseFacts]:
    path, cases = folder / "cases.jsonl", []
    fields = {"event", "group", "domain", "language", "real"}
    for where, value in _lines(folder, manifest, "cases.jsonl"):
        for name in ("event", "group"):
            if not isinstance(value.get(name), str) or not _DIGEST.fullmatch(value[name]):
                raise DataError(str(path), where, name, "must be a SHA-256 in hexadecimal")
        for name in ("domain", "language"):
            if not isinstance(value.get(name), str) and not (name == "domain" and name in value):
                raise DataError(str(path), where, name, "must be a text")
        if set(value) != fields:
            raise DataError(str(path), where, "(all)", "has fields that no case has")
        real = _labels(path, where, "real", value.get("real"))
        cases.append(
            CaseFacts(value["event"], value["group"], value["domain"], value["language"], real)
        )
    if len(cases) != manifest.n_cases:
        raise DataError(
            str(path), "(all)", "(all)", f"{len(cases)} cases, entry.json says {manifest.n_cases}"
        )
    if len({c.event for c in cases}) < len(cases):
        raise DataError(str(path), "(all)", "event", "a case is there twice")
    return cases


def _labels(path: Path, where: str, name: str, value: Any) -> Labels:
    if not isinstance(value, str) or not value:
        raise DataError(str(path), where, name, "must be label codes, with spaces between them")
    try:
        return np.stack([encode_code(code) for code in value.split(" ")])
    except ValueError as error:
        raise DataError(str(path), where, name, str(error)[:200]) from None


def _judged_real(
    folder: Path, manifest: Manifest, judge: str, cases: Sequence[CaseFacts]
) -> list[Labels]:
    """A second annotator's labels of the real reactions of each case."""
    name = f"judges/{judge}/cases.jsonl"
    path = folder / name
    rows: list[Labels] = []
    for where, value in _lines(folder, manifest, name):
        if set(value) != {"real"}:
            raise DataError(str(path), where, "(all)", "must hold real, and nothing else")
        labels = _labels(path, where, "real", value["real"])
        if len(rows) < len(cases) and len(labels) != len(cases[len(rows)].real):
            raise DataError(str(path), where, "real", "not as many as in cases.jsonl")
        rows.append(labels)
    if len(rows) != len(cases):
        raise DataError(str(path), "(all)", "(all)", f"{len(rows)} cases, {len(cases)} expected")
    return rows


@dataclass(frozen=True, slots=True)
class _Journal:
    labels: Labels  # (S, C, H, 8)
    tokens: NDArray[np.int64]  # (S, C, steps, 2); empty where a second annotator labelled
    texts: NDArray[np.str_]  # (S, C, steps); likewise


def _steps(facts: ConditionFacts, seeds: Sequence[int]) -> Iterator[tuple[int, int, int, int, int]]:
    """(case, seed, step, first agent, last agent) of every line of a journal, in order."""
    # Steps are numbered from the warm-up's first on, which has batches of its own.
    offset = -(-facts.warmup // facts.batch)
    end = facts.warmup + facts.horizon
    for case in facts.cases:
        for seed in seeds:
            for k, first in enumerate(range(facts.warmup, end, facts.batch)):
                yield case, seed, offset + k, first, min(first + facts.batch, end) - 1


def _journal(
    folder: Path, manifest: Manifest, condition: str, method: str, part: str = "journals"
) -> _Journal:
    """A method's runs, every step of which must be there in order.

    Outside ``journals`` the lines hold labels only: a second annotator's.
    """
    facts = manifest.conditions[condition]
    name, whole = f"{part}/{condition}/{method}.jsonl", part == "journals"
    path = folder / name
    rows, tokens, texts = [], [], []
    lines = _lines(folder, manifest, name)
    for case, seed, step, first, last in _steps(facts, manifest.seeds):
        where, value = next(lines, ("(end)", None))
        expected: dict[str, Any] = {"case": case, "seed": seed, "step": step}
        if whole:
            expected["agents"] = [first, last]
        if value is None:
            raise DataError(str(path), where, "case", f"ends before {expected}")
        for key, x in expected.items():
            if value.get(key) != x or type(value.get(key)) is not type(x):
                found = shown(value.get(key))
                raise DataError(str(path), where, key, f"{found} found, {x} expected")
        labels = _labels(path, where, "labels", value.get("labels"))
        if len(labels) != last - first + 1:
            raise DataError(str(path), where, "labels", f"{len(labels)} for {last - first + 1}")
        if whole:
            used, text = _check_step(path, where, value, labels)
            tokens.append(used)
            texts.append(text)
        known = {*expected, "labels"} | ({"counts", "tokens", "text"} if whole else set())
        if set(value) != known:
            raise DataError(str(path), where, "(all)", "has fields that no step has")
        rows.append(labels)
    if (extra := next(lines, None)) is not None:
        raise DataError(str(path), extra[0], "(all)", "more steps than there are")
    shape = (len(facts.cases), len(manifest.seeds))
    return _Journal(
        np.concatenate(rows).reshape(*shape, facts.horizon, -1).swapaxes(0, 1),
        np.array(tokens, dtype=np.int64).reshape(*shape, -1, 2).swapaxes(0, 1),
        np.array(texts).reshape(*shape, -1).swapaxes(0, 1),
    )


def _check_step(
    path: Path, where: str, value: dict[str, Any], labels: Labels
) -> tuple[list[int], str]:
    """Check what a step says beside its labels; its tokens, and the hash of its texts."""
    if value.get("counts") != counts(labels).astype(int).tolist():
        raise DataError(str(path), where, "counts", "are not those of the labels")
    used = value.get("tokens")
    if not (
        isinstance(used, list)
        and len(used) == 2
        and all(type(t) is int and 0 <= t <= 10**9 for t in used)
    ):
        raise DataError(str(path), where, "tokens", "must be two whole numbers")
    text = value.get("text")
    if not isinstance(text, str) or not _SHORT.fullmatch(text):
        raise DataError(str(path), where, "text", "must be a hash of 32 hexadecimal digits")
    return used, text


def _likelihood(folder: Path, manifest: Manifest, condition: str, method: str) -> Floats:
    facts = manifest.conditions[condition]
    name = f"likelihoods/{condition}/{method}.jsonl"
    path, rows = folder / name, []
    for i, (where, value) in enumerate(_lines(folder, manifest, name)):
        sums = value.get("sums")
        if value.get("case") != i or set(value) != {"case", "sums"}:
            found = shown(value.get("case"))
            raise DataError(str(path), where, "case", f"{found} found, {i} expected")
        if sums is None:  # a served model that gives no log-probabilities
            rows.append([np.nan] * 3)
            continue
        if not (
            isinstance(sums, list) and len(sums) == 3 and all(is_number(x) and x >= 0 for x in sums)
        ):
            raise DataError(str(path), where, "sums", "must be three numbers of at least 0")
        if sums[2] != facts.horizon or sums[1] < sums[2]:
            raise DataError(str(path), where, "sums", "too few tokens, or another horizon's")
        rows.append(sums)
    if len(rows) != len(facts.cases):
        raise DataError(
            str(path), "(all)", "case", f"{len(rows)} cases, {len(facts.cases)} expected"
        )
    return np.array(rows)


assert N_LABELS == 23  # the format's label codes are those of these dimensions
