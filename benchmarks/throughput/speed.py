"""How fast the engine is: ``mfenv bench throughput``.

On one backbone, with the same prompts and noise: (a) a reference loop, written the way released
research code works (:mod:`benchmarks.reference_loop`); (b) the engine with several numbers of
worlds in flight; (c) the floor: bare batched generation on ready-made token batches, prefixes
reused as the engine does. All are timed in turn, several rounds, since machines are shared, engine
and floor in pairs directly after each other; rates are medians, ratios medians of the rounds' and
the pairs' own ratios.
"""

from __future__ import annotations

import argparse
import inspect
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.fidelity import machine
from benchmarks.throughput.workload import Call, Recorder
from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import AUTO, build_annotator, build_backbone, check_names
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, advance, warm_up
from mfenv.dynamics.records import StepRecord
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.load import load_events
from mfenv.events.synthetic.generator import SyntheticSociety

__all__ = ["HELP", "add_arguments", "run"]

HELP = "measure decisions a second beside a plain loop and bare generation"

_SOCIETY = 9  # of no shipped model's training
_BESIDE = 16  # worlds of the reference, the floor and the scoring
_PAIRS = 4  # of engine and floor a round; even, so that each goes first as often
_METHOD = "mf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--backbone", default="embedded-en", metavar="NAME", help="a local one (%(default)s)")
    add("--data", type=Path, metavar="FILE", help="events; none: the synthetic society")
    add(
        "--worlds", type=_counts, default="1,4,16,64", metavar="K,…", help="in flight (%(default)s)"
    )
    add("--beside", type=integer(1), default=_BESIDE, metavar="K", help="worlds of the reference")
    add("--steps", type=integer(1), default=2, metavar="T", help="measured (%(default)s)")
    add("--batch", type=integer(1), default=16, metavar="n", help="agents a step (%(default)s)")
    add("--rounds", type=integer(1), default=3, metavar="R", help="(%(default)s)")
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    add("--json", action="store_true", help="print JSON only")


def _counts(text: str) -> list[int]:
    return [integer(1)(part) for part in text.split(",")]


# -- what is timed ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ready:
    """Processes at the start of the measured steps."""

    processes: list[MeanFieldProcess]

    def again(self, backbone: Any) -> list[MeanFieldProcess]:
        """Independent copies whose models use ``backbone``."""
        from agents.methods import mf

        pair = mf(backbone)
        copies = [p.fork() for p in self.processes]
        for copy in copies:
            copy.policy, copy.mean_field_model = pair.policy, pair.mean_field
        return copies


def _prepare(events: Sequence[Event], backbone: Any, settings: ProcessSettings) -> _Ready:
    """Play the warm-up and one rollout step: from there on every agent reads a mean field."""
    from agents.methods import mf

    pair, judge = mf(backbone), build_annotator(AUTO, events[0])
    processes = [MeanFieldProcess(pair.policy, pair.mean_field, judge, settings) for _ in events]
    for k, (process, event) in enumerate(zip(processes, events, strict=True)):
        process.begin(event, k)
    warm_up(processes)
    advance(processes)
    return _Ready(processes)


_Played = dict[tuple[int, int], StepRecord]
"""Steps that were played: by the number of the world and the step."""


def _lockstep(processes: Sequence[MeanFieldProcess], steps: int) -> _Played:
    played = (enumerate(advance(processes)) for _ in range(steps))
    return {(k, record.step): record for step in played for k, record in step}


def _one_after_another(processes: Sequence[MeanFieldProcess], steps: int) -> _Played:
    played = ((k, p.step()) for k, p in enumerate(processes) for _ in range(steps))
    return {(k, record.step): record for k, record in played}


def _floor(backbone: Any, calls: Sequence[Call]) -> Callable[[], None]:
    """Generation alone, on token batches that are made beforehand."""
    ready = [(call, [backbone.prompt_ids(p) for p in call.prompts]) for call in calls]

    def generate() -> None:
        for call, ids in ready:
            draw = backbone.sampler(call.sampling, call.keys, **call.limits)
            backbone.write(ids, call.keys, draw, call.sampling.max_new_tokens)

    return generate


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


