"""The leaderboard as data: boards of one track and split, with a row for each method of an entry.

A rank counts who is clearly better: it is one more than the number of ranked rows whose mean KL is
lower with a 95% interval, paired by event, that excludes zero. Rows that nobody can tell apart
share a rank.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import metrics
from benchmarks.compare import FLOOR, FORECASTERS, PERSISTENCE
from benchmarks.fidelity.conditions import CORE
from benchmarks.fidelity.entry import Entry
from benchmarks.fidelity.tracks import SPLITS, TRACKS
from benchmarks.leaderboard.check import Checked
from benchmarks.leaderboard.verification import Verification
from mfenv.noise import generator

__all__ = [
    "Achieved",
    "Board",
    "Figure",
    "Row",
    "Submission",
    "as_csv",
    "as_json",
    "boards",
    "cell",
    "core_of",
    "figure_of",
    "page_name",
    "slug",
]

Floats = NDArray[np.float64]

_RANK_STREAM, _RANK_DRAWS = 7022, 4000


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its 95% interval, where there is one."""

    mean: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval excludes zero on that side, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid entry with its scores and what a rerun found."""

    checked: Checked
    verification: Verification | None

    @property
    def entry(self) -> Entry:
        """The entry; there is one since it is valid."""
        assert self.checked.entry is not None
        return self.checked.entry


@dataclass(frozen=True, slots=True)
class Achieved:
    """What the best planner achieved in a simulator."""

    objective: str
    planner: str
    net: Figure
    """Net uplift."""
    board: str
    """Where it stands on the page of planners."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a board: a method of an entry, or a baseline without any model."""

    kind: str
    """``method``, ``baseline`` or ``floor``."""
    method: str
    backbone: str
    revision: str
    entry: str
    """Name of the entry's page; "" for baselines."""
    rank: int | None
    events: str
    """``official``, ``first K of the official list`` or ``own list``."""
    unranked: Sequence[str]
    kl: Figure
    excess: Figure | None
    iqm: Figure | None
    against_persistence: Figure | None
    """Difference of the mean KL, paired by event."""
    nll: Figure | None
    """Nats an action, minus those of the entry's baseline without a mean field."""
    baseline: str
    decisions_per_second: float | None
    """Of all the entry's methods together."""
    tokens: int | None
    cost: Mapping[str, float] | None
    """Of the whole entry."""
    seeds: int
    verified: bool | None
    """``None`` where nothing was rerun."""
    outcomes: Sequence[Achieved] = ()
    """Of interventions in this very simulator, one for each objective."""

    @property
    def relation(self) -> str:
        """How it stands to persistence: better, worse or not clear; "" for the baselines."""
        if self.against_persistence is None:
            return ""
        return {-1: "better", 0: "not clear", 1: "worse"}[self.against_persistence.sign]

    @property
    def floor(self) -> str:
        """How it stands to the noise floor: above, at or below; "" for the floor itself."""
        if self.excess is None:
            return ""
        return {-1: "below", 0: "at", 1: "above"}[self.excess.sign]


@dataclass(frozen=True, slots=True)
class Board:
    """All rows of one track and split, best first; those without a rank come last."""

    track: str
    split: str
    rows: Sequence[Row]


def slug(checked: Checked) -> str:
    """A name for an entry's page: safe as a file, and its own."""
    manifest = checked.manifest
    assert manifest is not None
    return page_name(manifest.backbone[0].get("name", ""), checked.digest)


