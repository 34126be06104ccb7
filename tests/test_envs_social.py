"""The planner's environments: contracts, spaces, rewards, budget, determinism."""

import doctest
import hashlib
import inspect
import itertools
import json
import os
import random
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from mfenv.distributions import UNIFORM, shares
from mfenv.dynamics.society import SocietyDynamics
from mfenv.envs import registration, rendering
from mfenv.envs import social as social_module
from mfenv.envs.objectives import make_objective, misbelief, polarization
from mfenv.envs.observation import (
    DOMAIN_NAMES,
    OBSERVATION_SLICES,
    credibility,
    domain_index,
    vector,
)
from mfenv.envs.scenarios import SPLITS, make_scenarios
from mfenv.envs.social import SocialEnv
from mfenv.errors import MfenvError
from mfenv.events.jsonl import write_jsonl
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.interventions import INTENSITIES, KINDS, N_ACTIONS, NONE, decode_action, encode_action
from mfenv.labels import SLICES

SOCIETY, SOCIAL = registration.SOCIETY, registration.SOCIAL
SURROGATE = registration.SURROGATE
TEXT = registration.TEXT  # tested in test_envs_social_text.py
IDS = [id_ for id_ in gymnasium.registry if id_.startswith("MFLLM-") and id_ != TEXT]
# Keeps the language-model tier quick: few agents, and a mean field that is counted, not written.
SMALL = {"batch": 4, "warmup": 4, "horizon": 8, "method": "mf-counted"}
TARGET = {"stance": {"support": 0.1, "oppose": 0.5, "neutral": 0.4}}
VARIANTS = [
    {},
    {"observation": "dict"},
    {"observation": "text"},
    {"action": "multidiscrete"},
    {"objective": "polarization"},
    {"objective": "target", "target": TARGET},
    {"warmup": 0},
]


@pytest.fixture(autouse=True)
def one_thread(request):
    """Small models are fastest on one thread, above all on a machine that is busy."""
    if not any(name in request.node.name for name in ("sb3", SOCIAL)):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(id_=SOCIETY, **kwargs):
    small = SMALL if id_ == SOCIAL else {}
    return gymnasium.make(id_, **{**small, **kwargs})


