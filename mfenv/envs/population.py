"""The individuals' view of a population: every person reads texts and acts with a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Dict
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec

from mfenv.distributions import SMOOTHING, counts, kl_per_dimension, normalise, shares
from mfenv.dynamics.assemble import AUTO, build_annotator
from mfenv.dynamics.mean_field_text import render, telling
from mfenv.dynamics.models import (
    ActionRequest,
    ActionResult,
    Annotator,
    SummaryRequest,
    SummaryResult,
)
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, advance, real_rollout
from mfenv.dynamics.records import StepRecord
from mfenv.envs import rendering
from mfenv.envs.registration import register_pettingzoo
from mfenv.envs.scenarios import make_scenarios
from mfenv.envs.unicode_text import UnicodeText
from mfenv.errors import MfenvError, ModelError
from mfenv.interventions import KINDS
from mfenv.labels import Labels, decode, one_hot

__all__ = ["Outcome", "PopulationEnv", "distance", "env", "leave_one_out", "parallel_env"]

Floats = NDArray[np.float64]

TEXT_LENGTHS = {"topic": 1000, "mean_field": 2000, "state": 1000}
"""Most characters of each text in an observation; what is longer is cut."""


@dataclass(frozen=True)
class Outcome:
    """What a reward function is given after a step of ``n`` people."""

    step: int  # of the rollout, from 0
    persons: NDArray[np.int64]  # (n,) person k is the author of the event's post k + 1
    texts: Sequence[str]  # (n,) what they wrote
    labels: Labels  # (n, 8) of it
    real_texts: Sequence[str]  # (n,) what the same people wrote in reality
    real_labels: Labels  # (n, 8)
    window: Labels  # (m, 8) of the latest steps, this one's ``n`` last
    real_window: Labels  # (m, 8) of the same people in reality
    distribution: Floats  # (23,) shares of this step
    mean_field: str  # that the next people will read


RewardFunction = Callable[[Outcome], Sequence[float] | Floats]
"""Gives the rewards ``(n,)`` of a step."""


def distance(real: Floats, simulated: Floats) -> Floats:
    """KL(real ‖ simulated) averaged over the eight dimensions; counts ``(..., 23)`` give ``(...)``.

    0.5 is added to every label count on both sides.
    """
    p, q = normalise(real, SMOOTHING), normalise(simulated, SMOOTHING)
    return np.asarray(kl_per_dimension(p, q).mean(axis=-1))


def leave_one_out(outcome: Outcome) -> Floats:
    """How much each action brought the population closer to reality; rewards ``(n,)``.

    The distance between real and simulated label counts of the window without the action, minus
    the distance with it. Positive for an action that the population lacked.
    """
    real, simulated = counts(outcome.real_window), counts(outcome.window)
    without = simulated - one_hot(outcome.labels)
    return distance(real, without) - distance(real, simulated)


class _Counted:
    """The light mean-field model: code counts the shares."""

    def summarise(self, requests: Sequence[SummaryRequest]) -> list[SummaryResult]:
        return [
            SummaryResult(render(r.perceived, telling(r.reactions), r.language)) for r in requests
        ]


class _Outside:
    """Stands in for a policy model: here the actions come from the agents."""

    def act(self, requests: Sequence[ActionRequest]) -> list[ActionResult]:
        raise ModelError("the actions of a population environment come from its agents")


class PopulationEnv(ParallelEnv[str, dict[str, str], str]):  # type: ignore[misc]
    """
    ## Description

    A claim goes round, and the agents are the people who react to it, so that any language model
    can be the population. There are `n_agents` persistent slots, `agent_0` to `agent_15` by
    default; at every step each slot is taken by the next person of the event
    (`info["person"]`). After a step the mean field is rewritten by code that counts (`mf-counted`).
    The event's first reactions are the recorded ones (the warm-up, played in `reset`).

    ```python
    >>> from mfenv.envs import population
    >>> env = population.parallel_env(n_agents=4, max_cycles=2)
    >>> observations, infos = env.reset(seed=0)
    >>> sorted(observations["agent_0"])
    ['mean_field', 'state', 'topic']

    ```

    Once `mfenv.envs.population` is imported (or `mfenv` after `pettingzoo`),
    `pettingzoo.make("parallel", "MFLLM-Population-v0")` and `"aec"` work, too.

    ## Action Space

    `UnicodeText(0, 280)`: the reaction that the slot's person writes. An empty text is a repost
    without words. A longer text is cut.

    ## Observation Space

    `Dict` of texts:

    | Key          | Space                   | Meaning                                                    |
    |--------------|-------------------------|------------------------------------------------------------|
    | `topic`      | `UnicodeText(0, 1000)`  | what the event is about                                    |
    | `mean_field` | `UnicodeText(0, 2000)`  | how the population reacts so far: shares and reactions     |
    | `state`      | `UnicodeText(0, 1000)`  | who the person is; empty after the last step               |

    ## Rewards

    By default the leave-one-out change that the action made to the distance between the simulated
    and the real population: `D(without the action) − D(with it)`, where D is KL(real ‖ simulated)
    averaged over the eight label dimensions, with 0.5 added to every count, over the actions of
    the latest `window` steps and what the same people did in reality. `reward=` takes any function
    from an `Outcome` to one number per agent.

    ## Starting State

    An event is drawn from the chosen set; `reset(options={"event_id": ...})` chooses it.

    ## Episode End

    Episodes never terminate. All agents are truncated after `max_cycles` steps, or when the event
    has no full batch of people left.

    ## Info

    For each agent: `person` (who acts next; None after the last step), `event_id`, `step`, and after
    a step `labels` (of the action), `real_text` (what the person who acted wrote in reality) and
    `distance` (between the populations over the window).

    ## Arguments

    | Parameter    | Type                 | Default           | Description                                       |
    |--------------|----------------------|-------------------|---------------------------------------------------|
    | `n_agents`   | **int**              | `16`              | slots: people who act in one step                 |
    | `max_cycles` | **int**              | `16`              | steps of an episode                               |
    | `warmup`     | **int**              | `50`              | recorded reactions that an episode starts from    |
    | `events`     | **str** or None      | `None`            | `None` or `"synthetic"`, or a path                |
    | `event_ids`  | list of **str**      | `None`            | draw from these events only                       |
    | `split`      | **str** or None      | `None`            | `"train"` (default), `"validation"`, `"test"`, `"confirmation"` |
    | `annotator`  | **str** or Annotator | `"auto"`          | who labels the actions                            |
    | `reward`     | **str** or function  | `"leave-one-out"` | see *Rewards*                                     |
    | `window`     | **int**              | `4`               | latest steps that the distance looks at           |
    | `max_length` | **int**              | `280`             | characters of an action                           |
    | `render_mode`| **str** or None      | `None`            | `"ansi"` or `"human"` (prints the text)           |

    `env(...)` is the same as a turn-based (AEC) environment.

    ## Version History

    * v0: Initial version.
    """  # noqa: E501

    metadata: dict[str, Any] = {  # noqa: RUF012
        "name": "mfllm_population_v0",
        "render_modes": ["ansi", "human"],
        "render_fps": 4,
        "is_parallelizable": True,
    }

    def __init__(
        self,
        *,
        n_agents: int = 16,
        max_cycles: int = 16,
        warmup: int = 50,
        events: str | None = None,
        event_ids: Sequence[str] | None = None,
        split: str | None = None,
        annotator: str | Annotator = AUTO,
        reward: str | RewardFunction = "leave-one-out",
        window: int = 4,
        max_length: int = 280,
        render_mode: str | None = None,
    ) -> None:
        """Check the arguments; ``MfenvError`` says what is allowed."""
        for name, value, least in (
            ("n_agents", n_agents, 1),
            ("max_cycles", max_cycles, 1),
            ("warmup", warmup, 0),
            ("window", window, 1),
            ("max_length", max_length, 1),
        ):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise MfenvError(f"{name}={value!r} is not allowed; allowed: {least} or more")
        if reward != "leave-one-out" and not callable(reward):
            raise MfenvError(
                f"reward={reward!r} is not allowed; allowed: 'leave-one-out' or a function"
            )
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            allowed = ", ".join(self.metadata["render_modes"])
            raise MfenvError(f"render_mode={render_mode!r} is not allowed; allowed: {allowed}")
        synthetic = events in (None, "synthetic")
        self._n, self._warmup, self._window = int(n_agents), int(warmup), int(window)
        self._scenarios = make_scenarios(
            events, split, event_ids, self._warmup + self._n * (max_cycles if synthetic else 1)
        )
        self._annotator_choice = annotator
        self._reward: RewardFunction = reward if callable(reward) else leave_one_out
        self.max_cycles = int(max_cycles)
        self.render_mode = render_mode
        self.possible_agents = [f"agent_{i}" for i in range(self._n)]
        self.agents: list[str] = []
        self._texts = {name: UnicodeText(length) for name, length in TEXT_LENGTHS.items()}
        self._observation_spaces = {
            agent: Dict({name: UnicodeText(length) for name, length in TEXT_LENGTHS.items()})
            for agent in self.possible_agents
        }
        self._action_spaces = {agent: UnicodeText(max_length) for agent in self.possible_agents}
        self._rng, _ = np_random(None)
        self._process: MeanFieldProcess | None = None

    # -- PettingZoo ------------------------------------------------------------------------

    def observation_space(self, agent: str) -> Any:
        """The observation space of an agent; always the same object."""
        return self._observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        """The action space of an agent; always the same object."""
        return self._action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, Any]]]:
        """Start an episode. ``options={"event_id": ...}`` chooses its event."""
        if seed is not None:
            self._rng, _ = np_random(seed)
        ids = self._scenarios.ids
        place, noise_seed = int(self._rng.integers(len(ids))), int(self._rng.integers(2**31))
        chosen = (options or {}).get("event_id")
        if chosen is not None and chosen not in ids:
            some = ", ".join(ids[:3])
            raise MfenvError(f"unknown event {chosen!r}; allowed: {len(ids)} such as {some}")
        event = self._scenarios.event(ids[place] if chosen is None else str(chosen))
        full = (len(event.posts) - 1 - self._warmup) // self._n
        steps = min(self.max_cycles, full)
        if steps < 1:
            raise MfenvError(
                f"event {event.event_id!r} has {len(event.posts) - 1} replies; a warm-up of "
                f"{self._warmup} and {self._n} people for one step are needed"
            )
        choice = self._annotator_choice
        annotator = build_annotator(choice, event) if isinstance(choice, str) else choice
        agents = self._warmup + steps * self._n
        settings = ProcessSettings(agents=agents, batch=self._n, warmup=self._warmup)
        process = MeanFieldProcess(_Outside(), _Counted(), annotator, settings)
        warmup = process.reset(event, noise_seed)
        self._real = [r for r in real_rollout(event, annotator, settings) if not r.warmup]
        self._process, self._steps, self._cycle = process, steps, 0
        self._recorded = [r.distribution for r in warmup]
        self._played: list[StepRecord] = []
        self._distances: list[float] = []
        self.agents = self.possible_agents[:]
        infos: dict[str, dict[str, Any]] = {
            agent: {**info, "labels": {}, "real_text": "", "distance": 0.0}
            for agent, info in self._infos().items()
        }
        if self.render_mode == "human":
            self.render()
        return self._observe(), infos

    def step(
        self, actions: dict[str, str]
    ) -> tuple[
        dict[str, dict[str, str]],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Let every slot's person react. Raises ``MfenvError`` for a missing or non-text action."""
        process = self._started()
        if not self.agents:
            raise MfenvError("the episode is over: call reset() first")
        texts = [self._text(agent, actions) for agent in self.agents]
        record = advance([process], actions=[texts])[0]
        real = self._real[self._cycle]
        self._played.append(record)
        outcome = self._outcome(record, real)
        rewards = [float(x) for x in self._reward(outcome)]
        if len(rewards) != self._n:
            raise MfenvError(f"the reward function gave {len(rewards)} rewards to {self._n} agents")
        gap = float(distance(counts(outcome.real_window), counts(outcome.window)))
        self._distances.append(gap)
        self._cycle += 1
        over = self._cycle >= self._steps
        acted = self.agents
        observations, infos = self._observe(), self._infos()
        for i, agent in enumerate(acted):
            infos[agent] |= {
                "labels": decode(record.labels[i]),
                "real_text": real.texts[i],
                "distance": gap,
            }
        if over:
            self.agents = []
        if self.render_mode == "human":
            self.render()
        return (
            observations,
            dict(zip(acted, rewards, strict=True)),
            dict.fromkeys(acted, False),
            dict.fromkeys(acted, over),
            infos,
        )

    def state(self) -> NDArray[np.float32]:
        """The population as the mean field sees it: 23 label shares, float32."""
        return self._started().perceived.astype(np.float32)

    def render(self) -> Any:
        """The episode so far as text, returned (``ansi``) or printed (``human``)."""
        if self.render_mode is None:
            raise MfenvError("render() needs render_mode='ansi' or 'human'")
        text = rendering.ansi(self._frame())
        if self.render_mode == "ansi":
            return text
        print(text, flush=True)
        return None

    def close(self) -> None:
        """Nothing is held open."""

    # -- inside ----------------------------------------------------------------------------

    def _started(self) -> MeanFieldProcess:
        if self._process is None:
            raise MfenvError("the environment has no episode yet: call reset() first")
        return self._process

    def _text(self, agent: str, actions: dict[str, str]) -> str:
        text = actions.get(agent)
        if not isinstance(text, str):
            raise MfenvError(f"{agent}: action {text!r} is not allowed; allowed: a text")
        return self._action_spaces[agent].clip(text)

    def _observe(self) -> dict[str, dict[str, str]]:
        process = self._started()
        persons = process.next_agents
        states = process.states(persons) if len(persons) else [""] * self._n
        observations = {}
        for agent, state in zip(self.possible_agents, states, strict=True):
            texts = {
                "topic": process.event.topic,
                "mean_field": process.mean_field,
                "state": state,
            }
            observations[agent] = {
                name: self._texts[name].clip(text) for name, text in texts.items()
            }
        return observations

    def _infos(self) -> dict[str, dict[str, Any]]:
        process = self._started()
        persons: list[int | None] = list(process.next_agents.tolist()) or [None] * self._n
        return {
            agent: {"person": person, "event_id": process.event.event_id, "step": self._cycle}
            for agent, person in zip(self.possible_agents, persons, strict=True)
        }

    def _outcome(self, record: StepRecord, real: StepRecord) -> Outcome:
        latest = slice(max(0, self._cycle + 1 - self._window), self._cycle + 1)
        return Outcome(
            step=self._cycle,
            persons=record.agents,
            texts=record.texts,
            labels=record.labels,
            real_texts=real.texts,
            real_labels=real.labels,
            window=np.concatenate([r.labels for r in self._played[latest]]),
            real_window=np.concatenate([r.labels for r in self._real[latest]]),
            distribution=shares(record.labels),
            mean_field=record.mean_field,
        )

    def _frame(self) -> rendering.Frame:
        process = self._started()
        played = [r.distribution for r in self._played]
        return rendering.Frame(
            event_id=process.event.event_id,
            topic=process.event.topic,
            domain=process.event.domain or "unknown",
            objective="distance to the real population",
            harm_name="distance",
            batch=self._n,
            horizon=self._steps,
            warmup=len(self._recorded),
            distributions=np.array([*self._recorded, *played]).reshape(-1, 23),
            activity=np.zeros((len(self._recorded) + len(played), len(KINDS))),
            actions=["none"] * len(played),
            harm=self._distances,
            rewards=[-x for x in self._distances],
            budget=None,
            budget_left=None,
            mean_field=process.mean_field,
            texts=self._played[-1].texts[:4] if self._played else (),
        )


def parallel_env(**kwargs: Any) -> PopulationEnv:
    """``MFLLM-Population-v0``: the arguments are those of :class:`PopulationEnv`."""
    return PopulationEnv(**kwargs)


def env(**kwargs: Any) -> AECEnv[str, dict[str, str], str | None]:
    """The same as a turn-based environment, by PettingZoo's conversion."""
    return parallel_to_aec(PopulationEnv(**kwargs))


register_pettingzoo()
