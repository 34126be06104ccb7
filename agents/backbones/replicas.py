"""Which of several equal servers a request goes to, and which of them are left out for a while.

Nothing here knows HTTP, and nothing waits: a caller asks for a server, says how it went, and asks
for another. What is written down is told by a monotonic clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Replica", "Replicas"]


@dataclass(slots=True)
class Replica:
    """One of the servers, as it is known now."""

    url: str
    in_flight: int = 0
    served: int = 0
    """Requests that it was given so far."""
    outages: int = 0
    """Times in a row that it was taken out, since it last answered."""
    due: float = 0.0
    """When it may be asked again (seconds of the clock)."""
    last: str = ""
    """What went wrong last; empty where nothing did."""


@dataclass(slots=True)
class Replicas:
    """Servers that give the same answers; the one with the fewest requests in flight is next.

    One that failed is out for ``first`` seconds, twice as long each time in a row, ``longest`` at
    the most. Then one request tries it, and the others follow once it has answered.
    """

    urls: Sequence[str]
    first: float = 1.0
    longest: float = 60.0
    clock: Callable[[], float] = time.monotonic
    all: list[Replica] = field(init=False)

    def __post_init__(self) -> None:
        self.all = [Replica(url) for url in self.urls]

    def choose(self, tried: Collection[int] = ()) -> int | None:
        """The index of the server to ask; ``None`` if all that could be asked were ``tried``.

        Where all are out, the one that is due first: how long to wait is the caller's affair.
        """
        now = self.clock()
        left = [i for i in range(len(self.all)) if i not in tried]
        # What comes back from an outage is tried by one request alone.
        up = [
            i
            for i in left
            if self.all[i].due <= now and not (self.all[i].outages and self.all[i].in_flight)
        ]
        if up:
            return min(up, key=lambda i: (self.all[i].in_flight, self.all[i].served, i))
        return None if tried else min(left, key=lambda i: (self.all[i].due, i))

    @contextmanager
    def using(self, i: int) -> Iterator[Replica]:
        """Count a request as in flight."""
        replica = self.all[i]
        replica.in_flight += 1
        replica.served += 1
        try:
            yield replica
        finally:
            replica.in_flight -= 1

    def answered(self, i: int) -> None:
        """It answered, be it with a refusal: it is not out."""
        self.all[i].outages, self.all[i].due = 0, 0.0

    def failed(self, i: int, reason: str) -> None:
        """It did not answer, or broke down. Requests that fail together are one outage."""
        replica, now = self.all[i], self.clock()
        replica.last = reason
        if replica.due <= now:
            replica.outages += 1
            wait = self.first * 2.0 ** min(replica.outages - 1, 30)
            replica.due = now + min(self.longest, wait)

    def rest(self, i: int, seconds: float, reason: str) -> float:
        """It wants to be left alone; returns the seconds until some server may be asked."""
        replica, now = self.all[i], self.clock()
        replica.last = reason
        replica.due = max(replica.due, now + seconds)
        return max(0.0, min(r.due for r in self.all) - now)

    def reasons(self) -> str:
        """Every server with what went wrong there last."""
        return "; ".join(f"{r.url}: {r.last or 'nothing went wrong yet'}" for r in self.all)
