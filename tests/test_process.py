import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from population import Codes, Followers, Summaries, make_event

from agents.light_mean_field import (
    CountedMeanField,
    NoMeanField,
    PopularMeanField,
    RecentMeanField,
)
from mfenv.distributions import UNIFORM, shares
from mfenv.dynamics.mean_field_text import exposed, parse_shares
from mfenv.dynamics.models import Reaction, SummaryRequest
from mfenv.dynamics.process import (
    MeanFieldProcess,
    ProcessSettings,
    advance,
    batches,
    real_rollout,
    warm_up,
)
from mfenv.dynamics.reach import PLANTED
from mfenv.dynamics.records import Dynamics, StepRecord
from mfenv.errors import MfenvError, ModelError
from mfenv.events.event import Profile
from mfenv.events.load import load_events
from mfenv.interventions import NONE, Intervention, Kind
from mfenv.labels import SLICES, encode_code, one_hot
from mfenv.noise import NoiseKey

SETTINGS = ProcessSettings(agents=300, batch=4, warmup=10)
HIGH = 2


def make(policy=None, summaries=None, annotator=None, settings=SETTINGS) -> MeanFieldProcess:
    return MeanFieldProcess(
        policy or Followers(), summaries or Summaries(), annotator or Codes(), settings
    )


def started(seed: int = 3, **given) -> MeanFieldProcess:
    process = make(**given)
    process.reset(make_event(30), seed)
    return process


def same(a: StepRecord, b: StepRecord) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in StepRecord.__dataclass_fields__
    )


def play(process: MeanFieldProcess, plan=()) -> list[StepRecord]:
    """Play to the end with interventions by rollout step."""
    plan, records = dict(plan), []
    while not process.done:
        records.append(process.step(plan.get(len(records), NONE)))
    return records


# -- warm-up -------------------------------------------------------------------------------


def test_plan_covers_every_agent_once() -> None:
    assert batches(30, SETTINGS) == [
        (0, 4, True),
        (4, 8, True),
        (8, 10, True),
        *[(i, i + 4, False) for i in range(10, 30, 4)],
    ]
    assert batches(30, ProcessSettings(agents=13, batch=4, warmup=10))[-1] == (10, 13, False)
    assert batches(6, SETTINGS) == [(0, 4, True), (4, 6, True)]


def test_warm_up_plays_the_real_posts_with_hand_computed_shares() -> None:
    event = make_event(30, known_labels=True)
    process = make(annotator=Codes())
    records = process.reset(event, 0)
    assert [r.texts for r in records] == [
        tuple(event.posts.texts[i:j]) for i, j in ((1, 5), (5, 9), (9, 11))
    ]
    assert process.annotator.calls == []  # the labels are known
    assert process.policy.calls == []
    # By hand: the first batch alone, then the mean of two, then a fifth for 2 after 8 (half a
    # batch would have 1/6 later on).
    hot = one_hot(event.labels[1:])
    expected = UNIFORM
    for record, (i, j), rate in zip(
        records, ((0, 4), (4, 8), (8, 10)), (1, 1 / 2, 1 / 5), strict=True
    ):
        expected = (1 - rate) * expected + rate * hot[i:j].mean(axis=0)
        np.testing.assert_allclose(record.distribution, hot[i:j].mean(axis=0))
        np.testing.assert_allclose(record.perceived, expected)
        assert record.warmup
    np.testing.assert_allclose(process.perceived, expected)
    assert process.mean_field == records[-1].mean_field
    assert (process.step_index, process.horizon, process.in_warmup) == (3, 5, False)


def test_labels_come_from_the_annotator_where_the_event_has_none() -> None:
    known = make().reset(make_event(30, known_labels=True), 0)
    process = make()
    annotated = process.reset(make_event(30), 0)
    assert all(same(a, b) for a, b in zip(known, annotated, strict=True))
    assert process.annotator.calls == [4, 4, 2]


