"""``mfenv forecast``: how a population goes on after the warm-up, with what is not known of it.

Several seeds of each method are simulated (:func:`benchmarks.simulate.simulate`, so a killed run
goes on), and become probabilities of every label's share in a window of reactions
(:mod:`benchmarks.forecast_bands`). Persistence stands beside them, and where people really
reacted after the warm-up, coverage and scores say how much the bands are worth.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

import mfenv
from benchmarks.compare import FORECASTERS, PERSISTENCE
from benchmarks.forecast_bands import (
    Forecast,
    Scores,
    Smoothing,
    TurnChance,
    fan_ends,
    forecast,
    redrawn,
    score,
    share_curves,
    turn_after,
    turn_chance,
)
from benchmarks.forecast_report import Course, Page, render
from benchmarks.simulate import (
    SAMPLINGS,
    Outcome,
    Simulation,
    add_event_arguments,
    chosen_event,
    chosen_methods,
    command_words,
    folder_name,
    one_line,
    progress,
    sampling_parameters,
    simulate,
    write_file,
)
from mfenv.cli import integer
from mfenv.dynamics.assemble import backbone_identity, build_annotator, calibration_of, method_names
from mfenv.dynamics.journal import RunLock
from mfenv.dynamics.process import ProcessSettings, real_rollout
from mfenv.errors import MfenvError
from mfenv.events.event import Event, Posts
from mfenv.labels import NAMES, SILENT_REPOST, Labels
from mfenv.noise import generator

__all__ = [
    "AUDIENCES",
    "BANDS",
    "HELP",
    "SHOWN_LEVELS",
    "TURN",
    "WINDOW",
    "Simulated",
    "add_arguments",
    "add_share",
    "course",
    "run",
    "simulated_labels",
    "with_drawn_people",
]

HELP = "forecast how a population goes on after the warm-up, with bands and turning points"

Floats = NDArray[np.float64]

WINDOW = 48
"""Reactions of a window, unless the horizon is shorter."""

BANDS: Mapping[str, Smoothing | None] = {"smoothed": Smoothing(), "seeds": None}
"""How windows of the seeds become bands; the smoothing's settings were chosen on real events."""

TURN = 0.15
"""Movement of a share, there and back, that makes a turning point."""

SHOWN_LEVELS = (0.5, 0.9)
"""Levels of the bands that are drawn and scored."""

AUDIENCES = ("recorded", "drawn")

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_AUDIENCE_STREAM, _REDRAW_STREAM = 7021, 7023


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_event_arguments(parser)
    add = parser.add_argument
    add("--batch", type=integer(1), default=16, metavar="n", help="people in a step (%(default)s)")
    add(
        "--warmup",
        type=integer(1),
        default=50,
        metavar="T",
        help="reactions that have really happened (%(default)s)",
    )
    add(
        "--horizon",
        type=integer(3),
        default=96,
        metavar="H",
        help="reactions that are forecast (%(default)s)",
    )
    add("--seeds", type=integer(2), default=20, metavar="K", help="runs a method (%(default)s)")
    add("--seed", type=integer(0), default=0, metavar="S", help="the first seed (%(default)s)")
    add("--sampling", choices=SAMPLINGS, default=SAMPLINGS[0], help="(%(default)s)")
    add(
        "--window",
        type=integer(1),
        metavar="W",
        help=f"reactions whose share is forecast ({WINDOW}, or the horizon if that is shorter)",
    )
    add(
        "--bands",
        choices=tuple(BANDS),
        default=next(iter(BANDS)),
        help="smoothed: a Dirichlet-multinomial fitted to the windows of all seeds; seeds: their "
        "plain frequencies (%(default)s)",
    )
    add_share(
        parser,
        "--turn",
        TURN,
        "movement of a share, there and back, that makes a turning point (%(default)s)",
    )
    add(
        "--audience",
        choices=AUDIENCES,
        default=AUDIENCES[0],
        help="who reacts: recorded: the people who really did next (who they are, not what they "
        "wrote); drawn: people like those of the warm-up, for any horizon (%(default)s)",
    )
    add("--out", type=Path, metavar="DIR", help="folder (default: runs/forecast-EVENT-SETTINGS)")
    add("--skip-bad", action="store_true", help="put malformed records aside and go on")
    add("--json", action="store_true", help="print JSON only")


