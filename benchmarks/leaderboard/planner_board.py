"""Boards of planners as data: one for each simulator and objective, a row for each planner.

A rank is one more than the number of different planners (by name and revision) whose net uplift is
higher with a 95% interval that excludes zero, paired over the events that both played. Planners
that nobody can tell apart share a rank. Doing nothing and the oracles, which see what no planner
can, stand in between without one; so does everything whose simulator's fidelity is unknown.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.intervention.entry import Entry
from benchmarks.intervention.gate import (
    Fidelity,
    measured_fidelity,
    same_model,
    stated_fidelity,
)
from benchmarks.intervention.lineup import NOTHING
from benchmarks.intervention.scores import SAME, Outcomes, outcomes, surviving
from benchmarks.leaderboard.outcomes import CheckedOutcomes, Simulator, simulator_of
from benchmarks.leaderboard.rows import (
    Achieved,
    Figure,
    Submission,
    cell,
    core_of,
    figure_of,
    page_name,
    slug,
)
from benchmarks.leaderboard.verification import Verification
from mfenv.envs.objectives import OBJECTIVES
from mfenv.envs.scenarios import SYNTHETIC
from mfenv.envs.social import TIERS
from mfenv.errors import MfenvError
from mfenv.noise import generator

__all__ = [
    "UNKNOWN",
    "Outcome",
    "PlannerBoard",
    "PlannerRow",
    "achieved",
    "as_csv",
    "as_json",
    "outcome_page",
    "planner_boards",
    "site_fidelity",
]

Floats = NDArray[np.float64]

UNKNOWN = "the fidelity of its simulator is unknown"

_RANK_STREAM, _RANK_DRAWS = 7024, 4000
_COSTS = {"surrogate": 0, "society": 1, "llm": 2}  # what a step costs, in order


@dataclass(frozen=True, slots=True)
class Outcome:
    """A valid entry of planners with its scores and what a rerun found."""

    checked: CheckedOutcomes
    verification: Verification | None

    @property
    def entry(self) -> Entry:
        """The entry; there is one since it is valid."""
        assert self.checked.entry is not None
        return self.checked.entry

    @property
    def simulator(self) -> Simulator:
        """What it was played in."""
        return simulator_of(self.entry)


@dataclass(frozen=True, slots=True)
class PlannerRow:
    """One line of a board: a planner of an entry, or what planners are measured against."""

    kind: str
    """``method`` for a planner, ``baseline`` for doing nothing and for the oracles."""
    label: str
    planner: str
    """Its name, which says everything that its choices hang on."""
    revision: str
    entry: str
    """Name of the entry's page."""
    rank: int | None
    events: str
    unranked: Sequence[str]
    net: Figure
    """Uplift less weighted cost: what the reward counts."""
    uplift: Figure
    per_cost: Figure | None
    """Harm avoided per unit of cost."""
    cost: float
    """Spent in an episode."""
    refused: float
    """Times an episode that it asked for more than was left of the budget."""
    oracle: Figure | None
    """Share of the oracle's net uplift."""
    survives: Figure | None
    """Share of the net uplift in a cheaper tier that is left in this one."""
    survives_from: str
    seeds: int
    verified: bool | None
    fidelity: Fidelity | None
    """Of the simulator; ``None`` where it is unknown."""
    fidelity_page: str
    """The entry on this site that it was measured in, or ""."""


@dataclass(frozen=True, slots=True)
class PlannerBoard:
    """All planners in one simulator under one objective, best first; the unranked come last."""

    simulator: Simulator
    objective: str
    target: str
    """Of the objective ``target``, as JSON; "" elsewhere."""
    rows: Sequence[PlannerRow]

    @property
    def id(self) -> str:
        """Its place on the page of planners."""
        key = json.dumps([asdict(self.simulator), self.objective, self.target], sort_keys=True)
        name = f"{self.simulator.tier} {self.simulator.name} {self.simulator.method}"
        return page_name(f"{name} {self.objective}", _digest(key))[:-6]

    @property
    def name(self) -> str:
        """What it is called."""
        s = self.simulator
        of = {
            "society": s.name,
            "surrogate": f"surrogate {s.name}",
            "llm": f"{s.name} ({s.method})",
        }
        return f"{of[s.tier]}, {self.objective}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def outcome_page(checked: CheckedOutcomes) -> str:
    """A name for an entry's page: safe as a file, and its own."""
    assert checked.entry is not None
    simulator = simulator_of(checked.entry)
    return page_name(f"planners {simulator.tier} {simulator.name}", checked.digest)


