"""A random part of an entry of planners, played again and compared with its lanes.

Episodes are played with the actions that the entry says were asked for, so that the simulator alone
decides about the counts; at every step each planner that is at hand is asked what it would have
done in its place. So a simulator can be verified under planners that nobody has, and a planner that
chose otherwise once is not blamed for everything that follows.

Only what is asked for is believed of an entry: which models and planners play comes from whoever
verifies, or from what is installed under the names that the entry gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.planners.base import Insider, Planner, build_planner
from agents.planners.oracle import SocietyView
from agents.planners.play import Lane, play
from agents.planners.setting import Setting, surrogate_name
from benchmarks.fidelity.cases import digest
from benchmarks.intervention.entry import Entry
from benchmarks.intervention.gate import same_model
from benchmarks.intervention.runs import LANES, described, on_disk
from benchmarks.leaderboard.rerun import MIN_RUNS, Share
from benchmarks.leaderboard.verification import RULE, Rule
from mfenv import plugins
from mfenv.dynamics.assemble import build_backbone
from mfenv.dynamics.surrogate.find import GROUP, build_surrogate
from mfenv.envs.scenarios import SYNTHETIC
from mfenv.envs.social import SocialEnv
from mfenv.errors import MfenvError
from mfenv.labels import DIMENSIONS, N_LABELS, OFFSETS
from mfenv.noise import generator

__all__ = [
    "Ready",
    "Replayed",
    "as_json",
    "draw_episodes",
    "make_ready",
    "replay",
    "replay_failures",
    "words",
]

_DRAW_STREAM = 7025
_AT_ONCE = 1024  # episodes that step together, where no language model answers
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Ready:
    """An entry's simulator and planners, ready to be played."""

    arguments: Mapping[str, Any]
    """Of the vector environment."""
    event_ids: Sequence[str]
    """Of the entry's events, in the open."""
    planners: Mapping[str, Planner]
    """By label, those that are at hand."""
    absent: Mapping[str, str]
    """By label, why the others are not."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """How far episodes of one planner that were played again are what its lanes say."""

    actions: Share | None
    """Actions that the planner chose; ``None`` where it is not at hand."""
    counts: Share
    """Counts of a step and dimension that are the same."""
    starts: bool
    """Whether credibility, first shares and length are the same."""


def draw_episodes(
    entry: Entry, key: str, fraction: float, seed: int
) -> dict[str, list[tuple[int, int]]]:
    """Episodes as (event, seed) by planner, drawn from the entry's hash ``key`` and ``seed``.

    Of every planner ``fraction`` of the episodes, and at least :data:`MIN_RUNS`.
    """
    rng = generator(_DRAW_STREAM, seed, int(key[:15], 16))
    pairs = [(e, s) for e in range(len(entry.events)) for s in range(entry.seeds)]
    size = min(len(pairs), max(MIN_RUNS, math.ceil(fraction * len(pairs))))
    return {
        label: [pairs[i] for i in sorted(rng.choice(len(pairs), size, replace=False).tolist())]
        for label in entry.planners
    }


def make_ready(
    entry: Entry,
    data: Path | None,
    *,
    backbone: str | None = None,
    surrogate: str | None = None,
    method: str | None = None,
    planners: Mapping[str, str] | None = None,
) -> Ready:
    """Find an entry's events, simulator and planners.

    Names that are given are taken, and what the entry names only where that is installed: nothing
    is loaded from a folder or an address that an entry names. Raises ``MfenvError`` where the
    events or the simulator are not those of the entry, or a given planner is not the entry's.
    """
    setting = entry.setting
    if setting.dynamics == "llm":
        setting = _language_model(entry, backbone, method)
    elif setting.dynamics == "surrogate":
        setting = _surrogate(entry, surrogate)
    if setting.events in (None, SYNTHETIC):
        ids = list(setting.event_ids)
    elif data is None:
        raise MfenvError(f"the entry was played on {setting.events}: give --data FILE")
    else:
        setting = replace(setting, events=str(data), event_ids=())
        scenarios = SocialEnv(**setting.arguments()).scenarios
        known = {name: str(i) for i in scenarios.ids for name in (str(i), digest(str(i)))}
        if missing := [i for i, e in enumerate(entry.events) if e.id not in known]:
            raise MfenvError(f"event {missing[0]} of the entry is none of those in {data}")
        ids = [known[e.id] for e in entry.events]
        setting = replace(setting, event_ids=tuple(ids))
    scenarios = setting.check().scenarios
    for i, (event_id, facts) in enumerate(zip(ids, entry.events, strict=True)):
        event = scenarios.event(event_id)
        if (event.truth, event.domain, event.language) != (
            facts.truth,
            facts.domain,
            facts.language,
        ):
            raise MfenvError(f"event {i} of the entry has another truth, domain or language")
    built, absent = _planners(entry, planners or {})
    return Ready(setting.arguments(), ids, built, absent)


def _language_model(entry: Entry, backbone: str | None, method: str | None) -> Setting:
    stated = entry.models["backbone"]
    name = backbone or stated["name"]
    if backbone is None and ":" in name:
        raise MfenvError(
            f"the entry's backbone is {stated['name']} {stated['revision']}; what an entry names "
            f"is not loaded by itself: give --backbone"
        )
    if method is None and ":" in entry.setting.method:
        raise MfenvError(
            f"the entry's method is {entry.setting.method}, whose folder is needed: give --methods"
        )
    found = build_backbone(name).describe()
    if not same_model([found], stated):
        raise MfenvError(
            f"the entry's backbone is {stated['name']} {stated['revision']}, {name} is "
            f"{found.get('name')} {found.get('revision')}; give --backbone"
        )
    return replace(entry.setting, backbone=name, method=method or entry.setting.method)


def _surrogate(entry: Entry, surrogate: str | None) -> Setting:
    stated = entry.models.get("surrogate", {})
    name = surrogate or stated.get("name") or surrogate_name(entry.setting)
    if surrogate is None and name not in plugins.names(GROUP):
        raise MfenvError(
            f"the entry's surrogate is {name}, which is not installed: give --surrogate"
        )
    revision = build_surrogate(name).revision
    if stated.get("revision", revision) != revision:
        raise MfenvError(
            f"the entry's surrogate is {name} {stated['revision']}, this one is {revision}; give "
            f"--surrogate"
        )
    return replace(entry.setting, more={**entry.setting.more, "surrogate": name})


def _planners(entry: Entry, given: Mapping[str, str]) -> tuple[dict[str, Planner], dict[str, str]]:
    """The planners that are at hand, and why the others are not."""
    if unknown := sorted({*given} - {*entry.planners}):
        known = ", ".join(entry.planners)
        raise MfenvError(f"--planner {unknown[0]}: is none of the entry's: {known}")
    built: dict[str, Planner] = {}
    absent = {}
    for label, stated in entry.planners.items():
        name = given.get(label, stated["name"])
        try:
            if label not in given and _reads_files(name):
                raise MfenvError("its folder is not here")
            shown, revision = described(name)
            planner = build_planner(name)
        except MfenvError as error:
            if label in given:
                raise
            absent[label] = str(error)
            continue
        if revision != stated["revision"] or (label not in given and shown != stated["name"]):
            problem = (
                f"{shown} {revision} is at hand, the entry's is {stated['revision'] or 'none'}"
            )
            if label in given:
                raise MfenvError(f"--planner {label}: {problem}")
            absent[label] = problem
            continue
        built[label] = planner
    return built, absent


def _reads_files(name: str) -> bool:
    """Whether a planner's name could point at something on this disk: nothing of it is opened."""
    pieces = [p for piece in name.split("|") for p in piece.split(":")]
    return any(
        piece.startswith(("sb3", "llm", "hf", ".", "/", "~")) or on_disk(piece)
        for piece in pieces
        if piece
    )


