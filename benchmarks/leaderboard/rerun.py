"""A random part of an entry, played again and compared with its journals.

Where the texts are at hand, a run is rerun *step by step*: each step starts from what the entry
says happened before, so that one token that floating point decided otherwise changes one action
and nothing after it. Without the texts a run is rerun *freely*, from its warm-up to its end.

Only what is asked for is believed of an entry: which models played comes from whoever verifies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.prompts.fingerprint import prompts_digest
from benchmarks.fidelity.cases import Case, digest
from benchmarks.fidelity.conditions import CORE, Condition
from benchmarks.fidelity.entry import Entry, Written, read_texts, text_hash
from benchmarks.fidelity.measure import WORLDS, Plan, Task, process_of, real_labels, score_block
from benchmarks.fidelity.tracks import TRACKS, read_pool
from benchmarks.simulate import build_methods, sampling_parameters
from mfenv.dynamics.assemble import AUTO, build_annotator, build_backbone, check_names, method_names
from mfenv.dynamics.engine import label_rows
from mfenv.dynamics.process import MeanFieldProcess, advance, replay, warm_up
from mfenv.dynamics.records import StepRecord
from mfenv.errors import MfenvError
from mfenv.labels import SILENT_REPOST, Labels
from mfenv.noise import generator

__all__ = [
    "MIN_RUNS",
    "Agreement",
    "Choice",
    "Share",
    "draw",
    "plans_of",
    "real_agreement",
    "rerun",
    "rescore",
]

MIN_RUNS = 5
"""Runs of each method that are played again at least."""

_DRAW_STREAM = 7021

Run = tuple[int, int]
"""Index of a case in its entry, and seed."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is played again of one method in one condition."""

    condition: str
    method: str
    runs: Sequence[Run]
    scored: Sequence[int]
    """Cases whose likelihood is computed again."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many things of each run agree, of those that could differ; arrays ``(runs,)``.

    A silent repost in both is no evidence and is left out: where most people are silent, anybody's
    journal would agree.
    """

    compared: NDArray[np.int64]
    same: NDArray[np.int64]

    @property
    def total(self) -> float:
        """Over all runs; 1 where there was nothing to compare."""
        compared = int(self.compared.sum())
        return int(self.same.sum()) / compared if compared else 1.0

    @property
    def worst(self) -> float:
        """Of the run that agrees least."""
        some = self.compared > 0
        return float((self.same[some] / self.compared[some]).min()) if some.any() else 1.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far runs that were played again are what the journals say."""

    labels: Share
    """Actions with the same eight labels."""
    texts: Share | None
    """Actions with the same text; ``None`` where the entry's texts are not at hand, and the runs
    were played freely instead of step by step."""
    steps: Share
    """Steps all of whose texts, the mean field's included, have the journal's hash."""
    relabelled: Share | None
    """Recorded texts that get the recorded labels from the annotator."""
    tokens: tuple[int, int]
    """Prompt and written tokens, recorded and of the rerun."""


def draw(
    entry: Entry, key: str, fraction: float, seed: int, methods: Sequence[str]
) -> list[Choice]:
    """Choose what is played again: a pure function of the entry's hash ``key`` and ``seed``.

    Of every method in every condition ``fraction`` of the runs, and at least :data:`MIN_RUNS`.
    """
    rng = generator(_DRAW_STREAM, seed, int(key[:15], 16))
    choices = []
    for condition, facts in entry.manifest.conditions.items():
        runs = [(case, s) for case in facts.cases for s in entry.manifest.seeds]
        for method in facts.methods:
            some = [_some(rng, len(x), fraction) for x in (runs, facts.cases)]
            if method in methods:
                chosen = [runs[i] for i in some[0]]
                choices.append(Choice(condition, method, chosen, [facts.cases[i] for i in some[1]]))
    return choices


def _some(rng: np.random.Generator, n: int, fraction: float) -> list[int]:
    count = min(n, max(MIN_RUNS, math.ceil(fraction * n)))
    return sorted(rng.choice(n, size=count, replace=False).tolist())


# -- models and cases ------------------------------------------------------------------------


def plans_of(
    entry: Entry,
    data: Path | None,
    *,
    backbone: str | None,
    methods: Sequence[str] | None,
    annotator: str = AUTO,
) -> dict[str, Plan]:
    """The entry's conditions with its cases and models, ready to be played.

    ``backbone`` and ``methods`` are names for :mod:`mfenv.dynamics.assemble`. Without them the
    entry's own names are taken, where those need no argument: what an entry names is not loaded
    from anywhere. Raises ``MfenvError`` where the events or a model are not those of the entry.
    """
    manifest = entry.manifest
    cases = _cases(entry, data)
    name = backbone or _backbone_name(entry)
    chosen = _method_names(entry, methods)
    for method in chosen.values():
        check_names(backbone=name, method=method, annotator=annotator)
    if manifest.prompts != prompts_digest():
        raise MfenvError(
            f"the entry was made with other prompts ({manifest.prompts[:12]}…) than this version's "
            f"({prompts_digest()[:12]}…); use mfenv {manifest.package}"
        )
    groups = list(dict.fromkeys(case.group for case in cases))
    backbones = {group: name.replace("{event}", group) for group in groups}
    described = [build_backbone(each).describe() for each in dict.fromkeys(backbones.values())]
    if not _are_those(manifest.backbone, described):
        raise MfenvError(f"the entry's backbone is {_models(manifest.backbone)}, {name} is "
                         f"{_models(described)}; give --backbone")  # fmt: skip
    labeller = build_annotator(annotator, cases[0].event)
    if labeller.name != manifest.annotator:
        raise MfenvError(
            f"the entry's annotator is {manifest.annotator}, this one is {labeller.name}; give "
            f"--annotator"
        )
    plans, made = {}, {}
    for condition, facts in manifest.conditions.items():
        sampling = facts.sampling.partition(":")[0]
        if facts.sampling != sampling_parameters(sampling):
            raise MfenvError(
                f"condition {condition}: sampling {facts.sampling!r} is unknown to this version; "
                f"use mfenv {manifest.package}"
            )
        mine = {short: full for short, full in chosen.items() if short in facts.methods}
        models = {}
        for group in groups:
            key = (tuple(mine.values()), backbones[group], sampling)
            if key not in made:
                built = build_methods(*key)
                made[key] = dict(zip(mine, built.values(), strict=True))
            models[group] = made[key]
        for short in mine:
            identity = models[groups[0]][short].identity(short)
            if identity != facts.methods[short]:
                raise MfenvError(
                    f"method {short} of the entry is {facts.methods[short]}, {mine[short]} is "
                    f"{identity}; give --methods"
                )
        plans[condition] = Plan(
            condition=Condition(
                condition, tuple(mine), facts.warmup, facts.horizon, facts.batch, sampling
            ),
            cases=[cases[i] for i in facts.cases],
            models=models,
            annotator=labeller,
            seeds=manifest.seeds,
            identity={},
            folder=entry.folder,
        )
    return plans


def _cases(entry: Entry, data: Path | None) -> list[Case]:
    """The entry's cases, found by their hashes."""
    manifest = entry.manifest
    track = TRACKS[manifest.track]
    reactions = max(c.warmup + c.horizon for c in manifest.conditions.values())
    # Streams are cut as the core condition needs it.
    core = manifest.conditions.get(CORE, next(iter(manifest.conditions.values())))
    least = max(track.min_posts, reactions + 1)
    events = manifest.n_cases if data is None and manifest.n_cases > track.events else None
    pool = read_pool(track, manifest.split, data, least=least, events=events)
    if pool.sha256 != manifest.data["sha256"]:
        raise MfenvError(
            f"the entry was made with {manifest.data['file']} (SHA-256 "
            f"{manifest.data['sha256'][:12]}…), this is {pool.source} ({pool.sha256[:12]}…); give "
            f"--data"
        )
    known = {digest(c.event.event_id): c for c in pool.cases(track, core.warmup + core.horizon)}
    for i, case in enumerate(entry.cases):
        if case.event not in known:
            raise MfenvError(f"case {i} of the entry is none of the events in {pool.source}")
    return [known[case.event] for case in entry.cases]


