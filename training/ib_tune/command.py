"""``mfenv train ib-tune``: tune the mean-field model and the policy model by IB-Tune."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from agents.backbones.adapters import local
from mfenv.cli import integer
from mfenv.dynamics.assemble import AUTO, build_annotator, build_backbone
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.load import load_events
from training.actions import read_heads
from training.configs import ConfigOption, known
from training.folders import one_run
from training.ib_tune.report import verdict, write_report
from training.ib_tune.rounds import PRIORS, VLLM, IBTuneSettings, tune
from training.ib_tune.validation import Validation
from training.sft import SFTSettings

__all__ = ["HELP", "add_arguments", "chosen_events", "run"]

HELP = "tune what is written into the mean field, and the agents that read it (IB-Tune)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``mfenv train ib-tune``."""
    add, d, sft = parser.add_argument, IBTuneSettings(), SFTSettings(steps=200)
    add("--backbone", required=True, metavar="NAME", help="a local one: weibo-s, hf:PATH, …")
    add("--train", type=Path, required=True, metavar="EVENTS", help="events to train on")
    add("--validation", type=Path, required=True, metavar="EVENTS", help="events to choose by")
    add("--out", type=Path, required=True, metavar="DIR", help="checkpoints, adapters, report")
    add(
        "--config",
        action=ConfigOption,
        metavar="FILE",
        help=f"settings in TOML, or one of {', '.join(known())}; options behind it count more",
    )
    add("--rounds", type=integer(1), default=d.rounds, help="at most (%(default)s)")
    add(
        "--beta",
        type=float,
        default=d.beta,
        help="nats of the mean field that a nat an action is worth (%(default)s)",
    )
    add(
        "--beta-warmup",
        type=float,
        default=d.beta_warmup,
        metavar="SHARE",
        help="share of a round's steps in which beta rises from 0 (%(default)s)",
    )
    add("--group", type=integer(2), default=d.group, help="candidates a history (%(default)s)")
    add("--histories", type=integer(1), default=d.histories, help="a step (%(default)s)")
    add("--steps", type=integer(1), default=d.steps, help="of the mean-field model (%(default)s)")
    add("--learning-rate", type=float, default=d.learning_rate, help="its rate (%(default)s)")
    add(
        "--horizon",
        type=integer(1),
        default=d.horizon,
        metavar="K",
        help="a mean field is to predict the next K steps (%(default)s)",
    )
    add("--future", type=integer(1), default=d.future, metavar="K", help="(%(default)s)")
    add(
        "--future-weight",
        type=float,
        default=d.future_weight,
        metavar="W",
        help="of an auxiliary loss: mean fields that state the next K distributions (%(default)s)",
    )
    add("--prior", choices=PRIORS, default=d.prior, help="r(m) (%(default)s)")
    add(
        "--repetition-penalty",
        type=float,
        default=d.repetition_penalty,
        help="on tokens that a candidate repeats (%(default)s)",
    )
    add(
        "--policy-steps",
        type=integer(0),
        default=sft.steps,
        help="a round; 0 tunes the mean-field model alone (%(default)s)",
    )
    add("--policy-learning-rate", type=float, default=sft.learning_rate, help="(%(default)s)")
    add("--r", type=integer(1), default=d.r, help="rank of LoRA (%(default)s)")
    add("--alpha", type=integer(1), default=d.alpha, help="LoRA's scale (%(default)s)")
    add(
        "--events",
        type=integer(1),
        default=200,
        metavar="K",
        help="of --train, chosen by a hash of their ids (%(default)s)",
    )
    add("--validation-events", type=integer(1), default=16, metavar="K", help="(%(default)s)")
    add(
        "--min-posts",
        type=integer(2),
        default=150,
        metavar="N",
        help="only events with at least that many posts (%(default)s)",
    )
    add("--agents", type=integer(2), default=d.agents, metavar="N", help="an event (%(default)s)")
    add("--batch", type=integer(1), default=d.batch, metavar="n", help="a step (%(default)s)")
    add("--warmup", type=integer(1), default=50, metavar="T", help="of rollouts (%(default)s)")
    add("--annotator", default=AUTO, metavar="NAME", help="labels reactions (%(default)s)")
    add("--seed", type=integer(0), default=d.seed, help="(%(default)s)")
    add("--save-steps", type=integer(1), default=d.save_steps, help="(%(default)s)")
    add("--report-to", default=d.report_to, help="as transformers names it (%(default)s)")
    add(
        "--vllm",
        choices=VLLM,
        default=d.vllm,
        help="draw candidates by vLLM as TRL does, here or on its server at port 8000 "
        "(%(default)s); not for weibo-s and embedded-en, whose decoder knows a grammar",
    )


