"""Planners: what each one does, by hand; the oracle, against every schedule there is."""

import itertools
import json

import numpy as np
import pytest

from agents.planners.base import COST_OF_ACTION, affordable, build_planner
from agents.planners.oracle import SocietyView, expected_surges, plan_ahead
from agents.planners.play import Lane, budgeted, lane_seed, play
from agents.planners.setting import Setting
from mfenv.distributions import UNIFORM, normalise
from mfenv.dynamics.reach import planted_count
from mfenv.dynamics.society import initial_state, limit_step, next_activities, worlds_of
from mfenv.envs.objectives import harms, make_objective
from mfenv.envs.observation import vector
from mfenv.envs.social import SocialEnv
from mfenv.envs.social_vector import SocialVectorEnv
from mfenv.errors import MfenvError
from mfenv.events.synthetic.archetypes import ARCHETYPES
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.events.synthetic.response import SURGE_SHAPE, surge
from mfenv.interventions import N_ACTIONS, action_name
from mfenv.labels import SLICES
from training.heuristics import search_schedule, tune

FACT = 6  # fact_check/high
FREE = np.ones((1, N_ACTIONS), dtype=bool)


def seen(time=0.0, spread=0.5, credibility=0.3, lanes=1):
    shares = UNIFORM.copy()
    shares[SLICES["rumor"]] = spread, 1 - spread
    n = lanes
    return vector(
        distribution=np.tile(shares, (n, 1)),
        previous=np.tile(UNIFORM, (n, 1)),
        domain=np.zeros(n, dtype=int),
        time=np.full(n, time),
        budget=np.ones(n),
        activity=np.zeros((n, 6)),
        credibility=np.full(n, credibility),
    )


def actions(name, observations, masks=FREE):
    planner = build_planner(name)
    planner.reset(np.zeros(len(observations[0]), dtype=np.int64))
    return [planner.act(o, masks).tolist() for o in observations]


def episode(steps=6, **kwargs):
    return [seen(time=t / steps, **kwargs) for t in range(steps)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [0, 0, 0, 0, 0, 0]),
        ("always:fact_check/high", [6, 6, 6, 6, 6, 6]),
        ("front-loaded:statement/low@2", [1, 1, 0, 0, 0, 0]),
        ("periodic:seed/medium@3", [8, 0, 0, 8, 0, 0]),
        ("schedule:none,friction/high", [0, 12, 0, 0, 0, 0]),
        ("paper", [0, 0, 0, 0, 9, 0]),
        ("paper:2", [0, 9, 0, 0, 0, 0]),
        ("by-credibility:paper:1|always:amplify_support/low", [9, 0, 0, 0, 0, 0]),
    ],
)
def test_rules_do_what_they_say(name, expected):
    assert [a for (a,) in actions(name, episode())] == expected
    assert build_planner(name).name == name


def test_threshold_and_credibility_decide_by_lane():
    observation = np.concatenate([seen(spread=s) for s in (0.49, 0.5, 0.51)])
    masks = np.ones((3, N_ACTIONS), dtype=bool)
    assert actions("threshold:fact_check/high@0.5", [observation], masks) == [[0, 6, 6]]
    observation = np.concatenate([seen(credibility=c) for c in (0.2, 0.5, 0.8)])
    name = "by-credibility:always:fact_check/high|always:statement/low"
    assert actions(name, [observation], masks) == [[6, 1, 1]]


def test_what_cannot_be_paid_is_not_wanted_and_a_new_episode_starts_the_clock():
    masks = affordable([1.99])
    assert actions("always:fact_check/high", episode(2), masks) == [[0], [0]]
    assert actions("always:fact_check/high", episode(2), affordable([2.0])) == [[6], [6]]
    twice = [*episode(3), *episode(3)]
    assert [a for (a,) in actions("schedule:none,seed/low", twice)] == [0, 7, 0, 0, 7, 0]


def test_masks_are_those_of_the_environment():
    env = SocialEnv("society", horizon=5, budget=4.0)
    env.reset(seed=0)
    for action in (6, 1, 7, 0, 0):
        _, _, _, _, info = env.step(action)
        assert (affordable([info["budget_left"]])[0] == env.action_masks()).all()
    wanted = np.array([6, 3, 4, 6, 4])  # 2, 3, 2/3, 2 and 2/3 of a budget of 4
    done, refused = budgeted(wanted, 4.0)
    assert done.tolist() == [6, 0, 4, 0, 4]
    assert refused.tolist() == [False, True, False, True, False]


