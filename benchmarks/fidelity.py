"""How close simulated populations come to real ones: the tables of ``benchmarks/results``.

``python -m benchmarks.fidelity weibo --data FILE`` takes a fixed sample of events;
``python -m benchmarks.fidelity pheme --data FILE`` cuts each long stream into segments, and its
intervals draw whole segments (within a stream) and whole streams (over all).

Two things are measured on the same reactions after the warm-up. *Rollout*: the KL of each method
to the real population, beside persistence and the noise floor. *Teacher-forced*: the negative
log-likelihood of the real actions, with the mean field that real actions led to. A killed run
continues. Only aggregates are written to the results, no text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare import FLOOR, Comparison, compare
from benchmarks.metrics import WINDOWS, Interval, block_bootstrap
from benchmarks.simulate import SAMPLINGS, Pair, build_methods, sampling_parameters
from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import (
    AUTO,
    build_annotator,
    build_backbone,
    check_names,
    method_names,
)
from mfenv.dynamics.journal import Journal, RunLock, canonical
from mfenv.dynamics.journal import run as run_journals
from mfenv.dynamics.models import Annotator
from mfenv.dynamics.process import (
    MeanFieldProcess,
    ProcessSettings,
    advance,
    real_rollout,
    warm_up,
)
from mfenv.dynamics.records import StepRecord
from mfenv.errors import MfenvError
from mfenv.events.event import Event, Posts
from mfenv.events.load import load_events
from mfenv.labels import DIMENSIONS
from mfenv.noise import generator

__all__ = ["HELP", "Case", "add_arguments", "machine", "run", "sample", "segments"]

HELP = "measure how close simulated populations come to real ones"

Floats = NDArray[np.float64]
Run = Sequence[StepRecord]

HALVES = ("first", "second")
"""Halves of the events that are long enough, in the order of their hashes."""

_CALIBRATED = (
    "- `+cal`: calibrated in the warm-up. The reactions of a step are chosen jointly, so their "
    "shares have less sampling noise than independent reactions (those of the other methods and of "
    "the baselines), and the squared error, which subtracts that of independent ones, is too low. "
    "With `+cal+draws=1` they are chosen independently. Its likelihood is the policy model's.",
)

_BOOTSTRAP_STREAM = 7003
_BLOCK = 8  # cases whose teacher-forced steps are scored together, and kept together


@dataclass(frozen=True, slots=True)
class Case:
    """One stretch of an event; cases of one group are not independent."""

    group: str
    event: Event


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("suite", choices=("weibo", "pheme"), help="events by hash, or streams in segments")
    add("--data", type=Path, required=True, metavar="FILE", help="events, in any format we read")
    add("--events", type=integer(2), default=40, metavar="K", help="weibo: events (%(default)s)")
    add(
        "--min-posts",
        type=integer(4),
        default=150,
        metavar="N",
        help="weibo: events with at least that many posts (%(default)s)",
    )
    add(
        "--half",
        choices=HALVES,
        help="weibo: sample from one half of those events only, to choose settings on one and to "
        "confirm them on the other (all)",
    )
    add(
        "--backbone",
        metavar="NAME",
        help="language model; {event} stands for the stream that it was not trained on "
        "(weibo: weibo-s, pheme: embedded-en)",
    )
    add(
        "--methods",
        default="mf,mf-counted,state,recent",
        metavar="NAMES",
        help="separated by commas; popular, sft:DIR and mop:DIR are allowed too, and each with the "
        "suffix +cal (%(default)s)",
    )
    add("--baseline", default="state", metavar="NAME", help="no mean field (%(default)s)")
    add("--annotator", default=AUTO, metavar="NAME", help="what labels reactions (%(default)s)")
    add("--warmup", type=integer(1), default=50, metavar="T", help="(%(default)s)")
    add("--horizon", type=integer(3), default=96, metavar="H", help="reactions (%(default)s)")
    add("--batch", type=integer(1), default=16, metavar="n", help="(%(default)s)")
    add("--seeds", type=integer(1), default=2, metavar="K", help="(%(default)s)")
    add("--sampling", choices=SAMPLINGS, default=SAMPLINGS[0], help="(%(default)s)")
    add("--out", type=Path, metavar="DIR", help="journals (default: runs/fidelity-…)")
    add("--results", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    add("--name", metavar="NAME", help="of the result's files (default: SUITE-BACKBONE)")


# -- the cases -------------------------------------------------------------------------------


def sample(
    events: Sequence[Event], count: int, min_posts: int, half: str | None = None
) -> list[Case]:
    """``count`` events of at least ``min_posts`` posts: those whose id has the lowest hash.

    With ``half`` those of one half of the events, in the order of their hashes.
    """
    long = sorted((e for e in events if len(e.posts) >= min_posts), key=lambda e: _hash(e.event_id))
    if half is not None:
        middle = (len(long) + 1) // 2
        long = long[:middle] if half == HALVES[0] else long[middle:]
    if len(long) < count:
        raise MfenvError(
            f"{len(long)} events{'' if half is None else f' of the {half} half'} have at least "
            f"{min_posts} posts, {count} are asked for; lower --events or --min-posts"
        )
    return [Case(e.event_id, e) for e in long[:count]]


def segments(event: Event, length: int) -> list[Case]:
    """Cut an event's reactions into whole stretches of ``length``, each with the same source.

    A parent outside its stretch becomes the source.
    """
    posts, cases = event.posts, []
    for k, start in enumerate(range(1, len(posts) - length + 1, length)):
        index = np.array([0, *range(start, start + length)])
        parents = np.searchsorted(index, posts.parents[index])
        known = (parents < len(index)) & (
            index[np.minimum(parents, len(index) - 1)] == posts.parents[index]
        )
        parents = np.where(known, parents, 0).astype(np.int32)
        parents[0] = -1
        cut = Posts(
            offsets=posts.offsets[index],
            authors=posts.authors[index],
            parents=parents,
            texts=[posts.texts[i] for i in index],
            kinds=None if posts.kinds is None else [posts.kinds[i] for i in index],
            stances=None if posts.stances is None else [posts.stances[i] for i in index],
            profiles=None if posts.profiles is None else [posts.profiles[i] for i in index],
        )
        labels = None if event.labels is None else event.labels[index]
        name = f"{event.event_id}+{k}"
        cases.append(
            Case(
                event.event_id,
                replace(event, event_id=name, posts=cut, labels=labels, meta={}),
            )
        )
    return cases


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# -- the measurements --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Setup:
    """What the cases share, and the models of each group."""

    cases: Sequence[Case]
    models: Mapping[str, Mapping[str, Pair]]  # group → method → models
    annotator: Annotator
    process: ProcessSettings
    seeds: Sequence[int]
    identity: Mapping[str, Any]  # backbones and sampling, for the journals
    folder: Path


def _rollouts(setup: _Setup) -> tuple[list[Comparison], float, int]:
    """Compare every case; all cases, methods and seeds run in lockstep."""
    keys = [
        (i, method, seed)
        for i, case in enumerate(setup.cases)
        for method in setup.models[case.group]
        for seed in setup.seeds
    ]
    processes = [_process(setup, i, method, seed) for i, method, seed in keys]
    total = sum(p.total_steps for p in processes)
    done = 0

    def tell(_: int, record: StepRecord) -> None:
        nonlocal done
        done += 1
        if done % max(total // 20, 1) == 0:
            print(f"rollout: {done} of {total} steps", file=sys.stderr, flush=True)

    with ExitStack() as stack:
        journals = [
            stack.enter_context(
                Journal(
                    setup.folder / "journals" / f"{_hash(setup.cases[i].event.event_id)[:16]}-"
                    f"{method}-{seed}.jsonl",
                    {
                        **process.identity(),
                        **setup.identity,
                        "method": setup.models[setup.cases[i].group][method].identity(method),
                    },
                )
            )
            for (i, method, seed), process in zip(keys, processes, strict=True)
        ]
        runs = run_journals(processes, journals, on_step=tell)
        timings = journals[0].path.with_name(
            journals[0].path.name.removesuffix(".jsonl") + ".timings.jsonl"
        )
    seconds = sum(
        sum(json.loads(line)["seconds"].values()) for line in timings.read_text().splitlines()
    )
    decisions = sum(len(r.agents) for run in runs for r in run if not r.warmup)
    grouped: list[dict[str, list[Run]]] = [{} for _ in setup.cases]
    for (i, method, _), each in zip(keys, runs, strict=True):
        grouped[i].setdefault(method, []).append(each)
    comparisons = [
        compare(real_rollout(case.event, setup.annotator, setup.process), group, setup.seeds)
        for case, group in zip(setup.cases, grouped, strict=True)
    ]
    return comparisons, seconds, decisions


def _process(
    setup: _Setup, i: int, method: str, seed: int, calibrated: bool = True
) -> MeanFieldProcess:
    case = setup.cases[i]
    pair = setup.models[case.group][method]
    process = MeanFieldProcess(
        pair.policy,
        pair.mean_field,
        setup.annotator,
        setup.process,
        calibration=pair.calibration if calibrated else None,
    )
    process.begin(case.event, seed)
    return process


def _likelihoods(setup: _Setup) -> dict[str, Floats]:
    """Teacher-forced scores: method → ``(cases, 3)`` sums of -log p, tokens and actions."""
    result: dict[str, list[list[float]]] = {}
    for start in range(0, len(setup.cases), _BLOCK):
        block = range(start, min(start + _BLOCK, len(setup.cases)))
        path = setup.folder / "likelihoods" / f"{start}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(_score_block(setup, block)))
            part.replace(path)
        for method, rows in json.loads(path.read_text()).items():
            result.setdefault(method, []).extend(rows)
        print(f"likelihood: {block.stop} of {len(setup.cases)} cases", file=sys.stderr, flush=True)
    return {method: np.array(rows) for method, rows in result.items()}


def _score_block(setup: _Setup, block: Sequence[int]) -> dict[str, list[list[float]]]:
    """Score the real actions of some cases step by step, while the real actions lead on."""
    names = list(setup.models[setup.cases[block[0]].group])
    keys = [(i, method) for method in names for i in block]
    # Where real actions lead on, a calibration has nothing to choose.
    processes = [_process(setup, i, method, setup.seeds[0], calibrated=False) for i, method in keys]
    warm_up(processes)
    sums = np.zeros((len(processes), 3))
    while left := [k for k, p in enumerate(processes) if not p.done]:
        texts = [
            [processes[k].event.posts.texts[int(a) + 1] for a in processes[k].next_agents]
            for k in left
        ]
        by_policy: dict[int, list[tuple[int, list[str]]]] = {}
        for k, real in zip(left, texts, strict=True):
            by_policy.setdefault(id(processes[k].policy), []).append((k, real))
        for members in by_policy.values():
            policy: Any = processes[members[0][0]].policy
            scored = policy.score(
                [r for k, _ in members for r in processes[k].requests()],
                [text for _, real in members for text in real],
            )
            owners = [k for k, real in members for _ in real]
            for k, score in zip(owners, scored, strict=True):
                sums[k] += (-score.log_probability, score.tokens, 1)
        advance([processes[k] for k in left], actions=texts)
    return {
        method: [sums[k].tolist() for k, key in enumerate(keys) if key[1] == method]
        for method in names
    }


# -- the run -----------------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Measure, write the results, print them."""
    methods = list(dict.fromkeys(m.strip() for m in args.methods.split(",") if m.strip()))
    names = list(method_names(methods))
    if args.baseline not in names:
        raise MfenvError(f"--baseline {args.baseline!r} is none of --methods {', '.join(names)}")
    backbone = args.backbone or {"weibo": "weibo-s", "pheme": "embedded-en"}[args.suite]
    for method in methods:
        check_names(backbone=backbone, method=method, annotator=args.annotator)
    process = ProcessSettings(args.warmup + args.horizon, args.batch, args.warmup)
    events = load_events(args.data)
    if args.suite == "weibo":
        if args.min_posts <= process.agents:
            raise MfenvError(
                f"--min-posts {args.min_posts} is not allowed; allowed: more than the "
                f"{process.agents} reactions of --warmup and --horizon"
            )
        cases = sample(events, args.events, args.min_posts, args.half)
    elif args.half is not None:
        raise MfenvError("--half is for weibo; the streams of pheme are all measured")
    else:
        cases = [case for event in events for case in segments(event, process.agents)]
    if len({case.group for case in cases}) < 2:
        raise MfenvError(f"{args.data}: too few events are long enough for an interval")
    groups = list(dict.fromkeys(case.group for case in cases))
    backbones = {group: backbone.replace("{event}", group) for group in groups}
    described = {
        name: build_backbone(name).describe() for name in dict.fromkeys(backbones.values())
    }
    made = {name: build_methods(methods, name, args.sampling) for name in described}
    identity = {
        "backbone": list(described.values()),
        "annotator": build_annotator(args.annotator, cases[0].event).name,
        "sampling": sampling_parameters(args.sampling),
        "cases": _hash("\n".join(case.event.event_id for case in cases)),
        "methods": [pair.identity(name) for name, pair in next(iter(made.values())).items()],
        "seeds": args.seeds,
    }
    settings = {**identity, "process": [process.agents, process.batch, process.warmup]}
    digest = hashlib.sha256(canonical(settings)).hexdigest()[:10]
    setup = _Setup(
        cases=cases,
        models={group: made[backbones[group]] for group in groups},
        annotator=build_annotator(args.annotator, cases[0].event),
        process=process,
        seeds=range(args.seeds),
        identity=identity,
        folder=args.out or Path("runs") / f"fidelity-{args.suite}-{digest}",
    )
    print(f"{len(cases)} cases, list {identity['cases']}", file=sys.stderr, flush=True)
    with RunLock(setup.folder):
        _check_folder(setup.folder, settings)
        comparisons, seconds, decisions = _rollouts(setup)
        likelihoods = _likelihoods(setup)
    result = {
        "suite": args.suite,
        "data": {"file": args.data.name, "sha256": _file_hash(args.data)},
        "cases": {
            "count": len(cases),
            "groups": len(groups),
            "sha256": identity["cases"],
            "left_out": len(events) - len(groups) if args.suite == "pheme" else 0,
            "min_posts": args.min_posts if args.suite == "weibo" else process.agents + 1,
            **({} if args.half is None else {"half": args.half}),
        },
        "settings": {
            "warmup": args.warmup,
            "horizon": args.horizon,
            "batch": args.batch,
            "seeds": args.seeds,
            "sampling": args.sampling,
        },
        "backbone": list(described.values()),
        "methods": identity["methods"],
        "annotator": identity["annotator"],
        **_summary(cases, comparisons, likelihoods, args.baseline),
        "decisions": decisions,
        "seconds": round(seconds, 1),
        "machine": machine(),
        "command": _command(sys.argv[1:]),
    }
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", backbone.replace("-{event}", ""))
    title = args.name or f"{args.suite}-{plain}"
    args.results.mkdir(parents=True, exist_ok=True)
    text = _markdown(result)
    (args.results / f"{title}.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.results / f"{title}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _command(argv: Sequence[str]) -> str:
    """The command, but for where it writes."""
    words, skip = ["mfenv", "bench", "fidelity"], False
    for word in argv[2:] if list(argv[:2]) == ["bench", "fidelity"] else argv:
        if not skip and not word.startswith(("--out", "--results")):
            words.append(word)
        skip = word in ("--out", "--results")
    return shlex.join(words)


def _check_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to continue another run's likelihoods; the journals check themselves."""
    path = folder / "settings.json"
    line = canonical(dict(settings))
    if path.exists() and path.read_bytes() != line:
        raise MfenvError(f"{folder}: holds a run with other settings; choose another --out")
    path.write_bytes(line)


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a folder"


def machine() -> str:
    """What the figures were measured on, without anything that names the machine."""
    parts = [
        f"{os.cpu_count()} CPU cores ({platform.machine()})",
        f"Python {platform.python_version()}",
    ]
    torch = sys.modules.get("torch")
    if torch is not None:
        parts.append(f"torch {torch.__version__}")
        if torch.cuda.is_available():
            parts.append(torch.cuda.get_device_name(0))
    return ", ".join(parts)


# -- the result ----------------------------------------------------------------------------------


def _interval(values: Floats, groups: Sequence[str]) -> Interval:
    """Bootstrap over groups; the same draws for every figure."""
    return block_bootstrap(values, groups, generator(_BOOTSTRAP_STREAM, 0))


def _json(x: Interval) -> dict[str, float | None]:
    return {
        key: None if math.isnan(v) else round(v, 6)
        for key, v in (("mean", x.mean), ("low", x.low), ("high", x.high))
    }


def _summary(
    cases: Sequence[Case],
    comparisons: Sequence[Comparison],
    likelihoods: Mapping[str, Floats],
    baseline: str,
) -> dict[str, Any]:
    """All tables as JSON values."""
    groups = [case.group for case in cases]
    scores = {
        name: [next(s for s in (*c.scores, c.floor) if s.name == name) for c in comparisons]
        for name in (*(s.name for s in comparisons[0].scores), FLOOR)
    }
    mean = {name: np.array([s.kl.mean for s in each]) for name, each in scores.items()}
    rows = {
        name: {
            **_json(_interval(mean[name], groups)),
            "excess": _json(_interval(np.array([s.excess for s in each]), groups)),
            "squared_error": _json(_interval(np.array([s.squared_error for s in each]), groups)),
            "per_window": dict(zip(WINDOWS, _means([s.per_window for s in each]), strict=True)),
            "per_dimension": dict(
                zip(
                    (d.name for d in DIMENSIONS),
                    _means([s.per_dimension for s in each]),
                    strict=True,
                )
            ),
        }
        for name, each in scores.items()
    }
    ranked = sorted((n for n in rows if n != FLOOR), key=lambda n: float(mean[n].mean()))
    paired = {
        f"{a} - {b}": _json(_interval(mean[a] - mean[b], groups))
        for a, b in combinations(ranked, 2)
    }
    per_token = {m: x[:, 0] / x[:, 1] for m, x in likelihoods.items()}
    per_action = {m: x[:, 0] / x[:, 2] for m, x in likelihoods.items()}
    nll = {
        m: {
            "per_token": _json(_interval(per_token[m], groups)),
            "per_action": _json(_interval(per_action[m], groups)),
            "minus_baseline_per_token": _json(
                _interval(per_token[m] - per_token[baseline], groups)
            ),
            "minus_baseline_per_action": _json(
                _interval(per_action[m] - per_action[baseline], groups)
            ),
        }
        for m in likelihoods
    }
    summary: dict[str, Any] = {
        "kl": rows,
        "ranked": ranked,
        "paired": paired,
        "nll": nll,
        "baseline": baseline,
        "tokens": int(next(iter(likelihoods.values()))[:, 1].sum()),
    }
    if len(set(groups)) < len(groups):
        summary["per_group"] = {
            group: {
                "cases": groups.count(group),
                **{
                    name: _json(
                        # Within one group its own cases are the blocks.
                        block_bootstrap(
                            x[[g == group for g in groups]],
                            np.arange(groups.count(group)),
                            generator(_BOOTSTRAP_STREAM, 1),
                        )
                    )
                    for name, x in mean.items()
                },
            }
            for group in dict.fromkeys(groups)
        }
    return summary


def _means(rows: Sequence[Floats]) -> list[float]:
    return [round(float(x), 6) for x in np.mean(rows, axis=0)]


def _show(x: Mapping[str, float | None], digits: int = 4, sign: bool = False) -> str:
    form = f"{'+' if sign else ''}.{digits}f"
    if x["low"] is None or x["high"] is None:
        return f"{x['mean']:{form}}"
    return f"{x['mean']:{form}} [{x['low']:{form}}, {x['high']:{form}}]"


def _clear(x: Mapping[str, float | None]) -> bool:
    """Whether an interval excludes 0."""
    low, high = x["low"], x["high"]
    return low is not None and high is not None and (low > 0 or high < 0)


def _verdict(result: Mapping[str, Any]) -> list[str]:
    """Who wins, in words."""
    ranked, paired, nll = result["ranked"], result["paired"], result["nll"]
    best = ranked[0]
    lines = [f"**Rollout: {best} has the lowest mean KL** ({_show(result['kl'][best])})."]
    for other in ranked[1:]:
        gap = paired[f"{best} - {other}"]
        word = "clear" if _clear(gap) else "not clear: the interval includes 0"
        lines.append(f"{best} against {other}: {_show(gap, sign=True)} ({word}).")
    baseline = result["baseline"]
    for method, row in nll.items():
        if method == baseline:
            continue
        gap = row["minus_baseline_per_token"]
        word = f"than that of `{baseline}`: {_show(gap, sign=True)} nats a token."
        if _clear(gap):
            lower = "lower" if gap["mean"] < 0 else "higher"
            lines.append(f"Likelihood: the NLL of `{method}` is {lower} {word}")
        else:
            lines.append(f"Likelihood: the NLL of `{method}` is not clearly other {word}")
    return lines


def _markdown(result: Mapping[str, Any]) -> str:
    """The result as a document."""
    settings, cases = result["settings"], result["cases"]
    backbones = "; ".join(
        ", ".join(f"{k} {v}" for k, v in sorted(b.items())) for b in result["backbone"]
    )
    names = [*result["ranked"], FLOOR]
    lines = [
        f"# Fidelity: {result['suite']}",
        "",
        *[f"- {line}" for line in _verdict(result)],
        "",
        "## KL to the real population",
        "",
        f"KL(real ‖ simulated) in nats, 0.5 added to every count, mean over three windows of the "
        f"{settings['horizon']} reactions after a warm-up of {settings['warmup']}, eight "
        f"dimensions, {settings['seeds']} seeds and {cases['count']} cases. Brackets: 95% "
        f"bootstrap interval over {cases['groups']} events. Every method has the same number of "
        f"reactions as the real side; the noise floor is real resampled against real at these "
        f"sizes, and excess is the KL minus it. The squared error is that of the expected shares, "
        f"without its sampling part.",
        "",
        f"| | mean KL | excess KL | squared error | {' | '.join(WINDOWS)} |",
        "|---|---|---|---|" + "---|" * len(WINDOWS),
    ]
    for name in names:
        row = result["kl"][name]
        windows = " | ".join(f"{row['per_window'][w]:.4f}" for w in WINDOWS)
        lines.append(
            f"| {name} | {_show(row)} | {_show(row['excess'])} | "
            f"{_show(row['squared_error'])} | {windows} |"
        )
    dimensions = [d.name for d in DIMENSIONS]
    lines += [
        "",
        f"| mean KL | {' | '.join(dimensions)} |",
        "|---|" + "---|" * len(dimensions),
        *(
            f"| {name} | "
            + " | ".join(f"{result['kl'][name]['per_dimension'][d]:.4f}" for d in dimensions)
            + " |"
            for name in names
        ),
        "",
        "Paired differences of the mean KL:",
        "",
        "| | difference |",
        "|---|---|",
        *(f"| {name} | {_show(gap, sign=True)} |" for name, gap in result["paired"].items()),
    ]
    if "per_group" in result:
        lines += [
            "",
            "By event, with intervals over its own segments:",
            "",
            f"| event | segments | {' | '.join(names)} |",
            "|---|---|" + "---|" * len(names),
            *(
                f"| {group} | {row['cases']} | " + " | ".join(_show(row[n]) for n in names) + " |"
                for group, row in result["per_group"].items()
            ),
        ]
    lines += [
        "",
        "## Likelihood of the real actions",
        "",
        f"Teacher-forced: nats for each token of the real actions after the warm-up "
        f"({result['tokens']:,} tokens, the end of the text included), given the mean field that "
        f"the real actions led to; paired differences from `{result['baseline']}`, which sees no "
        f"mean field.",
        "",
        "| | nats per token | difference | nats per action | difference |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {_show(row['per_token'])} | "
            f"{_show(row['minus_baseline_per_token'], sign=True)} | "
            f"{_show(row['per_action'], 3)} | "
            f"{_show(row['minus_baseline_per_action'], 3, sign=True)} |"
            for name, row in result["nll"].items()
        ),
        "",
        "## How it was measured",
        "",
        f"- Data: `{result['data']['file']}`, SHA-256 `{result['data']['sha256'][:16]}…`; "
        f"{cases['count']} cases with at least {cases['min_posts']} posts"
        + (f" ({cases['left_out']} shorter streams are left out)" if cases["left_out"] else "")
        + f", list "
        f"SHA-256 `{cases['sha256'][:16]}…`",
        f"- Backbone: {backbones}",
        f"- Methods: {', '.join(result['methods'])}",
        *(_CALIBRATED if any("+cal" in method for method in result["methods"]) else ()),
        f"- Annotator: {result['annotator']}; sampling: {settings['sampling']}; batch "
        f"{settings['batch']}; seeds 0 to {settings['seeds'] - 1}",
        f"- {result['decisions']:,} decisions in {result['seconds']:,.0f} s on {result['machine']}",
        "",
        "```",
        result["command"],
        "```",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.fidelity"))