# -- the command -----------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Measure, write the results, print them."""
    check_names(backbone=args.backbone, method=_METHOD, annotator=AUTO)
    result = measure(
        args.backbone,
        args.data,
        worlds=args.worlds,
        beside=args.beside,
        steps=args.steps,
        batch=args.batch,
        rounds=args.rounds,
    )
    source = "" if args.data is None else " --data FILE"
    result["command"] = (
        f"mfenv bench throughput --backbone {args.backbone}{source} "
        f"--worlds {','.join(map(str, args.worlds))} --beside {args.beside} --steps {args.steps} "
        f"--batch {args.batch} --rounds {args.rounds}"
    )
    text = _markdown(result)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f"throughput-{args.backbone.replace('/', '-').replace(':', '-')}"
    (args.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / f"{stem}.md").write_text(text, encoding="utf-8")
    print(json.dumps(result) if args.json else text)
    return 0


def measure(
    backbone: str,
    data: Path | None,
    *,
    worlds: Sequence[int],
    beside: int,
    steps: int,
    batch: int,
    rounds: int,
) -> dict[str, Any]:
    """Everything that the command prints; keys as in its ``--json``."""
    from agents.backbones.hugging_face import HuggingFaceBackbone
    from benchmarks.reference_loop import ReferenceBackbone

    made = build_backbone(backbone)
    if not isinstance(made, HuggingFaceBackbone):
        raise MfenvError(
            f"backbone {backbone!r} is served elsewhere; allowed: a local one, whose plain "
            "generation can be timed beside the engine"
        )
    settings = ProcessSettings(batch * (steps + 2), batch, batch)
    count = max([*worlds, beside])
    events = _events(data, count, settings.agents + 1)
    ready = _prepare(events, made, settings)
    near = _Ready(ready.processes[:beside])
    plain = ReferenceBackbone(made.model, made.tokenizer, name="reference", prompts=made.prompts)
    whole = HuggingFaceBackbone(
        made.model, made.tokenizer, name="whole", prompts=made.prompts, reuse_prefixes=False
    )

    recorder = Recorder(made)
    recorded = _lockstep(near.again(recorder), steps)
    floor = _floor(made, recorder.calls)
    prompts = [p for call in recorder.calls if call.acts for p in call.prompts]
    texts = [t for r in recorded.values() for t in r.texts]
    decisions = len(texts)

    engine = f"engine_{beside}"
    rates: dict[str, list[float]] = {
        name: [] for name in ("reference", *(f"engine_{k}" for k in worlds), "floor")
    }
    outside, speedup, same, of_floor, of_reference = [], [], [], [], []

    def play(k: int) -> float:
        processes = _Ready(ready.processes[:k]).again(made)
        before = made.usage.model_seconds
        seconds, records = _timed(lambda: _lockstep(processes, steps))
        if k == beside:
            outside.append(1 - (made.usage.model_seconds - before) / seconds)
        return sum(len(r.texts) for r in records.values()) / seconds

    def generate() -> float:
        return decisions / _timed(floor)[0]

    for _ in range(rounds):
        processes = near.again(plain)
        seconds, records = _timed(lambda p=processes: _one_after_another(p, steps))  # type: ignore[misc]
        rates["reference"].append(decisions / seconds)
        same.append(np.mean([records[at].texts == r.texts for at, r in recorded.items()]))
        for k in worlds:
            if k != beside:
                rates[f"engine_{k}"].append(play(k))
        # Side by side and in turn, since a shared machine is another one some seconds later.
        for turn in range(_PAIRS):
            if beside in worlds and turn % 2 == 0:
                rates[engine].append(play(beside))
            rates["floor"].append(generate())
            if beside in worlds and turn % 2:
                rates[engine].append(play(beside))
        if beside in worlds:
            latest, bare = np.array(rates[engine][-_PAIRS:]), np.array(rates["floor"][-_PAIRS:])
            of_floor += list(latest / bare)
            of_reference.append(np.median(latest) / rates["reference"][-1])
        slow = _timed(lambda: whole.score(prompts, texts))[0]
        speedup.append(slow / _timed(lambda: made.score(prompts, texts))[0])
    usage, scored = _counted(made, near, steps), _counted_scores(made, prompts, texts)

    return {
        "decisions_per_second": {k: float(np.median(v)) for k, v in rates.items()},
        f"ratio_{engine}_to_reference": _median(of_reference),
        "share_of_floor": _median(of_floor),
        "scoring_speedup": float(np.median(speedup)),
        "scoring_bound": scored,
        "outside_model_share": _median(outside),
        "prefix_hit_rate": usage[1] / usage[0],
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "texts_equal_to_reference": float(np.mean(same)),
        "prompt_tokens": usage[0],
        "completion_tokens": usage[2],
        "decisions": decisions,
        "rounds": rounds,
        "spread": {k: [min(v), max(v)] for k, v in rates.items()},
        "backbone": made.describe(),
        "dtype": str(made.model.dtype),
        "machine": machine(),
        "reference_source": inspect.getsource(ReferenceBackbone),
    }


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _events(data: Path | None, count: int, posts: int) -> list[Event]:
    if data is None:
        return list(SyntheticSociety(_SOCIETY).events(count, n_posts=posts))
    long = [e for e in load_events(data) if len(e.posts) >= posts]
    if len(long) < count:
        raise MfenvError(
            f"{data}: {len(long)} events have at least {posts} posts, {count} worlds are asked "
            "for; lower --worlds, --beside or --steps"
        )
    return long[:count]


