"""``mfenv bench cost``: what a population will take, from a machine that was measured.

A run is counted in units (:class:`Work`): calls, forward passes, requests, tokens read and written.
A :class:`Machine` is what each unit takes, fitted to some short runs; a prediction for another
population is a product. ``--check`` plays further settings and compares.

The unit of time for a local model is CPU time of this process: on a shared machine it is what a run
needs, and wall time is what the others leave of it. For a served model it is wall time at the
concurrency of the settings, or, with ``--server-pid``, CPU time of a server on this machine.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fidelity.machine import machine
from benchmarks.throughput.prices import Prices, add_prices
from benchmarks.throughput.workload import (
    Phase,
    Recorder,
    Workload,
    by_characters,
    counted,
    expected_longest,
    playback,
)
from mfenv.cli import integer
from mfenv.dynamics.assemble import AUTO, build_annotator, build_backbone, check_names
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, advance, warm_up
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.load import load_events
from mfenv.events.synthetic.generator import SyntheticSociety

__all__ = ["HELP", "Machine", "Run", "Work", "add_arguments", "fit_machine", "run", "work_of"]

HELP = "what a population will take: tokens, time, cost, from short measured runs"

_SOCIETY = 9  # of no shipped model's training
_ROWS = 256  # of a local batch
# (worlds, agents a step) of the runs that a machine is fitted to, and of those that check it.
_FITTED = ((1, 4), (1, 24), (4, 8), (8, 16), (12, 4))
_CHECKED = ((2, 16), (6, 8), (3, 24), (10, 12))
_FITTED_SERVED = ((1, 4), (2, 8), (4, 2))
_CHECKED_SERVED = ((1, 10), (3, 4))
_TICKS = 100.0  # of /proc/PID/stat in a second, on Linux

Floats = NDArray[np.float64]


# -- the model -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """What a run asks of a machine, in units that each take their time."""

    calls: float
    """Calls of the model: two a step of all worlds together (0 for a served one)."""
    passes: float
    """Forward passes of a batch: as many as its longest answer has tokens (0 for a served one)."""
    requests: float
    """Actions and summaries."""
    read: float
    """Prompt tokens that no cache had."""
    written: float
    """Tokens of answers."""

    def values(self) -> Floats:
        """``(5,)`` the units in their order."""
        return np.array([getattr(self, f.name) for f in fields(self)], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Machine:
    """Seconds that each unit of :class:`Work` takes."""

    seconds: tuple[float, ...]
    unit: str
    """What kind of seconds: of CPU time, or of wall time."""

    def predict(self, work: Work) -> float:
        """Seconds of a run."""
        return float(np.dot(self.seconds, work.values()))


def fit_machine(works: Sequence[Work], seconds: Sequence[float], unit: str) -> Machine:
    """Least squares of relative errors, no unit below 0 seconds.

    By cyclic coordinate descent, which for this convex problem ends at the optimum. Raises
    ``MfenvError`` for fewer than two runs.
    """
    if len(works) < 2:
        raise MfenvError("a machine is fitted to at least two runs")
    a = np.stack([w.values() for w in works]) / np.asarray(seconds)[:, None]
    scale = np.where(a.max(axis=0) > 0, a.max(axis=0), 1.0)
    a = a / scale
    x = np.zeros(a.shape[1])
    square = (a**2).sum(axis=0)
    for _ in range(20_000):
        before = x.copy()
        for j in np.flatnonzero(square):
            rest = 1.0 - a @ x + a[:, j] * x[j]
            x[j] = max(0.0, float(a[:, j] @ rest) / square[j])
        if np.abs(x - before).max() < 1e-12:
            break
    return Machine(tuple(float(v) for v in x / scale), unit)


def work_of(workload: Workload, *, worlds: int, steps: int, served: bool = False) -> Work:
    """The work of ``steps`` steps of ``worlds`` worlds together, whose requests are as given.

    A batch of a local model goes on until its longest answer has ended: the expected longest of so
    many draws from the lengths that were seen.
    """
    act, summary, n = workload.act, workload.summary, workload.batch

    def passes(phase: Phase, rows: int) -> float:
        batches = math.ceil(rows / _ROWS)
        return batches * expected_longest(phase.written, math.ceil(rows / batches))

    def mean(phase: Phase, values: Any) -> float:
        return float(values.sum()) / len(phase.prompt)

    rows = worlds * n
    return Work(
        calls=0.0 if served else 2.0 * steps,
        passes=0.0 if served else steps * (passes(act, rows) + passes(summary, worlds)),
        requests=float(steps * (rows + worlds)),
        read=steps
        * (
            rows * mean(act, act.prompt - act.known)
            + worlds * mean(summary, summary.prompt - summary.known)
        ),
        written=steps * (rows * mean(act, act.written) + worlds * mean(summary, summary.written)),
    )


# -- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """A measured run."""

    worlds: int
    batch: int
    steps: int
    seconds: float
    workload: Workload
    reused: float | None
    """Share of the prompt tokens that a local model really did not read again."""


def _clock(pid: int | None, served: bool) -> tuple[Callable[[], float], str]:
    if pid is not None:
        return lambda: _cpu_of(pid), "CPU seconds of the server"
    if served:
        return time.monotonic, "seconds"
    return time.process_time, "CPU seconds of this process"


def _cpu_of(pid: int) -> float:
    try:
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        raise MfenvError(
            f"--server-pid {pid}: there is no such process here, or its CPU time cannot be read"
        ) from None
    return (int(parts[11]) + int(parts[12])) / _TICKS


def measure_run(
    backbone: Any, events: Sequence[Event], *, batch: int, steps: int, clock: Callable[[], float]
) -> Run:
    """Play ``steps`` rollout steps of all events together, behind one that warms up."""
    from agents.methods import mf

    recorder: Any = Recorder(backbone)
    pair = mf(recorder)
    settings = ProcessSettings(batch * (steps + 2), batch, batch)
    judge = build_annotator(AUTO, events[0])
    processes = [MeanFieldProcess(pair.policy, pair.mean_field, judge, settings) for _ in events]
    for k, (process, event) in enumerate(zip(processes, events, strict=True)):
        process.begin(event, k)
    warm_up(processes)
    advance(processes)
    recorder.calls.clear()
    usage = getattr(backbone, "usage", None)
    before = (usage.prompt_tokens, usage.reused_tokens) if usage else (0, 0)
    begun = clock()
    for _ in range(steps):
        advance(processes)
    seconds = clock() - begun
    reused = None
    if usage:
        read = usage.prompt_tokens - before[0]
        reused = (usage.reused_tokens - before[1]) / max(1, read)
    workload = counted(recorder.calls, batch, getattr(backbone, "prompt_ids", None))
    return Run(len(events), batch, steps, seconds, workload, reused)


def expected_workload(
    backbone: Any, runs: Sequence[Run], events: Sequence[Event], *, batch: int, steps: int
) -> Workload:
    """What a setting that was not played will ask.

    Prompts are those of :func:`~benchmarks.throughput.workload.playback`, answers as long as the
    model's own in ``runs``. A served model's tokens stand to our count as they did there.
    """
    encode = getattr(backbone, "prompt_ids", None)
    shown = playback(backbone.prompts, encode or by_characters(4), events, batch=batch, steps=steps)
    acts = np.concatenate([r.workload.act.written for r in runs])
    summaries = np.concatenate([r.workload.summary.written for r in runs])
    ratio = 1.0
    if encode is None:
        ours = [
            playback(backbone.prompts, by_characters(4), events, batch=r.batch, steps=r.steps)
            for r in runs
        ]
        ratio = float(np.mean([r.workload.act.prompt.mean() for r in runs])) / float(
            np.mean([w.act.prompt.mean() for w in ours])
        )

    def phase(of: Phase, written: Any) -> Phase:
        prompt = np.round(of.prompt * ratio).astype(np.int64)
        return Phase(prompt, np.round(of.known * ratio).astype(np.int64), written)

    return Workload(phase(shown.act, acts), phase(shown.summary, summaries), batch)


# -- the command ---------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mfenv bench cost``."""
    add = parser.add_argument
    add("--backbone", default="embedded-en-xs", metavar="NAME", help="(%(default)s)")
    add("--data", type=Path, metavar="FILE", help="events; none: the synthetic society")
    add("--population", type=integer(1), default=300, metavar="N", help="reactions of an event")
    add("--events", type=integer(1), default=30, metavar="K", help="(%(default)s)")
    add("--seeds", type=integer(1), default=5, metavar="K", help="(%(default)s)")
    add("--batch", type=integer(1), default=16, metavar="n", help="agents a step (%(default)s)")
    add("--worlds", type=integer(1), default=32, metavar="W", help="together (%(default)s)")
    add("--steps", type=integer(1), default=2, metavar="T", help="measured (%(default)s)")
    add("--rounds", type=integer(1), default=2, metavar="R", help="of all runs (%(default)s)")
    add("--check", action="store_true", help="play settings that were not fitted, and compare")
    add("--server-pid", type=integer(1), metavar="PID", help="count CPU time of this server")
    add_prices(parser)
    add("--out", type=Path, metavar="DIR", help="also write cost-BACKBONE.json and .md there")
    add("--json", action="store_true", help="print JSON only")


