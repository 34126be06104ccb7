"""The archetypes of the synthetic society: how they respond, and what their profiles look like.

A profile hints at its archetype through the description, the numbers of followers and friends
and the verification; that is all an agent's state tells a language model of its character.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfenv.events.event import Profile

__all__ = ["ARCHETYPES", "MIXTURE", "Archetype", "profiles"]

N_PROFILE_DRAWS = 10
"""Uniforms that one profile takes."""


@dataclass(frozen=True, slots=True)
class Archetype:
    """One type of person. Weights are logits; trust is signed: below 0 a denial backfires."""

    name: str
    share: float  # of the population
    belief: float  # logit of believing, all else equal
    credulity: float  # how much a topic's credulity counts
    conformity: float  # how much the perceived population counts
    trust: float  # in authorities
    fact_trust: float  # in fact-check labels
    surge: float  # how much a rumour surge counts
    expertise: float  # how much scrutiny depends on the truth
    sharing: float  # logit of sharing
    objective: float  # logit of an objective tone
    support: float  # logit of support against neutral when believing
    oppose: float  # logit of opposition against neutral when doubting
    emotions: tuple[float, float, float, float, float, float]  # logits, order of the labels
    intents: tuple[float, float, float]  # logits: question, promotion, opinion
    followers: float  # median
    friends: float  # median
    activity: float  # median of reposts, comments and likes together
    verified: float  # probability
    descriptions: tuple[str, ...]


ARCHETYPES: tuple[Archetype, ...] = (
    Archetype(
        "enthusiast", 0.24, 0.55, 1.0, 1.25, 0.35, 0.6, 1.2, 0.0, 0.35, -0.6, 0.9, -0.3,
        (0.0, 0.0, 0.9, -0.5, -0.4, 0.5), (-0.6, 0.6, 0.2),
        150, 600, 300, 0.02,
        (
            "Loves trends and new things",
            "First to know, first to tell",
            "Here for the latest stories",
            "Online all day, sharing what I see",
            "Fan of everything viral",
            "Good news collector",
        ),
    ),
    Archetype(
        "sceptic", 0.16, -0.85, 0.8, 0.75, 0.45, 1.0, 0.4, 0.8, -0.7, 0.3, 0.1, 0.8,
        (0.2, 0.6, -0.8, -0.6, -0.6, 0.2), (0.9, -0.6, 0.5),
        220, 180, 60, 0.03,
        (
            "Show me the source",
            "I question everything",
            "Trust, but verify",
            "Careful reader, slow to believe",
            "Proof first",
            "Not easily convinced",
        ),
    ),
    Archetype(
        "expert", 0.10, -0.35, 1.2, 0.45, 0.9, 1.1, 0.3, 1.4, -0.2, 1.2, 0.2, 0.5,
        (-0.3, 1.1, -0.6, -0.4, -0.4, -0.2), (0.3, -0.1, 0.4),
        9000, 700, 120, 0.6,
        (
            "Researcher and lecturer",
            "Journalist, facts matter",
            "Physician and teacher",
            "Engineer writing on evidence",
            "Editor at a daily paper",
            "Professor of statistics",
        ),
    ),
    Archetype(
        "partisan", 0.16, 0.35, 0.8, 1.0, -0.75, 0.05, 1.1, 0.0, 0.3, -0.9, 0.5, 0.6,
        (1.3, -0.5, -0.5, -0.2, 0.0, 0.0), (-0.5, 0.8, 0.3),
        900, 1500, 500, 0.05,
        (
            "They lie to us every day",
            "Fighting for the people",
            "No more silence from above",
            "Angry citizen",
            "Wake up and resist",
            "Against the system",
        ),
    ),
    Archetype(
        "bystander", 0.20, 0.05, 0.9, 1.35, 0.5, 0.8, 0.7, 0.1, 0.1, 0.5, -0.7, -0.6,
        (-0.6, 1.2, 0.0, -0.4, -0.5, 0.0), (0.0, 0.3, -0.2),
        60, 120, 15, 0.0,
        (
            "Just looking around",
            "Quiet life, quiet account",
            "Here to read",
            "Nothing special to say",
            "Ordinary office worker",
            "Tea and weekends",
        ),
    ),
    Archetype(
        "worrier", 0.14, 0.40, 1.1, 1.15, 0.7, 0.8, 1.3, 0.5, 0.2, -0.5, 0.2, 0.0,
        (0.1, -0.5, -0.6, 0.6, 1.1, 0.3), (0.7, 0.2, -0.1),
        110, 250, 90, 0.01,
        (
            "Mother of two, always careful",
            "Please stay safe everyone",
            "Worried about the future",
            "Dad who reads every warning",
            "Safety comes first at home",
            "Anxious but kind",
        ),
    ),
)  # fmt: skip
MIXTURE: NDArray[np.float64] = np.array([a.share for a in ARCHETYPES])
MIXTURE = MIXTURE / MIXTURE.sum()
MIXTURE.setflags(write=False)

_LOCATIONS = (
    "Norwick", "Eastmere", "Halden", "Port Avel", "Greyford", "Linby", "Castova", "Merrow",
    "Southfield", "Tarn Valley", "Oakridge", "Velling",
)  # fmt: skip


def profiles(archetypes: NDArray[np.generic], u: NDArray[np.float64]) -> list[Profile]:
    """Profiles of people: archetypes ``(n,)`` and uniforms ``(n, N_PROFILE_DRAWS)``."""
    a = np.asarray(archetypes, dtype=np.intp)
    # Box-Muller, so that one row of uniforms is all that a profile depends on.
    radius = np.sqrt(-2 * np.log1p(-u[:, 0:6:2]))
    normal = radius * np.cos(2 * np.pi * u[:, 1:6:2])
    medians = np.array([(x.followers, x.friends, x.activity) for x in ARCHETYPES])[a]
    counts = np.floor(medians * np.exp(np.array([0.9, 0.7, 0.8]) * normal)).astype(int)
    verified = u[:, 6] < np.array([x.verified for x in ARCHETYPES])[a]
    result = []
    for kind, (followers, friends, active), known, row in zip(
        a.tolist(), counts.tolist(), verified.tolist(), u[:, 7:].tolist(), strict=True
    ):
        descriptions = ARCHETYPES[kind].descriptions
        result.append(
            Profile(
                location=_LOCATIONS[int(row[0] * len(_LOCATIONS))],
                description=descriptions[int(row[1] * len(descriptions))],
                gender="f" if row[2] < 0.5 else "m",
                friends=friends,
                followers=followers,
                verified=known,
                reposts=active // 3,
                comments=active // 3,
                likes=active - 2 * (active // 3),
            )
        )
    return result