def run(code, **environment):
    """Run Python code in a fresh process and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_all_environments_are_registered():
    assert set(IDS) == {SOCIAL, SOCIETY, SURROGATE}


# The language-model tier takes seconds a step; the variants share their code with the society.
CASES = [(SOCIETY, v) for v in VARIANTS] + [(SOCIAL, {}), (SOCIAL, {"observation": "text"})]


@pytest.mark.parametrize(("id_", "kwargs"), CASES, ids=str)
def test_gymnasium_check_env(id_, kwargs):
    env = make(id_, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning is allowed at all
        check_env(env.unwrapped)


@pytest.mark.parametrize(
    ("id_", "kwargs"),
    # SB3 has no text space: that format is for language models.
    [case for case in CASES if case[1].get("observation") != "text"],
    ids=str,
)
def test_sb3_check_env(id_, kwargs):
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    env = make(id_, render_mode="ansi", **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning is allowed at all
        sb3_check_env(env.unwrapped, warn=True, skip_render_check=False)


@pytest.mark.parametrize("id_", IDS)
def test_spec_goes_through_json(id_):
    kwargs = {"objective": "target", "target": TARGET, "event_ids": ["synthetic-0-3"], **SMALL}
    spec = EnvSpec.from_json(gymnasium.make(id_, **kwargs).spec.to_json())
    a, b = gymnasium.make(spec), gymnasium.make(id_, **kwargs)
    for env in (a, b):
        env.reset(seed=4)
    first, second = a.step(5), b.step(5)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1:] == second[1:]


def test_make_without_import_and_without_torch():
    out = run(
        "import gymnasium, sys\n"
        "env = gymnasium.make('mfenv:MFLLM-Society-v0')\n"
        "env.reset(seed=0); env.step(4)\n"
        "heavy = ('torch', 'transformers', 'pettingzoo', 'matplotlib', 'agents', 'training')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    assert out.strip() == "[]"


def test_import_is_light():
    code = (
        "import time; start = time.perf_counter(); import mfenv, sys\n"
        "heavy = ('torch', 'transformers', 'pettingzoo', 'matplotlib', 'pyarrow')\n"
        "print(time.perf_counter() - start, *[m for m in heavy if m in sys.modules])"
    )
    lines = [run(code).split() for _ in range(3)]
    assert all(len(line) == 1 for line in lines)
    assert min(float(line[0]) for line in lines) < 0.5


def test_registering_twice_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registration.register_all()
        registration.register_pettingzoo()
        registration.register_pettingzoo()


def trace(env, steps, seed=7):
    """A hash of everything that 50 steps return, infos included."""
    digest = hashlib.sha256()
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    for _ in range(steps):
        observation, reward, _, truncated, info = env.step(env.action_space.sample())
        digest.update(np.asarray(observation).tobytes())
        digest.update(json.dumps([reward, info], sort_keys=False).encode())
        if truncated:
            observation, info = env.reset()
            digest.update(np.asarray(observation).tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("id_", IDS)
def test_fifty_steps_are_the_same_in_every_process(id_):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from test_envs_social import make, trace; print(trace(make({id_!r}), 50))"
    )
    traces = {run(code, PYTHONHASHSEED=seed, OMP_NUM_THREADS="1") for seed in ("0", "1234")}
    assert len(traces) == 1


@pytest.mark.parametrize("id_", IDS)
def test_global_random_state_is_left_alone(id_):
    states = []
    for _ in range(2):
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        if id_ == SOCIAL:
            import torch

            torch.manual_seed(5)
        states.append((random.random(), np.random.random()))  # noqa: NPY002
        if not states[1:]:
            env = make(id_)
            env.reset(seed=1)
            env.step(3)
        states.append((random.random(), np.random.random()))  # noqa: NPY002
    assert states[0] == states[2]
    assert states[1] == states[3]


# -- observations ------------------------------------------------------------------------------


def test_observation_is_what_its_slices_say():
    env = make(event_ids=["synthetic-0-9"], budget=10.0)
    observation, info = env.reset(seed=2)
    event = SyntheticSociety(0).event(9, 1 + 50 + 16 * 16)
    assert info["event_id"] == event.event_id
    parts = {name: observation[where] for name, where in OBSERVATION_SLICES.items()}
    recorded = np.asarray(event.labels)[1:51]
    np.testing.assert_allclose(parts["distribution"], shares(recorded[-16:]), atol=1e-6)
    np.testing.assert_allclose(
        parts["change"], shares(recorded[-16:]) - shares(recorded[-32:-16]), atol=1e-6
    )
    assert DOMAIN_NAMES[int(parts["domain"].argmax())] == event.domain
    assert parts["domain"].sum() == 1
    assert [float(parts[k][0]) for k in ("time", "budget")] == [0.0, 1.0]
    assert not parts["activity"].any()

    after, _, _, _, info = env.step(encode_action(decode_action(6)))  # fact_check/high, cost 2
    parts = {name: after[where] for name, where in OBSERVATION_SLICES.items()}
    np.testing.assert_allclose(parts["time"], [1 / 16])
    np.testing.assert_allclose(parts["budget"], [0.8])
    np.testing.assert_array_equal(parts["activity"], np.eye(6, dtype=np.float32)[1])
    np.testing.assert_allclose(
        parts["change"], after[OBSERVATION_SLICES["distribution"]] - observation[:23], atol=1e-6
    )
    assert info["shares"]["belief/believe"] == pytest.approx(float(after[SLICES["belief"].start]))


def test_formats_hold_the_same():
    actions = [4, 0, 17]
    seen = {}
    for kind in ("box", "dict", "text"):
        env = make(observation=kind)
        seen[kind] = [env.reset(seed=3)[0], *(env.step(a)[0] for a in actions)]
    for box, parts, text in zip(seen["box"], seen["dict"], seen["text"], strict=True):
        for name, where in OBSERVATION_SLICES.items():
            np.testing.assert_array_equal(box[where], parts[name])
        np.testing.assert_array_equal(box, text["vector"])
        assert "%" in text["mean_field"]


@pytest.mark.parametrize("domain", [None, "Gossip", "Health"])
def test_domains_include_unknown(domain):
    values = vector(
        distribution=UNIFORM,
        previous=UNIFORM,
        domain=domain_index(domain),
        time=0.0,
        budget=1.0,
        activity=np.zeros(6),
        credibility=0.5,
    )
    expected = "Health" if domain == "Health" else "unknown"
    assert DOMAIN_NAMES[int(values[OBSERVATION_SLICES["domain"]].argmax())] == expected
    assert values[OBSERVATION_SLICES["domain"]].sum() == 1


def test_credibility_is_calibrated():
    rng = np.random.default_rng(0)
    truth = rng.random(20_000) < 0.5
    c = np.array([credibility(bool(t), 1.0, d) for t, d in zip(truth, rng.normal(size=20_000))])  # noqa: B905
    for low in (0.1, 0.3, 0.5, 0.7):
        inside = (c >= low) & (c < low + 0.2)
        assert truth[inside].mean() == pytest.approx(c[inside].mean(), abs=0.03)
    assert ((c > 0.5) == truth).mean() == pytest.approx(0.8413, abs=0.01)  # Φ(1)
    assert [credibility(t, 0.0, 1.7) for t in (True, False, None)] == [1.0, 0.0, 0.5]


def test_truth_is_hidden_and_credibility_noisy():
    env = make()
    where = OBSERVATION_SLICES["credibility"]
    values = {float(env.reset(seed=s)[0][where][0]) for s in range(30)}
    assert len(values) == 30
    for observation in ("box", "dict"):
        exact = make(observation=observation, credibility_noise=0)
        first, info = exact.reset(seed=1)
        value = first[where] if observation == "box" else first["credibility"]
        event = exact.unwrapped.dynamics.event
        assert float(value[0]) == float(event.truth)
        assert "truth" not in info


def test_a_given_reading_is_the_same_credibility_in_every_tier():
    where = OBSERVATION_SLICES["credibility"]
    z = [-1.3, 0.2, 0.9]
    shown = []
    for name in ("society", "surrogate"):
        options = {"event_id": "synthetic-0-3", "reading": z}
        many = gymnasium.make_vec("MFLLM-Social-v0", num_envs=3, dynamics=name)
        shown.append(many.reset(seed=[5, 6, 7], options=options)[0][:, where][:, 0])
        one = gymnasium.make("MFLLM-Social-v0", dynamics=name)
        alone = one.reset(seed=6, options={"event_id": "synthetic-0-3", "reading": z[1]})[0]
        assert alone[where] == shown[-1][1]
        truth = one.unwrapped.dynamics.event.truth
        expected = [credibility(truth, 1.0, draw) for draw in z]
        np.testing.assert_allclose(shown[-1], expected, rtol=1e-6)
    np.testing.assert_array_equal(*shown)
    with pytest.raises(MfenvError, match="one finite number, or 3"):
        many.reset(options={"reading": [0.0, float("nan"), 1.0]})


# -- rewards -----------------------------------------------------------------------------------


def test_rewards_are_harm_and_cost_of_the_dynamics_themselves():
    env = make(cost_weight=0.1)
    _, info = env.reset(seed=12)
    event, seed = env.unwrapped.dynamics.event, env.unwrapped.dynamics.seed
    twin = SocietyDynamics(batch=16, warmup=50)
    twin.reset(event, seed)
    column = SLICES["belief"].start + (1 if event.truth else 0)
    for action in (6, 9, 0, 12):
        u = decode_action(action)
        record = twin.step(u)
        observation, reward, terminated, truncated, info = env.step(action)
        harm = record.distribution[column]
        assert type(reward) is float
        assert reward == pytest.approx(-harm - 0.1 * u.cost)
        assert info["metrics"]["misbelief"] == pytest.approx(harm)
        np.testing.assert_allclose(observation[:23], record.distribution, atol=1e-6)
        assert (
            info["texts"]
            == tuple(t for t, p in zip(record.texts, record.planted, strict=True) if not p)[:4]
        )
        assert info["mean_field"] == record.mean_field
        assert (terminated, truncated) == (False, False)


def test_planted_reactions_count_nowhere():
    """The same noise with and without seeding: what is seen are the others' own reactions."""
    quiet, seeded = make(), make()
    for env in (quiet, seeded):
        env.reset(seed=21)
    fork = quiet.unwrapped.dynamics.fork()
    own = fork.step(NONE).labels
    seeding = 1 + KINDS.index("seed") * len(INTENSITIES) + INTENSITIES.index("high")
    observation, reward, _, _, info = seeded.step(seeding)
    planted = seeded.unwrapped._records[-1].planted
    assert planted.sum() == 4
    np.testing.assert_allclose(observation[:23], shares(own[~planted]), atol=1e-6)
    truth = seeded.unwrapped.dynamics.event.truth
    assert info["metrics"]["misbelief"] == pytest.approx(misbelief(shares(own[~planted]), truth))
    assert info["metrics"]["polarization"] == pytest.approx(polarization(shares(own[~planted])))
    assert reward == pytest.approx(-misbelief(shares(own[~planted]), truth) - 0.02 * info["cost"])
    from mfenv.dynamics.notices import _PLANTED

    assert not set(info["texts"]) & set(_PLANTED["en"])


