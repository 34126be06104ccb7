"""Training steps of the synthetic society, interventions included."""

from __future__ import annotations

from collections.abc import Sequence

from mfenv.dynamics.mean_field_text import render
from mfenv.events.synthetic.generator import SyntheticSociety, TrainingStep, training_steps
from mfenv.noise import uniform
from mfenv.states import UNKNOWN, state_text
from training.corpus import EventCorpus, StepExample

__all__ = ["SyntheticCorpus"]

_BLOCK = 2048  # steps that are generated together
_UNKNOWN_SHARE = 0.05  # of agents whose profile is hidden, so that the model knows that state
_UNKNOWN_TOKEN = 400  # token of the noise key
_PRIOR_EVENTS = 280  # events for the prior job, none of which an environment uses
_PRIOR_SEED = 1_000_003


class SyntheticCorpus:
    """Random access to steps of random worlds under random interventions."""

    language = "en"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._number = -1
        self._block: list[TrainingStep] = []
        events = SyntheticSociety(_PRIOR_SEED + seed).events(_PRIOR_EVENTS, n_posts=300)
        self._events = EventCorpus(
            events, [e.labels for e in events if e.labels is not None], seed=seed
        )

    def example(self, index: int) -> StepExample:
        """Step ``index``. Neighbouring indices share a generated block."""
        number, place = divmod(index, _BLOCK)
        if number != self._number:
            seed = int(uniform(self._seed, number, 0, 0) * 2**31)
            self._block = list(training_steps(seed, _BLOCK))
            self._number = number
        step = self._block[place]
        hidden = uniform(self._seed, index, range(len(step.profiles)), _UNKNOWN_TOKEN)
        return StepExample(
            topic=step.topic,
            language=step.language,
            notices=step.notices,
            mean_field=step.mean_field,
            reactions_only=render(None, step.reactions, step.language),
            states=tuple(
                UNKNOWN["en"] if u < _UNKNOWN_SHARE else state_text(p, "en")
                for p, u in zip(step.profiles, hidden, strict=True)
            ),
            actions=step.texts,
            observed=step.batch,
            next_mean_field=step.mean_field_next,
        )

    def rewriting(self, index: int) -> StepExample:
        """The same as :meth:`example`: half of the worlds start from shares that say nothing."""
        return self.example(index)

    def unplanned(self, index: int) -> StepExample:
        """A step of an event without interventions."""
        return self._events.example(index)

    def texts_by_event(self) -> Sequence[Sequence[str]]:
        """Topics, states and reactions, one list a step."""
        steps = (self.example(i) for i in range(2 * _BLOCK))
        return [[s.topic, *s.states, *filter(None, s.actions)] for s in steps]
