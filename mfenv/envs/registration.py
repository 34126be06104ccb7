"""Registers the environments with Gymnasium and PettingZoo."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium

__all__ = [
    "POPULATION",
    "SOCIAL",
    "SOCIETY",
    "SURROGATE",
    "TEXT",
    "register_all",
    "register_pettingzoo",
]

SOCIAL = "MFLLM-Social-v0"
SOCIETY = "MFLLM-Society-v0"
SURROGATE = "MFLLM-Surrogate-v0"
TEXT = "MFLLM-Social-Text-v0"
POPULATION = "MFLLM-Population-v0"

_GYMNASIUM: dict[str, dict[str, Any]] = {
    SOCIAL: {},
    SOCIETY: {"dynamics": "society"},
    SURROGATE: {"dynamics": "surrogate"},
}


def register_all() -> None:
    """Register every environment; a second call changes nothing.

    PettingZoo's part waits until PettingZoo is imported, since importing it changes the process's
    environment variables: importing ``mfenv`` after ``pettingzoo``, or ``mfenv.envs.population``
    at any time, registers it.
    """
    for id_, kwargs in _GYMNASIUM.items():
        if id_ not in gymnasium.registry:
            gymnasium.register(
                id_,
                entry_point="mfenv.envs.social:SocialEnv",
                vector_entry_point="mfenv.envs.social_vector:SocialVectorEnv",
                kwargs=kwargs,
            )
    if TEXT not in gymnasium.registry:
        gymnasium.register(TEXT, entry_point="mfenv.envs.social_text:SocialTextEnv")
    if "pettingzoo" in sys.modules:
        register_pettingzoo()


def register_pettingzoo() -> None:
    """Register the population with PettingZoo, parallel and AEC; a second call changes nothing."""
    import pettingzoo

    for kind, registry, entry in (
        ("parallel", pettingzoo.parallel_registry, "mfenv.envs.population:parallel_env"),
        ("aec", pettingzoo.aec_registry, "mfenv.envs.population:env"),
    ):
        if POPULATION not in registry:
            pettingzoo.register(kind, POPULATION, entry)
