"""How a population fares over a long run: ``mfenv bench long``.

One event is simulated over tens of thousands of reactions, by each method in turn, and compared
tenth by tenth with what the event's own people did: the entropy of every dimension (a population
that has run into one answer has none left), the KL beside persistence and the noise floor, and
the memory of the process along the way. The bar for "no drift" is that the entropy of every
dimension stays above half of the stream's own in every tenth. A method written with ``+opinions``
keeps a latent opinion for each person (:mod:`mfenv.dynamics.opinions`).

A killed run continues from its journals. Only aggregates are written to the results, no text.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agents.opinions import DEFAULT, build_opinions
from benchmarks import metrics
from benchmarks.fidelity import machine
from benchmarks.metrics import label_entropy as entropy
from benchmarks.simulate import SAMPLINGS, Pair, build_methods, sampling_parameters
from mfenv.cli import Command, integer, script
from mfenv.distributions import counts, normalise
from mfenv.dynamics.assemble import AUTO, build_annotator, build_backbone, check_names
from mfenv.dynamics.journal import Journal, RunLock, canonical, timings_path
from mfenv.dynamics.journal import run as run_journals
from mfenv.dynamics.models import Annotator
from mfenv.dynamics.opinions import NEW, OPINIONS, OpinionModel, opinions_of
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, warm_up
from mfenv.dynamics.records import StepRecord
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.load import load_events
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.labels import DIMENSIONS, NAMES, Labels
from mfenv.noise import NoiseKey, generator
from mfenv.states import opinion_text

__all__ = ["BAR", "HELP", "PARTS", "add_arguments", "entropy", "run", "score"]

HELP = "measure drift and memory over a long run"

Floats = NDArray[np.float64]

PARTS = 10
"""Stretches that a run is cut into, equal in reactions."""

BAR = 0.5
"""Least entropy of a dimension, as a part of the stream's own."""

