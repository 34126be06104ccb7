"""Does a backbone repeat its training texts? ``python -m benchmarks.memorisation``.

Reactions are generated for events that were not trained on, and every window of 20 characters of
theirs is looked up among all windows of the training texts. A window that also stands in the
prompt is no memory. Windows that at least 20 training events share (set phrases, chains that
everybody forwards) are counted apart. Only counts are written, no text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.fidelity import machine
from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import build_process
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, advance, warm_up
from mfenv.events.event import Event
from mfenv.events.load import load_events

__all__ = ["HELP", "WINDOW", "add_arguments", "copied", "run", "window_hashes"]

HELP = "look for verbatim copies of training texts in generations"
WINDOW = 20
_COMMON = 20  # events that share a set phrase
_BASE = np.uint64(0x100000001B3)
_SEPARATOR = "\0"

Hashes = NDArray[np.uint64]


def window_hashes(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Hashes of all windows of ``WINDOW`` characters, and the text each comes from: ``(w,)`` each.

    White space is folded. A window never spans two texts.
    """
    folded = [" ".join(t.split()) for t in texts]
    long = [i for i, t in enumerate(folded) if len(t) >= WINDOW]
    if not long:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    joined = _SEPARATOR.join(folded[i] for i in long)
    codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    owner = np.repeat(np.array(long), [len(folded[i]) + 1 for i in long])[: len(codes)]
    n = len(codes) - WINDOW + 1
    hashes = np.zeros(n, np.uint64)
    with np.errstate(over="ignore"):
        for k in range(WINDOW):
            hashes = hashes * _BASE + codes[k : k + n]
            hashes ^= hashes >> np.uint64(29)
    inside = owner[:n] == owner[WINDOW - 1 :]
    whole = inside & (codes[WINDOW - 1 :] != 0)  # the separator belongs to the text before it
    return hashes[whole], owner[:n][whole]


def copied(
    texts: Sequence[str], prompts: Sequence[str], training: Sequence[Sequence[str]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which generated texts hold a training window: ``(n,)`` rare ones, ``(n,)`` common ones.

    ``training`` are the texts of each event. Windows of a text's own prompt are left out.
    """
    wanted, owner = window_hashes(texts)
    given, asked = window_hashes(prompts)
    prompted = set(zip(given.tolist(), asked.tolist(), strict=True))
    keep = [pair not in prompted for pair in zip(wanted.tolist(), owner.tolist(), strict=True)]
    wanted, owner = wanted[keep], owner[keep]
    distinct = np.unique(wanted)
    events = np.zeros(len(distinct), dtype=np.int64)
    for event in training:
        here = np.unique(window_hashes(event)[0])
        events += np.isin(distinct, here, assume_unique=True)
    found = events[np.searchsorted(distinct, wanted)]
    rare, common = np.zeros(len(texts), bool), np.zeros(len(texts), bool)
    rare[owner[(found > 0) & (found < _COMMON)]] = True
    common[owner[found >= _COMMON]] = True
    return rare, common


def _generate(events: Sequence[Event], backbone: str, seed: int) -> tuple[list[str], list[str]]:
    settings = ProcessSettings(agents=146, batch=16, warmup=50)
    processes: list[MeanFieldProcess] = []
    for number, event in enumerate(events):
        process = build_process("mf-counted", backbone, "auto", event, settings)
        process.begin(event, seed + number)
        processes.append(process)
    warm_up(processes)
    texts: list[str] = []
    prompts: list[str] = []
    while live := [p for p in processes if not p.done]:
        for record in advance(live):
            texts += record.texts
            prompts += record.prompts
    return texts, prompts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the check."""
    parser.add_argument("--backbone", default="weibo-s")
    parser.add_argument("--train", type=Path, required=True, help="events it was trained on")
    parser.add_argument("--data", type=Path, required=True, help="events to generate for")
    parser.add_argument("--events", type=integer(1), default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))


def run(args: argparse.Namespace) -> int:
    """Generate, look up, print and write the counts."""
    events = [e for e in load_events(args.data) if len(e.posts) > 146]
    events = sorted(events, key=lambda e: e.event_id)[: args.events]
    texts, prompts = _generate(events, args.backbone, 0)
    training = [[e.topic, *e.posts.texts] for e in load_events(args.train)]
    rare, common = copied(texts, prompts, training)
    real = [t for e in events for t in e.posts.texts[51:147]]
    real_rare, real_common = copied(real, [e.topic for e in events for _ in range(96)], training)
    lines = [
        f"# Verbatim copies of training texts: {args.backbone}",
        "",
        f"{len(texts)} reactions generated for {len(events)} events that were not trained on "
        f"(`mf-counted`, ancestral sampling, 96 each); windows of {WINDOW} characters looked up in "
        f"the {sum(map(len, training)):,} texts of {len(training):,} training events.",
        "",
        "| | texts | with a window of fewer than 20 training events | with a set phrase of 20 or "
        "more events |",
        "|---|---|---|---|",
        f"| generated | {len(texts)} | {rare.sum()} ({rare.mean():.2%}) | {common.sum()} "
        f"({common.mean():.2%}) |",
        f"| real reactions to the same events | {len(real)} | {real_rare.sum()} "
        f"({real_rare.mean():.2%}) | {real_common.sum()} ({real_common.mean():.2%}) |",
        "",
        f"- machine: {machine()}",
        f"- command: `mfenv bench memorisation --backbone {args.backbone} --train "
        f"TRAIN --data VALIDATION --events {args.events}`",
    ]
    text = "\n".join(lines) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"memorisation-{args.backbone.replace(':', '-').replace('/', '-')}.md").write_text(
        text
    )
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.memorisation"))
