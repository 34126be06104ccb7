"""What each intervention does to the society: ``python -m mfenv.events.synthetic.effects``.

Every world is run with and without the intervention under the same noise; the effect is the
difference of the agents' own reactions, averaged over worlds, with a 95% interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfenv.dynamics.society import initial_state, society_step, worlds_of
from mfenv.events.event import Event
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.interventions import N_ACTIONS, action_name
from mfenv.labels import NAMES

__all__ = ["MEASURED", "Effects", "intervention_effects", "main"]

MEASURED: tuple[str, ...] = (
    "belief/believe",
    "rumor/spread",
    "behavior/share",
    "stance/support",
    "stance/oppose",
    "sentiment_state/calm",
)
"""Shares that the table shows."""


@dataclass(frozen=True, slots=True)
class Effects:
    """Change of label shares for each flat action, averaged over worlds and steps."""

    mean: NDArray[np.float64]  # (19, 23)
    half_width: NDArray[np.float64]  # (19, 23) of the 95% interval


def intervention_effects(
    events: list[Event], *, steps: int = 6, sustained: bool = True, seed: int = 0
) -> Effects:
    """Effects over ``steps`` steps of an action done at each of them, or only at the first."""
    worlds = worlds_of(events, [seed + i for i in range(len(events))])
    paths = []
    for action in range(N_ACTIONS):
        state = initial_state(worlds, events)
        own = []
        for t in range(steps):
            acting = action if sustained or t == 0 else 0
            state, record = society_step(worlds, state, np.full(len(events), acting))
            own.append(record.distribution)
        paths.append(np.mean(own, axis=0))
    difference = np.stack(paths) - paths[0]
    return Effects(
        difference.mean(axis=1),
        1.96 * difference.std(axis=1, ddof=1) / np.sqrt(len(events)),
    )


def main() -> None:
    """Print the effects of sustained and of single interventions as Markdown tables."""
    events = SyntheticSociety(1).events(420)
    index = [NAMES.index(name) for name in MEASURED]
    for sustained in (True, False):
        effects = intervention_effects(events, sustained=sustained)
        print(f"\n{'At each of 6 steps' if sustained else 'Once, mean over 6 steps'}:\n")
        print("| intervention | " + " | ".join(MEASURED) + " |")
        print("|---" * (len(MEASURED) + 1) + "|")
        for action in range(1, N_ACTIONS):
            cells = (
                f"{effects.mean[action, i]:+.3f} ± {effects.half_width[action, i]:.3f}"
                for i in index
            )
            print(f"| {action_name(action)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
