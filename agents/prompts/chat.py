"""Natural-language prompts for instruction-tuned models, from the templates beside this file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from agents.prompts.untrusted import REACTION_CHARACTERS, TOPIC_CHARACTERS, quote
from mfenv.dynamics.mean_field_text import Grammar, exposed
from mfenv.dynamics.models import ActionRequest, SummaryRequest
from mfenv.states import UNKNOWN, join

__all__ = ["ChatPrompts", "label_words"]

_TOPIC, _NOTICES, _FIELD, _STATE = TOPIC_CHARACTERS * 4, 600, 1200, 300  # characters


@cache
def _file(language: str) -> Mapping[str, Any]:
    name = "zh" if language == "zh" else "en"
    text = files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _templates(language: str) -> Mapping[str, str]:
    return _file(language)


def label_words(language: str) -> Mapping[str, str]:
    """What a person does whose reactions have a label, for every ``dimension/label``."""
    words: Mapping[str, str] = _file(language)["labels"]
    return words


class ChatPrompts:
    """Natural language, in English or Chinese.

    Untrusted text stands between ``<<<`` and ``>>>`` and the model is told that it is data.
    """

    chat = True
    never_in_actions: tuple[str, ...] = ()

    def summary_grammar(self, language: str) -> Grammar | None:
        """None: a summary is free text."""
        return None

    def policy_prefix(
        self, topic: str, notices: Sequence[str], mean_field: str, language: str
    ) -> str:
        """Topic, notices, and how the public has reacted so far."""
        text = _templates(language)
        result = text["act_prefix"].format(topic=quote(topic, _TOPIC))
        if notices:
            result += text["act_notices"].format(notices=quote(" ".join(notices), _NOTICES))
        if mean_field:
            field = quote(mean_field, _FIELD, fold=False)
            result += text["act_mean_field"].format(mean_field=field)
        return result

    def policy_suffix(self, state: str, language: str, opinion: str = "") -> str:
        """Who this person is, what they think so far (if known), and what to write."""
        text = _templates(language)
        thinks = text["act_opinion"].format(opinion=opinion) if opinion else ""
        return text["act_suffix"].format(state=quote(state, _STATE), opinion=thinks)

    def policy_prompt(self, request: ActionRequest) -> str:
        """Prefix and suffix of one agent."""
        return self.policy_prefix(
            request.topic, request.notices, request.mean_field, request.language
        ) + self.policy_suffix(request.state, request.language, request.opinion)

    def persona_prompt(self, request: ActionRequest, persona: str, exemplar: str) -> str:
        """Topic and notices, then the person, the group they are like, and what one of it wrote."""
        text = _templates(request.language)
        opinion = [request.opinion] if request.opinion else []
        own = [] if request.state in UNKNOWN.values() else [request.state]
        return self.policy_prefix(request.topic, request.notices, "", request.language) + text[
            "act_persona"
        ].format(
            state=quote(join([persona, *own, *opinion], request.language), _STATE),
            exemplar=quote(exemplar.strip() or text["act_silent"], REACTION_CHARACTERS),
        )

    def summary_prompt(self, request: SummaryRequest) -> str:
        """Ask for a new summary in six aspects, most important first (PAPER.md)."""
        seen = [quote(r.text, REACTION_CHARACTERS) for r in exposed(request.reactions)]
        return _templates(request.language)["summary"].format(
            topic=quote(request.topic, _TOPIC),
            mean_field=quote(request.mean_field, _FIELD, fold=False),
            reactions="\n".join(f"- {line}" for line in seen),
        )

    def prior_prompt(self, topic: str, language: str) -> str:
        """The bare instruction: a likely summary for the topic, without any reaction seen."""
        return _templates(language)["prior"].format(topic=quote(topic, _TOPIC))
