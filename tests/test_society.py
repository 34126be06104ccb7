"""The synthetic society: its texts, its probabilities, its limit, and what interventions do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mfenv.distributions import shares
from mfenv.dynamics.notices import all_notices, notice_texts, planted_texts
from mfenv.dynamics.reach import (
    INITIAL,
    PLANTED,
    level_strength,
    perceive,
    plant,
    reach_weights,
)
from mfenv.dynamics.society import (
    SocietyDynamics,
    Worlds,
    initial_state,
    limit_step,
    mean_field_limit,
    next_activities,
    society_step,
    start,
    worlds_of,
)
from mfenv.errors import MfenvError, ModelError
from mfenv.events.event import DOMAINS, Event, Posts
from mfenv.events.synthetic.annotator import ExactAnnotator
from mfenv.events.synthetic.archetypes import MIXTURE
from mfenv.events.synthetic.effects import intervention_effects
from mfenv.events.synthetic.generator import SyntheticSociety, topics_of, training_steps
from mfenv.events.synthetic.grammar import N_TEXT_DRAWS, VALID, combinations, parse, write_many
from mfenv.events.synthetic.response import (
    draw_labels,
    expected_counts,
    expected_shares,
    response,
    surge,
)
from mfenv.events.synthetic.topics import SUBJECTS, sample_topic
from mfenv.interventions import (
    INTENSITIES,
    N_ACTIONS,
    NONE,
    Intervention,
    Kind,
    decode_action,
    level,
    next_activity,
)
from mfenv.labels import NAMES, SILENT_REPOST, SLICES, encode_code, one_hot
from mfenv.noise import generator, uniform


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return SyntheticSociety(0).events(14)


def some_worlds(k: int, batch: int, steps: int, seed: int = 1) -> Worlds:
    rng = generator(seed)
    topics = topics_of([sample_topic(rng) for _ in range(k)])
    archetypes = rng.choice(len(MIXTURE), p=MIXTURE, size=(k, batch * steps)).astype(np.int8)
    return Worlds(np.arange(k) + 100 * seed, topics, archetypes, batch=batch, surges=False)


# -- texts ---------------------------------------------------------------------------------


def test_the_grammar_reads_back_every_label_combination_that_it_writes() -> None:
    combos = combinations()
    assert len(combos) == 1344
    rng = np.random.default_rng(0)
    for _ in range(12):
        subjects = [SUBJECTS[i] for i in rng.integers(len(SUBJECTS), size=len(combos))]
        texts = write_many(combos, subjects, rng.random((len(combos), N_TEXT_DRAWS)))
        for text, labels, subject in zip(texts, combos, subjects, strict=True):
            read = parse(text, topic=f"Breaking: {subject} in Halden")
            assert read is not None, text
            assert (read == labels).all(), text


def test_the_grammar_refuses_what_it_could_not_have_written() -> None:
    text = "Outrageous! The claim about the tap water is wrong. What is the source?"
    assert (parse(text) == encode_code("cancodoq")).all()
    assert parse("  " + text + "\n") is not None
    assert parse(text, topic="the head coach in Halden quit") is None
    for broken in (
        text.lower(),
        text[:-1],
        "Outrageous! What is the source?",  # no core
        "What is the source? This is false.",  # order
        "Outrageous! Outrageous! This is false.",
        "This is false. This is false.",
        "Sharing this:",
        "谣言",
    ):
        assert parse(broken) is None, broken
    assert (parse("") == SILENT_REPOST).all()


def test_combinations_without_text_are_named() -> None:
    with pytest.raises(ValueError, match="happy"):
        write_many(encode_code("chncodso")[None], ["the mayor"], np.zeros((1, 5)))


def test_planted_texts_are_read_as_planted() -> None:
    for text in set(planted_texts(200, "en", 3, 4)):
        assert (parse(text) == PLANTED).all(), text


def test_exact_annotator_reads_events_and_hands_the_rest_to_its_fallback(
    events: list[Event],
) -> None:
    event = events[0]
    assert event.labels is not None
    n = len(event.posts) - 1
    columns = ([event.topic] * n, list(event.posts.texts[1:]), ["en"] * n)
    assert (ExactAnnotator().label(*columns) == event.labels[1:]).all()
    assert (ExactAnnotator().probabilities(*columns) == one_hot(event.labels[1:])).all()

    odd = (["t", "t", "t"], ["This is false.", "nonsense", ""], ["en"] * 3)
    with pytest.raises(ModelError, match="'nonsense'"):
        ExactAnnotator().label(*odd)

    class Always:
        name = "always"

        def label(self, topics, texts, languages):  # type: ignore[no-untyped-def]
            assert list(texts) == ["nonsense"]
            return PLANTED[None].copy()

        def probabilities(self, topics, texts, languages):  # type: ignore[no-untyped-def]
            return one_hot(self.label(topics, texts, languages))

    annotator = ExactAnnotator(Always())
    labels, exact = annotator.label_with_coverage(*odd)
    assert exact.tolist() == [True, False, True]
    assert (labels[1] == PLANTED).all()
    assert (labels[2] == SILENT_REPOST).all()
    assert annotator.name == "exact+always"


# -- probabilities -------------------------------------------------------------------------


def brute_joint(tables, a: int) -> np.ndarray:  # type: ignore[no-untyped-def,type-arg]
    """Joint over all 2592 combinations of archetype ``a`` in world 0."""
    return np.einsum(
        "b,bs,bsr,rv,be,est,veo,bvi->retvsboi",
        tables.belief[0, a],
        tables.stance[0, a],
        tables.rumor[0, a],
        tables.behavior[0, a],
        tables.state[0, a],
        tables.tendency,
        tables.subjectivity[a],
        tables.intent[0, a],
        optimize=True,
    )


def test_probabilities_sum_to_one_and_avoid_what_has_no_text() -> None:
    rng = np.random.default_rng(2)
    topics = topics_of([sample_topic(rng) for _ in range(40)])
    perceived = np.stack([shares(rng.choice(combinations(), size=5)) for _ in range(40)])
    activity = rng.random((40, 6)) * (rng.random((40, 6)) < 0.5)
    tables = response(topics, perceived, activity, rng.uniform(-1, 1, 40))
    for table in tables:
        assert (table >= 0).all()
        assert np.allclose(table.sum(axis=-1), 1.0)
    for a in range(len(MIXTURE)):
        joint = brute_joint(tables, a)
        assert np.isclose(joint.sum(), 1.0)
        assert (joint[~VALID] == 0).all()


def test_exact_shares_equal_enumeration_with_and_without_weights() -> None:
    rng = np.random.default_rng(3)
    topics = topics_of([sample_topic(rng)])
    tables = response(topics, INITIAL[None], rng.random((1, 6)), 0.7)
    joint = sum(m * brute_joint(tables, a) for a, m in enumerate(MIXTURE))
    weights = rng.random((1, 3, 2))
    # joint axes: r e t v s b o i
    weighted = joint * weights[0].T[None, None, None, :, :, None, None, None]
    for table, given in ((joint, None), (weighted, weights)):
        counts, total = expected_counts(tables, MIXTURE, given)
        by_hand = np.concatenate(
            [table.sum(axis=tuple(x for x in range(8) if x != d)) for d in range(8)]
        )
        assert np.allclose(counts[0], by_hand)
        assert np.isclose(total[0], table.sum())


def test_draws_follow_the_exact_shares() -> None:
    rng = np.random.default_rng(4)
    topics = topics_of([sample_topic(rng)])
    tables = response(topics, INITIAL[None], np.zeros((1, 6)))
    n = 200_000
    archetypes = rng.choice(len(MIXTURE), p=MIXTURE, size=(1, n))
    drawn = draw_labels(tables, archetypes, rng.random((1, n, 8)))
    assert VALID[tuple(drawn[0].T)].all()
    expected = expected_shares(tables, MIXTURE)[0]
    assert np.abs(shares(drawn[0]) - expected).max() < 5 * np.sqrt(0.25 / n)


def test_only_the_written_dimensions_are_perceived() -> None:
    """A language model that reads the mean field's text must be able to know the response."""
    rng = np.random.default_rng(5)
    topics = topics_of([sample_topic(rng)])
    one, two = INITIAL.copy(), INITIAL.copy()
    for name in ("rumor", "sentiment_tendency", "subjectivity"):
        block = two[SLICES[name]]
        two[SLICES[name]] = np.eye(len(block))[0]
    a = response(topics, one[None], np.zeros((1, 6)))
    b = response(topics, two[None], np.zeros((1, 6)))
    assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_the_response_changes_with_a_notice_and_not_between_notices() -> None:
    """What the text says at a level is what the society responds to."""
    rng = np.random.default_rng(6)
    topics = topics_of([sample_topic(rng)])
    seen: dict[tuple[str, ...], float] = {}
    for strength in np.linspace(0, 1, 41):
        for kind in (Kind.STATEMENT, Kind.FACT_CHECK, Kind.FRICTION):
            activity = np.zeros(6)
            activity[kind] = strength
            tables = response(topics, INITIAL[None], activity[None])
            value = float(expected_shares(tables, MIXTURE)[0, SLICES["behavior"]][1])
            assert seen.setdefault(notice_texts(activity), value) == value
    assert len(seen) == len(set(seen.values())) == 1 + 3 * len(INTENSITIES)
    hidden = np.zeros(6)
    hidden[[Kind.SEED, Kind.AMPLIFY_SUPPORT, Kind.AMPLIFY_OPPOSE]] = 1.0
    assert notice_texts(hidden) == ()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_notices_by_domain_language_and_message(language: str) -> None:
    activity = np.array([1.0, 0.5, 0, 0.2, 0, 0])
    known = set(all_notices(language))
    for domain in (None, "elsewhere", *DOMAINS):
        texts = notice_texts(activity, domain, language)
        assert len(texts) == 3
        assert set(texts) <= known
    assert len({notice_texts(activity, d, language)[0] for d in DOMAINS}) == len(DOMAINS)
    assert (
        notice_texts(activity, "News", language, message=" It is\nnot so. ")[0] == "It is not so."
    )


