"""What one step of a population leaves behind, the same in every tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mfenv.events.event import Event
from mfenv.interventions import Intervention
from mfenv.labels import Labels

__all__ = ["Dynamics", "StepRecord"]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: who acted, what they did, and what the population looked like after it.

    ``distribution`` counts the agents' own reactions only; what a planner planted is left out.
    """

    step: int  # 0 is the first step after the source post, warm-up included
    warmup: bool
    agents: NDArray[np.int64]  # (n,) agent k of an event is the author of its post k + 1
    texts: Sequence[str]  # (n,) actions; a planted one replaces its agent's own
    labels: Labels  # (n, 8)
    planted: NDArray[np.bool_]  # (n,)
    distribution: NDArray[np.float64]  # (23,) label shares of the reactions that are not planted
    perceived: NDArray[np.float64]  # (23,) moving average of what reached the mean field
    mean_field: str  # m_{t+1}
    activity: NDArray[np.float64]  # (6,) running interventions during this step
    intervention: Intervention
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompts: Sequence[
        str
    ] = ()  # (n,) what the policy model was given; "" for what it did not write
    summary_prompt: str = ""  # what the mean-field model was given
    opinions: NDArray[np.int8] | None = None  # (n,) what they think, where that is kept
    candidates: NDArray[np.int64] | None = None  # (23,) label counts of all that was written, where
    # the policy model writes several reactions for an agent and one of them is chosen
    counted: int | None = None  # reactions that are not planted, where they are only counted

    @property
    def own(self) -> int:
        """How many reactions are not planted."""
        return int((~self.planted).sum()) if self.counted is None else self.counted


class Dynamics(Protocol):
    """A tier: a population that advances by one batch a step (LLM, society or surrogate)."""

    @property
    def event(self) -> Event:
        """The event that is played."""
        ...

    @property
    def step_index(self) -> int:
        """Index of the next step, warm-up included."""
        ...

    @property
    def horizon(self) -> int:
        """Rollout steps of an episode in all, warm-up excluded."""
        ...

    @property
    def mean_field(self) -> str:
        """The current mean field, what the next agents read."""
        ...

    @property
    def distribution(self) -> NDArray[np.float64]:
        """Label shares ``(23,)`` of the latest step."""
        ...

    @property
    def perceived(self) -> NDArray[np.float64]:
        """Moving average ``(23,)`` of what reached the mean field."""
        ...

    @property
    def activity(self) -> NDArray[np.float64]:
        """Running interventions ``(6,)`` during the latest step."""
        ...

    def reset(self, event: Event, seed: int) -> list[StepRecord]:
        """Start an event: play its warm-up from the real posts and return those steps."""
        ...

    def step(self, intervention: Intervention) -> StepRecord:
        """Advance the rollout by one batch."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Everything that :meth:`restore` needs, JSON-able apart from arrays."""
        ...

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot of the same event."""
        ...

    def fork(self) -> Self:
        """An independent copy that sees the same noise from here on."""
        ...
