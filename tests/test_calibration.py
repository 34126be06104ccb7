"""Calibration in the warm-up: the arithmetic, what it corrects, and what it leaves alone."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import journal_run
import numpy as np
import pytest
from population import Codes, Followers, Summaries, make_event

from benchmarks import metrics
from mfenv.distributions import UNIFORM, counts, normalise, shares
from mfenv.dynamics.assemble import build_method, calibration_of, check_names, method_names
from mfenv.dynamics.calibration import Calibration, Evidence, candidate_uniforms, choose, rake
from mfenv.dynamics.models import ActionResult
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, advance, warm_up
from mfenv.errors import MfenvError
from mfenv.interventions import NONE, Intervention, Kind
from mfenv.labels import (
    N_DIMENSIONS,
    N_LABELS,
    OFFSETS,
    SLICES,
    Labels,
    decode_code,
    encode_code,
    one_hot,
)
from mfenv.noise import NoiseKey, candidate_key, categorical, uniform

TESTS = Path(__file__).parent
SETTINGS = ProcessSettings(agents=300, batch=4, warmup=10)
FACT_CHECK = Intervention(Kind.FACT_CHECK, 2)
DOUBT = SLICES["belief"].start + 1


# -- the arithmetic ------------------------------------------------------------------------


def with_doubt(share: float) -> np.ndarray:
    """Uniform shares but for belief."""
    p = UNIFORM.copy()
    p[SLICES["belief"]] = 1 - share, share
    return p


def evidence(real: float, simulated: float, own: float, n: int = 60, disturbed: bool = False):
    return Evidence(n * with_doubt(real), 4 * n * with_doubt(simulated), with_doubt(own), disturbed)


@pytest.mark.parametrize(
    ("before", "own", "reactions", "expected"),
    [
        # w = 60 / (60 + 20) = 3/4: a quarter of the model's shares, the rest are the real ones.
        (evidence(0.2, 0.6, 0.6), 0.6, 0, 0.25 * 0.6 + 0.75 * 0.2),
        (evidence(0.2, 0.6, 0.6), 0.7, 0, 0.25 * 0.7 + 0.75 * 0.2),
        # Two reactions later it has faded to 3/4 · 0.9².
        (evidence(0.2, 0.6, 0.6), 0.6, 2, 0.6 - 0.75 * 0.81 * 0.4),
        # A turn by 0.3 that is 0.15 outside of the band: 0.15 of it are kept whole.
        (evidence(0.2, 0.6, 0.6), 0.9, 0, 0.9 + 0.75 * (0.2 - 0.75)),
        # After an intervention: from what the model did before, 0.5, its whole movement is kept.
        (evidence(0.2, 0.6, 0.5, disturbed=True), 0.9, 0, 0.9 + 0.75 * (0.2 - 0.5)),
        # Shares end at 0.
        (evidence(0.0, 0.6, 0.6, disturbed=True), 0.1, 0, 0.0),
        # Without a warm-up there is nothing to go by.
        (Evidence.nothing(), 0.9, 0, 0.9),
    ],
)
def test_targets_by_hand(before: Evidence, own: float, reactions: int, expected: float) -> None:
    settings = Calibration(shrinkage=20, fading=0.1, band=0.15)
    target = settings.target(before, with_doubt(own), reactions)
    np.testing.assert_allclose(target, with_doubt(expected), atol=1e-12)


def test_evidence_is_counted_by_hand() -> None:
    labels = np.stack([encode_code("sczrnbop")] * 3 + [encode_code("ccncodoo")])
    seen = Evidence.nothing().saw(counts(labels).astype(int), counts(labels[:1]), rate=1.0)
    np.testing.assert_array_equal(seen.real, counts(labels[:1]))
    np.testing.assert_array_equal(seen.simulated, counts(labels))
    assert seen.own[DOUBT] == 0.25
    later = seen.saw(counts(labels[3:]).astype(int), None, rate=0.5)
    assert later.own[DOUBT] == 0.625
    np.testing.assert_array_equal(later.simulated, seen.simulated)  # only the warm-up is compared
    told = replace(later, disturbed=True).saw(counts(labels[:1]).astype(int), None, rate=0.5)
    assert told.own[DOUBT] == 0.625


def random_candidates(n: int, m: int, seed: int = 0) -> Labels:
    rng = np.random.default_rng(seed)
    return rng.integers(0, np.diff(OFFSETS), size=(n, m, N_DIMENSIONS)).astype(np.int8)


def test_raking_by_hand() -> None:
    believe, doubt = encode_code("sczrnbop"), encode_code("sczrndop")
    pair = np.stack([[believe, doubt]])
    target = shares(np.stack([believe] * 3 + [doubt]))
    np.testing.assert_allclose(rake(pair, target, ridge=1e-9), [[0.75, 0.25]], atol=1e-6)
    # A second agent who only doubts: the first must believe in one and a half of two cases, and
    # can do so in one at most.
    both = np.stack([[believe, doubt], [doubt, doubt]])
    np.testing.assert_allclose(rake(both, target, 1e-3), [[1, 0], [0.5, 0.5]], atol=0.01)
    # The ridge holds against it: 3/4 - σ(2λ) = λ/2 at λ = 0.2526, and σ(2λ) is 0.6237.
    np.testing.assert_allclose(rake(pair, target, ridge=0.5), [[0.6237, 0.3763]], atol=1e-4)


def test_raked_shares_are_the_target_and_the_weights_a_tilt() -> None:
    labels = random_candidates(40, 4)
    x = one_hot(labels)
    target = normalise(UNIFORM * np.random.default_rng(1).uniform(0.7, 1.4, N_LABELS))
    weights = rake(labels, target, ridge=1e-6)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(np.einsum("ij,ijk->k", weights, x) / 40, target, atol=1e-5)
    # log w = λ · x within each agent, for one λ.
    within = (x - x.mean(axis=1, keepdims=True)).reshape(-1, N_LABELS)
    log = np.log(weights)
    log = (log - log.mean(axis=1, keepdims=True)).ravel()
    tilt = np.linalg.lstsq(within, log, rcond=None)[0]
    np.testing.assert_allclose(within @ tilt, log, atol=1e-6)


def test_a_target_that_nobody_can_reach_explodes_nothing() -> None:
    labels = random_candidates(16, 4)
    labels[..., 5] = 0  # nobody doubts
    for target in (with_doubt(1.0), with_doubt(0.0)):
        weights = rake(labels, target)
        assert np.isfinite(weights).all()
        assert weights.max() < 0.9
    same = np.repeat(labels[:, :1], 4, axis=1)
    np.testing.assert_allclose(rake(same, with_doubt(0.5)), 0.25)


def test_joint_choices_come_nearer_to_the_target_and_keep_its_mean() -> None:
    labels, target = random_candidates(16, 4), with_doubt(0.4)

    def made(draws: int) -> np.ndarray:
        u = [candidate_uniforms(0, np.arange(16), step, draws) for step in range(300)]
        return np.stack([shares(labels[np.arange(16), choose(labels, target, x)]) for x in u])

    alone, joint = made(1), made(64)
    gap = [((x - target) ** 2).sum(axis=1).mean() for x in (alone, joint)]
    assert gap[1] < 0.4 * gap[0]
    expected = np.einsum("ij,ijk->k", rake(labels, target), one_hot(labels)) / 16
    np.testing.assert_allclose(alone.mean(axis=0), expected, atol=0.03)
    np.testing.assert_allclose(joint.mean(axis=0), target, atol=0.03)


def test_keys_of_candidates_are_of_nobody_else() -> None:
    keys = {
        candidate_key(NoiseKey(0, a, s), j) for a in range(50) for s in (3, 4) for j in range(5)
    }
    assert len(keys) == 500
    assert candidate_key(NoiseKey(7, 3, 2), 0) == NoiseKey(7, 3, 2)


# -- a population that is off --------------------------------------------------------------


class Biased:
    """Writes labels with fixed chances, whatever the mean field; doubts more when told to.

    ``turn`` is a step from which on it doubts more by itself.
    """

    def __init__(self, chances: np.ndarray, turn: int = 10**9, by: float = 0.3) -> None:
        self.chances, self.turn, self.by = chances, turn, by

    def act(self, requests):
        return [ActionResult(self._one(r)) for r in requests]

    def _one(self, request) -> str:
        p = self.chances.copy()
        if request.notices or request.key.step >= self.turn:
            p[SLICES["belief"]] += [-self.by, self.by]
        u = uniform(*request.key, np.arange(N_DIMENSIONS))
        parts = [p[a:b] for a, b in pairwise(OFFSETS)]
        return decode_code([categorical(x, v) for x, v in zip(parts, u, strict=True)])


REAL = with_doubt(0.15)
REAL[SLICES["stance"]] = 0.6, 0.1, 0.3
OFF = with_doubt(0.5)
OFF[SLICES["stance"]] = 0.2, 0.5, 0.3
OFF[SLICES["rumor"]] = 0.8, 0.2


def population(policy, calibration=None, seed: int = 0, n: int = 48 + 160) -> MeanFieldProcess:
    """An event of people who react with the chances ``REAL``, and its process after 48 of them."""
    event = make_event(n, f"e{seed}")
    u = uniform(seed, np.arange(n + 1)[:, None], np.arange(N_DIMENSIONS))
    labels = np.stack(
        [categorical(np.broadcast_to(REAL[a:b], (n + 1, b - a)), u[:, d])
         for d, (a, b) in enumerate(pairwise(OFFSETS))], axis=1
    ).astype(np.int8)  # fmt: skip
    event = replace(
        event, posts=replace(event.posts, texts=[event.topic, *map(decode_code, labels[1:])])
    )
    settings = ProcessSettings(agents=n, batch=16, warmup=48)
    process = MeanFieldProcess(policy, Summaries(), Codes(), settings, calibration=calibration)
    process.reset(event, seed)
    return process


def rollout(process: MeanFieldProcess, plan=()) -> np.ndarray:
    """Label shares (steps, 23) to the end."""
    plan, rows = dict(plan), []
    while not process.done:
        rows.append(process.step(plan.get(len(rows), NONE)).distribution)
    return np.stack(rows)


def test_a_known_bias_is_corrected() -> None:
    # Shrinkage leaves 20 / 68 of the bias; 0 leaves only what 48 reactions do not tell.
    kl = {}
    for name, calibration in (
        ("off", None),
        ("shrunken", Calibration(fading=0, band=1)),
        ("whole", Calibration(fading=0, band=1, shrinkage=0, candidates=8)),
    ):
        made = [rollout(population(Biased(OFF), calibration, s)).mean(axis=0) for s in range(4)]
        kl[name] = np.mean([metrics.kl(160 * REAL, 160 * x).mean() for x in made])
    assert kl["off"] > 0.1
    assert kl["shrunken"] < 0.25 * kl["off"]
    # The floor: the shares of the 48 reactions themselves.
    floor = np.mean(
        [
            metrics.kl(160 * REAL, 160 * normalise(population(Biased(OFF), Calibration(), s)
                                                   .snapshot()["evidence"][0])).mean()
            for s in range(4)
        ]
    )  # fmt: skip
    assert kl["whole"] < 1.3 * floor < 0.2 * kl["off"]


def test_the_response_to_an_intervention_survives_the_correction() -> None:
    responses = {}
    for calibration in (None, Calibration()):
        gaps = []
        for seed in range(4):
            process = population(Biased(OFF), calibration, seed)
            plain, told = rollout(process.fork()), rollout(process, {4: FACT_CHECK})
            np.testing.assert_array_equal(plain[:4], told[:4])
            gaps.append((told - plain)[4:, DOUBT].mean())
        responses[calibration] = np.mean(gaps)
    free, calibrated = responses.values()
    assert free == pytest.approx(0.3, abs=0.05)
    assert calibrated == pytest.approx(free, abs=0.06)


def test_a_turning_point_survives_the_correction() -> None:
    moves = {}
    for calibration in (None, Calibration()):
        made = np.mean(
            [rollout(population(Biased(OFF, turn=3 + 5, by=0.4), calibration, s))
             for s in range(4)], axis=0
        )  # fmt: skip
        moves[calibration] = made[5:, DOUBT].mean() - made[:5, DOUBT].mean()
    free, calibrated = moves.values()
    assert free == pytest.approx(0.4, abs=0.05)
    # At most w · band = 0.71 · 0.15 of it is taken for wandering; as it fades, more is kept.
    assert 0.7 * free < calibrated < 1.3 * free


# -- the process ---------------------------------------------------------------------------


def started(calibration=None, seed: int = 3, **given) -> MeanFieldProcess:
    process = MeanFieldProcess(
        given.get("policy") or Followers(), given.get("summaries") or Summaries(),
        given.get("annotator") or Codes(), SETTINGS, calibration=calibration,
    )  # fmt: skip
    process.reset(make_event(30), seed)
    return process


def play(process: MeanFieldProcess, plan=()):
    plan, records = dict(plan), []
    while not process.done:
        records.append(process.step(plan.get(len(records), NONE)))
    return records


PLAN = {1: Intervention(Kind.SEED, 2), 2: FACT_CHECK}


def same(a, b) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in type(a).__dataclass_fields__
    )


def test_one_candidate_is_no_choice() -> None:
    plain, single = started(), started(Calibration(candidates=1))
    for a, b in zip(play(plain, PLAN), play(single, PLAN), strict=True):
        assert same(a, replace(b, candidates=None))
        assert b.candidates.sum() == N_DIMENSIONS * (~b.planted).sum()


def test_candidates_are_asked_for_in_one_call_and_the_chosen_is_one_of_them() -> None:
    policy, annotator = Followers(), Codes()
    process = started(Calibration(candidates=3), policy=policy, annotator=annotator)
    assert policy.calls == [12, 12, 6]  # the warm-up's agents are asked, too
    own = {}
    for j in range(3):
        shifted = [replace(r, key=candidate_key(r.key, j)) for r in process.requests()]
        own[j] = [a.text for a in Followers().act(shifted)]
    record = process.step()
    assert policy.calls[3:] == [12]
    assert all(text in {own[j][i] for j in range(3)} for i, text in enumerate(record.texts))
    assert any(text != own[0][i] for i, text in enumerate(record.texts))
    np.testing.assert_array_equal(record.labels, Codes().label([], record.texts, []))
    np.testing.assert_array_equal(
        record.candidates, counts(Codes().label([], [*own[0], *own[1], *own[2]], []))
    )
    assert record.completion_tokens == 3 * 4 * N_DIMENSIONS + 1  # what was written is counted
    # Actions from outside are nobody's choice.
    [given] = advance([process], actions=[record.texts])
    assert given.texts == record.texts
    assert given.candidates is None


def test_it_is_deterministic_alone_and_in_lockstep() -> None:
    alone = [play(started(Calibration(), seed), PLAN) for seed in (3, 4)]
    policy, summaries, annotator = Followers(), Summaries(), Codes()
    together = [
        MeanFieldProcess(policy, summaries, annotator, SETTINGS, calibration=Calibration())
        for _ in alone
    ]
    for seed, process in zip((3, 4), together, strict=True):
        process.begin(make_event(30), seed)
    warm_up(together)
    for t in range(5):
        made = advance(together, [PLAN.get(t, NONE)] * 2)
        assert all(same(a, b[t]) for a, b in zip(made, alone, strict=True))


def test_forks_and_snapshots_have_the_same_future() -> None:
    process = started(Calibration())
    process.step()
    snapshot, fork = process.snapshot(), process.fork()
    future = play(process, PLAN)
    process.restore(snapshot)
    for other in (process, fork):
        assert all(same(a, b) for a, b in zip(future, play(other, PLAN), strict=True))
    with pytest.raises(MfenvError, match="calibration"):
        started().restore(snapshot)
    with pytest.raises(MfenvError, match="calibration"):
        started(Calibration(fading=0)).restore(snapshot)
    with pytest.raises(MfenvError, match="calibration None"):
        started(Calibration()).restore(started().snapshot())


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes(tmp_path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    plain = journal_run.play(tmp_path / "plain")
    journal_run.play(whole, calibration=Calibration())
    names = sorted(p.name for p in whole.glob("?.jsonl"))
    data = [(whole / name).read_bytes() for name in names]
    assert b'"candidates":[' in data[0]
    assert b"candidates" not in (tmp_path / "plain" / names[0]).read_bytes()
    env = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    command = [sys.executable, journal_run.__file__, str(killed)]
    victim = subprocess.Popen([*command, "0.3", "calibrated"], env=env)
    deadline, last = time.monotonic() + 60, killed / names[-1]
    while not (last.exists() and last.read_bytes().count(b"\n") >= 6):
        assert victim.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert all(len((killed / n).read_bytes()) < len(d) for n, d in zip(names, data, strict=True))
    policy = journal_run.Slow()
    records = journal_run.play(killed, policy, calibration=Calibration())
    assert [(killed / name).read_bytes() for name in names] == data
    assert 0 < len(policy.calls) <= 4
    # Another calibration is another run, and so is none.
    for other in (Calibration(draws=1), None):
        with pytest.raises(MfenvError, match=r"calibration is .*candidates"):
            journal_run.play(killed, calibration=other)
    assert any(a.texts != b.texts for a, b in zip(records[0], plain[0], strict=True))


# -- names ---------------------------------------------------------------------------------


def test_methods_are_calibrated_by_a_suffix() -> None:
    assert calibration_of("mf") is None
    assert calibration_of("sft:runs/a+b") is None
    assert calibration_of("sft:runs/a+cal") == Calibration()
    assert calibration_of("mf+cal+candidates=8+fading=0.01") == Calibration(8, fading=0.01)
    assert method_names(["mf", "mf+cal", "sft:a+cal", "sft:b+cal", "mf+cal+draws=1"]) == {
        "mf": "mf",
        "mf+cal": "mf+cal",
        "sft+cal-1": "sft:a+cal",
        "sft+cal-2": "sft:b+cal",
        "mf+cal+draws=1": "mf+cal+draws=1",
    }
    assert type(build_method("state+cal", "embedded-en").mean_field).__name__ == "NoMeanField"


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("mf+cal+candidates=0", r"candidates=0 is not allowed; allowed: whole, 1 or more"),
        ("mf+cal+candidates=2.5", r"candidates='2.5' is not allowed; allowed: a number without"),
        ("mf+cal+fading=2", r"fading=2.0 is not allowed; allowed: 0 to 1"),
        ("mf+cal+shrinkage=inf", r"shrinkage=inf is not allowed; allowed: 0 or more"),
        ("mf+cal+strength=1", r"'strength=1' is not allowed .*candidates, shrinkage, fading"),
        ("mf+cal+draws=1+draws=2", r"each once"),
        ("mg+cal", r"unknown method 'mg'; known: .*mf"),
        ("mf+call", r"unknown method 'mf\+call'; known: .*mf"),
    ],
)
def test_wrong_settings_are_refused_by_name(method: str, words: str) -> None:
    with pytest.raises(MfenvError, match=words):
        check_names(backbone="embedded-en", method=method, annotator="exact")