# -- reach ---------------------------------------------------------------------------------


def test_reach_and_perception_by_hand() -> None:
    share_support = encode_code("scprsbop")
    comment_oppose = encode_code("ccncodoo")
    labels = np.stack([share_support, comment_oppose, share_support])
    activity = np.zeros(6)
    activity[Kind.FRICTION], activity[Kind.AMPLIFY_OPPOSE] = 0.5, 1.0
    # Friction blocks a share below 0.8 * 0.5; amplification weighs opposition by 1 + 2 * 1.
    weights = reach_weights(labels, activity, np.array([0.39, 0.0, 0.41]))
    assert weights.tolist() == [0.0, 3.0, 1.0]
    after = perceive(INITIAL, labels, weights)
    believe = SLICES["belief"].start
    assert after[believe] == pytest.approx(2 / 3 * 0.5 + 1 / 3 * 0.25)
    assert (perceive(INITIAL, labels, np.zeros(3)) == INITIAL).all()


@pytest.mark.parametrize(("intensity", "count"), [(0, 1), (1, 3), (2, 4)])
def test_seeding_plants_and_is_not_counted(intensity: int, count: int) -> None:
    worlds = some_worlds(5, batch=16, steps=2)
    seed_action = 1 + Kind.SEED * 3 + intensity
    _, quiet = society_step(worlds, start(worlds), np.zeros(5, dtype=int))
    state, seeded = society_step(worlds, start(worlds), np.full(5, seed_action))
    assert (seeded.planted.sum(axis=1) == count).all()
    assert (seeded.labels[:, :count] == PLANTED).all()
    assert (seeded.labels[:, count:] == quiet.labels[:, count:]).all()
    for k in range(5):
        assert np.allclose(seeded.distribution[k], shares(quiet.own[k, count:]))
    assert (
        state.perceived != society_step(worlds, start(worlds), np.zeros(5, int))[0].perceived
    ).any()
    assert plant(quiet.own, np.zeros((5, 6)))[1].sum() == 0


