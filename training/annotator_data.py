"""What the annotator is trained on: annotated reactions, unlabelled ones, and hidden cues."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from agents.annotators.ngrams import own_words
from agents.annotators.rules import silent_reposts
from mfenv.errors import MfenvError
from mfenv.labels import DIMENSIONS, Labels, encode

__all__ = [
    "CUES",
    "Annotated",
    "Cues",
    "Unlabelled",
    "hide_cues",
    "read_annotations",
    "read_unlabelled",
]


@dataclass(frozen=True, slots=True)
class Annotated:
    """Annotated reactions of one language; ``labels`` ``(n, 8)``, the other arrays ``(n,)``."""

    topics: list[str]
    texts: list[str]
    labels: Labels
    events: NDArray[np.int64]
    splits: NDArray[np.str_]

    def part(self, where: NDArray[np.bool_] | NDArray[np.int64]) -> Annotated:
        """Select reactions by a mask or by indices."""
        places = np.arange(len(self.texts))[where]
        return Annotated(
            [self.topics[i] for i in places],
            [self.texts[i] for i in places],
            self.labels[places],
            self.events[places],
            self.splits[places],
        )

    def of(self, *splits: str) -> Annotated:
        """Select the reactions of some splits."""
        return self.part(np.isin(self.splits, splits))


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """Distinct reactions with words of their own. ``family`` ``(n,)`` is a class that is known from
    elsewhere (a human stance; -1 unknown), ``doubtful`` ``(n,)`` whether the topic was ruled false
    or the thread is a rumour (1, 0; -1 unknown)."""

    topics: list[str]
    texts: list[str]
    family: NDArray[np.int64]
    doubtful: NDArray[np.int64]

    def part(self, places: NDArray[np.int64]) -> Unlabelled:
        """Select reactions by index."""
        return Unlabelled(
            [self.topics[i] for i in places],
            [self.texts[i] for i in places],
            self.family[places],
            self.doubtful[places],
        )


def _read(path: Path, columns: Sequence[str] | None = None) -> Any:
    if not path.is_file():
        raise MfenvError(f"{path}: no such file; --data names the folder that holds it")
    return pq.read_table(path, columns=list(columns) if columns else None)


def read_annotations(data: Path) -> dict[str, Annotated]:
    """Read ``data/annotations/annotations.parquet``; returns the reactions by language."""
    rows = _read(data / "annotations" / "annotations.parquet").to_pylist()
    events = np.unique([r["event_id"] for r in rows], return_inverse=True)[1]
    labels = np.array([encode({d.name: r[d.name] for d in DIMENSIONS}) for r in rows])
    every = Annotated(
        [r["topic"] for r in rows],
        [r["text"] for r in rows],
        labels,
        events.astype(np.int64),
        np.array([r["split"] for r in rows]),
    )
    language = np.array([r["lang"] for r in rows])
    return {x: every.part(language == x) for x in sorted(set(language))}


_STANCES = ("support", "deny", "query", "comment")


def read_unlabelled(data: Path, language: str) -> Unlabelled:
    """Read the training reactions of a language: Weibo's train split, or RumourEval's and PHEME."""
    if language == "zh":
        parts = [_weibo(data / "weibo" / "train.parquet")]
    else:
        parts = [
            _threads(data / "rumoureval" / "train.parquet"),
            _threads(data / "pheme" / "streams_rnr.parquet"),
        ]
    seen: set[tuple[str, str]] = set()
    kept: list[tuple[str, str, int, int]] = []
    for rows in parts:
        silent = silent_reposts([text for _, text, _, _ in rows])
        for row, skip in zip(rows, silent, strict=True):
            # A text counts once for each topic, so that stock phrases do not crowd the rest out.
            if not skip and (row[0], row[1]) not in seen:
                seen.add((row[0], row[1]))
                kept.append(row)
    topics, texts, family, doubtful = zip(*kept, strict=True)
    return Unlabelled(list(topics), list(texts), np.array(family), np.array(doubtful))


def _weibo(path: Path) -> list[tuple[str, str, int, int]]:
    table = _read(path, ("topic", "label", "posts"))
    posts = table["posts"].combine_chunks()
    texts = posts.flatten().field("text").to_pylist()
    offsets = posts.offsets.to_numpy()
    rows = []
    events = zip(table["topic"].to_pylist(), table["label"].to_pylist(), strict=True)
    for e, (topic, label) in enumerate(events):
        doubtful = int(label == "rumor")
        # The first post is the topic itself.
        for text in texts[offsets[e] + 1 : offsets[e + 1]]:
            if text:
                rows.append((topic, own_words(text), -1, doubtful))
    return rows


def _threads(path: Path) -> list[tuple[str, str, int, int]]:
    rows = []
    for event in _read(path, ("topic", "posts")).to_pylist():
        for post in event["posts"]:
            stance, rumour = post.get("stance"), post.get("in_rumour_thread")
            known = _STANCES.index(stance) if stance in _STANCES else -1
            doubtful = -1 if rumour is None else int(rumour)
            rows.append((event["topic"], post["text"], known, doubtful))
    return rows


CUES: Mapping[str, tuple[str, ...]] = {
    "zh": (
        r"[?？]",
        r"[!！]",
        r"谣言|造谣|辟谣|谣传|假的|真假|不信|求证|真相|忽悠|骗人|不可能|扯淡|属实|真的吗|真的么|胡说|瞎扯|别信",
        r"哈+|嘿嘿|嘻嘻",
        r"呵呵|切|哼|无语",
        r"心疼|可怜|难过|默哀|悲|哭|祈福|一路走好|安息|痛心|惨|泪",
        r"操|妈的|[tT][mM][dD]|他妈|傻[逼比B]|去死|畜生|无耻|垃圾|可恶|混蛋|王八|禽兽|人渣|尼玛|滚",
        r"怕|恐怖|吓|担心|危险|慎|小心|注意",
        r"太好|支持|顶|赞|加油|感动|美|棒|喜欢|爱|幸福|祝|好人",
        r"居然|竟然|天[啊哪呐]|我靠|卧槽|哇|神奇|难道|震惊",
        r"为什么|怎么|什么|吗|呢|谁|哪",
        r"转|扩散|收藏|马克|[mM]ark|围观|关注|学习|传递|告诉",
        r"不是|反对|错|凭什么|不要|别",
        r"中国|政府|国家|社会|党|体制|官",
    ),
    "en": (
        r"\?",
        r"!",
        r"\b(?:fake|false|hoax|rumou?rs?|not true|untrue|bullshit|lies?|lying|debunk\w*|unverified"
        r"|photoshop\w*|wrong|doubt)\b",
        r"\b(?:confirm\w*|source|proof|evidence|really|true|truth|verif\w+|link)\b",
        r"\b(?:fuck\w*|shit|idiots?|stupid|disgust\w*|scum|cowards?|hate|racis\w*|shame\w*|damn|ass"
        r"|dumb)\b",
        r"\b(?:rip|sad\w*|pray\w*|heart\w*|thoughts|condolences|tragic|tragedy|sorry|cry\w*"
        r"|horribl\w*)\b",
        r"\b(?:scary|scared|afraid|terrif\w+|worr\w+|fear\w*|safe|danger\w*|terror\w*)\b",
        r"\b(?:lol|lmao|haha\w*|love\w*|great|thanks?|awesome|good|hope|best|brave)\b",
        r"\b(?:wow|omg|unbelievable|shock\w*|wtf|insane|crazy|incredible)\b",
        r"\b(?:rt|via|breaking|watch|video|photos?|live|updates?|reports?|reported)\b",
        r"\b(?:why|how|what|who|where|when)\b",
        r"\b(?:not|no|never|n't|dont|don't|isn't|didn't|doesn't)\b",
        r"\b(?:police|cops?|officers?|muslims?|islam\w*|white|black|media|government)\b",
    ),
}
"""Words that tell something of a dimension: hidden from a text, they are asked for."""

_EMOTICON = re.compile(r"\[([^\[\]@<>\s]{1,8})\]")
_EMOTICON_CLASSES = 60


@dataclass(frozen=True, slots=True)
class Cues:
    """Texts with cues hidden. ``present`` ``(n, c)``: 1 the cue was there and is hidden, 0 it was
    not there, -1 it still shows (not asked for); the last column is :attr:`Unlabelled.doubtful`.
    ``family`` ``(n,)``: the emoticon that was hidden, or the known class; -1 none."""

    texts: list[str]
    present: NDArray[np.int8]
    family: NDArray[np.int64]
    n_families: int


def hide_cues(reactions: Unlabelled, language: str, rng: np.random.Generator) -> Cues:
    """Hide about half of the cues of each text, and the emoticons of two thirds of the texts."""
    patterns = [re.compile(p, re.IGNORECASE) for p in CUES[language]]
    found = Counter(e for t in reactions.texts for e in set(_EMOTICON.findall(t)))
    usual = found.most_common(_EMOTICON_CLASSES) if language == "zh" else []
    code = {name: i for i, (name, _) in enumerate(usual)}
    n = len(reactions.texts)
    family = reactions.family.copy()
    present = np.zeros((n, len(patterns) + 1), dtype=np.int8)
    present[:, -1] = reactions.doubtful
    hide = rng.random((n, len(patterns))) < 0.5
    hide_emoticons = rng.random(n) < 2 / 3
    texts = []
    for i, text in enumerate(reactions.texts):
        if code and hide_emoticons[i]:
            known = [code[e] for e in _EMOTICON.findall(text) if e in code]
            family[i] = known[0] if known else -1
            text = _EMOTICON.sub("", text)
        for j, pattern in enumerate(patterns):
            if pattern.search(text):
                present[i, j] = 1 if hide[i, j] else -1
                if hide[i, j]:
                    text = pattern.sub("", text)
        texts.append(text)
    return Cues(texts, present, family, max(len(code), len(_STANCES)))
