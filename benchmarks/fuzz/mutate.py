"""Structured mutation: JSON values, lines of text and bytes, each a little wrong.

A value is changed where a reader looks: types, ranges, names of fields, repeats, order. What a
JSON library writes is then, some of the time, changed again as text and as bytes. Pure functions
of a :class:`random.Random`, which may also be one that a search engine steers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

__all__ = ["ODD_TEXTS", "changed_bytes", "changed_text", "changed_value", "dump", "rounds"]

ODD_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "\n",
    "\x00",
    "\ud800",
    "\u202e",
    "\u2028",
    "\ufeff",
    "e\u0301",
    "½",
    "²",
    "٣",
    "0",
    "-1",
    "1e999",
    "nan",
    "inf",
    "true",
    "null",
    "none",
    "None",
    "../../x",
    "/",
    "a" * 300,
    "9" * 5000,
    "{}",
    "[]",
    "%s%n",
    "<script>",
    "\U0001f600",
    "\x1b[31m",
    "__class__",
)
"""Texts that readers trip over: empty, invisible, half a character, other digits, too long."""

_NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 8, 16, 23, 255, 2**31 - 1, 2**31, -(2**31), 2**53, 2**63, -(2**63) - 1),
    *(2**64, 10**400, 0.0, -0.0, 0.5, 1.0, -1.5, 1e-320, 1e308, 1e16),
    *(float("nan"), float("inf"), float("-inf")),
)
_MARK = "\x01deep\x01"  # stands for what no JSON library writes
_DEEP = ("[" * 100_000, '{"a":' * 100_000, "[" * 300 + "]" * 300)
_PIECES: tuple[bytes, ...] = (
    *(b"\x00", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b"\t"),
    *(b'"', b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b",", b":", b"null", b"NaN"),
    *(b"Infinity", b"1e999", b"-", b".", b"\xe2\x80\xa8", b"\x85", b"\x1c", b"9" * 5000, b"// x"),
)


def rounds(random: Random, most: int = 5) -> int:
    """How many changes to make: one most often, each further one half as often."""
    n = 1
    while n < most and random.random() < 0.5:
        n += 1
    return n


def changed_value(random: Random, value: Any, donors: Sequence[Any] = ()) -> Any:
    """Change one place of a JSON value, in place where it is a container; returns the value.

    ``donors`` are values that may be put somewhere they do not belong.
    """
    places: list[tuple[Any, Any]] = []
    stack: list[Any] = [value]
    while stack:
        node = stack.pop()
        keys = node if isinstance(node, dict) else range(len(node)) if _is_list(node) else ()
        for key in keys:
            places.append((node, key))
            if isinstance(node[key], dict | list):
                stack.append(node[key])
    if not places or random.random() < 0.02:
        return _other(random, value, donors)
    node, key = places[int(random.random() * len(places))]
    operation = random.random()
    if operation < 0.55:
        node[key] = _other(random, node[key], donors)
    elif operation < 0.7:
        del node[key]
    elif operation < 0.8:  # a value from elsewhere
        other, at = places[int(random.random() * len(places))]
        node[key] = _copy(other[at])
    elif isinstance(node, list):
        if operation < 0.9:
            node.insert(int(random.random() * (len(node) + 1)), _copy(node[key]))
        else:
            at = int(random.random() * len(node))
            node[key], node[at] = node[at], node[key]
    elif operation < 0.9:
        node[changed_text(random, str(key))] = node.pop(key)
    else:
        node[random.choice(ODD_TEXTS)] = _copy(node[key])
    return value


def _is_list(node: Any) -> bool:
    return isinstance(node, list)


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value)) if isinstance(value, dict | list) else value


def _other(random: Random, value: Any, donors: Sequence[Any]) -> Any:
    """Another value: near the old one, or of another kind."""
    kind = random.random()
    if kind < 0.35:
        if isinstance(value, str):
            return changed_text(random, value)
        if isinstance(value, int | float):
            step = random.choice((-1, 1, 0.5, -0.5, 2, 100, -100))
            return value + step if abs(value) < 2**64 else -value
    if kind < 0.55:
        return random.choice(_NUMBERS)
    if kind < 0.75:
        return random.choice(ODD_TEXTS)
    if kind < 0.82 and donors:
        return _copy(random.choice(donors))
    if kind < 0.825:
        return _MARK
    return random.choice((None, True, False, [], {}, [[]], [None], {"": 0}, [0], ["a"], [value]))


def changed_text(random: Random, text: str) -> str:
    """Change one place of a text."""
    at = int(random.random() * (len(text) + 1))
    operation = random.random()
    if operation < 0.25:
        return text[:at] + random.choice(ODD_TEXTS) + text[at:]
    if operation < 0.45:
        return text[:at] + text[at + 1 :]
    if operation < 0.6:
        return (
            text[:at] + chr(random.choice((32, 47, 58, 64, 124, 43, 61, 44, 48, 0x663))) + text[at:]
        )
    if operation < 0.7:
        return text[:at]
    if operation < 0.8:
        return text + text[at:]
    if operation < 0.87:
        return text.upper() if random.random() < 0.5 else text.swapcase()
    if operation < 0.97:
        to = int(random.random() * (len(text) + 1))
        return text[: min(at, to)] + text[max(at, to) :]
    return random.choice(ODD_TEXTS)


def dump(random: Random, value: Any) -> bytes:
    """JSON of a value as UTF-8; the odd one in a way that few writers choose."""
    text = json.dumps(value, ensure_ascii=random.random() < 0.5, separators=(",", ":"))
    if _MARK[1:-1] in text:
        text = text.replace(json.dumps(_MARK), random.choice(_DEEP))
    if random.random() < 0.01:  # a name twice in one object
        text = text.replace("{", '{"text":1,"text":2,', 1)
    return text.encode("utf-8", "surrogatepass")


def changed_bytes(random: Random, data: bytes) -> bytes:
    """Change one place of bytes."""
    at = int(random.random() * (len(data) + 1))
    operation = random.random()
    if operation < 0.3:
        return data[:at] + random.choice(_PIECES) + data[at:]
    if operation < 0.5:
        return data[:at] + bytes([int(random.random() * 256)]) + data[at + 1 :]
    if operation < 0.65:
        return data[:at]
    if operation < 0.85:
        to = at + int(random.random() * 16)
        return data[:at] + data[to:]
    if operation < 0.95:
        lines = data.split(b"\n")
        i, j = (int(random.random() * len(lines)) for _ in range(2))
        lines[i], lines[j] = lines[j], lines[i]
        return b"\n".join(lines)
    return data[:at] + data


def maybe(random: Random, share: float, change: Callable[[Random, Any], Any], value: Any) -> Any:
    """Apply a change to that share of the values."""
    return change(random, value) if random.random() < share else value
