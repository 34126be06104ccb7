"""What is tried in a clean environment: for the core and for each extra, the shortest real use."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CHECKS", "EVENTS", "Check"]

EVENTS = "events.jsonl"
"""A file of synthetic events, which the first check of the core writes."""


@dataclass(frozen=True, slots=True)
class Check:
    """A command in the environment; it runs in a folder of its own that all checks share."""

    name: str
    argv: tuple[str, ...]
    code: int = 0
    """The exit code that is right."""
    says: str = ""
    """What it has to print."""
    environ: tuple[tuple[str, str], ...] = ()


def _python(name: str, code: str) -> Check:
    return Check(name, ("python", "-c", code))


def _mfenv(name: str, line: str, **more: object) -> Check:
    return Check(name, ("mfenv", *line.split()), **more)  # type: ignore[arg-type]


_ENVIRONMENTS = """
import gymnasium as gym
from mfenv.envs import population
from mfenv.envs.registration import SOCIAL, SOCIETY, SURROGATE, TEXT
ngram = {"backbone": "ngram-en", "method": "mf-counted", "horizon": 2}
society = {"dynamics": "society"}
for id_, kwargs in ((SOCIETY, {}), (SURROGATE, {}), (TEXT, society), (SOCIAL, ngram)):
    env = gym.make(f"mfenv:{id_}", **kwargs)
    env.reset(seed=0)
    for _ in range(2):
        env.step("none" if id_ == TEXT else 0)
    env.close()
people = population.parallel_env(n_agents=2, max_cycles=2)
people.reset(seed=0)
people.step({name: "It is true." for name in people.agents})
"""

_EVENTS = f"""
from mfenv.events import write_jsonl
from mfenv.events.synthetic.generator import SyntheticSociety
assert write_jsonl(SyntheticSociety(3).events(2), {EVENTS!r}) == 2
"""

_LANGUAGE_MODEL = """
import gymnasium as gym
env = gym.make("mfenv:MFLLM-Social-v0", backbone="embedded-en-xs", horizon=1)
env.reset(seed=0)
assert all(isinstance(t, str) for t in env.step(0)[4]["texts"])
"""

_PICTURE = """
import gymnasium as gym
env = gym.make("mfenv:MFLLM-Society-v0", render_mode="rgb_array")
env.reset(seed=0)
env.step(6)
assert env.render().std() > 0
"""

_COMPILED = """
import gymnasium as gym
from mfenv.dynamics.surrogate.find import build_surrogate
from mfenv.dynamics.surrogate.stepping import stepper
assert type(stepper(build_surrogate("embedded-en"))).__name__ == "CompiledStep"
envs = gym.make_vec("mfenv:MFLLM-Surrogate-v0", num_envs=8)
envs.reset(seed=0)
envs.step(envs.action_space.sample())
"""

_RAY = """
import ray
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
assert ray.get(ray.remote(lambda: __import__("mfenv").__version__).remote())
ray.shutdown()
"""

_TINY = "--backbone embedded-en-xs --agents 80 --warmup 48 --seeds 1"
_PLANNER = (
    "train planner --algo ppo --dynamics surrogate --timesteps 256 --num-envs 4 "
    "--evaluate-every 128 --episodes 2 --out runs/planner"
)

CHECKS: dict[str, tuple[Check, ...]] = {
    "core": (
        _python("the environments play", _ENVIRONMENTS),
        _mfenv("mfenv --help", "--help", says="simulate"),
        _mfenv("mfenv envs", "envs", says="MFLLM-Surrogate-v0"),
        _python("synthetic events are written", _EVENTS),
        _mfenv("mfenv data describe", f"data describe {EVENTS}", says="events"),
        _mfenv("mfenv data validate", f"data validate {EVENTS}"),
        _mfenv("mfenv doctor", f"doctor --data {EVENTS}", says="2 events"),
        _mfenv(
            "mfenv simulate, n-gram backbone",
            "simulate --backbone ngram-en --method mf-counted,state --agents 80 --warmup 48 "
            "--seeds 1 --out runs/ngram",
        ),
        _mfenv(
            "mfenv intervene, with the fidelity that is shipped",
            "intervene --dynamics surrogate --planner paper --seeds 2 --out runs/surrogate",
        ),
    ),
    "llm": (
        _mfenv("mfenv doctor --extra llm", "doctor --extra llm"),
        _mfenv("mfenv simulate, embedded-en-xs", f"simulate {_TINY} --method mf --out runs/llm"),
        _python("an environment whose people are a language model", _LANGUAGE_MODEL),
    ),
    "serving": (
        _mfenv("mfenv doctor --extra serving", "doctor --extra serving"),
        _mfenv(
            "a server that is not there gives one line",
            "simulate --backbone openai:model@http://127.0.0.1:9/v1 --method state --agents 80 "
            "--warmup 48 --seeds 1 --out runs/served",
            code=2,
            says="127.0.0.1:9",
            environ=(("MFENV_OPENAI_GIVE_UP", "2"), ("MFENV_CACHE", "off")),
        ),
    ),
    "training": (
        _mfenv("mfenv doctor --extra training", "doctor --extra training"),
        _mfenv("mfenv train planner", _PLANNER),
        _mfenv(
            "mfenv intervene with it",
            "intervene --dynamics society --planner sb3:runs/planner/planner --seeds 2 "
            "--out runs/intervene",
        ),
        _mfenv(
            "mfenv train sft",
            f"train sft --backbone embedded-en-xs --train {EVENTS} --validation {EVENTS} "
            "--steps 2 --validation-actions 20 --out runs/sft",
        ),
    ),
    "reports": (
        _mfenv("mfenv doctor --extra reports", "doctor --extra reports"),
        _python("an environment's picture", _PICTURE),
        _mfenv(
            "an HTML report",
            "simulate --backbone ngram-en --method mf-counted --agents 80 --warmup 48 --seeds 1 "
            "--out runs/report",
            says="report.html",
        ),
    ),
    "fast": (
        _mfenv("mfenv doctor --extra fast", "doctor --extra fast"),
        _python("the compiled surrogate steps", _COMPILED),
    ),
    "ray": (
        _mfenv("mfenv doctor --extra ray", "doctor --extra ray"),
        _python("a worker imports mfenv", _RAY),
    ),
}
"""What is tried for the core, in every environment, and beside it for each extra."""
