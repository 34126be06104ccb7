"""The planner's view of a population as text: it reads a text and answers with one."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

from mfenv.dynamics.process import MeanFieldProcess, advance
from mfenv.envs.observation import TEXT_LENGTHS
from mfenv.envs.social import SocialEnv
from mfenv.envs.unicode_text import UnicodeText
from mfenv.errors import MfenvError
from mfenv.intervention_text import MESSAGE_CHARACTERS, parse_intervention
from mfenv.interventions import KINDS, NONE, Intervention

__all__ = ["ANSWER_CHARACTERS", "ObservedText", "SocialTextEnv", "step_together"]

ANSWER_CHARACTERS = MESSAGE_CHARACTERS + 40
"""Most characters of the action space's texts; a longer answer cannot be read anyway."""

_STATUS = 4  # lines behind the mean field
_ROOM = 300  # characters of these lines, and of the words before the topic

Step = tuple[str, float, bool, bool, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ObservedText:
    """What stands in an observation. ``str()`` writes it, :meth:`read` reads it back.

    Only the mean field may have several lines. It stands between a first line and four last ones,
    so that no topic and no mean field can put words into the planner's own figures.
    """

    topic: str
    mean_field: str
    status: tuple[str, ...]  # lines: step, budget, credibility, what runs

    def __str__(self) -> str:
        topic = " ".join(self.topic.split())
        return "\n".join((f"Topic: {topic}", self.mean_field, *self.status))

    @classmethod
    def read(cls, text: str) -> ObservedText:
        """Take an observation apart; ``MfenvError`` for any other text."""
        lines = text.split("\n")
        if len(lines) < _STATUS + 2 or not lines[0].startswith("Topic: "):
            raise MfenvError(
                "this is no observation of MFLLM-Social-Text-v0: a line 'Topic: …', the mean "
                f"field and {_STATUS} lines of figures are expected"
            )
        topic, middle, status = lines[0], lines[1:-_STATUS], lines[-_STATUS:]
        return cls(topic.removeprefix("Topic: "), "\n".join(middle), tuple(status))


class SocialTextEnv(SocialEnv):
    """
    ## Description

    `MFLLM-Social-v0` for planners that read and write: a language model is told in words how a
    claim goes round, and answers with an intervention. Episodes, rewards, budgets, tiers and noise
    are those of `SocialEnv`: the same seed and the same interventions give the same episode.

    ## Action Space

    `UnicodeText(0, 240)`: an answer is one of

    ```text
    none
    KIND/INTENSITY
    KIND/INTENSITY: MESSAGE
    ```

    with a kind of `statement`, `fact_check`, `seed`, `friction`, `amplify_support`,
    `amplify_oppose` and an intensity of `low`, `medium`, `high`. A message replaces the wording of
    a statement, or is what seeded reactions say; it is one line of at most 200 printable
    characters, and the other kinds take none. White space around an answer is not looked at.

    Reading is strict and never a guess: any other text does nothing, costs `penalty` of the reward
    and sets `info["unreadable"]`. What the budget cannot pay does nothing either, as in
    `SocialEnv`, and costs no penalty.

    A message is untrusted text. Where language models read it, it goes through the same clipping
    and quoting as a topic or a post. In the synthetic society nobody reads: there a message changes
    texts and no number.

    ## Observation Space

    `UnicodeText(0, 3300)`: the topic in one line, the mean field as the people read it, and four
    lines of figures.

    ```text
    Topic: Rumour has it that the clinic is closing for good.

    Stance: support 35% oppose 25% neutral 40%
    Emotion: angry 10% calm 30% happy 5% sad 10% fear 25% surprise 20%
    Behaviour: comment 60% share 40%
    Belief: believe 55% doubt 45%
    Intent: question 15% promotion 20% opinion 65%
    Step: 3 of 16
    Budget: 8.33 of 12
    Credibility: 23%
    Running: fact_check 81%, friction 60%
    ```

    `mfenv.envs.social_text.ObservedText.read` takes it apart. The credibility is the posterior
    probability that the topic is true; see `SocialEnv`.

    ## Rewards

    Those of `SocialEnv`, minus `penalty` for each answer that cannot be read.

    ## Starting State

    As in `SocialEnv`: an event is drawn from the chosen set, and its recorded warm-up is played.

    ## Episode End

    As in `SocialEnv`: truncated after `horizon` steps.

    ## Info

    That of `SocialEnv`, `unreadable` (a bool) and `message` (the message that was used, or `None`).

    ## Arguments

    ```python
    >>> import gymnasium
    >>> env = gymnasium.make("mfenv:MFLLM-Social-Text-v0", dynamics="society")
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step("statement/high: It is false.")
    >>> info["intervention"], info["message"], info["unreadable"]
    ('statement/high', 'It is false.', False)
    >>> env.step("I would do nothing.")[-1]["unreadable"]
    True

    ```

    | Parameter | Type      | Default | Description |
    |-----------|-----------|---------|-------------|
    | `penalty` | **float** | `0.05`  | reward lost by an answer that cannot be read |

    The others are those of `SocialEnv` without `observation` and `action`; `dynamics` is `"llm"`
    unless it is given.

    ## Version History

    * v0: Initial version.
    """

    def __init__(self, dynamics: str = "llm", *, penalty: float = 0.05, **kwargs: Any) -> None:
        """Take the arguments of ``SocialEnv`` but for its spaces; ``MfenvError`` for wrong ones."""
        for name in ("observation", "action"):
            if name in kwargs:
                raise MfenvError(f"{name}= has no meaning where observation and action are texts")
        if not 0 <= penalty < float("inf"):
            raise MfenvError(f"penalty={penalty!r} is not allowed; allowed: 0 or more")
        super().__init__(dynamics, **kwargs)
        self.penalty = float(penalty)
        self.observation_space: UnicodeText = UnicodeText(  # type: ignore[assignment]
            sum(TEXT_LENGTHS.values()) + _ROOM
        )
        self.action_space: UnicodeText = UnicodeText(ANSWER_CHARACTERS)  # type: ignore[assignment]

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode. ``options={"event_id": ...}`` chooses its event."""
        observation, info = super().reset(seed=seed, options=options)
        return str(observation), info

    def step(self, action: str) -> Step:  # type: ignore[override]
        """Read an answer, and let the next batch react."""
        return step_together([self], [action])[0]

    def intervention(self, action: Any) -> Intervention:
        """What an answer says; nothing for an answer that cannot be read."""
        if not isinstance(action, str):
            raise MfenvError(f"action {action!r} is no text; allowed: 'none' or 'KIND/INTENSITY'")
        return parse_intervention(action) or NONE

    def twin(self) -> Self:
        """An environment over the same scenarios with the same arguments, without an episode."""
        twin = copy(self)
        twin._dynamics, twin._np_random = None, None
        return twin

    def fork(self) -> Self:
        """An independent environment at this point of the episode, with the same noise ahead."""
        twin = copy(self)
        twin._dynamics = self.dynamics.fork()
        twin._records, twin._harm = [*self._records], [*self._harm]
        twin._rewards = [*self._rewards]
        return twin

    @property
    def credibility(self) -> float:
        """The planner's posterior probability that the topic is true."""
        return self._credibility

    @property
    def spent(self) -> float:
        """What the episode's interventions have cost so far."""
        return self._spent

    def observe(self) -> str:
        """The latest observation."""
        dynamics = self.dynamics
        left = max(0.0, self.budget - self._spent)
        running = [f"{KINDS[k]} {100 * x:.0f}%" for k, x in enumerate(dynamics.activity) if x > 0]
        step = min(self._elapsed + 1, self._steps)
        fits = {name: UnicodeText(length).clip for name, length in TEXT_LENGTHS.items()}
        return str(
            ObservedText(
                topic=fits["topic"](dynamics.event.topic),
                mean_field=fits["mean_field"](dynamics.mean_field),
                status=(
                    f"Step: {step} of {self._steps}",
                    f"Budget: {round(left, 2):g} of {round(self.budget, 2):g}",
                    f"Credibility: {100 * self._credibility:.0f}%",
                    f"Running: {', '.join(running) or 'nothing'}",
                ),
            )
        )

    def _observe(self) -> str:  # type: ignore[override]
        return self.observe()

    def _info(
        self, done: Intervention, harm: float, cost: float, *, refused: bool
    ) -> dict[str, Any]:
        info = super()._info(done, harm, cost, refused=refused)
        return {**info, "unreadable": False, "message": done.message}


def step_together(envs: Sequence[SocialTextEnv], answers: Sequence[str]) -> list[Step]:
    """Step environments in lockstep: language models are called once a phase for all of them.

    The same results as one by one (with language models up to the rounding of larger batches).
    """
    ready = [env.prepare(answer) for env, answer in zip(envs, answers, strict=True)]
    processes = [env.dynamics for env in envs]
    if all(isinstance(p, MeanFieldProcess) for p in processes):
        records = advance(processes, [done for _, done in ready])  # type: ignore[arg-type]
    else:
        records = [p.step(done) for p, (_, done) in zip(processes, ready, strict=True)]
    results = []
    for env, answer, record, (wanted, done) in zip(envs, answers, records, ready, strict=True):
        unreadable = parse_intervention(answer) is None
        lost = env.penalty if unreadable else 0.0
        observation, reward, terminated, truncated, info = env.finish(record, wanted, done, lost)
        info["unreadable"] = unreadable
        results.append((str(observation), reward, terminated, truncated, info))
    return results
