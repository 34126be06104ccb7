"""The whole check of an entry of planners that came from somewhere: nothing in it is believed.

:mod:`benchmarks.intervention.entry` says what such an entry is and finds what is missing, changed
or too much. Here it is held against the environment's own events and settings, against what its own
actions and budget allow, against what may be published of real people's data, and its scores, where
it brings any, against those that its lanes give.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from agents.planners.play import budgeted
from agents.planners.setting import Setting, drawn_events
from benchmarks.intervention.entry import FORMAT, MAX_FACTS, Entry, EventFacts, inspect_entry
from benchmarks.intervention.gate import stated_fidelity
from benchmarks.intervention.lineup import read_tuned, shipped_tuned
from benchmarks.intervention.scores import score
from benchmarks.leaderboard.check import (
    MIN_SEEDS,
    OFFICIAL,
    OWN,
    PATTERNS,
    WORD,
    Standing,
    claims,
    cut,
    is_command,
    one_line,
    too_large,
)
from benchmarks.untrusted import read_json
from mfenv.dynamics.reach import planted_count
from mfenv.envs.objectives import OBJECTIVES
from mfenv.envs.scenarios import SPLITS, SYNTHETIC, make_scenarios
from mfenv.errors import MfenvError
from mfenv.interventions import KINDS, N_ACTIONS, Kind, decode_action

__all__ = [
    "MIN_EVENTS",
    "CheckedOutcomes",
    "Simulator",
    "check_outcomes",
    "facts",
    "is_outcomes",
    "simulator_of",
]

MIN_EVENTS = 20
"""An entry with fewer of the official events gets no rank."""

_SPLIT = "test"  # of the synthetic events, which are the official ones of every tier
_SETTLED = ("horizon", "budget", "cost_weight", "batch", "warmup")


@dataclass(frozen=True, slots=True)
class Simulator:
    """In what the planners of an entry were played."""

    tier: str
    name: str
    revision: str
    method: str
    """How the language-model tier makes its mean field; "" elsewhere."""


@dataclass(frozen=True, slots=True)
class CheckedOutcomes:
    """What was found in a folder. It is valid where there are no problems."""

    folder: Path
    digest: str
    """SHA-256 of ``entry.json``, which has the hashes of all other files; "" without one."""
    problems: list[str]
    """One line each."""
    entry: Entry | None = None
    standing: Standing | None = None
    """Without what the fidelity of its simulator has to say."""
    scores: dict[str, Any] | None = None

    @property
    def valid(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems


def is_outcomes(folder: Path) -> bool:
    """Whether a folder says that it is an entry of planners."""
    try:
        value = read_json(folder / "entry.json", MAX_FACTS)
    except MfenvError:
        return False
    return isinstance(value, dict) and value.get("format") == FORMAT


def check_outcomes(folder: Path) -> CheckedOutcomes:
    """Look at all of an entry of planners; raises nothing that an entry can cause."""
    if large := [*too_large(folder)]:
        return CheckedOutcomes(folder, "", [one_line(x) for x in large])
    path = folder / "entry.json"
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    entry, errors = inspect_entry(folder)
    problems: list[MfenvError | str] = [*errors]
    standing = scores = None
    if entry is not None:
        wrong = [*_too_long(entry), *_events(entry), *_impossible(entry)]
        if not _synthetic(entry.setting):
            wrong += _private(folder, entry)
        problems += [f"{path}: {x}" for x in wrong]
        if not problems:
            standing = _standing(entry)
            scores = score(entry)
            problems += claims(folder, scores)
    return CheckedOutcomes(folder, digest, [one_line(x) for x in problems], entry, standing, scores)


def simulator_of(entry: Entry) -> Simulator:
    """In what an entry was played, as it states it."""
    setting = entry.setting
    if setting.dynamics == "society":
        return Simulator("society", "synthetic society", "", "")
    kind = "backbone" if setting.dynamics == "llm" else "surrogate"
    model = entry.models.get(kind, {})
    method = setting.method if setting.dynamics == "llm" else ""
    return Simulator(
        setting.dynamics, model.get("name", "?"), model.get("revision", "not stated"), method
    )


def facts(checked: CheckedOutcomes) -> dict[str, Any]:
    """What a readable entry says it is, and whether it gets a rank."""
    entry = checked.entry
    if entry is None:
        return {}
    simulator, setting = simulator_of(entry), entry.setting
    found: dict[str, Any] = {
        "entry": checked.digest,
        "tier": simulator.tier,
        "simulator": " ".join(x for x in (simulator.name, simulator.revision) if x),
        "method": simulator.method,
        "objective": setting.objective,
        "planners": list(entry.planners),
        "seeds": entry.seeds,
        "episodes": len(entry.planners) * entry.seeds * len(entry.events),
    }
    if not simulator.method:
        del found["method"]
    if checked.standing is not None:
        reasons = [*checked.standing.unranked]
        try:
            found["fidelity"] = stated_fidelity(setting, entry.models).statement
        except MfenvError:
            found["fidelity"] = "unknown"
            reasons.append(
                "the fidelity of its simulator is unknown (docs/leaderboard.md, The gate)"
            )
        found["events"] = checked.standing.events
        found["rank"] = "none" if reasons else "yes"
        if reasons:
            found["why no rank"] = reasons
    return found


# -- events and settings ---------------------------------------------------------------------


def _synthetic(setting: Setting) -> bool:
    return setting.events in (None, SYNTHETIC)


@lru_cache(maxsize=len(SPLITS))
def _synthetic_events(split: str) -> dict[str, EventFacts]:
    """The environment's own events of a split, by id; what they are does not hang on length."""
    scenarios = make_scenarios(None, split, None, 1)
    events = (scenarios.event(i) for i in scenarios.ids)
    return {e.event_id: EventFacts(e.event_id, e.truth, e.domain, e.language) for e in events}


