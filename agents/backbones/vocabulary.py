"""A closed vocabulary of words, characters and bytes that can spell every text.

A text is cut into words of Latin letters (with the space or @ before them), names in square
brackets (the emoticons of microblogs) and single characters. A word that is not in the vocabulary
is spelled in characters, a character that is not in it in the bytes of UTF-8. Nothing is lost or
changed: the pieces of a text, put together, are the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

__all__ = ["END", "Vocabulary", "pieces"]

END = 0
"""The token that ends a text."""

_BYTES = 1  # the token of byte 0
_WORDS = _BYTES + 256  # the first token that was learned
_PIECE = re.compile(r"\[[^\W_]{1,8}\]| ?@?[A-Za-z]+(?:'[a-z]+)?|.", re.DOTALL)


def pieces(text: str) -> list[str]:
    """The words and characters of a text, in order."""
    return _PIECE.findall(text)


class Vocabulary:
    """Tokens: the end of a text, the 256 bytes, and the words and characters that were learned."""

    def __init__(self, words: Sequence[str]) -> None:
        """Take words and characters, each once; ``ValueError`` where they are anything else."""
        if len(set(words)) != len(words) or not all(isinstance(w, str) and w for w in words):
            raise ValueError("words must be texts, each once")
        self.words = tuple(words)
        self.ids = {w: _WORDS + k for k, w in enumerate(words)}

    def __len__(self) -> int:
        """The number V of tokens."""
        return _WORDS + len(self.words)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without its end."""
        result = []
        for piece in pieces(text):
            known = self.ids.get(piece)
            if known is not None:
                result.append(known)
            else:
                for character in piece:
                    result += self._spell(character)
        return result

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids. Bytes that spell no character are dropped, ends too."""
        parts = []
        for is_byte, run in groupby((t for t in tokens if t != END), lambda t: t < _WORDS):
            if is_byte:
                parts.append(bytes(t - _BYTES for t in run).decode("utf-8", "ignore"))
            else:
                parts += [self.words[t - _WORDS] for t in run]
        return "".join(parts)

    def _spell(self, character: str) -> list[int]:
        known = self.ids.get(character)
        if known is not None:
            return [known]
        # Half of a surrogate pair is no character, but it can stand in a string.
        return [_BYTES + b for b in character.encode("utf-8", "surrogatepass")]
