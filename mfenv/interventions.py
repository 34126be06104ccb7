"""What a planner can do to a population: kinds, intensities, costs, and how long they last."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COSTS",
    "DECAY",
    "INTENSITIES",
    "KINDS",
    "NONE",
    "N_ACTIONS",
    "Intervention",
    "Kind",
    "action_name",
    "decode_action",
    "encode_action",
    "intervention_name",
    "level",
    "next_activity",
]


class Kind(IntEnum):
    """The kinds of intervention, in the order of the action space and of activity vectors."""

    STATEMENT = 0  # broadcast an official statement that contradicts the claim
    FACT_CHECK = 1  # put a fact-check label on the topic
    SEED = 2  # seed sceptical reactions through agents (the paper's intervention)
    FRICTION = 3  # slow down sharing
    AMPLIFY_SUPPORT = 4  # show the mean field more of the supporting reactions
    AMPLIFY_OPPOSE = 5  # show the mean field more of the opposing reactions


KINDS: tuple[str, ...] = tuple(k.name.lower() for k in Kind)
INTENSITIES: tuple[str, ...] = ("low", "medium", "high")
STRENGTHS: tuple[float, ...] = (1 / 3, 2 / 3, 1.0)
N_ACTIONS = 1 + len(KINDS) * len(INTENSITIES)
"""Size of the flat action space: none, then kinds × intensities."""

COSTS: NDArray[np.float64] = np.array([3.0, 2.0, 2.0, 1.5, 1.0, 1.0])
"""Cost of each kind at full strength, in budget units; intensities scale it linearly."""

DECAY: NDArray[np.float64] = np.array([0.70, 0.90, 0.0, 0.60, 0.50, 0.50])
"""Factor by which a running intervention's activity falls each step. Seeding acts once."""

_FLOOR = 0.1  # activity below this has ended
_PRICES = [[float(cost * strength) for strength in STRENGTHS] for cost in COSTS]


@dataclass(frozen=True, slots=True)
class Intervention:
    """One intervention. ``kind`` None is "do nothing". ``message`` replaces the default wording."""

    kind: Kind | None = None
    intensity: int = 0  # index into INTENSITIES
    message: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.intensity < len(INTENSITIES):
            allowed = ", ".join(f"{i} ({name})" for i, name in enumerate(INTENSITIES))
            raise ValueError(f"intensity {self.intensity!r} is not allowed; allowed: {allowed}")

    @property
    def strength(self) -> float:
        """1/3, 2/3 or 1; 0 for none."""
        return 0.0 if self.kind is None else STRENGTHS[self.intensity]

    @property
    def cost(self) -> float:
        """Budget units that this intervention draws."""
        return 0.0 if self.kind is None else _PRICES[self.kind][self.intensity]


NONE = Intervention()

_DECODED = (
    NONE,
    *(Intervention(kind, intensity) for kind in Kind for intensity in range(len(INTENSITIES))),
)


def decode_action(action: int) -> Intervention:
    """Flat action → intervention: 0 is none, ``1 + kind * 3 + intensity`` the rest."""
    action = int(action)
    if not 0 <= action < N_ACTIONS:
        raise ValueError(f"action {action} is not allowed; allowed: 0 to {N_ACTIONS - 1}")
    return _DECODED[action]


def encode_action(intervention: Intervention) -> int:
    """Intervention → flat action, the inverse of :func:`decode_action`."""
    if intervention.kind is None:
        return 0
    return 1 + int(intervention.kind) * len(INTENSITIES) + intervention.intensity


_NAMES = ("none", *(f"{kind}/{intensity}" for kind in KINDS for intensity in INTENSITIES))


def action_name(action: int) -> str:
    """Name of a flat action, such as ``"none"`` or ``"fact_check/high"``."""
    decode_action(action)  # says what is allowed
    return _NAMES[int(action)]


def intervention_name(intervention: Intervention) -> str:
    """Name of an intervention, as its flat action's."""
    if intervention.kind is None:
        return _NAMES[0]
    return _NAMES[1 + intervention.kind * len(INTENSITIES) + intervention.intensity]


def next_activity(activity: NDArray[np.float64], intervention: Intervention) -> NDArray[np.float64]:
    """Activity ``(6,)`` of the next step: what runs decays, what is new has its strength."""
    result = activity * DECAY
    result[result < _FLOOR] = 0.0
    if intervention.kind is not None:
        result[intervention.kind] = max(result[intervention.kind], intervention.strength)
    return result


def level(activity: float) -> int | None:
    """Intensity index nearest to a running activity, or ``None`` where nothing runs."""
    if activity < _FLOOR:
        return None
    return int(np.argmin(np.abs(np.asarray(STRENGTHS) - activity)))