def test_popularity_counts_replies_so_far_and_likes() -> None:
    event = make_event(6)
    parents = np.array([-1, 0, 1, 1, 2, 1, 2], dtype=np.int32)
    profiles = [None, None, Profile(likes=7), None, None, None, None]
    event = replace(event, posts=replace(event.posts, parents=parents, profiles=profiles))
    summaries = Summaries()
    make(summaries=summaries, settings=ProcessSettings(batch=4, warmup=6)).reset(event, 0)
    first, second = summaries.requests
    assert [r.popularity for r in first.reactions] == [2, 8, 0, 0]  # posts 5 and 6 are to come
    assert [r.popularity for r in second.history] == [3, 9, 0, 0]
    assert [r.popularity for r in second.reactions] == [0, 0]


def test_history_is_the_last_thirty_before_the_batch() -> None:
    summaries = Summaries()
    process = make(summaries=summaries, settings=ProcessSettings(batch=16, warmup=16))
    records = process.reset(make_event(64), 1) + play(process)
    texts = [t for r in records for t in r.texts]
    last = summaries.requests[-1]
    assert [r.text for r in last.history] == texts[18:48]
    assert [r.text for r in last.reactions] == texts[48:64]


# -- rollout and interventions -----------------------------------------------------------


def test_agents_read_the_mean_field_of_the_step_before() -> None:
    process = started()
    before = process.mean_field
    record = process.step()
    assert before
    assert all(before in prompt for prompt in record.prompts)
    assert record.mean_field == process.mean_field != before
    assert [r.mean_field for r in process.requests()] == [process.mean_field] * 4
    assert record.agents.tolist() == [10, 11, 12, 13]
    assert process.requests()[0].key == NoiseKey(3, 14, 4)


def test_planted_reactions_enter_the_mean_field_and_nothing_else() -> None:
    summaries = Summaries()
    process = started(summaries=summaries, settings=replace(SETTINGS, batch=8))
    before = process.perceived
    plain = process.fork().step()
    record = process.step(Intervention(Kind.SEED, HIGH))
    assert record.planted.tolist() == [True] * 2 + [False] * 6
    assert (record.labels[:2] == PLANTED).all()
    # The others act as they would have; the distribution is theirs alone.
    assert record.texts[2:] == plain.texts[2:]
    np.testing.assert_array_equal(record.distribution, shares(plain.labels[2:]))
    shown = summaries.requests[-1].reactions
    assert [r.text for r in shown] == list(record.texts)
    np.testing.assert_allclose(
        record.perceived,
        5 / 9 * before + 4 / 9 * shares(record.labels),  # 8 after 10
    )
    assert process.policy.calls[-1] == 6  # nobody is asked for what is replaced
    assert not process.step().planted.any()  # seeding acts once


def test_a_person_may_word_what_is_planted_and_its_labels_are_read() -> None:
    process = started(settings=replace(SETTINGS, batch=8))
    record = process.step(Intervention(Kind.SEED, HIGH, message="ssprsbop"))
    assert record.texts[:2] == ("ssprsbop",) * 2
    assert (record.labels[:2] == encode_code("ssprsbop")).all()
    assert record.planted[:2].all()


def test_friction_keeps_shares_from_the_mean_field_but_not_from_the_distribution() -> None:
    summaries = Summaries()
    process = make(summaries=summaries, settings=ProcessSettings(batch=60, warmup=60))
    process.reset(make_event(180), 5)
    before = process.perceived
    record = process.step(Intervention(Kind.FRICTION, HIGH))
    behaviour = record.labels[:, 3]
    shown = summaries.requests[-1].reactions
    shown_shares = sum(r.labels[3] == 1 for r in shown)
    assert len(shown) - shown_shares == (behaviour == 0).sum()
    assert 0.05 < shown_shares / (behaviour == 1).sum() < 0.4  # 0.2 are expected to pass
    np.testing.assert_array_equal(record.distribution, shares(record.labels))
    reached = shares(np.stack([r.labels for r in shown]))
    np.testing.assert_allclose(record.perceived, before / 2 + reached / 2)  # 60 after 60


