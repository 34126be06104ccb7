"""What tokens of a served model cost."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from mfenv.errors import MfenvError

__all__ = ["Prices", "add_prices"]

_KINDS = ("prompt", "completion")


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a million tokens, in the person's currency; ``None`` where not given."""

    prompt: float | None
    completion: float | None

    def __post_init__(self) -> None:
        if any(p is not None and p < 0 for p in (self.prompt, self.completion)):
            raise MfenvError("a price below 0 is not allowed; allowed: 0 or more")

    @classmethod
    def of(cls, args: argparse.Namespace) -> Prices:
        """The prices that a command was given. Raises ``MfenvError`` for one below 0."""
        return cls(args.prompt_price, args.completion_price)

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """What the tokens cost; ``None`` unless both prices are known."""
        if self.prompt is None or self.completion is None:
            return None
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


def add_prices(parser: argparse.ArgumentParser) -> None:
    """Declare ``--prompt-price`` and ``--completion-price``."""
    for kind in _KINDS:
        parser.add_argument(
            f"--{kind}-price",
            type=float,
            metavar="PRICE",
            help=f"of a million {kind} tokens of a served model, in your currency",
        )