def test_vectorised_activities_and_levels_equal_the_scalar_ones() -> None:
    rng = np.random.default_rng(7)
    activity = rng.random((N_ACTIONS, 6))
    after = next_activities(activity, np.arange(N_ACTIONS))
    for a in range(N_ACTIONS):
        assert np.allclose(after[a], next_activity(activity[a], decode_action(a)))
    for x in np.linspace(0, 1, 101):
        found = level(x)
        expected = 0.0 if found is None else (1 / 3, 2 / 3, 1.0)[found]
        assert level_strength(x) == expected


# -- events --------------------------------------------------------------------------------


def test_events_are_well_formed_and_cover_all_domains(events: list[Event]) -> None:
    assert {(e.domain, e.label) for e in events} == {
        (d, label) for d in DOMAINS for label in ("true", "false")
    }
    for e in events:
        posts = e.posts
        assert len(posts) == 300
        assert e.labels is not None
        assert e.labels.shape == (300, 8)
        assert posts.parents[0] == -1
        assert (posts.parents[1:] >= 0).all()
        assert (posts.parents[1:] < np.arange(1, 300)).all()
        assert (np.diff(posts.offsets) >= 0).all()
        assert e.meta["subject"] in e.topic.lower()
        json.dumps(dict(e.meta))
    assert len({e.topic for e in events}) == len(events)