def test_objectives_by_hand():
    d = np.zeros(23)
    d[SLICES["belief"]] = [0.7, 0.3]
    d[SLICES["stance"]] = [0.2, 0.5, 0.3]
    assert misbelief(d, truth=False) == 0.7
    assert misbelief(d, truth=True) == 0.3
    assert polarization(d) == pytest.approx(0.4)
    target = make_objective("target", TARGET)
    # 16 reactions, 0.5 added to each of three counts: (3.7, 8.5, 5.3) / 17.5.
    expected = 0.1 * np.log(0.1 * 17.5 / 3.7) + 0.5 * np.log(0.5 * 17.5 / 8.5)
    expected += 0.4 * np.log(0.4 * 17.5 / 5.3)
    assert target.harm(d, 16, None) == pytest.approx(expected)
    d[SLICES["stance"]] = [0.1, 0.5, 0.4]
    assert target.harm(d, 10**7, None) == pytest.approx(0, abs=1e-6)
    whole = np.concatenate(
        [np.full(w.stop - w.start, 1 / (w.stop - w.start)) for w in SLICES.values()]
    )
    assert make_objective("target", whole.tolist()).harm(whole, 10**7, None) == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, "needs target="),
        ([0.5, 0.5], "23 shares"),
        ({"mood": [1.0]}, "unknown dimension 'mood'"),
        ({"stance": {"maybe": 1.0}}, "unknown label 'maybe'"),
        ({"stance": [0.5, 0.5]}, "3 shares"),
        ({"stance": [0.5, 0.4, 0.4]}, "sum to 1"),
        ({"stance": [1.2, -0.1, -0.1]}, "at least 0"),
        ({}, "at least one dimension"),
    ],
)
def test_wrong_targets_say_what_is_allowed(target, message):
    with pytest.raises(MfenvError, match=message):
        make(objective="target", target=target)


