"""The surrogate tier: its kernel, its draws, its environments, and how it is fitted."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import fields, replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from mfenv.distributions import UNIFORM, normalise, shares
from mfenv.dynamics.notices import VISIBLE
from mfenv.dynamics.reach import PLANTED, perceive, reach_weights
from mfenv.dynamics.surrogate import SurrogateDynamics, SurrogateModel, load_surrogate
from mfenv.dynamics.surrogate import kernel as kernel_module
from mfenv.dynamics.surrogate.kernel import Worlds, begin, chances, notice_levels, step
from mfenv.dynamics.surrogate.model import (
    CELLS,
    GROUPS,
    HIDDEN,
    N_OUTPUTS,
    TO_LABELS,
    Kernel,
    outputs_of,
)
from mfenv.dynamics.surrogate.sampling import (
    SMALL_VARIANCE,
    binomial,
    categorical_counts,
    multinomial,
    normal_quantile,
)
from mfenv.dynamics.surrogate.stepping import stepper
from mfenv.envs.registration import SURROGATE
from mfenv.envs.social import SocialEnv
from mfenv.errors import DataError, MfenvError
from mfenv.events.synthetic.archetypes import ARCHETYPES
from mfenv.interventions import KINDS, STRENGTHS, Intervention, Kind, encode_action
from mfenv.labels import DIMENSIONS, SLICES
from mfenv.noise import categorical

A = len(ARCHETYPES)
ACTIONS = {k: encode_action(Intervention(Kind(i), 2)) for i, k in enumerate(KINDS)}


def random_kernel(rng, archetypes=A, size=1.0):
    def draw(*shape):
        return size * rng.normal(size=shape)

    return Kernel(
        bias=0.5 * draw(archetypes, N_OUTPUTS),
        domain=0.2 * draw(8, N_OUTPUTS),
        truth=0.3 * draw(N_OUTPUTS),
        warmup=0.5 * draw(23, N_OUTPUTS),
        perceived=draw(23, N_OUTPUTS),
        latest=0.3 * draw(23, N_OUTPUTS),
        time=0.2 * draw(N_OUTPUTS),
        notices=0.5 * draw(archetypes, 3, 3, N_OUTPUTS),
        hidden=0.4 * draw(3, N_OUTPUTS),
    )


def random_model(seed=0, members=2, **kwargs):
    rng = np.random.default_rng(seed)
    joint = rng.random((12, 16)) + 0.2
    for group in GROUPS[1:]:
        part = joint[:, group.start - 12 : group.stop - 12]
        part /= part.sum(axis=1, keepdims=True)
    return SurrogateModel(
        name="planted",
        kernel=random_kernel(rng),
        members=tuple(random_kernel(rng) for _ in range(members)),
        association=joint,
        archetypes=tuple(a.name for a in ARCHETYPES),
        mixture=np.full(A, 1 / A),
        **kwargs,
    ).rounded()


def random_worlds(model, k, seed=1, member=-1):
    rng = np.random.default_rng(seed)
    return begin(
        model,
        seed=np.arange(k),
        member=np.full(k, member),
        domain=np.arange(k) % 8,
        truth=np.arange(k) % 3 - 1,
        perceived=normalise(rng.random((k, 23))),
        latest=normalise(rng.random((k, 23))),
        mixture=rng.dirichlet(np.ones(len(model.archetypes)), k),
    )


def worlds_at(worlds, index):
    return Worlds(**{f.name: getattr(worlds, f.name)[index].copy() for f in fields(worlds)})


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("surrogate")
    model.save(path)
    return str(path)


@pytest.fixture(scope="module")
def partly(tmp_path_factory):
    """A surrogate that knows of statements only."""
    path = tmp_path_factory.mktemp("partly")
    identified = tuple(k == "statement" for k in KINDS)
    random_model(identified=identified).save(path)
    return str(path)


# -- draws -------------------------------------------------------------------------------------


def test_binomials_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    u = np.random.default_rng(0).random(20_000)
    assert np.abs(normal_quantile(u) - stats.norm.ppf(u)).max() < 5e-5
    for n, p in ((16, 0.3), (16, 0.97), (1000, 0.004), (10**9, 2e-9), (7, 0.0), (7, 1.0)):
        assert n * p * (1 - p) < SMALL_VARIANCE
        np.testing.assert_array_equal(binomial(n, p, u), stats.binom.ppf(u, n, p))
    for n, p in ((1000, 0.4), (1000, 0.02), (10**9, 0.2)):
        off = np.abs(binomial(n, p, u) - stats.binom.ppf(u, n, p))
        assert off.max() <= 1
        assert off.mean() < 0.06


def test_multinomial_counts_everybody():
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(6), 5000)
    counts = multinomial(np.full(5000, 16.0), p, rng.random((5000, 5)))
    assert (counts.sum(axis=1) == 16).all()
    assert (counts >= 0).all()
    z = (counts - 16 * p).sum(axis=0) / np.sqrt((16 * p * (1 - p)).sum(axis=0))
    assert np.abs(z).max() < 4


def test_few_people_are_drawn_one_by_one():
    """Against a draw for each person; the last of them do not act."""
    rng = np.random.default_rng(4)
    p, u = rng.dirichlet(np.ones(5), 200), rng.random((200, 16))
    n = rng.integers(0, 17, 200)
    counts = categorical_counts(n, p, u)
    for row in range(200):
        drawn = categorical(p[row], u[row, : n[row]])
        assert counts[row].tolist() == np.bincount(drawn, minlength=5).tolist()


# -- the kernel --------------------------------------------------------------------------------


def test_outputs_are_the_labels():
    labels = np.random.default_rng(0).integers(0, [len(d.labels) for d in DIMENSIONS], (50, 8))
    outputs = outputs_of(labels)
    np.testing.assert_allclose(outputs @ TO_LABELS, [shares(row[None]) for row in labels])
    assert (outputs.sum(axis=1) == len(GROUPS)).all()
    assert [CELLS[i].tolist() for i in outputs[:, :12].argmax(axis=1)] == labels[
        :, [4, 5, 3]
    ].tolist()


def test_chances_by_hand():
    """One archetype, all parameters zero but a statement's: the softmax of what was put in."""
    zero = {f.name: np.zeros_like(getattr(random_kernel(np.random.default_rng(0), 1), f.name))
            for f in fields(Kernel)}  # fmt: skip
    zero["notices"][0, 0, 1, 0] = np.log(3.0)  # a medium statement: cell 0 thrice as likely
    zero["perceived"][0, 12] = 2.0  # perceived rumour: spreading
    one = replace(
        random_model(members=0),
        kernel=Kernel(**zero), archetypes=("all",), mixture=np.ones(1), members=(),
    )  # fmt: skip
    worlds = random_worlds(one, 4)
    activity = np.zeros((4, 6))
    activity[1, Kind.STATEMENT] = 0.6  # shown as medium
    p = chances(one, worlds, activity)
    np.testing.assert_allclose(p[0, :12], 1 / 12)
    np.testing.assert_allclose(p[1, :12], np.array([3.0] + [1.0] * 11) / 14)
    logit = 2.0 * (worlds.perceived[:, 0] - 0.5)
    np.testing.assert_allclose(p[:, 12], 1 / (1 + np.exp(-logit)))
    levels = notice_levels([[0.05, 0.4, 0, 1.0, 0, 0]])
    assert levels.tolist() == [[-1, 0, 2]]


