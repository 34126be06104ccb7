"""``mfenv serve-advice``: how many requests, sequences and worlds fill a server.

Prompt and answer lengths come from the project's own prompts on given events; the memory of a
sequence from the model's shape; how many in flight are worth it from a measured rate
(``--measure``), else from memory alone.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agents.prompts import ChatPrompts, PromptFormat, TaggedPrompts
from benchmarks.throughput.load import Curve, Point, fit, measure
from benchmarks.throughput.memory import (
    BYTES,
    KNOWN,
    Memory,
    ModelShape,
    read_shape,
    sequence_tokens,
)
from benchmarks.throughput.workload import Workload, by_characters, playback
from mfenv.cli import integer
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.load import load_events
from mfenv.events.synthetic.generator import SyntheticSociety

__all__ = ["HELP", "Advice", "add_arguments", "advise", "run", "worlds_together"]

HELP = "what concurrency, --max-num-seqs and worlds fill a model server"

_SOCIETY = 9  # of no shipped model's training
_STEPS = 2
_ENOUGH = 0.9  # of the rate at which more in flight gains nothing
_SLACK = 1.25  # of the longest sequence that was seen
_USUAL = 256  # sequences at once where nothing was measured
_MOST = 4096  # worlds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mfenv serve-advice``."""
    add = parser.add_argument
    add("--backbone", metavar="SPEC", help="openai:MODEL[@URL,…], or the name of a model")
    add("--config", type=Path, metavar="FILE", help="its config.json, for a model not known here")
    for name, what in (
        ("layers", "layers"),
        ("kv-heads", "heads of keys and values"),
        ("head-dim", "size of a head"),
    ):
        add(f"--{name}", type=integer(1), metavar="N", help=f"{what}, where there is no file")
    add("--parameters", type=float, metavar="P", help="of the model, 7.6e9 for example")
    add("--dtype", choices=BYTES, default="bfloat16", help="of the weights (%(default)s)")
    add("--kv-dtype", choices=BYTES, default="bfloat16", help="of keys and values (%(default)s)")
    add("--gpu-memory", type=float, default=80.0, metavar="GIB", help="of a GPU (%(default)s)")
    add("--gpu-share", type=float, default=0.9, metavar="S", help="that is used (%(default)s)")
    add("--tensor-parallel", type=integer(1), default=1, metavar="N", help="GPUs a replica")
    add("--replicas", type=integer(1), metavar="N", help="(the number of URLs, else 1)")
    add("--data", type=Path, metavar="FILE", help="events; none: the synthetic society")
    add(
        "--events", type=integer(1), default=4, metavar="K", help="that are looked at (%(default)s)"
    )
    add("--batch", type=integer(1), default=16, metavar="n", help="agents a step (%(default)s)")
    add("--worlds", type=integer(1), metavar="W", help="events times seeds that there are to play")
    add("--thinking-tokens", type=integer(0), default=0, metavar="N", help="beside each answer")
    add(
        "--characters-per-token",
        type=float,
        metavar="C",
        help="of the model's tokenizer (4 for English, 1.5 for Chinese events)",
    )
    add(
        "--measure",
        nargs="?",
        const="",
        metavar="URL",
        help="send a short load to the running server (of the specification, or this one)",
    )
    add("--concurrencies", default="1,4,16,64", metavar="C,…", help="of the load (%(default)s)")
    add("--json", action="store_true", help="print JSON only")


@dataclass(frozen=True, slots=True)
class Advice:
    """What is recommended, and the figures that lead there."""

    prompt_tokens: dict[str, float]
    """Mean tokens of a prompt, by phase."""
    written_tokens: dict[str, float]
    hit_rate: dict[str, float]
    """Share of the prompt tokens that a prefix cache has, by phase."""
    sequence_tokens: float
    """Of the cache, for an acting agent at its longest."""
    sequence_bytes: float | None
    fits: int | None
    """Sequences that one replica holds."""
    max_num_seqs: int
    """For each replica."""
    max_model_len: int
    concurrency: int
    """Requests in flight, over all replicas."""
    worlds: int
    """To be played together."""
    points: list[dict[str, float]]
    expected_rate: float | None
    """Decisions a second with these settings, where a rate was measured."""


def worlds_together(curve: Curve, workload: Workload, concurrency: int) -> tuple[int, float]:
    """The fewest worlds with nine tenths of the best rate, and that rate in decisions a second.

    In a step of W worlds, W · n actions and then W summaries are asked for, so that few worlds
    leave the server idle while their summaries are written. A summary takes as much longer than
    an action as it has more tokens to write.
    """
    n = workload.batch
    longer = max(1e-9, float(workload.summary.written.mean() / workload.act.written.mean()))

    def rate(worlds: int) -> float:
        def phase(requests: int) -> float:
            together = min(requests, concurrency)
            return requests * curve.time(together) / together

        return worlds * n / (phase(worlds * n) + longer * phase(worlds))

    best = rate(_MOST)
    for worlds in range(1, _MOST + 1):
        if rate(worlds) >= _ENOUGH * best:
            return worlds, rate(worlds)
    return _MOST, best