def run(args: argparse.Namespace) -> int:
    """Measure, fit, predict; check if asked to."""
    check_names(backbone=args.backbone, method="mf", annotator=AUTO)
    prices = Prices.of(args)
    backbone = build_backbone(args.backbone)
    served = not hasattr(backbone, "usage")
    if served:
        from agents.backbones.served import ServedBackbone

        if not isinstance(backbone, ServedBackbone):
            raise MfenvError(f"backbone {args.backbone!r} counts no tokens; allowed: hf, openai")
        # What is measured must be asked for.
        urls = ",".join(backbone.servers)
        backbone = ServedBackbone(backbone.model, urls, use_cache=False)
    clock, unit = _clock(args.server_pid, served)
    fitted = list(_FITTED_SERVED if served else _FITTED)
    checked = list(_CHECKED_SERVED if served else _CHECKED) if args.check else []
    most = max(n for _, n in (*fitted, *checked, (0, args.batch)))
    events = _events(args.data, max(w for w, _ in (*fitted, *checked)), most * (args.steps + 2) + 1)

    def played(worlds: int, batch: int) -> Run:
        some = events[:worlds]
        return measure_run(backbone, some, batch=batch, steps=args.steps, clock=clock)

    played(1, 2)  # what is only loaded once is no part of it
    rounds = [{s: played(*s) for s in (*fitted, *checked)} for _ in range(args.rounds)]
    runs = [r[s] for r in rounds for s in fitted]
    works = [work_of(r.workload, worlds=r.worlds, steps=r.steps, served=served) for r in runs]
    of_machine = fit_machine(works, [r.seconds for r in runs], unit)

    def predicted(worlds: int, batch: int, steps: int) -> tuple[float, Workload]:
        # With the number of steps that was measured, scaled: a mean field soon has its length.
        some = events[: min(8, len(events))]
        workload = expected_workload(backbone, runs, some, batch=batch, steps=args.steps)
        work = work_of(workload, worlds=worlds, steps=steps, served=served)
        return of_machine.predict(work), workload

    checks = []
    for setting in checked:
        found = float(np.median([r[setting].seconds for r in rounds]))
        said, workload = predicted(*setting, args.steps)
        seen = rounds[0][setting].workload
        checks.append(
            {
                "worlds": setting[0],
                "batch": setting[1],
                "measured": found,
                "spread": [
                    min(r[setting].seconds for r in rounds),
                    max(r[setting].seconds for r in rounds),
                ],
                "predicted": said,
                "error": said / found - 1,
                "prompt_tokens": [seen.prompt_tokens, workload.prompt_tokens],
                "hit_rate": [rounds[0][setting].reused, workload.hit_rate],
            }
        )
    steps = math.ceil(args.population / args.batch)
    tasks = args.events * args.seeds
    worlds = min(args.worlds, tasks)
    seconds, workload = predicted(worlds, args.batch, steps)
    seconds *= tasks / worlds
    decisions = args.population * tasks
    result: dict[str, Any] = {
        "backbone": _described(backbone, served),
        "machine": machine(),
        "unit": unit,
        "seconds_per_unit": dict(
            zip([f.name for f in fields(Work)], of_machine.seconds, strict=True)
        ),
        "population": args.population,
        "events": args.events,
        "seeds": args.seeds,
        "batch": args.batch,
        "worlds": worlds,
        "decisions": decisions,
        "prompt_tokens_a_decision": workload.prompt_tokens,
        "written_tokens_a_decision": _written(workload),
        "prefix_hit_rate": {
            "act": workload.act.hit_rate,
            "summary": workload.summary.hit_rate,
            "all": workload.hit_rate,
        },
        "summaries_share_of_written": _summaries_share(workload),
        "prompt_tokens": round(decisions * workload.prompt_tokens),
        "written_tokens": round(decisions * _written(workload)),
        "seconds": seconds,
        "checks": checks,
    }
    result["cost"] = prices.cost(result["prompt_tokens"], result["written_tokens"])
    text = _markdown(result, args)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        name = args.backbone if not served else f"served-{Path(backbone.model).name}"
        stem = "cost-" + "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
        (args.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / f"{stem}.md").write_text(text, encoding="utf-8")
    print(json.dumps(result) if args.json else text)
    return 0


