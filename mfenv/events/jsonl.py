"""Our own format: UTF-8 JSON Lines, one event a line.

::

    {"event_id": "e1", "topic": "...", "language": "en", "domain": "Health", "label": "false",
     "source": "corpus", "meta": {}, "posts": [
        {"t": 0, "author": 0, "parent": null, "text": "...", "kind": "source",
         "profile": {"gender": "f", "followers": 12, "verified": false}, "labels": "sczcnbso"},
        {"t": 61.5, "author": 1, "parent": 0, "text": "", "stance": "deny", "labels": "sczrnbop"}]}

Event: ``event_id`` (unique), ``topic`` (not empty), ``language`` (en, zh), ``domain`` (one of the
seven or null), ``label`` (rumor, non-rumor, true, false, unverified or null), ``source``,
``meta`` (anything), ``posts``. Required: event_id, topic, language, posts.

Post: ``t`` seconds since the source, never decreasing; ``author`` a number within the event;
``parent`` the index of an earlier post, or null for a source (the first post is one); ``text``
("" is a repost without words); ``kind`` (source, repost, comment or null); ``stance`` (support,
deny, query, comment or null); ``profile`` with the fields of :class:`~mfenv.events.Profile`;
``labels`` the eight letters of the exact labels (all posts of an event have them, or none).
Required: t, author, parent, text. A field of another name is an error: extras go into ``meta``.

What :func:`write_jsonl` writes reads back as the same event, to the bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mfenv.errors import MfenvError
from mfenv.events.event import Event, Profile
from mfenv.events.quarantine import atomic_path, describe_os_error
from mfenv.labels import N_DIMENSIONS, decode_code, encode_code

if TYPE_CHECKING:
    from mfenv.events.checks import Draft, Fault, Intake

__all__ = ["iter_jsonl", "write_jsonl"]

_EVENT_FIELDS = (
    "event_id",
    "topic",
    "language",
    "domain",
    "label",
    "source",
    "meta",
    "posts",
)
_POST_FIELDS = ("t", "author", "parent", "text", "kind", "stance", "profile", "labels")
_PROFILE_FIELDS = tuple(f.name for f in fields(Profile))


def write_jsonl(events: Iterable[Event], path: Path | str) -> int:
    """Write events as JSON Lines, replacing ``path`` in one move; return how many there were."""
    path = Path(path)
    part = atomic_path(path)
    n = 0
    try:
        with open(part, "wb") as stream:
            for event in events:
                stream.write(_line(_event_record(event)))
                n += 1
        os.replace(part, path)
    except OSError as e:
        raise MfenvError(f"{path}: cannot write ({describe_os_error(e)})") from e
    finally:
        part.unlink(missing_ok=True)
    return n


def _line(record: dict[str, Any]) -> bytes:
    def dump(ensure_ascii: bool) -> bytes:
        text = json.dumps(record, ensure_ascii=ensure_ascii, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8") + b"\n"

    try:
        return dump(False)
    except UnicodeEncodeError:  # a lone surrogate in somebody's extras; escapes can hold it
        return dump(True)


def _event_record(event: Event) -> dict[str, Any]:
    record: dict[str, Any] = {
        "event_id": event.event_id,
        "topic": event.topic,
        "language": event.language,
        "domain": event.domain,
        "label": event.label,
        "source": event.source,
        "meta": dict(event.meta),
    }
    posts = []
    for i, post in enumerate(event.posts):
        out: dict[str, Any] = {
            "t": int(post.offset) if post.offset.is_integer() else post.offset,
            "author": post.author,
            "parent": post.parent,
            "text": post.text,
        }
        if post.kind is not None:
            out["kind"] = post.kind
        if post.stance is not None:
            out["stance"] = post.stance
        if post.profile is not None:
            known = ((f, getattr(post.profile, f)) for f in _PROFILE_FIELDS)
            out["profile"] = {f: v for f, v in known if v is not None}
        if event.labels is not None:
            out["labels"] = decode_code(event.labels[i])
        posts.append(out)
    record["posts"] = posts
    return record


def iter_jsonl(path: Path, intake: Intake, event_ids: frozenset[str] | None) -> Iterator[Event]:
    """Yield the events of a JSON Lines file. Empty lines are passed over."""
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    event = _event(str(path), f"line {number}", line, intake, event_ids)
                    if event is not None:
                        yield event
    except OSError as e:
        raise MfenvError(f"{path}: cannot read ({describe_os_error(e)})") from e


def _event(
    file: str, name: str, line: bytes, intake: Intake, event_ids: frozenset[str] | None
) -> Event | None:
    from mfenv.events.checks import decode_json

    record, problem = decode_json(line)
    if problem is None and not isinstance(record, dict):
        problem = "must be a JSON object, one event a line"
    if problem is not None:
        intake.reject(file, name, ("line", problem), lambda: line)
        return None
    event_id = record.get("event_id")
    if event_ids is not None and not (isinstance(event_id, str) and event_id in event_ids):
        return None
    return intake.accept(_draft(file, name, record))


def _draft(file: str, name: str, record: dict[str, Any]) -> Draft:
    from mfenv.events.checks import Draft, index_problem, type_name

    fault = _unknown_field(record, _EVENT_FIELDS)
    posts = record.get("posts")
    if not isinstance(posts, list):
        fault = fault or ("posts", f"must be a list of posts, is {type_name(posts)}")
        posts = []
    meta = record.get("meta")
    meta = {} if meta is None else meta
    if not isinstance(meta, dict):
        fault = fault or ("meta", f"must be an object, is {type_name(meta)}")
        meta = {}
    n = len(posts)
    post_meta = meta.get("posts", {})
    aligned = isinstance(post_meta, dict) and all(
        isinstance(v, list) and len(v) == n for v in post_meta.values()
    )
    if not aligned:
        fault = fault or ("meta.posts", f"must hold lists with one entry per post ({n})")
        post_meta = {}

    offsets = np.zeros(n)
    authors = np.zeros(n, dtype=np.int64)
    parents = np.full(n, -1, dtype=np.int64)
    texts: list[str | None] = [None] * n
    kinds: list[Any] = [None] * n
    stances: list[Any] = [None] * n
    profiles: list[Profile | None] = [None] * n
    labels = np.zeros((n, N_DIMENSIONS), dtype=np.int8)
    labelled = any(isinstance(p, dict) and p.get("labels") is not None for p in posts)
    faults: dict[int, Fault] = {}
    for i, post in enumerate(posts):
        problem = _post_fault(post, i, labelled)
        if problem is not None:
            faults[i] = problem
            # Its place in the tree is still wanted, for the replies to it.
            parent: Any = post.get("parent") if isinstance(post, dict) else None
            known = index_problem(parent) is None and parent < i
            parents[i] = parent if known else min(i - 1, 0)
            continue
        offsets[i] = float(post["t"])
        authors[i] = post["author"]
        parents[i] = -1 if post["parent"] is None else post["parent"]
        texts[i] = post["text"]
        kinds[i], stances[i] = post.get("kind"), post.get("stance")
        if post.get("profile") is not None:
            profiles[i] = Profile(**post["profile"])
        if labelled:
            labels[i] = encode_code(post["labels"])
    return Draft(
        file=file,
        record=name,
        event_id=record.get("event_id"),
        topic=record.get("topic"),
        language=record.get("language"),
        domain=record.get("domain"),
        label=record.get("label"),
        source=record.get("source", ""),
        offsets=offsets,
        authors=authors,
        parents=parents,
        texts=texts,
        kinds=kinds,
        stances=stances,
        profiles=profiles,
        labels=labels if labelled else None,
        meta={k: v for k, v in meta.items() if k != "posts"},
        post_meta=post_meta,
        fault=fault,
        faults=faults,
        one_source=False,
        time_field="t",
        author_field="author",
        raw_event=lambda: record,
        raw_post=lambda i: posts[i],
    )


def _unknown_field(record: dict[str, Any], allowed: tuple[str, ...]) -> Fault | None:
    from mfenv.events.checks import show_name

    for name in record:
        if name not in allowed:
            return (show_name(name), f"unknown field; allowed: {', '.join(allowed)}")
    return None


def _post_fault(post: Any, index: int, labelled: bool) -> Fault | None:
    """Return the first thing wrong with the types of a post; ranges are checked by column."""
    from mfenv.events import checks

    if not isinstance(post, dict):
        return ("posts", f"a post must be an object, is {checks.type_name(post)}")
    for name in ("t", "author", "parent"):
        if name not in post:
            return (name, "missing")
    tests: tuple[tuple[str, Callable[[Any], str | None]], ...] = (
        ("text", checks.text_problem),
        ("t", checks.number_problem),
        ("author", checks.index_problem),
        ("parent", lambda v: None if v is None else checks.index_problem(v)),
        ("kind", lambda v: checks.choice_problem(v, checks.KINDS)),
        ("stance", lambda v: checks.choice_problem(v, checks.STANCES)),
        ("profile", lambda v: None),
    )
    for name, test in tests:
        if (problem := test(post.get(name))) is not None:
            return (name, problem)
    if (fault := _unknown_field(post, _POST_FIELDS)) is not None:
        return fault
    if (profile := post.get("profile")) is not None:
        if not isinstance(profile, dict):
            return ("profile", f"must be an object, is {checks.type_name(profile)}")
        if (fault := _unknown_field(profile, _PROFILE_FIELDS)) is not None:
            return ("profile." + fault[0], fault[1])
        if (fault := checks.profile_fault(profile)) is not None:
            return ("profile." + fault[0], fault[1])
    if labelled:
        if not isinstance(post.get("labels"), str):
            return ("labels", "missing; all posts of an event have labels, or none")
        try:
            encode_code(post["labels"])
        except ValueError as e:
            return ("labels", str(e))
    return None