def planner_boards(
    submitted: Sequence[Outcome], measured: Sequence[Submission]
) -> list[PlannerBoard]:
    """All boards, by tier, simulator and objective; a pure function of what is submitted.

    ``measured`` are entries that tell the fidelity of simulators.
    """
    ordered = sorted(submitted, key=lambda o: o.checked.digest)
    played = {o.checked.digest: outcomes(o.entry) for o in ordered}
    groups: dict[tuple[Simulator, str, str], list[Outcome]] = {}
    for o in ordered:
        setting = o.entry.setting
        target = "" if setting.target is None else json.dumps(setting.target, sort_keys=True)
        groups.setdefault((o.simulator, setting.objective, target), []).append(o)
    order = sorted(groups, key=lambda k: (TIERS.index(k[0].tier), OBJECTIVES.index(k[1]), str(k)))
    return [PlannerBoard(*k, _rows(groups[k], ordered, played, measured)) for k in order]


def achieved(
    boards: Sequence[PlannerBoard],
) -> dict[tuple[str, str, str], list[Achieved]]:
    """By backbone, revision and method: what the best planner of each objective achieved."""
    found: dict[tuple[str, str, str], list[Achieved]] = {}
    for board in boards:
        s = board.simulator
        planners = [r for r in board.rows if r.kind == "method"]
        if s.tier != "llm" or not planners:
            continue
        best = max(planners, key=lambda r: (not r.unranked, r.net.mean))
        found.setdefault((s.name, s.revision, s.method), []).append(
            Achieved(board.objective, best.label, best.net, board.id)
        )
    return found


def _rows(
    here: Sequence[Outcome],
    everything: Sequence[Outcome],
    played: Mapping[str, Outcomes],
    measured: Sequence[Submission],
) -> list[PlannerRow]:
    ranked: list[tuple[PlannerRow, dict[str, float]]] = []
    rest: list[PlannerRow] = []
    seen: set[tuple[Any, ...]] = set()
    # Of what is there for comparison one row is enough: that of the entry with the most seeds.
    for o in sorted(here, key=lambda o: (-o.entry.seeds, o.checked.digest)):
        entry, standing = o.entry, o.checked.standing
        assert standing is not None
        fidelity, page = site_fidelity(entry, measured)
        unranked = [*standing.unranked, *([] if fidelity else [UNKNOWN])]
        setting = {k: v for k, v in asdict(entry.setting).items() if k != "event_ids"}
        o_played = played[o.checked.digest]
        for p, label in enumerate(entry.planners):
            row = _row(o, p, label, unranked, fidelity, page)
            if row.kind == "baseline":
                key = (row.planner, bool(unranked), standing.events, entry.events, str(setting))
                if key in seen:
                    continue
                seen.add(key)
            share, source = _survives(o, p, label, everything, played)
            row = replace(row, survives=share, survives_from=source)
            if unranked or row.kind == "baseline":
                rest.append(row)
                continue
            by_event = o_played.net[p].mean(axis=0)
            ids = [e.id for e in entry.events]
            ranked.append((row, dict(zip(ids, by_event.tolist(), strict=True))))
    ranks = _ranks([values for _, values in ranked], [(r.planner, r.revision) for r, _ in ranked])
    first = [replace(row, rank=rank) for (row, _), rank in zip(ranked, ranks, strict=True)]
    first += [r for r in rest if not r.unranked]
    last = [r for r in rest if r.unranked]
    return [*sorted(first, key=_order), *sorted(last, key=lambda r: (r.events, _order(r)))]


def _order(row: PlannerRow) -> tuple[Any, ...]:
    return (-row.net.mean, row.kind, row.label, row.planner, row.entry)


def _row(
    o: Outcome,
    p: int,
    label: str,
    unranked: Sequence[str],
    fidelity: Fidelity | None,
    page: str,
) -> PlannerRow:
    entry, scores, standing = o.entry, o.checked.scores, o.checked.standing
    assert scores is not None
    assert standing is not None
    planner, score = entry.planners[label], scores["planners"][label]
    bound = planner["name"] == NOTHING or re.match(r"oracle(?![^:])", planner["name"])
    oracle = (scores["oracle"] or {}).get(label, {}).get("share")
    net, uplift = figure_of(score["net"]), figure_of(score["uplift"])
    assert net is not None
    assert uplift is not None
    return PlannerRow(
        kind="baseline" if bound else "method",
        label=label,
        planner=planner["name"],
        revision=planner["revision"],
        entry=outcome_page(o.checked),
        rank=None,
        events=standing.events,
        unranked=unranked,
        net=net,
        uplift=uplift,
        per_cost=figure_of(score["avoided_per_cost"]),
        cost=score["spent"],
        refused=score["refused"],
        oracle=figure_of(oracle) if planner["name"] != NOTHING else None,
        survives=None,
        survives_from="",
        seeds=entry.seeds,
        verified=None if o.verification is None else o.verification.methods.get(label),
        fidelity=fidelity,
        fidelity_page=page,
    )


