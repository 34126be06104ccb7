"""How honest forecasts are: ``mfenv bench calibration``.

The forecasts of :mod:`benchmarks.forecast` on many events, held against what people really did:
coverage of central bands at nine levels, the probability integral transform, proper scores and
turning points, for each method beside persistence. A killed run goes on. Only aggregates are
written to the results, no text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare import PERSISTENCE
from benchmarks.fidelity import Case, machine, sample
from benchmarks.forecast import BANDS, SHOWN_LEVELS, TURN, WINDOW, add_share, simulated_labels
from benchmarks.forecast_bands import (
    LEVELS,
    Smoothing,
    coverage,
    crps,
    dimension_mean,
    forecast,
    pit,
    pit_histogram,
    score,
    share_curves,
    trailing_counts,
    turn_after,
    turn_chance,
)
from benchmarks.metrics import Interval, bootstrap
from benchmarks.simulate import (
    SAMPLINGS,
    Simulation,
    chosen_methods,
    sampling_parameters,
    simulate,
    write_file,
)
from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import AUTO, build_backbone, method_names
from mfenv.dynamics.journal import RunLock, canonical
from mfenv.dynamics.process import ProcessSettings
from mfenv.errors import MfenvError, MissingExtraError
from mfenv.events.load import load_events
from mfenv.labels import NAMES, Labels
from mfenv.noise import generator

__all__ = ["HELP", "add_arguments", "measure", "run"]

HELP = "measure how honest forecasts are: coverage of their bands, scores, turning points"

Floats = NDArray[np.float64]
Measured = Mapping[str, Mapping[str, Floats]]
"""Method and bands (``"mf, smoothed"``) → figure → its values for one event."""

_BOOTSTRAP_STREAM = 7022
_BINS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FILE", help="events, in any format we read")
    add("--events", type=integer(2), default=12, metavar="K", help="events (%(default)s)")
    add(
        "--min-posts",
        type=integer(4),
        metavar="N",
        help="events with at least that many posts (what warm-up and horizon need)",
    )
    add(
        "--half",
        choices=("first", "second"),
        help="sample from one half of those events only, to choose settings on one and to confirm "
        "them on the other (all)",
    )
    add("--backbone", default="weibo-s", metavar="NAME", help="language model (%(default)s)")
    add(
        "--methods",
        dest="method",
        action="append",
        metavar="NAMES",
        help="as in mfenv simulate, separated by commas (mf)",
    )
    add("--annotator", default=AUTO, metavar="NAME", help="what labels reactions (%(default)s)")
    add("--warmup", type=integer(1), default=50, metavar="T", help="(%(default)s)")
    add("--horizon", type=integer(3), default=144, metavar="H", help="reactions (%(default)s)")
    add("--window", type=integer(1), metavar="W", help=f"reactions ({WINDOW} or the horizon)")
    add("--batch", type=integer(1), default=16, metavar="n", help="(%(default)s)")
    add("--seeds", type=integer(2), default=8, metavar="K", help="(%(default)s)")
    add("--sampling", choices=SAMPLINGS, default=SAMPLINGS[0], help="(%(default)s)")
    add_share(parser, "--turn", TURN, "movement that makes a turning point (%(default)s)")
    add(
        "--excess",
        type=_shares,
        default=(),
        metavar="X,Y",
        help="also measure the smoothing with so much added to the overdispersion (none)",
    )
    add("--out", type=Path, metavar="DIR", help="journals (default: runs/calibration-…)")
    add("--results", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    add("--name", metavar="NAME", help="of the files calibration-NAME.* (default: the backbone)")


def _shares(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(x) for x in text.split(","))
    except ValueError:
        values = (-1.0,)
    if not all(0 <= x < 1 for x in values):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; allowed: numbers of at least 0 and below 1, separated by "
            f"commas"
        )
    return values


# -- one event -----------------------------------------------------------------------------------


def measure(
    warmup: Labels,
    simulated: Labels,
    real: Labels,
    window: int,
    smoothing: Smoothing | None,
) -> dict[str, Floats]:
    """How one forecast of windows that do not overlap fares, all dimensions alike.

    From labels of the warm-up ``(w, 8)``, of the horizon as simulated ``(seeds, n, 8)`` and as it
    was ``(n, 8)``. Losses are in shares.
    """
    ends = np.arange(window, len(real) + 1, window)
    made = forecast(warmup, simulated, ends, window, smoothing)
    seen = trailing_counts(real, ends, window)
    transform = pit(made.probabilities, seen)
    scores = score(made, real, window, SHOWN_LEVELS)
    assert scores is not None  # the horizon holds a window
    loss = crps(made.probabilities, seen) / window
    bins = pit_histogram(transform, _BINS)  # (windows, 23, bins)
    return {
        "coverage": np.array([dimension_mean(coverage(transform, x)).mean() for x in LEVELS]),
        "inside": np.array([x.share for x in scores.inside]),
        "expected": np.array([x.expected for x in scores.inside]),
        "crps": np.array(scores.crps),
        "pinball": np.array(scores.pinball),
        "interval_score": np.array(scores.interval),
        "crps_by_window": dimension_mean(loss),
        "pit": dimension_mean(np.moveaxis(bins, -1, 0)).mean(axis=-1),
    }


def _turns(
    warmup: Labels, simulated: Labels, real: Labels, batch: int, window: int, least: float
) -> dict[str, Floats]:
    """Forecast probability of a turn beside what happened, all dimensions alike."""
    ends, shares = share_curves(warmup, real, batch, window)
    curves = share_curves(warmup, simulated, batch, window)[1]
    labels = range(len(NAMES))
    chance = np.array([turn_chance(curves[..., i], ends, least).probability for i in labels])
    turned = np.array([turn_after(shares[:, i], ends, least) is not None for i in labels])
    return {
        "turn_brier": dimension_mean((chance - turned) ** 2),
        "turn_forecast": dimension_mean(chance),
        "turn_real": dimension_mean(turned),
    }


# -- the run -------------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Simulate, hold against the real course, write the results, print them."""
    _check_picture()
    methods = chosen_methods(args)
    window = min(WINDOW, args.horizon) if args.window is None else args.window
    if window > args.horizon:
        raise MfenvError(f"--window {window} is not allowed; allowed: 1 to {args.horizon}")
    needed = args.warmup + args.horizon + 1
    if args.min_posts is not None and args.min_posts < needed:
        raise MfenvError(
            f"--min-posts {args.min_posts} is not allowed; allowed: at least {needed}, the source "
            f"and the reactions of --warmup and --horizon"
        )
    least = args.min_posts or needed
    cases = sample(load_events(args.data), args.events, least, args.half)
    settings = _settings(args, methods, cases)
    digest = hashlib.sha256(canonical(settings)).hexdigest()[:10]
    folder = args.out or Path("runs") / f"calibration-{digest}"
    tried = {**BANDS, **{f"excess {x:g}": Smoothing(excess=x) for x in args.excess}}
    measured: list[Measured] = []
    seconds, decisions = 0.0, 0
    print(f"{len(cases)} events, list {settings['cases']}", file=sys.stderr, flush=True)
    with RunLock(folder):
        for number, case in enumerate(cases, start=1):
            simulation = Simulation(
                event=case.event,
                backbone=args.backbone,
                methods=methods,
                annotator=args.annotator,
                process=ProcessSettings(needed - 1, args.batch, args.warmup),
                seeds=tuple(range(args.seeds)),
                sampling=args.sampling,
            )
            outcome = simulate(simulation, folder / _hash(case.event.event_id)[:16])
            real = np.concatenate([r.labels for r in outcome.real])
            warmup, after = real[: args.warmup], real[args.warmup :]
            made: dict[str, dict[str, Floats]] = {}
            for name, simulated in simulated_labels(outcome, warmup, simulation).items():
                turns = _turns(warmup, simulated.noisy, after, args.batch, window, args.turn)
                for bands, smoothing in tried.items():
                    figures = measure(warmup, simulated.labels, after, window, smoothing)
                    made[f"{name}, {bands}"] = {**figures, **turns}
            measured.append(made)
            seconds, decisions = seconds + outcome.seconds, decisions + outcome.decisions
            learned, annotator = outcome.learned, outcome.annotator
            print(f"{number} of {len(cases)} events", file=sys.stderr, flush=True)
    result = {
        "data": {
            "file": args.data.name,
            "sha256": hashlib.sha256(args.data.read_bytes()).hexdigest()
            if args.data.is_file()
            else "a folder",
        },
        "cases": {
            "count": len(cases),
            "min_posts": least,
            "half": args.half,
            "sha256": settings["cases"],
        },
        "settings": {
            "warmup": args.warmup,
            "horizon": args.horizon,
            "window": window,
            "batch": args.batch,
            "seeds": args.seeds,
            "sampling": args.sampling,
            "turn": args.turn,
            "excess": next(x.excess for x in BANDS.values() if x is not None),
        },
        "backbone": settings["backbone"],
        "methods": [f"{m}@{learned[m]}" if m in learned else m for m in method_names(methods)],
        "annotator": annotator,
        **_summary(measured),
        "decisions": decisions,
        "seconds": round(seconds, 1),
        "machine": machine(),
        "command": _command(args),
    }
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", args.backbone)
    title = f"calibration-{args.name or plain}"
    text = _markdown(result, title)
    args.results.mkdir(parents=True, exist_ok=True)
    write_file(args.results / f"{title}.json", json.dumps(result, indent=1) + "\n")
    write_file(args.results / f"{title}.md", text)
    _picture(result, args.results / f"{title}.png")
    print(text, end="")
    return 0