def advise(
    workload: Workload,
    cache_tokens: int | None,
    token_bytes: int | None,
    *,
    replicas: int = 1,
    points: Sequence[Point] = (),
    worlds: int | None = None,
) -> Advice:
    """Settings from lengths, memory (``None``: somebody else's) and a measured rate."""
    tokens = sequence_tokens(workload)
    fits = None if cache_tokens is None else int(cache_tokens // tokens)
    if fits == 0:
        raise MfenvError(
            f"a sequence needs {tokens:.0f} tokens of the cache and {cache_tokens} fit; use more "
            f"GPUs a replica (--tensor-parallel) or larger ones (--gpu-memory)"
        )
    rate = None
    most = _USUAL * replicas if fits is None else fits * replicas
    if points:
        curve = fit(points)
        # Beyond twice what was measured the line is a guess.
        within = max(1, min(most, 2 * max(p.concurrency for p in points)))
        concurrency = curve.enough(_ENOUGH, within)
        together, rate = worlds_together(curve, workload, concurrency)
    else:
        concurrency = min(most, _USUAL * replicas)
        together = math.ceil(concurrency / workload.batch)
    if worlds is not None:
        together = min(together, worlds)
        concurrency = min(concurrency, together * workload.batch)
    phases = {"act": workload.act, "summary": workload.summary}
    return Advice(
        prompt_tokens={k: float(p.prompt.mean()) for k, p in phases.items()},
        written_tokens={k: float(p.written.mean()) for k, p in phases.items()},
        hit_rate={k: p.hit_rate for k, p in phases.items()},
        sequence_tokens=tokens,
        sequence_bytes=None if token_bytes is None else tokens * token_bytes,
        fits=fits,
        max_num_seqs=max(1, math.ceil(concurrency / replicas)),
        max_model_len=256 * math.ceil(max(p.longest for p in phases.values()) * _SLACK / 256),
        concurrency=concurrency,
        worlds=together,
        points=[{**asdict(p), "rate": p.rate, "seconds_a_request": p.time} for p in points],
        expected_rate=rate,
    )


# -- the command -----------------------------------------------------------------------------


def run(args: argparse.Namespace) -> int:
    """Compute, measure if asked to, print."""
    model, urls = _model(args)
    shape = _shape(args, model)
    memory = Memory(
        args.gpu_memory, args.gpu_share, args.tensor_parallel, args.dtype, args.kv_dtype
    )
    events = _events(args)
    characters = args.characters_per_token
    encode = by_characters(characters or (1.5 if events[0].language == "zh" else 4.0))
    workload = playback(
        _prompts(),
        encode,
        events,
        batch=args.batch,
        steps=_STEPS,
        more=args.thinking_tokens,
    )
    points = _measured(args, model, urls, events) if args.measure is not None else []
    replicas = args.replicas or max(1, len(urls))
    advice = advise(
        workload,
        None if shape is None else memory.cache_tokens(shape),
        None if shape is None else shape.token_bytes(args.kv_dtype),
        replicas=replicas,
        points=points,
        worlds=args.worlds,
    )
    lines = command_lines(advice, model, urls, memory, replicas, local=shape is not None)
    if args.json:
        print(json.dumps({**asdict(advice), "commands": lines}))
    else:
        print(_text(advice, model, args.batch, replicas, lines))
    return 0


def _model(args: argparse.Namespace) -> tuple[str, list[str]]:
    """The model's name, and the URLs of its servers if they are given."""
    spec: str = args.backbone or ""
    urls: list[str] = []
    if spec.startswith("openai:"):
        from agents.backbones.served import split_spec, split_urls

        spec, given = split_spec(spec.removeprefix("openai:"))
        urls = [] if given is None else split_urls(given)
        if args.measure:
            urls = split_urls(args.measure)
    elif args.measure is not None:
        raise MfenvError("--measure needs --backbone openai:MODEL[@URL]: who is to be asked")
    return spec or "MODEL", urls


def _shape(args: argparse.Namespace, model: str) -> ModelShape | None:
    given = [args.layers, args.kv_heads, args.head_dim, args.parameters]
    if args.config is not None:
        return read_shape(args.config)
    if all(x is not None for x in given):
        return ModelShape(*given)
    if any(x is not None for x in given):
        raise MfenvError("a shape is all of --layers, --kv-heads, --head-dim and --parameters")
    if model in KNOWN:
        return KNOWN[model]
    if args.backbone and args.backbone.startswith("openai:"):
        return None  # somebody else's memory
    raise MfenvError(
        f"the shape of {model!r} is not known; give its --config FILE, or --layers, --kv-heads, "
        f"--head-dim and --parameters; known: {', '.join(KNOWN)}"
    )


def _events(args: argparse.Namespace) -> list[Event]:
    posts = args.batch * (_STEPS + 1) + 1
    if args.data is None:
        return list(SyntheticSociety(_SOCIETY).events(args.events, n_posts=posts))
    long = [e for e in load_events(args.data) if len(e.posts) >= posts][: args.events]
    if not long:
        raise MfenvError(f"{args.data}: no event has {posts} posts; lower --batch")
    return long


def _prompts() -> PromptFormat:
    """The format that a served model is asked in."""
    from agents.backbones.served import ServerSettings

    tagged = ServerSettings.from_environment().prompts == "tagged"
    return TaggedPrompts() if tagged else ChatPrompts()


def _measured(
    args: argparse.Namespace, model: str, urls: Sequence[str], events: Sequence[Event]
) -> list[Point]:
    from agents.backbones.sampling_parameters import PRESETS
    from agents.backbones.served import ServedBackbone
    from benchmarks.throughput.workload import acting_prompts

    try:
        levels = [integer(1)(c) for c in args.concurrencies.split(",")]
    except argparse.ArgumentTypeError as error:
        raise MfenvError(f"--concurrencies: {error}, with commas between them") from None
    backbone = ServedBackbone(model, ",".join(urls) or None, use_cache=False)
    prompts = acting_prompts(backbone.prompts, events, batch=args.batch, steps=_STEPS)
    return measure(backbone, prompts, PRESETS["ancestral"].policy, levels)


def command_lines(
    advice: Advice,
    model: str,
    urls: Sequence[str],
    memory: Memory,
    replicas: int,
    *,
    local: bool,
) -> list[str]:
    """The commands that the advice amounts to: the servers', where they are one's own, and ours."""
    lines = []
    if local:
        vllm = (
            f"vllm serve {model} --enable-prefix-caching --max-num-seqs {advice.max_num_seqs} "
            f"--max-model-len {advice.max_model_len} --gpu-memory-utilization {memory.share:g}"
        )
        sglang = (
            f"python -m sglang.launch_server --model-path {model} --port 8000 "
            f"--max-running-requests {advice.max_num_seqs} "
            f"--context-length {advice.max_model_len}"
        )
        # vLLM's limit is for each replica, and so is SGLang's here: one process a replica.
        if memory.gpus > 1:
            vllm += f" --tensor-parallel-size {memory.gpus}"
            sglang += f" --tp-size {memory.gpus}"
        if replicas > 1 and len(urls) < 2:
            vllm += f" --data-parallel-size {replicas}"
            sglang += f" --dp-size {replicas}"
        lines += [vllm, sglang]
    where = ",".join(urls) or ("http://127.0.0.1:8000/v1" if local else "")
    spec = f"openai:{model}" + (f"@{where}" if where else "")
    lines.append(
        f"MFENV_OPENAI_CONCURRENCY={advice.concurrency} mfenv simulate --backbone {spec} "
        f"--method mf --seeds {advice.worlds}"
    )
    return lines


def _text(advice: Advice, model: str, batch: int, replicas: int, lines: Sequence[str]) -> str:
    rows = [f"{model}, {batch} agents a step, replicas: {replicas}", ""]
    for phase in ("act", "summary"):
        rows.append(
            f"{phase:8} prompt {advice.prompt_tokens[phase]:6.0f} tokens, "
            f"{advice.hit_rate[phase]:4.0%} of them in a prefix cache; "
            f"answer {advice.written_tokens[phase]:4.0f} tokens"
        )
    if advice.sequence_bytes is not None:
        rows.append(
            f"memory   {advice.sequence_tokens:.0f} tokens a sequence, "
            f"{advice.sequence_bytes / 2**20:.1f} MiB; {advice.fits:,} sequences fit a replica"
        )
    for p in advice.points:
        rows.append(
            f"measured {p['concurrency']:4.0f} in flight: {p['rate']:8.2f} decisions/s, "
            f"{p['seconds_a_request']:.2f} s each"
        )
    if advice.expected_rate is not None:
        rows.append(f"expected {advice.expected_rate:.2f} decisions/s, mean fields included")
    else:
        rows.append("not measured: with a server running, --measure says how many are worth it")
    rows += [
        "",
        f"in flight {advice.concurrency}, sequences a replica {advice.max_num_seqs}, worlds "
        f"together {advice.worlds}",
        "",
        *lines,
    ]
    return "\n".join(rows)