def _backbone_name(entry: Entry) -> str:
    models = entry.manifest.backbone
    name = models[0].get("name", "")
    if len(models) > 1 or ":" in name:
        raise MfenvError(
            f"the entry's backbone is {_models(models)}; what an entry names is not loaded by "
            f"itself: give --backbone"
        )
    return name


def _method_names(entry: Entry, methods: Sequence[str] | None) -> dict[str, str]:
    """Short names, as in the entry → the names to build them from."""
    known = {m: i for c in entry.manifest.conditions.values() for m, i in c.methods.items()}
    chosen = method_names(list(known) if methods is None else methods)
    for short in chosen:
        if short not in known:
            raise MfenvError(f"--methods: {short} is none of the entry's: {', '.join(known)}")
    if methods is None and (learned := [m for m, i in known.items() if "@" in i]):
        raise MfenvError(
            f"method {learned[0]} has learned something, so that its folder is needed: give "
            f"--methods, such as {','.join(m + ':DIR' if m in learned else m for m in known)}"
        )
    return chosen


def _are_those(stated: Sequence[Mapping[str, str]], found: Sequence[Mapping[str, str]]) -> bool:
    """Whether models are what an entry states of them, name and revision at least.

    What a later version says beside that, an earlier one's entry does not state.
    """
    return len(stated) == len(found) and all(
        {"name", "revision"} <= {*one} and all(other.get(k) == v for k, v in one.items())
        for one, other in zip(stated, found, strict=True)
    )


