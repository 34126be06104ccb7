"""The planner's view of a population: interventions in, label shares out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiDiscrete
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM, shares
from mfenv.dynamics.records import Dynamics, StepRecord
from mfenv.envs import rendering
from mfenv.envs.objectives import make_objective, misbelief, polarization
from mfenv.envs.observation import (
    DOMAIN_NAMES,
    FORMATS,
    OBSERVATION_SLICES,
    TEXT_LENGTHS,
    as_parts,
    credibility,
    domain_index,
    observation_space,
    readings,
)
from mfenv.envs.scenarios import make_scenarios
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.interventions import (
    INTENSITIES,
    KINDS,
    N_ACTIONS,
    NONE,
    Intervention,
    action_name,
    decode_action,
    encode_action,
    intervention_name,
)
from mfenv.labels import N_DIMENSIONS, NAMES, Labels

if TYPE_CHECKING:
    from mfenv.dynamics.process import MeanFieldProcess
    from mfenv.dynamics.surrogate import SurrogateDynamics, SurrogateModel
    from mfenv.dynamics.surrogate.dynamics import Start

__all__ = ["ACTIONS", "EPSILON", "TIERS", "SocialEnv", "recorded_shares"]

TIERS: tuple[str, ...] = ("llm", "society", "surrogate")
"""Values of ``dynamics=``."""

ACTIONS: tuple[str, ...] = ("discrete", "multidiscrete")
"""Values of ``action=``."""

_SAMPLE = 4  # reactions shown in infos
_MIXTURE = 256  # people of an event after its warm-up that tell a surrogate of the archetypes
_TIME, _BUDGET = OBSERVATION_SLICES["time"].start, OBSERVATION_SLICES["budget"].start
EPSILON = 1e-9  # a budget that is used up by sums of floats still pays what it should

Observation = NDArray[np.float32] | dict[str, Any]


class SocialEnv(gymnasium.Env[Any, Any]):
    """
    ## Description

    A claim goes round in a population, and a planner intervenes. Each episode is one event: a
    topic, and people who react to it one batch after the other. Each of them reads the topic, a
    *mean field* (a short text that sums up how the population reacts) and what interventions
    show, then writes a reaction; the mean field is rewritten from the reactions. The event's
    first reactions are its recorded ones (the warm-up, played in `reset`); from there on the
    population is simulated.

    With `dynamics="llm"` (`MFLLM-Social-v0`) language models write the reactions and the mean
    field, as in MF-LLM ([Mi et al., 2025](https://arxiv.org/abs/2504.21582)). With
    `dynamics="society"` (`MFLLM-Society-v0`) the synthetic society itself reacts, in NumPy. With
    `dynamics="surrogate"` (`MFLLM-Surrogate-v0`) a numeric mean field that was fitted to one of
    these, or to real events, says how many react in which way; nobody writes.
    Everything else is the same, so that a planner that was trained in one can be judged in the
    other. `gymnasium.make_vec("mfenv:MFLLM-Society-v0", num_envs=64)` steps many of them together,
    with the same numbers and without texts; with language models it batches their calls.

    ## Action Space

    `Discrete(19)`: nothing, or one of six kinds of intervention at one of three intensities.

    | Num   | Action                           | What it does                                      | Cost (low, medium, high) | Activity left after a step |
    |-------|----------------------------------|---------------------------------------------------|--------------------------|-----|
    | 0     | `none`                           | nothing                                           | 0                        |     |
    | 1–3   | `statement/low` … `/high`        | an official statement denies the claim            | 1, 2, 3                  | 70% |
    | 4–6   | `fact_check/low` … `/high`       | a fact-check label disputes the topic             | 0.67, 1.33, 2            | 90% |
    | 7–9   | `seed/low` … `/high`             | sceptical reactions are planted in the batch      | 0.67, 1.33, 2            | 0%  |
    | 10–12 | `friction/low` … `/high`         | shares are slowed down                            | 0.5, 1, 1.5              | 60% |
    | 13–15 | `amplify_support/low` … `/high`  | the mean field sees more of supporting reactions  | 0.33, 0.67, 1            | 50% |
    | 16–18 | `amplify_oppose/low` … `/high`   | the mean field sees more of opposing reactions    | 0.33, 0.67, 1            | 50% |

    With `action="multidiscrete"` it is `MultiDiscrete([7, 3])`: the kind (0 is none) and the
    intensity, which has no meaning where the kind is none. `env.unwrapped.action_names` names the
    flat actions, and `env.unwrapped.intervention(action)` decodes an action of either form.

    What the budget cannot pay becomes none: `info["unaffordable"]` says so, and `action_masks()`
    tells beforehand (for `MultiDiscrete` the kinds' and intensities' masks one after the other;
    an entry is allowed where some combination with it is).

    ## Observation Space

    `Box(63,)`, float32:

    | Slice | Name         | Meaning                                                          | Min | Max |
    |-------|--------------|------------------------------------------------------------------|-----|-----|
    | 0–22  | distribution | label shares of the latest batch's own reactions                 | 0   | 1   |
    | 23–45 | change       | their change since the batch before                              | -1  | 1   |
    | 46–53 | domain       | one-hot: seven domains in alphabetical order, then unknown       | 0   | 1   |
    | 54    | time         | part of the horizon that is over                                 | 0   | 1   |
    | 55    | budget       | part of the budget that is left                                  | 0   | 1   |
    | 56–61 | activity     | strength at which each kind of intervention runs                 | 0   | 1   |
    | 62    | credibility  | posterior probability that the topic is true                     | 0   | 1   |

    The 23 labels are those of `mfenv.labels.NAMES`; `mfenv.envs.observation.OBSERVATION_SLICES`
    holds the slices. Whether the topic is true is hidden. The credibility is the posterior of one
    reading at reset, ±1 (true, false) plus Gaussian noise with standard deviation
    `credibility_noise`: calibrated, and on the right side in 84% of the episodes by default.
    Where nobody knows the truth it is 0.5.

    With `observation="dict"` the same comes as a flat `Dict` with one entry per slice, with
    `observation="text"` as `Dict(topic, mean_field, vector)` whose first two are texts.

    ## Rewards

    Minus the harm of the step's own reactions, minus `cost_weight` times the intervention's cost.
    What a planner planted is not a reaction of the population: it counts neither in the observed
    distribution nor in the reward nor in any metric.

    | `objective`      | Harm                                                                          |
    |------------------|-------------------------------------------------------------------------------|
    | `"misbelief"`    | share that believes a false topic, or doubts a true one (the truth must be known) |
    | `"polarization"` | 4 · P(support) · P(oppose): 1 for an even split, 0 for consensus                |
    | `"target"`       | KL(`target` ‖ population) in nats, averaged over the dimensions with a target    |

    ## Starting State

    An event is drawn from the chosen set, and its warm-up of `warmup` recorded reactions is
    played. `reset(options={"event_id": ...})` chooses the event instead, and `"reading"` gives the
    draw of the credibility. The same seed gives the
    same event and the same noise of every agent under every planner, so that planners are
    compared on common random numbers.

    ## Episode End

    Episodes never terminate. They are truncated after `horizon` steps, or earlier where an event
    has fewer people. An exhausted budget ends nothing.

    ## Info

    `event_id`, `topic`, `domain`, `step`, `texts` (up to four of the latest reactions),
    `mean_field`, `shares` (by label name), `harm`, `metrics` (`harm`, `polarization`, and
    `misbelief` where the truth is known), `intervention`, `unaffordable`, `cost`, `spent`, `budget_left`,
    `prompt_tokens`, `completion_tokens`.

    In the surrogate tier there are no `topic`, `domain`, `texts`, `mean_field`, `shares` and
    tokens, and `metrics` come at the start and the end of an episode only: the less there is, the
    faster vector environments gather it.
    Where the surrogate's data show no
    response to some kinds of intervention, `not_identified` says whether such a kind runs: it
    costs what it costs, and has no effect.

    ## Arguments

    ```python
    >>> import gymnasium
    >>> env = gymnasium.make("mfenv:MFLLM-Society-v0", objective="polarization", horizon=8)
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(4)
    >>> info["intervention"]
    'fact_check/low'

    ```

    | Parameter           | Type                | Default         | Description |
    |---------------------|---------------------|-----------------|-------------|
    | `dynamics`          | **str**             | `"llm"`         | the tier: `"llm"`, `"society"` or `"surrogate"` |
    | `backbone`          | **str**             | `"embedded-en"` | language model of the LLM tier; `"hf:PATH"` for any Hugging Face model |
    | `method`            | **str**             | `"mf"`          | how the LLM tier makes its mean field: `"mf"`, `"mf-counted"`, `"state"`, `"recent"`, `"popular"`; or a learned baseline without one: `"sft:DIR"`, `"mop:DIR"`; with the suffix `"+cal"` calibrated in the warm-up |
    | `surrogate`         | **str**             | `"embedded-en"` | what the surrogate tier was fitted to: `"embedded-en"`, `"society"` or `"weibo-s"`; or a folder that `mfenv train surrogate` wrote |
    | `member`            | **int**, **str** or None | `None`     | which fit of the surrogate's ensemble: `None` for the one to all data, a number, or `"random"` for one that is drawn for each episode |
    | `annotator`         | **str**             | `"auto"`        | who labels reactions in the LLM tier: `"exact"`, `"classifier"`, or what suits the event |
    | `events`            | **str** or None     | `None`          | `None` or `"synthetic"`; or a path that `mfenv data describe` reads (LLM tier) |
    | `event_ids`         | list of **str**     | `None`          | draw from these events only |
    | `split`             | **str** or None     | `None`          | `"train"` (the default), `"validation"`, `"test"` or `"confirmation"`: 560, 28, 28 and 84 synthetic events; or a file of that name in the folder `events` |
    | `objective`         | **str**             | `"misbelief"`   | see *Rewards* |
    | `target`            | list or dict        | `None`          | of `objective="target"`: 23 shares, or shares by dimension |
    | `observation`       | **str**             | `"box"`         | `"box"`, `"dict"` or `"text"` |
    | `action`            | **str**             | `"discrete"`    | `"discrete"` or `"multidiscrete"` |
    | `batch`             | **int**             | `16`            | people who react in one step |
    | `warmup`            | **int**             | `50`            | recorded reactions that an episode starts from |
    | `horizon`           | **int**             | `16`            | steps of an episode |
    | `budget`            | **float**           | `12.0`          | what the interventions of an episode may cost in all |
    | `cost_weight`       | **float**           | `0.02`          | reward lost per unit of cost |
    | `credibility_noise` | **float**           | `1.0`           | standard deviation of the reading of the truth; 0 reveals it |
    | `render_mode`       | **str** or None     | `None`          | `"ansi"`, `"rgb_array"` (needs the extra `reports`) or `"human"` (prints the text) |

    Wrong arguments raise `mfenv.errors.MfenvError`, which says what is allowed.

    ## Version History

    * v0: Initial version.
    """  # noqa: E501

    metadata = {"render_modes": ["ansi", "rgb_array", "human"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        dynamics: str = "llm",
        *,
        backbone: str = "embedded-en",
        method: str = "mf",
        surrogate: str = "embedded-en",
        member: int | str | None = None,
        annotator: str = "auto",
        events: str | None = None,
        event_ids: Sequence[str] | None = None,
        split: str | None = None,
        objective: str = "misbelief",
        target: Any = None,
        observation: str = "box",
        action: str = "discrete",
        batch: int = 16,
        warmup: int = 50,
        horizon: int = 16,
        budget: float = 12.0,
        cost_weight: float = 0.02,
        credibility_noise: float = 1.0,
        render_mode: str | None = None,
    ) -> None:
        """Check the arguments. Events and models are loaded by the first :meth:`reset`."""
        _one_of("dynamics", dynamics, TIERS)
        _one_of("observation", observation, FORMATS)
        _one_of("action", action, ACTIONS)
        counts = (("batch", batch, 1), ("warmup", warmup, 0), ("horizon", horizon, 1))
        for name, value, least in counts:
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise MfenvError(f"{name}={value!r} is not allowed; allowed: {least} or more")
        numbers = (
            ("budget", budget),
            ("cost_weight", cost_weight),
            ("credibility_noise", credibility_noise),
        )
        for name, number in numbers:
            if not 0 <= number < float("inf"):
                raise MfenvError(f"{name}={number!r} is not allowed; allowed: 0 or more")
        if render_mode is not None:
            _one_of("render_mode", render_mode, self.metadata["render_modes"])
            if render_mode == "rgb_array":
                rendering.require_pictures()
        if dynamics == "llm":
            from mfenv.dynamics.assemble import check_names

            check_names(backbone=backbone, method=method, annotator=annotator)
        if dynamics == "surrogate":
            from mfenv.dynamics.surrogate.find import check_surrogate

            check_surrogate(surrogate)
            _check_member(member)
        self.objective = make_objective(objective, target)
        self.tier, self._models = dynamics, (method, backbone, annotator)
        self._surrogate, self.member = surrogate, member
        self.batch, self.warmup, self.horizon = int(batch), int(warmup), int(horizon)
        # A synthetic event gets exactly the people that an episode needs; one from a file must
        # have enough for one step.
        synthetic = events in (None, "synthetic")
        steps = self.horizon if synthetic else 1
        people = self.warmup + steps * self.batch
        if dynamics == "surrogate":  # counts people, however many, and lists none but the recorded
            people = self.warmup + (_MIXTURE if synthetic else 0)
        self.scenarios = make_scenarios(events, split, event_ids, people)
        self.budget, self.cost_weight = float(budget), float(cost_weight)
        self.credibility_noise = float(credibility_noise)
        self._format, self._factored = observation, action == "multidiscrete"
        self.render_mode = render_mode
        self.observation_space = observation_space(observation)
        self.action_space = Discrete(N_ACTIONS)
        if self._factored:
            self.action_space = MultiDiscrete([1 + len(KINDS), len(INTENSITIES)])
        self.action_names: tuple[str, ...] = tuple(action_name(i) for i in range(N_ACTIONS))
        self._dynamics: Dynamics | None = None
        self._lane, self._episode = 0, -1  # of episodes that are drawn by counter

    # -- Gymnasium -------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. ``options={"event_id": ...}`` chooses its event.

        ``options={"reading": z}`` gives the standard normal draw that the credibility is made of,
        so that episodes of several tiers can begin alike. Raises ``MfenvError`` for an event that
        is unknown, too short for the warm-up and one step, or of unknown truth under an objective
        that needs it.
        """
        super().reset(seed=seed)
        options = options or {}
        event, noise_seed, reading = self._draw_next(seed, options.get("event_id"))
        if (given := options.get("reading")) is not None:
            draw = float(readings(given, 1)[0])
            reading = credibility(event.truth, self.credibility_noise, draw)
        self._dynamics = None  # an event that cannot be played leaves no half-begun episode
        dynamics = self.make_dynamics(event)
        warmup = dynamics.reset(event, noise_seed)
        if dynamics.horizon < 1:
            raise MfenvError(
                f"event {event.event_id!r} has {len(event.posts) - 1} replies; more than the "
                f"warm-up of {self.warmup} are needed"
            )
        self._dynamics = dynamics
        self._event, self._credibility, self._truth = event, reading, event.truth
        self._domain = domain_index(event.domain)
        self._steps = min(self.horizon, dynamics.horizon)
        self._spent, self._elapsed = 0.0, 0
        if self.tier == "surrogate":
            recorded = _counted_shares(cast("SurrogateDynamics", dynamics).start, self.batch)
        else:
            labels = [r.labels for r in warmup] or [np.zeros((0, N_DIMENSIONS), dtype=np.int8)]
            recorded = recorded_shares(np.concatenate(labels), self.batch)
        self._recorded = recorded
        self._before, self._now = [UNIFORM, UNIFORM, *recorded][-2:]
        self._records: list[StepRecord] = []
        self._seen = _Seen(self._domain, reading)
        self._latest = warmup[-1] if warmup else None
        self._harm: list[float] = []
        self._rewards: list[float] = []
        if self.render_mode == "human":
            self.render()
        harm = self.objective.harm(self._now, min(self.batch, self.warmup), self._truth)
        return self._observe(), self._info(NONE, harm, 0.0, refused=False)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Intervene, and let the next batch react."""
        wanted, done = self.prepare(action)
        return self.finish(self._started().step(done), wanted, done)

    def prepare(self, action: Any) -> tuple[Intervention, Intervention]:
        """What an action asks for, and what of it the budget pays: the first half of a step."""
        if self._dynamics is None or self._elapsed >= self._steps:
            self._started()
            raise MfenvError("the episode is over: call reset() first")
        wanted = self.intervention(action)
        paid = self._spent + wanted.cost <= self.budget + EPSILON
        return wanted, wanted if paid else NONE

    def finish(
        self, record: StepRecord, wanted: Intervention, done: Intervention, lost: float = 0.0
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take what the population did: the second half of a step.

        ``lost`` is subtracted from the reward.
        """
        self._records.append(record)
        self._latest = record
        self._before, self._now = self._now, record.distribution
        cost = done.cost
        self._spent += cost
        self._elapsed += 1
        harm = self.objective.harm(record.distribution, record.own, self._truth)
        reward = -harm - self.cost_weight * cost - lost
        self._harm.append(harm)
        self._rewards.append(reward)
        if self.render_mode == "human":
            self.render()
        truncated = self._elapsed >= self._steps
        info = self._info(done, harm, cost, refused=done is not wanted and done != wanted)
        return self._observe(), float(reward), False, truncated, info

    def render(self) -> Any:
        """The episode so far: text (``ansi``), a picture ``(720, 960, 3)``, or printed text."""
        if self.render_mode is None:
            spec = self.spec.id if self.spec is not None else type(self).__name__
            gymnasium.logger.warn(
                f'render() needs a render mode: gymnasium.make("{spec}", render_mode="ansi")'
            )
            return None
        frame = self._frame()
        if self.render_mode == "rgb_array":
            return rendering.rgb_array(frame)
        text = rendering.ansi(frame)
        if self.render_mode == "ansi":
            return text
        print(text, flush=True)
        return None

    # -- for planners ----------------------------------------------------------------------

    @property
    def dynamics(self) -> Dynamics:
        """The population of the running episode; ``fork()`` it to look ahead."""
        return self._started()

    @property
    def records(self) -> tuple[StepRecord, ...]:
        """The steps of the running episode, without the warm-up."""
        self._started()
        return tuple(self._records)

    def intervention(self, action: Any) -> Intervention:
        """Decode an action of the action space, whichever form it has."""
        if type(action) in (int, np.int64) and not self._factored and 0 <= action < N_ACTIONS:
            return decode_action(action)  # what the space would say, quickly
        if not self.action_space.contains(action):
            raise MfenvError(f"action {action!r} is not in {self.action_space}")
        if not self._factored:
            return decode_action(action)
        kind, intensity = (int(x) for x in action)
        return decode_action(0 if kind == 0 else 1 + (kind - 1) * len(INTENSITIES) + intensity)

    def action_masks(self) -> NDArray[np.bool_]:
        """What the rest of the budget can pay: ``(19,)``, or ``(7 + 3,)`` for MultiDiscrete."""
        self._started()
        flat = np.array([self._pays(decode_action(a)) for a in range(N_ACTIONS)])
        if not self._factored:
            return flat
        table = flat[1:].reshape(len(KINDS), len(INTENSITIES))
        # With kind none every intensity is allowed, and none of them costs anything.
        return np.concatenate([[True], table.any(axis=1), np.ones(len(INTENSITIES), dtype=bool)])

    # -- inside ----------------------------------------------------------------------------

    def draw(
        self, rng: np.random.Generator, event_id: str | None = None
    ) -> tuple[Event, int, float]:
        """Draw an episode: its event (or the chosen one), noise seed and credibility."""
        # All are drawn in any case, so that choosing an event leaves the noise as it is.
        place, noise_seed = int(rng.integers(len(self.scenarios.ids))), int(rng.integers(2**31))
        reading = float(rng.standard_normal())
        event = self.event(place, event_id)
        return event, noise_seed, credibility(event.truth, self.credibility_noise, reading)

    def event(self, place: int, event_id: str | None = None) -> Event:
        """The event at a place of the set, or the chosen one, if it can be played."""
        ids = self.scenarios.ids
        if event_id is not None and event_id not in ids:
            some = ", ".join(ids[:3])
            raise MfenvError(f"unknown event {event_id!r}; allowed: {len(ids)} such as {some}")
        event = self.scenarios.event(ids[place] if event_id is None else event_id)
        if self.objective.needs_truth and event.truth is None:
            raise MfenvError(
                f"event {event.event_id!r}: nobody knows whether its topic is true, which "
                f"objective={self.objective.name!r} needs; allowed: 'polarization', 'target'"
            )
        return event

    def _draw_next(self, seed: int | None, event_id: str | None) -> tuple[Event, int, float]:
        """Draw the next episode: by the generator, or in the surrogate tier by counter."""
        if self.tier != "surrogate":
            return self.draw(self.np_random, event_id)
        from mfenv.envs.draws import draw_episode, lane_seed

        if seed is not None or self._episode < 0:
            self._lane = lane_seed(self.np_random) if seed is None else seed
            self._episode = -1
        self._episode += 1
        place, noise, draw = draw_episode(self._lane, self._episode, len(self.scenarios.ids))
        event = self.event(place, event_id)
        return event, noise, credibility(event.truth, self.credibility_noise, draw)

    def _started(self) -> Dynamics:
        if self._dynamics is None:
            raise MfenvError("the environment has no episode yet: call reset() first")
        return self._dynamics

    def make_dynamics(self, event: Event) -> Dynamics:
        """The population of an event, in the environment's tier; it has not begun."""
        if self.tier == "society":
            from mfenv.dynamics.society import SocietyDynamics

            return SocietyDynamics(batch=self.batch, warmup=self.warmup)
        if self.tier == "surrogate":
            from mfenv.dynamics.surrogate import SurrogateDynamics

            return SurrogateDynamics(
                self.surrogate, batch=self.batch, warmup=self.warmup, member=self.member
            )
        return self.make_process(event)

    @cached_property
    def surrogate(self) -> SurrogateModel:
        """The surrogate tier's model."""
        from mfenv.dynamics.surrogate import build_surrogate

        return build_surrogate(self._surrogate)

    def make_process(self, event: Event) -> MeanFieldProcess:
        """The language models' process of an event; it has not begun."""
        from mfenv.dynamics.assemble import build_process
        from mfenv.dynamics.process import ProcessSettings

        agents = self.warmup + self.horizon * self.batch
        settings = ProcessSettings(agents=agents, batch=self.batch, warmup=self.warmup)
        return build_process(*self._models, event, settings)

    def _pays(self, intervention: Intervention) -> bool:
        return self._spent + intervention.cost <= self.budget + EPSILON

    def _observe(self) -> Observation:
        left = (self.budget - self._spent) / self.budget if self.budget else 0.0
        seen = self._seen
        seen.distribution[:] = self._now
        np.subtract(self._now, self._before, out=seen.change)
        seen.whole[_TIME] = self._elapsed / self._steps
        seen.whole[_BUDGET] = max(0.0, left)
        seen.activity[:] = (self._records[-1] if self._records else self._started()).activity
        values = seen.whole.astype(np.float32)
        if self._format == "box":
            return values
        if self._format == "dict":
            return dict(as_parts(values))
        space = self.observation_space
        assert isinstance(space, Dict)
        dynamics = self._started()
        texts = {"topic": dynamics.event.topic, "mean_field": dynamics.mean_field}
        return {**{k: space[k].clip(texts[k]) for k in TEXT_LENGTHS}, "vector": values}  # type: ignore[attr-defined]

    def _info(
        self, done: Intervention, harm: float, cost: float, *, refused: bool
    ) -> dict[str, Any]:
        latest_shares = self._now
        numbers = {
            "event_id": self._event.event_id,
            "step": self._elapsed,
            "harm": harm,
            "intervention": intervention_name(done),
            "unaffordable": refused,
            "cost": cost,
            "spent": self._spent,
            "budget_left": max(0.0, self.budget - self._spent),
        }
        surrogate = self.tier == "surrogate"
        # Where a step takes microseconds, vector environments take longer to gather these.
        if not surrogate or self._elapsed in (0, self._steps):
            metrics = {"polarization": polarization(latest_shares), "harm": harm}
            if self._truth is not None:
                metrics["misbelief"] = misbelief(latest_shares, self._truth)
            numbers["metrics"] = metrics
        if surrogate:
            unknown = self.surrogate.not_identified
            if unknown:
                runs = zip(KINDS, self._started().activity > 0, strict=True)
                numbers["not_identified"] = any(on and kind in unknown for kind, on in runs)
            return numbers
        dynamics, latest = self._started(), self._latest
        return numbers | {
            "domain": DOMAIN_NAMES[self._domain],
            "topic": self._event.topic,
            "texts": self._sample(),
            "mean_field": dynamics.mean_field if latest is None else latest.mean_field,
            "shares": dict(zip(NAMES, latest_shares.tolist(), strict=True)),
            "prompt_tokens": 0 if latest is None else latest.prompt_tokens,
            "completion_tokens": 0 if latest is None else latest.completion_tokens,
        }

    def _sample(self) -> tuple[str, ...]:
        """Some of the latest reactions that are the population's own."""
        record = self._latest
        if record is None:
            return ()
        return tuple(record.texts[i] for i in np.flatnonzero(~record.planted)[:_SAMPLE])

    def _frame(self) -> rendering.Frame:
        dynamics = self._started()
        event, records = dynamics.event, self._records
        distributions = [*self._recorded, *(r.distribution for r in records)]
        quiet = [np.zeros(len(KINDS))] * len(self._recorded)
        return rendering.Frame(
            event_id=event.event_id,
            topic=event.topic,
            domain=DOMAIN_NAMES[domain_index(event.domain)],
            objective=self.objective.name,
            batch=self.batch,
            horizon=self._steps,
            warmup=len(self._recorded),
            distributions=np.array(distributions).reshape(-1, len(NAMES)),
            activity=np.array([*quiet, *(r.activity for r in records)]).reshape(-1, len(KINDS)),
            actions=[action_name(encode_action(r.intervention)) for r in records],
            harm=self._harm,
            rewards=self._rewards,
            budget=self.budget,
            budget_left=max(0.0, self.budget - self._spent),
            mean_field=dynamics.mean_field,
            texts=self._sample(),
        )


@lru_cache(maxsize=4096)
def _counted_shares(start: Start, batch: int) -> list[NDArray[np.float64]]:
    """:func:`recorded_shares`; where an episode takes microseconds, once for an event."""
    return recorded_shares(start.labels, batch)


class _Seen:
    """An episode's observation in double precision, and the parts of it that steps change."""

    __slots__ = ("activity", "change", "distribution", "whole")

    def __init__(self, domain: int, credibility: float) -> None:
        parts = OBSERVATION_SLICES
        self.whole = np.zeros(parts["credibility"].stop)
        self.whole[parts["domain"].start + domain] = 1.0
        self.whole[parts["credibility"].start] = credibility
        self.distribution, self.change, self.activity = (
            self.whole[parts[name]] for name in ("distribution", "change", "activity")
        )


def recorded_shares(labels: Labels, batch: int) -> list[NDArray[np.float64]]:
    """Shares of warm-up reactions ``(m, 8)`` in batches that end with the last one.

    The process's own last batch may be short, too short for a first observation; here the first
    one takes up the remainder.
    """
    if not len(labels):
        return []
    full = max(1, len(labels) // batch)
    cuts = [len(labels) - batch * k for k in range(full - 1, 0, -1)]
    return [shares(part) for part in np.split(labels, cuts)]


def _check_member(member: int | str | None) -> None:
    number = isinstance(member, int | np.integer) and not isinstance(member, bool) and member >= 0
    if member is not None and member != "random" and not number:
        raise MfenvError(
            f"member={member!r} is not allowed; allowed: None, 'random', or a member's number"
        )


def _one_of(name: str, value: str, allowed: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in allowed:
        raise MfenvError(f"{name}={value!r} is not allowed; allowed: {', '.join(allowed)}")
