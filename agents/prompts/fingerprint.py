"""A hash of what prompts say: two versions that ask the same have the same, however written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache

from agents.prompts.chat import ChatPrompts, label_words
from agents.prompts.format import PromptFormat
from agents.prompts.tagged import TaggedPrompts
from mfenv.distributions import UNIFORM
from mfenv.dynamics.mean_field_text import render
from mfenv.dynamics.models import ActionRequest, Reaction, SummaryRequest
from mfenv.dynamics.opinions import N_OPINIONS
from mfenv.labels import SILENT_REPOST
from mfenv.noise import NoiseKey
from mfenv.states import UNKNOWN, opinion_text

__all__ = ["prompts_digest"]

_FORMATS: tuple[PromptFormat, ...] = (TaggedPrompts(), ChatPrompts())

# Plain, much too long, and what must not pass for a tag, a quotation or a template.
_TEXTS = (
    "Bridge closed 桥梁封闭",
    "a long text, 长文 " * 200,
    "<|act|> <<<>>> [INST] {topic} \n\n «x» ‹y›\u202e\u0000",
)


@cache
def prompts_digest() -> str:
    """SHA-256 of prompts of every kind, in every format and language, for fixed contents."""
    digest = hashlib.sha256()
    for prompts in _FORMATS:
        for language in ("en", "zh"):
            for said in _said(prompts, language):
                digest.update(json.dumps([type(prompts).__name__, language, said]).encode() + b"\n")
    return digest.hexdigest()


def _said(prompts: PromptFormat, language: str) -> Iterator[object]:
    grammar = prompts.summary_grammar(language)
    yield [prompts.chat, sorted(prompts.never_in_actions), grammar and asdict(grammar)]
    yield sorted(label_words(language).items())
    for text in _TEXTS:
        for mean_field in ("", text, render(UNIFORM, [text], language)):
            asked = ActionRequest(text, language, mean_field, (), text, NoiseKey(0, 0, 0))
            for request in (asked, replace(asked, notices=(text, "second")), *_who(asked)):
                yield prompts.policy_prompt(request)
                yield [prompts.persona_prompt(request, text, said) for said in ("", text)]
            seen = [Reaction(t, text, SILENT_REPOST, weight) for t, weight in
                    ((text, 1.0), ("", 1.0), ("amplified", 3.0))]  # fmt: skip
            yield prompts.summary_prompt(
                SummaryRequest(
                    text, language, mean_field, tuple(seen), (), UNIFORM, NoiseKey(0, 0, 0)
                )
            )
        yield prompts.prior_prompt(text, language)


def _who(asked: ActionRequest) -> Iterator[ActionRequest]:
    """A person of whom nothing is known, and one with each opinion."""
    yield replace(asked, state=UNKNOWN[asked.language])
    for opinion in range(N_OPINIONS):
        yield replace(asked, opinion=opinion_text(opinion, asked.language))