# -- budget, masks, episodes -------------------------------------------------------------------


def test_an_exhausted_budget_ends_nothing():
    rich, poor = make(budget=1e6), make(budget=4.0)
    for env in (rich, poor):
        env.reset(seed=8)
    statement = 3  # at high intensity: 3 units
    assert poor.unwrapped.action_masks().all()
    poor.step(statement)
    masks = poor.unwrapped.action_masks()
    assert [a for a in range(N_ACTIONS) if masks[a]] == [
        a for a in range(N_ACTIONS) if decode_action(a).cost <= 1.0 + 1e-9
    ]
    rich.step(statement)
    for step in range(2, 17):
        a, b = poor.step(statement), rich.step(0)
        assert a[4]["unaffordable"]
        assert not b[4]["unaffordable"]
        assert (a[4]["intervention"], a[4]["cost"]) == ("none", 0.0)
        assert a[4]["budget_left"] == pytest.approx(1.0)
        assert a[1] == b[1]  # it did nothing at all
        assert (a[2], a[3]) == (False, step == 16)
    with pytest.raises(MfenvError, match="reset"):
        poor.step(0)


def test_masks_tell_what_will_be_unaffordable():
    env = make(budget=2.5, horizon=6)
    rng = np.random.default_rng(0)
    for seed in range(6):
        env.reset(seed=seed)
        truncated = False
        while not truncated:
            masks = env.unwrapped.action_masks()
            action = int(rng.integers(N_ACTIONS))
            *_, truncated, info = env.step(action)
            assert info["unaffordable"] == (not masks[action])
            assert info["spent"] <= 2.5 + 1e-9


