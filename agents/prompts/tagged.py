"""Prompts of the small models of this project, which were trained on these tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agents.prompts.untrusted import (
    REACTION_CHARACTERS,
    TOPIC_CHARACTERS,
    clip,
    unquoted,
)
from mfenv.dynamics.mean_field_text import QUOTES, Grammar, exposed, grammar, phrases, render
from mfenv.dynamics.models import ActionRequest, SummaryRequest
from mfenv.states import UNKNOWN, join, opinion_text

__all__ = ["ACT", "END", "PAD", "SPECIAL_TOKENS", "PolicyParts", "TaggedPrompts", "policy_parts"]

TOPIC, NOTICE, MEAN_FIELD, STATE, ACT = "<|topic|>", "<|notice|>", "<|mf|>", "<|state|>", "<|act|>"
OBSERVED, SEPARATOR, SUMMARY = "<|obs|>", "<|sep|>", "<|sum|>"
END, PAD = "<|end|>", "<|pad|>"
SPECIAL_TOKENS: tuple[str, ...] = (
    PAD,
    END,
    TOPIC,
    NOTICE,
    MEAN_FIELD,
    STATE,
    ACT,
    OBSERVED,
    SEPARATOR,
    SUMMARY,
)

_PART = r"((?:[^<]|<(?!\|))*)"  # text cannot hold the beginning of a tag
_POLICY = re.compile(
    f"{re.escape(TOPIC)}{_PART}(?:{re.escape(NOTICE)}{_PART})?"
    f"{re.escape(MEAN_FIELD)}{_PART}{re.escape(STATE)}{_PART}{re.escape(ACT)}"
)

# The small models were trained without opinions and do not read the words for them, but the English
# one listens to self-descriptions. So a person of each opinion says what people who tend to it say
# in the synthetic society. Believers and doubters are chosen so that together they lean as the
# whole society does (enthusiasts and worriers; experts, since sceptics would pull all to doubt).
_SAYINGS = {
    opinion_text(opinion, "en"): saying
    for opinion, saying in enumerate(
        (
            "Online all day, sharing what I see",
            "Editor at a daily paper",
            "They lie to us every day",
            "Journalist, facts matter",
            "Please stay safe everyone",
            "Engineer writing on evidence",
        )
    )
}


@dataclass(frozen=True, slots=True)
class PolicyParts:
    """What stands in a policy prompt."""

    topic: str
    notices: str
    mean_field: str
    state: str


def policy_parts(prompt: str) -> PolicyParts | None:
    """Read a prompt of :meth:`TaggedPrompts.policy_prompt` back; ``None`` for any other text.

    The parts cannot hold a tag, so there is one reading.
    """
    found = _POLICY.fullmatch(prompt)
    return None if found is None else PolicyParts(*(part or "" for part in found.groups()))


class TaggedPrompts:
    """Prompts of the small models of this project: fields behind tags, no instructions."""

    chat = False
    # A small model would now and then slip from an action into the other job it has learned.
    never_in_actions: tuple[str, ...] = (
        *(t for t in SPECIAL_TOKENS if t != END),
        *(p for language in ("en", "zh") for p in phrases(language) if p not in QUOTES),
    )

    def summary_grammar(self, language: str) -> Grammar:
        """What these models were trained to write, and nothing else."""
        return grammar(language)

    def policy_prefix(
        self, topic: str, notices: Sequence[str], mean_field: str, language: str
    ) -> str:
        """Topic, notices (if any), mean field."""
        shown = NOTICE + " ".join(clip(n, TOPIC_CHARACTERS) for n in notices) if notices else ""
        return TOPIC + clip(topic, TOPIC_CHARACTERS) + shown + MEAN_FIELD + unquoted(mean_field)

    def policy_suffix(self, state: str, language: str, opinion: str = "") -> str:
        """State and opinion (if any), then the tag behind which the action stands."""
        shown = clip(state, TOPIC_CHARACTERS)
        if opinion in _SAYINGS:
            shown += ", about: " + _SAYINGS[opinion]
        elif opinion:
            shown += ("，" if language == "zh" else ", ") + opinion
        return STATE + shown + ACT

    def policy_prompt(self, request: ActionRequest) -> str:
        """Prefix and suffix of one agent."""
        return self.policy_prefix(
            request.topic, request.notices, request.mean_field, request.language
        ) + self.policy_suffix(request.state, request.language, request.opinion)

    def persona_prompt(self, request: ActionRequest, persona: str, exemplar: str) -> str:
        """The persona in the place of the state, the exemplar where single reactions stand."""
        own = [] if request.state in UNKNOWN.values() else [request.state]
        return self.policy_prefix(
            request.topic,
            request.notices,
            render(None, [exemplar] if exemplar.strip() else [], request.language),
            request.language,
        ) + self.policy_suffix(
            join([persona, *own], request.language), request.language, request.opinion
        )

    def summary_prompt(self, request: SummaryRequest) -> str:
        """Topic, old mean field, the latest reactions."""
        return self.summary_parts(
            request.topic, request.mean_field, [r.text for r in exposed(request.reactions)]
        )

    def summary_parts(self, topic: str, mean_field: str, reactions: Sequence[str]) -> str:
        """:meth:`summary_prompt` from its parts, as training builds it."""
        observed = SEPARATOR.join(clip(t, REACTION_CHARACTERS) for t in reactions)
        return (
            TOPIC
            + clip(topic, TOPIC_CHARACTERS)
            + MEAN_FIELD
            + unquoted(mean_field)
            + OBSERVED
            + observed
            + SUMMARY
        )

    def prior_prompt(self, topic: str, language: str) -> str:
        """The topic, then the tag behind which a mean field stands."""
        return TOPIC + clip(topic, TOPIC_CHARACTERS) + SUMMARY