def page_name(name: str, digest: str) -> str:
    """A name for a page of what is called ``name``, made its own by a hash."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{plain or 'entry'}-{digest[:12]}"


def core_of(entry: Entry) -> str:
    """The condition that a board shows: the core one, else the first."""
    names = list(entry.manifest.conditions)
    return CORE if CORE in names else names[0]


def boards(
    submissions: Sequence[Submission],
    outcomes: Mapping[tuple[str, str, str], Sequence[Achieved]] | None = None,
) -> list[Board]:
    """All boards, in the order of the tracks and splits; a pure function of what is submitted.

    ``outcomes`` are those of interventions, by backbone, revision and method.
    """
    result = []
    for track in TRACKS:
        for split in SPLITS:
            here = sorted(
                (
                    s
                    for s in submissions
                    if (s.entry.manifest.track, s.entry.manifest.split) == (track, split)
                ),
                key=lambda s: s.checked.digest,
            )
            if here:
                rows = [
                    replace(
                        r, outcomes=(outcomes or {}).get((r.backbone, r.revision, r.method), ())
                    )
                    for r in _rows(here)
                ]
                result.append(Board(track, split, rows))
    return result


def _rows(submissions: Sequence[Submission]) -> list[Row]:
    ranked: list[tuple[Row, Floats, list[str]]] = []
    rest: list[Row] = []
    baselines: dict[tuple[Any, ...], Submission] = {}
    for submission in submissions:
        entry, standing = submission.entry, submission.checked.standing
        assert standing is not None
        facts = entry.manifest.conditions[core_of(entry)]
        # Baselines differ with the events, their labels, the settings and the number of seeds.
        key = (
            bool(standing.unranked), standing.events, entry.manifest.events,
            entry.manifest.annotator, facts.warmup, facts.horizon,
        )  # fmt: skip
        known = baselines.get(key)
        if known is None or len(entry.manifest.seeds) > len(known.entry.manifest.seeds):
            baselines[key] = submission
        for method in facts.methods:
            row = _method_row(submission, method)
            if standing.unranked:
                rest.append(row)
            else:
                ranked.append((row, *_per_case(entry, method)))
    first = [replace(row, rank=rank) for row, rank in zip(
        (row for row, *_ in ranked), _ranks([x for _, x, _ in ranked], [g for *_, g in ranked]),
        strict=True,
    )]  # fmt: skip
    for key, submission in baselines.items():
        (rest if key[0] else first).extend(_baseline_rows(submission))
    return [*sorted(first, key=_order), *sorted(rest, key=lambda r: (r.events, _order(r)))]


def _order(row: Row) -> tuple[Any, ...]:
    return (row.kl.mean, row.kind, row.method, row.backbone, row.entry)


def _per_case(entry: Entry, method: str) -> tuple[Floats, list[str]]:
    """Mean KL ``(C,)`` of each case, and the cases' groups."""
    played = entry.played[core_of(entry)]
    simulated = metrics.window_counts(played.simulated[method])  # (S, C, 3, 23)
    kl = metrics.kl(metrics.window_counts(played.real), simulated)
    return kl.mean(axis=(0, 2, 3)), [entry.cases[i].group for i in played.cases]


def _ranks(values: Sequence[Floats], groups: Sequence[list[str]]) -> list[int]:
    """Ranks of rows on the same cases; groups of cases are drawn, the same for all rows."""
    if not values:
        return []
    _, index = np.unique(groups[0], return_inverse=True)
    size = index.max() + 1
    rng = generator(_RANK_STREAM, 0)
    weights = rng.multinomial(size, np.full(size, 1 / size), size=_RANK_DRAWS)[:, index]
    table = np.stack(values, axis=1)  # (cases, rows)
    means = weights @ table / weights.sum(axis=1, keepdims=True)  # (draws, rows)
    return [
        1 + int((np.quantile(means - means[:, [i]], 0.975, axis=0) < 0).sum())
        for i in range(table.shape[1])
    ]


def figure_of(value: Mapping[str, Any] | None) -> Figure | None:
    """A score's mean and interval, where it has any."""
    if value is None or value["mean"] is None:
        return None
    return Figure(value["mean"], value["low"], value["high"])


def _kl(score: Mapping[str, Any]) -> Figure:
    figure = figure_of(score)
    assert figure is not None
    return figure


def _method_row(submission: Submission, method: str) -> Row:
    entry, checked, scores = submission.entry, submission.checked, submission.checked.scores
    assert scores is not None
    assert checked.standing is not None
    manifest = entry.manifest
    core = core_of(entry)
    usage, score = manifest.conditions[core].usage, scores["kl"][method]
    nll = scores["nll"].get(method, {}).get("minus_baseline_per_action")
    return Row(
        kind="method",
        method=method,
        backbone=_names(manifest.backbone, "name"),
        revision=_names(manifest.backbone, "revision"),
        entry=slug(checked),
        rank=None,
        events=checked.standing.events,
        unranked=checked.standing.unranked,
        kl=_kl(score),
        excess=figure_of(score["excess"]),
        iqm=figure_of(score["iqm"]),
        against_persistence=_paired(scores, method, PERSISTENCE),
        nll=None if method == manifest.baseline else figure_of(nll),
        baseline=manifest.baseline,
        decisions_per_second=usage.decisions / usage.seconds if usage.seconds > 0 else None,
        tokens=int(entry.played[core].tokens[method].sum()),
        cost=manifest.cost,
        seeds=len(manifest.seeds),
        verified=None
        if submission.verification is None
        else submission.verification.methods.get(method),
    )


