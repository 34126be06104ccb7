"""The blocks of code on a page, and what the page says of running them.

The line before a block may be one of::

    <!-- not run by the tests: REASON -->
    <!-- the tests add: ARGUMENTS; ARGUMENTS -->

The second is appended to the block's commands, one part each, to make them small.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

__all__ = ["Block", "blocks", "without_blocks"]

_BLOCK = re.compile(
    r"^(?:<!-- not run by the tests: (?P<skip>[^\n]+) -->\n|<!-- the tests add: (?P<add>[^\n]+) -->\n)?"
    r'```(?P<kind>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    flags=re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    kind: str
    text: str
    title: str | None  # of a file
    skip: str | None  # why the tests do not run it
    add: tuple[str, ...]  # arguments that the tests add, by command

    @property
    def lines(self) -> list[str]:
        """The lines of a shell block, continued ones joined, without comments."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line for line in joined if shlex.split(line, comments=True)]

    @property
    def words(self) -> list[list[str]]:
        """The lines as words."""
        return [shlex.split(line, comments=True) for line in self.lines]


def blocks(page: str) -> list[Block]:
    """The blocks of a page (Markdown), in order."""
    return [
        Block(m["kind"], m["text"], m["title"], m["skip"], tuple((m["add"] or "").split(";")))
        for m in _BLOCK.finditer(page)
    ]


def without_blocks(page: str) -> str:
    """The page's text around its blocks."""
    return _BLOCK.sub("", page)