def test_an_event_does_not_depend_on_what_it_is_made_with(events: list[Event]) -> None:
    alone = SyntheticSociety(0).event(9)
    assert list(alone.posts.texts) == list(events[9].posts.texts)
    assert (alone.posts.offsets == events[9].posts.offsets).all()
    assert alone.posts.profiles == events[9].posts.profiles
    assert alone.meta == events[9].meta
    assert SyntheticSociety(1).event(9).topic != alone.topic


def test_profiles_tell_of_archetypes(events: list[Event]) -> None:
    rows = [
        (a, p)
        for e in events
        for a, p in zip(e.meta["archetypes"], e.posts.profiles or (), strict=True)
    ]
    descriptions: dict[str, set[int]] = {}
    for a, p in rows:
        assert p is not None
        assert p.description is not None
        descriptions.setdefault(p.description, set()).add(a)
    assert all(len(kinds) == 1 for kinds in descriptions.values())
    by_kind = [np.median([p.followers for a, p in rows if p and a == k]) for k in range(6)]
    assert int(np.argmax(by_kind)) == 2  # the experts


def test_events_move_can_turn_and_do_not_always_collapse() -> None:
    many = SyntheticSociety(2).events(140)
    early = np.array([np.mean(np.asarray(e.labels)[1:49, 5] == 0) for e in many])
    late = np.array([np.mean(np.asarray(e.labels)[-48:, 5] == 0) for e in many])
    assert np.corrcoef(early, late)[0, 1] > 0.3  # momentum
    assert np.mean((early - 0.5) * (late - 0.5) < 0) > 0.08  # reversals
    assert np.mean((late > 0.1) & (late < 0.9)) > 0.5  # most stay divided
    assert late.std() > 0.15


def test_surges_are_rarer_in_calm_topics_and_of_both_signs() -> None:
    seeds, steps = np.arange(4000)[:, None], np.arange(16)[None]
    calm, viral = (surge(seeds, steps, v) for v in (-1.0, 1.0))
    assert 0.05 < np.mean(calm != 0) < np.mean(viral != 0) < 0.7
    assert np.mean(viral > 0) > np.mean(viral < 0) > 0.05
    assert np.abs(viral).max() == 1.0


# -- the tier ------------------------------------------------------------------------------