def _settings(
    args: argparse.Namespace, methods: Sequence[str], cases: Sequence[Case]
) -> dict[str, Any]:
    """What another run must have in common to go on in the same folder."""
    return {
        "backbone": build_backbone(args.backbone).describe(),
        "methods": list(methods),
        "annotator": args.annotator,
        "sampling": sampling_parameters(args.sampling),
        "cases": _hash("\n".join(case.event.event_id for case in cases)),
        "process": [args.warmup, args.horizon, args.batch],
        "seeds": args.seeds,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _command(args: argparse.Namespace) -> str:
    """The command that repeats this, wherever it writes."""
    words = ["mfenv", "bench", "calibration", "--data", str(args.data)]
    words += ["--methods", ",".join(args.method or ["mf"])]
    names = ("events", "min_posts", "half", "backbone", "annotator", "warmup", "horizon")
    for name in (*names, "window", "batch", "seeds", "sampling", "turn", "name"):
        if getattr(args, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    if args.excess:
        words += ["--excess", ",".join(f"{x:g}" for x in args.excess)]
    return shlex.join(words)


# -- the result ----------------------------------------------------------------------------------


def _interval(values: Floats) -> dict[str, float]:
    """Bootstrap over events; the same draws for every figure."""
    x: Interval = bootstrap(values, generator(_BOOTSTRAP_STREAM, 0))
    return {"mean": round(x.mean, 6), "low": round(x.low, 6), "high": round(x.high, 6)}


def _summary(measured: Sequence[Measured]) -> dict[str, Any]:
    """All figures over the events, as JSON values."""
    over = {
        name: {figure: np.stack([one[name][figure] for one in measured]) for figure in figures}
        for name, figures in measured[0].items()
    }
    rows = {
        name: {
            "coverage": {
                f"{level:g}": _interval(x["coverage"][:, i]) for i, level in enumerate(LEVELS)
            },
            "inside": {
                f"{level:g}": {
                    **_interval(x["inside"][:, i]),
                    "expected": round(float(x["expected"][:, i].mean()), 6),
                }
                for i, level in enumerate(SHOWN_LEVELS)
            },
            **{figure: _interval(x[figure]) for figure in ("crps", "pinball", "interval_score")},
            "crps_by_window": np.round(x["crps_by_window"].mean(axis=0), 6).tolist(),
            "pit": np.round(x["pit"].mean(axis=0), 6).tolist(),
        }
        for name, x in over.items()
    }
    first = next(iter(BANDS))
    baseline = over[f"{PERSISTENCE}, {first}"]
    own = {
        name.removesuffix(f", {first}"): x
        for name, x in over.items()
        if name.endswith(f", {first}")
    }
    base = float(baseline["turn_real"].mean())
    return {
        "rows": rows,
        "crps_minus_persistence": {
            name: _interval(x["crps"] - baseline["crps"])
            for name, x in over.items()
            if x is not baseline
        },
        "turns": {
            "real": _interval(baseline["turn_real"]),
            "brier_of_base_rate": round(base * (1 - base), 6),
            "methods": {
                name: {
                    "brier": _interval(x["turn_brier"]),
                    "forecast": _interval(x["turn_forecast"]),
                    "brier_minus_persistence": _interval(x["turn_brier"] - baseline["turn_brier"]),
                }
                for name, x in own.items()
            },
        },
    }


def _show(x: Mapping[str, float], digits: int = 4, sign: str = "") -> str:
    form = f"{sign}.{digits}f"
    return f"{x['mean']:{form}} [{x['low']:{form}}, {x['high']:{form}}]"


def _verdict(result: Mapping[str, Any]) -> list[str]:
    """What the figures say, in words."""
    first = next(iter(BANDS))
    rows = {n: r for n, r in result["rows"].items() if n.endswith(f", {first}")}
    lines = []
    for name, row in rows.items():
        half, most = row["coverage"]["0.5"], row["coverage"]["0.9"]
        lines.append(
            f"{name}: bands of 50% hold {100 * half['mean']:.0f}% and bands of 90% hold "
            f"{100 * most['mean']:.0f}% of what was observed; CRPS {_show(row['crps'])}."
        )
        gap = result["crps_minus_persistence"].get(name)
        if gap is not None:
            clear = gap["low"] > 0 or gap["high"] < 0
            lines[-1] += (
                f" Against {PERSISTENCE} with the same bands {_show(gap, sign='+')} "
                f"({_word(clear)})."
            )
    turns = result["turns"]
    for name, row in turns["methods"].items():
        gap = row["brier_minus_persistence"]
        if name != PERSISTENCE:
            clear = gap["low"] > 0 or gap["high"] < 0
            lines.append(
                f"Turning points by {name}: Brier score {_show(row['brier'])}, against "
                f"{PERSISTENCE} {_show(gap, sign='+')} ({_word(clear)}); always saying the "
                f"base rate has {turns['brier_of_base_rate']:.4f}."
            )
    return lines


def _word(clear: bool) -> str:
    return "clear" if clear else "not clear: the interval includes 0"


def _markdown(result: Mapping[str, Any], title: str) -> str:
    """The result as a document."""
    settings, cases, turns = result["settings"], result["cases"], result["turns"]
    rows = result["rows"]
    windows = len(next(iter(rows.values()))["crps_by_window"])
    backbone = ", ".join(f"{k} {v}" for k, v in sorted(result["backbone"].items()))
    percent = [f"{100 * level:.0f}%" for level in LEVELS]
    return "\n".join(
        [
            "# Calibration of forecasts",
            "",
            *[f"- {line}" for line in _verdict(result)],
            "",
            f"![reliability and PIT]({title}.png)",
            "",
            f"Forecasts of the label shares in {windows} windows of {settings['window']} reactions "
            f"that do not overlap, after a warm-up of {settings['warmup']}; {settings['seeds']} "
            f"seeds, {cases['count']} events, all dimensions alike. `seeds`: the frequencies of "
            f"the seeds' own windows; `smoothed`: a Dirichlet-multinomial fitted to them by "
            f"moments, with {settings['excess']:g} added to its overdispersion"
            + (" (`excess X`: with X)" if any("excess" in name for name in rows) else "")
            + ". Brackets: 95% bootstrap interval over events.",
            "",
            "## Coverage of central bands",
            "",
            "Part of the observed shares inside the central band of each level. A share is a "
            "count, whose place among the forecast's probabilities is a stretch; the part of the "
            "stretch inside counts, so a forecast that is right has the level itself.",
            "",
            f"| | {' | '.join(percent)} |",
            "|---|" + "---|" * len(percent),
            *(
                f"| {name} | "
                + " | ".join(f"{100 * x['mean']:.1f}" for x in row["coverage"].values())
                + " |"
                for name, row in rows.items()
            ),
            "",
            "With intervals, and of the bands as they are drawn (they end at whole reactions, so "
            "that more than the level is expected inside):",
            "",
            "| | 50% | 90% | inside the drawn 50% (expected) | inside the drawn 90% (expected) |",
            "|---|---|---|---|---|",
            *(
                f"| {name} | {_show(row['coverage']['0.5'], 3)} | "
                + _show(row["coverage"]["0.9"], 3)
                + "".join(
                    f" | {100 * x['mean']:.1f}% ({100 * x['expected']:.1f}%)"
                    for x in row["inside"].values()
                )
                + " |"
                for name, row in rows.items()
            ),
            "",
            "## Proper scores",
            "",
            "In shares; lower is better. The pinball loss is the mean of nine quantiles, the "
            "interval score that of the 90% band.",
            "",
            "| | CRPS | CRPS minus persistence | pinball | interval score | CRPS by window |",
            "|---|---|---|---|---|---|",
            *(
                f"| {name} | {_show(row['crps'])} | "
                + (
                    _show(result["crps_minus_persistence"][name], sign="+")
                    if name in result["crps_minus_persistence"]
                    else "–"
                )
                + f" | {_show(row['pinball'])} | {_show(row['interval_score'], 3)} | "
                + ", ".join(f"{x:.4f}" for x in row["crps_by_window"])
                + " |"
                for name, row in rows.items()
            ),
            "",
            "The second column compares all with persistence with smoothed bands.",
            "",
            "## Probability integral transform",
            "",
            "Part of the observations in each tenth of the forecast; flat (10%) where forecasts "
            "are right, heaped at both ends where bands are too narrow.",
            "",
            f"| | {' | '.join(f'{k + 1}' for k in range(_BINS))} |",
            "|---|" + "---|" * _BINS,
            *(
                f"| {name} | " + " | ".join(f"{100 * x:.1f}" for x in row["pit"]) + " |"
                for name, row in rows.items()
            ),
            "",
            "## Turning points",
            "",
            f"A label's share turns if it moves by {100 * settings['turn']:g} points there and "
            f"back after the warm-up. It really did in {_show(turns['real'], 3)} of the cases; "
            f"always saying so much has a Brier score of {turns['brier_of_base_rate']:.4f}. Where "
            f"a method chooses reactions jointly (`+cal`), each step's are drawn once more with "
            f"replacement for this, since their shares hold too little sampling noise.",
            "",
            "| | Brier score | minus persistence | mean forecast |",
            "|---|---|---|---|",
            *(
                f"| {name} | {_show(row['brier'])} | "
                f"{_show(row['brier_minus_persistence'], sign='+')} | {_show(row['forecast'], 3)} |"
                for name, row in turns["methods"].items()
            ),
            "",
            "## How it was measured",
            "",
            f"- Data: `{result['data']['file']}`, SHA-256 `{result['data']['sha256'][:16]}…`; "
            f"{cases['count']} events with at least {cases['min_posts']} posts"
            + ("" if cases["half"] is None else f", {cases['half']} half")
            + f", list SHA-256 `{cases['sha256'][:16]}…`",
            f"- Backbone: {backbone}",
            f"- Methods: {', '.join(result['methods'])}",
            f"- Annotator: {result['annotator']}; sampling: {settings['sampling']}; batch "
            f"{settings['batch']}; seeds 0 to {settings['seeds'] - 1}",
            f"- {result['decisions']:,} decisions in {result['seconds']:,.0f} s on "
            f"{result['machine']}",
            "",
            "```",
            result["command"],
            "```",
            "",
        ]
    )


# -- the picture ---------------------------------------------------------------------------------


def _check_picture() -> None:
    """Complain before the simulations, not after them."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("reports", "mfenv bench calibration") from error


def _picture(result: Mapping[str, Any], path: Path) -> None:
    """Reliability curves of all methods, and the PIT histogram of each."""
    from matplotlib.figure import Figure

    first, *others = BANDS
    methods = [n.removesuffix(f", {first}") for n in result["rows"] if n.endswith(f", {first}")]
    figure = Figure(figsize=(3.1 * (len(methods) + 1) + 0.6, 3.3), layout="constrained")
    axes = figure.subplots(1, len(methods) + 1)
    top = 1.05 * max(
        max(result["rows"][f"{m}, {bands}"]["pit"]) for m in methods for bands in BANDS
    )
    axes[0].plot([0, 1], [0, 1], color="0.7", lw=1)
    for i, method in enumerate(methods):
        rows = {bands: result["rows"][f"{method}, {bands}"] for bands in BANDS}
        curve = list(rows[first]["coverage"].values())
        mean = [x["mean"] for x in curve]
        spread = [[x["mean"] - x["low"] for x in curve], [x["high"] - x["mean"] for x in curve]]
        colour = f"C{i}"
        axes[0].errorbar(LEVELS, mean, spread, fmt="o-", ms=3, lw=1.4, color=colour, label=method)
        for bands in others:
            plain = [x["mean"] for x in rows[bands]["coverage"].values()]
            axes[0].plot(LEVELS, plain, ":", lw=1.4, color=colour)
        axis = axes[i + 1]
        edges = np.arange(_BINS) / _BINS
        axis.bar(edges, rows[first]["pit"], 1 / _BINS, align="edge", color=colour, alpha=0.55)
        for bands in others:
            axis.step([*edges, 1], [*rows[bands]["pit"], rows[bands]["pit"][-1]],
                      where="post", color=colour, ls=":", lw=1.4)  # fmt: skip
        axis.axhline(1 / _BINS, color="0.4", lw=1)
        axis.set_title(f"PIT: {method}", fontsize=10)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, top)
    axes[0].set_title("coverage of central bands", fontsize=10)
    axes[0].set_xlabel(f"level (solid: {first}, dotted: {', '.join(others)})", fontsize=8)
    axes[0].set_ylabel("observed inside", fontsize=8)
    axes[0].legend(fontsize=8)
    for axis in axes:
        axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(
        script(cast(Command, sys.modules[__name__]), "python -m benchmarks.forecast_calibration")
    )
