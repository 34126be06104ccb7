"""``mfenv bench fidelity``: play a track, write an entry, and print what its journals say.

Two things are measured on the same reactions after the warm-up. *Rollout*: the KL of each method
to the real population, beside persistence and the noise floor. *Teacher-forced*: the negative
log-likelihood of the real actions, with the mean field that real actions led to. A killed run
continues.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mfenv
from agents.prompts.fingerprint import prompts_digest
from benchmarks.executors import add_executor_arguments, where_of
from benchmarks.executors.schedule import duration
from benchmarks.fidelity.cases import HALVES, Case, digest, list_digest
from benchmarks.fidelity.conditions import CORE, STUDIES, Condition, conditions
from benchmarks.fidelity.distribute import grid_files, grid_of, grid_tasks
from benchmarks.fidelity.diversity import diversity
from benchmarks.fidelity.entry import (
    CaseFacts,
    ConditionFacts,
    Manifest,
    Usage,
    Verdict,
    load_entry,
    text_folder,
    write_entry,
)
from benchmarks.fidelity.judges import relabelled
from benchmarks.fidelity.machine import machine
from benchmarks.fidelity.measure import (
    Plan,
    likelihoods,
    no_likelihoods,
    played,
    real_labels,
    rollouts,
    seconds,
)
from benchmarks.fidelity.scores import score
from benchmarks.fidelity.tables import markdown
from benchmarks.fidelity.tracks import HORIZON, SPLITS, TRACKS, Chosen, Track, choose
from benchmarks.simulate import SAMPLINGS, build_methods, sampling_parameters
from mfenv.cli import integer
from mfenv.dynamics.assemble import (
    AUTO,
    build_annotator,
    build_backbone,
    check_names,
    method_names,
)
from mfenv.dynamics.journal import canonical
from mfenv.dynamics.models import Annotator
from mfenv.dynamics.records import StepRecord
from mfenv.errors import MfenvError
from mfenv.labels import Labels

__all__ = ["HELP", "Prepared", "add_arguments", "prepare", "run"]

HELP = "measure how close simulated populations come to real ones"

METHODS = "mf,mf-counted,mf-counted+cal,state,recent,popular"
"""The core grid's methods that need no training; those that do are added by their folders."""

SEEDS = 5
_QUICK_EVENTS, _QUICK_SEEDS, _QUICK_METHODS = 8, 2, "mf,mf-counted,state"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mfenv bench fidelity``."""
    declare_grid(parser)
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        metavar="ENTRY",
        help="folder of the entry, for a leaderboard (default: in the run's folder)",
    )
    add(
        "--run", dest="folder", type=Path, metavar="DIR", help="journals (default: runs/fidelity-…)"
    )
    add("--results", type=Path, metavar="DIR", help="write the tables there as well")
    add("--name", metavar="NAME", help="of the tables' files (default: TRACK-BACKBONE)")
    add_executor_arguments(parser)


def declare_grid(parser: argparse.ArgumentParser) -> None:
    """Declare what says which runs are wanted."""
    add = parser.add_argument
    what = "; ".join(f"{t.name}: {t.what}" for t in TRACKS.values())
    add("--track", choices=TRACKS, default="synthetic", help=f"{what} (%(default)s)")
    add(
        "--split",
        choices=SPLITS,
        default=SPLITS[0],
        help="choose settings on validation; test is for final figures (%(default)s)",
    )
    add(
        "--data",
        type=Path,
        metavar="PATH",
        help="file of events, or the folder with the track's files (synthetic: none needed)",
    )
    add("--events", type=integer(1), metavar="K", help="of the split's list (the track's own, 30)")
    add(
        "--min-posts",
        type=integer(4),
        metavar="N",
        help="only events with at least that many posts (the track's own)",
    )
    add(
        "--half",
        choices=HALVES,
        help="only from one half of the list, to choose settings on one and to confirm them on "
        "the other (all)",
    )
    add(
        "--backbone",
        metavar="NAME",
        help="language model; {event} stands for the stream that it was not trained on "
        "(the track's own)",
    )
    add(
        "--methods",
        metavar="NAMES",
        help="separated by commas; sft:DIR, mop:DIR and ib-tune:DIR are allowed too, and each with "
        f"the suffix +cal ({METHODS})",
    )
    add("--baseline", default="state", metavar="NAME", help="no mean field (%(default)s)")
    add("--annotator", default=AUTO, metavar="NAME", help="what labels reactions (%(default)s)")
    add(
        "--judge",
        action="append",
        default=[],
        metavar="NAME",
        help="a second annotator that everything is scored under as well, llm:… for example",
    )
    add("--warmup", type=integer(1), metavar="T", help="(the track's own, mostly 50)")
    add(
        "--horizon",
        type=integer(3),
        metavar="H",
        help=f"reactions (the track's own, mostly {HORIZON})",
    )
    add("--batch", type=integer(1), metavar="n", help="(the track's own, mostly 16)")
    add("--seeds", type=integer(1), metavar="K", help=f"({SEEDS})")
    add("--sampling", choices=SAMPLINGS, default=SAMPLINGS[0], help="(%(default)s)")
    add(
        "--studies",
        default="",
        metavar="NAMES",
        help=f"also change one thing at a time: {', '.join(STUDIES)}, by commas (none)",
    )
    add(
        "--study-methods",
        default="mf,state",
        metavar="NAMES",
        help="that the studies play; the forecasters are always there (%(default)s)",
    )
    add(
        "--no-likelihood",
        action="store_true",
        help="for served models that give no log-probabilities",
    )
    add(
        "--quick",
        action="store_true",
        help=f"{_QUICK_EVENTS} events, {_QUICK_SEEDS} seeds, {_QUICK_METHODS} where no other is "
        "given",
    )


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that a grid's arguments ask for, before anything is played."""

    track: Track
    split: str
    half: str | None
    chosen: Chosen
    plans: list[Plan]
    described: list[dict[str, str]]
    annotator: Annotator
    judges: list[Annotator]
    seeds: list[int]
    baseline: str
    likelihood: bool
    folder: Path


