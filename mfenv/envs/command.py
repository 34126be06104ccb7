"""``mfenv envs``: the environments with their spaces, or one environment's documentation."""

from __future__ import annotations

import argparse
import inspect
import json
import textwrap
from dataclasses import asdict, dataclass

import gymnasium

from mfenv.envs.registration import POPULATION, SOCIAL, SOCIETY, SURROGATE, TEXT
from mfenv.errors import MfenvError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "List the environments with their spaces, or show the documentation of one."

_SUMMARIES = {
    SOCIAL: "a planner intervenes in a population of language models",
    SOCIETY: "the same planner, in the synthetic society (NumPy only)",
    SURROGATE: "the same planner, in a numeric mean field that was fitted (NumPy only)",
    TEXT: "the same planner as a language model: it reads a text and answers with one",
    POPULATION: "the individuals: every agent reads texts and acts with a text",
}


@dataclass(frozen=True)
class _Entry:
    id: str
    api: str
    summary: str
    make: str
    observation: str
    action: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("id", nargs="?", help="show this environment's documentation")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the list or one documentation page."""
    if args.id is not None:
        print(_documentation(args.id))
        return 0
    entries = _entries()
    if args.json:
        print(json.dumps([asdict(e) for e in entries], indent=2))
        return 0
    for entry in entries:
        print(f"{entry.id}  ({entry.api})")
        print(f"  {entry.summary}")
        for name, value in (
            ("make", entry.make),
            ("observation", entry.observation),
            ("action", entry.action),
        ):
            lines = textwrap.wrap(value, 84, break_long_words=False)
            print(f"  {name:12}" + f"\n{'':14}".join(lines))
        print()
    print("mfenv envs ID shows an environment's documentation.")
    return 0


def _entries() -> list[_Entry]:
    from mfenv.envs import population
    from mfenv.envs.observation import OBSERVATION_SLICES

    entries = []
    slices = ", ".join(
        f"{name} {where.start}" + (f"–{where.stop - 1}" if where.stop > where.start + 1 else "")
        for name, where in OBSERVATION_SLICES.items()
    )
    for id_ in (SOCIAL, SOCIETY, SURROGATE):
        env = gymnasium.make(id_, disable_env_checker=True)
        entries.append(
            _Entry(
                id=id_,
                api="Gymnasium",
                summary=_SUMMARIES[id_],
                make=f'gymnasium.make("mfenv:{id_}")',
                observation=f"Box{env.observation_space.shape} float32: {slices}",
                action=f"{env.action_space}: none, then kinds × intensities",
            )
        )
        env.close()
    env = gymnasium.make(TEXT, disable_env_checker=True)
    entries.append(
        _Entry(
            id=TEXT,
            api="Gymnasium",
            summary=_SUMMARIES[TEXT],
            make=f'gymnasium.make("mfenv:{TEXT}")',
            observation=f"{env.observation_space}: topic, mean field, step, budget, credibility",
            action=f"{env.action_space}: none, KIND/INTENSITY or KIND/INTENSITY: MESSAGE",
        )
    )
    env.close()
    people = population.parallel_env()
    agent = people.possible_agents[0]
    entries.append(
        _Entry(
            id=POPULATION,
            api="PettingZoo, parallel and AEC",
            summary=_SUMMARIES[POPULATION],
            make="mfenv.envs.population.parallel_env() or .env()",
            observation=str(people.observation_space(agent)),
            action=str(people.action_space(agent)),
        )
    )
    return entries


def _documentation(id_: str) -> str:
    if id_ not in _SUMMARIES:
        raise MfenvError(f"unknown environment {id_!r}; allowed: {', '.join(_SUMMARIES)}")
    if id_ == POPULATION:
        from mfenv.envs.population import PopulationEnv as Documented
    elif id_ == TEXT:
        from mfenv.envs.social_text import SocialTextEnv as Documented  # type: ignore[assignment]
    else:
        from mfenv.envs.social import SocialEnv as Documented  # type: ignore[assignment]
    return f"# {id_}\n\n{inspect.getdoc(Documented)}"
