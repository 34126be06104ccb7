"""What OpenAI-compatible servers say, and what of it can be used. Pure functions, no network."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from agents.backbones.base import Generation, Score
from agents.backbones.retries import TemporaryError

__all__ = [
    "read_chat",
    "read_completion",
    "read_echo",
    "redacted",
    "rejected_fields",
    "retry_after",
    "words",
]

_THINKING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_OPEN, _CLOSE = re.compile(r"<think(?:ing)?>"), re.compile(r".*</think(?:ing)?>", re.DOTALL)
_KEY = re.compile(r"\b(?:sk|pk|rk|gsk|hf|key)[-_][\w*.-]{6,}|(?i:bearer)\s+\S+")
_SAID = 300  # characters of a server's message that are shown


# -- answers -----------------------------------------------------------------------------------


def read_chat(body: bytes) -> Generation:
    """The text of a chat completion, without "thinking".

    An empty text is an answer only if the model said that it was finished and the server counted
    tokens for it: a person who shares without words. Raises ``TemporaryError`` for everything
    that is not one whole answer.
    """
    answer, choice = _only_choice(body)
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    return _generation(answer, choice, text, thinking=True)


def read_completion(body: bytes) -> Generation:
    """The text of a (plain) completion; as :func:`read_chat`, but nothing is taken out of it."""
    answer, choice = _only_choice(body)
    return _generation(answer, choice, choice.get("text"), thinking=False)


def read_echo(body: bytes, prompt: str, completion: str) -> Score | None:
    """Log-probability (nats) of a completion from an echo of it, its prompt before it.

    A token that begins in the prompt and ends in the completion counts as the completion's.
    ``None`` where the server gave no log-probabilities of what it was given; ``TemporaryError``
    where what it gave is broken.
    """
    answer, choice = _only_choice(body)
    table = choice.get("logprobs")
    if not isinstance(table, dict):
        return None
    values, offsets = table.get("token_logprobs"), table.get("text_offset")
    if not isinstance(values, list) or not isinstance(offsets, list) or len(values) < 2:
        return None
    if len(values) != len(offsets) or not all(isinstance(o, int) for o in offsets):
        raise TemporaryError("log-probabilities of the wrong length", unusable=True)
    given = _tokens(answer, "prompt_tokens") or len(values) - 1  # one token was written
    if given > len(values) or offsets[given - 1] < len(prompt) - 1 - len(completion):
        return None
    # Some servers count a token at the beginning that is not in the text.
    shift = offsets[given] - len(prompt) - len(completion) if given < len(offsets) else 0
    if completion and offsets[given - 1] < len(prompt) + shift and given < 2:
        return None
    begin = len(prompt) + shift
    ends = [*offsets[1:given], len(prompt) + len(completion) + shift]
    chosen = [v for v, end in zip(values[:given], ends, strict=True) if end > begin]
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in chosen):
        raise TemporaryError("a log-probability that is no number", unusable=True)
    return Score(float(sum(chosen)), len(chosen))


def _only_choice(body: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        answer = json.loads(body)
    except ValueError:
        what = "empty answer" if not body.strip() else "answer that is no whole JSON"
        raise TemporaryError(what, unusable=True) from None
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        error = answer.get("error") if isinstance(answer, dict) else None
        said = f": {words(error)}" if error else ""
        count = len(choices) if isinstance(choices, list) else 0
        raise TemporaryError(f"answer with {count} choices in place of 1{said}", unusable=True)
    return answer, choices[0]


def _generation(
    answer: Mapping[str, Any], choice: Mapping[str, Any], text: Any, *, thinking: bool
) -> Generation:
    reason = choice.get("finish_reason")
    if not isinstance(text, str):
        raise TemporaryError(f"answer without a text (it ended by {reason!r})", unusable=True)
    if reason not in ("stop", "length", "eos", None):
        raise TemporaryError(f"answer that ended by {reason!r}", unusable=True)
    if thinking:
        text = _without_thinking(text)
    completion_tokens = _tokens(answer, "completion_tokens")
    if not text.strip() and not (reason == "stop" and completion_tokens):
        raise TemporaryError(f"empty answer (it ended by {reason!r})", unusable=True)
    # Bytes that spell no character, as at the end of a text that was cut.
    text = text.replace("\ufffd", "")
    return Generation(text, _tokens(answer, "prompt_tokens"), completion_tokens)


def _without_thinking(text: str) -> str:
    # A template may have opened the tag, so that the answer only closes it.
    answer = _CLOSE.sub("", _THINKING.sub("", text))
    if _OPEN.search(answer):
        raise TemporaryError(
            "answer that is all thinking (MFENV_OPENAI_THINKING_TOKENS gives it room)",
            unusable=True,
        )
    return answer if answer == text else answer.strip()


def _tokens(answer: Mapping[str, Any], name: str) -> int:
    usage = answer.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count > 0 else 0


# -- refusals ----------------------------------------------------------------------------------


def rejected_fields(error: Any, sent: Collection[str]) -> set[str]:
    """Which of the fields that were sent a server names in its refusal (HTTP 400 or 422).

    Fields that it names as such (``param``, ``loc``) are believed before words of its message.
    """
    named = {name for name in _named(error) if name in sent}
    if named:
        return named
    text = words(error, 2000)
    return {name for name in sent if re.search(rf"\b{re.escape(name)}\b", text)}


def _named(error: Any) -> Iterator[str]:
    if isinstance(error, list):
        for item in error:
            yield from _named(item)
    elif isinstance(error, dict):
        param, loc = error.get("param"), error.get("loc")
        if isinstance(param, str):
            yield re.split(r"[.\[]", param)[0]
        if isinstance(loc, list):
            yield from (x for x in loc if isinstance(x, str))
        for name in ("error", "detail", "message", "errors"):
            yield from _named(error.get(name))


def words(error: Any, most: int = _SAID) -> str:
    """The message in a server's answer, as one line."""
    if isinstance(error, dict):
        for name in ("message", "detail", "error", "msg"):
            if error.get(name):
                return words(error[name], most)
        error = json.dumps(error, ensure_ascii=False)
    elif isinstance(error, list):
        return "; ".join(words(x, most) for x in error)[:most]
    return " ".join(str(error or "").split())[:most]


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a server wants to be left alone (``Retry-After``, in seconds or as a date).

    A date is compared with the answer's own ``Date``, so that clocks need not agree; without one
    with ``now``.
    """
    exact = headers.get("retry-after-ms", "")
    if re.fullmatch(r"\d{1,9}(\.\d*)?", exact):
        return float(exact) / 1000
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d*)?", value):
        return float(value)
    when = _date(value)
    if when is None:
        return None
    since = _date(headers.get("date", "")) or now or datetime.now(UTC)
    return max(0.0, (when - since).total_seconds())


def _date(text: str) -> datetime | None:
    """A date of HTTP; ``None`` for anything else."""
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


def redacted(text: str, *secrets: str) -> str:
    """A message without keys: a server may repeat what it was sent."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "[key]")
    return _KEY.sub("[key]", text)