def prepare(args: argparse.Namespace, folder: Path | None = None) -> Prepared:
    """Check the arguments, read the events, load the models. ``MfenvError`` says what is wrong."""
    track = TRACKS[args.track]
    methods = _split(args.methods or (_QUICK_METHODS if args.quick else METHODS))
    study_methods = _split(args.study_methods)
    names = list(method_names(methods))
    if args.baseline not in names:
        raise MfenvError(f"--baseline {args.baseline!r} is none of --methods {', '.join(names)}")
    backbone = args.backbone or track.backbone
    for method in (*methods, *study_methods):
        for annotator_name in (args.annotator, *args.judge):
            check_names(backbone=backbone, method=method, annotator=annotator_name)
    core = Condition(
        CORE,
        tuple(methods),
        args.warmup or track.warmup,
        args.horizon or track.horizon,
        args.batch or track.batch,
        args.sampling,
    )
    grid = conditions(core, _split(args.studies), study_methods)
    chosen = choose(
        track,
        args.split,
        args.data,
        reactions=core.warmup + core.horizon,
        events=args.events or (_QUICK_EVENTS if args.quick and not track.streams else None),
        min_posts=args.min_posts,
        half=args.half,
    )
    cases = chosen.cases
    groups = list(dict.fromkeys(case.group for case in cases))
    backbones = {group: backbone.replace("{event}", group) for group in groups}
    described = {
        name: build_backbone(name).describe() for name in dict.fromkeys(backbones.values())
    }
    annotator = build_annotator(args.annotator, cases[0].event)
    seeds = list(range(args.seeds or (_QUICK_SEEDS if args.quick else SEEDS)))
    made: dict[tuple[tuple[str, ...], str, str], Any] = {}
    plans = []
    settings = {
        "backbone": list(described.values()),
        "annotator": annotator.name,
        "cases": list_digest(cases),
        "methods": methods,
        "seeds": seeds,
        "core": [core.warmup, core.horizon, core.batch, core.sampling],
    }
    where = folder or Path("runs") / (
        f"fidelity-{track.name}-{hashlib.sha256(canonical(settings)).hexdigest()[:10]}"
    )
    for condition in grid:
        models = {}
        for group in groups:
            key = (condition.methods, backbones[group], condition.sampling)
            if key not in made:
                made[key] = build_methods(*key)
            models[group] = made[key]
        plans.append(
            Plan(
                condition=condition,
                cases=_long_enough(cases, condition),
                models=models,
                annotator=annotator,
                seeds=seeds,
                identity={
                    "backbone": list(described.values()),
                    "annotator": annotator.name,
                    "sampling": sampling_parameters(condition.sampling),
                    "cases": list_digest(cases),
                    "process": [condition.warmup, condition.horizon, condition.batch],
                },
                folder=where,
            )
        )
    return Prepared(
        track,
        args.split,
        args.half,
        chosen,
        plans,
        list(described.values()),
        annotator,
        [build_annotator(name, cases[0].event) for name in args.judge],
        seeds,
        args.baseline,
        not args.no_likelihood,
        where,
    )