_SYNTHETIC = "synthetic"
_SOCIETY, _INDEX = 9, 0  # of no shipped model's training
_PERSISTENCE_STREAM, _FLOOR_STREAM = 7011, 7012
_WITH_OPINIONS = "+opinions"
_CHUNK = 2048  # texts that are labelled at once
_ASKED = 256  # people who are asked with each opinion
_LISTENING = ("belief/believe", "stance/support", "stance/oppose")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("data", metavar="synthetic|FILE", help="a synthetic event, or events in any format we read")
    add("--event", metavar="ID", help="which event of FILE")
    add(
        "--interactions",
        type=integer(3 * PARTS),
        metavar="N",
        help="reactions that are simulated (synthetic: 40000; FILE: all after the warm-up)",
    )
    add(
        "--people",
        type=integer(1),
        default=2000,
        metavar="P",
        help="synthetic: people who share the reactions between them (%(default)s)",
    )
    add(
        "--methods",
        default="mf,mf-counted,mf-counted+opinions",
        metavar="NAMES",
        help="with +opinions behind a name, people keep opinions (%(default)s)",
    )
    add(
        "--opinions",
        default=DEFAULT,
        metavar="FILE",
        help="what mfenv train opinions wrote, for +opinions (%(default)s: the shipped one)",
    )
    add("--backbone", default="embedded-en", metavar="NAME", help="language model (%(default)s)")
    add("--annotator", default=AUTO, metavar="NAME", help="what labels reactions (%(default)s)")
    add("--batch", type=integer(1), default=16, metavar="n", help="people in a step (%(default)s)")
    add("--warmup", type=integer(1), default=50, metavar="T", help="(%(default)s)")
    add("--seed", type=integer(0), default=0, metavar="S", help="(%(default)s)")
    add("--sampling", choices=SAMPLINGS, default=SAMPLINGS[0], help="(%(default)s)")
    add("--out", type=Path, metavar="DIR", help="journals (default: runs/long-…)")
    add("--results", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    add("--name", metavar="NAME", help="of the result's files (default: long-EVENT-BACKBONE)")


# -- the measures ----------------------------------------------------------------------------


def part_counts(labels: Labels) -> Floats:
    """Label counts ``(10, 23)`` of labels ``(n, 8)`` by tenth."""
    return np.stack([counts(part) for part in np.array_split(labels, PARTS)])


def score(warmup: Labels, real: Labels, simulated: Labels, seed: int) -> dict[str, Any]:
    """Compare a run ``(n, 8)`` with the stream ``(n, 8)`` that followed the warm-up ``(w, 8)``.

    ``ratio`` is the least entropy of a tenth, as a part of the stream's own over the whole run;
    ``ratio_same_tenth`` as a part of the stream's in that tenth; ``stream_ratio`` is the first for
    the stream itself. Where the stream always says the same there is nothing to fall below: 1.
    """
    true, made = part_counts(real), part_counts(simulated)
    sizes = true[:, :2].sum(axis=-1)
    drawn = metrics.persistence(warmup, len(real), generator(_PERSISTENCE_STREAM, seed))
    floor = metrics.noise_floor(true, sizes, sizes, generator(_FLOOR_STREAM, 0))
    own, whole = entropy(true), entropy(true.sum(axis=0))

    def least(of: Floats, reference: Floats) -> Floats:
        part = of / np.where(reference > 0, reference, 1.0)
        return np.asarray(np.where(reference > 0, part, 1.0).min(axis=0))

    return {
        "entropy": entropy(made),  # (10, 8)
        "stream_entropy": own,  # (10, 8)
        "stream_entropy_whole": whole,  # (8,)
        "ratio": least(entropy(made), whole),  # (8,) least over the tenths
        "ratio_same_tenth": least(entropy(made), own),  # (8,)
        "stream_ratio": least(own, whole),  # (8,)
        "kl": metrics.kl(true, made).mean(axis=-1),  # (10,)
        "kl_per_dimension": metrics.kl(true, made).mean(axis=0),  # (8,)
        "persistence": metrics.kl(true, part_counts(drawn)).mean(axis=-1),  # (10,)
        "floor": floor.mean(axis=-1),  # (10,)
    }


class _Memory:
    """Resident memory along a run, one line a tenth, on disk: a killed run adds to it."""

    def __init__(self, path: Path, total: int) -> None:
        self.path, self.total = path, total
        self._marks = {max(1, round(total * k / PARTS)) for k in range(1, PARTS + 1)}

    def __call__(self, _: int, record: StepRecord) -> None:
        if record.step + 1 in self._marks:
            line = {
                "steps": record.step + 1,
                "part": round((record.step + 1) / self.total, 3),
                "rss_mb": round(_resident() / 2**20, 2),
                "process": os.getpid(),
            }
            with self.path.open("ab") as file:
                file.write(canonical(line))
            print(
                f"{self.path.name.partition('.')[0]}: {line['part']:.0%}, {line['rss_mb']} MB",
                file=sys.stderr,
                flush=True,
            )


def _resident() -> int:
    """Resident bytes of this process."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux: the peak is all there is
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


# -- the run -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Setup:
    """What the methods share."""

    event: Event
    annotator: Annotator
    process: ProcessSettings
    seed: int
    identity: Mapping[str, Any]
    opinions: OpinionModel | None
    folder: Path


def run(args: argparse.Namespace) -> int:
    """Simulate, compare, write the result, print it."""
    methods = list(dict.fromkeys(x.strip() for x in args.methods.split(",") if x.strip()))
    if not methods:
        raise MfenvError("--methods names no method")
    plain = list(dict.fromkeys(m.removesuffix(_WITH_OPINIONS) for m in methods))
    for method in plain:
        check_names(backbone=args.backbone, method=method, annotator=args.annotator)
    opinions = None
    if plain != methods:
        opinions = build_opinions(args.opinions)
    event = _event(args)
    wanted = len(event.posts) - 1 - args.warmup
    simulated = min(wanted, args.interactions or wanted)
    if simulated < 3 * PARTS:
        raise MfenvError(
            f"event {event.event_id}: {max(simulated, 0)} reactions are left after a warm-up of "
            f"{args.warmup}; {3 * PARTS} or more are needed"
        )
    process = ProcessSettings(args.warmup + simulated, args.batch, args.warmup)
    annotator = build_annotator(args.annotator, event)
    described = build_backbone(args.backbone).describe()
    identity = {
        "backbone": described,
        "annotator": annotator.name,
        "sampling": sampling_parameters(args.sampling),
    }
    key = {**identity, "event": event.event_id, "process": [simulated, args.batch, args.warmup]}
    digest = hashlib.sha256(canonical({**key, "people": _people(event)})).hexdigest()[:10]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", event.event_id)[:48]
    setup = _Setup(
        event=event,
        annotator=annotator,
        process=process,
        seed=args.seed,
        identity=identity,
        opinions=opinions,
        folder=args.out or Path("runs") / f"long-{name}-{digest}",
    )
    pairs = build_methods(plain, args.backbone, args.sampling)
    labels = _real(event, annotator, args.warmup + simulated)
    rows = {}
    with RunLock(setup.folder):
        for method in methods:
            pair = pairs[method.removesuffix(_WITH_OPINIONS)]
            rows[method] = _measure(setup, method, pair, labels)
        heard = None if opinions is None else _listening(setup, pairs[plain[-1]])
    result = {
        "event": event.event_id,
        "data": _data(args, event),
        "posts": len(event.posts),
        "people": _people(event),
        "interactions": simulated,
        "settings": {
            "warmup": args.warmup,
            "batch": args.batch,
            "seed": args.seed,
            "sampling": args.sampling,
        },
        "backbone": described,
        "annotator": annotator.name,
        "opinions": None if opinions is None else opinions.revision,
        "bar": BAR,
        "dimensions": [d.name for d in DIMENSIONS],
        "listening": heard,
        "methods": rows,
        "machine": machine(),
        "command": _command(args),
    }
    title = args.name or f"long-{name}-{re.sub(r'[^A-Za-z0-9._-]+', '-', args.backbone)}"
    text = _markdown(result)
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / f"{title}.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.results / f"{title}.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def _event(args: argparse.Namespace) -> Event:
    if args.data == _SYNTHETIC:
        n = (args.interactions or 40_000) + args.warmup + 1
        return SyntheticSociety(_SOCIETY).event(_INDEX, n_posts=n, people=args.people)
    wanted = None if args.event is None else [args.event]
    events = load_events(args.data, event_ids=wanted)
    if len(events) != 1:
        some = ", ".join(e.event_id for e in events[:3])
        raise MfenvError(
            f"{args.data}: holds {len(events)} events; choose one with --event"
            + (f", for example {some}" if some else "")
        )
    return events[0]


def _people(event: Event) -> int:
    """People who react."""
    return len(np.unique(event.posts.authors[1:]))


def _real(event: Event, annotator: Annotator, n: int) -> Labels:
    """Labels ``(n, 8)`` of the first reactions of the stream, warm-up included."""
    if event.labels is not None:
        return np.asarray(event.labels[1 : n + 1], dtype=np.int8)
    texts = list(event.posts.texts[1 : n + 1])
    parts = [texts[i : i + _CHUNK] for i in range(0, n, _CHUNK)]
    return np.concatenate(
        [annotator.label([event.topic] * len(x), x, [event.language] * len(x)) for x in parts]
    )


def _measure(setup: _Setup, method: str, pair: Pair, real: Labels) -> dict[str, Any]:
    """Run one method to the end, or go on with it, and score it."""
    opinions = setup.opinions if method.endswith(_WITH_OPINIONS) else None
    process = MeanFieldProcess(
        pair.policy,
        pair.mean_field,
        setup.annotator,
        setup.process,
        opinions,
        pair.calibration,
    )
    process.begin(setup.event, setup.seed)
    path = setup.folder / f"{method}-{setup.seed}.jsonl"
    memory = path.with_suffix(".memory")
    settings = {**process.identity(), **setup.identity, "method": method}
    with Journal(path, settings) as journal:
        if len(journal.records) < process.total_steps:
            run_journals([process], [journal], on_step=_Memory(memory, process.total_steps))
        warmup = setup.process.warmup
        labels = np.concatenate([r.labels for r in journal.records])
        tokens = np.sum([[r.prompt_tokens, r.completion_tokens] for r in journal.records], axis=0)
        told = [r.opinions for r in journal.records if r.opinions is not None]
    scored = score(real[:warmup], real[warmup:], labels[warmup:], setup.seed)
    seconds = sum(
        sum(json.loads(line)["seconds"].values())
        for line in timings_path(path).read_text().splitlines()
    )
    authors = np.asarray(setup.event.posts.authors)[1 : len(labels) + 1]
    return {
        "opinions": _opinions(authors, real, labels, told, warmup),
        **{name: np.round(value, 5).tolist() for name, value in scored.items()},
        "shares_by_tenth": np.round(normalise(part_counts(labels[warmup:])), 4).tolist(),
        "seconds": round(seconds, 1),
        "tokens": tokens.tolist(),
        "journal_mb": round(path.stat().st_size / 2**20, 1),
        "memory": [json.loads(x) for x in memory.read_text().splitlines()]
        if memory.exists()
        else [],
    }


def _opinions(
    authors: NDArray[np.int32],
    real: Labels,
    labels: Labels,
    told: Sequence[NDArray[np.int8]],
    warmup: int,
) -> dict[str, Any]:
    """What people think and how far they stick to it.

    ``same`` is the share of returning people's reactions that show the belief of their last one,
    ``by_chance`` what two reactions of anybody would have in common; ``population`` the opinions of
    all who have acted, at the end. ``told``: how often the prompt told of either belief, and the
    share of believing reactions after it.
    """
    result: dict[str, Any] = {}
    for name, y in (("stream", real), ("simulated", labels)):
        shown = opinions_of(y)
        everybody = np.full(int(authors.max()) + 1, NEW, dtype=np.int64)
        same = back = 0
        for i, (person, opinion) in enumerate(zip(authors.tolist(), shown.tolist(), strict=True)):
            if i >= warmup and everybody[person] != NEW:
                back += 1
                same += int(everybody[person] % 2 == opinion % 2)
            everybody[person] = opinion
        kept = everybody[everybody != NEW]
        belief = np.bincount(shown[warmup:] % 2, minlength=2) / max(len(shown) - warmup, 1)
        result[name] = {
            "returning": back,
            "same_belief": round(same / max(back, 1), 4),
            "by_chance": round(float((belief**2).sum()), 4),
            "population": {
                "/".join(names): round(float((kept == k).mean()), 4)
                for k, names in enumerate(OPINIONS)
            },
        }
    if told:
        asked = np.concatenate(told)[warmup:] % 2
        believes = opinions_of(labels[warmup:]) % 2 == 0
        result["told"] = {
            word: {
                "reactions": int((asked == b).sum()),
                "believing": round(float(believes[asked == b].mean()), 4),
            }
            for b, word in enumerate(("believe", "doubt"))
        }
    return result


def _listening(setup: _Setup, pair: Pair) -> dict[str, dict[str, float]]:
    """Shares of what the same people do, with the same noise, when told of each opinion.

    The first people after the warm-up, all of them under the mean field that it left.
    """
    path = setup.folder / "listening.json"
    if path.exists():
        found: dict[str, dict[str, float]] = json.loads(path.read_text())
        return found
    event = setup.event
    process = MeanFieldProcess(pair.policy, pair.mean_field, setup.annotator, setup.process)
    process.begin(event, setup.seed)
    warm_up([process])
    first = process.requests()[0]
    agents = range(setup.process.warmup, min(setup.process.warmup + _ASKED, len(event.posts) - 1))
    asked = [
        replace(first, state=state, key=NoiseKey(setup.seed, agent, process.step_index))
        for agent, state in zip(agents, process.states(list(agents)), strict=True)
    ]
    result = {}
    for k, name in ((NEW, "none"), *enumerate("/".join(x) for x in OPINIONS)):
        opinion = "" if k == NEW else opinion_text(k, event.language)
        acted = pair.policy.act([replace(r, opinion=opinion) for r in asked])
        texts = [a.text for a in acted]
        n = len(texts)
        labels = setup.annotator.label([event.topic] * n, texts, [event.language] * n)
        share = normalise(counts(labels))
        result[name] = {x: round(float(share[NAMES.index(x)]), 4) for x in _LISTENING}
    path.write_text(json.dumps(result) + "\n")
    return result


def _data(args: argparse.Namespace, event: Event) -> dict[str, Any]:
    if args.data == _SYNTHETIC:
        return {"file": None, "society": _SOCIETY, "index": _INDEX}
    path = Path(args.data)
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a folder"
    return {"file": path.name, "sha256": digest}


def _command(args: argparse.Namespace) -> str:
    """The command that repeats this, wherever it writes."""
    words = ["mfenv", "bench", "long", args.data]
    if args.event is not None:
        words += ["--event", args.event]
    names = ["methods", "opinions", "backbone", "annotator", "batch", "warmup", "seed", "sampling"]
    if args.interactions is not None:
        names.insert(0, "interactions")
    if args.data == _SYNTHETIC:
        names.insert(0, "people")
    for name in names:
        words += [f"--{name}", str(getattr(args, name))]
    return shlex.join(words)


# -- the result ----------------------------------------------------------------------------------


def growth(memory: Sequence[Mapping[str, Any]]) -> float | None:
    """MB that the resident memory grew by from 30% of the run to its end, in one process."""
    last = [m for m in memory if m["process"] == memory[-1]["process"]] if memory else []
    later = [m for m in last if m["part"] >= 0.29]
    return later[-1]["rss_mb"] - later[0]["rss_mb"] if len(later) > 1 else None


def _markdown(result: Mapping[str, Any]) -> str:
    """The result as a document."""
    settings, methods, data = result["settings"], result["methods"], result["data"]
    dimensions = result["dimensions"]
    backbone = ", ".join(f"{k} {v}" for k, v in sorted(result["backbone"].items()))
    held = [m for m, r in methods.items() if min(r["ratio"]) > result["bar"]]
    failed = [m for m in methods if m not in held]
    lines = [
        f"# Long run: {result['event']}, {result['interactions']:,} interactions",
        "",
        f"- The entropy of every dimension stays above {result['bar']:.0%} of the stream's own in "
        f"every tenth for: {', '.join(held) or 'no method'}"
        + (f"; it falls below for: {', '.join(failed)}." if failed else "."),
        "",
        "| method | least entropy / stream's (dimension) | in the same tenth | mean KL | "
        "persistence | floor | memory at 30%, 50%, 100% (MB) | growth 30% to 100% | decisions/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, r in methods.items():
        worst = int(np.argmin(r["ratio"]))
        at = {round(m["part"], 1): m["rss_mb"] for m in r["memory"]}
        grown = growth(r["memory"])
        lines.append(
            f"| {name} | {r['ratio'][worst]:.3f} ({dimensions[worst]}) | "
            f"{min(r['ratio_same_tenth']):.3f} | {np.mean(r['kl']):.4f} | "
            f"{np.mean(r['persistence']):.4f} | {np.mean(r['floor']):.4f} | "
            f"{', '.join(f'{at.get(k, math.nan):.0f}' for k in (0.3, 0.5, 1.0))} | "
            f"{'–' if grown is None else f'{grown:+.1f} MB'} | "
            f"{result['interactions'] / max(r['seconds'], 1e-9):.0f} |"
        )
    own_ratio = next(iter(methods.values()))["stream_ratio"]
    least = min(range(len(dimensions)), key=own_ratio.__getitem__)
    lines.append(
        f"| the stream itself | {own_ratio[least]:.3f} ({dimensions[least]}) | 1 | | | | | | |"
    )
    lines += _by_tenth("KL(real ‖ simulated) by tenth, nats, mean of the eight dimensions", [
        *((name, r["kl"]) for name, r in methods.items()),
        ("persistence", next(iter(methods.values()))["persistence"]),
        ("noise floor", next(iter(methods.values()))["floor"]),
    ])  # fmt: skip
    lines += [
        "",
        "## Entropy of each dimension by tenth, nats",
        "",
        "The stream's own in the last row of each block; *ratio*: the least of a tenth over the "
        "stream's entropy in the whole run.",
    ]
    for d, dimension in enumerate(dimensions):
        rows = [(n, [part[d] for part in r["entropy"]], r["ratio"][d]) for n, r in methods.items()]
        stream = next(iter(methods.values()))
        own = [part[d] for part in stream["stream_entropy"]]
        lines += [
            "",
            f"| {dimension} | {' | '.join(str(k + 1) for k in range(PARTS))} | ratio |",
            "|---|" + "---|" * (PARTS + 1),
            *(
                f"| {n} | {' | '.join(f'{x:.3f}' for x in row)} | {ratio:.3f} |"
                for n, row, ratio in rows
            ),
            f"| stream ({stream['stream_entropy_whole'][d]:.3f} in all) | "
            f"{' | '.join(f'{x:.3f}' for x in own)} | |",
        ]
    lines += _opinion_tables(methods)
    if result["listening"]:
        lines += [
            "",
            f"Does the model listen? The same {_ASKED} people under the mean field after the "
            f"warm-up, with the same noise, told of each opinion:",
            "",
            f"| told | {' | '.join(_LISTENING)} |",
            "|---|" + "---|" * len(_LISTENING),
            *(
                f"| {name} | {' | '.join(f'{row[x]:.3f}' for x in _LISTENING)} |"
                for name, row in result["listening"].items()
            ),
        ]
    source = (
        f"synthetic event {data['society']}-{data['index']}"
        if data["file"] is None
        else f"`{data['file']}`, SHA-256 `{data['sha256'][:16]}…`"
    )
    lines += [
        "",
        "## How it was measured",
        "",
        f"- Data: {source}; {result['posts']:,} posts, {result['people']:,} people who react; the "
        f"first {settings['warmup']} as they really reacted, the other {result['interactions']:,} "
        f"simulated, in steps of {settings['batch']}",
        f"- Backbone: {backbone}",
        *([f"- Opinion model: revision {result['opinions']}"] if result["opinions"] else []),
        f"- Annotator: {result['annotator']}; sampling: {settings['sampling']}; seed "
        f"{settings['seed']}",
        "- Memory: resident set of the process that ran a method, model, event and all. The "
        "journal on disk: "
        + ", ".join(f"{n} {r['journal_mb']:.0f} MB" for n, r in methods.items()),
        "- Seconds in model calls: "
        + ", ".join(f"{n} {r['seconds']:,.0f}" for n, r in methods.items())
        + f"; {result['machine']}, one thread, shared with other jobs",
        "",
        "```",
        result["command"],
        "```",
        "",
    ]
    return "\n".join(lines)


def _opinion_tables(methods: Mapping[str, Any]) -> list[str]:
    """What people think at the end, and how far they listen to it."""
    stream = next(iter(methods.values()))["opinions"]["stream"]
    rows = [(n, r["opinions"]["simulated"]) for n, r in methods.items()] + [("stream", stream)]
    lines = [
        "",
        "## Opinions",
        "",
        "The latest opinion (stance/belief) of everybody who has acted, at the end; and how often "
        "somebody who comes back shows the same belief as the time before, beside how often two "
        "reactions of anybody do.",
        "",
        f"| | {' | '.join(stream['population'])} | returning | same belief | by chance |",
        "|---|" + "---|" * (len(stream["population"]) + 3),
        *(
            f"| {n} | {' | '.join(f'{x:.3f}' for x in row['population'].values())} | "
            f"{row['returning']:,} | {row['same_belief']:.3f} | {row['by_chance']:.3f} |"
            for n, row in rows
        ),
    ]
    for n, r in methods.items():
        told = r["opinions"].get("told")
        if told:
            lines += [
                "",
                f"Prompts of `{n}` told of a believing opinion {told['believe']['reactions']:,} "
                f"times, of a doubting one {told['doubt']['reactions']:,} times; "
                f"{told['believe']['believing']:.1%} and {told['doubt']['believing']:.1%} of the "
                f"reactions that followed were believing.",
            ]
    return lines


def _by_tenth(head: str, rows: Sequence[tuple[str, Sequence[float]]]) -> list[str]:
    return [
        "",
        f"## {head}",
        "",
        f"| | {' | '.join(str(k + 1) for k in range(PARTS))} |",
        "|---|" + "---|" * PARTS,
        *(f"| {name} | {' | '.join(f'{x:.4f}' for x in row)} |" for name, row in rows),
    ]


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.long_run"))