def test_random_draws_from_what_is_allowed_by_seed_and_step():
    lanes = 4000
    masks = np.zeros((lanes, N_ACTIONS), dtype=bool)
    masks[:, [0, 4, 17]] = True
    planner = build_planner("random")
    planner.reset(np.arange(lanes))
    first, second = (planner.act(seen(t, lanes=lanes), masks) for t in (0.0, 0.1))
    assert set(first.tolist()) == {0, 4, 17}
    assert np.bincount(first, minlength=19)[[0, 4, 17]] / lanes == pytest.approx(1 / 3, abs=0.03)
    assert (first != second).any()
    planner.reset(np.arange(lanes)[::-1])
    assert (planner.act(seen(lanes=lanes), masks) == first[::-1]).all()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nobody", "known: always, by-credibility"),
        ("always", "needs an argument"),
        ("none:1", "takes no argument"),
        ("always:shout", "KIND/INTENSITY"),
        ("threshold:seed/low@1.5", "from 0 to 1"),
        ("front-loaded:seed/low@0", "at least 1"),
        ("by-credibility:none", "A|B"),
        ("schedule:missing.json", "does not exist"),
        ("oracle:future", "oracle:noise"),
    ],
)
def test_a_wrong_name_says_what_is_allowed(name, says):
    with pytest.raises(MfenvError, match=r"unknown|allowed|needs|takes|exist") as error:
        build_planner(name)
    assert says in str(error.value)


def test_a_schedule_can_come_from_a_file(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"actions": ["none", "seed/high"]}))
    assert build_planner(f"schedule:{path}").name == "schedule:none,seed/high"
    path.write_text('{"actions": [3]}')
    with pytest.raises(MfenvError, match="list of names"):
        build_planner(f"schedule:{path}")


# -- playing ---------------------------------------------------------------------------------


ARGUMENTS = {"dynamics": "society", "split": "test", "horizon": 4}
EVENTS = [f"synthetic-2-{i}" for i in (0, 7)]


def played(names, arguments=ARGUMENTS, seeds=2):
    lanes = [Lane(n, e, s) for n in names for e in EVENTS for s in range(seeds)]
    result = play(arguments, {n: build_planner(n) for n in names}, lanes)
    shape = (len(names), len(EVENTS), seeds)
    return result, result.counts.reshape(*shape, *result.counts.shape[1:])


def test_lanes_are_paired_and_do_not_depend_on_their_company():
    plan = "schedule:none,none,fact_check/high"
    _, counts = played(["none", plan, "random"])
    assert (counts[0, :, :, :2] == counts[1, :, :, :2]).all()  # nothing done yet: the same noise
    assert (counts[0, :, :, 2:] != counts[1, :, :, 2:]).any()
    assert (counts[0, :, 0] != counts[0, :, 1]).any()  # other seeds, other noise
    assert (played([plan])[1][0] == counts[1]).all()
    assert lane_seed(EVENTS[0], 0) != lane_seed(EVENTS[1], 0)


def test_counts_give_the_environments_own_harm():
    wanted = [9, 4, 6, 0]  # seeding takes the place of four agents
    envs = SocialVectorEnv(1, **ARGUMENTS)
    envs.reset(seed=[lane_seed(EVENTS[0], 0)], options={"event_id": EVENTS[:1]})
    expected = [envs.step(np.array([a]))[-1]["harm"][0] for a in wanted]
    name = "schedule:" + ",".join(map(action_name, wanted))
    result, _ = played([name], seeds=1)
    assert result.counts[0, :, :2].sum(axis=-1).tolist() == [12, 16, 16, 16]
    harm = normalise(result.counts[0])[:, SLICES["belief"].start]  # a false topic
    assert harm == pytest.approx(expected, abs=1e-12)


def test_harms_of_many_are_those_of_each():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 5, size=(3, 4, 23))
    shares, n = normalise(counts), rng.integers(1, 17, size=(3, 4))
    truth = np.array([[0], [1], [0]])
    target = {"stance": [0.2, 0.5, 0.3]}
    for objective in (
        make_objective("misbelief"),
        make_objective("polarization"),
        make_objective("target", target),
    ):
        many = harms(objective, shares, n, truth)
        for i, j in itertools.product(range(3), range(4)):
            one = objective.harm(shares[i, j], int(n[i, j]), bool(truth[i, 0]))
            assert many[i, j] == pytest.approx(one)


# -- the oracle ------------------------------------------------------------------------------


def test_expected_surges_are_the_mean_of_surges():
    seeds = np.arange(40_000)
    event = SyntheticSociety(2).event(0, 60)
    worlds = worlds_of([event], [0])
    virality = worlds.topics.virality[0]
    fresh = expected_surges(worlds, np.array([0]), 6)[0]
    means = [surge(seeds, t, virality).mean() for t in range(6)]
    assert fresh == pytest.approx(means, abs=0.01)
    # One step after a surge of rumour has begun.
    begun = np.flatnonzero(surge(seeds, 4, virality) == SURGE_SHAPE[0])
    known = worlds_of([event], [int(begun[0])])
    expected = expected_surges(known, np.array([5]), 3)[0]
    means = [surge(seeds[begun], t, virality).mean() for t in (5, 6, 7)]
    assert expected == pytest.approx(means, abs=0.03)