def _events(entry: Entry) -> Iterator[str]:
    """Where an entry contradicts the environment about its events and models."""
    setting = entry.setting
    allowed = {"llm": ["backbone"], "surrogate": ["surrogate"], "society": []}[setting.dynamics]
    if [*entry.models] != allowed and (entry.models or setting.dynamics == "llm"):
        yield f"models: {', '.join(entry.models) or 'none'}; needed: {', '.join(allowed) or 'none'}"
    for kind, model in entry.models.items():
        if not model.get("name") or not model.get("revision"):
            yield f"models.{kind}: must have a name and a revision"
    if not _synthetic(setting):
        return
    split = setting.split or "train"
    if split not in SPLITS:
        yield f"setting.split: {cut(split)} is unknown; allowed: {', '.join(SPLITS)}"
        return
    known = _synthetic_events(split)
    for i, (event, steps) in enumerate(zip(entry.events, entry.episodes.steps, strict=True)):
        if event.id not in known:
            yield f"events.{i}: {cut(event.id)} is none of the synthetic events of {split}"
        elif event != known[event.id]:
            yield f"events.{i}: {cut(event.id)} is another one: {known[event.id]} in fact"
        elif steps != setting.horizon:
            yield f"events.{i}: {steps} steps, those of a synthetic event are {setting.horizon}"


def _impossible(entry: Entry) -> Iterator[str]:
    """Reactions that cannot be, given the actions and what the budget pays.

    Planted reactions take the place of people, and everybody else of a batch reacts once.
    """
    setting, played = entry.setting, entry.episodes
    done, _ = budgeted(played.wanted, setting.budget)
    activity = np.zeros((N_ACTIONS, len(KINDS)))
    for action in range(N_ACTIONS):
        chosen = decode_action(action)
        if chosen.kind == Kind.SEED:
            activity[action, Kind.SEED] = chosen.strength
    expected = (setting.batch - planted_count(activity, setting.batch))[done]
    own = played.counts[..., :2].sum(axis=-1)
    step = np.arange(setting.horizon)
    last = played.steps[:, None] - 1
    # The last people of a file's event may be fewer than a batch.
    exact = step <= last if _synthetic(setting) else step < last
    wrong = np.argwhere(((own != expected) & exact) | ((own > setting.batch) & (step == last)))
    for p, s, e, t in wrong[:5].tolist():
        yield (
            f"lanes/{p:02d}.jsonl: event {e}, seed {s}, step {t}: {own[p, s, e, t]} people "
            f"reacted; with this action and what is left of the budget "
            f"{expected[p, s, e, t]} do"
        )