def run(args: argparse.Namespace) -> int:
    """Tune, choose the round by the validation events, and write the report."""
    for name, value, allowed in (
        ("--beta", args.beta >= 0, "0 or more"),
        ("--beta-warmup", 0 <= args.beta_warmup <= 1, "0 to 1"),
        ("--future-weight", args.future_weight >= 0, "0 or more"),
        ("--learning-rate", args.learning_rate > 0, "above 0"),
        ("--policy-learning-rate", args.policy_learning_rate > 0, "above 0"),
        ("--repetition-penalty", args.repetition_penalty > 0, "above 0"),
    ):
        if not value:
            given = getattr(args, name.lstrip("-").replace("-", "_"))
            raise MfenvError(f"{name} {given} is not allowed; allowed: {allowed}")
    PartialState()  # which device is this process's, where several were launched
    backbone = local(build_backbone(args.backbone))
    settings = IBTuneSettings(
        rounds=args.rounds,
        beta=args.beta,
        beta_warmup=args.beta_warmup,
        group=args.group,
        histories=args.histories,
        steps=args.steps,
        learning_rate=args.learning_rate,
        horizon=args.horizon,
        future=args.future,
        future_weight=args.future_weight,
        prior=args.prior,
        repetition_penalty=args.repetition_penalty,
        r=args.r,
        alpha=args.alpha,
        policy=replace(
            SFTSettings(),
            r=args.r,
            alpha=args.alpha,
            steps=args.policy_steps,
            learning_rate=args.policy_learning_rate,
            seed=args.seed,
            save_steps=args.save_steps,
        ),
        agents=args.agents,
        batch=args.batch,
        seed=args.seed,
        save_steps=args.save_steps,
        report_to=args.report_to,
        vllm=args.vllm,
    )
    events = chosen_events(args.train, args.events, args.min_posts)
    unseen = chosen_events(args.validation, args.validation_events, args.min_posts)
    annotator = build_annotator(args.annotator, events[0])
    validation = Validation(
        unseen,
        annotator,
        agents=min(args.agents, args.warmup + 3 * args.batch),
        warmup=args.warmup,
        batch=args.batch,
        seed=args.seed,
    )
    with one_run(args.out):
        folder = tune(backbone, events, validation, annotator, settings, args.out)
        if PartialState().is_main_process:
            write_report(folder, args.out, settings, backbone, len(events), len(unseen))
            found = json.loads((folder / "validation.json").read_text())
            if not found["better_than_untuned"]:
                print(f"mfenv: warning: {verdict(found)}", file=sys.stderr)
    print(f"tuned: {folder}; use it: --backbone {args.backbone} --method ib-tune:{folder}")
    return 0


def chosen_events(path: Path, count: int, posts: int) -> list[Event]:
    """``count`` events of at least so many posts: those whose id has the lowest hash, in its order.

    The others are not loaded.
    """
    long = [h.event_id for h in read_heads(path) if h.posts >= posts]
    if not long:
        raise MfenvError(
            f"{path}: no event has {posts} posts; lower --min-posts, or give longer events"
        )
    chosen = sorted(long, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:count]
    loaded = {e.event_id: e for e in load_events(path, event_ids=chosen)}
    return [loaded[name] for name in chosen]
