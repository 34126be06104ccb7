"""Real events as episodes, and refutations in them as natural statements.

Nobody intervened in real events. What comes nearest to a statement is a refutation that a
reaction brings up (on Weibo: one that says 辟谣, or an organisation's verified account whose
reaction counters the rumour). From the step after it a statement is taken to run, and to fade as
statements do. What follows a refutation would partly have come anyway, so each is matched with a
placebo: the same step of another event, without any refutation, that looks most alike. The effect
of a statement is what follows refutations less what follows placebos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mfenv.dynamics.assemble import build_annotator
from mfenv.dynamics.process import ProcessSettings, real_rollout
from mfenv.dynamics.surrogate.kernel import archetype_chances, offsets
from mfenv.dynamics.surrogate.model import TO_LABELS, Kernel
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.load import load_events
from mfenv.interventions import DECAY, STRENGTHS, Kind
from mfenv.labels import NAMES, dimension
from training.fit_surrogate.collect import BATCH, HORIZON, WARMUP
from training.fit_surrogate.episodes import Episodes, concatenate, episode, load, save

__all__ = ["Statement", "placebos", "real_episodes", "refutations", "statement_effect", "with_runs"]

Floats = NDArray[np.float64]

_MARK = "辟谣"
_COUNTER = 1  # label of the dimension rumor
_ORGANISATIONS = range(1, 8)  # Weibo's codes of verified organisations
_PART = 32  # events that are labelled and saved together
_FLOOR = 0.1  # as in mfenv.interventions
PLACEBO = Kind.FACT_CHECK
"""The kind in whose place placebos stand while the effect is worked out; real data has none."""


def refutations(event: Event, rumor: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which reactions ``(n,)`` bring up a refutation; ``rumor`` ``(n,)`` are their labels.

    A topic that says the word itself is about a refutation: its reactions then bring up none.
    """
    n = len(rumor)
    marked = np.array([_MARK in text for text in event.posts.texts[1 : n + 1]], dtype=bool)
    if _MARK in event.topic:
        marked[:] = False
    if event.posts.profiles is not None:
        profiles = event.posts.profiles[1 : n + 1]
        official = np.array(
            [p is not None and p.verified_type in _ORGANISATIONS for p in profiles], dtype=bool
        )
        marked |= official & (rumor == _COUNTER)
    return marked


