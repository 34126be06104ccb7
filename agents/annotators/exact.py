"""The annotator of synthetic events: the grammar's own labels, else the trained classifier."""

from __future__ import annotations

from agents.annotators import classifier
from mfenv.events.synthetic.annotator import ExactAnnotator

__all__ = ["load"]


def load() -> ExactAnnotator:
    """Exact where the grammar can have written a text; the shipped classifier for the rest."""
    return ExactAnnotator(classifier.load())