def _models(models: Sequence[Mapping[str, str]]) -> str:
    return "; ".join(f"{m.get('name', '?')} {m.get('revision', '?')}" for m in models)


# -- playing again ---------------------------------------------------------------------------


def rerun(entry: Entry, plan: Plan, choice: Choice, texts: Path | None) -> Agreement:
    """Play the chosen runs of a method again and compare them with the entry.

    ``texts`` is the folder that holds the entry's texts; ``None`` where they are not at hand.
    """
    written: dict[tuple[int, int, int], Written] = {}
    if texts is not None:
        wanted = {*choice.runs}
        for step in read_texts(entry, texts, choice.condition, choice.method):
            if (step.case, step.seed) in wanted:
                written[step.case, step.seed, step.step] = step
    parts = [
        _rerun(entry, plan, choice, choice.runs[start : start + WORLDS], written)
        for start in range(0, len(choice.runs), WORLDS)
    ]
    merged: dict[str, Any] = {}
    for name in ("labels", "texts", "steps", "relabelled"):
        shares = [getattr(part, name) for part in parts]
        merged[name] = None if shares[0] is None else Share(
            np.concatenate([s.compared for s in shares]), np.concatenate([s.same for s in shares])
        )  # fmt: skip
    tokens = tuple(np.sum([part.tokens for part in parts], axis=0).tolist())
    return Agreement(tokens=tokens, **merged)


