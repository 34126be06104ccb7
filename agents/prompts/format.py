"""What a prompt format is: how requests become the text that a model is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mfenv.dynamics.mean_field_text import Grammar
from mfenv.dynamics.models import ActionRequest, SummaryRequest

__all__ = ["PromptFormat"]


class PromptFormat(Protocol):
    """How requests become prompts. ``prefix`` is equal for all agents of a step."""

    chat: bool
    """Whether prompts are user messages for a chat template, rather than plain text."""
    never_in_actions: tuple[str, ...]
    """Tokens that no action may contain: tags, and the phrases of a written mean field."""

    def summary_grammar(self, language: str) -> Grammar | None:
        """The form that a written mean field is held to; ``None``: whatever the model writes."""
        ...

    def policy_prefix(
        self, topic: str, notices: Sequence[str], mean_field: str, language: str
    ) -> str:
        """The part of a policy prompt that the agents of a step share."""
        ...

    def policy_suffix(self, state: str, language: str, opinion: str = "") -> str:
        """The part of a policy prompt that is an agent's own, up to the action.

        ``opinion`` is what this person thinks so far, where that is kept.
        """
        ...

    def summary_prompt(self, request: SummaryRequest) -> str:
        """Ask for m_{t+1} given m_t and the latest actions."""
        ...

    def prior_prompt(self, topic: str, language: str) -> str:
        """Ask for a mean field from the topic alone: the prior r(m) of IB-Tune."""
        ...

    def policy_prompt(self, request: ActionRequest) -> str:
        """The whole prompt of one agent."""
        ...

    def persona_prompt(self, request: ActionRequest, persona: str, exemplar: str) -> str:
        """The prompt of one agent who reacts in the manner of a persona and of one reaction.

        It has no mean field. The agent's own state, where it is known, stands beside the persona;
        an exemplar ``""`` is a repost without words.
        """
        ...
