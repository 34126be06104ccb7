"""Holding generated text to the form of a mean field: which tokens may come next.

A :class:`mfenv.dynamics.mean_field_text.Grammar`, which speaks of text, is compiled for one
tokenizer into a small automaton over token ids. A row's state is one integer, so a batch advances
by indexing alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mfenv.dynamics.mean_field_text import Grammar

__all__ = ["TokenGrammar"]

START = 0


class TokenGrammar:
    """States, the tokens that each allows, and where a token leads; made by :meth:`compile`."""

    def __init__(
        self,
        allowed: torch.Tensor,
        mask_of: torch.Tensor,
        moves: torch.Tensor,
        ordered: torch.Tensor,
        counting: torch.Tensor,
        characters: torch.Tensor,
    ) -> None:
        """``allowed (M, V)`` bool masks, ``mask_of (S,)`` of each state, ``moves (S, 3)``.

        From state s token ``moves[s, 0]`` leads to state ``moves[s, 1]``, any other to
        ``moves[s, 2]``, or in a ``counting (S,)`` state as many states on as the token has
        ``characters (V,)``. ``ordered (S,)``: whether larger tokens state larger shares there.
        """
        self._forbidden, self._mask_of, self._moves = ~allowed, mask_of, moves
        self._ordered, self._counting, self._characters = ordered, counting, characters

    @classmethod
    def compile(
        cls, grammar: Grammar, tokenizer: Any, ends: Sequence[int], vocabulary: int
    ) -> TokenGrammar | None:
        """The automaton for a tokenizer; ``None`` if a phrase is not one token of it.

        ``vocabulary`` is the width V of the model's logits, ``ends`` are its end tokens.
        """
        known = tokenizer.get_vocab()
        heads = [head for head, _ in grammar.lines]
        choices = [p for _, slots in grammar.lines for slot in slots for p in slot]
        fixed = [*grammar.quotes, *heads, *choices]
        if any(p not in known for p in fixed):
            return None
        opening, closing = (known[q] for q in grammar.quotes)
        words = torch.ones(vocabulary, dtype=torch.bool)
        words[len(tokenizer) :] = False
        words[[*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder]] = False
        words[[known[p] for p in fixed]] = False

        masks: list[torch.Tensor] = []
        mask_of: list[int] = []
        moves: list[tuple[int, int, int]] = []
        ordered: list[bool] = []
        counting: list[bool] = []

        def only(*tokens: int) -> torch.Tensor:
            mask = torch.zeros(vocabulary, dtype=torch.bool)
            mask[list(tokens)] = True
            return mask

        def add(mask: torch.Tensor, token: int, then: int, other: int) -> None:
            place = next((k for k, m in enumerate(masks) if torch.equal(m, mask)), len(masks))
            if place == len(masks):
                masks.append(mask)
            mask_of.append(place)
            moves.append((token, then, other))
            ordered.append(False)
            counting.append(False)

        telling = list(tokenizer(grammar.telling, add_special_tokens=False).input_ids)
        first = known[heads[0]]
        # A byte counts as a character, and a final "…" may be of three.
        longest = grammar.characters + 3
        characters = torch.ones(vocabulary, dtype=torch.long)
        for k in range(len(tokenizer)):
            characters[k] = max(1, len(tokenizer.decode([k])))
        # Where each part begins: the header, each quotation, the lines.
        header = 1
        after_header = header + len(telling) - 1
        quotation = [after_header + k * (longest + 2) for k in range(grammar.quotations)]
        lines = quotation[-1] + longest + 2 + 1

        add(only(telling[0], first), first, lines, header)
        for k in range(1, len(telling)):
            add(only(telling[k]), -1, 0, header + k)
        for k, place in enumerate(quotation):
            # The first opens it; later ones may open or go on to the lines.
            add(only(opening) if k == 0 else only(opening, first), first, lines, place + 1)
            after = place + longest + 2
            for n in range(longest):
                inside = words & (characters <= longest - n)
                inside[closing] = n > 0
                add(inside, closing, after, place + 2 + n)
                counting[-1] = True
            add(only(closing), -1, 0, after)
        add(only(first), -1, 0, lines)
        for i, (head, slots) in enumerate(grammar.lines):
            if i:
                add(only(known[head]), -1, 0, len(moves) + 1)
            for slot in slots:
                tokens = [known[p] for p in slot]
                add(only(*tokens), -1, 0, len(moves) + 1)
                ordered[-1] = tokens == sorted(tokens)
        add(only(*ends), -1, 0, len(moves))
        return cls(
            torch.stack(masks),
            torch.tensor(mask_of),
            torch.tensor(moves),
            torch.tensor(ordered),
            torch.tensor(counting),
            characters,
        )

    @property
    def width(self) -> int:
        """The number V of tokens."""
        return int(self._forbidden.shape[1])

    def start(self, rows: int) -> torch.Tensor:
        """The state ``(rows,)`` before the first token."""
        return torch.full((rows,), START)

    def advance(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """States ``(b,)`` after tokens ``(b,)``."""
        moves = self._moves[states]
        on = torch.where(self._counting[states], states + self._characters[tokens], moves[:, 2])
        return torch.where(tokens == moves[:, 0], moves[:, 1], on)

    def states(self, tokens: torch.Tensor) -> torch.Tensor:
        """The states ``(b, n)`` in which rows of tokens ``(b, n)`` were written, from the first."""
        rows = tokens.cpu()
        result = torch.empty_like(rows)
        now = self.start(len(rows))
        for k in range(rows.shape[1]):
            result[:, k] = now
            now = self.advance(now, rows[:, k])
        return result

    def ordered(self, states: torch.Tensor) -> torch.Tensor:
        """Where a share is written next and larger tokens state larger ones, bool ``(b,)``."""
        return self._ordered[states]

    def forbid(self, logits: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Logits ``(b, V)`` with -inf for every token that the states ``(b,)`` do not allow."""
        forbidden = self._forbidden[self._mask_of[states]].to(logits.device)
        return logits.masked_fill(forbidden, -torch.inf)
