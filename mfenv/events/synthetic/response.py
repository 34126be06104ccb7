"""How the synthetic society responds: logits, exact shares and keyed draws, as pure functions.

``K`` worlds and ``A`` archetypes are array axes. An agent's labels are drawn along the chain

    belief → stance → rumor → behavior,   belief → sentiment_state → sentiment_tendency,
    behavior and sentiment_state → subjectivity,   behavior and belief → intent

by softmaxes of the archetype, the topic's hidden parameters, the *perceived* distribution (only
the five dimensions that a mean field's text shows), a rumour surge where there is one, and what
the notices of running interventions say (at the level that the text states).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.distributions import normalise
from mfenv.dynamics.reach import level_strength
from mfenv.events.event import DOMAINS
from mfenv.events.synthetic.archetypes import ARCHETYPES
from mfenv.events.synthetic.grammar import VALID
from mfenv.interventions import Kind
from mfenv.labels import SLICES, Labels
from mfenv.noise import categorical, uniform

__all__ = [
    "Tables",
    "Topics",
    "draw_labels",
    "expected_counts",
    "response",
    "surge",
]

Floats = NDArray[np.float64]

SURGE_RATE = 0.10  # probability that a surge starts at a step, at virality 0
SURGE_SHAPE = (1.0, 0.8, 0.5, 0.25)  # its strength over the steps that it lasts
SURGE_OF_RUMOUR = 0.65  # the part of surges that push belief; the others push doubt
_SURGE_AGENT = -1  # noise keys of the society itself have no agent
_SURGE_TOKEN = 900


@dataclass(frozen=True, slots=True)
class Topics:
    """Hidden parameters of ``K`` worlds, each ``(K,)``; see :class:`.topics.Topic`."""

    domain: NDArray[np.intp]  # index into DOMAINS
    credulity: Floats
    virality: Floats
    trust: Floats
    truth: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.domain)

    def take(self, index: ArrayLike) -> Topics:
        """The topics at the given indices (repeats allowed)."""
        i = np.asarray(index)
        return replace(
            self,
            domain=self.domain[i],
            credulity=self.credulity[i],
            virality=self.virality[i],
            trust=self.trust[i],
            truth=self.truth[i],
        )


class Tables(NamedTuple):
    """Conditional label probabilities for ``K`` worlds and ``A`` archetypes."""

    belief: Floats  # (K, A, 2)
    stance: Floats  # (K, A, belief, 3)
    rumor: Floats  # (K, A, belief, stance, 2)
    behavior: Floats  # (K, A, rumor, 2)
    state: Floats  # (K, A, belief, 6)
    tendency: Floats  # (state, stance, 3)
    subjectivity: Floats  # (A, behavior, state, 2)
    intent: Floats  # (K, A, belief, behavior, 3)


def _column(name: str) -> Floats:
    return np.array([getattr(a, name) for a in ARCHETYPES])


_BELIEF, _CREDULITY, _CONFORMITY = _column("belief"), _column("credulity"), _column("conformity")
_TRUST, _FACT_TRUST, _SURGE = _column("trust"), _column("fact_trust"), _column("surge")
_SHARING, _OBJECTIVE = _column("sharing"), _column("objective")
_EXPERTISE = _column("expertise")
_SUPPORT, _OPPOSE = _column("support"), _column("oppose")
_EMOTIONS, _INTENTS = _column("emotions"), _column("intents")

# Effects in logits. They are set so that the population is near, but below, the point at which
# it would always run away: its momentum is long, and pushes in time can turn it.
BELIEF_COUPLING = 1.3  # of perceived belief, believing minus doubting
STANCE_COUPLING = 1.0  # of perceived stance, supporting minus opposing
SHARE_COUPLING = 0.9  # of perceived sharing: what is everywhere seems true
QUESTION_COUPLING = -0.5  # of perceived questions
STATEMENT = 2.3  # a firm statement, at trust 1
FACT_CHECK = 1.5
FRICTION_SHARING = 2.2
FRICTION_SURGE = 0.8  # part of a surge that full friction holds back
SURGE_BELIEF = 2.0
SCRUTINY = 1.2  # of experts, towards questions if the claim is false, away if it is true
BELIEF_OFFSET = -0.2

#                             angry calm  happy  sad   fear  surprise
_DOMAIN_EMOTION = np.array([
    (0.5, 0.0, -0.9, 0.1, 0.6, 0.1),  # Crime
    (0.0, 0.4, 0.7, 0.1, -0.9, 0.4),  # Culture
    (0.1, 0.1, -0.3, 0.2, 0.8, 0.0),  # Health
    (0.2, 0.2, -0.5, 0.3, 0.5, 0.3),  # News
    (0.8, 0.2, -0.4, 0.0, 0.0, 0.1),  # Politics
    (0.2, 0.1, 0.8, 0.2, -0.9, 0.5),  # Sports
    (0.2, 0.4, 0.1, -0.2, 0.2, 0.6),  # Technology
])  # fmt: skip
_DOMAIN_BELIEF = np.array([0.1, 0.0, 0.1, 0.15, -0.15, 0.0, -0.1])
_DOMAIN_TRUST = np.array([0.05, 0.0, 0.1, 0.0, -0.25, 0.0, 0.0])
assert len(_DOMAIN_EMOTION) == len(DOMAINS)
#                    (believe, doubt) × emotion
_BELIEF_EMOTION = np.array([
    (0.2, -0.1, 0.2, 0.2, 0.4, 0.2),
    (0.3, 0.5, -0.2, -0.2, -0.5, 0.1),
])  # fmt: skip
_SURGE_EMOTION = np.array([0.5, -0.6, 0.0, 0.2, 0.7, 0.6])
_STATEMENT_EMOTION = np.array([0.0, 0.8, 0.0, 0.0, -0.5, 0.0])
_EMOTION_COUPLING = 2.0
_FORBIDDEN = -np.inf


def _softmax(logits: Floats) -> Floats:
    # The logits are sums of a few small terms: no overflow. Products beat sums over short axes.
    z = np.exp(logits)
    return np.asarray(z / (z @ np.ones(z.shape[-1]))[..., None])


def _binary(logit: Floats) -> Floats:
    """Probabilities of (label 0, label 1), the logit being that of label 0."""
    p = 1.0 / (1.0 + np.exp(-logit))
    return np.stack([p, 1.0 - p], axis=-1)


def _tendency() -> Floats:
    """Tendency given state and stance: ``(6, 3, 3)``, zero where no text can say it."""
    logits = np.zeros((6, 3, 3))
    logits[:, 0, 0] += 1.2  # supporters are more positive
    logits[:, 1, 1] += 1.2  # opponents more negative
    logits[:, 2, 2] += 1.0
    logits += np.array(
        [(0, 1.5, 0), (0, 0, 1.6), (1.8, 0, 0), (0, 1.0, 0), (0, 0.8, 0), (0, 0, 0.6)]
    )[:, None, :]
    possible = np.asarray(VALID.any(axis=(0, 3, 4, 5, 6, 7)))  # (6, 3)
    return _softmax(np.where(possible[:, None, :], logits, _FORBIDDEN))


def _subjectivity() -> Floats:
    """Subjectivity given behaviour and state: ``(A, 2, 6, 2)``."""
    objective = (
        _OBJECTIVE[:, None, None]
        + np.array([-0.5, 1.0])[None, :, None]
        + np.array([-1.0, 0.9, -0.6, -0.7, -0.6, -0.2])[None, None, :]
    )
    return _binary(-objective)


def _margins() -> Floats:
    """Sums a joint (b, s, r, v), 24 cells, to the margins of r, v, s and b: ``(24, 9)``."""
    b, s, r, v = (x.ravel() for x in np.indices((2, 3, 2, 2)))
    return np.concatenate([np.eye(2)[r], np.eye(2)[v], np.eye(3)[s], np.eye(2)[b]], axis=1)


_TENDENCY, _SUBJECTIVITY, _MARGINS = _tendency(), _subjectivity(), _margins()
_CERTAIN = np.asarray(VALID.any(axis=(1, 2, 3, 6, 7)))  # (rumor, stance, belief)


def response(
    topics: Topics, perceived: Floats, activity: Floats, surges: ArrayLike = 0.0
) -> Tables:
    """Conditional label probabilities of every archetype in ``K`` worlds.

    Perceived ``(K, 23)``, activity ``(K, 6)``, surges ``(K,)`` (or 0 for none): from −1, a wave
    of doubt, to 1, a wave of rumour. Friction takes most of a surge's force.
    """
    k = len(topics)
    shown = level_strength(activity)
    statement = shown[:, Kind.STATEMENT, None]
    fact_check = shown[:, Kind.FACT_CHECK, None]
    friction = shown[:, Kind.FRICTION, None]
    surged = np.broadcast_to(np.asarray(surges, dtype=float), (k,))[:, None]
    surged = surged * (1.0 - FRICTION_SURGE * friction)
    stirred = np.abs(surged)
    p_stance, p_state = perceived[:, SLICES["stance"]], perceived[:, SLICES["sentiment_state"]]
    p_share = perceived[:, SLICES["behavior"]][:, 1, None]
    p_believe = perceived[:, SLICES["belief"]][:, 0, None]
    p_intent = perceived[:, SLICES["intent"]]

    trust = np.clip(
        _TRUST + (topics.trust + _DOMAIN_TRUST[topics.domain])[:, None], -0.5, 1.0
    )  # (K, A)
    crowd = _CONFORMITY * (
        BELIEF_COUPLING * (2.0 * p_believe - 1.0)
        + STANCE_COUPLING * (p_stance[:, 0] - p_stance[:, 1])[:, None]
        + SHARE_COUPLING * (p_share - 0.45)
        + QUESTION_COUPLING * (p_intent[:, 0, None] - 0.25)
    )
    belief = _binary(
        BELIEF_OFFSET
        + _BELIEF
        + _DOMAIN_BELIEF[topics.domain][:, None]
        + _CREDULITY * topics.credulity[:, None]
        + crowd
        + SURGE_BELIEF * _SURGE * surged
        - STATEMENT * trust * statement
        - FACT_CHECK * _FACT_TRUST * fact_check
    )

    pull = 1.6 * _CONFORMITY[:, None] * (p_stance - 1 / 3)[:, None, :]  # (K, A, 3)
    believing = pull + np.stack(
        [_SUPPORT, np.full_like(_SUPPORT, -1.6), np.zeros_like(_SUPPORT)], axis=-1
    )
    doubting = pull + np.stack(
        [np.full_like(_OPPOSE, -2.0), _OPPOSE, np.zeros_like(_OPPOSE)], axis=-1
    )
    doubting[:, :, 1] += 0.6 * (statement + fact_check)
    stance = _softmax(np.stack([believing, doubting], axis=2))

    # Spreading is certain or impossible but for the neutral.
    spread = np.zeros((k, len(ARCHETYPES), 2, 3))
    spread[:, :, 0, 2] = 2.2 + 0.6 * surged - 0.9 * fact_check - 0.6 * friction
    spread[:, :, 1, 2] = -0.6 + 0.8 * surged - 0.8 * fact_check - 0.4 * statement
    rumor = _binary(spread)
    for b in range(2):
        for s in range(2):
            rumor[:, :, b, s] = _CERTAIN[:, s, b]

    sharing = (
        _SHARING
        + 0.7 * topics.virality[:, None]
        + 1.8 * _CONFORMITY * (p_share - 0.45)
        + 0.6 * stirred
        - FRICTION_SHARING * friction
        - 0.5 * fact_check
    )
    behavior = _binary(-(sharing[:, :, None] + np.array([0.2, -0.9])))

    state = _softmax(
        (_EMOTIONS + _DOMAIN_EMOTION[topics.domain][:, None, :])[:, :, None, :]
        + _BELIEF_EMOTION
        + (
            _EMOTION_COUPLING * (p_state - 1 / 6)[:, None, :] * _CONFORMITY[:, None]
            + stirred[:, :, None] * _SURGE_EMOTION
            + statement[:, :, None] * _STATEMENT_EMOTION
        )[:, :, None, :]
    )

    # Who knows the matter asks more questions of a false claim: the trace that truth leaves.
    scrutiny = SCRUTINY * _EXPERTISE * np.where(topics.truth, -1.0, 1.0)[:, None]
    intents = _INTENTS + 1.5 * _CONFORMITY[:, None] * (p_intent - 1 / 3)[:, None, :]
    intents = intents + 0.4 * stirred[:, :, None] * np.array([0.0, 1.0, 0.0])
    intents[:, :, 0] += scrutiny
    by_choice = np.array([
        [(-0.3, 0.0, 0.5), (-1.0, 2.0, 0.0)],  # believing: comment, share
        [(0.8, -0.9, 0.5), (0.0, 0.9, 0.2)],  # doubting
    ])  # fmt: skip
    intent = _softmax(intents[:, :, None, None, :] + by_choice)
    return Tables(belief, stance, rumor, behavior, state, _TENDENCY, _SUBJECTIVITY, intent)


def draw_labels(tables: Tables, archetypes: NDArray[np.integer], u: Floats) -> Labels:
    """Draw labels along the chain.

    Archetypes ``(K, n)`` and uniforms ``(K, n, 8)`` give labels ``(K, n, 8)``.
    """
    k = np.arange(archetypes.shape[0])[:, None]
    a = archetypes
    b = categorical(tables.belief[k, a], u[..., 5])
    s = categorical(tables.stance[k, a, b], u[..., 4])
    r = categorical(tables.rumor[k, a, b, s], u[..., 0])
    v = categorical(tables.behavior[k, a, r], u[..., 3])
    e = categorical(tables.state[k, a, b], u[..., 1])
    t = categorical(tables.tendency[e, s], u[..., 2])
    o = categorical(tables.subjectivity[a, v, e], u[..., 6])
    i = categorical(tables.intent[k, a, b, v], u[..., 7])
    return np.stack([r, e, t, v, s, b, o, i], axis=-1).astype(np.int8)


def expected_counts(
    tables: Tables, mixture: Floats, weights: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """Expected weight of every label, and in all, of one agent drawn from a mixture.

    ``mixture`` is ``(A,)`` or ``(K, A)``; ``weights`` ``(K, stance, behavior)`` (3 and 2 wide)
    weighs a reaction, as friction and amplification do. Returns ``(K, 23)`` and ``(K,)``; without
    weights the first are the exact marginal probabilities.
    """
    k = tables.belief.shape[0]
    mixture = np.broadcast_to(mixture, (k, tables.belief.shape[1]))
    w = np.ones((k, 3, 2)) if weights is None else np.asarray(weights, dtype=float)
    # Everything hangs on belief, stance, rumor and behaviour. Weigh their joint first, and sum
    # over archetypes as early as each part allows: planners call this in their inner loop.
    bsr = (mixture[..., None] * tables.belief)[..., None, None] * (
        tables.stance[..., None] * tables.rumor
    )
    joint = (  # (K, A, b, s, r, v)
        bsr[..., None] * tables.behavior[:, :, None, None] * w[:, None, None, :, None, :]
    )
    bsv = joint[:, :, :, :, 0] + joint[:, :, :, :, 1]
    bs = bsv[..., 0] + bsv[..., 1]
    bv = bsv[:, :, :, 0] + bsv[:, :, :, 1] + bsv[:, :, :, 2]
    # (K, s, e): belief and archetype are one axis of length 2 A to be summed over.
    es = bs.reshape(k, -1, 3).transpose(0, 2, 1) @ tables.state.reshape(k, -1, 6)
    bve = bv.transpose(0, 1, 3, 2) @ tables.state  # (K, A, v, e)
    direct = joint.reshape(k, joint.shape[1], -1).sum(axis=1) @ _MARGINS
    rumor, behavior, stance, belief = np.split(direct, (2, 4, 7), axis=1)
    counts = np.concatenate(
        [
            rumor,
            es[:, 0] + es[:, 1] + es[:, 2],
            es.transpose(0, 2, 1).reshape(k, -1) @ tables.tendency.reshape(-1, 3),
            behavior,
            stance,
            belief,
            bve.reshape(k, -1) @ tables.subjectivity.reshape(-1, 2),
            (bv.reshape(k, 1, -1) @ tables.intent.reshape(k, -1, 3))[:, 0],
        ],
        axis=-1,
    )
    return counts, belief[:, 0] + belief[:, 1]


def expected_shares(tables: Tables, mixture: Floats, weights: ArrayLike | None = None) -> Floats:
    """Expected label shares ``(K, 23)``; arguments as in :func:`expected_counts`."""
    return normalise(expected_counts(tables, mixture, weights)[0])


def surge(seed: ArrayLike, step: ArrayLike, virality: ArrayLike) -> Floats:
    """Signed strength of the surge at a step, by keyed noise; all arguments broadcast.

    A surge starts with a probability that grows with virality, is a wave of rumour (above 0) or
    of doubt (below 0), and fades over four steps. Where two overlap the later one counts.
    """
    seed, step = np.asarray(seed), np.asarray(step)
    rate = SURGE_RATE * np.exp(0.6 * np.asarray(virality, dtype=float))
    total = np.zeros(np.broadcast_shapes(seed.shape, step.shape, rate.shape))
    for ago in reversed(range(len(SURGE_SHAPE))):
        begin = step - ago
        begins = (uniform(seed, _SURGE_AGENT, begin, _SURGE_TOKEN) < rate) & (begin >= 0)
        rumour = uniform(seed, _SURGE_AGENT, begin, _SURGE_TOKEN + 1) < SURGE_OF_RUMOUR
        strength = SURGE_SHAPE[ago] * np.where(rumour, 1.0, -1.0)
        total = np.where(begins, strength, total)
    return total