def test_the_oracles_plan_is_the_best_of_all_schedules():
    """Every schedule of three steps, by an independent roll-out of the mean-field limit."""
    horizon, budget, weight = 3, 3.0, 0.02
    events = [SyntheticSociety(2).event(i, 120) for i in (3, 10)]  # a false and a true topic
    worlds = worlds_of(events, [5, 6])
    state = initial_state(worlds, events)
    objective = make_objective("misbelief")
    truth = worlds.topics.truth
    view = SocietyView(worlds, lambda: state, truth, objective, budget, weight, horizon)
    plan = plan_ahead(view, np.full(2, budget))

    every = np.array(list(itertools.product(range(N_ACTIONS), repeat=horizon)))
    every = every[COST_OF_ACTION[every].sum(axis=1) <= budget + 1e-9]
    surges = expected_surges(worlds, state.step, horizon)
    for k in range(2):
        rows = np.full(len(every), k)
        topics, perceived = worlds.topics.take(rows), state.perceived[rows]
        activity, total = state.activity[rows], np.zeros(len(every))
        for t in range(horizon):
            first = 50 + 16 * t
            who = worlds.archetypes[k, first : first + 16]
            mixture = np.bincount(who, minlength=len(ARCHETYPES)) / 16
            activity = next_activities(activity, every[:, t])
            own, perceived = limit_step(
                topics, perceived, activity, mixture, np.full(len(every), surges[k, t])
            )
            n = 16 - planted_count(activity, 16)
            total += harms(objective, own, n, truth[rows]) + weight * COST_OF_ACTION[every[:, t]]
        assert plan.loss[k] == pytest.approx(total.min(), abs=1e-9)
        assert plan.actions[k].tolist() in every[total < total.min() + 1e-9].tolist()


def test_with_the_noise_known_no_schedule_is_better():
    """Every schedule of two steps, played in the environment itself."""
    arguments = {**ARGUMENTS, "horizon": 2, "budget": 4.0}
    names = [
        f"schedule:{action_name(a)},{action_name(b)}"
        for a, b in itertools.product(range(N_ACTIONS), repeat=2)
    ]
    objective = make_objective("misbelief")

    def loss(names):
        result, _ = played(names, arguments, seeds=1)
        own = result.counts[..., :2].sum(axis=-1)
        truth = np.tile([[False], [True]], (len(names), 1))
        harm = harms(objective, normalise(result.counts), own, truth)
        cost = COST_OF_ACTION[budgeted(result.wanted, 4.0)[0]]
        return (harm + 0.02 * cost).sum(axis=1).reshape(len(names), 2)

    assert loss(["oracle:noise"])[0] == pytest.approx(loss(names).min(axis=0))


def test_a_belief_is_enough_where_the_truth_is_shown():
    """It is not told the topic, only whether it is true: harm is less than with nothing done."""
    arguments = {**ARGUMENTS, "horizon": 5, "credibility_noise": 0.0}
    name = "oracle:belief"
    result, counts = played(["none", name], arguments, seeds=3)
    believing = normalise(counts)[..., SLICES["belief"].start].mean(axis=-1)  # (2, 2, 3)
    truth = np.array([[0.0], [1.0]])
    harm = np.abs(truth - believing).mean(axis=(1, 2))
    assert harm[1] < harm[0] - 0.1
    alone, _ = played([name], arguments, seeds=3)
    np.testing.assert_array_equal(alone.wanted, result.wanted[6:])


@pytest.mark.parametrize("name", ["oracle", "oracle:belief"])
def test_an_oracle_needs_true_dynamics(name):
    planner = build_planner(name)
    with pytest.raises(MfenvError, match="society"):
        planner.reset(np.zeros(1, dtype=np.int64))


# -- tuning ----------------------------------------------------------------------------------


def test_tuning_keeps_the_best_and_is_deterministic():
    setting, events = Setting(split="validation", horizon=3).chosen(2)
    result = tune(setting, events, 1, 2, 6, 0)
    rewards, none = result["mean_reward"], result["mean_reward_of_none"]
    assert set(rewards) == {
        "always", "front-loaded", "periodic", "threshold", "by credibility", "schedule",
        "schedules by credibility",
    }  # fmt: skip
    assert rewards["by credibility"] >= max(rewards["always"], rewards["threshold"], none)
    assert rewards["schedule"] >= max(rewards[k] for k in ("always", "front-loaded", "periodic"))
    for name in result["planners"].values():
        build_planner(name)
    found = [
        search_schedule(
            setting,
            events,
            np.ones((1, 2), dtype=bool),
            ["always:fact_check/low"],
            rounds=2,
            population=6,
            rng=np.random.default_rng(seed),
        )
        for seed in (0, 0)
    ]
    assert found[0] == found[1]