def site_fidelity(entry: Entry, measured: Sequence[Submission]) -> tuple[Fidelity | None, str]:
    """The fidelity of an entry's simulator: from an entry on this site, else as the project has it.

    What was measured on synthetic events comes first where such events are played, and what has a
    rank before what has none.
    """
    simulator, setting = simulator_of(entry), entry.setting
    if simulator.tier == "llm":
        synthetic = setting.events in (None, SYNTHETIC)
        known = [
            s
            for s in measured
            if same_model([dict(m) for m in s.entry.manifest.backbone], entry.models["backbone"])
            and setting.method in s.entry.manifest.conditions[core_of(s.entry)].methods
        ]

        def order(s: Submission) -> tuple[Any, ...]:
            assert s.checked.standing is not None
            other = (s.entry.manifest.track == SYNTHETIC) != synthetic
            return (other, bool(s.checked.standing.unranked), s.checked.digest)

        for s in sorted(known, key=order):
            assert s.checked.scores is not None
            value = {**s.checked.scores, "track": s.entry.manifest.track}
            name = f"{simulator.name} ({setting.method})"
            return measured_fidelity(slug(s.checked), value, name, setting.method), slug(s.checked)
    try:
        return stated_fidelity(setting, entry.models), ""
    except MfenvError:
        return None, ""


def _survives(
    o: Outcome,
    p: int,
    label: str,
    everything: Sequence[Outcome],
    played: Mapping[str, Outcomes],
) -> tuple[Figure | None, str]:
    """What is left of a planner's net uplift in a cheaper tier, and in which tier that is.

    The same planner there, by name and revision, on all of these events under the same setting. A
    surrogate with the backbone's own name comes first, then the society, then other surrogates.
    """
    entry, here = o.entry, o.simulator
    planner = entry.planners[label]
    if planner["name"] == NOTHING:
        return None, ""

    def order(other: Outcome) -> tuple[Any, ...]:
        s = other.simulator
        own = s.name == here.name or s.name == here.tier
        return (not own, s.tier != "society", -other.entry.seeds, other.checked.digest)

    for other in sorted(everything, key=order):
        there = other.entry
        unsaid = there.setting.dynamics == "surrogate" and not there.models
        if unsaid or _COSTS[other.simulator.tier] >= _COSTS[here.tier]:
            continue
        if any(getattr(there.setting, x) != getattr(entry.setting, x) for x in SAME):
            continue
        places = {e.id: i for i, e in enumerate(there.events)}
        match = [q for q, x in enumerate(there.planners.values()) if x == planner]
        if not match or not all(e.id in places for e in entry.events):
            continue
        index = [places[e.id] for e in entry.events]
        found = surviving(
            played[o.checked.digest].net[p], played[other.checked.digest].net[match[0]][:, index]
        )
        s = other.simulator
        return figure_of(found["share"]), s.tier if s.tier == "society" else f"{s.tier} {s.name}"
    return None, ""


def _ranks(values: Sequence[Mapping[str, float]], who: Sequence[tuple[str, str]]) -> list[int]:
    """Ranks of planners with a mean for each of their events; events are drawn, for all alike."""
    if not values:
        return []
    events = sorted({e for row in values for e in row})
    table = np.array([[row.get(e, np.nan) for row in values] for e in events])  # (events, rows)
    known = ~np.isnan(table)
    table = np.where(known, table, 0.0)
    size = len(events)
    weights = generator(_RANK_STREAM, 0).multinomial(
        size, np.full(size, 1 / size), size=_RANK_DRAWS
    )
    ranks = []
    for i in range(len(values)):
        both = known & known[:, [i]]
        drawn = weights @ both
        gap = weights @ np.where(both, table - table[:, [i]], 0.0) / np.maximum(drawn, 1)
        better = np.quantile(gap, 0.025, axis=0) > 0
        ranks.append(1 + len({who[j] for j in np.flatnonzero(better).tolist()} - {who[i]}))
    return ranks


# -- as files --------------------------------------------------------------------------------


def as_json(board: PlannerBoard) -> dict[str, Any]:
    """A board as JSON values."""
    return {
        "id": board.id,
        "simulator": asdict(board.simulator),
        "objective": board.objective,
        "target": json.loads(board.target) if board.target else None,
        "rows": [asdict(r) for r in board.rows],
    }


_FIGURES = ("net", "uplift", "per_cost", "oracle", "survives")
_PLAIN = (
    "rank", "kind", "label", "planner", "revision", "events", "seeds", "verified", "cost",
    "refused", "survives_from", "entry",
)  # fmt: skip


def as_csv(boards: Sequence[PlannerBoard]) -> str:
    """All rows as one table; every figure has a column for its mean and for either end."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("mean", "low", "high")
    which = ("tier", "name", "revision", "method")
    writer.writerow(
        ["tier", "simulator", "simulator_revision", "method", "objective", "fidelity", *_PLAIN,
         *(f"{name}_{end}" for name in _FIGURES for end in ends)]
    )  # fmt: skip
    for board in boards:
        for row in board.rows:
            figures = [getattr(row, name) for name in _FIGURES]
            values = [
                *(getattr(board.simulator, name) for name in which),
                board.objective,
                "unknown" if row.fidelity is None else row.fidelity.short,
                *(getattr(row, name) for name in _PLAIN),
                *(None if f is None else getattr(f, end) for f in figures for end in ends),
            ]
            writer.writerow([cell(v) for v in values])
    return out.getvalue()
