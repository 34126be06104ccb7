"""Which prompts share a beginning, so that a model reads it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["PrefixGroup", "common_prefix", "shared_prefixes"]


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Rows whose first ``length`` tokens are equal; 0 for a row that shares nothing."""

    rows: tuple[int, ...]
    length: int


def shared_prefixes(prompts: Sequence[Sequence[int]], *, least: int = 8) -> list[PrefixGroup]:
    """Split prompts (token ids) into groups such that the most tokens are read only once.

    Every row keeps at least its last token as its own. Prefixes of fewer than ``least`` tokens are
    not worth their bookkeeping. The result is a pure function of the prompts.
    """
    if not prompts:
        return []
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i], i))
    # Every row keeps at least its last token as its own.
    common = [
        0,
        *(
            common_prefix(prompts[a], prompts[b], min(len(prompts[a]), len(prompts[b])) - 1)
            for a, b in pairwise(order)
        ),
    ]
    groups = [
        PrefixGroup(tuple(sorted(order[i] for i in rows)), length)
        for rows, length in _split(common, least)
    ]
    return sorted(groups, key=lambda g: (-g.length, g.rows))


def common_prefix(a: Sequence[int], b: Sequence[int], most: int) -> int:
    """Tokens that two prompts share at their beginning, ``most`` at most."""
    if a[:most] == b[:most]:
        return most
    low, high = 0, most  # a[:low] is equal, a[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


_Part = tuple[list[int], int]  # rows, and the tokens that they read once


def _split(common: Sequence[int], least: int) -> list[_Part]:
    """The split of sorted rows that saves most tokens; ``common[i]`` is what ``i - 1`` and ``i``
    share.

    Shared prefixes nest like the branches of a tree. Branches are merged from the longest prefix
    to the shortest; at each, single rows come together, and so does a group that saves more there
    than by its own longer prefix.
    """
    stack: list[tuple[int, list[_Part]]] = []  # what a branch shares with the next row, its parts
    for i in range(1, len(common) + 1):
        here = common[i] if i < len(common) else 0
        parts: list[_Part] = [([i - 1], 0)]
        while stack and stack[-1][0] > here:
            level = stack[-1][0]
            while stack and stack[-1][0] == level:
                parts = stack.pop()[1] + parts
            if level >= least:
                parts = _merge(parts, level)
        stack.append((here, parts))
    return [part for _, parts in stack for part in parts]


def _merge(parts: list[_Part], level: int) -> list[_Part]:
    joined, kept, lost = [], [], 0
    for rows, length in parts:
        saved = (len(rows) - 1) * length
        if len(rows) * level > saved:
            joined += rows
            lost += saved
        else:
            kept.append((rows, length))
    if (len(joined) - 1) * level <= lost:
        return parts
    return [*kept, (joined, level)]