def _counted(backbone: Any, ready: _Ready, steps: int) -> tuple[int, int, int]:
    """Prompt tokens, those that were not read again, and completion tokens of the steps."""
    usage = backbone.usage
    before = (usage.prompt_tokens, usage.reused_tokens, usage.completion_tokens)
    _lockstep(ready.again(backbone), steps)
    after = (usage.prompt_tokens, usage.reused_tokens, usage.completion_tokens)
    a, b, c = (y - x for x, y in zip(before, after, strict=True))
    return a, b, c


def _counted_scores(backbone: Any, prompts: Sequence[str], texts: Sequence[str]) -> float:
    """How much faster scoring could be if time went by the tokens that are read."""
    usage = backbone.usage
    before = (usage.prompt_tokens, usage.reused_tokens)
    backbone.score(prompts, texts)
    total = usage.prompt_tokens - before[0]
    return float(total / (total - (usage.reused_tokens - before[1])))


def _markdown(result: dict[str, Any]) -> str:
    backbone = ", ".join(f"{k} {v}" for k, v in sorted(result["backbone"].items()))
    rates = result["decisions_per_second"]
    ratio = next(v for k, v in result.items() if k.startswith("ratio_"))
    lines = [
        "# Throughput",
        "",
        f"Decisions a second (an agent's reaction; labels and mean fields included, method `mf`). "
        f"Backbone: {backbone}; {result['dtype']}. Medians of {result['rounds']} rounds, all rows "
        f"timed in turn in each ({_PAIRS} pairs of engine and floor, directly after each other); "
        f"brackets: slowest and fastest. Machine: "
        f"{result['machine']}.",
        "",
        "| | decisions/s | |",
        "|---|---|---|",
    ]
    names = {"reference": "reference loop", "floor": "floor: bare generation, prefixes reused"}
    for name, rate in rates.items():
        low, high = result["spread"][name]
        title = names.get(name, f"engine, worlds in flight: {name.rpartition('_')[2]}")
        lines.append(f"| {title} | {rate:.1f} | [{low:.1f}, {high:.1f}] |")

    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    lines += [
        "",
        f"- engine to reference: {shown(ratio, '.2f')} times; share of the floor: "
        f"{shown(result['share_of_floor'], '.1%')}",
        f"- wall time outside the model: {shown(result['outside_model_share'], '.1%')}",
        f"- scoring given reactions with shared prefixes: {result['scoring_speedup']:.2f} times "
        f"faster; {result['scoring_bound']:.2f} if time went by tokens alone",
        f"- prompt tokens {result['prompt_tokens']:,}, of which not read again "
        f"{result['prefix_hit_rate']:.1%}; tokens written {result['completion_tokens']:,}",
        f"- steps whose texts equal the reference's: {result['texts_equal_to_reference']:.1%}",
        f"- peak memory: {result['peak_memory_mib']:.0f} MiB",
        "",
        "```",
        result["command"],
        "```",
        "",
        "The reference's generation:",
        "",
        "```python",
        result["reference_source"].rstrip(),
        "```",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.throughput.speed"))
