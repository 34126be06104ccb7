"""What running interventions show to every agent, as text.

Only three kinds are shown: statements, fact-check labels and friction. Each has one fixed text
per domain or language and level, so that the strength which an agent reads is exactly the one
that the society responds to.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mfenv.interventions import Kind, level
from mfenv.noise import uniform

__all__ = ["VISIBLE", "all_notices", "notice_texts", "planted_texts"]

VISIBLE: tuple[Kind, ...] = (Kind.STATEMENT, Kind.FACT_CHECK, Kind.FRICTION)
"""Kinds that agents can read of."""

_SOURCES = {
    "en": {
        None: "The authorities",
        "Crime": "The police",
        "Culture": "The arts council",
        "Health": "The health office",
        "News": "The city council",
        "Politics": "The election office",
        "Sports": "The sports league",
        "Technology": "The safety agency",
    },
    "zh": {
        None: "有关部门",
        "Crime": "警方",
        "Culture": "文化部门",
        "Health": "卫生部门",
        "News": "市政府",
        "Politics": "选举部门",
        "Sports": "体育联盟",
        "Technology": "安全机构",
    },
}
_TEXTS: dict[str, dict[Kind, tuple[str, str, str]]] = {
    "en": {
        Kind.STATEMENT: (
            "{source} doubted the claim in a short note.",
            "{source} denied the claim in a statement.",
            "{source} firmly denied the claim with evidence on all channels.",
        ),
        Kind.FACT_CHECK: (
            "Small label: context is missing.",
            "Label: fact-checkers dispute this claim.",
            "Large label: fact-checkers rate this claim false.",
        ),
        Kind.FRICTION: (
            "Sharing asks once whether you read it.",
            "Sharing takes an extra minute.",
            "Sharing is mostly switched off for this topic.",
        ),
    },
    "zh": {
        Kind.STATEMENT: (
            "{source}发布简短说明，对此说法表示怀疑。",
            "{source}发表声明，否认此说法。",
            "{source}在各渠道出示证据，坚决否认此说法。",
        ),
        Kind.FACT_CHECK: (
            "小标签：缺少背景信息。",
            "标签：核查人员质疑此说法。",
            "醒目标签：核查结论为不实。",
        ),
        Kind.FRICTION: (
            "转发前会询问一次是否已阅读。",
            "转发需要多等一分钟。",
            "此话题的转发基本关闭。",
        ),
    },
}
_PLANTED = {
    "en": (
        "I checked, and it is not good. This is false. That is on the record.",
        "I checked, and it is not good. There is no truth in it. The record shows it.",
        "On reflection, not good. This is a false claim. That is on the record.",
        "On reflection, not good. I do not buy it. The record shows it.",
    ),
    "zh": (
        "查过了，这是谣言，没有任何证据。",
        "官方记录里没有这回事，不要相信。",
        "事实不是这样，这个说法不成立。",
        "已有人核实，是假的。",
    ),
}
_DRAW = -2  # token of the noise key of a planted text


def _language(language: str) -> str:
    return "zh" if language == "zh" else "en"


def notice_texts(
    activity: ArrayLike,
    domain: str | None = None,
    language: str = "en",
    message: str | None = None,
) -> tuple[str, ...]:
    """The notices of what runs, activity ``(6,)``, in the order of the kinds.

    ``domain`` names who issues a statement (an unknown domain is "the authorities");
    ``message`` replaces the wording of a running statement.
    """
    language = _language(language)
    activity = np.asarray(activity, dtype=float)
    sources = _SOURCES[language]
    result = []
    for kind in VISIBLE:
        strength = level(float(activity[kind]))
        if strength is None:
            continue
        text = _TEXTS[language][kind][strength]
        if kind is Kind.STATEMENT and message is not None:
            text = " ".join(message.split())
        else:
            text = text.replace("{source}", sources.get(domain, sources[None]))
        result.append(text)
    return tuple(result)


def all_notices(language: str = "en") -> list[str]:
    """Every notice that :func:`notice_texts` can write in a language without a message."""
    language = _language(language)
    return [
        text.replace("{source}", source)
        for kind in VISIBLE
        for text in _TEXTS[language][kind]
        for source in (_SOURCES[language].values() if "{source}" in text else ("",))
    ]


def planted_texts(count: int, language: str, seed: int, step: int) -> tuple[str, ...]:
    """The texts of ``count`` planted reactions, drawn by keyed noise.

    The synthetic grammar reads the English ones as :data:`mfenv.dynamics.reach.PLANTED`.
    """
    choices = _PLANTED[_language(language)]
    draws = uniform(seed, np.arange(count), step, _DRAW)
    return tuple(choices[int(x * len(choices))] for x in draws)
