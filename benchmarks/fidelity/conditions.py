"""The grid of the benchmark: one core condition for all methods, and studies of one thing each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.fidelity.tracks import HORIZON
from mfenv.dynamics.process import ProcessSettings
from mfenv.errors import MfenvError

__all__ = ["CORE", "STUDIES", "Condition", "conditions"]

CORE = "core"


@dataclass(frozen=True, slots=True)
class Condition:
    """How a population is played, and by which methods."""

    name: str
    methods: tuple[str, ...]
    warmup: int = 50
    horizon: int = HORIZON
    batch: int = 16
    sampling: str = "ancestral"

    @property
    def process(self) -> ProcessSettings:
        """The process's own settings."""
        return ProcessSettings(self.warmup + self.horizon, self.batch, self.warmup)


STUDIES: dict[str, tuple[tuple[str, int | str], ...]] = {
    "warmup": (("warmup", 25), ("warmup", 100)),
    "sampling": (("sampling", "paper"),),
    "batch": (("batch", 8), ("batch", 32)),
}
"""One-at-a-time studies: the settings that differ from the core condition."""


def conditions(core: Condition, studies: Sequence[str], methods: Sequence[str]) -> list[Condition]:
    """The core condition and those of the studies, which ``methods`` play.

    Raises ``MfenvError`` for an unknown study.
    """
    result = [core]
    for study in studies:
        if study not in STUDIES:
            raise MfenvError(
                f"--studies {study!r} is not allowed; allowed: {', '.join(STUDIES)}, by commas"
            )
        for name, value in STUDIES[study]:
            settings = {
                "warmup": core.warmup,
                "horizon": core.horizon,
                "batch": core.batch,
                "sampling": core.sampling,
                name: value,
            }
            # The settings' types are those of the fields that STUDIES names.
            result.append(Condition(f"{name}={value}", tuple(methods), **settings))  # type: ignore[arg-type]
    return result