def test_multidiscrete_is_the_same_actions():
    flat, factored = make(), make(action="multidiscrete", budget=12.0)
    for env in (flat, factored):
        env.reset(seed=5)
    pairs = [((0, 2), 0), ((1, 0), 1), ((2, 2), 6), ((6, 1), 17)]
    for pair, action in pairs:
        a, b = factored.step(np.array(pair)), flat.step(action)
        np.testing.assert_array_equal(a[0], b[0])
        assert a[4]["intervention"] == b[4]["intervention"] == flat.unwrapped.action_names[action]
    masks = factored.unwrapped.action_masks()
    assert masks.shape == (7 + 3,)
    broke = make(action="multidiscrete", budget=0.4)
    broke.reset(seed=0)
    # Only amplification at low intensity (1/3) can be paid.
    assert broke.unwrapped.action_masks().tolist() == [True, *[False] * 4, True, True, *[True] * 3]


def test_same_seed_same_world_under_every_planner():
    runs = []
    for action in (0, 5):
        env = make()
        first, info = env.reset(seed=31)
        env.step(action)
        second, other = env.reset()
        runs.append((first, info, second, other))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][2], runs[1][2])
    assert runs[0][1] == runs[1][1]
    assert runs[0][3] == runs[1][3]


def test_episodes_come_from_the_chosen_events(tmp_path):
    env = make(event_ids=["synthetic-0-1", "synthetic-0-5"])
    drawn = {env.reset(seed=s)[1]["event_id"] for s in range(20)}
    assert drawn == {"synthetic-0-1", "synthetic-0-5"}
    assert env.reset(options={"event_id": "synthetic-0-5"})[1]["event_id"] == "synthetic-0-5"
    with pytest.raises(MfenvError, match="synthetic-0-1"):
        env.reset(options={"event_id": "synthetic-0-2"})
    splits = [set(make_scenarios(None, split, None, 20).ids) for split in SPLITS]
    assert [len(s) for s in splits] == [560, 28, 28, 84]
    assert all(not a & b for a, b in itertools.combinations(splits, 2))

    path = tmp_path / "test.jsonl"
    events = SyntheticSociety(3).events(4, 100)
    nobody_knows = replace(events[0], label="unverified")
    write_jsonl([nobody_knows, *events[1:3], SyntheticSociety(3).event(7, 30)], path)
    env = make(events=str(tmp_path), split="test", objective="polarization")
    ids = {env.reset(seed=s)[1]["event_id"] for s in range(12)}
    assert ids == {e.event_id for e in events[:3]}  # the short one is left out
    one = make(events=str(path), event_ids=[nobody_knows.event_id], objective="polarization")
    observation, info = one.reset(seed=0)
    assert "misbelief" not in info["metrics"]
    assert observation[OBSERVATION_SLICES["credibility"]] == 0.5
    steps = 0
    truncated = False
    while not truncated:
        *_, truncated, info = one.step(0)
        steps += 1
    assert steps == 4  # 49 people after the warm-up, in batches of 16
    blind = make(events=str(path), event_ids=[nobody_knows.event_id])
    with pytest.raises(MfenvError, match=f"{nobody_knows.event_id}.*polarization"):
        blind.reset(seed=0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dynamics": "surrogate2"}, "llm, society"),
        ({"objective": "peace"}, "misbelief, polarization, target"),
        ({"observation": "pixels"}, "box, dict, text"),
        ({"action": "text"}, "discrete, multidiscrete"),
        ({"split": "tset"}, "train, validation, test"),
        ({"event_ids": ["synthetic-9-9"]}, "synthetic-0-0 to synthetic-0-559"),
        ({"event_ids": []}, "at least one id"),
        ({"events": "no/such/file"}, "does not exist"),
        ({"batch": 0}, "1 or more"),
        ({"horizon": 2.5}, "1 or more"),
        ({"budget": -1}, "0 or more"),
        ({"credibility_noise": float("nan")}, "0 or more"),
        ({"target": TARGET}, "belongs to"),
        ({"dynamics": "llm", "backbone": "gpt-99"}, "embedded-en"),
        ({"dynamics": "llm", "method": "magic"}, "mf-counted"),
        ({"dynamics": "llm", "annotator": "oracle"}, "classifier"),
    ],
    ids=str,
)
def test_wrong_arguments_say_what_is_allowed(kwargs, message):
    with pytest.raises(MfenvError, match=message):
        SocialEnv(**{"dynamics": "society", **kwargs})


