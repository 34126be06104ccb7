"""The checks that every format shares: a draft of an event goes in, an ``Event`` comes out.

A loader turns its records into a :class:`Draft` (columns, plus the faults that it found on the
way, such as a wrong type). :class:`Intake` checks what the columns mean, puts bad posts and bad
events aside, and hangs the replies to a post put aside on the source of their thread.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfenv.events.event import DOMAINS, Event, Posts, Profile
from mfenv.events.quarantine import LoadReport, Quarantine
from mfenv.labels import Labels

__all__ = [
    "COUNTS",
    "EVENT_LABELS",
    "GENDERS",
    "KINDS",
    "LANGUAGES",
    "MAX_TEXT_BYTES",
    "STANCES",
    "Draft",
    "Fault",
    "Intake",
    "choice_problem",
    "decode_json",
    "index_problem",
    "integer_problem",
    "number_problem",
    "profile_fault",
    "show",
    "show_name",
    "text_problem",
    "type_name",
]

MAX_TEXT_BYTES = 1_000_000
LANGUAGES = ("en", "zh")
EVENT_LABELS = ("rumor", "non-rumor", "true", "false", "unverified")
KINDS = ("source", "repost", "comment")
STANCES = ("support", "deny", "query", "comment")
GENDERS = ("m", "f")
COUNTS = ("friends", "followers", "mutual", "reposts", "comments", "likes")
_MAX_ID_LENGTH = 200
_INT32_MAX = 2**31 - 1

Fault = tuple[str, str]
"""The field and what is wrong with it."""


def show(value: Any) -> str:
    """Show an untrusted value on one line: escaped and cut."""
    out = repr(value)
    return out if len(out) <= 60 else out[:57] + "..."


def show_name(name: str) -> str:
    """Show an untrusted name of a field or column: as it is where it is plain, else escaped."""
    return name if name.isidentifier() and len(name) <= 60 else show(name)


def type_name(value: Any) -> str:
    """Name the JSON type of ``value``."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def text_problem(value: Any, *, empty: bool = True) -> str | None:
    """Say what is wrong with a text, or ``None``. ``empty`` allows a text without words."""
    if value is None:
        return "no text"
    if not isinstance(value, str):
        return f"must be a string, is {type_name(value)}"
    if not empty and not value.strip():
        return "must not be empty"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "is no valid Unicode (lone surrogate)"
    if size > MAX_TEXT_BYTES:
        return f"is {size:,} bytes long; at most {MAX_TEXT_BYTES:,} are allowed"
    return None


def choice_problem(value: Any, allowed: Sequence[str]) -> str | None:
    """Say what is wrong with a value that is null or one of ``allowed``, or ``None``."""
    if value is None or (isinstance(value, str) and value in allowed):
        return None
    return f"unknown value {show(value)}; allowed: {', '.join(allowed)} or null"