def test_amplification_weighs_a_stance_in_the_mean_field() -> None:
    summaries = Summaries()
    process = started(summaries=summaries, settings=replace(SETTINGS, batch=8))
    record = process.step(Intervention(Kind.AMPLIFY_OPPOSE, HIGH))
    oppose = record.labels[:, 4] == 1
    assert [r.weight for r in summaries.requests[-1].reactions] == [
        3.0 if x else 1.0 for x in oppose
    ]


def test_notices_are_shown_while_a_statement_runs_and_keep_its_wording() -> None:
    process = started()
    first = process.step(Intervention(Kind.STATEMENT, HIGH, message="We looked into it."))
    second = process.step()
    assert all("We looked into it." in p for p in (*first.prompts, *second.prompts))
    assert first.activity[Kind.STATEMENT] == 1.0
    np.testing.assert_allclose(second.activity[Kind.STATEMENT], 0.7)
    third = process.step(Intervention(Kind.STATEMENT, HIGH))
    assert not any("We looked into it." in p for p in third.prompts)


def test_interventions_that_cannot_be_are_refused() -> None:
    process = make()
    process.begin(make_event(30), 0)
    with pytest.raises(ValueError, match="warm-up"):
        process.step(Intervention(Kind.STATEMENT))
    warm_up([process])
    with pytest.raises(ValueError, match="'friction' takes no message; allowed: statement, seed"):
        process.step(Intervention(Kind.FRICTION, message="no"))
    play(process)
    with pytest.raises(MfenvError, match="its 5 rollout steps are taken"):
        process.step()
    with pytest.raises(MfenvError, match="no replies"):
        process.begin(make_event(0), 0)


# -- forks, snapshots, lockstep --------------------------------------------------------------


def test_fork_equals_its_parent_until_they_are_treated_differently() -> None:
    process = started(settings=replace(SETTINGS, batch=7))
    fork = process.fork()
    assert same(process.step(), fork.step())
    a, b = process.step(), fork.step(Intervention(Kind.FACT_CHECK, HIGH))
    assert a.texts != b.texts
    # Common random numbers: only the labels that the notice acts on differ.
    belief = 5
    others = [d for d in range(8) if d != belief]
    np.testing.assert_array_equal(a.labels[:, others], b.labels[:, others])
    assert (b.labels[:, belief] >= a.labels[:, belief]).all()
    assert (b.labels[:, belief] > a.labels[:, belief]).any()


def test_snapshot_restores_to_the_same_future() -> None:
    process = started()
    process.step(Intervention(Kind.STATEMENT, 1, message="Wait."))
    snapshot = process.snapshot()
    future = play(process, {1: Intervention(Kind.FRICTION, HIGH)})
    process.restore(snapshot)
    again = play(process, {1: Intervention(Kind.FRICTION, HIGH)})
    assert all(same(a, b) for a, b in zip(future, again, strict=True))
    other = make()
    other.begin(make_event(30, "another"), 3)
    with pytest.raises(MfenvError, match="event 'e1', not 'another'"):
        other.restore(snapshot)


def test_lockstep_equals_each_alone_with_one_call_a_phase() -> None:
    policy, summaries, annotator = Followers(), Summaries(), Codes()
    events = [make_event(30), make_event(21, "b"), make_event(30), make_event(12, "c")]
    plans = [{}, {1: Intervention(Kind.SEED, HIGH)}, {0: Intervention(Kind.STATEMENT)}, {}]
    together = [make(policy, summaries, annotator) for _ in events]
    for seed, (process, event) in enumerate(zip(together, events, strict=True)):
        process.begin(event, seed)
    records = warm_up(together)
    assert annotator.calls == [16 - 4, 16 - 4, 8 - 2]  # the third event is the first again
    assert summaries.calls == [4, 4, 4]
    steps = 0
    while left := [i for i, p in enumerate(together) if not p.done]:
        made = advance([together[i] for i in left], [plans[i].get(steps, NONE) for i in left])
        for i, record in zip(left, made, strict=True):
            records[i].append(record)
        steps += 1
    # Batches of 4, 4, 4, 2; then of 4, 4, 4, one of them planted; then without the last event …
    assert policy.calls == [14, 4 + 3 + 4, 4 + 3 + 4, 4 + 4, 4 + 4]
    for seed, event in enumerate(events):
        alone = make()
        expected = alone.reset(event, seed) + play(alone, plans[seed])
        assert len(expected) == len(records[seed])
        assert all(same(a, b) for a, b in zip(expected, records[seed], strict=True))