def test_steps_and_actions_out_of_place():
    env = SocialEnv("society")
    for call in (lambda: env.step(0), env.action_masks, lambda: env.dynamics):
        with pytest.raises(MfenvError, match="reset"):
            call()
    env.reset(seed=0)
    for wrong in (19, -1, 2.0, None, np.array([1, 2])):
        with pytest.raises(MfenvError, match="Discrete"):
            env.step(wrong)
    env.close()
    env.close()


# -- rendering ---------------------------------------------------------------------------------


def test_ansi_shows_the_episode():
    env = make(render_mode="ansi", horizon=3)
    _, info = env.reset(seed=0)
    before = env.render()
    assert info["event_id"] in before
    env.step(6)
    after = env.render()
    assert "fact_check/high" in after
    assert after != before
    assert f"{100 * env.unwrapped.dynamics.distribution[SLICES['belief'].start]:.0f}%" in after


def test_rgb_array_changes_with_the_episode():
    env = make(render_mode="rgb_array", horizon=3)
    env.reset(seed=0)
    before = env.render()
    env.step(6)
    after = env.render()
    for picture in (before, after):
        assert picture.shape == (720, 960, 3)
        assert picture.dtype == np.uint8
    assert (before != after).any(axis=2).mean() > 0.01
    env.step(0)
    np.testing.assert_array_equal(after, after.copy())
    assert not np.shares_memory(after, env.render())


def test_human_prints_at_every_step(capsys):
    env = make(render_mode="human", horizon=3)
    env.reset(seed=0)
    env.step(0)
    assert capsys.readouterr().out.count("mean field |") >= 2
    assert env.render() is None


def test_pictures_never_show_boxes_for_letters():
    fonts = dict(rendering._fonts())
    for topic in ("谣言四起", "Flood in Linby: $5 <b>now</b>", "fire 🜀 in town", "ሰላም ለዓለም"):
        found = rendering.drawable(topic)
        letters = {ord(c) for c in topic if not c.isspace()}
        if any(letters <= glyphs for glyphs in fonts.values()):
            assert found[0] == topic
        if found is not None:
            assert {ord(c) for c in found[0] if c != " "} <= fonts[found[1]]
    assert rendering.drawable("\U0001fbff" * 5 + "\ue000" * 5) is None  # nobody draws these


def test_rendering_takes_hostile_text():
    env = make(render_mode="rgb_array", horizon=2)
    env.reset(seed=0)
    frame = env.unwrapped._frame()
    topic = "\x1b[31m$\\frac{1}{0}$ \u202e <script> {0} %s" + "long " * 200
    hostile = replace(
        frame, topic=topic, event_id="../../\x1b]0;x\x07", mean_field="\x1b[2J" + topic
    )
    text = rendering.ansi(hostile)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert rendering.rgb_array(hostile).shape == (720, 960, 3)


# -- vector environments and learners ----------------------------------------------------------


@pytest.mark.parametrize("shared_memory", [True, False])
def test_texts_arrive_from_other_processes(shared_memory):
    def fn():
        return gymnasium.make("mfenv:MFLLM-Society-v0", observation="text", horizon=3)

    sync = SyncVectorEnv([fn] * 2)
    other = AsyncVectorEnv([fn] * 2, shared_memory=shared_memory)
    try:
        seen = []
        for envs in (sync, other):
            kept = [envs.reset(seed=3)[0]]
            kept += [envs.step(np.array([k, 2 * k]))[0] for k in range(5)]  # over an autoreset
            seen.append(kept)
        for a, b in zip(*seen, strict=True):
            assert a["topic"] == b["topic"]
            assert a["mean_field"] == b["mean_field"]
            np.testing.assert_array_equal(a["vector"], b["vector"])
        assert len({o["mean_field"] for o in seen[1]}) > 3
    finally:
        sync.close()
        other.close()


