"""What a model is asked: prompts for the policy, the mean field and its prior.

Two formats share one interface (:class:`PromptFormat`): :class:`TaggedPrompts` for the small models
of this project and :class:`ChatPrompts` for any instruction-tuned model. In both, the order is
topic → notices → mean field → state → instruction, so that the agents of a step share everything
up to the state. Topics, posts and profiles are untrusted data (:mod:`agents.prompts.untrusted`).
"""

from agents.prompts.chat import ChatPrompts, label_words
from agents.prompts.format import PromptFormat
from agents.prompts.tagged import (
    ACT,
    END,
    PAD,
    SPECIAL_TOKENS,
    PolicyParts,
    TaggedPrompts,
    policy_parts,
)
from agents.prompts.untrusted import REACTION_CHARACTERS, clip, neutralise

__all__ = [
    "ACT",
    "END",
    "PAD",
    "REACTION_CHARACTERS",
    "SPECIAL_TOKENS",
    "ChatPrompts",
    "PolicyParts",
    "PromptFormat",
    "TaggedPrompts",
    "clip",
    "label_words",
    "neutralise",
    "policy_parts",
]