def real_episodes(
    path: Path,
    folder: Path,
    events: int,
    annotator: str,
    tell: Callable[[int, int], None] = lambda done, all: None,
) -> tuple[Episodes, NDArray[np.bool_]]:
    """Up to ``events`` events with enough reactions as episodes; labelled parts survive a kill.

    ``events`` is rounded up to whole parts. Also which batch ``(E, warm-up steps + T)`` brings up
    a refutation.
    """
    needed = WARMUP + HORIZON * BATCH + 1
    events = -(-events // _PART) * _PART
    chosen = [e for e in load_events(path) if len(e.posts) >= needed][:events]
    if len(chosen) < 2:
        raise MfenvError(f"{path}: 2 or more events with {needed - 1} reactions are needed")
    parts, marks = [], []
    for first in range(0, len(chosen), _PART):
        saved = folder / path.stem / f"{first:06d}.safetensors"
        marked = saved.with_suffix(".npy")
        if not (saved.exists() and marked.exists()):
            found = [
                _episode(e, first + i, annotator)
                for i, e in enumerate(chosen[first : first + _PART])
            ]
            saved.parent.mkdir(parents=True, exist_ok=True)
            np.save(marked, np.stack([m for _, m in found]))
            save(concatenate([e for e, _ in found]), saved)
        parts.append(load(saved))
        marks.append(np.load(marked))
        tell(min(first + _PART, len(chosen)), len(chosen))
    return concatenate(parts), np.concatenate(marks)


def _episode(event: Event, number: int, annotator: str) -> tuple[Episodes, NDArray[np.bool_]]:
    settings = ProcessSettings(agents=WARMUP + HORIZON * BATCH, batch=BATCH, warmup=WARMUP)
    records = real_rollout(event, build_annotator(annotator, event), settings)
    warmup = [r for r in records if r.warmup]
    rumor = np.concatenate([r.labels for r in records])[:, dimension("rumor")]
    reaction = refutations(event, rumor)
    marks = np.array([bool(reaction[r.agents].any()) for r in records])
    start = warmup[-1].perceived
    return episode(event, number, warmup, records[len(warmup) :], BATCH, start), marks


def placebos(episodes: Episodes, marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A matched placebo for the first refutation of each event: marks ``(E, steps)`` like those.

    It stands at the same step of the event without refutation whose perceived distribution is
    nearest there (Euclidean); an event serves once.
    """
    result = np.zeros_like(marks)
    before = marks.shape[1] - episodes.actions.shape[1]
    free = np.array(~marks.any(axis=1), dtype=bool)
    for e in np.flatnonzero(marks.any(axis=1)).tolist():
        step = int(marks[e].argmax())
        t = max(0, step - before)
        others = np.flatnonzero(free)
        if not len(others):
            break
        distance = ((episodes.perceived[others, t] - episodes.perceived[e, t]) ** 2).sum(axis=1)
        twin = int(others[distance.argmin()])
        result[twin, step] = True
        free[twin] = False
    return result


def with_runs(episodes: Episodes, marks: NDArray[np.bool_], fake: NDArray[np.bool_]) -> Episodes:
    """The episodes with a statement running after each mark, and a placebo after each fake one."""
    activity = np.zeros_like(episodes.activity)
    before = marks.shape[1] - episodes.actions.shape[1]
    for kind, onsets in ((Kind.STATEMENT, marks), (PLACEBO, fake)):
        running = np.zeros(len(marks))
        for step in range(1, marks.shape[1]):
            running = running * DECAY[Kind.STATEMENT]
            running[running < _FLOOR] = 0.0
            running = np.where(onsets[:, step - 1], 1.0, running)
            if step >= before:
                activity[:, step - before, kind] = running
    return replace(episodes, activity=activity)


@dataclass(frozen=True, slots=True)
class Statement:
    """What is known of statements from refutations."""

    refuted: int  # events with a refutation
    effect: Floats  # (23,) change of shares in the step after one, less the placebo's
    error: Floats  # (23,) its standard deviation over the ensemble
    placebo: Floats  # (23,) change of shares after a placebo

    @property
    def identified(self) -> bool:
        """Whether belief or stance moves by more than two standard deviations."""
        index = [NAMES.index(n) for n in ("belief/believe", "stance/support", "stance/oppose")]
        return bool((np.abs(self.effect[index]) > 2.0 * self.error[index]).any())


def statement_effect(
    kernel: Kernel, members: Sequence[Kernel], episodes: Episodes, refuted: int
) -> tuple[Statement, Kernel, tuple[Kernel, ...]]:
    """The effect, and the kernels with it as their effect of statements and none of placebos."""

    def shares(one: Kernel, kind: Kind | None = None) -> Floats:
        k = len(episodes)
        warmup = episodes.perceived[:, 0]
        offset = offsets(one, episodes.domain, episodes.truth, warmup)
        activity = np.zeros((k, len(Kind)))
        if kind is not None:
            activity[:, kind] = STRENGTHS[-1]
        each = archetype_chances(one, offset, warmup, episodes.latest, np.zeros(k), activity)
        return np.asarray((each[:, 0] @ TO_LABELS).mean(axis=0))

    def differences(one: Kernel) -> tuple[Floats, Floats]:
        quiet = shares(one)
        placebo = shares(one, Kind.FACT_CHECK) - quiet
        return shares(one, Kind.STATEMENT) - quiet - placebo, placebo

    def mended(one: Kernel) -> Iterator[Kernel]:
        notices = np.zeros_like(one.notices)
        notices[:, 0] = one.notices[:, 0] - one.notices[:, 1]
        yield replace(one, notices=notices)

    effect, placebo = differences(kernel)
    spread = np.std([differences(m)[0] for m in members], axis=0, ddof=1)
    found = Statement(refuted, effect, np.asarray(spread), placebo)
    clean = [next(mended(k)) for k in (kernel, *members)]
    if not found.identified:
        clean = [replace(k, notices=np.zeros_like(k.notices)) for k in clean]
    return found, clean[0], tuple(clean[1:])