def test_counts_follow_the_chances(model):
    k = 4000
    worlds = random_worlds(model, 1)
    worlds = replace(
        worlds,
        **{f.name: np.repeat(getattr(worlds, f.name), k, axis=0) for f in fields(worlds)},
    )
    worlds = replace(worlds, seed=np.arange(k))
    result = step(model, worlds, np.zeros(k, int), batch=16, warmup=50)
    p = (chances(model, worlds, np.zeros((k, 6))) @ TO_LABELS)[0]
    assert ((result.distribution * 16) % 1 == 0).all()
    z = (result.distribution.mean(axis=0) - p) / np.sqrt(p * (1 - p) / 16 / k)
    assert np.abs(z).max() < 4.5
    variance = result.distribution.var(axis=0)
    np.testing.assert_allclose(variance, p * (1 - p) / 16, rtol=0.15)


def test_what_reaches_the_mean_field_is_what_reach_says(model):
    """Against the other tiers' agents one by one; friction by its expectation (all or none)."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, [len(d.labels) for d in DIMENSIONS], (1, 16, 8)).astype(np.int8)
    counts = outputs_of(labels).sum(axis=1)
    old = normalise(rng.random((1, 23)))
    for kind in ("amplify_support", "amplify_oppose", "seed", None):
        activity = np.zeros((1, 6))
        if kind is not None:
            activity[0, KINDS.index(kind)] = 1.0
        seeded = np.broadcast_to(PLANTED, (1, 4, 8)) if kind == "seed" else labels[:, :0]
        everybody = np.concatenate([labels, seeded], axis=1)
        weights = reach_weights(everybody, activity, np.ones(everybody.shape[:2]))
        expected = perceive(old, everybody, weights)
        reached, weight = kernel_module._reached(
            model, counts, np.array([16.0]), np.array([float(seeded.shape[1])]), activity
        )
        found = old + (reached - old) / 3
        assert weight[0] == pytest.approx(weights.sum())
        for name in ("stance", "belief", "behavior"):  # exact: friction and amplification weigh it
            np.testing.assert_allclose(found[:, SLICES[name]], expected[:, SLICES[name]])
        if kind in (None, "seed"):  # and the others where all weights are one
            np.testing.assert_allclose(found, expected)
        np.testing.assert_allclose(np.add.reduceat(found[0], [0, 2, 8, 11, 13, 16, 18, 20]), 1.0)


def test_compiled_equals_numpy(model):
    """Worlds of all fits side by side, some of which rest."""
    pytest.importorskip("numba")
    rng = np.random.default_rng(2)
    for batch in (16, 1000, 10**9):
        worlds = replace(random_worlds(model, 41), member=rng.integers(0, 3, 41))
        other = worlds.copy()
        for _ in range(6):
            actions, active = rng.integers(0, 19, 41), rng.random(41) < 0.8
            before = other.copy()
            own = [
                stepper(model, compiled)(each, actions, active, batch=batch, warmup=20)
                for compiled, each in ((False, worlds), (True, other))
            ]
            np.testing.assert_array_equal(*own)
            for f in fields(worlds):
                a, b = getattr(worlds, f.name), getattr(other, f.name)
                np.testing.assert_allclose(a, b, atol=1e-9)
                np.testing.assert_array_equal(b[~active], getattr(before, f.name)[~active])


def test_a_world_does_not_depend_on_its_neighbours(model):
    """Bit for bit, wherever and with whomever it is stepped."""
    rng = np.random.default_rng(3)
    for batch in (16, 1000):
        together = replace(random_worlds(model, 700), member=rng.integers(0, 3, 700))
        order = rng.permutation(700)[:90]
        apart = [worlds_at(together, order[:1]), worlds_at(together, order[1:])]
        play = stepper(model)
        for _ in range(3):
            actions = rng.integers(0, 19, 700)
            play(together, actions, np.ones(700, bool), batch=batch, warmup=20)
            for worlds, i in zip(apart, (order[:1], order[1:]), strict=True):
                play(worlds, actions[i], np.ones(len(i), bool), batch=batch, warmup=20)
                for f in fields(worlds):
                    np.testing.assert_array_equal(
                        getattr(worlds, f.name), getattr(together, f.name)[i]
                    )


def test_a_step_costs_the_same_for_any_number_of_people(folder, model):
    """No array grows with the people: the same shapes, draws and events for 10^3 and 10^9."""
    seen = []
    for batch in (1000, 10**9):
        env = SocialEnv("surrogate", surrogate=folder, batch=batch, objective="polarization")
        env.reset(seed=3)
        env.step(0)
        event = env.dynamics.event
        record = env._records[-1]
        assert record.own == batch
        assert len(record.labels) == len(record.texts) == len(record.agents) == 0
        worlds = env.dynamics._worlds
        seen.append((len(event.posts), [getattr(worlds, f.name).shape for f in fields(worlds)]))
        p = chances(model, env.dynamics.fork()._worlds, np.zeros((1, 6)))
        assert p.shape == (1, N_OUTPUTS)
    assert seen[0] == seen[1]
    big = random_worlds(model, 30)
    p = chances(model, big, np.zeros((30, 6))) @ TO_LABELS
    result = step(model, big, np.zeros(30, int), batch=10**9, warmup=50)
    np.testing.assert_allclose(result.distribution, p, atol=3e-4)


# -- dynamics ----------------------------------------------------------------------------------


def test_forks_and_snapshots_see_the_same_noise(model):
    env = SocialEnv("society")
    env.reset(seed=0)
    dynamics = SurrogateDynamics(model, member="random")
    warmup = dynamics.reset(env.dynamics.event, 11)
    assert [len(r.labels) for r in warmup] == [16, 16, 16, 2]
    assert dynamics.step_index == 4
    np.testing.assert_allclose(dynamics.perceived, env.dynamics.perceived)
    dynamics.step(Intervention(Kind.FACT_CHECK, 1))
    kept, fork = dynamics.snapshot(), dynamics.fork()
    first = [dynamics.step(Intervention(Kind.SEED, 2)) for _ in range(3)]
    again = [fork.step(Intervention(Kind.SEED, 2)) for _ in range(3)]
    dynamics.restore(kept)
    third = [dynamics.step(Intervention(Kind.SEED, 2)) for _ in range(3)]
    for a, b, c in zip(first, again, third, strict=True):
        assert a.own == 12  # four of sixteen are planted
        for name in ("distribution", "perceived", "activity"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            np.testing.assert_array_equal(getattr(a, name), getattr(c, name))
    assert "%" in dynamics.mean_field


def test_kinds_that_are_not_identified_have_no_effect_and_say_so(partly):
    quiet = SocialEnv("surrogate", surrogate=partly, budget=99.0)
    for kind, action in ACTIONS.items():
        env = SocialEnv("surrogate", surrogate=partly, budget=99.0)
        known = kind == "statement"
        quiet.reset(seed=4)
        _, info = env.reset(seed=4)
        assert info["not_identified"] is False
        same = True
        for _ in range(4):
            a, b = env.step(action), quiet.step(0)
            assert a[4]["not_identified"] is (not known)
            assert a[4]["cost"] > 0
            same = same and np.array_equal(a[0][:23], b[0][:23])
        assert same is (not known)
    fast = gymnasium.make_vec(SURROGATE, num_envs=2, surrogate=partly)
    fast.reset(seed=4)
    *_, infos = fast.step(np.array([ACTIONS["statement"], ACTIONS["friction"]]))
    assert infos["not_identified"].tolist() == [False, True]


# -- environments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"observation": "dict"},
        {"observation": "text"},
        {"action": "multidiscrete"},
        {"warmup": 0, "objective": "polarization"},
        {"batch": 10**9, "member": "random"},
    ],
    ids=str,
)
def test_gymnasium_check_env(folder, kwargs):
    env = gymnasium.make(SURROGATE, surrogate=folder, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning is allowed at all
        check_env(env.unwrapped)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"budget": 4.0},
        {"warmup": 0, "objective": "polarization", "member": "random"},
        {
            "action": "multidiscrete",
            "batch": 1000,
            "member": 1,
            "objective": "target",
            "target": {"stance": [0.1, 0.5, 0.4]},
        },
    ],
    ids=str,
)
def test_a_lane_is_the_single_environment(folder, kwargs):
    kwargs = {"horizon": 5, "surrogate": folder, **kwargs}
    fast = gymnasium.make_vec("mfenv:MFLLM-Surrogate-v0", num_envs=5, **kwargs)
    assert fast.unwrapped.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    slow = gymnasium.make_vec(SURROGATE, num_envs=5, vectorization_mode="sync", **kwargs)
    fast.action_space.seed(1)
    a, b = fast.reset(seed=40), slow.reset(seed=40)
    for t in range(20):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[0] in fast.observation_space
        assert a[0].dtype == np.float32
        for name in ("event_id", "step", "cost", "spent", "budget_left", "unaffordable"):
            np.testing.assert_array_equal(a[-1][name], b[-1][name])
        masks = fast.unwrapped.action_masks()
        for mask, env in zip(masks, slow.envs, strict=True):
            np.testing.assert_array_equal(mask, env.unwrapped.action_masks())
        if t == 7:  # leave one world out of step with the others
            mask = np.array([False, True, False, False, True])
            a, b = (e.reset(options={"reset_mask": mask.copy()}) for e in (fast, slow))
            np.testing.assert_array_equal(a[0], b[0])
        actions = fast.action_space.sample()
        a, b = fast.step(actions), slow.step(actions)
        for i in (1, 2, 3):
            np.testing.assert_array_equal(a[i], b[i])
    with pytest.raises(MfenvError, match="sync"):
        gymnasium.make_vec(SURROGATE, num_envs=2, surrogate=folder, observation="dict")


@pytest.mark.parametrize("dynamics", ["society", "surrogate"])
def test_masks_of_all_lanes_tell_what_is_unaffordable(folder, dynamics):
    envs = gymnasium.make_vec(
        "MFLLM-Social-v0", num_envs=6, dynamics=dynamics, surrogate=folder, budget=2.5, horizon=4
    )
    with pytest.raises(MfenvError, match="reset"):
        envs.unwrapped.action_masks()
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    over = np.zeros(6, dtype=bool)
    for _ in range(9):
        masks = envs.unwrapped.action_masks()
        assert masks.shape == (6, 19)
        assert masks[:, 0].all()
        actions = rng.integers(0, 19, 6)
        _, _, _, truncated, infos = envs.step(actions)
        expected = ~masks[np.arange(6), actions] & ~over
        np.testing.assert_array_equal(infos["unaffordable"], expected)
        over = truncated


def test_lanes_differ_and_seeds_repeat(folder):
    def play(seed, n=4):
        envs = gymnasium.make_vec(SURROGATE, num_envs=n, surrogate=folder, horizon=4)
        rows = [envs.reset(seed=seed)[0]]
        rows += [envs.step(np.full(n, t % 19))[0] for t in range(11)]
        return np.stack(rows)

    a, b = play(7), play(7)
    np.testing.assert_array_equal(a, b)
    assert len({lane.tobytes() for lane in a.transpose(1, 0, 2)}) == 4
    np.testing.assert_array_equal(play(8, 3), a[:, 1:])  # lanes by their seeds, as SyncVectorEnv
    unseeded = [
        gymnasium.make_vec(SURROGATE, num_envs=2, surrogate=folder).reset()[0] for _ in range(2)
    ]
    assert (unseeded[0] != unseeded[1]).any()


def test_another_member_is_drawn_for_each_episode(folder):
    env = SocialEnv("surrogate", surrogate=folder, member="random")
    drawn = [env.reset(seed=0 if i == 0 else None) and int(env.dynamics._worlds.member[0])
             for i in range(12)]  # fmt: skip
    assert set(drawn) == {1, 2}
    env.reset(seed=0)
    assert int(env.dynamics._worlds.member[0]) == drawn[0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"surrogate": "no-such"}, "embedded-en, society, weibo-s, or a folder"),
        ({"member": -1}, "None, 'random', or a member's number"),
        ({"member": "all"}, "None, 'random', or a member's number"),
    ],
    ids=str,
)
def test_wrong_arguments_say_what_is_allowed(kwargs, message):
    with pytest.raises(MfenvError, match=message):
        SocialEnv(**{"dynamics": "surrogate", **kwargs})


def test_what_cannot_be_read_says_which_file(tmp_path, folder):
    with pytest.raises(MfenvError, match="0 to 1"):
        SocialEnv("surrogate", surrogate=folder, member=7).reset()
    with pytest.raises(DataError, match=r"model\.safetensors.*mfenv train surrogate"):
        load_surrogate(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08" + b"\0" * 7 + b"{}      ")
    with pytest.raises(DataError, match="no mfenv-surrogate-2"):
        load_surrogate(tmp_path)


def test_files_keep_the_model(model, folder):
    again = load_surrogate(folder)
    assert again.revision == model.revision
    assert (again.archetypes, again.identified) == (model.archetypes, model.identified)


# -- fitting -----------------------------------------------------------------------------------


def test_the_fit_recovers_a_planted_softmax():
    """Counts at their expectations: the optimum of the likelihood is the planted kernel itself."""
    pytest.importorskip("torch")
    from training.fit_surrogate.fit import Steps, fit_surrogate

    rng = np.random.default_rng(0)
    planted = random_kernel(rng, 2, size=0.7)
    truth = replace(
        random_model(members=0),
        kernel=planted,
        members=(),
        archetypes=("a", "b"),
        mixture=np.full(2, 0.5),
    )

    def steps(n):
        warmup, perceived, latest = (normalise(rng.random((n, 23))) for _ in range(3))
        domain, time = rng.integers(0, 8, n), rng.integers(0, 16, n)
        topic = rng.integers(-1, 2, n)
        levels = rng.integers(-1, 3, (n, 3))
        activity = np.zeros((n, 6))
        activity[:, list(VISIBLE)] = np.where(levels >= 0, np.array(STRENGTHS)[levels], 0.0)
        activity[:, list(HIDDEN)] = rng.random((n, 3))
        p = kernel_module.archetype_chances(
            planted,
            kernel_module.offsets(planted, domain, topic, warmup),
            perceived,
            latest,
            time,
            activity,
        )
        parts = [np.eye(8)[domain], *(x - UNIFORM for x in (warmup, perceived, latest))]
        columns = (kernel_module.time_feature(time), kernel_module.truth_feature(topic))
        inputs = np.concatenate(
            [*parts, *(x[:, None] for x in columns), activity[:, list(HIDDEN)]], axis=1
        )
        return Steps(np.arange(n) % 50, inputs, levels, 1000 * p), (
            domain, topic, warmup, perceived, latest, time, activity, p,
        )  # fmt: skip

    data, _ = steps(1500)
    fit = fit_surrogate(data, shrinkages=(0.01, 300.0), members=1)
    assert fit.shrinkage == 0.01
    _, (domain, topic, warmup, perceived, latest, time, activity, p) = steps(200)
    for found, tolerance in ((fit.kernel, 0.02), (fit.members[0], 0.03)):
        offset = kernel_module.offsets(found, domain, topic, warmup)
        q = kernel_module.archetype_chances(found, offset, perceived, latest, time, activity)
        assert np.abs(p - q).max() < tolerance
        assert np.abs(p - q).mean() < tolerance / 20
    assert truth.kernel is planted


def test_refutations_and_placebos():
    pytest.importorskip("torch")
    from training.fit_surrogate.collect import plans, tier
    from training.fit_surrogate.real import placebos, with_runs

    plan = plans(16)[2]
    society = SocialEnv("society")
    events = [society.scenarios.event(f"synthetic-0-{i}") for i in range(3)]
    episodes = tier("society", "mf")(events, [0, 1, 2], [1, 2, 3], plan.actions[:3] * 0)
    marks = np.zeros((3, 4 + 16), dtype=bool)
    marks[1, 5] = True  # the second step after a warm-up of four
    fake = placebos(episodes, marks)
    near = ((episodes.perceived[[0, 2], 1] - episodes.perceived[1, 1]) ** 2).sum(axis=1)
    assert fake.sum() == 1
    assert fake[[0, 2][int(near.argmin())], 5]
    ran = with_runs(episodes, marks, fake).activity
    np.testing.assert_allclose(ran[1, :5, Kind.STATEMENT], [0, 0, 1, 0.7, 0.49])
    assert not ran[1, :, Kind.FACT_CHECK].any()
    assert ran[fake.any(axis=1)][0, 2, Kind.FACT_CHECK] == 1


def digest(path):
    return {
        p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != "run.lock"
    }


@pytest.mark.slow
def test_training_survives_a_kill(tmp_path):
    """Killed in the middle and run again: the same bytes as undisturbed."""
    pytest.importorskip("torch")

    def command(out):
        return [
            sys.executable, "-m", "mfenv", "train", "surrogate", "--backbone", "society",
            "--episodes", "32", "--held-out", "1", "--members", "1", "--out", str(out),
        ]  # fmt: skip

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(command(killed), env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(killed.glob("episodes/response/*.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists()
    for out in (killed, whole):
        done = subprocess.run(command(out), env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found = digest(killed)
    assert found == digest(whole)
    assert {"model.safetensors", "calibration.md", "calibration.json"} <= set(found)
    text = (whole / "calibration.md").read_text("utf-8")
    for said in ("One step", "Rollouts", "statement/high", "correlation"):
        assert said in text
    other = subprocess.run(
        [*command(whole), "--seed", "1"], env=environment, capture_output=True, text=True
    )
    assert other.returncode == 2
    assert "another --out" in other.stderr


@pytest.mark.parametrize("name", ["embedded-en", "society", "weibo-s"])
def test_shipped_surrogates_play(name):
    env = gymnasium.make(SURROGATE, surrogate=name, objective="polarization", member="random")
    observation, info = env.reset(seed=0)
    for action in (0, ACTIONS["statement"], ACTIONS["friction"], 0):
        observation, reward, _, _, info = env.step(action)
        assert env.observation_space.contains(observation)
        assert -1.1 <= reward <= 0
    unknown = env.unwrapped.surrogate.not_identified
    assert ("not_identified" in info) == bool(unknown)
    assert bool(unknown) == (name == "weibo-s")
    assert set(unknown) >= ({"friction", "seed"} if name == "weibo-s" else set())


def test_metrics_come_at_the_ends_of_an_episode_and_harm_at_every_step(folder):
    env = gymnasium.make(SURROGATE, surrogate=folder, horizon=3)
    infos = [env.reset(seed=0)[1], *(env.step(0)[4] for _ in range(3))]
    assert ["metrics" in info for info in infos] == [True, False, False, True]
    assert all(info["harm"] == info["metrics"]["harm"] for info in (infos[0], infos[-1]))
    assert all(0 <= info["harm"] <= 1 for info in infos)