def test_the_tier_is_deterministic_and_a_fork_sees_the_same_noise(events: list[Event]) -> None:
    event = events[3]
    society = SocietyDynamics()
    warm = society.reset(event, seed=5)
    assert [len(r.agents) for r in warm] == [16, 16, 16, 2]
    assert society.step_index == 4
    assert (
        np.concatenate([r.labels for r in warm]).tolist() == np.asarray(event.labels)[1:51].tolist()
    )
    assert society.horizon == 16
    again = SocietyDynamics()
    again.reset(event, seed=5)
    fork = society.fork()
    snapshot = society.snapshot()
    path = [society.step(NONE) for _ in range(6)]
    for r in (again, fork):
        for expected in path:
            found = r.step(NONE)
            assert (found.labels == expected.labels).all()
            assert list(found.texts) == list(expected.texts)
            assert found.mean_field == expected.mean_field
    society.restore(snapshot)
    assert (society.step(NONE).perceived == path[0].perceived).all()
    for r in path:
        for text, labels in zip(r.texts, r.labels, strict=True):
            found_labels = parse(text, event.topic)
            assert found_labels is not None
            assert (found_labels == labels).all()
    other = SocietyDynamics()
    other.reset(event, seed=6)
    assert (other.step(NONE).labels != path[0].labels).any()


def test_a_branch_differs_only_by_its_intervention(events: list[Event]) -> None:
    """Common random numbers: most agents do the same in both branches of a weak push."""
    society = SocietyDynamics()
    society.reset(events[3], seed=5)
    branch = society.fork()
    plain = society.step(NONE)
    pushed = branch.step(Intervention(Kind.STATEMENT, 0))
    same = (plain.labels == pushed.labels).mean()
    assert 0.8 < same < 1.0
    assert (plain.agents == pushed.agents).all()
    assert pushed.activity[Kind.STATEMENT] == pytest.approx(1 / 3)


def test_one_world_equals_the_same_world_among_many(events: list[Event]) -> None:
    worlds = worlds_of(events, list(range(len(events))))
    state = initial_state(worlds, events)
    actions = np.arange(len(events)) % N_ACTIONS
    state, _ = society_step(worlds, state, actions)
    state, record = society_step(worlds, state, np.zeros(len(events), dtype=int))
    for k in (0, 6, 13):
        society = SocietyDynamics()
        society.reset(events[k], seed=k)
        society.step(decode_action(int(actions[k])))
        alone = society.step(NONE)
        assert (alone.labels == record.labels[k]).all()
        assert np.allclose(alone.perceived, record.perceived[k])


def test_events_that_are_not_synthetic_are_refused(events: list[Event]) -> None:
    posts = Posts(np.zeros(1), np.zeros(1, np.int32), -np.ones(1, np.int32), ["x"])
    with pytest.raises(MfenvError, match=r"e1.*synthetic"):
        SocietyDynamics().reset(Event("e1", "x", posts, "en"))
    with pytest.raises(MfenvError, match="reset"):
        SocietyDynamics().step()
    with pytest.raises(MfenvError, match="more than 50"):
        SocietyDynamics().reset(SyntheticSociety(0).event(0, n_posts=51))


# -- what interventions do -----------------------------------------------------------------


def test_interventions_have_ordered_effects_above_noise() -> None:
    effects = intervention_effects(SyntheticSociety(5).events(210))
    believe, spread, share, oppose, support = (
        NAMES.index(x)
        for x in (
            "belief/believe", "rumor/spread", "behavior/share", "stance/oppose", "stance/support",
        )
    )  # fmt: skip
    expected = {
        Kind.STATEMENT: ((believe, -1), (spread, -1), (oppose, 1)),
        Kind.FACT_CHECK: ((believe, -1), (spread, -1), (oppose, 1)),
        Kind.SEED: ((believe, -1), (oppose, 1)),
        Kind.FRICTION: ((share, -1),),
        Kind.AMPLIFY_SUPPORT: ((believe, 1), (support, 1)),
        Kind.AMPLIFY_OPPOSE: ((believe, -1), (oppose, 1)),
    }
    for kind, signs in expected.items():
        rows = slice(1 + kind * 3, 4 + kind * 3)
        for label, sign in signs:
            low, medium, high = sign * effects.mean[rows, label]
            assert 0 < low < medium < high, (kind.name, NAMES[label])
            assert low > effects.half_width[rows, label][0], (kind.name, NAMES[label])
            assert high > 0.03, (kind.name, NAMES[label])


