"""Threads for compiled code that releases the interpreter's lock.

They sleep while there is nothing to do. numba's own wait in a loop, which on a busy machine costs
more than they save.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["Threads"]


class Threads:
    """So many threads, the caller's among them."""

    def __init__(self, number: int) -> None:
        self._others = number - 1
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def each(self, parts: int, work: Callable[[int], object]) -> None:
        """Call ``work`` with 0 to ``parts - 1``, side by side; returns when all are done."""
        left = deque(range(parts))

        def take() -> None:
            while left:
                try:
                    part = left.popleft()
                except IndexError:  # somebody was quicker
                    return
                work(part)

        helpers = [self._started().submit(take) for _ in range(self._others)]
        take()
        for helper in helpers:
            if not helper.cancel():
                helper.result()

    def _started(self) -> ThreadPoolExecutor:
        if self._pool is None or self._process != os.getpid():  # a fork has no threads
            self._pool, self._process = ThreadPoolExecutor(self._others), os.getpid()
        return self._pool
