"""Light mean-field models: pure code, no language model, no tokens.

``CountedMeanField`` counts; the others are the baselines of the MF-LLM paper (arXiv 2504.21582),
which put single reactions, or nothing, in the place of a summary.
"""

from __future__ import annotations

from collections.abc import Sequence

from mfenv.dynamics.mean_field_text import render, telling
from mfenv.dynamics.models import Reaction, SummaryRequest, SummaryResult

__all__ = ["CountedMeanField", "NoMeanField", "PopularMeanField", "RecentMeanField"]

SHOWN = 5
"""Reactions that the Recent and Popular baselines show."""

WINDOW = 30
"""Latest reactions that the Popular baseline chooses from."""


class CountedMeanField:
    """Writes down the perceived shares and the most telling reactions of the batch."""

    def summarise(self, requests: Sequence[SummaryRequest]) -> list[SummaryResult]:
        """One mean field a request."""
        return [
            SummaryResult(render(r.perceived, telling(r.reactions), r.language)) for r in requests
        ]


class NoMeanField:
    """The State baseline: agents see the topic and their own state only."""

    def summarise(self, requests: Sequence[SummaryRequest]) -> list[SummaryResult]:
        """An empty mean field for every request."""
        return [SummaryResult("") for _ in requests]


class RecentMeanField:
    """The Recent baseline: the last five reactions that have words, oldest first."""

    def summarise(self, requests: Sequence[SummaryRequest]) -> list[SummaryResult]:
        """One mean field a request."""
        return [
            SummaryResult(render(None, [x.text for x in _spoken(r)[-SHOWN:]], r.language))
            for r in requests
        ]


class PopularMeanField:
    """The Popular baseline: of the last thirty reactions, the five most popular with words.

    Most popular first; of equally popular ones the more recent first.
    """

    def summarise(self, requests: Sequence[SummaryRequest]) -> list[SummaryResult]:
        """One mean field a request."""
        return [
            SummaryResult(render(None, [x.text for x in _most_popular(r)], r.language))
            for r in requests
        ]


def _spoken(request: SummaryRequest) -> list[Reaction]:
    """The latest reactions with words, oldest first."""
    latest = (*request.history, *request.reactions)[-WINDOW:]
    return [r for r in latest if r.text.strip()]


def _most_popular(request: SummaryRequest) -> list[Reaction]:
    newest_first = _spoken(request)[::-1]
    return sorted(newest_first, key=lambda r: -r.popularity)[:SHOWN]