def test_a_written_mean_field_reaches_the_planner():
    """The default method: the language model writes the mean field."""
    env = make(SOCIAL, method="mf", observation="text")
    seen = [env.reset(seed=0)[0]["mean_field"]]
    observation, _, _, _, info = env.step(6)
    assert seen[0] != observation["mean_field"] == info["mean_field"][:2000]
    assert info["completion_tokens"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("id_", "steps"), [(SOCIETY, 2000), (SOCIAL, 64)])
@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_sb3_trains_without_a_wrapper(id_, steps, algorithm):
    import stable_baselines3

    env = gymnasium.make(id_)  # as anybody gets it: the default backbone, batch and method
    extra = (
        {"n_steps": min(steps, 256), "batch_size": 32}
        if algorithm == "PPO"
        else {"learning_starts": 32}
    )
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", env, seed=0, device="cpu", **extra)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(steps)
    assert model.num_timesteps >= steps
    changed = [bool((a != b).any()) for a, b in zip(before, model.policy.parameters(), strict=True)]
    assert any(changed)
    action, _ = model.predict(env.reset(seed=0)[0], deterministic=True)
    assert env.action_space.contains(int(action))


# -- documentation -----------------------------------------------------------------------------


def test_the_page_says_what_the_class_does():
    page = inspect.getdoc(SocialEnv)
    for heading in ("Description", "Action Space", "Observation Space", "Rewards", "Starting State",
                    "Episode End", "Arguments", "Version History"):  # fmt: skip
        assert f"## {heading}" in page
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    table = {r[1].strip(): r[0].strip() for r in rows if len(r) == 5}
    for name, where in OBSERVATION_SLICES.items():
        last = where.stop - 1
        assert table[name] == (f"{where.start}–{last}" if last > where.start else f"{where.start}")
    parameters = {r[0].strip(" `"): r[2].strip(" `") for r in rows if len(r) == 4}
    signature = inspect.signature(SocialEnv.__init__).parameters
    for name, parameter in signature.items():
        if name != "self":
            assert parameters[name].strip('"') == str(parameter.default), name
    for a in range(1, N_ACTIONS, 3):
        row = next(r for r in rows if r[0].strip() == f"{a}–{a + 2}")
        assert KINDS[(a - 1) // 3] in row[1]
        said = [float(x) for x in row[3].split(",")]
        assert said == [pytest.approx(decode_action(a + i).cost, abs=0.01) for i in range(3)]


def test_the_page_examples_run():
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner()
    for case in finder.find(SocialEnv, "SocialEnv", globs={}, module=social_module):
        runner.run(case)
    assert runner.tries >= 4
    assert runner.failures == 0


@pytest.mark.parametrize(
    "kwargs",
    [
        {"budget": 5.0},
        {"warmup": 0, "objective": "polarization"},
        {"action": "multidiscrete", "batch": 5, "objective": "target", "target": TARGET},
    ],
    ids=str,
)
def test_vector_environment_equals_single_ones(kwargs):
    kwargs = {"horizon": 5, **kwargs}
    fast = gymnasium.make_vec("mfenv:MFLLM-Society-v0", num_envs=3, **kwargs)
    assert fast.unwrapped.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    slow = gymnasium.make_vec(SOCIETY, num_envs=3, vectorization_mode="sync", **kwargs)
    fast.action_space.seed(1)
    a, b = fast.reset(seed=40), slow.reset(seed=40)
    for step in range(20):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[0] in fast.observation_space
        for name in ("event_id", "step", "cost", "spent", "budget_left", "unaffordable"):
            np.testing.assert_array_equal(a[-1][name], b[-1][name])
        if step == 7:  # leave one world out of step with the others
            mask = np.array([False, True, False])
            a, b = (e.reset(options={"reset_mask": mask.copy()}) for e in (fast, slow))
            np.testing.assert_array_equal(a[0], b[0])
        actions = fast.action_space.sample()
        a, b = fast.step(actions), slow.step(actions)
        for i in (1, 2, 3):
            np.testing.assert_array_equal(a[i], b[i])
    with pytest.raises(MfenvError, match="sync"):
        gymnasium.make_vec(SOCIETY, num_envs=2, observation="dict")


def test_language_worlds_step_together(tmp_path, monkeypatch):
    """The same numbers as worlds one by one, with one call to each model in a phase."""
    import toy_models

    toy_models.install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = {"backbone": "toy", "method": "toy", "annotator": "toy-exact"}
    kwargs = {**SMALL, **names, "horizon": 3, "budget": 4.0}
    calls = []
    act = toy_models.ToyPolicy.act
    monkeypatch.setattr(
        toy_models.ToyPolicy, "act", lambda self, rows: calls.append(len(rows)) or act(self, rows)
    )
    fast = gymnasium.make_vec("mfenv:MFLLM-Social-v0", num_envs=3, **kwargs)
    slow = gymnasium.make_vec(SOCIAL, num_envs=3, vectorization_mode="sync", **kwargs)
    fast.action_space.seed(2)
    drawn = [fast.action_space.sample() for _ in range(9)]
    runs = []
    for envs in (fast, slow):
        run = [envs.reset(seed=6)]
        for k, actions in enumerate(drawn):
            if k == 5:
                envs.reset(options={"reset_mask": np.array([True, False, False])})
            run.append(envs.step(actions))
        runs.append(run)
        if envs is fast:
            # Twice (steps 4 and 8) worlds begin anew, some of them at other times than the rest.
            assert len(calls) <= len(drawn)
            assert max(calls) > SMALL["batch"]
    for a, b in zip(*runs, strict=True):
        for x, y in zip(a[:-1], b[:-1], strict=True):
            np.testing.assert_array_equal(x, y)
        for name in ("event_id", "spent", "unaffordable"):
            np.testing.assert_array_equal(a[-1][name], b[-1][name])


def test_pictures_name_the_missing_extra():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import gymnasium\n"
        "gymnasium.make('mfenv:MFLLM-Society-v0', render_mode='ansi').reset()\n"
        "try: gymnasium.make('mfenv:MFLLM-Society-v0', render_mode='rgb_array')\n"
        "except Exception as error: print(error)"
    )
    assert "pip install 'mfenv[reports]'" in run(code)


