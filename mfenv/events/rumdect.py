"""Events in the original rumdect layout: a folder with one JSON list of posts per event.

The file ``<eid>.json`` is the event ``eid``. A post is an object with ``mid``, ``uid``, ``t``
(seconds), ``text``, ``parent`` (the mid it answers, null for the source), and of its author
``user_description``, ``user_location``, ``gender``, ``friends_count``, ``followers_count``,
``bi_followers_count``, ``verified``, ``verified_type``, ``reposts_count``, ``comments_count``,
``attitudes_count``; other fields are passed over. The source is the first post without a parent.

The order of the list means nothing in this layout, so posts are put in order of time (the source
first, ties as listed). Labels come from a file such as ``Weibo.txt`` in the folder or beside it,
with lines ``eid:ID<tab>label:0|1<tab>...`` (1 is a rumor); without it the label is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mfenv.errors import MfenvError
from mfenv.events import checks
from mfenv.events.checks import Draft, Fault, Intake
from mfenv.events.event import Event, Profile
from mfenv.events.quarantine import describe_os_error

__all__ = ["iter_rumdect"]

_PROFILE = {
    "user_location": "location",
    "user_description": "description",
    "gender": "gender",
    "friends_count": "friends",
    "followers_count": "followers",
    "bi_followers_count": "mutual",
    "verified": "verified",
    "verified_type": "verified_type",
    "reposts_count": "reposts",
    "comments_count": "comments",
    "attitudes_count": "likes",
}
_FILE_NAMES = {v: k for k, v in _PROFILE.items()}
_LABELS = {"0": "non-rumor", "1": "rumor"}


def iter_rumdect(path: Path, intake: Intake, event_ids: frozenset[str] | None) -> Iterator[Event]:
    """Yield the events of a folder in the order of their file names.

    ``path`` may also be the folder around the one with the JSON files. Raises ``MfenvError`` if
    there are no JSON files, ``DataError`` for a record that is malformed.
    """
    try:
        folder, files = _find(path)
        labels = _read_labels(folder, intake)
        for file in files:
            if event_ids is not None and file.stem not in event_ids:
                continue
            draft = _read(file, labels.get(file.stem), intake)
            event = None if draft is None else intake.accept(draft)
            if event is not None:
                yield event
    except OSError as e:
        raise MfenvError(f"{e.filename or path}: cannot read ({describe_os_error(e)})") from e


def _find(path: Path) -> tuple[Path, list[Path]]:
    for folder in (path, *sorted(p for p in path.iterdir() if p.is_dir())):
        files = sorted(p for p in folder.iterdir() if p.suffix == ".json" and p.is_file())
        if files:
            return folder, files
    others = sorted(p.name for p in path.iterdir() if p.suffix in (".parquet", ".jsonl"))
    hint = f"; load one of its files instead: {', '.join(others)}" if others else ""
    raise MfenvError(
        f"{path}: no <event id>.json in this folder (one JSON list of posts per event){hint}"
    )


def _read_labels(folder: Path, intake: Intake) -> dict[str, str]:
    """Read the labels that stand in the folder or beside it; an empty dict where none do."""
    names = dict.fromkeys(("Weibo.txt", f"{folder.name}.txt"))
    candidates = (place / name for place in (folder, folder.parent) for name in names)
    file = next((c for c in candidates if c.is_file()), None)
    labels: dict[str, str] = {}
    if file is None:
        return labels
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        fault: Fault | None = None
        fields: dict[str, str] = {}
        try:
            parts = line.decode("utf-8-sig").split("\t")
            fields = dict(p.strip().split(":", 1) for p in parts[:2] if ":" in p)
        except UnicodeDecodeError as e:
            fault = ("line", f"is not UTF-8 (byte {e.start})")
        event_id, label = fields.get("eid", ""), fields.get("label", "")
        if fault is None and line.strip():
            if not event_id:
                fault = ("eid", "missing; a line is eid:ID<tab>label:0|1<tab>...")
            elif label not in _LABELS:
                found = checks.show(label)
                fault = ("label", f"unknown value {found}; allowed: 0 (non-rumor), 1 (rumor)")
            elif event_id in labels:
                fault = ("eid", f"duplicate id {checks.show(event_id)}")
        if fault is not None:
            intake.reject(str(file), f"line {number}", fault, lambda line=line: line)  # type: ignore[misc]
        elif line.strip():
            labels[event_id] = _LABELS[label]
    return labels


def _read(file: Path, label: str | None, intake: Intake) -> Draft | None:
    data = file.read_bytes()
    posts, problem = checks.decode_json(data)
    if problem is not None:
        intake.reject(str(file), "file", ("JSON", problem), lambda: data)
        return None
    if not isinstance(posts, list):
        problem = f"must be a list of posts, is {checks.type_name(posts)}"
        intake.reject(str(file), "file", ("JSON", problem), lambda: posts)
        return None
    return _draft(file, label, posts)


def _draft(file: Path, label: str | None, posts: list[Any]) -> Draft:
    faults: dict[int, Fault] = {}
    position: dict[str, int] = {}  # of each mid in the list
    for i, post in enumerate(posts):
        fault = _post_fault(post)
        if fault is None and str(post["mid"]) in position:
            fault = ("mid", f"duplicate id {checks.show(post['mid'])}")
        if fault is not None:
            faults[i] = fault
        if isinstance(post, dict) and _is_id(post.get("mid")):
            position.setdefault(str(post["mid"]), i)

    sources = (i for i, p in enumerate(posts) if isinstance(p, dict) and "parent" in p)
    source = next((i for i in sources if _parent(posts[i]) is None), 0)
    head: Fault | None = None
    if posts and source not in faults and _parent(posts[source]):
        head = ("parent", "no post is the source; one must have the parent null")
    start = float(posts[source]["t"]) if posts and source not in faults else 0.0
    times = [0.0 if i in faults else float(p["t"]) - start for i, p in enumerate(posts)]
    for i, time in enumerate(times):
        if i not in faults and (problem := checks.number_problem(time)) is not None:
            faults[i] = ("t", problem)
    order = sorted(range(len(posts)), key=lambda i: (i != source, times[i]))
    rank = {i: k for k, i in enumerate(order)}

    n = len(posts)
    authors = np.zeros(n, dtype=np.int64)
    parents = np.full(n, -1, dtype=np.int64)
    texts: list[str | None] = [""] * n
    profiles: list[Profile | None] = [None] * n
    users: dict[str, int] = {}
    for k, i in enumerate(order):
        if i in faults:
            # Its place in the tree is still wanted, for the replies to it.
            above = position.get(_parent(posts[i]) or "") if isinstance(posts[i], dict) else None
            parents[k] = -1 if k == 0 else rank.get(above, 0) if above is not None else 0
            parents[k] = parents[k] if parents[k] < k else 0
            continue
        post = posts[i]
        authors[k] = users.setdefault(str(post["uid"]), len(users))
        texts[k] = post["text"]
        profiles[k] = _profile(post)
        mid = _parent(post)
        if mid is None:
            continue
        above = position.get(mid)
        if above is None:
            faults[i] = ("parent", f"unknown parent {checks.show(mid)}; no post has this mid")
        elif rank[above] >= k:
            faults[i] = ("parent", f"unknown parent {checks.show(mid)}; that post is not earlier")
        else:
            parents[k] = rank[above]
        if i in faults:
            parents[k] = 0
    return Draft(
        file=str(file),
        record="",
        event_id=file.stem,
        topic=None,
        topic_is_source=True,
        language="zh",
        label=label,
        source="rumdect",
        offsets=np.array([times[i] for i in order], dtype=np.float64),
        authors=authors,
        parents=parents,
        texts=texts,
        profiles=profiles,
        fault=head,
        faults={rank[i]: fault for i, fault in faults.items()},
        time_field="t",
        author_field="uid",
        post_name=lambda k: f"post {order[k]}",
        raw_event=lambda: posts,
        raw_post=lambda k: posts[order[k]],
    )


def _parent(post: dict[str, Any]) -> str | None:
    """The mid that a post answers; ``None`` for a source, which some files write as ""."""
    parent = post.get("parent")
    return None if parent is None or parent == "" else str(parent)


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def _post_fault(post: Any) -> Fault | None:
    if not isinstance(post, dict):
        return ("post", f"must be an object, is {checks.type_name(post)}")
    for name in ("mid", "uid"):
        if not _is_id(value := post.get(name)):
            return (name, f"must be an id (a string or an integer), is {checks.show(value)}")
    if "parent" not in post:
        return ("parent", "missing; it is a mid, or null for the source")
    if not (post["parent"] in (None, "") or _is_id(post["parent"])):
        return ("parent", f"must be a mid or null, is {checks.type_name(post['parent'])}")
    tests: tuple[tuple[str, Callable[[Any], str | None]], ...] = (
        ("text", checks.text_problem),
        ("t", checks.number_problem),
    )
    for name, test in tests:
        if (problem := test(post.get(name))) is not None:
            return (name, problem)
    if (fault := checks.profile_fault(_profile_values(post))) is not None:
        return (_FILE_NAMES[fault[0]], fault[1])
    return None


def _profile_values(post: dict[str, Any]) -> dict[str, Any]:
    values = {ours: post[name] for name, ours in _PROFILE.items() if post.get(name) is not None}
    if values.get("gender") in ("n", ""):  # Weibo's code for "not said"
        del values["gender"]
    return values


def _profile(post: dict[str, Any]) -> Profile | None:
    values = _profile_values(post)
    return Profile(**values) if values else None