def _split(names: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))


def _long_enough(cases: Sequence[Case], condition: Condition) -> list[Case]:
    need = condition.warmup + condition.horizon
    long = [case for case in cases if len(case.event.posts) > need]
    if len({case.group for case in long}) < 2:
        raise MfenvError(
            f"condition {condition.name} needs two events of {need} reactions, {len(long)} have "
            f"them; leave it out of --studies"
        )
    return long


def run(args: argparse.Namespace) -> int:
    """Play, write the entry and the tables, print them."""
    where = where_of(args)
    prepared = prepare(args, args.folder)
    out = args.out or prepared.folder / "entry"
    print(
        f"{len(prepared.chosen.cases)} cases, list {list_digest(prepared.chosen.cases)}",
        file=sys.stderr,
        flush=True,
    )
    with where.alone(prepared.folder):
        if not where.direct:
            where.fetch(grid_files(prepared), prepared.folder)
            tasks = grid_tasks(prepared, grid_of(args), where.place(prepared.folder))
            where.play(tasks, prepared.folder, _say)
        scored = play(prepared, _say if where.direct else lambda text: None)
        _write(out, prepared, scored, _command(sys.argv[1:]))
    entry = load_entry(out)
    scores = score(entry)
    (out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    result = _result(prepared, entry.manifest, scores)
    texts = out if prepared.track.open_text else text_folder(out)
    result["diversity"] = diversity(entry, prepared.chosen.cases, texts)
    text = markdown(result)
    if args.results is not None:
        backbone = args.backbone or prepared.track.backbone
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", backbone.replace("-{event}", ""))
        title = args.name or f"{prepared.track.name}-{plain}"
        args.results.mkdir(parents=True, exist_ok=True)
        (args.results / f"{title}.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.results / f"{title}.md").write_text(text, encoding="utf-8")
    print(text)
    kept = text_folder(out)
    private = f"; texts of real people's topics stay in {kept}" if kept.is_dir() else ""
    print(f"entry: {out}{private}", file=sys.stderr)
    return 0


def play(prepared: Prepared, say: Callable[[str], None]) -> dict[tuple[str, str], Any]:
    """Play all conditions, or read them where they are done; ``say`` is told how far it is.

    Returns the likelihoods of each (condition, method).
    """
    scored = {}
    for plan in prepared.plans:
        told = -1

        def tell(
            done: int,
            total: int,
            name: str = plan.condition.name,
            begun: float = time.monotonic(),
        ) -> None:
            nonlocal told
            if (share := 20 * done // total) > told:
                told = share
                rate = done / max(time.monotonic() - begun, 1e-6)
                left = "" if done == total else f", about {duration((total - done) / rate)} left"
                say(f"{name}: {done} of {total} steps, {rate:,.0f}/s{left}")

        rollouts(plan, tell)
        sums = likelihoods(plan, say) if prepared.likelihood else no_likelihoods(plan)
        scored.update({(plan.condition.name, m): x for m, x in sums.items()})
    return scored


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(out: Path, prepared: Prepared, scored: dict[tuple[str, str], Any], command: str) -> None:
    cases = prepared.chosen.cases
    places = {case.event.event_id: i for i, case in enumerate(cases)}
    facts, usage = {}, {}
    runs: dict[tuple[str, str], Iterator[tuple[int, int, Sequence[StepRecord]]]] = {}
    for plan in prepared.plans:
        name, tokens = plan.condition.name, [0, 0, 0]

        def runs_of(plan: Plan, method: str) -> Iterator[tuple[int, int, Sequence[StepRecord]]]:
            for task, steps in played(plan, method):
                yield places[plan.cases[task.case].event.event_id], task.seed, steps

        for method in plan.methods:
            once = list(runs_of(plan, method))  # a journal is read once
            runs[name, method] = iter(once)
            for _, _, steps in once:
                for record in steps:
                    tokens[0] += len(record.agents)
                    tokens[1] += record.prompt_tokens
                    tokens[2] += record.completion_tokens
        usage[name] = Usage(tokens[0], round(seconds(plan), 3), tokens[1], tokens[2])
        facts[name] = ConditionFacts(
            warmup=plan.condition.warmup,
            horizon=plan.condition.horizon,
            batch=plan.condition.batch,
            sampling=sampling_parameters(plan.condition.sampling),
            methods={m: p.identity(m) for m, p in plan.models[plan.cases[0].group].items()},
            cases=[places[case.event.event_id] for case in plan.cases],
            usage=usage[name],
        )
    longest = max((p.condition for p in prepared.plans), key=lambda c: c.warmup + c.horizon)
    shown = [
        CaseFacts(
            event=digest(case.event.event_id),
            group=digest(case.group),
            domain=case.event.domain,
            language=case.event.language,
            real=real_labels(case, prepared.annotator, longest),
        )
        for case in cases
    ]
    manifest = Manifest(
        track=prepared.track.name,
        split=prepared.split,
        data={"file": prepared.chosen.file, "sha256": prepared.chosen.sha256},
        events=list_digest(cases),
        n_cases=len(cases),
        backbone=prepared.described,
        annotator=prepared.annotator.name,
        prompts=prompts_digest(),
        seeds=prepared.seeds,
        baseline=prepared.baseline,
        conditions=facts,
        package=mfenv.__version__,
        machine=machine(),
        command=command,
    )
    verdicts = {
        f"judge-{k}": Verdict(
            name=judge.name,
            real=[real_labels(case, judge, longest, own=False) for case in cases],
            simulated={
                (plan.condition.name, method): _relabelled(plan, method, judge, places)
                for plan in prepared.plans
                for method in plan.methods
            },
        )
        for k, judge in enumerate(prepared.judges, start=1)
    }
    open_text = prepared.track.open_text
    write_entry(out, manifest, shown, runs, scored, open_text=open_text, judges=verdicts)


def _relabelled(
    plan: Plan, method: str, judge: Annotator, places: dict[str, int]
) -> Iterator[tuple[int, int, int, Labels]]:
    for task, record, labels in relabelled(plan, method, judge):
        yield places[plan.cases[task.case].event.event_id], task.seed, record.step, labels


def _result(prepared: Prepared, manifest: Manifest, scores: dict[str, Any]) -> dict[str, Any]:
    """The scores with what was run, as the tables show them."""
    core = manifest.conditions[CORE]
    chosen = prepared.chosen
    names = {digest(case.group): case.group for case in chosen.cases}
    studies = {
        name: {**row, "seconds": round(manifest.conditions[name].usage.seconds, 1)}
        for name, row in scores["studies"].items()
    }
    scores = {**scores, "studies": studies}
    if "per_group" in scores:
        scores = {
            **scores,
            "per_group": {names[group]: row for group, row in scores["per_group"].items()},
        }
    return {
        **scores,
        "track": manifest.track,
        "split": manifest.split,
        "data": dict(manifest.data),
        "cases": {
            **scores["cases"],
            "sha256": manifest.events,
            "left_out": chosen.left_out,
            "min_posts": chosen.min_posts,
            **({} if prepared.half is None else {"half": prepared.half}),
        },
        "settings": {
            "warmup": core.warmup,
            "horizon": core.horizon,
            "batch": core.batch,
            "seeds": len(manifest.seeds),
            "sampling": core.sampling.partition(":")[0],
        },
        "seconds": round(core.usage.seconds, 1),
        "backbone": list(manifest.backbone),
        "methods": list(core.methods.values()),
        "annotator": manifest.annotator,
        "machine": manifest.machine,
        "command": manifest.command,
    }


def _command(argv: Sequence[str]) -> str:
    """The command, but for where it writes and where on this disk the data lie."""
    words, skip, data = ["mfenv", "bench", "fidelity"], False, False
    for word in argv[2:] if list(argv[:2]) == ["bench", "fidelity"] else argv:
        if data:
            word = Path(word).name
        elif word.startswith("--data="):
            word = "--data=" + Path(word.removeprefix("--data=")).name
        if not skip and not word.startswith(("--out", "--results", "--run")):
            words.append(word)
        skip, data = word in ("--out", "--results", "--run"), word == "--data"
    return shlex.join(words)
