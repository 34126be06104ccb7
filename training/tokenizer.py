"""A small tokenizer for a small model, trained on a corpus without memorising its people.

Pieces that occur in fewer than ``min_events`` events are dropped (names, quirks of one thread);
what they spelled falls back to characters and bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agents.prompts import END, PAD, SPECIAL_TOKENS

__all__ = ["train_tokenizer"]

_BYTES = [f"<0x{b:02X}>" for b in range(256)]
_UNKNOWN = "<unk>"
_WORD = re.compile(r"▁?[^\W_]{1,16}")
_LEARNED_FROM = 50  # texts of each event that pieces are learned from; all of them are counted


def train_tokenizer(
    events: Sequence[Sequence[str]],
    *,
    vocabulary: int,
    phrases: Iterable[str] = (),
    min_events: int = 20,
) -> PreTrainedTokenizerFast:
    """Train a unigram tokenizer with byte fallback.

    Args:
        events: the texts of each event.
        vocabulary: number of learned pieces at most, bytes and added tokens not counted.
        phrases: fixed phrases that become one token each (the shares of a mean field).
        min_events: pieces that are used in fewer events than this are dropped.

    Returns a fast tokenizer with the tags of :mod:`agents.prompts` as special tokens.
    """
    split = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=True)
    draft = Tokenizer(models.Unigram())
    draft.pre_tokenizer = split
    trainer = trainers.UnigramTrainer(
        vocab_size=int(vocabulary * 1.3),
        unk_token=_UNKNOWN,
        special_tokens=[_UNKNOWN],
        max_piece_length=12,
        show_progress=False,
    )
    sample = (t for texts in events for t in texts[:_LEARNED_FROM])
    draft.train_from_iterator(sample, trainer=trainer)
    draft = _reproducible(draft, events)
    draft.pre_tokenizer = split
    used: Counter[str] = Counter()  # events in which a piece or word occurs
    words: Counter[str] = Counter()  # occurrences
    for texts in events:
        used.update({p for e in draft.encode_batch(list(texts)) for p in e.tokens})
        here = Counter(w for t in texts for w in _WORD.findall(t.replace(" ", "▁")))
        words.update(here)
        used.update(w for w in here if len(w) > 1)
    scores = _scores(draft)
    # The trainer takes its candidates from parts that different words share, so it misses whole
    # words of a small vocabulary: they are added with their own frequency.
    total = sum(words.values())
    for word, count in words.most_common(vocabulary):
        scores[word] = max(scores.get(word, -math.inf), math.log(count / total))
    kept = [(p, s) for p, s in scores.items() if used[p] >= min_events and p != _UNKNOWN]
    kept = sorted(kept, key=lambda x: (len(x[0]) > 1, -x[1], x[0]))[:vocabulary]
    lowest = min((s for _, s in kept), default=0.0)
    tokenizer = Tokenizer(
        models.Unigram(
            [(_UNKNOWN, lowest - 30.0), *((b, lowest - 20.0) for b in _BYTES), *kept],
            unk_id=0,
            byte_fallback=True,
        )
    )
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in phrases])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=_UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _scores(tokenizer: Tokenizer) -> dict[str, float]:
    return dict(json.loads(tokenizer.to_str())["model"]["vocab"])


def _reproducible(draft: Tokenizer, events: Sequence[Sequence[str]]) -> Tokenizer:
    """The same pieces with scores that do not depend on the trainer's hash order.

    The trainer sums in the random order of its hash maps (the last digits differ from run to run)
    and gives the characters that it did not learn falling scores in that order. Scores are
    rounded, and those of characters handed out again by frequency.
    """
    scores = {p: round(s, 4) for p, s in _scores(draft).items()}
    seen = Counter(c for texts in events for t in texts for c in t.replace(" ", "▁"))
    single = sorted((p for p in scores if len(p) == 1), key=lambda c: (-seen[c], c))
    falling = sorted((scores[c] for c in single), reverse=True)
    scores.update(zip(single, falling, strict=True))
    order = sorted(scores, key=lambda p: (p != _UNKNOWN, -scores[p], p))
    return Tokenizer(models.Unigram([(p, scores[p]) for p in order], unk_id=0))
