import gc
import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from population import Codes, Followers, Summaries, make_event

from mfenv.cli import main
from mfenv.distributions import UNIFORM, normalise
from mfenv.dynamics.assemble import build_annotator
from mfenv.dynamics.journal import Journal, read_journal, record_to_json, run
from mfenv.dynamics.models import ActionResult
from mfenv.dynamics.opinions import (
    N_OPINIONS,
    NEW,
    OPINIONS,
    OpinionModel,
    load_opinions,
    opinion_uniforms,
    opinions_of,
    with_opinions,
)
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, advance
from mfenv.errors import MfenvError, ModelError
from mfenv.events.load import load_events
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.interventions import NONE, Intervention, Kind
from mfenv.labels import N_LABELS, SLICES, decode, dimension, encode_code, one_hot
from mfenv.noise import uniform
from mfenv.states import opinion_text
from training.corpus import label_events
from training.opinions import Transitions, fit, likelihood, observed

SETTINGS = ProcessSettings(agents=300, batch=4, warmup=10)
PHRASES = [opinion_text(k, "en") for k in range(N_OPINIONS)]


def planted(seed: int = 0) -> OpinionModel:
    """Opinions that are sticky and follow the perceived belief and stance."""
    rng = np.random.default_rng(seed)
    bias = rng.normal(0, 0.7, (N_OPINIONS + 1, N_OPINIONS))
    bias[:N_OPINIONS] += 1.5 * np.eye(N_OPINIONS)
    weights = rng.normal(0, 0.6, (N_OPINIONS + 1, N_OPINIONS, N_LABELS))
    weights[:, ::2, SLICES["belief"].start] += 2.0
    return OpinionModel(bias, weights)


