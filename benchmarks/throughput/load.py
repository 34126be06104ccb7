"""A short real load on a running server: decisions a second at some concurrencies.

Little's law ties what is measured together: requests in flight = rate · time of a request. The
curve between the points is a line of the time over the concurrency, ``t(c) = base + each · c``, so
that the rate is ``c / (base + each · c)``: it rises with what is in flight and levels out at
``1 / each``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from agents.backbones.base import Backbone
from agents.backbones.sampling_parameters import Sampling
from mfenv.errors import MfenvError
from mfenv.noise import NoiseKey

__all__ = ["Curve", "Point", "fit", "measure"]

_SEEDS = 7_000_000  # of the load's noise keys: nobody's run has them


@dataclass(frozen=True, slots=True)
class Point:
    """What was measured with so many requests in flight."""

    concurrency: int
    requests: int
    seconds: float
    prompt_tokens: int
    written_tokens: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def time(self) -> float:
        """Seconds of one request on average, by Little's law."""
        return self.concurrency / self.rate


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds of a request with ``c`` in flight: ``base + each · c``."""

    base: float
    each: float

    def time(self, concurrency: float) -> float:
        """Seconds of a request."""
        return self.base + self.each * concurrency

    def rate(self, concurrency: float) -> float:
        """Requests a second."""
        return concurrency / self.time(concurrency)

    def enough(self, share: float, most: int) -> int:
        """The fewest requests in flight with ``share`` of the rate that ``most`` have."""
        aim = share * self.rate(most)
        return next(c for c in range(1, most + 1) if self.rate(c) >= aim or c == most)


def measure(
    backbone: Backbone,
    prompts: Sequence[str],
    sampling: Sampling,
    concurrencies: Sequence[int],
    *,
    waves: int = 3,
) -> list[Point]:
    """Send prompts with so many requests in flight at a time, ``waves`` times as many in all.

    ``prompts`` are gone through in order, again where they end; every request has a seed of its
    own. One is sent beforehand and not counted. Raises ``MfenvError`` for a backbone that is not
    served.
    """
    from agents.backbones.served import ServedBackbone

    if not isinstance(backbone, ServedBackbone):
        raise MfenvError(
            "only a served model can be measured under load; allowed: openai:MODEL@URL"
        )
    points = []
    sent = 0
    for concurrency in concurrencies:
        settings = replace(backbone.settings, concurrency=concurrency)
        urls = ",".join(backbone.servers)
        asked = ServedBackbone(backbone.model, urls, settings=settings, use_cache=False)
        asked.generate(prompts[:1], [NoiseKey(_SEEDS, sent, 0)], sampling)
        count = waves * concurrency
        some = [prompts[(sent + i) % len(prompts)] for i in range(count)]
        keys = [NoiseKey(_SEEDS, sent + i, 1) for i in range(count)]
        sent += count
        begun = time.monotonic()
        answers = asked.generate(some, keys, sampling)
        seconds = time.monotonic() - begun
        read = sum(a.prompt_tokens for a in answers)
        points.append(
            Point(concurrency, count, seconds, read, sum(a.completion_tokens for a in answers))
        )
    return points


def fit(points: Sequence[Point]) -> Curve:
    """The line through the points, by least squares of relative errors; neither part below 0."""
    c = np.array([p.concurrency for p in points], dtype=float)
    t = np.array([p.time for p in points])
    if len(points) == 1:
        return Curve(0.0, float(t[0] / c[0]))
    columns = np.stack([1 / t, c / t], axis=1)
    (base, each), *_ = np.linalg.lstsq(columns, np.ones(len(t)), rcond=None)
    if base < 0:
        return Curve(0.0, float(np.sum(c / t) / np.sum((c / t) ** 2)))
    if each <= 0:
        return Curve(float(np.sum(1 / t) / np.sum(1 / t**2)), 0.0)
    return Curve(float(base), float(each))