def test_statements_backfire_where_authorities_are_not_trusted() -> None:
    rng = np.random.default_rng(8)
    topics = topics_of([sample_topic(rng, "Politics")] * 2)
    topics.trust[:] = (0.4, -0.8)
    activity = np.zeros((2, 6))
    before = expected_shares(response(topics, np.tile(INITIAL, (2, 1)), activity), MIXTURE)
    activity[:, Kind.STATEMENT] = 1.0
    after = expected_shares(response(topics, np.tile(INITIAL, (2, 1)), activity), MIXTURE)
    trusted, distrusted = (after - before)[:, SLICES["belief"].start]
    assert trusted < -0.1
    assert distrusted > 0.02


# -- the limit -----------------------------------------------------------------------------


def test_one_step_of_the_limit_is_the_expectation_of_one_step() -> None:
    """Friction, amplification and planting all run; many draws of one step against the limit."""
    worlds = some_worlds(1, batch=40_000, steps=1)
    state = start(worlds)
    activity = np.array([[0.5, 0.7, 0.0, 0.9, 0.6, 0.4]])
    state = type(state)(state.step, state.perceived, activity / [0.7, 0.9, 1, 0.6, 0.5, 0.5])
    after, record = society_step(worlds, state, [1 + Kind.SEED * 3 + 2])
    mixture = np.bincount(record.archetypes[0], minlength=len(MIXTURE)) / 40_000
    own, perceived = limit_step(worlds.topics, state.perceived, record.activity, mixture)
    assert np.abs(own[0] - record.distribution[0]).max() < 0.015
    assert np.abs(perceived[0] - after.perceived[0]).max() < 0.006


def test_the_simulation_approaches_the_limit_with_the_root_of_n() -> None:
    k = 24
    actions = np.array([0, 18, 6, 12, 9, 15, 0, 0])  # each kind but statements once, high
    sizes = np.array([16, 64, 256, 1024, 4096])
    errors = []
    for n in sizes:
        worlds = some_worlds(k, int(n), len(actions))
        limit = mean_field_limit(worlds.topics, np.tile(INITIAL, (k, 1)), actions, MIXTURE)
        state, squares = start(worlds), []
        for t, action in enumerate(actions):
            state, record = society_step(worlds, state, np.full(k, action))
            squares.append(np.mean((record.distribution - limit.distribution[:, t]) ** 2))
        errors.append(np.sqrt(np.mean(squares)))
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    print(f"errors {np.round(errors, 4)}, slope {slope:.3f}")
    assert -0.6 < slope < -0.4
    assert errors[-1] < 0.01


# -- the training stream -------------------------------------------------------------------


def test_training_steps_are_reproducible_and_cover_the_interventions() -> None:
    steps = list(training_steps(3, 3072))
    again = list(training_steps(3, 64))
    for a, b in zip(steps, again, strict=False):
        assert (a.topic, a.mean_field, a.notices, a.texts) == (
            b.topic,
            b.mean_field,
            b.notices,
            b.texts,
        )
    issued = {n for s in steps for n in s.notices}
    assert issued == {n for n in all_notices("en") if "authorities" not in n}
    for s in steps[:200]:
        assert len(s.texts) == len(s.profiles) == len(s.labels) == 16
        for text, labels in zip(s.texts, s.labels, strict=True):
            read = parse(text, s.topic)
            assert read is not None
            assert (read == labels).all()
        assert s.notices == notice_texts(s.activity, s.domain)
    assert {s.domain for s in steps} == set(DOMAINS)


def test_keyed_noise_is_uniform_over_what_is_drawn() -> None:
    u = uniform(np.arange(200)[:, None], np.arange(50)[None], 3, 900)
    assert abs(u.mean() - 0.5) < 0.02