def _rerun(
    entry: Entry,
    plan: Plan,
    choice: Choice,
    runs: Sequence[Run],
    written: Mapping[tuple[int, int, int], Written],
) -> Agreement:
    facts, played = entry.manifest.conditions[choice.condition], entry.played[choice.condition]
    places = [(entry.manifest.seeds.index(seed), facts.cases.index(case)) for case, seed in runs]
    tasks = [Task(k, choice.method, seed) for (_, k), (_, seed) in zip(places, runs, strict=True)]
    labels = [played.simulated[choice.method][place] for place in places]  # (H, 8) each
    hashes = [played.texts[choice.method][place] for place in places]
    processes = [process_of(plan, task) for task in tasks]
    warm_up(processes)
    tallies = {name: np.zeros((2, len(runs)), dtype=np.int64)
               for name in ("labels", "texts", "steps", "relabelled")}  # fmt: skip

    def tally(name: str, run: int, compared: int, same: int) -> None:
        tallies[name][:, run] += compared, same

    tokens = 0
    step = 0
    while not processes[0].done:
        # Step by step, the process itself takes what was recorded; a copy of it plays.
        made = advance([p.fork() for p in processes] if written else processes)
        for r, ((case, seed), record) in enumerate(zip(runs, made, strict=True)):
            first = int(record.agents[0]) - facts.warmup
            recorded = labels[r][first : first + len(record.agents)]
            tally("labels", r, *_same_labels(recorded, record.labels))
            tally("steps", r, 1, text_hash(case, seed, record) == hashes[r][step])
            tokens += record.prompt_tokens + record.completion_tokens
            if not written:
                continue
            was = written[case, seed, record.step]
            tally("texts", r, *_same_texts(was.actions, record.texts))
            again = _labels(processes[r], was.actions)
            tally("relabelled", r, len(again), int((again == recorded).all(axis=1).sum()))
            replay(processes[r], _record(record, was, recorded))
        step += 1
    spent = sum(int(played.tokens[choice.method][place].sum()) for place in places)
    shares = {name: Share(*x) for name, x in tallies.items()}
    return Agreement(
        labels=shares["labels"],
        texts=shares["texts"] if written else None,
        steps=shares["steps"],
        relabelled=shares["relabelled"] if written else None,
        tokens=(spent, tokens),
    )


def _same_labels(a: Labels, b: Labels) -> tuple[int, int]:
    same = (a == b).all(axis=1)
    silent = same & (a == SILENT_REPOST).all(axis=1)
    return int((~silent).sum()), int((same & ~silent).sum())


def _same_texts(a: Sequence[str], b: Sequence[str]) -> tuple[int, int]:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x.strip() or y.strip()]
    return len(pairs), sum(x == y for x, y in pairs)


def _record(made: StepRecord, was: Written, labels: Labels) -> StepRecord:
    """The recorded step, with what an entry does not keep from the rerun: prompts, candidates."""
    return replace(made, texts=tuple(was.actions), labels=labels, mean_field=was.mean_field)


def _labels(process: MeanFieldProcess, texts: Sequence[str]) -> Labels:
    """Labels ``(n, 8)`` of texts, from the process's annotator."""
    event = process.event
    rows = [(event.topic, text, event.language) for text in texts]
    return np.array(label_rows(process.annotator, rows))


def rescore(entry: Entry, plan: Plan, choices: Sequence[Choice]) -> dict[str, float]:
    """Largest relative difference of a case's likelihood, by method; those that have none are left.

    ``choices`` are those of the plan's condition. Infinite where the number of tokens differs.
    """
    played, worst = entry.played[plan.condition.name], {}
    known = [c for c in choices if not np.isnan(played.likelihoods[c.method]).any()]
    if not known:
        return {}
    cases = sorted({i for c in known for i in c.scored})
    places = [list(played.cases).index(i) for i in cases]
    condition = replace(plan.condition, methods=tuple(c.method for c in known))
    models = {
        group: {m: pairs[m] for m in condition.methods} for group, pairs in plan.models.items()
    }
    made = score_block(replace(plan, condition=condition, models=models), places)
    for choice in known:
        was = played.likelihoods[choice.method][places]
        now = np.array(made[choice.method])
        if not np.array_equal(was[:, 1:], now[:, 1:]):
            worst[choice.method] = math.inf
            continue
        worst[choice.method] = float(np.max(np.abs(now[:, 0] / was[:, 0] - 1)))
    return worst


def real_agreement(entry: Entry, plans: Mapping[str, Plan]) -> tuple[int, int]:
    """Real reactions of all cases: how many there are, and how many get the entry's labels."""
    total = same = 0
    plan = max(plans.values(), key=lambda p: p.condition.warmup + p.condition.horizon)
    for i, case in zip(entry.played[plan.condition.name].cases, plan.cases, strict=True):
        labels = real_labels(case, plan.annotator, plan.condition)
        total += len(labels)
        same += int((labels == entry.cases[i].real[: len(labels)]).all(axis=1).sum())
    return total, same