def number_problem(value: Any) -> str | None:
    """Say what is wrong with a time in seconds, or ``None``; a boolean is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"must be a number of seconds, is {type_name(value)}"
    try:
        seconds = float(value)
    except OverflowError:
        return "is too large for a number of seconds"
    return _time_problem(seconds)


def integer_problem(value: Any, *, minimum: int | None = 0, null: bool = False) -> str | None:
    """Say what is wrong with an integer, or ``None``; a boolean is no number."""
    if value is None and null:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        return f"must be an integer, is {show(value)}"
    if minimum is not None and value < minimum:
        return f"must be at least {minimum}, is {show(value)}"
    return None


def index_problem(value: Any) -> str | None:
    """Say what is wrong with an index (a number of a post or an author), or ``None``."""
    problem = integer_problem(value)
    if problem is None and value > _INT32_MAX:
        return f"is too large: {show(value)}"
    return problem


def profile_fault(profile: Mapping[str, Any]) -> Fault | None:
    """Return the first field of a profile (names as in ``Profile``) that is wrong, or ``None``."""
    for name, value in profile.items():
        problem: str | None = None
        if value is None:
            continue
        if name in ("location", "description"):
            problem = text_problem(value)
        elif name == "gender":
            problem = choice_problem(value, GENDERS)
        elif name == "verified":
            if not isinstance(value, bool):
                problem = f"must be true or false, is {show(value)}"
        else:
            problem = integer_problem(value, minimum=0 if name in COUNTS else None)
        if problem is not None:
            return (name, problem)
    return None


def decode_json(data: bytes) -> tuple[Any, str | None]:
    """Decode JSON in UTF-8; return the value and ``None``, or ``None`` and what is wrong."""
    try:
        return json.loads(data.decode("utf-8-sig")), None
    except UnicodeDecodeError as e:
        return None, f"is not UTF-8 (byte {e.start}); convert the file to UTF-8"
    except RecursionError:
        return None, "is nested too deeply"
    except ValueError as e:
        return None, f"is not JSON ({e})"


def _time_problem(seconds: float) -> str | None:
    if not np.isfinite(seconds):
        return f"must be a finite number of seconds, is {seconds}"
    if seconds < 0:
        return f"must not be negative, is {seconds:g} (seconds since the source)"
    return None


@dataclass(slots=True)
class Draft:
    """An event as read, by column, with the faults found so far.

    Columns have length ``n``: ``offsets`` float64, ``authors`` and ``parents`` int (a parent of
    -1 is a source). A post in ``faults`` may have any placeholder in the columns.
    """

    file: str
    record: str  # how to find the event in the file
    event_id: Any
    topic: Any  # the text of the source if `topic_is_source`
    language: Any
    offsets: NDArray[np.float64]
    authors: NDArray[np.int64]
    parents: NDArray[np.int64]
    texts: Sequence[str | None]
    raw_event: Callable[[], Any]
    raw_post: Callable[[int], Any]
    domain: Any = None
    label: Any = None
    source: Any = ""
    kinds: Sequence[str | None] | None = None
    stances: Sequence[str | None] | None = None
    profiles: Sequence[Profile | None] | None = None
    labels: Labels | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    post_meta: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # columns of length n
    fault: Fault | None = None  # of the event as a whole
    faults: dict[int, Fault] = field(default_factory=dict)  # of single posts
    topic_is_source: bool = False
    one_source: bool = True  # only the first post may lack a parent
    time_field: str = "t_offset"
    author_field: str = "user"
    post_name: Callable[[int], str] = "post {}".format


class Intake:
    """Checks drafts, sends what is bad to ``quarantine`` and counts into ``report``."""

    def __init__(self, quarantine: Quarantine, report: LoadReport) -> None:
        self.quarantine = quarantine
        self.report = report
        self._seen: set[str] = set()

    def reject(self, file: str, record: str, fault: Fault, raw: Callable[[], Any]) -> None:
        """Put one record aside, or raise ``DataError`` where nothing may be put aside."""
        self.quarantine.add(file, record, *fault, raw)
        self.report.quarantined += 1

    def accept(self, draft: Draft) -> Event | None:
        """Return the event without its bad posts, or ``None`` if it cannot stand."""
        faults = draft.faults
        _check_posts(draft)
        head = (
            draft.fault or _head_fault(draft) or self._first_seen(draft.event_id, len(draft.texts))
        )
        if head is not None:
            self.reject(draft.file, draft.record, head, draft.raw_event)
        for i in sorted(faults):
            name, problem = faults[i]
            record = f"{draft.record}, {draft.post_name(i)}" if draft.record else draft.post_name(i)
            if i == 0 and head is None:
                # Without its source an event cannot stand: the whole of it is put aside.
                self.reject(draft.file, record, (name, f"{problem} (source post)"), draft.raw_event)
            else:
                self.reject(draft.file, record, (name, problem), partial(draft.raw_post, i))
        if head is not None or 0 in faults:
            return None
        event = _build(draft) if not faults else self._build_kept(draft)
        self.report.events += 1
        self.report.posts += len(event.posts)
        return event

    def head_fault(self, event_id: Any, posts: int) -> Fault | None:
        """Say what is wrong with an event of which only its id and its size have been read."""
        return _id_fault(event_id) or self._first_seen(event_id, posts)

    def _first_seen(self, event_id: str, posts: int) -> Fault | None:
        if event_id in self._seen:
            return ("event_id", f"duplicate id {show(event_id)}")
        self._seen.add(event_id)
        return None if posts > 0 else ("posts", "must hold at least one post, the source")

    def _build_kept(self, draft: Draft) -> Event:
        n = len(draft.texts)
        keep = np.ones(n, dtype=bool)
        keep[list(draft.faults)] = False
        parents = draft.parents
        root = np.zeros(n, dtype=np.int64)
        for i in range(n):  # parents come before their children, except in a bad post
            p = int(parents[i])
            root[i] = (i if p < 0 else root[p]) if p < i else 0
        lost = keep & (parents >= 0) & ~keep[np.maximum(parents, 0) % n]
        root = np.where(keep[root], root, 0)
        new_index = np.cumsum(keep) - 1
        parents = np.where(lost, root, parents)
        draft.parents = np.where(parents < 0, -1, new_index[np.maximum(parents, 0) % n])[keep]
        self.report.reparented += int(lost.sum())
        draft.offsets, draft.authors = draft.offsets[keep], draft.authors[keep]
        index = np.flatnonzero(keep).tolist()
        draft.texts = [draft.texts[i] for i in index]
        for name in ("kinds", "stances", "profiles"):
            column = getattr(draft, name)
            if column is not None:
                setattr(draft, name, [column[i] for i in index])
        if draft.labels is not None:
            draft.labels = draft.labels[keep]
        draft.post_meta = {k: [v[i] for i in index] for k, v in draft.post_meta.items()}
        return _build(draft)


def _id_fault(event_id: Any) -> Fault | None:
    problem = text_problem(event_id, empty=False)
    if problem is None and len(event_id) > _MAX_ID_LENGTH:
        problem = f"is longer than {_MAX_ID_LENGTH} characters"
    return None if problem is None else ("event_id", problem.replace("no text", "missing"))


def _head_fault(draft: Draft) -> Fault | None:
    if (fault := _id_fault(draft.event_id)) is not None:
        return fault
    problem = None if draft.topic_is_source else text_problem(draft.topic, empty=False)
    if problem is not None:
        return ("topic", problem)
    if draft.language not in LANGUAGES:
        allowed = ", ".join(LANGUAGES)
        return ("language", f"unknown value {show(draft.language)}; allowed: {allowed}")
    if (problem := choice_problem(draft.domain, DOMAINS)) is not None:
        return ("domain", problem)
    if (problem := choice_problem(draft.label, EVENT_LABELS)) is not None:
        return ("label", problem)
    if not isinstance(draft.source, str):
        return ("source", f"must be a string, is {type_name(draft.source)}")
    return _meta_fault(draft)


def _meta_fault(draft: Draft) -> Fault | None:
    """Extras are kept as they are, so they must be what JSON can hold."""
    if not draft.meta and not draft.post_meta:
        return None
    try:
        json.dumps([draft.meta, draft.post_meta], allow_nan=False)
    except RecursionError:
        return ("meta", "is nested too deeply")
    except (TypeError, ValueError) as error:
        return ("meta", f"must be values of JSON: {error}")
    return None


def _check_posts(draft: Draft) -> None:
    """Add to ``draft.faults`` what is wrong with the posts; the first fault of a post counts."""
    faults, n = draft.faults, len(draft.texts)
    if n == 0:
        return

    def add(mask: NDArray[np.bool_], name: str, problem: Callable[[int], str]) -> None:
        for i in np.flatnonzero(mask).tolist():
            faults.setdefault(i, (name, problem(i)))

    texts, offsets = draft.texts, draft.offsets
    authors, parents = draft.authors, draft.parents
    # Characters bound bytes from below within a factor of four, so most texts need no encoding.
    for i, text in enumerate(texts):
        unsure = text is None or len(text) > MAX_TEXT_BYTES // 4
        if unsure and (problem := text_problem(text)) is not None:
            faults.setdefault(i, ("text", problem))
    if draft.kinds is not None:
        _check_choices(faults, "kind", draft.kinds, KINDS)
    if draft.stances is not None:
        _check_choices(faults, "stance", draft.stances, STANCES)
    bad_time = ~np.isfinite(offsets) | (offsets < 0)
    if bad_time.any():
        add(bad_time, draft.time_field, lambda i: _time_problem(float(offsets[i])) or "")
    bad_author = (authors < 0) | (authors > _INT32_MAX)
    if bad_author.any():
        add(bad_author, draft.author_field, lambda i: f"unknown user {authors[i]}")
    own = np.arange(n)
    bad_parent = (parents >= own) | (parents < -1)
    if bad_parent.any():
        add(
            bad_parent,
            "parent",
            lambda i: (
                "the first post is the source and must have the parent null"
                if i == 0
                else f"unknown parent {parents[i]}; allowed: 0 to {i - 1} (an earlier post)"
                + ("" if draft.one_source else " or null")
            ),
        )
    sources = parents == -1
    if draft.one_source and int(sources.sum()) > 1:
        later = sources & (own > 0)
        add(later, "parent", lambda i: "no parent; only the first post, the source, has none")
    for i in np.flatnonzero(sources).tolist():
        if i not in faults and (problem := text_problem(texts[i], empty=False)) is not None:
            faults[i] = ("text", f"{problem} in a source post")
    if n > 1 and bool(np.any(np.diff(offsets) < 0)):
        good = [i for i in range(n) if i not in faults]
        for i in _out_of_order(offsets, good):
            faults[i] = (draft.time_field, f"{offsets[i]:g} breaks the order of time")


def _check_choices(
    faults: dict[int, Fault], name: str, values: Sequence[str | None], allowed: Sequence[str]
) -> None:
    if set(values) <= {None, *allowed}:
        return
    for i, value in enumerate(values):
        if (problem := choice_problem(value, allowed)) is not None:
            faults.setdefault(i, (name, problem))


def _out_of_order(offsets: NDArray[np.float64], good: Sequence[int]) -> list[int]:
    """Return the fewest of the ``good`` posts to leave out so that time does not decrease.

    The rest is a longest non-decreasing subsequence, so one wrong clock costs one post; among
    equals the later post goes. The first post stays: it is the source.
    """
    if not good:
        return []
    # Patience sorting from the end, on negated times: the source, the earliest, closes every run.
    tails: list[float] = []
    tail_index: list[int] = []
    after: dict[int, int] = {}
    for i in reversed(good):
        t = -float(offsets[i])
        if -t < offsets[good[0]]:
            continue
        k = bisect.bisect_right(tails, t)
        after[i] = tail_index[k - 1] if k else -1
        tails[k : k + 1], tail_index[k : k + 1] = [t], [i]
    kept, i = set(), tail_index[-1]
    while i >= 0:
        kept.add(i)
        i = after[i]
    return [i for i in good if i not in kept]


def _build(draft: Draft) -> Event:
    def column(values: Sequence[Any] | None) -> Sequence[Any] | None:
        return values if values is not None and any(v is not None for v in values) else None

    meta = dict(draft.meta)
    if draft.post_meta:
        meta["posts"] = {k: list(v) for k, v in draft.post_meta.items()}
    posts = Posts(
        offsets=np.ascontiguousarray(draft.offsets, dtype=np.float64),
        authors=draft.authors.astype(np.int32),
        parents=draft.parents.astype(np.int32),
        texts=draft.texts,  # type: ignore[arg-type]  # no None is left after the checks
        kinds=column(draft.kinds),
        stances=column(draft.stances),
        profiles=column(draft.profiles),
    )
    return Event(
        event_id=draft.event_id,
        topic=posts.texts[0] if draft.topic_is_source else draft.topic,
        posts=posts,
        language=draft.language,
        domain=draft.domain,
        label=draft.label,
        source=draft.source,
        labels=draft.labels,
        meta=meta,
    )