def test_actions_may_come_from_outside() -> None:
    process, twin = started(), started()
    own = twin.step()
    [given] = advance([process], actions=[own.texts])
    assert process.policy.calls == []
    assert given.texts == own.texts
    assert given.mean_field == own.mean_field
    np.testing.assert_array_equal(given.perceived, own.perceived)
    with pytest.raises(ValueError, match="3 actions given, 4 agents"):
        advance([process], actions=[("a", "b", "c")])


def test_real_rollout_is_what_the_warm_up_would_have_played() -> None:
    event = make_event(30)
    process = make(settings=replace(SETTINGS, warmup=30))
    played = process.reset(event, 0)
    real = real_rollout(event, Codes(), replace(SETTINGS, warmup=8))
    assert [r.warmup for r in real] == [True] * 2 + [False] * 6
    assert [r.texts for r in real] == [r.texts for r in played]
    for a, b in zip(real, played, strict=True):
        np.testing.assert_array_equal(a.distribution, b.distribution)
        np.testing.assert_array_equal(a.perceived, b.perceived)


# -- faults never become data ----------------------------------------------------------------


class Broken:
    """Raises at its nth call, in whichever phase it is asked."""

    name = "broken"

    def __init__(self, model, at: int, error: Exception) -> None:
        self.model, self.at, self.error, self.count = model, at, error, 0

    def __getattr__(self, name):
        def call(*args):
            self.count += 1
            if self.count == self.at:
                raise self.error
            return getattr(self.model, name)(*args)

        return call


@pytest.mark.parametrize("phase", ["policy", "mean_field_model", "annotator"])
def test_a_failed_call_leaves_every_process_where_it_was(phase: str) -> None:
    processes = [started(1), started(2)]
    expected = [p.fork().step() for p in processes]
    before = [p.snapshot() for p in processes]
    broken = processes[1].fork()
    setattr(broken, phase, Broken(getattr(broken, phase), 1, TimeoutError("no answer")))
    with pytest.raises(ModelError, match="no answer"):
        advance([processes[0], broken])
    for process, snapshot in zip((processes[0], broken), before, strict=True):
        after = process.snapshot()
        assert after.keys() == snapshot.keys()
        assert all(np.array_equal(after[k], snapshot[k]) for k in snapshot)
    # The next try goes through and gives what the first would have given.
    for record, wanted in zip(advance([processes[0], broken]), expected, strict=True):
        assert same(record, wanted)


def test_a_failed_reset_keeps_the_old_event() -> None:
    process = started()
    process.mean_field_model = Broken(Summaries(), 2, ModelError("gone"))
    mean_field = process.mean_field
    with pytest.raises(ModelError, match="gone"):
        process.reset(make_event(20, "new"), 9)
    assert (process.event.event_id, process.seed) == ("e1", 3)
    assert process.mean_field == mean_field


class Short(Followers):
    def act(self, requests):
        return super().act(requests)[:-1]


class Wild(Codes):
    def label(self, topics, texts, languages):
        return super().label(topics, texts, languages) + np.int8(7)


def test_answers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="3 answers to 4 requests"):
        started(policy=Short()).step()
    with pytest.raises(ModelError, match="outside its dimension"):
        make(annotator=Wild()).reset(make_event(30), 0)


