"""A language model as a planner: it reads the mean field as text and writes an intervention.

Planners of ``MFLLM-Social-v0`` read vectors and give numbers; this one takes and gives the texts of
``MFLLM-Social-Text-v0``. One call of the backbone answers all lanes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from agents.backbones.base import Backbone, Generation
from agents.backbones.sampling_parameters import Sampling
from agents.prompts import PromptFormat
from agents.prompts.tagged import ACT, MEAN_FIELD, STATE, TOPIC
from agents.prompts.untrusted import TOPIC_CHARACTERS, clip, quote, unquoted
from mfenv.envs.social_text import ObservedText
from mfenv.noise import NoiseKey

__all__ = ["PLANNER", "LanguageModelPlanner", "answer_tokens", "planner_prompt"]

PLANNER = -2
"""Agent of a planner's noise keys; people count from 0, the mean-field model is -1."""

_TAGGED_TOKENS, _CHAT_TOKENS = 24, 96  # an answer of a small model has no message
_MEAN_FIELD_CHARACTERS = 1200


def planner_prompt(prompts: PromptFormat, observation: str) -> str:
    """The prompt for an observation of the text environment, in the form a model knows.

    A small model gets topic and mean field behind the tags that it has learned, and the figures
    without their names in the place of a person's state. ``MfenvError`` for another text.
    """
    seen = ObservedText.read(observation)
    if prompts.chat:
        return _template().format(
            topic=quote(seen.topic, TOPIC_CHARACTERS * 4),
            mean_field=quote(seen.mean_field, _MEAN_FIELD_CHARACTERS, fold=False),
            status="\n".join(seen.status),
        )
    figures = ", ".join(line.partition(": ")[2] for line in reversed(seen.status))
    return (
        TOPIC
        + clip(seen.topic, TOPIC_CHARACTERS)
        + MEAN_FIELD
        + unquoted(seen.mean_field)
        + STATE
        + figures
        + ACT
    )


def answer_tokens(prompts: PromptFormat) -> int:
    """Most tokens of an answer."""
    return _CHAT_TOKENS if prompts.chat else _TAGGED_TOKENS


class LanguageModelPlanner:
    """A backbone that answers observations of ``MFLLM-Social-Text-v0``.

    What it answers is not looked at here: the environment reads it strictly.
    """

    def __init__(
        self, backbone: Backbone, *, sampling: Sampling | None = None, name: str | None = None
    ) -> None:
        """``sampling`` is ancestral by default: what the model believes."""
        self.backbone = backbone
        self.sampling = sampling or Sampling(max_new_tokens=answer_tokens(backbone.prompts))
        self.name = name or f"lm:{backbone.name}"
        self._seeds: tuple[int, ...] = ()
        self._step = 0

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin episodes: the seed of each lane's noise."""
        self._seeds, self._step = tuple(int(s) for s in seeds), 0

    def act(self, texts: Sequence[str]) -> list[str]:
        """One answer for the observation of each lane, by one call of the backbone."""
        keys = [NoiseKey(seed, PLANNER, self._step) for seed in self._seeds]
        self._step += 1
        return [answer.text for answer in self.write(texts, keys)]

    def write(self, texts: Sequence[str], keys: Sequence[NoiseKey]) -> list[Generation]:
        """Answers with noise of the caller's keys."""
        prompts = [planner_prompt(self.backbone.prompts, text) for text in texts]
        return self.backbone.generate(prompts, keys, self.sampling)


@cache
def _template() -> str:
    text = files(__package__).joinpath("planner.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["plan"])