# -- playing again ---------------------------------------------------------------------------


class _Followed:
    """Asks for what an entry says, and keeps what its planner would have done."""

    def __init__(self, recorded: NDArray[np.int64], planner: Planner | None) -> None:
        """``recorded`` are actions ``(K, T)`` of the lanes in their order."""
        self.name = "recorded"
        self._recorded, self._planner = recorded, planner
        self.chosen: list[NDArray[np.int64]] = []

    def reset(self, seeds: NDArray[np.int64]) -> None:
        """Begin the episodes."""
        self.chosen = []
        if self._planner is not None:
            self._planner.reset(seeds)

    def act(self, observation: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The recorded actions of this step."""
        t = len(self.chosen)
        recorded = self._recorded[:, t]
        own = recorded if self._planner is None else self._planner.act(observation, masks)
        self.chosen.append(np.asarray(own, dtype=np.int64))
        return recorded


class _FollowedInsider(_Followed):
    """The same for a planner that sees the true dynamics."""

    def __init__(self, recorded: NDArray[np.int64], planner: Insider) -> None:
        super().__init__(recorded, planner)
        self._insider = planner

    def see(self, view: SocietyView) -> None:
        """Hand the view on."""
        self._insider.see(view)


def replay(entry: Entry, ready: Ready, label: str, episodes: Sequence[tuple[int, int]]) -> Replayed:
    """Play episodes (event, seed) of a planner again and compare them with its lanes."""
    size = LANES.get(entry.setting.dynamics, _AT_ONCE)
    parts = [
        _replay(entry, ready, label, episodes[first : first + size])
        for first in range(0, len(episodes), size)
    ]

    def joined(shares: Sequence[Share]) -> Share:
        return Share(
            np.concatenate([s.compared for s in shares]), np.concatenate([s.same for s in shares])
        )

    actions = [p.actions for p in parts if p.actions is not None]
    return Replayed(
        actions=joined(actions) if actions else None,
        counts=joined([p.counts for p in parts]),
        starts=all(p.starts for p in parts),
    )


def _replay(
    entry: Entry, ready: Ready, label: str, episodes: Sequence[tuple[int, int]]
) -> Replayed:
    was, p = entry.episodes, list(entry.planners).index(label)
    events, seeds = (np.array(x) for x in zip(*episodes, strict=True))
    recorded = was.wanted[p, seeds, events]  # (K, T)
    planner = ready.planners.get(label)
    followed = (
        _FollowedInsider(recorded, planner)
        if isinstance(planner, Insider)
        else _Followed(recorded, planner)
    )
    lanes = [Lane(label, ready.event_ids[e], s) for e, s in episodes]
    played = play(ready.arguments, {label: followed}, lanes)
    running = np.arange(entry.setting.horizon) < was.steps[events][:, None]  # (K, T)
    alike = was.counts[p, seeds, events] == played.counts
    same = np.logical_and.reduceat(alike, OFFSETS[:-1], axis=-1)  # (K, T, 8)
    dimensions = len(DIMENSIONS)
    assert alike.shape[-1] == N_LABELS
    actions = None
    if planner is not None:
        chosen = np.stack(followed.chosen, axis=1)  # (K, T') until the last episode's end
        agree = (chosen == recorded[:, : chosen.shape[1]]) & running[:, : chosen.shape[1]]
        actions = Share(running.sum(axis=1), agree.sum(axis=1))
    return Replayed(
        actions=actions,
        counts=Share(
            running.sum(axis=1) * dimensions, (same & running[..., None]).sum(axis=(1, 2))
        ),
        starts=bool(
            (played.steps == was.steps[events]).all()
            and np.allclose(played.credibility, was.credibility[seeds, events], atol=_ROUNDING)
            and np.allclose(played.warmup, was.warmup[events], atol=_ROUNDING)
        ),
    )


def replay_failures(found: Replayed, tier: str, rule: Rule = RULE) -> list[str]:
    """Why a planner's episodes are not those of the entry; nothing where they are.

    In the society and in a surrogate every count and every action must be the same. In the
    language-model tier the last bits of floating point differ with what shares a batch, and the
    rule for runs that are rerun freely holds.
    """
    problems = [] if found.starts else ["episodes start from something else, or end elsewhere"]
    least, worst = (rule.free_labels, rule.free_worst) if tier == "llm" else (1.0, 1.0)
    for name, share in (("counts", found.counts), ("actions", found.actions)):
        if share is None:
            continue
        if share.total < least:
            problems.append(f"{share.total:.1%} of the {name} are the same, {least:.0%} needed")
        elif share.worst < worst:
            problems.append(
                f"{share.worst:.0%} of the {name} are the same in the worst episode, {worst:.0%} "
                f"needed"
            )
    return problems


def words(found: Replayed) -> str:
    """What was found of one planner, in one line."""
    n = len(found.counts.same)
    text = f"{n} episodes; counts {found.counts.same.sum():,} of {found.counts.compared.sum():,}"
    if found.actions is not None:
        text += f", actions {found.actions.same.sum():,} of {found.actions.compared.sum():,}"
    return f"{text} the same"


def as_json(found: Replayed) -> dict[str, Any]:
    """What was found as JSON values: two numbers for each episode."""

    def share(x: Share | None) -> dict[str, Any] | None:
        return None if x is None else {k: v.tolist() for k, v in asdict(x).items()}

    return {
        "counts": share(found.counts), "actions": share(found.actions), "starts": found.starts,
    }  # fmt: skip