def add_share(parser: argparse.ArgumentParser, name: str, default: float, text: str) -> None:
    """Declare an option that takes a share, above 0 and below 1."""
    parser.add_argument(name, type=_share, default=default, metavar="X", help=text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: above 0 and below 1")
    return value


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything that one command asks for."""

    simulation: Simulation
    recorded: Event  # as it is in the data, whoever the audience is
    horizon: int
    window: int
    bands: str
    turn: float
    audience: str


def run(args: argparse.Namespace) -> int:
    """Simulate, forecast, write the report."""
    plan = _plan(args)
    name = folder_name(plan.recorded, _settings(plan))
    out: Path = args.out or Path("runs") / f"forecast-{name}"
    with RunLock(out), progress(args.json, "forecasting") as advance:
        outcome = simulate(plan.simulation, out, advance)
        page = _page(plan, outcome, _command(args))
        result = _result(plan, page)
        write_file(out / "result.json", json.dumps(result, indent=1) + "\n")
        write_file(out / "report.html", render(page))
    if args.json:
        timed = {"seconds": round(outcome.seconds, 3), "decisions": outcome.decisions}
        print(json.dumps({**result, **timed}))
    else:
        _print(plan, page, out)
        print(f"{outcome.decisions} decisions in {outcome.seconds:.1f} s", file=sys.stderr)
    return 0


# -- what is asked for -----------------------------------------------------------------------


def _plan(args: argparse.Namespace) -> _Plan:
    methods = chosen_methods(args)
    window = min(WINDOW, args.horizon) if args.window is None else args.window
    if window > args.horizon:
        raise MfenvError(
            f"--window {window} is not allowed; allowed: 1 to {args.horizon}, the horizon"
        )
    total = args.warmup + args.horizon
    event = chosen_event(args, total)
    people = len(event.posts) - 1
    name = one_line(event.event_id)
    if args.warmup > people or (args.audience == AUDIENCES[0] and args.warmup > people - 3):
        raise MfenvError(
            f"event {name}: {people} people react, so --warmup {args.warmup} is not allowed; "
            f"allowed: 1 to {max(people - 3, 1)} (to {people} with --audience drawn)"
        )
    if args.audience == AUDIENCES[0] and total > people:
        raise MfenvError(
            f"event {name}: {people} people react, {args.warmup} of them in the warm-up, so "
            f"--horizon {args.horizon} is not allowed; allowed: 3 to {people - args.warmup}, or "
            f"any with --audience drawn"
        )
    played = event
    if args.audience == AUDIENCES[1]:
        played = with_drawn_people(event, args.warmup, args.horizon)
    return _Plan(
        simulation=Simulation(
            event=played,
            backbone=args.backbone,
            methods=methods,
            annotator=args.annotator,
            process=ProcessSettings(total, args.batch, args.warmup),
            seeds=tuple(range(args.seed, args.seed + args.seeds)),
            sampling=args.sampling,
        ),
        recorded=event,
        horizon=args.horizon,
        window=window,
        bands=args.bands,
        turn=args.turn,
        audience=args.audience,
    )


def with_drawn_people(event: Event, warmup: int, horizon: int) -> Event:
    """The event up to the end of its warm-up, and then ``horizon`` people to react.

    They are drawn from those of the warm-up with replacement, with their profiles and with no
    text: nothing of what comes later in ``event`` is in it.
    """
    posts = event.posts
    drawn = 1 + generator(_AUDIENCE_STREAM, 0).integers(warmup, size=horizon)
    index = np.concatenate([np.arange(warmup + 1), drawn])
    later = np.arange(len(index)) > warmup
    labels = None
    if event.labels is not None:
        labels = np.where(later[:, None], SILENT_REPOST, event.labels[index]).astype(np.int8)
    return replace(
        event,
        posts=Posts(
            offsets=np.where(later, posts.offsets[warmup], posts.offsets[index]),
            authors=np.asarray(posts.authors[index]),
            parents=np.where(later, 0, posts.parents[index]).astype(np.int32),
            texts=["" if after else posts.texts[i] for i, after in zip(index, later, strict=True)],
            profiles=None if posts.profiles is None else [posts.profiles[i] for i in index],
        ),
        labels=labels,
    )


def _settings(plan: _Plan) -> dict[str, Any]:
    """What another run must have in common to go on in the same folder."""
    simulation = plan.simulation
    return {
        "event": plan.recorded.event_id,
        "backbone": backbone_identity(simulation.backbone),
        "methods": list(simulation.methods),
        "annotator": simulation.annotator,
        "batch": simulation.process.batch,
        "warmup": simulation.process.warmup,
        "horizon": plan.horizon,
        "seeds": list(simulation.seeds),
        "sampling": simulation.sampling,
        "audience": plan.audience,
    }


def _command(args: argparse.Namespace) -> str:
    """The command that repeats this, wherever it writes."""
    names = ("batch", "warmup", "horizon", "seeds", "seed", "sampling", "window", "bands", "turn")
    return shlex.join(command_words("forecast", args, (*names, "audience")))


# -- the forecast ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Simulated:
    """Labels ``(seeds, n, 8)`` of the horizon."""

    labels: Labels
    noisy: Labels
    """The same with the sampling noise of independent reactions, where they were chosen jointly.

    Turning points are looked for in these: how far a share strays matters there. Smoothed bands
    bring that noise themselves.
    """


def simulated_labels(
    outcome: Outcome, warmup: Labels, simulation: Simulation
) -> dict[str, Simulated]:
    """What each method makes of the horizon, and last persistence.

    Persistence draws from the last reactions of the warm-up ``(w, 8)``, once for each seed.
    """
    result = {}
    for name, method in method_names(simulation.methods).items():
        runs = outcome.runs[name]
        made = [np.concatenate([r.labels for r in run if not r.warmup]) for run in runs]
        labels = noisy = np.stack(made)
        calibration = calibration_of(method)
        if calibration is not None and min(calibration.draws, calibration.candidates) > 1:
            pairs = zip(made, simulation.seeds, strict=True)
            batch = simulation.process.batch
            noisy = np.stack([redrawn(x, batch, generator(_REDRAW_STREAM, s)) for x, s in pairs])
        result[name] = Simulated(labels, noisy)
    draw, stream = FORECASTERS[PERSISTENCE]
    horizon = labels.shape[1]
    drawn = np.stack([draw(warmup, horizon, generator(stream, s)) for s in simulation.seeds])
    return {**result, PERSISTENCE: Simulated(drawn, drawn)}


def course(
    name: str,
    warmup: Labels,
    simulated: Simulated,
    real: Labels,
    *,
    batch: int,
    window: int,
    smoothing: Smoothing | None,
    turn: float,
) -> Course:
    """What one method says of the horizon, and how that compares with what happened.

    From labels of the warm-up ``(w, 8)`` and of what really followed ``(up to n, 8)``.
    """
    labels = simulated.labels
    horizon = labels.shape[1]
    steps = fan_ends(horizon, batch)
    apart = forecast(warmup, labels, np.arange(window, horizon + 1, window), window, smoothing)
    ends, curves = share_curves(warmup, simulated.noisy, batch, window)
    return Course(
        name=name,
        fan=forecast(warmup, labels, steps, window, smoothing),
        turns=tuple(turn_chance(curves[..., i], ends, turn) for i in range(len(NAMES))),
        scores=score(apart, real, window, SHOWN_LEVELS),
    )


def _page(plan: _Plan, outcome: Outcome, command: str) -> Page:
    simulation = plan.simulation
    process, event = simulation.process, plan.recorded
    annotator = build_annotator(simulation.annotator, event)
    real = np.concatenate([r.labels for r in real_rollout(event, annotator, process)])
    warmup, after = real[: process.warmup], real[process.warmup :]
    simulated = {
        method: np.stack([np.concatenate([r.labels for r in one if not r.warmup]) for one in runs])
        for method, runs in outcome.runs.items()
    }
    draw, stream = FORECASTERS[PERSISTENCE]
    simulated[PERSISTENCE] = np.stack(
        [draw(warmup, plan.horizon, generator(stream, seed)) for seed in simulation.seeds]
    )
    courses = [
        course(
            name,
            warmup,
            made,
            after,
            batch=process.batch,
            window=plan.window,
            smoothing=BANDS[plan.bands],
            turn=plan.turn,
        )
        for name, made in simulated_labels(outcome, warmup, simulation).items()
    ]
    ends, shares = share_curves(warmup, after, process.batch, plan.window)
    revised = {m: f"{m} ({outcome.learned[m]})" for m in outcome.learned}
    return Page(
        title=f"Forecast of event {event.event_id}",
        topic=event.topic,
        language=event.language,
        warmup=process.warmup,
        horizon=plan.horizon,
        window=plan.window,
        turn=plan.turn,
        ends=ends,
        real=shares,
        happened=len(after),
        real_turns=tuple(turn_after(shares[:, i], ends, plan.turn) for i in range(len(NAMES))),
        courses=courses,
        facts={
            "Data": {
                "event": event.event_id,
                "source": event.source or "unknown",
                "language": event.language,
                "posts": f"{len(event.posts):,}",
            },
            "Models": {
                "backbone": backbone_identity(simulation.backbone),
                "revision": outcome.revision,
                "methods": ", ".join(revised.get(m, m) for m in outcome.runs),
                "annotator": outcome.annotator,
                "sampling": simulation.sampling,
            },
            "Settings": {
                "warm-up": str(process.warmup),
                "horizon": str(plan.horizon),
                "batch": str(process.batch),
                "window": str(plan.window),
                "bands": plan.bands,
                "turning point": f"{plan.turn:g} there and back",
                "audience": plan.audience,
                "seeds": f"{simulation.seeds[0]} to {simulation.seeds[-1]}",
                "decisions": f"{outcome.decisions:,}",
                "mfenv": mfenv.__version__,
            },
        },
        command=command,
    )


# -- what came out -------------------------------------------------------------------------------


def _rounded(values: Floats) -> list[Any]:
    """Nested lists with numbers of six places."""
    result: list[Any] = np.round(np.asarray(values, dtype=float), 6).tolist()
    return result


def _scores(scores: Scores | None) -> dict[str, Any] | None:
    if scores is None:
        return None
    return {
        "windows": scores.windows,
        "coverage": {
            f"{x.level:g}": {"inside": round(x.share, 6), "expected": round(x.expected, 6)}
            for x in scores.inside
        },
        "crps": round(scores.crps, 6),
        "pinball": round(scores.pinball, 6),
        "interval_score": round(scores.interval, 6),
    }


def _turn(chance: TurnChance) -> dict[str, Any]:
    return {
        "probability": round(chance.probability, 6),
        "peak": round(chance.peak, 6),
        "where": None if chance.where is None else [round(x) for x in chance.where],
    }


def _quantiles(fan: Forecast) -> dict[str, Floats]:
    """Shares ``(windows, 23)`` at each of the levels that are written."""
    return {f"{level:g}": fan.quantile(level) for level in _QUANTILES}


def _result(plan: _Plan, page: Page) -> dict[str, Any]:
    """The forecast as JSON values, timings apart."""
    simulation = plan.simulation
    fan = page.courses[0].fan
    return {
        "event": plan.recorded.event_id,
        "backbone": backbone_identity(simulation.backbone),
        "method": ",".join(method_names(simulation.methods)),
        "seeds": len(simulation.seeds),
        "warmup": page.warmup,
        "horizon": page.horizon,
        "window": page.window,
        "bands": plan.bands,
        "turn": plan.turn,
        "audience": plan.audience,
        "sampling": sampling_parameters(simulation.sampling),
        "reactions": fan.ends.tolist(),
        "forecast": {
            c.name: {
                "scores": _scores(c.scores),
                "labels": {
                    label: {
                        "quantiles": {
                            level: _rounded(x[:, i]) for level, x in _quantiles(c.fan).items()
                        },
                        "turn": _turn(c.turns[i]),
                    }
                    for i, label in enumerate(NAMES)
                },
            }
            for c in page.courses
        },
        "real": {
            "reactions": page.ends.tolist(),
            "labels": {
                label: {
                    "shares": _rounded(page.real[:, i]),
                    "turn": None
                    if (turned := page.real_turns[i]) is None
                    else {"where": turned[0], "peak": turned[1]},
                }
                for i, label in enumerate(NAMES)
            },
        },
    }


def _print(plan: _Plan, page: Page, out: Path) -> None:
    # Not on a terminal the width is fixed, so that the same command prints the same.
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    simulation = plan.simulation
    console.print(
        f"Event {one_line(plan.recorded.event_id)}: {page.horizon} reactions after the first "
        f"{page.warmup}; backbone {backbone_identity(simulation.backbone)}, "
        f"{len(simulation.seeds)} seeds, shares in windows of {page.window}",
        markup=False,
    )
    for c in page.courses[:-1]:
        console.print(_course_table(page, c))
    if page.courses[0].scores is None:
        console.print(f"Nothing to compare with: {page.happened} reactions after the warm-up.")
    else:
        console.print(_score_table(page))
    console.print(f"Report: {out / 'report.html'}", markup=False, soft_wrap=True)


def _course_table(page: Page, c: Course) -> Table:
    """Where one method sees the shares at the end of the horizon."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{c.name}: share", justify="left")
    for name in ("now", "median", "50% band", "90% band", "turns", "really"):
        table.add_column(name, justify="right")
    for row in page.rows(c):
        table.add_row(
            row.label,
            f"{100 * row.now:.0f}%",
            f"{100 * row.median:.0f}%",
            *(f"{100 * low:.0f} to {100 * high:.0f}%" for low, high in (row.half, row.most)),
            f"{100 * row.chance.probability:.0f}%",
            "–" if row.real is None else f"{100 * row.real:.0f}%{' turned' if row.turned else ''}",
        )
    return table


def _score_table(page: Page) -> Table:
    """How much the bands are worth on this event."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("real shares inside (expected)")
    names = [f"{100 * level:.0f}% band" for level in SHOWN_LEVELS]
    for name in (*names, "CRPS", "pinball", "interval score"):
        table.add_column(name, justify="right")
    for c in page.courses:
        if c.scores is not None:
            table.add_row(
                c.name,
                *(f"{100 * x.share:.0f}% ({100 * x.expected:.0f}%)" for x in c.scores.inside),
                *(f"{x:.4f}" for x in (c.scores.crps, c.scores.pinball, c.scores.interval)),
            )
    return table
