"""The surrogates that come with mfenv, by name (entry point group ``mfenv.surrogates``)."""

from __future__ import annotations

from pathlib import Path

from mfenv.dynamics.surrogate import SurrogateModel, load_surrogate

__all__ = ["WEIGHTS", "embedded_en", "society", "weibo_s"]

WEIGHTS = Path(__file__).resolve().parent / "weights"


def embedded_en() -> SurrogateModel:
    """Fitted to episodes of the language-model tier with the backbone ``embedded-en``."""
    return load_surrogate(WEIGHTS / "surrogate-embedded-en")


def society() -> SurrogateModel:
    """Fitted to episodes of the synthetic society."""
    return load_surrogate(WEIGHTS / "surrogate-society")


def weibo_s() -> SurrogateModel:
    """Fitted to real Weibo events; answers to statements are those to natural refutations."""
    return load_surrogate(WEIGHTS / "surrogate-weibo-s")