def _described(backbone: Any, served: bool) -> dict[str, str]:
    """What identifies the model, without the folders and addresses of one's own servers."""
    described: dict[str, str] = backbone.describe()
    if not served:
        return described
    name = f"{Path(backbone.model).name} behind a server"
    return {"name": name, **{k: described[k] for k in ("prompts", "left_out") if k in described}}


def _written(workload: Workload) -> float:
    """Tokens written a decision, where the lengths are those of other runs."""
    return float(workload.act.written.mean() + workload.summary.written.mean() / workload.batch)


def _summaries_share(workload: Workload) -> float:
    return float(workload.summary.written.mean() / workload.batch) / _written(workload)


def _events(data: Path | None, count: int, posts: int) -> list[Event]:
    if data is None:
        return list(SyntheticSociety(_SOCIETY).events(count, n_posts=posts))
    long = [e for e in load_events(data) if len(e.posts) >= posts]
    if len(long) < count:
        raise MfenvError(f"{data}: {len(long)} events have {posts} posts, {count} are needed")
    return long[:count]


def _markdown(result: dict[str, Any], args: argparse.Namespace) -> str:
    backbone = ", ".join(f"{k} {v}" for k, v in sorted(result["backbone"].items()))
    hit = result["prefix_hit_rate"]
    lines = [
        "# Cost model",
        "",
        f"Backbone: {backbone}. Machine: {result['machine']}. Time is {result['unit']}.",
        "",
        f"- {result['events']} events × {result['seeds']} seeds × {result['population']} "
        f"reactions, {result['batch']} agents a step, {result['worlds']} worlds together: "
        f"{result['decisions']:,} decisions",
        f"- tokens a decision: {result['prompt_tokens_a_decision']:.0f} read, "
        f"{result['written_tokens_a_decision']:.1f} written; of the written ones "
        f"{result['summaries_share_of_written']:.0%} are mean fields",
        f"- prefix-hit rate: actions {hit['act']:.0%}, mean fields {hit['summary']:.0%}, "
        f"all {hit['all']:.0%}",
        f"- predicted: {result['seconds']:,.0f} {result['unit']}"
        + ("" if result["cost"] is None else f", cost {result['cost']:,.2f}"),
        "",
    ]
    if result["checks"]:
        lines += [
            "| worlds | agents a step | measured | spread | predicted | error |",
            "|---|---|---|---|---|---|",
        ]
        for c in result["checks"]:
            low, high = c["spread"]
            lines.append(
                f"| {c['worlds']} | {c['batch']} | {c['measured']:.2f} | [{low:.2f}, {high:.2f}] | "
                f"{c['predicted']:.2f} | {c['error']:+.0%} |"
            )
        lines.append("")
    each = ", ".join(f"{k} {1000 * v:.3g} ms" for k, v in result["seconds_per_unit"].items())
    lines += [f"Fitted: {each}.", ""]
    more = "" if args.data is None else " --data FILE"
    name = "openai:MODEL@BASE_URL" if "openai:" in args.backbone else args.backbone
    pid = "" if args.server_pid is None else " --server-pid PID"
    lines += [
        "```",
        f"mfenv bench cost --backbone {name}{more} --population {args.population} --events "
        f"{args.events} --seeds {args.seeds} --batch {args.batch} --worlds {args.worlds} --steps "
        f"{args.steps} --rounds {args.rounds}{pid}{' --check' if args.check else ''}",
        "```",
        "",
    ]
    return "\n".join(lines)