@pytest.mark.realdata
def test_real_events_can_be_drawn():
    folder = Path(os.environ.get("MFENV_DATA", Path(__file__).parents[1].parent / "shared/data"))
    if not (folder / "weibo").is_dir():
        pytest.skip(f"no real data at {folder}: set MFENV_DATA to its folder")
    env = SocialEnv("llm", events=str(folder / "weibo"), split="test", objective="polarization")
    event, _, credibility_ = env.draw(np.random.default_rng(0))
    assert event.language == "zh"
    assert len(event.posts) > 50 + 16
    assert event.truth is not None
    assert 0 < credibility_ < 1


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize(
    ("path", "backbone"),
    [("weibo/validation.parquet", "weibo-s"), ("pheme/streams.parquet", "embedded-en")],
)
def test_language_models_play_real_events(path, backbone):
    folder = Path(os.environ.get("MFENV_DATA", Path(__file__).parents[1].parent / "shared/data"))
    if not (folder / path).exists():
        pytest.skip(f"no real data at {folder / path}: set MFENV_DATA to its folder")
    env = gymnasium.make(
        "MFLLM-Social-v0",
        events=str(folder / path),
        backbone=backbone,
        objective="polarization",  # of most streams nobody knows whether their topic is true
        horizon=2,
        batch=4,
        warmup=8,
    )
    played = []
    for _ in range(2):
        observation, info = env.reset(seed=5)
        rewards, truncated = [], False
        while not truncated:
            observation, reward, terminated, truncated, info = env.step(4)
            assert env.observation_space.contains(observation)
            assert not terminated
            rewards.append(reward)
        played.append((observation.tobytes(), rewards, info["texts"]))
    assert played[0] == played[1]
    assert len(rewards) == 2
    assert all(isinstance(text, str) for text in info["texts"])
    assert any(info["texts"])
