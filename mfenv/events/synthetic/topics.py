"""Topics of the synthetic society: claims written by a small grammar, with hidden parameters.

A topic's lead-in ("Breaking:", "Official report:") carries most of what makes it credible or
viral, so that whoever reads the topic can learn how it will be received; a planner, who reads no
text, cannot. The text never says whether the claim is true, but lead-ins of false claims differ
in frequency from those of true ones, as they do in life.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mfenv.events.event import DOMAINS

__all__ = ["LEADS", "SUBJECTS", "Lead", "Topic", "sample_topic"]


@dataclass(frozen=True, slots=True)
class Lead:
    """A lead-in and what it does; the weights are relative frequencies."""

    text: str
    credulity: float
    virality: float
    trust: float  # in authorities, in this matter
    if_true: float
    if_false: float


@dataclass(frozen=True, slots=True)
class Topic:
    """A claim with its hidden parameters, all in logits around 0."""

    text: str
    domain: str
    subject: str  # the noun phrase that reactions may name
    truth: bool
    credulity: float
    virality: float
    trust: float


LEADS: tuple[Lead, ...] = (
    Lead("", 0.0, 0.0, 0.0, 3.0, 3.0),
    Lead("Breaking:", 0.2, 0.7, 0.0, 2.0, 2.0),
    Lead("Official report:", 0.8, -0.4, 0.3, 2.0, 1.0),
    Lead("Local news:", 0.5, -0.2, 0.2, 2.0, 1.5),
    Lead("A video shows:", 0.4, 0.6, 0.0, 1.5, 1.5),
    Lead("Experts say:", 0.6, -0.1, 0.2, 1.5, 1.0),
    Lead("A friend saw it:", -0.2, 0.1, 0.0, 1.0, 1.5),
    Lead("Unconfirmed:", -0.5, 0.0, 0.1, 1.5, 1.5),
    Lead("Anonymous post:", -0.6, -0.2, -0.1, 1.0, 1.5),
    Lead("Leaked paper:", 0.1, 0.5, -0.5, 1.0, 1.5),
    Lead("They hide it from you:", -0.3, 0.6, -0.6, 0.7, 1.5),
    Lead("Share before it is gone:", -0.3, 0.9, -0.3, 0.7, 1.5),
)
_RESIDUAL = 0.15  # standard deviation of what the wording does not say

# Each domain: groups of subjects and of predicates that fit any of the group's subjects.
_CLAIMS: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "Crime": (
        (
            ("the bank robber", "the taxi driver", "the night guard", "the jewel thief"),
            (
                "escaped from custody last night",
                "was caught with a stolen truck",
                "confessed to three more cases",
                "was seen near a school this morning",
                "had help from inside the police",
                "was set free by mistake",
            ),
        ),
        (
            ("the phone scam", "the car theft gang", "the missing person case"),
            (
                "has reached a hundred households",
                "involves a well known lawyer",
                "is linked to a local club",
                "was solved with a doorbell camera",
                "cost a widow her savings",
                "is spreading to nearby towns",
            ),
        ),
    ),
    "Culture": (
        (
            ("the film director", "the young singer", "the famous novelist", "the star actor"),
            (
                "will retire after this season",
                "copied the work from a student",
                "gave the whole prize money away",
                "walked out of the premiere",
                "signed a record contract",
                "was never at the ceremony",
            ),
        ),
        (
            ("the city museum", "the old theatre", "the summer festival"),
            (
                "will close for three years",
                "sold a painting in secret",
                "found a lost manuscript in the cellar",
                "drops its entrance fee",
                "moves to another town",
                "was saved by a single donor",
            ),
        ),
    ),
    "Health": (
        (
            ("the tap water", "the school lunch", "the new vaccine", "the herbal tea"),
            (
                "made dozens of people ill",
                "contains traces of lead",
                "protects against the winter flu",
                "passed every safety test",
                "was withdrawn without notice",
                "is to be free from next month",
            ),
        ),
        (
            ("the county hospital", "the child clinic", "the blood bank"),
            (
                "turns patients away at night",
                "ran out of medicine",
                "hid an outbreak for weeks",
                "cured a rare disease",
                "will treat everyone for free",
                "lost its licence on Monday",
            ),
        ),
    ),
    "News": (
        (
            ("the river bridge", "the main station", "the old dam", "the harbour tower"),
            (
                "has cracks in its base",
                "will be shut for repairs",
                "collapsed in the storm",
                "was sold to a foreign firm",
                "reopens a year early",
                "failed its last inspection",
            ),
        ),
        (
            ("the forest fire", "the power cut", "the flood wave"),
            (
                "will hit the centre tonight",
                "was started on purpose",
                "left ten thousand homes in the dark",
                "is fully under control",
                "could have been prevented",
                "came without any warning",
            ),
        ),
    ),
    "Politics": (
        (
            ("the mayor", "the finance minister", "the party leader", "the young senator"),
            (
                "will resign this week",
                "took money from a builder",
                "promised to end the parking fee",
                "missed every vote this year",
                "plans a secret trip abroad",
                "gave up half of the salary",
            ),
        ),
        (
            ("the new tax law", "the housing plan", "the ballot count"),
            (
                "was changed overnight",
                "helps only the richest",
                "will cut rents by a third",
                "was passed without a debate",
                "has an error on the first page",
                "will be stopped by the court",
            ),
        ),
    ),
    "Sports": (
        (
            ("the goalkeeper", "the head coach", "the marathon winner", "the team captain"),
            (
                "failed a doping test",
                "moves to the rival club",
                "played with a broken hand",
                "was paid to lose",
                "returns after a long injury",
                "quit during training",
            ),
        ),
        (
            ("the cup final", "the new stadium", "the youth league"),
            (
                "was decided by a bribe",
                "has to be played again",
                "sold out within minutes",
                "is unsafe for visitors",
                "will be free for children",
                "is moved to another country",
            ),
        ),
    ),
    "Technology": (
        (
            ("the photo app", "the payment app", "the smart speaker", "the chat service"),
            (
                "records every private talk",
                "lost the data of a million users",
                "will be free for everyone",
                "stops working on old phones",
                "sends pictures to strangers",
                "was written by two students",
            ),
        ),
        (
            ("the electric bus", "the new battery", "the phone mast"),
            (
                "caught fire during a test",
                "charges in five minutes",
                "makes birds fall from the sky",
                "will double the energy bill",
                "runs for a whole week",
                "was banned by the ministry",
            ),
        ),
    ),
}
_PLACES = (
    "Norwick", "Eastmere", "Halden", "Port Avel", "Greyford", "Linby", "Castova", "Merrow",
    "Southfield", "Tarn Valley", "Oakridge", "Velling", "Ambry", "Lake Orrin", "Kestrel Bay",
    "Dunmoor", "Rosehill", "Stonebeck", "Upper Wye", "Fennick",
)  # fmt: skip

SUBJECTS: tuple[str, ...] = tuple(
    subject for domain in DOMAINS for subjects, _ in _CLAIMS[domain] for subject in subjects
)
"""Every noun phrase that a reaction may name."""


def sample_topic(
    rng: np.random.Generator, domain: str | None = None, truth: bool | None = None
) -> Topic:
    """Draw a topic; a domain or truth that is given is kept."""
    drawn_domain = DOMAINS[rng.integers(len(DOMAINS))]
    drawn_truth = bool(rng.random() < 0.5)
    domain = drawn_domain if domain is None else domain
    truth = drawn_truth if truth is None else truth
    groups = _CLAIMS[domain]
    sizes = np.array([len(subjects) for subjects, _ in groups])
    subjects, predicates = groups[rng.choice(len(groups), p=sizes / sizes.sum())]
    subject = subjects[rng.integers(len(subjects))]
    predicate = predicates[rng.integers(len(predicates))]
    place = _PLACES[rng.integers(len(_PLACES))]
    weights = np.array([lead.if_true if truth else lead.if_false for lead in LEADS])
    lead = LEADS[rng.choice(len(LEADS), p=weights / weights.sum())]
    residual = _RESIDUAL * rng.standard_normal(3)
    claim = f"{subject} in {place} {predicate}."
    text = f"{lead.text} {claim}" if lead.text else claim[0].upper() + claim[1:]
    return Topic(
        text=text,
        domain=domain,
        subject=subject,
        truth=truth,
        credulity=lead.credulity + float(residual[0]),
        virality=lead.virality + float(residual[1]),
        trust=lead.trust + float(residual[2]),
    )
