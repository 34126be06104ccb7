"""The individuals' environment: PettingZoo's tests, rewards, determinism."""

import doctest
import hashlib
import inspect
import json
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pettingzoo
import pytest
from pettingzoo.test import api_test, max_cycles_test, parallel_api_test, parallel_seed_test

from mfenv.distributions import shares
from mfenv.dynamics.mean_field_text import parse_shares
from mfenv.envs import population
from mfenv.envs.registration import POPULATION
from mfenv.errors import MfenvError
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.labels import SLICES, dimension, encode_code

SMALL = {"n_agents": 4, "max_cycles": 6, "warmup": 10}
# PettingZoo's API test expects arrays; here observations and actions are texts by design.
ALLOWED = (
    "Observation is not a NumPy array",
    "Observation space for each agent probably should be gymnasium.spaces.box",
    "Action space for each agent probably should be gymnasium.spaces.box",
)


def make(**kwargs):
    return population.parallel_env(**{**SMALL, **kwargs})


def strict(test, *args, allowed=(), **kwargs):
    """Run one of PettingZoo's tests; a warning that is not allowed fails."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        test(*args, **kwargs)
    surprising = [str(w.message) for w in caught if not str(w.message).startswith(allowed)]
    assert not surprising


def test_parallel_api():
    strict(parallel_api_test, make(), num_cycles=30)


def test_api_through_the_conversion():
    strict(api_test, population.env(**SMALL), num_cycles=30, allowed=ALLOWED)


def test_max_cycles():
    strict(max_cycles_test, population)


def test_parallel_seed():
    strict(parallel_seed_test, lambda: make(max_cycles=50), num_cycles=50)


def test_registered_with_pettingzoo():
    env = pettingzoo.make("parallel", POPULATION, **SMALL)
    assert isinstance(env, population.PopulationEnv)
    env = pettingzoo.make("aec", POPULATION, max_cycles=2, n_agents=2)
    env.reset(seed=0)
    assert env.possible_agents == ["agent_0", "agent_1"]


def trace(steps=50):
    """A hash of all that 50 steps return, with actions from the spaces (any script)."""
    env = make(max_cycles=steps)
    digest = hashlib.sha256()
    returned = env.reset(seed=9)
    for i, agent in enumerate(env.possible_agents):
        env.action_space(agent).seed(i)
    while env.agents:
        digest.update(json.dumps(returned).encode())
        returned = env.step({agent: env.action_space(agent).sample() for agent in env.agents})
    digest.update(json.dumps(returned).encode())
    return digest.hexdigest()


def test_fifty_steps_are_the_same_in_every_process():
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_envs_population import trace; print(trace())"
    )
    traces = set()
    for seed in ("0", "4321"):
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
            timeout=250,
        )
        assert result.returncode == 0, result.stderr
        traces.add(result.stdout.strip())
    assert traces == {trace()}


def test_global_random_state_is_left_alone():
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = (random.random(), np.random.random())  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    env = make()
    env.reset(seed=1)
    env.step(dict.fromkeys(env.agents, "No."))
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002


def test_slots_are_taken_by_the_next_people():
    env = make(event_ids=["synthetic-0-4"])
    observations, infos = env.reset(seed=0)
    event = SyntheticSociety(0).event(4, 1 + 10 + 4 * 6)
    seen = []
    while env.agents:
        seen.append([infos[a]["person"] for a in env.agents])
        for agent in env.agents:
            assert observations[agent] in env.observation_space(agent)
            assert observations[agent]["topic"] == event.topic
        observations, _, terminations, truncations, infos = env.step(dict.fromkeys(env.agents, ""))
        assert not any(terminations.values())
        assert set(truncations.values()) == {len(seen) == 6}
    assert seen == [[10 + 4 * t + i for i in range(4)] for t in range(6)]
    assert {info["person"] for info in infos.values()} == {None}
    with pytest.raises(MfenvError, match="reset"):
        env.step({})


def test_actions_reach_the_mean_field():
    """Everybody writes the same: the mean field that the next people read follows."""
    event = SyntheticSociety(0).event(4, 1 + 10 + 4 * 6)
    belief = np.asarray(event.labels)[1:, dimension("belief")]
    for value, label in enumerate(("believe", "doubt")):
        text = event.posts.texts[1 + int(np.flatnonzero(belief == value)[0])]
        env = make(event_ids=["synthetic-0-4"])
        env.reset(seed=0)
        while env.agents:
            observations, _, _, _, infos = env.step(dict.fromkeys(env.agents, text))
        assert {info["labels"]["belief"] for info in infos.values()} == {label}
        shown = parse_shares(observations["agent_0"]["mean_field"])
        assert shown[SLICES["belief"].start + value] > 0.8


def test_real_actions_come_closest_to_reality():
    env, twin = make(event_ids=["synthetic-0-8"]), make(event_ids=["synthetic-0-8"])
    gaps = {"real": [], "silent": []}
    env.reset(seed=0)
    twin.reset(seed=0)
    event = SyntheticSociety(0).event(8, 1 + 10 + 4 * 6)
    while env.agents:
        people = env._process.next_agents
        real = {a: event.posts.texts[p + 1] for a, p in zip(env.agents, people, strict=True)}
        infos = env.step(real)[4]
        assert [infos[a]["real_text"] for a in real] == list(real.values())
        gaps["real"].append(infos["agent_0"]["distance"])
        gaps["silent"].append(twin.step(dict.fromkeys(twin.agents, ""))[4]["agent_0"]["distance"])
    assert gaps["real"] == [0.0] * 6
    assert min(gaps["silent"]) > 0.1


def outcome(simulated, real):
    """A step that is the whole window, from label codes."""
    labels, truth = (np.stack([encode_code(c) for c in codes]) for codes in (simulated, real))
    n = len(labels)
    return population.Outcome(
        step=0,
        persons=np.arange(n),
        texts=[""] * n,
        labels=labels,
        real_texts=[""] * n,
        real_labels=truth,
        window=labels,
        real_window=truth,
        distribution=shares(labels),
        mean_field="",
    )


def test_leave_one_out_by_hand():
    believer, doubter = "sczcobop", "sczcodop"  # they differ in belief only
    rewards = population.leave_one_out(outcome([believer, doubter], [believer, believer]))

    def kl(p, q):
        p, q = (np.array(x) / np.sum(x) for x in (p, q))
        return float((p * np.log(p / q)).sum())

    # Counts of the real people, of both actions, and of those without one; each has 0.5 added.
    belief = kl([2.5, 0.5], [0.5, 1.5]) - kl([2.5, 0.5], [1.5, 1.5])  # without the believer
    doubt = kl([2.5, 0.5], [1.5, 0.5]) - kl([2.5, 0.5], [1.5, 1.5])  # without the doubter
    # In every other dimension both actions are what reality has: one less says less.
    rest = sum(kl([2.5] + [0.5] * (k - 1), [1.5] + [0.5] * (k - 1)) for k in (2, 6, 3, 2, 3, 2, 3))
    assert rewards == pytest.approx([(belief + rest) / 8, (doubt + rest) / 8])
    assert rewards[0] > rewards[1]
    same = population.leave_one_out(outcome([believer] * 3, [believer] * 3))
    assert np.ptp(same) == 0
    assert same[0] > 0


def test_a_function_of_the_user_is_the_reward():
    lengths = make(reward=lambda o: [len(t) for t in o.texts])
    lengths.reset(seed=0)
    rewards = lengths.step({a: "x" * i for i, a in enumerate(lengths.agents)})[1]
    assert rewards == {f"agent_{i}": float(i) for i in range(4)}
    assert all(type(r) is float for r in rewards.values())
    wrong = make(reward=lambda o: [0.0])
    wrong.reset(seed=0)
    with pytest.raises(MfenvError, match="1 rewards to 4 agents"):
        wrong.step(dict.fromkeys(wrong.agents, ""))


def test_long_texts_are_cut_and_others_refused():
    env = make(max_length=5, reward=lambda o: [len(t) for t in o.texts])
    env.reset(seed=0)
    assert set(env.step(dict.fromkeys(env.agents, "谣言谣言谣言\ud800"))[1].values()) == {5.0}
    with pytest.raises(MfenvError, match="agent_0: action 3"):
        env.step(dict.fromkeys(env.agents, 3))
    with pytest.raises(MfenvError, match="agent_3"):
        env.step({"agent_0": "", "agent_1": "", "agent_2": ""})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_agents": 0}, "1 or more"),
        ({"reward": "best"}, "leave-one-out"),
        ({"render_mode": "rgb_array"}, "ansi, human"),
        ({"split": "x"}, "train, validation, test"),
        ({"event_ids": ["synthetic-0-560"]}, "synthetic-0-559"),
    ],
    ids=str,
)
def test_wrong_arguments_say_what_is_allowed(kwargs, message):
    with pytest.raises(MfenvError, match=message):
        make(**kwargs)


def test_ansi_shows_the_episode():
    env = make(render_mode="ansi")
    env.reset(seed=0)
    before = env.render()
    env.step(dict.fromkeys(env.agents, "This is false!"))
    assert "This is false!" in env.render()
    assert "This is false!" not in before


def test_the_page_says_what_the_class_does():
    page = inspect.getdoc(population.PopulationEnv)
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    said = {r[0].strip(" `"): r[2].strip(" `") for r in rows if len(r) == 4}
    for name, parameter in inspect.signature(population.PopulationEnv).parameters.items():
        assert said[name].strip('"') == str(parameter.default), name
    runner = doctest.DocTestRunner()
    for case in doctest.DocTestFinder(recurse=False).find(population.PopulationEnv, globs={}):
        runner.run(case)
    assert runner.tries >= 4
    assert runner.failures == 0