def test_the_process_is_a_tier() -> None:
    tier: Dynamics = started()
    assert tier.step(NONE).step == 3
    assert tier.fork().step_index == tier.step_index == 4


# -- light mean-field models -------------------------------------------------------------------


def request(texts, popularity=None, history=0, perceived=UNIFORM) -> SummaryRequest:
    popularity = popularity or [0] * len(texts)
    reactions = tuple(
        Reaction(t, "", encode_code("ccncodoo"), popularity=p)
        for t, p in zip(texts, popularity, strict=True)
    )
    return SummaryRequest(
        "topic", "en", "old", reactions[history:], reactions[:history], perceived,
        NoiseKey(0, -1, 0),
    )  # fmt: skip


def shown(text: str) -> list[str]:
    return [part.split("»")[0] for part in text.split("«")[1:]]


def test_counted_mean_field_writes_what_is_perceived() -> None:
    p = shares(np.stack([encode_code("ccncodoo")] * 3 + [encode_code("ssprsbop")]))
    [result] = CountedMeanField().summarise([request(["a", "b"], perceived=p)])
    read = parse_shares(result.text)
    np.testing.assert_allclose(read[SLICES["stance"]], [0.25, 0.75, 0])
    np.testing.assert_allclose(read[SLICES["belief"]], [0.25, 0.75])
    assert shown(result.text) == ["a"]  # one telling reaction for each stance
    assert (result.prompt_tokens, result.completion_tokens) == (0, 0)


def test_state_baseline_sees_nothing() -> None:
    assert NoMeanField().summarise([request(["a"])])[0].text == ""


def test_recent_shows_the_last_five_with_words() -> None:
    texts = ["a", "b", "c", "", "d", "e", " ", "f"]
    [result] = RecentMeanField().summarise([request(texts, history=4)])
    assert shown(result.text) == ["b", "c", "d", "e", "f"]
    assert parse_shares(result.text) is None
    assert RecentMeanField().summarise([request(["", ""])])[0].text == ""


def test_popular_shows_the_most_popular_of_the_last_thirty() -> None:
    texts = [f"t{i}" for i in range(40)]
    popularity = [0] * 40
    popularity[5] = 99  # too long ago
    popularity[12], popularity[30], popularity[20] = 8, 9, 8
    [result] = PopularMeanField().summarise([request(texts, popularity, history=24)])
    assert shown(result.text) == ["t30", "t20", "t12", "t39", "t38"]


@pytest.mark.parametrize(
    ("weights", "times"),
    [([1, 1, 1, 1], [1, 1, 1, 1]), ([3, 1, 1, 1], [2, 1, 0, 1]), ([1, 1, 3, 1], [1, 0, 2, 1])],
)
def test_amplified_reactions_are_read_more_often(weights: list[int], times: list[int]) -> None:
    reactions = [replace(request(["x"]).reactions[0], text=str(w), weight=w) for w in weights]
    read = [id(r) for r in exposed(reactions)]
    assert [read.count(id(r)) for r in reactions] == times


# -- real data ---------------------------------------------------------------------------------


@pytest.mark.realdata
def test_a_real_event_is_played_to_its_end() -> None:
    data = Path(os.environ.get("MFENV_DATA") or Path(__file__).parents[1] / "../shared/data")
    path = data / "weibo" / "test.parquet"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    event = load_events(path, event_ids=["3533780360431082"])[0]
    process = make(settings=ProcessSettings())
    records = process.reset(event, 0) + play(process, {0: Intervention(Kind.STATEMENT, HIGH)})
    acted = np.concatenate([r.agents for r in records])
    assert acted.tolist() == list(range(min(300, len(event.posts) - 1)))
    assert all("未知用户" in p for p in records[-1].prompts)  # most profiles are not known
    warmup = [t for r in records if r.warmup for t in r.texts]
    assert warmup == list(event.posts.texts[1:51])
    assert any("否认" in p for p in records[4].prompts)