def _standing(entry: Entry) -> Standing:
    """How an entry stands to the official events and settings."""
    setting = entry.setting
    unranked = []
    name = OWN
    if not _synthetic(setting) or setting.split != _SPLIT:
        unranked.append(f"its events are not the environment's {_SPLIT} events")
    else:
        known = _synthetic_events(_SPLIT)
        k, ids = len(entry.events), [e.id for e in entry.events]
        if ids == [*known]:
            name = OFFICIAL
        elif ids == drawn_events([*known], [e.truth for e in known.values()], k):
            name = f"{k} of the {len(known)} official events"
        else:
            unranked.append(
                f"its {k} events are not those that --limit-events {k} draws from the official ones"
            )
        if k < MIN_EVENTS:
            unranked.append(f"it has {k} events, {MIN_EVENTS} are needed")
    default = Setting()
    unranked += [
        f"its {field.replace('_', ' ')} is {getattr(setting, field):g}, the official one "
        f"{getattr(default, field):g}"
        for field in _SETTLED
        if getattr(setting, field) != getattr(default, field)
    ]
    if setting.objective == "target":
        unranked.append("the objective 'target' has no official target")
    if setting.dynamics == "llm" and setting.annotator != default.annotator:
        unranked.append(f"its annotator is {setting.annotator}, the official one auto")
    kept = {"surrogate"} if setting.dynamics == "surrogate" else set()
    if other := sorted({*setting.more} - kept):
        unranked.append(f"it sets {', '.join(other)}, which the official setting leaves alone")
    if entry.seeds < MIN_SEEDS:
        unranked.append(f"it has {entry.seeds} seeds, {MIN_SEEDS} are needed")
    return Standing(name, unranked)


# -- what may be published -------------------------------------------------------------------


_LONGEST = {"label": 200, "planner": 4000, "command": 8000}
_LIMIT = 300  # characters of any other text

_PRIVATE = {
    **PATTERNS,
    "planner": r"[A-Za-z0-9][A-Za-z0-9+=._@:/|,~-]{0,3999}",
    "label": r"[A-Za-z0-9][A-Za-z0-9+=._@:/|,~-]{0,199}",
    "revision": rf"(?:{WORD})?",
    "event": r"[0-9a-f]{64}|synthetic-[0-9]{1,9}-[0-9]{1,9}",
    "argument": rf"(?:{WORD})?",
    "mean field": rf"(?:{WORD})",
    "model's field": r"[a-z][a-z_]{0,29}",
}
"""What texts may look like in an entry on real people's events."""


def _tuned_labels() -> set[str]:
    """Labels with spaces that come with the package."""
    paths = [shipped_tuned(objective) for objective in OBJECTIVES]
    return {label for path in paths if path is not None for label in read_tuned(path)}


def _strings(entry: Entry) -> Iterator[tuple[str, str, str]]:
    """Every text of an entry, as (kind, where it stands, text)."""
    setting = entry.setting
    for name in ("package", "machine", "command"):
        yield name, name, getattr(entry, name)
    for kind, name in (
        ("data.file", "events"),
        ("condition", "split"),
        ("argument", "backbone"),
        ("mean field", "method"),
        ("annotator", "annotator"),
    ):
        if (text := getattr(setting, name)) is not None:
            yield kind, f"setting.{name}", text
    for name, value in setting.more.items():
        if isinstance(value, str):
            yield "argument", f"setting.more.{name}", value
    for kind, model in entry.models.items():
        for name, text in model.items():
            yield "model's field", f"models.{kind}", name
            yield "backbone", f"models.{kind}.{name}", text
    for i, (label, planner) in enumerate(entry.planners.items()):
        yield "label", f"planners.{i}.label", label
        yield "planner", f"planners.{i}.name", planner["name"]
        yield "revision", f"planners.{i}.revision", planner["revision"]
    for i, event in enumerate(entry.events):
        yield "event", f"events.{i}.id", event.id
        yield "language", f"events.{i}.language", event.language
        if event.domain is not None:
            yield "domain", f"events.{i}.domain", event.domain


def _too_long(entry: Entry) -> list[str]:
    """Texts that are no names any more."""
    return [
        f"{where}: {len(text):,} characters; allowed: at most {_LONGEST.get(kind, _LIMIT)}"
        for kind, where, text in _strings(entry)
        if len(text) > _LONGEST.get(kind, _LIMIT)
    ]


def _private(folder: Path, entry: Entry) -> Iterator[str]:
    """What an entry on real people's events holds that may not be published."""
    if (folder / "README.md").exists():
        yield "README.md is there, but can quote real people; keep it beside the entry"
    known = _tuned_labels()
    for kind, where, text in _strings(entry):
        allowed = {"condition": r"[a-z][a-z0-9_-]{0,29}"}.get(kind) or _PRIVATE.get(kind)
        if kind == "command":
            for label in known:
                text = text.replace(f"{label}=", "tuned=")
            if not is_command(text, "intervention"):
                yield (
                    f"command: {cut(text)} is not 'mfenv bench intervention' with options that "
                    f"have one value each, without spaces"
                )
        elif allowed is not None and text not in known and not re.fullmatch(allowed, text):
            yield (
                f"{where}: {cut(text)} could be somebody's text; allowed on real events: {allowed}"
            )
