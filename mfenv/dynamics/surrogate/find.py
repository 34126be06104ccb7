"""Surrogates by name: one that a package registers, or a folder."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from mfenv import plugins
from mfenv.dynamics.surrogate.model import SurrogateModel, load_surrogate
from mfenv.errors import MfenvError

__all__ = ["GROUP", "build_surrogate", "check_surrogate"]

GROUP = "mfenv.surrogates"


def check_surrogate(name: str) -> None:
    """Raise ``MfenvError`` with the known names where ``name`` is neither one nor a folder."""
    known = plugins.names(GROUP)
    if name not in known and not Path(name).is_dir():
        raise MfenvError(
            f"unknown surrogate {name!r}; allowed: {', '.join(known) or 'none is registered'}, "
            f"or a folder that mfenv train surrogate wrote"
        )


@lru_cache(maxsize=8)
def build_surrogate(name: str) -> SurrogateModel:
    """The surrogate of a registered name, or in a folder; equal names give the same one."""
    check_surrogate(name)
    if name in plugins.names(GROUP):
        model: SurrogateModel = plugins.load(GROUP, name)()
        return model
    return load_surrogate(name)
