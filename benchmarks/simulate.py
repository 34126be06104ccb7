"""``mfenv simulate``: a population's reactions to an event, beside what the real people did.

Several events are several tasks (:mod:`benchmarks.simulate_events`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import mfenv
from agents.opinions import DEFAULT, build_opinions
from benchmarks.compare import Comparison, Difference, compare, difference
from benchmarks.executors import add_executor_arguments, where_of
from benchmarks.metrics import Interval
from benchmarks.report import Effect, Method, Report, Samples, render
from mfenv import plugins
from mfenv.cli import integer
from mfenv.dynamics.assemble import (
    AUTO,
    backbone_identity,
    build_annotator,
    build_backbone,
    calibration_of,
    check_names,
    make_method,
    method_names,
    opinions_of_method,
)
from mfenv.dynamics.calibration import Calibration
from mfenv.dynamics.journal import Journal, canonical, timings_path
from mfenv.dynamics.journal import run as run_journals
from mfenv.dynamics.models import Annotator, MeanFieldModel, PolicyModel
from mfenv.dynamics.opinions import OpinionModel
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, real_rollout
from mfenv.dynamics.records import StepRecord
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.load import load_events
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.interventions import INTENSITIES, KINDS, NONE, Intervention, Kind
from mfenv.labels import DIMENSIONS, NAMES

__all__ = [
    "DEFAULT_EVENT",
    "HELP",
    "LEAST",
    "SAMPLINGS",
    "Pair",
    "Simulation",
    "add_arguments",
    "add_event_arguments",
    "build_methods",
    "chosen_event",
    "chosen_methods",
    "command_of",
    "command_words",
    "files_of",
    "folder_name",
    "one_line",
    "progress",
    "run",
    "sampling_parameters",
    "settings_of",
    "simulate",
    "simulate_and_report",
    "simulation_of",
    "write_file",
]

HELP = "simulate a population's reactions to an event and compare them with the real ones"

Run = Sequence[StepRecord]

_SAMPLING_TEXT = {
    "ancestral": "ancestral (temperature 1, nothing cut off)",
    "paper": "paper (MF-LLM's truncated sampling)",
    "greedy": "greedy (temperature 0, the likeliest token each time)",
}
SAMPLINGS = tuple(_SAMPLING_TEXT)
DEFAULT_EVENT = "synthetic-9-0"
"""What is simulated where no event is named; of a society that no shipped model was trained on."""

LEAST = 3
"""People who have to be left after the warm-up: as many as there are windows."""

_TELLING = (
    "belief/doubt",
    "rumor/counter",
    "stance/support",
    "stance/oppose",
    "behavior/share",
    "sentiment_state/angry",
)
_SAMPLE_STEPS, _SAMPLE_AGENTS = 5, 5
_MEAN_FIELDS = 200  # that a report shows at most


def add_event_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Declare what is played: the event (or ``several``), the models, the annotator."""
    add = parser.add_argument
    add(
        "events",
        nargs="?",
        type=Path,
        metavar="EVENTS",
        help=".parquet, .jsonl, .csv or .tsv file or rumdect folder (default: a synthetic event)",
    )
    which = "which event (synthetic: synthetic-SEED-INDEX)"
    if several:
        add("--event", action="append", metavar="ID", help=f"{which}; can be repeated")
    else:
        add("--event", metavar="ID", help=which)
    add("--backbone", default="embedded-en", metavar="NAME", help="language model (%(default)s)")
    add(
        "--method",
        action="append",
        metavar="NAME",
        help="mf, mf-counted, state, recent, popular, sft:DIR or mop:DIR (folders that mfenv train "
        "sft and mfenv train mop made), each also calibrated in the warm-up, as in mf+cal; repeat "
        "it or separate by commas (mf)",
    )
    add("--annotator", default=AUTO, metavar="NAME", help="what labels reactions (%(default)s)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_event_arguments(parser, several=True)
    add = parser.add_argument
    add("--all-events", action="store_true", help="every event of EVENTS that is long enough")
    add(
        "--agents",
        type=integer(1),
        default=300,
        metavar="N",
        help="people who react, warm-up included (%(default)s)",
    )
    add("--batch", type=integer(1), default=16, metavar="n", help="people in a step (%(default)s)")
    add(
        "--warmup",
        type=integer(0),
        default=50,
        metavar="T",
        help="people who react as they really did, at first (%(default)s)",
    )
    add("--seeds", type=integer(1), default=3, metavar="K", help="runs a method (%(default)s)")
    add("--seed", type=integer(0), default=0, metavar="S", help="the first seed (%(default)s)")
    add(
        "--sampling",
        choices=SAMPLINGS,
        default=SAMPLINGS[0],
        help="ancestral: temperature 1, nothing cut off; paper: MF-LLM's truncation; greedy: "
        "temperature 0 (%(default)s)",
    )
    add(
        "--intervention",
        action="append",
        default=[],
        type=_intervention,
        metavar="KIND/INTENSITY@STEP",
        help="also run the counterfactual with this done at a step after the warm-up (from 1); "
        f"kinds: {', '.join(KINDS)}; intensities: {', '.join(INTENSITIES)}; can be repeated",
    )
    add(
        "--opinions",
        metavar="FILE",
        help="everybody keeps an opinion over the run, moved by this model of mfenv train "
        f"opinions, or by the shipped one: {DEFAULT} (off)",
    )
    add(
        "--people",
        type=integer(1),
        metavar="P",
        help="so many people react again and again (synthetic events; off: everybody once)",
    )
    add("--out", type=Path, metavar="DIR", help="folder (default: runs/EVENT-SETTINGS)")
    add("--skip-bad", action="store_true", help="put malformed records aside and go on")
    add("--json", action="store_true", help="print JSON only")
    add_executor_arguments(parser)


def _intervention(text: str) -> tuple[int, Intervention]:
    """Parse ``KIND/INTENSITY@STEP`` as (rollout step from 1, intervention)."""
    match = re.fullmatch(r"([a-z_]+)/([a-z]+)@([0-9]{1,6})", text)
    if match is None or match[1] not in KINDS or match[2] not in INTENSITIES or match[3] == "0":
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; allowed: KIND/INTENSITY@STEP with KIND one of "
            f"{', '.join(KINDS)}; INTENSITY one of {', '.join(INTENSITIES)}; STEP 1 or more"
        )
    kind = Kind(KINDS.index(match[1]))
    return int(match[3]), Intervention(kind, INTENSITIES.index(match[2]))


