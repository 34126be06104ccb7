"""The small backbones that come with the package."""

from __future__ import annotations

from pathlib import Path

from agents.backbones.hugging_face import HuggingFaceBackbone
from mfenv.errors import MfenvError

__all__ = ["WEIGHTS", "embedded_en", "embedded_en_xs", "weibo_s"]

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


def _shipped(name: str) -> HuggingFaceBackbone:
    path = WEIGHTS / name
    if not (path / "model.safetensors").exists():
        raise MfenvError(
            f"the weights of {name!r} are not installed at agents/weights/{name}; "
            f"reinstall mfenv, or train them: mfenv train backbone {name}"
        )
    return HuggingFaceBackbone.load(path, name=name)


def embedded_en() -> HuggingFaceBackbone:
    """English, trained on the synthetic society. The default everywhere."""
    return _shipped("embedded-en")


def embedded_en_xs() -> HuggingFaceBackbone:
    """English, a fifth of the size of ``embedded-en``, trained on the synthetic society."""
    return _shipped("embedded-en-xs")


def weibo_s() -> HuggingFaceBackbone:
    """Chinese, trained on real Weibo reactions (train split)."""
    return _shipped("weibo-s")