class Obedient(Followers):
    """Shows exactly the opinion that the prompt tells of, and keeps what it was told."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.told: dict[tuple[int, int], str] = {}  # (agent, step) → phrase
        self.stop_at = stop_at

    def act(self, requests):
        if self.stop_at is not None and len(self.calls) == self.stop_at:
            raise ConnectionError("gone")
        return super().act(requests)

    def _one(self, request):
        result = super()._one(request)
        self.told[request.key.agent, request.key.step] = request.opinion
        if not request.opinion:
            return result
        stance, belief = OPINIONS[PHRASES.index(request.opinion)]
        code = list(result.text)
        code[dimension("stance")] = {"support": "s", "oppose": "o", "neutral": "n"}[stance]
        code[dimension("belief")] = {"believe": "b", "doubt": "d"}[belief]
        return ActionResult("".join(code), f"{result.prompt} {request.opinion}", 1, 1)


def crowd(n: int = 60, people: int = 12, event_id: str = "e1"):
    """An event whose people come back."""
    event = make_event(n, event_id)
    authors = 1 + np.floor(uniform(7, np.arange(n + 1), 0, 0) * people).astype(np.int32)
    authors[0] = 0
    return replace(event, posts=replace(event.posts, authors=authors))


def started(policy=None, opinions=None, event=None, seed=3, settings=SETTINGS):
    process = MeanFieldProcess(policy or Obedient(), Summaries(), Codes(), settings, opinions)
    process.begin(event or crowd(), seed)
    return process


def played(process, plan=()):
    plan, records = dict(plan), []
    while not process.done:
        chosen = plan.get(process.step_index, NONE)
        records.append(process.step(NONE if process.in_warmup else chosen))
    return records


def simplex(rng, n):
    return normalise(rng.gamma(1.0, size=(n, N_LABELS)) + 1e-6)


# -- learning ------------------------------------------------------------------------------


def test_planted_transitions_are_recovered():
    model, rng = planted(), np.random.default_rng(1)
    n = 30_000
    z = np.repeat(simplex(rng, 300), 100, axis=0)
    origin = rng.integers(-1, N_OPINIONS, n).astype(np.int8)
    parts = [slice(i, i + 100) for i in range(0, n, 100)]
    target = np.concatenate([model.move(origin[i], z[i][0], rng.random(100)) for i in parts])
    data = Transitions(origin, target, z)
    found = fit(data, shrinkage=0.5)
    for fresh in simplex(rng, 20):
        gap = np.abs(found.transition(fresh) - model.transition(fresh))
        assert gap.mean() < 0.03
        assert gap.max() < 0.2
    # The dependence on the mean field is what was planted: without it the data are less likely.
    plain = fit(data, shrinkage=0.5, mean_field=False)
    assert np.all(plain.weights == 0)
    assert likelihood(found, data).mean() < likelihood(plain, data).mean() - 0.1
    assert likelihood(found, data).mean() < likelihood(model, data).mean()  # a maximum
    # An opinion that nobody had is moved as the others are, on average.
    rare = fit(
        Transitions(*(x[origin != 2] for x in (origin, target, z))), shrinkage=0.5
    ).transition(UNIFORM)
    assert np.isfinite(rare).all()
    np.testing.assert_allclose(rare.sum(axis=1), 1.0)


def test_transitions_are_those_the_process_would_make():
    event = crowd(37, 5)
    labels = np.array([encode_code("sczcsbop"), *map(encode_code, event.posts.texts[1:])])
    data = observed(event, labels, batch=4)
    process = started(event=event, settings=ProcessSettings(agents=37, batch=4, warmup=36))
    last: dict[int, int] = {}
    at = 0
    while process.in_warmup:
        seen = process.perceived
        for k in process.next_agents:
            person = int(event.posts.authors[k + 1])
            assert data.origin[at] == last.get(person, NEW)
            assert data.target[at] == opinions_of(labels[k + 1])
            np.testing.assert_allclose(data.perceived[at], seen)
            at += 1
        for k in process.next_agents:
            last[int(event.posts.authors[k + 1])] = int(opinions_of(labels[k + 1]))
        process.step()
    assert at == 36


def test_a_model_is_saved_and_read_back(tmp_path):
    model = planted()
    model.save(tmp_path / "m.safetensors", {"batch": 16})
    again = load_opinions(tmp_path / "m.safetensors")
    assert again.revision == model.revision
    assert json.loads((tmp_path / "m.json").read_text())["revision"] == model.revision
    assert again.coupling == 1.0
    assert replace(model, coupling=0.5).revision != model.revision
    for data in (b"", b"no model", b"\x00" * 64):
        (tmp_path / "bad.safetensors").write_bytes(data)
        with pytest.raises(MfenvError, match=r"bad\.safetensors.*mfenv train opinions"):
            load_opinions(tmp_path / "bad.safetensors")


# -- in the process ------------------------------------------------------------------------


def test_people_keep_their_opinions_over_the_whole_run():
    model, policy, event = planted(), Obedient(), crowd()
    process = started(policy, model, event)
    kept = np.full(13, NEW)
    returned = 0
    while not process.done:
        before, z, agents = process.opinions.copy(), process.perceived, process.next_agents
        np.testing.assert_array_equal(before, kept)  # nobody is forgotten between their turns
        plan = {5: Intervention(Kind.SEED, 2)}
        record = process.step(plan.get(process.step_index, NONE))
        people = event.posts.authors[agents + 1]
        u = opinion_uniforms(3, agents, record.step)
        thought = model.move(before[people], z, u)
        if record.warmup:
            thought = opinions_of(record.labels)
        np.testing.assert_array_equal(record.opinions, thought)
        for i, (person, agent) in enumerate(zip(people, agents, strict=True)):
            returned += before[person] != NEW
            kept[person] = thought[i]
            if not record.warmup and not record.planted[i]:
                assert policy.told[int(agent), record.step] == PHRASES[thought[i]]
                said = decode(record.labels[i])  # this population does as it thinks
                assert (said["stance"], said["belief"]) == OPINIONS[thought[i]]
    assert returned > 30
    np.testing.assert_array_equal(process.opinions, kept)


@pytest.mark.parametrize("coupling", [0.0, 0.25, 1.0])
def test_what_is_perceived_is_coupled_to_what_people_think(coupling):
    """By hand: people who all write that they support it, whatever they think."""

    class Flatterers(Followers):
        def _one(self, request):
            return ActionResult("s" + super()._one(request).text[1:4] + "sb" + "so", "", 1, 1)

    model = replace(planted(), coupling=coupling)
    process = started(Flatterers(), model)
    while process.in_warmup:
        process.step()
    before = process.perceived
    record = process.step()
    shown, thought = record.labels, with_opinions(record.labels, record.opinions)
    assert (opinions_of(shown) == 0).all()
    assert (opinions_of(thought) != 0).any()
    expected = [2 / 3 * before + 1 / 3 * one_hot(y).mean(axis=0) for y in (shown, thought)]
    np.testing.assert_allclose(
        process.perceived, (1 - coupling) * expected[0] + coupling * expected[1]
    )
    np.testing.assert_allclose(record.distribution, one_hot(shown).mean(axis=0))
    for name in ("rumor", "sentiment_state", "behavior", "intent"):
        np.testing.assert_allclose(process.perceived[SLICES[name]], expected[0][SLICES[name]])


def test_draws_do_not_depend_on_the_batch():
    model, rng = planted(), np.random.default_rng(2)
    opinions = rng.integers(-1, N_OPINIONS, 200).astype(np.int8)
    agents, z = np.arange(200), simplex(rng, 1)[0]
    whole = model.move(opinions, z, opinion_uniforms(5, agents, 9))
    order = rng.permutation(200)
    parts = [
        model.move(opinions[i], z, opinion_uniforms(5, agents[i], 9))
        for i in np.array_split(order, 17)
    ]
    np.testing.assert_array_equal(whole[order], np.concatenate(parts))
    shares = np.bincount(model.move(np.full(40_000, 2), z, rng.random(40_000)), minlength=6)
    np.testing.assert_allclose(shares / 40_000, model.transition(z)[2], atol=0.01)
    # Nor on the worlds that step beside it.
    alone = played(started(opinions=model))
    pair = [started(opinions=model), started(opinions=model, seed=8)]
    while not pair[0].done:
        record = advance(pair)[0]
        assert record_to_json(record) == record_to_json(alone[record.step])


def test_forks_and_snapshots_carry_the_opinions():
    model = planted()
    process = started(opinions=model)
    for _ in range(6):
        process.step()
    snapshot, fork = process.snapshot(), process.fork()
    rest = [record_to_json(r) for r in played(process, {8: Intervention(Kind.FRICTION, 2)})]
    plan = {8: Intervention(Kind.FRICTION, 2)}
    assert [record_to_json(r) for r in played(fork, plan)] == rest
    again = started(opinions=model, seed=99)
    again.restore(snapshot)
    assert [record_to_json(r) for r in played(again, plan)] == rest
    for other in (
        started(),
        started(opinions=planted(1)),
        started(opinions=model, event=crowd(60, 9)),
    ):
        with pytest.raises(MfenvError, match="opinions"):
            other.restore(snapshot)
    with pytest.raises(MfenvError, match="opinions"):
        process.restore(started().snapshot())


def test_a_run_that_was_cut_is_continued_to_the_same_bytes(tmp_path):
    model = planted()

    def go(name, policy, opinions=model):
        process = started(policy, opinions)
        with Journal(tmp_path / name, process.identity()) as journal:
            run([process], [journal])
        return process

    whole = go("whole.jsonl", Obedient())
    with pytest.raises(ModelError, match="gone"):
        go("cut.jsonl", Obedient(stop_at=6))
    left = (tmp_path / "cut.jsonl").read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(left[:-40])  # killed in the middle of a line
    again = go("cut.jsonl", Obedient())
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    np.testing.assert_array_equal(again.opinions, whole.opinions)
    for opinions in (planted(1), None):
        with pytest.raises(MfenvError, match="opinions is"):
            go("whole.jsonl", Obedient(), opinions)


def test_without_opinions_nothing_is_written_of_them(tmp_path):
    process = started()
    with Journal(tmp_path / "plain.jsonl", process.identity()) as journal:
        run([process], [journal])
    assert b'"opinions"' not in (tmp_path / "plain.jsonl").read_bytes()
    assert process.opinions is None
    assert set(process.policy.told.values()) == {""}
    assert "everybody" not in process.snapshot()
    # Who the author of a post is does not matter then.
    other = started(event=make_event(60))
    texts = [r.texts for r in played(other)]
    assert texts == [r.texts for r in read_journal(tmp_path / "plain.jsonl")[1]]


def test_memory_does_not_grow_with_the_run(tmp_path):
    settings = ProcessSettings(agents=1600, batch=8, warmup=16)
    event = crowd(1600, 300)
    # State texts are kept, up to a limit, and would hide what else is.
    event = replace(event, posts=replace(event.posts, profiles=None))
    policy = Followers()
    process = MeanFieldProcess(policy, _Forgetful(), Codes(), settings, planted())
    process.begin(event, 0)
    marks, sizes = (60, 120, 180), []

    def note(_, record):
        if record.step in marks:
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        with Journal(tmp_path / "long.jsonl", process.identity()) as journal:
            steps = run(
                [process],
                [journal],
                on_step=note,
            )[0]
    finally:
        tracemalloc.stop()
    per_step = (sizes[2] - sizes[0]) / (marks[2] - marks[0])
    written = (tmp_path / "long.jsonl").stat().st_size / len(steps)
    assert written > 1800
    assert per_step < 400  # bytes: the journal's places take 8, what these models count some more
    assert len(steps) == process.total_steps == 200
    assert steps[-1].step == 199


class _Forgetful(Summaries):
    def summarise(self, requests):
        self.requests.clear()
        return super().summarise(requests)


# -- events, prompts, commands -------------------------------------------------------------


def test_people_of_a_synthetic_event_come_back_as_themselves():
    event = SyntheticSociety(3).event(1, n_posts=400, people=50)
    authors = event.posts.authors
    assert authors[0] == 0
    assert 45 <= len(set(authors[1:].tolist())) <= 50
    for person in range(1, 51):
        mine = np.flatnonzero(authors == person)
        assert len({event.meta["archetypes"][i] for i in mine}) <= 1
        assert len({event.posts.profiles[i] for i in mine}) <= 1
    assert event.posts.texts[1:] != SyntheticSociety(3).event(1, n_posts=400).posts.texts[1:]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_opinion_has_a_phrase_of_its_own(language):
    texts = [opinion_text(k, language) for k in range(N_OPINIONS)]
    assert len(set(texts)) == N_OPINIONS
    for (stance, belief), text in zip(OPINIONS, texts, strict=True):
        mark = {"believe": ("believes", "相信"), "doubt": ("doubts", "怀疑")}[belief]
        side = {"support": ("for it", "支持"), "oppose": ("against", "反对")}.get(stance)
        assert mark[language == "zh"] in text
        assert side is None or side[language == "zh"] in text


def test_what_commands_are_told_wrongly_is_one_line(tmp_path, capsys):
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    for argv, message in (
        (["simulate", "--opinions", "nobody.safetensors"], "no opinion model 'nobody.safetensors'"),
        (["simulate", "--opinions", str(tmp_path / "bad.safetensors")], "not readable"),
        (["simulate", "x.jsonl", "--people", "5"], "--people is for synthetic events"),
        (["simulate", "--people", "0"], "--people"),
        (["bench", "long", "nowhere.jsonl"], "no such file"),
        (["bench", "long", "synthetic", "--interactions", "4"], "--interactions"),
        (["train", "opinions", "--train", "synthetic", "--out", "x.bin"], ".safetensors"),
        (["train", "opinions", "--train", "no.jsonl", "--out", "x.safetensors"], "no such file"),
    ):
        assert main(argv) == 2, argv
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error


# -- real data ---------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_people_stick_to_their_opinions_and_follow_the_mean_field():
    data = Path(os.environ.get("MFENV_DATA") or Path(__file__).parents[1] / "../shared/data")
    path = data / "pheme" / "streams_rnr.parquet"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    [event] = load_events(path, event_ids=["pheme-rnr-ottawashooting"])
    [labels] = label_events([event], build_annotator("classifier"))
    seen = observed(event, labels)
    returned = seen.origin != NEW
    assert returned.sum() > 4000
    half = np.arange(len(seen)) < len(seen) // 2
    early, late = (
        Transitions(seen.origin[x], seen.target[x], seen.perceived[x])
        for x in (half, ~half & returned)
    )
    cost = likelihood(fit(early), late).mean()
    assert cost < likelihood(fit(early, mean_field=False), late).mean()
    forgetful = replace(early, origin=np.full_like(early.origin, NEW))
    blank = replace(late, origin=np.full_like(late.origin, NEW))
    assert cost < likelihood(fit(forgetful), blank).mean()