@dataclass(frozen=True, slots=True)
class Simulation:
    """Everything that one command asks for."""

    event: Event
    backbone: str
    methods: tuple[str, ...]
    annotator: str = AUTO
    process: ProcessSettings = field(default_factory=ProcessSettings)
    seeds: tuple[int, ...] = (0, 1, 2)
    sampling: str = SAMPLINGS[0]
    schedule: tuple[tuple[int, Intervention], ...] = ()  # (rollout step from 1, intervention)
    opinions: str | None = None  # name of an opinion model

    @property
    def plan(self) -> str:
        """The schedule in words."""
        return ", ".join(
            f"{KINDS[u.kind]}/{INTENSITIES[u.intensity]} at step {step}"
            for step, u in self.schedule
            if u.kind is not None
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out; step records are listed by seed."""

    real: Run
    runs: Mapping[str, Sequence[Run]]
    changed: Mapping[str, Sequence[Run]]  # with the schedule; empty without one
    comparison: Comparison
    differences: Mapping[str, Difference]
    revision: str
    annotator: str
    learned: Mapping[str, str]  # method → hash of what it learned beside its backbone
    coverage: Mapping[str, float]  # method → share of its texts whose labels are exact
    seconds: float
    decisions: int  # actions that the policy model chose


def run(args: argparse.Namespace) -> int:
    """Simulate, compare, write the report."""
    from benchmarks import simulate_events as several

    where = where_of(args)
    names: list[str] | None = args.event
    if args.all_events or (names is not None and len(names) > 1):
        return several.run(args, where)
    args.event = None if names is None else names[0]
    simulation = simulation_of(args, chosen_event(args, args.agents, args.people))
    out: Path = args.out or Path("runs") / folder_name(simulation.event, settings_of(simulation))
    words = command_of(args)
    with where.alone(out), progress(args.json, "simulating") as advance:
        if not where.direct:
            several.play_elsewhere([several.Piece(simulation, words, ".")], out, where)
        outcome = simulate_and_report(simulation, out, words, advance)
    result = _result(simulation, outcome)
    if args.json:
        timed = {**result, "seconds": round(outcome.seconds, 3), "decisions": outcome.decisions}
        order = ("event", "backbone", "method", "seeds", "kl", "seconds", "decisions")
        extra = [key for key in timed if key not in order]
        print(json.dumps({key: timed[key] for key in (*order, *extra)}))
    else:
        _print(simulation, outcome, out)
    return 0


def simulate_and_report(
    simulation: Simulation,
    out: Path,
    command: str,
    on_step: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Simulate with journals in a folder, then write ``result.json`` and ``report.html`` there."""
    outcome = simulate(simulation, out, on_step)
    page = render(_report(simulation, outcome, command))
    write_file(out / "report.html", page)
    write_file(out / "result.json", json.dumps(_result(simulation, outcome), indent=2) + "\n")
    return outcome


# -- what is asked for -----------------------------------------------------------------------


def chosen_methods(args: argparse.Namespace) -> tuple[str, ...]:
    """The methods of ``--method``, checked with the backbone and the annotator."""
    methods = tuple(
        dict.fromkeys(
            name.strip()
            for text in args.method or ["mf"]
            for name in text.split(",")
            if name.strip()
        )
    )
    if not methods:
        known = ", ".join(plugins.names("mfenv.methods"))
        raise MfenvError(f"--method names no method; known: {known}")
    for method in methods:
        check_names(backbone=args.backbone, method=method, annotator=args.annotator)
    return methods


def simulation_of(args: argparse.Namespace, event: Event) -> Simulation:
    """What the arguments ask of an event. Raises ``MfenvError`` where it cannot be done."""
    methods = chosen_methods(args)
    steps = [step for step, _ in args.intervention]
    if len(set(steps)) < len(steps):
        raise MfenvError("--intervention: two interventions at one step; one a step is allowed")
    process = ProcessSettings(args.agents, args.batch, args.warmup)
    if args.opinions is not None:
        build_opinions(args.opinions)
    people = min(len(event.posts) - 1, process.agents)
    horizon = math.ceil((people - process.warmup) / process.batch)
    if people - process.warmup < LEAST:
        raise MfenvError(
            f"event {event.event_id}: {people} people react and {process.warmup} of them are the "
            f"warm-up; at least {LEAST} must be left to simulate (see --agents, --warmup)"
        )
    if steps and max(steps) > horizon:
        raise MfenvError(
            f"--intervention: step {max(steps)} is not allowed; allowed: 1 to {horizon}, the steps "
            f"after the warm-up of this event"
        )
    return Simulation(
        event=event,
        backbone=args.backbone,
        methods=methods,
        annotator=args.annotator,
        process=process,
        seeds=tuple(range(args.seed, args.seed + args.seeds)),
        sampling=args.sampling,
        schedule=tuple(sorted(args.intervention, key=lambda pair: pair[0])),
        opinions=args.opinions,
    )


def chosen_event(args: argparse.Namespace, reactions: int, people: int | None = None) -> Event:
    """The event of ``EVENTS`` and ``--event``; a synthetic one has so many reactions and people."""
    if args.events is None:
        name = DEFAULT_EVENT if args.event is None else args.event
        match = re.fullmatch(r"synthetic-([0-9]{1,9})-([0-9]{1,9})", name)
        if match is None:
            raise MfenvError(
                f"--event {name!r} is not allowed without a file of events; allowed: "
                f"synthetic-SEED-INDEX, for example {DEFAULT_EVENT}"
            )
        society = SyntheticSociety(int(match[1]))
        return society.event(int(match[2]), n_posts=reactions + 1, people=people)
    if people is not None:
        raise MfenvError("--people is for synthetic events; the people of a file are its authors")
    skip_bad: Path | bool | None = None
    if args.skip_bad:
        skip_bad = True if args.out is None else args.out / "quarantine.jsonl"
    wanted = None if args.event is None else [args.event]
    events = load_events(args.events, skip_bad=skip_bad, event_ids=wanted)
    if len(events) != 1:
        some = ", ".join(e.event_id for e in events[:3])
        raise MfenvError(
            f"{args.events}: holds {len(events)} events; choose one with --event"
            + (f", for example {some}" if some else "")
        )
    return events[0]


def folder_name(event: Event, settings: Mapping[str, Any]) -> str:
    """``EVENT-HASH`` of what is run: an id is untrusted, so it is only a name and never a path."""
    text = "\0".join([event.topic, *event.posts.texts])
    content = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    key = canonical({**settings, "content": content})
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", event.event_id)[:48].strip("_") or "event"
    return f"{name}-{hashlib.sha256(key).hexdigest()[:10]}"


def settings_of(simulation: Simulation) -> dict[str, Any]:
    """What names the folder of a simulation, beside its event's content."""
    opinions = {} if simulation.opinions is None else {"opinions": simulation.opinions}
    return {
        **opinions,
        "event": simulation.event.event_id,
        "backbone": backbone_identity(simulation.backbone),
        "methods": list(simulation.methods),
        "annotator": simulation.annotator,
        "agents": simulation.process.agents,
        "batch": simulation.process.batch,
        "warmup": simulation.process.warmup,
        "seeds": list(simulation.seeds),
        "sampling": simulation.sampling,
        "schedule": simulation.plan,
    }


def command_words(command: str, args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    """The command with the arguments of :func:`add_event_arguments` and the named ones, if set."""
    words = ["mfenv", command]
    if args.events is not None:
        words.append(str(args.events))
    if args.event is not None:
        words += ["--event", args.event]
    words += ["--backbone", args.backbone, "--method", ",".join(args.method or ["mf"])]
    for name in ("annotator", *names):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    return words


def command_of(args: argparse.Namespace) -> str:
    """The command that repeats this, wherever it writes."""
    names = ("agents", "batch", "warmup", "seeds", "seed", "sampling", "opinions", "people")
    words = command_words("simulate", args, names)
    for step, u in args.intervention:
        words += ["--intervention", f"{KINDS[u.kind]}/{INTENSITIES[u.intensity]}@{step}"]
    return shlex.join(words)


# -- the run -----------------------------------------------------------------------------------


def simulate(
    simulation: Simulation, folder: Path, on_step: Callable[[int, int], None] | None = None
) -> Outcome:
    """Run all methods and seeds in lockstep, journals in ``folder``; continues what is there.

    The counterfactual runs start from the journals of the plain ones: what happened before the
    first intervention is replayed, not simulated again, and the noise from there on is the same.
    ``on_step`` is told (steps done, steps in all).
    """
    event, first = simulation.event, simulation.schedule[0][0] if simulation.schedule else 0
    pairs = build_methods(simulation.methods, simulation.backbone, simulation.sampling)
    annotator = build_annotator(simulation.annotator, event)
    revision = build_backbone(simulation.backbone).describe().get("revision", "unknown")
    opinions = None if simulation.opinions is None else build_opinions(simulation.opinions)
    keys = [(method, seed) for method in pairs for seed in simulation.seeds]
    done = 0

    def begin() -> list[MeanFieldProcess]:
        processes = []
        for method, seed in keys:
            process = MeanFieldProcess(
                pairs[method].policy,
                pairs[method].mean_field,
                annotator,
                simulation.process,
                opinions or pairs[method].opinions,
                pairs[method].calibration,
            )
            process.begin(event, seed)
            processes.append(process)
        return processes

    processes = begin()
    prefix = processes[0].warmup_steps + first - 1
    steps = processes[0].total_steps
    total = len(keys) * (steps + (steps - prefix if simulation.schedule else 0))

    def tell(_: int, record: StepRecord) -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, total)

    def journal(stack: ExitStack, process: MeanFieldProcess, i: int, plan: str) -> Journal:
        method, seed = keys[i]
        settings = {
            **process.identity(),
            "backbone": backbone_identity(simulation.backbone),
            "revision": revision,
            "method": pairs[method].identity(method),
            "annotator": annotator.name,
            "sampling": sampling_parameters(simulation.sampling),
            "schedule": plan,
            # Which runs share a batch decides the last bits of a float.
            "together": [f"{m}/{s}" for m, s in keys],
        }
        path = folder / _journal_name(method, seed, bool(plan))
        return stack.enter_context(Journal(path, settings))

    with ExitStack() as stack:
        journals = [journal(stack, p, i, "") for i, p in enumerate(processes)]
        plain = run_journals(processes, journals, on_step=tell)
    changed: Sequence[Run] = []
    if simulation.schedule:
        actions = {processes[0].warmup_steps + step - 1: u for step, u in simulation.schedule}
        with ExitStack() as stack:
            branches = begin()
            journals = [journal(stack, p, i, simulation.plan) for i, p in enumerate(branches)]
            for branch, records in zip(journals, plain, strict=True):
                for record in records[len(branch.records) : prefix]:
                    branch.append(record)
            changed = run_journals(
                branches,
                journals,
                schedule=lambda _, process: actions.get(process.step_index, NONE),
                on_step=lambda i, r: tell(i, r) if r.step >= prefix else None,
            )
    runs, changed_runs = _by_method(keys, plain), _by_method(keys, changed)
    real = real_rollout(event, annotator, simulation.process)
    return Outcome(
        real=real,
        runs=runs,
        changed=changed_runs,
        comparison=compare(real, runs, simulation.seeds),
        differences={m: difference(runs[m], changed_runs[m], prefix) for m in changed_runs},
        revision=revision,
        annotator=annotator.name,
        learned={m: pair.revision for m, pair in pairs.items() if pair.revision},
        coverage=_coverage(runs, event, annotator),
        seconds=_seconds(folder / "journals", keys, bool(simulation.schedule)),
        decisions=sum(
            int((~record.planted).sum())
            for each in (*plain, *(run[prefix:] for run in changed))
            for record in each
            if not record.warmup
        ),
    )


def _journal_name(method: str, seed: int, changed: bool) -> Path:
    return Path("journals") / f"{method}-{seed}{'-changed' if changed else ''}.jsonl"


def files_of(simulation: Simulation) -> list[str]:
    """The files of a simulation, inside its folder."""
    journals = [
        _journal_name(method, seed, changed)
        for method in method_names(simulation.methods)
        for seed in simulation.seeds
        for changed in ((False, True) if simulation.schedule else (False,))
    ]
    paths = [path for journal in journals for path in (journal, timings_path(journal))]
    return [path.as_posix() for path in paths] + ["result.json", "report.html"]


@dataclass(frozen=True, slots=True)
class Pair:
    """The two models of a method, a hash of what it has learned, calibration and opinions."""

    policy: PolicyModel
    mean_field: MeanFieldModel
    revision: str = ""
    calibration: Calibration | None = None
    opinions: OpinionModel | None = None

    def identity(self, name: str) -> str:
        """The method's name with the hashes: what a run is only continued with."""
        learned = [self.revision, "" if self.opinions is None else self.opinions.revision]
        return "@".join([name, *filter(None, learned)])


def sampling_parameters(name: str) -> str:
    """Sampling by name, with its parameters: what a journal must have in common to go on."""
    from agents.backbones.sampling_parameters import preset

    return f"{name}: {preset(name)}"


def build_methods(methods: Sequence[str], backbone: str, sampling: str) -> dict[str, Pair]:
    """The methods on one backbone by their short names, with sampling parameters by name."""
    chosen = None
    if sampling != SAMPLINGS[0]:  # a backbone's own sampling is ancestral
        from agents.backbones.sampling_parameters import preset

        chosen = preset(sampling).policy
    made = build_backbone(backbone)
    result = {}
    for name, method in method_names(methods).items():
        pair = make_method(method, made, chosen)
        revision = getattr(pair, "revision", "")
        result[name] = Pair(
            pair.policy,
            pair.mean_field,
            revision,
            calibration_of(method),
            opinions_of_method(method),
        )
    return result


def _coverage(
    runs: Mapping[str, Sequence[Run]], event: Event, annotator: Annotator
) -> dict[str, float]:
    """Share of each method's simulated texts that an exact annotator could read; else empty."""
    read = getattr(annotator, "label_with_coverage", None)
    if read is None:
        return {}
    result = {}
    for method, each in runs.items():
        exact = n = 0
        for record in (r for run in each for r in run if not r.warmup):  # however long the runs
            k = len(record.texts)
            covered = read([event.topic] * k, list(record.texts), [event.language] * k)[1]
            exact, n = exact + int(covered.sum()), n + k
        result[method] = exact / n
    return result


def _by_method(keys: Sequence[tuple[str, int]], runs: Sequence[Run]) -> dict[str, list[Run]]:
    grouped: dict[str, list[Run]] = {}
    for (method, _), each in zip(keys, runs, strict=False):
        grouped.setdefault(method, []).append(each)
    return grouped


def _seconds(folder: Path, keys: Sequence[tuple[str, int]], changed: bool) -> float:
    """Seconds of model calls, earlier sessions of the same run included.

    All runs of a step share its calls, so the timings of one of them are those of all.
    """
    method, seed = keys[0]
    total = 0.0
    for suffix in ("", "-changed") if changed else ("",):
        path = folder / f"{method}-{seed}{suffix}.timings.jsonl"
        for line in path.read_text().splitlines():
            total += sum(json.loads(line)["seconds"].values())
    return total


@contextmanager
def progress(quiet: bool, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's standard error; nothing elsewhere."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def write_file(path: Path, text: str) -> None:
    """Write a file in one move, so that a reader never sees half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


# -- what came out -------------------------------------------------------------------------------


def _finite(x: float) -> float | None:
    return None if math.isnan(x) else round(float(x), 6)


def _json_interval(x: Interval) -> dict[str, float | None]:
    return {"mean": _finite(x.mean), "low": _finite(x.low), "high": _finite(x.high)}


def _result(simulation: Simulation, outcome: Outcome) -> dict[str, Any]:
    """The result as JSON values, timings apart."""
    comparison = outcome.comparison
    result: dict[str, Any] = {
        "event": simulation.event.event_id,
        "backbone": backbone_identity(simulation.backbone),
        "method": ",".join(method_names(simulation.methods)),
        "seeds": len(simulation.seeds),
        "kl": {
            score.name: {
                **_json_interval(score.kl),
                "per_dimension": {
                    d.name: _finite(x) for d, x in zip(DIMENSIONS, score.per_dimension, strict=True)
                },
            }
            for score in comparison.scores
        },
    }
    if outcome.learned:
        result["learned"] = dict(outcome.learned)
    if simulation.schedule:
        result["intervention"] = {
            "schedule": simulation.plan,
            "effect": {
                method: {
                    label: {
                        "without": _finite(d.without[i]),
                        "with": _finite(d.with_it[i]),
                        "difference": _json_interval(d.intervals[i]),
                    }
                    for i, label in enumerate(NAMES)
                }
                for method, d in outcome.differences.items()
            },
        }
    return result


def _print(simulation: Simulation, outcome: Outcome, out: Path) -> None:
    # Not on a terminal the width is fixed, so that the same command prints the same.
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    event, comparison = simulation.event, outcome.comparison
    scores = [*comparison.scores, comparison.floor]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("KL(real ‖ simulated), nats")
    for score in scores:
        table.add_column(score.name, justify="right")
    table.add_row("mean", *(f"{s.kl.mean:.4f}" for s in scores), style="bold")
    table.add_row(
        "95% interval over seeds",
        *("–" if math.isnan(s.kl.low) else f"{s.kl.low:.3f} to {s.kl.high:.3f}" for s in scores),
    )
    table.add_row("excess over the noise floor", *(f"{s.excess:.4f}" for s in scores))
    for d, dimension in enumerate(DIMENSIONS):
        table.add_row(f"  {dimension.name}", *(f"{s.per_dimension[d]:.4f}" for s in scores))
    people = sum(len(r.agents) for r in outcome.real)
    console.print(
        f"Event {one_line(event.event_id)} ({one_line(event.source) or 'unknown source'}), "
        f"{people} people, the first {min(simulation.process.warmup, people)} as they really "
        f"reacted; backbone {backbone_identity(simulation.backbone)} ({outcome.revision}), "
        f"{len(simulation.seeds)} seeds, {simulation.sampling} sampling",
        markup=False,
    )
    console.print(table)
    ranked = sorted(comparison.scores, key=lambda s: s.kl.mean)
    console.print(
        "Closest to the real population: "
        + ", then ".join(f"{s.name} {s.kl.mean:.4f}" for s in ranked),
        markup=False,
    )
    if outcome.coverage:
        console.print(
            f"Simulated texts with exact labels (the rest: classifier): {_coverage_text(outcome)}",
            markup=False,
        )
    for method, change in outcome.differences.items():
        console.print(
            f"{method}: {simulation.plan}, the same noise without and with it", markup=False
        )
        console.print(_effect_table(change))
    console.print(f"Report: {out / 'report.html'}", markup=False, soft_wrap=True)
    print(f"{outcome.decisions} decisions in {outcome.seconds:.1f} s", file=sys.stderr)


def _coverage_text(outcome: Outcome) -> str:
    return ", ".join(f"{method} {100 * x:.1f}%" for method, x in outcome.coverage.items())


def one_line(text: str) -> str:
    """Untrusted text for a terminal: one line without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)[:80]


def _effect_table(d: Difference) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("share of reactions", "without", "with", "difference (95% interval)"):
        table.add_column(name, justify="left" if name.startswith("share") else "right")
    for label in _TELLING:
        i = NAMES.index(label)
        x = d.intervals[i]
        span = "" if math.isnan(x.low) else f" ({100 * x.low:+.1f} to {100 * x.high:+.1f})"
        table.add_row(
            label.replace("/", ": "),
            f"{100 * d.without[i]:.1f}%",
            f"{100 * d.with_it[i]:.1f}%",
            f"{100 * x.mean:+.1f}{span}",
            style="bold" if x.excludes_zero else None,
        )
    return table


def _report(simulation: Simulation, outcome: Outcome, command: str) -> Report:
    event, real = simulation.event, outcome.real
    warmup = sum(r.warmup for r in real)
    shown = {m: runs[0] for m, runs in outcome.runs.items()}
    rollout = np.arange(warmup, len(real))
    chosen = rollout[
        np.unique(np.linspace(0, len(rollout) - 1, min(_SAMPLE_STEPS, len(rollout))).astype(int))
    ]
    facts = {
        "Data": {
            "event": event.event_id,
            "source": event.source or "unknown",
            "language": event.language,
            "label": event.label or "unknown",
            "domain": event.domain or "unknown",
            "posts": f"{len(event.posts):,}",
        },
        "Models": {
            "backbone": backbone_identity(simulation.backbone),
            "revision": outcome.revision,
            "methods": ", ".join(
                f"{m} ({outcome.learned[m]})" if m in outcome.learned else m for m in outcome.runs
            ),
            "annotator": outcome.annotator,
            **({"labels that are exact": _coverage_text(outcome)} if outcome.coverage else {}),
            "sampling": _SAMPLING_TEXT[simulation.sampling],
        },
        "Settings": {
            "people": str(sum(len(r.agents) for r in real)),
            "warm-up": str(sum(len(r.agents) for r in real if r.warmup)),
            "batch": str(simulation.process.batch),
            "steps": f"{len(real)}, {warmup} of them warm-up",
            "seeds": ", ".join(map(str, simulation.seeds)),
            "intervention": simulation.plan or "none",
            **({} if simulation.opinions is None else {"opinions": _opinions(simulation)}),
            "decisions": f"{outcome.decisions:,}",
            "mfenv": mfenv.__version__,
        },
    }
    return Report(
        title=f"Event {event.event_id}",
        topic=event.topic,
        language=event.language,
        warmup=warmup,
        real=np.stack([r.distribution for r in real]),
        methods=[
            Method(
                name=method,
                shares=_shares(runs),
                mean_fields=_mean_fields(runs[0], warmup),
            )
            for method, runs in outcome.runs.items()
        ],
        scores=outcome.comparison.scores,
        floor=outcome.comparison.floor,
        facts=facts,
        command=command,
        samples=[
            Samples(
                step=int(t),
                columns={
                    "real": list(real[t].texts[:_SAMPLE_AGENTS]),
                    **{m: list(run[t].texts[:_SAMPLE_AGENTS]) for m, run in shown.items()},
                },
            )
            for t in chosen
        ],
        effects=[
            Effect(
                method=method,
                name=simulation.plan,
                step=simulation.schedule[0][0] - 1,
                labels=_TELLING,
                without=[float(d.without[NAMES.index(x)]) for x in _TELLING],
                with_it=[float(d.with_it[NAMES.index(x)]) for x in _TELLING],
                difference=[d.intervals[NAMES.index(x)] for x in _TELLING],
                shares=_shares(outcome.changed[method]),
            )
            for method, d in outcome.differences.items()
        ],
    )


def _opinions(simulation: Simulation) -> str:
    name = simulation.opinions or ""
    return f"{Path(name).name} ({build_opinions(name).revision})"


def _mean_fields(run: Run, warmup: int) -> list[tuple[int, str]]:
    """The mean fields from the end of the warm-up on; of a long run some, evenly spread."""
    steps = range(max(warmup - 1, 0), len(run))
    if len(steps) > _MEAN_FIELDS:
        chosen = np.linspace(0, len(steps) - 1, _MEAN_FIELDS).round().astype(int)
        return [(steps[i], run[steps[i]].mean_field) for i in chosen]
    return [(r.step, r.mean_field) for r in run if r.step in steps]


def _shares(runs: Sequence[Run]) -> Any:
    """Label shares ``(seeds, rollout steps, 23)``."""
    return np.stack([[r.distribution for r in run if not r.warmup] for run in runs])