def _names(models: Sequence[Mapping[str, str]], field: str) -> str:
    """What the models of an entry are called, in one line."""
    names = list(dict.fromkeys(model.get(field, "?") for model in models))
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _paired(scores: Mapping[str, Any], a: str, b: str) -> Figure | None:
    """The paired difference a - b, which stands there in one of both directions."""
    if (found := figure_of(scores["paired"].get(f"{a} - {b}"))) is not None:
        return found
    turned = figure_of(scores["paired"].get(f"{b} - {a}"))
    if turned is None:
        return None
    low, high = (None if x is None else -x for x in (turned.high, turned.low))
    return Figure(-turned.mean, low, high)


def _baseline_rows(submission: Submission) -> list[Row]:
    """What needs no model, on the events of an entry."""
    checked, scores = submission.checked, submission.checked.scores
    assert scores is not None
    assert checked.standing is not None
    rows = []
    for name in (*FORECASTERS, FLOOR):
        if name not in scores["kl"]:
            continue
        score = scores["kl"][name]
        floor = name == FLOOR
        rows.append(
            Row(
                kind="floor" if floor else "baseline",
                method=name,
                backbone="",
                revision="",
                entry="",
                rank=None,
                events=checked.standing.events,
                unranked=checked.standing.unranked,
                kl=_kl(score),
                excess=None if floor else figure_of(score["excess"]),
                iqm=figure_of(score.get("iqm")),
                against_persistence=None
                if floor or name == PERSISTENCE
                else _paired(scores, name, PERSISTENCE),
                nll=None,
                baseline="",
                decisions_per_second=None,
                tokens=None,
                cost=None,
                seeds=len(submission.entry.manifest.seeds),
                verified=None,
            )
        )
    return rows


# -- as files --------------------------------------------------------------------------------


def as_json(board: Board) -> dict[str, Any]:
    """A board as JSON values."""
    rows = [
        {**asdict(r), "persistence": r.relation or None, "floor": r.floor or None}
        for r in board.rows
    ]
    return {"track": board.track, "split": board.split, "rows": rows}


_FIGURES = ("kl", "excess", "iqm", "against_persistence", "nll")
_PLAIN = (
    "rank", "kind", "backbone", "revision", "method", "events", "seeds", "verified",
    "decisions_per_second", "tokens", "entry",
)  # fmt: skip


def as_csv(all_boards: Sequence[Board]) -> str:
    """All rows as one table; every figure has a column for its mean and for either end."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = [f"{name}_{end}" for name in _FIGURES for end in ("mean", "low", "high")]
    best = [f"outcome_{end}" for end in ("objective", "planner", "mean", "low", "high")]
    writer.writerow(["track", "split", *_PLAIN, "persistence", "floor", *ends, "cost", *best])
    for board in all_boards:
        for row in board.rows:
            figures = [getattr(row, name) for name in _FIGURES]
            values = [
                board.track,
                board.split,
                *(getattr(row, name) for name in _PLAIN),
                row.relation,
                row.floor,
                *(None if f is None else getattr(f, end) for f in figures
                  for end in ("mean", "low", "high")),
                " ".join(f"{x:g} {c}" for c, x in sorted((row.cost or {}).items())),
                *((x.objective, x.planner, x.net.mean, x.net.low, x.net.high)
                  if (x := next(iter(row.outcomes), None)) else [None] * len(best)),
            ]  # fmt: skip
            writer.writerow([cell(v) for v in values])
    return out.getvalue()


def cell(value: Any) -> str:
    """A cell that no spreadsheet takes for a formula."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)
        return f"'{text}" if text[:1] in "=+-@" and text else text
    return str(value)
