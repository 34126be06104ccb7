"""Asking a server until it answers: waits that grow, and a breaker that stops asking.

Nothing here knows HTTP. An *ask* is a coroutine function; it raises :class:`TemporaryError` for
what may go away, and any other exception for what will not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Ask", "Breaker", "GaveUpError", "RetryPolicy", "TemporaryError", "ask_all"]

T = TypeVar("T")
Ask = Callable[[int], Awaitable[T]]
"""Called with the number of unusable answers that this request has had so far."""


class TemporaryError(Exception):
    """An ask failed in a way that may go away.

    ``retry_after`` are the seconds the server wants to be left alone, where it says so.
    ``unusable`` marks an answer that came but cannot be used.
    """

    def __init__(
        self, reason: str, *, retry_after: float | None = None, unusable: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.retry_after, self.unusable = reason, retry_after, unusable


class GaveUpError(Exception):
    """The breaker is open: asking on would be spinning. The message says what happened last."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait between attempts, and when to stop."""

    first: float = 0.5  # s, the most that the first wait can be; it doubles from there
    longest: float = 30.0  # s, the most that any wait can be
    failures: int = 500  # in a row, over all requests together
    seconds: float = 300.0  # without any answer
    unusable: int = 6  # answers to one request that cannot be used

    def wait(self, attempt: int, u: float) -> float:
        """Seconds before attempt ``attempt + 1`` (from 1): full jitter, ``u`` in [0, 1)."""
        return float(u) * min(self.longest, self.first * 2.0 ** min(attempt - 1, 30))


class Breaker:
    """Opens after too many failures in a row, or too long without a success."""

    def __init__(self, policy: RetryPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy, self._clock = policy, clock
        self._since = clock()
        self._failures = 0
        self._last = "it did not answer"

    def success(self) -> None:
        """An answer came."""
        self._failures, self._since = 0, self._clock()

    def failure(self, reason: str) -> None:
        """A request failed."""
        self._failures += 1
        self._last = reason

    @property
    def remaining(self) -> float:
        """Seconds until it opens, if nothing succeeds."""
        return max(0.0, self._since + self._policy.seconds - self._clock())

    @property
    def open(self) -> bool:
        """Whether to stop."""
        return self._failures >= self._policy.failures or self.remaining == 0

    @property
    def reason(self) -> str:
        """What happened, as the end of a sentence."""
        if self._failures >= self._policy.failures:
            return f"{self._failures} failures in a row, the last: {self._last}"
        return f"no answer for {self._policy.seconds:g} s, the last failure: {self._last}"


async def ask_all(
    asks: Sequence[Ask[T]],
    policy: RetryPolicy,
    *,
    concurrency: int,
    jitter: Callable[[int, int], float],
) -> list[T | TemporaryError]:
    """Ask everything, ``concurrency`` at a time, each until it is answered.

    ``jitter(i, attempt)`` in [0, 1) spreads the waits. A wait that the server asks for holds for
    all requests. A request whose answers were unusable too often gets its last error in the place
    of a result; the others go on.

    Raises ``GaveUpError`` when the breaker opens, at the latest ``policy.seconds`` after the last
    success, and whatever else an ask raises; what is in flight is then cancelled.
    """
    breaker = Breaker(policy)
    slots = asyncio.Semaphore(concurrency)
    not_before = 0.0  # when the server wants to be asked again (monotonic clock, s)
    results: list[T | TemporaryError | None] = [None] * len(asks)

    async def one(i: int) -> None:
        nonlocal not_before
        attempt = unusable = 0
        async with slots:
            while True:
                while (left := not_before - time.monotonic()) > 0:
                    await asyncio.sleep(left)
                attempt += 1
                try:
                    results[i] = await asks[i](unusable)
                except TemporaryError as fault:
                    breaker.failure(fault.reason)
                    if breaker.open:
                        raise GaveUpError(breaker.reason) from None
                    unusable += fault.unusable
                    if unusable >= policy.unusable:
                        results[i] = fault
                        return
                    u = jitter(i, attempt)
                    if fault.retry_after is None:
                        await asyncio.sleep(policy.wait(attempt, u))
                        continue
                    if fault.retry_after > breaker.remaining:
                        raise GaveUpError(
                            f"it asks to be left alone for {fault.retry_after:g} s, the last "
                            f"failure: {fault.reason}"
                        ) from None
                    not_before = max(not_before, time.monotonic() + fault.retry_after)
                    await asyncio.sleep(fault.retry_after + u * policy.first)
                else:
                    breaker.success()
                    return

    tasks = {asyncio.ensure_future(one(i)) for i in range(len(asks))}
    pending = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=breaker.remaining, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()
            if pending and breaker.open:
                raise GaveUpError(breaker.reason)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [r for r in results if r is not None]
