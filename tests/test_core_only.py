"""The core without any extra: everything numeric works, and the rest says what to install."""

import json

import pytest

from mfenv import plugins
from mfenv.cli import GROUP, Jobs
from tests import core_only


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    return core_only.install(tmp_path_factory.mktemp("core") / "site")


def test_the_core_asks_for_nothing_heavy():
    heavy = {"torch", "transformers", "pandas", "scipy", "matplotlib", "ray", "numba", "openai"}
    assert not heavy & set(core_only.closure(core_only.core_requirements()))


def test_every_numeric_environment_plays_an_episode(core):
    code = """
import json
import gymnasium as gym
import mfenv
from mfenv.envs import population
from mfenv.envs.registration import SOCIETY, SURROGATE, SOCIAL, TEXT
lengths = {}
for id_, kwargs in (
    (SOCIETY, {}), (SURROGATE, {}), (SURROGATE, {"surrogate": "society"}),
    (SOCIAL, {"dynamics": "society"}), (TEXT, {"dynamics": "society"}),
    (SOCIAL, {"backbone": "ngram-en", "method": "mf-counted", "horizon": 2}),
):
    env = gym.make(f"mfenv:{id_}", **kwargs)
    env.action_space.seed(0)
    env.reset(seed=0)
    done, steps = False, 0
    while not done:
        action = "fact_check/high" if id_ == TEXT else env.action_space.sample()
        _, reward, terminated, truncated, _ = env.step(action)
        done, steps = terminated or truncated, steps + 1
    lengths[f"{id_} {kwargs}"] = steps
    env.close()
envs = gym.make_vec(SURROGATE, num_envs=3)
envs.reset(seed=0)
envs.step(envs.action_space.sample())
people = population.parallel_env(n_agents=2, max_cycles=1)
people.reset(seed=0)
people.step({name: "It is true." for name in people.agents})
print(json.dumps(lengths))
"""
    result = core_only.python(core, "-c", code)
    assert result.returncode == 0, result.stderr
    lengths = json.loads(result.stdout)
    assert len(lengths) == 6
    assert set(lengths.values()) == {16, 2}


# The shortest calls that need each extra; files need not exist, since nothing gets so far.
NEEDS = [
    ("llm", "simulate"),
    ("llm", "simulate --backbone hf:Qwen/Qwen2-1.5B-Instruct --out runs/a"),
    ("llm", "forecast --out runs/b"),
    ("llm", "intervene --dynamics llm --out runs/c"),
    ("llm", "bench fidelity --track synthetic --backbone embedded-en --quick --out runs/d"),
    ("llm", "bench throughput"),
    ("llm", "annotate events.jsonl --annotator llm:embedded-en --out labelled.jsonl"),
    ("training", "train backbone embedded-en-xs --out runs/e"),
    ("serving", "simulate --backbone openai:model@http://127.0.0.1:9/v1 --method mf --out runs/f"),
    ("training", "train annotator"),
    ("training", "train planner --algo ppo --dynamics society --out runs/g"),
    ("training", "train mop --backbone ngram-en --train events.jsonl --out runs/h"),
]


def test_commands_name_the_extra_that_they_need_in_one_line(core):
    (core.parent / "events.jsonl").write_text("")
    results = core_only.calls(core, *(line.split() for _, line in NEEDS))
    for (extra, line), (status, _, told) in zip(NEEDS, results, strict=True):
        assert status == 2, line
        assert told.count("\n") == 1, (line, told)
        assert told.endswith(f"needs the extra '{extra}': pip install 'mfenv[{extra}]'\n"), (
            line,
            told,
        )


def test_every_command_and_job_shows_its_help_or_the_extra(core):
    lines = []
    for name in plugins.names(GROUP):
        jobs = getattr(getattr(plugins.load(GROUP, name), "run", None), "__self__", None)
        lines += [[name], *([name, job] for job in (jobs.jobs if isinstance(jobs, Jobs) else ()))]
    results = core_only.calls(core, *([*words, "--help"] for words in lines))
    found = {" ".join(w): (status, err) for w, (status, _, err) in zip(lines, results, strict=True)}
    assert {"simulate", "doctor", "train planner", "bench fidelity"} <= set(found)
    helped = {name for name, (status, _) in found.items() if status == 0}
    assert {"simulate", "data", "envs", "doctor", "forecast", "intervene", "annotate"} <= helped
    for name in set(found) - helped:
        status, told = found[name]
        assert status == 2, (name, told)
        assert "pip install 'mfenv[" in told, (name, told)
        assert told.count("\n") == 1, (name, told)


def test_a_picture_names_the_extra(core):
    code = (
        "import gymnasium as gym, mfenv\n"
        "env = gym.make('MFLLM-Society-v0', render_mode='rgb_array')\n"
        "env.reset(seed=0)\n"
        "env.render()\n"
    )
    result = core_only.python(core, "-c", code)
    assert "MissingExtraError" in result.stderr
    assert result.stderr.strip().endswith("pip install 'mfenv[reports]'")
