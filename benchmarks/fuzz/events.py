"""Fuzz targets: the loaders of events, strict and with bad records put aside."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.fuzz.mutate import changed_bytes, changed_value, dump, rounds
from benchmarks.fuzz.target import LONGEST, Target, pack, pick, unpack
from mfenv.errors import MfenvError
from mfenv.events.event import Event, Posts, Profile
from mfenv.events.jsonl import write_jsonl
from mfenv.events.load import EventReader, iter_heads, load_events
from mfenv.events.quarantine import Quarantine
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.labels import N_DIMENSIONS, decode_code

__all__ = ["TARGETS"]

_POSTS = 4


@functools.cache
def examples() -> tuple[Event, ...]:
    """Small events with everything that an event can have."""
    made = SyntheticSociety(9).events(2, n_posts=_POSTS)
    posts = Posts(
        offsets=np.array([0.0, 1.5, 1.5, 60.0]),
        authors=np.array([0, 1, 2, 1], dtype=np.int32),
        parents=np.array([-1, 0, 1, -1], dtype=np.int32),
        texts=["桥封了 “bridge”", "", "really? 😀", "no\nline"],
        kinds=["source", "repost", None, "comment"],
        stances=[None, "deny", "query", None],
        profiles=[
            Profile("a", "b", "f", 1, 2, 3, True, -1, 4, 5, 6),
            None,
            Profile(followers=0),
            Profile(verified=False),
        ],
    )
    meta = {"posts": {"thread": [0, 0, 0, 1]}, "note": {"a": [1, 2.5, None]}}
    own = Event("own", "a topic", posts, "zh", "Health", "rumor", "own", None, meta)
    return (*made, own)


# -- what has been read ----------------------------------------------------------------------


def check_events(events: Sequence[Event]) -> None:
    """Assert what every reader of events relies on."""
    assert len({e.event_id for e in events}) == len(events)
    for event in events:
        posts, n = event.posts, len(event.posts)
        assert n > 0
        assert event.topic
        assert event.language in ("en", "zh")
        assert posts.offsets.shape == posts.authors.shape == posts.parents.shape == (n,)
        assert np.isfinite(posts.offsets).all()
        assert (np.diff(posts.offsets) >= 0).all()
        assert (posts.parents < np.arange(n)).all()
        assert posts.parents[0] == -1
        assert (posts.parents >= -1).all()
        assert (posts.authors >= 0).all()
        assert all(isinstance(text, str) for text in posts.texts)
        assert posts.texts[0].strip()
        for column in (posts.kinds, posts.stances, posts.profiles):
            assert column is None or len(column) == n
        if event.labels is not None:
            assert event.labels.shape == (n, N_DIMENSIONS)
            assert [decode_code(row) for row in event.labels]


def read_all(path: Path, folder: Path, *, heads: bool = True) -> None:
    """Load in every way; what one way refuses another may take, but none may crash."""
    aside = folder / "aside.jsonl"
    try:
        kept = load_events(path, skip_bad=aside)
        check_events(kept)
        again = folder / "again.jsonl"
        if kept:
            write_jsonl(kept, again)
            check_same(kept, load_events(again))
        if aside.exists():
            for line in aside.read_bytes().splitlines():
                json.loads(line, parse_constant=_refuse)
    except MfenvError:
        kept = None
    finally:
        for file in (aside, folder / "again.jsonl"):
            file.unlink(missing_ok=True)
    listed = Quarantine(keep_going=True)
    try:
        validated = list(EventReader(path, errors=listed))
    except MfenvError:
        validated = None
    if kept is not None and validated is not None:
        assert [e.event_id for e in kept] == [e.event_id for e in validated]
    for error in listed.errors:
        assert "\n" not in str(error), "a message of many lines"
        assert len(str(error)) < LONGEST, "a message that is too long"
    if heads:
        with contextlib.suppress(MfenvError):
            list(iter_heads(path))
    check_events(load_events(path))  # strict: this one's error is judged


def _refuse(name: str) -> None:
    raise AssertionError(f"the quarantine file is no strict JSON: {name}")


def check_same(before: Sequence[Event], after: Sequence[Event]) -> None:
    """Assert that what was written reads back as the same events."""
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        assert list(a.posts) == list(b.posts), "posts differ after writing and reading"
        bare = [replace(e, posts=a.posts, labels=None, meta={}) for e in (a, b)]
        assert bare[0] == bare[1], "the head differs after writing and reading"
        assert (a.labels is None) == (b.labels is None)
        assert a.labels is None or np.array_equal(a.labels, np.asarray(b.labels))


# -- JSON Lines ------------------------------------------------------------------------------


@functools.cache
def _lines() -> tuple[bytes, ...]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.jsonl"
        write_jsonl(examples(), path)
        return tuple(path.read_bytes().splitlines())


def make_jsonl(random: Random) -> bytes:
    """One or two events, at least one of them changed."""
    lines = [pick(random, _lines()) for _ in range(1 if random.random() < 0.8 else 2)]
    if random.random() < 0.85:
        value = json.loads(lines[0])
        for _ in range(rounds(random)):
            value = changed_value(random, value)
        lines[0] = dump(random, value)
    data = b"\n".join(lines) + b"\n"
    if random.random() < 0.3:
        for _ in range(rounds(random)):
            data = changed_bytes(random, data)
    return data


def read_jsonl(data: bytes, folder: Path) -> None:
    """The loader of our own format."""
    path = folder / "events.jsonl"
    path.write_bytes(data)
    read_all(path, folder, heads=False)


# -- the rumdect layout ----------------------------------------------------------------------


def _rumdect() -> dict[str, Any]:
    names = ("m0", "m1", "m2", 3)
    return {
        "ev1.json": [
            {
                "mid": mid,
                "uid": 10 + i,
                "t": 1_300_000_000 + i,
                "text": ("桥封了", "真的吗", "", "假的")[i],
                "parent": (None, "m0", "m1", "")[i] if i < 3 else "m0",
                "gender": ("f", "m", "n", "")[i],
                "verified": i == 0,
                "verified_type": -1,
                "followers_count": i,
                "user_description": "d",
                "user_location": None,
            }
            for i, mid in enumerate(names)
        ]
    }


_LABELS = b"eid:ev1\tlabel:1\tm0 m1\neid:ev2\tlabel:0\n"


def make_rumdect(random: Random) -> bytes:
    """A folder with one event and labels, one of them changed."""
    labels = _LABELS
    value = _rumdect()["ev1.json"]
    if random.random() < 0.15:
        for _ in range(rounds(random)):
            labels = changed_bytes(random, labels)
    else:
        for _ in range(rounds(random)):
            value = changed_value(random, value)
    data = dump(random, value)
    if random.random() < 0.2:
        data = changed_bytes(random, data)
    return pack({"ev1.json": data, "Weibo.txt": labels})


def read_rumdect(data: bytes, folder: Path) -> None:
    """The loader of the original layout."""
    place = folder / "rumdect"
    place.mkdir(exist_ok=True)
    for name, content in unpack(data).items():
        (place / name).write_bytes(content)
    read_all(place, folder, heads=False)


# -- Parquet ---------------------------------------------------------------------------------


@functools.cache
def _tables() -> tuple[Any, ...]:
    """(schema, rows) of each of the four schemas, as JSON values."""
    import pyarrow as pa

    text, whole, real, boolean = pa.string(), pa.int32(), pa.float64(), pa.bool_()
    head = [(n, text) for n in ("event_id", "source", "label", "domain", "topic")]
    first = {"source": "s", "label": None, "domain": "News", "topic": "a topic"}
    profile = asdict(Profile(followers=3))
    assert profile
    weibo = [
        *(("t_offset", real), ("kind", text), ("user", whole), ("parent", whole), ("text", text)),
        *(("gender", text), ("followers_count", whole), ("verified", boolean), ("location", text)),
    ]
    weibo_posts = [
        {"t_offset": 0.0, "kind": "source", "user": 0, "parent": None, "text": "桥封了",
         "gender": "f", "followers_count": 7, "verified": True, "location": "x"},
        {"t_offset": 5.0, "kind": None, "user": 1, "parent": 0, "text": "",
         "gender": None, "followers_count": None, "verified": None, "location": None},
    ]  # fmt: skip
    thread = [
        *(("t_offset", real), ("user", whole), ("parent", whole), ("text", text), ("stance", text)),
        *(("favorite_count", whole), ("retweet_count", whole)),
    ]
    thread_posts = [
        {"t_offset": 0.0, "user": 0, "parent": None, "text": "closed", "stance": "support",
         "favorite_count": 1, "retweet_count": 2, "thread": 0, "in_rumour_thread": True},
        {"t_offset": 9.0, "user": 1, "parent": 0, "text": "no", "stance": None,
         "favorite_count": None, "retweet_count": 0, "thread": 0, "in_rumour_thread": False},
    ]  # fmt: skip
    user = pa.list_(pa.struct([("location", text), ("followers_count", whole),
                               ("verified", boolean)]))  # fmt: skip
    users = [{"location": "x", "followers_count": 5, "verified": False}, None]
    about = pa.list_(pa.struct([(n, text) for n in ("rumoureval_id", "topic", "story", "label")]))
    threads = [{"rumoureval_id": "r", "topic": "a topic", "story": None, "label": "true"}]
    rnr = [*(f for f in thread if f[0] != "parent"), ("in_rumour_thread", boolean)]

    def posts(fields: list[Any], values: list[dict[str, Any]]) -> tuple[Any, list[Any]]:
        names = [name for name, _ in fields]
        return pa.list_(pa.struct(fields)), [{n: v[n] for n in names} for v in values]

    made = []
    for fields, values, more in (
        (weibo, weibo_posts, {}),
        (thread, thread_posts, {"users": (user, users)}),
        (
            [*thread, ("thread", whole)],
            thread_posts,
            {"users": (user, users), "threads": (about, threads)},
        ),
        (rnr, thread_posts, {}),
    ):
        kind, rows = posts(fields, values)  # type: ignore[arg-type]
        schema = [*head, ("posts", kind), *((n, t) for n, (t, _) in more.items())]
        whole_row = {**first, "posts": rows, **{n: v for n, (_, v) in more.items()}}
        made.append((schema, [{"event_id": f"e{i}", **whole_row} for i in range(2)]))
    return tuple(made)


def make_parquet(random: Random) -> bytes:
    """A table in one of the four schemas: values, types or bytes changed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, rows = pick(random, _tables())
    rows = json.loads(json.dumps(rows))
    for _ in range(rounds(random)):
        rows = changed_value(random, rows)
    rows = [r for r in rows if isinstance(r, dict)] if isinstance(rows, list) else []
    declared = pa.schema(_changed_schema(random, schema))
    stream = io.BytesIO()
    try:
        table = pa.Table.from_pylist(rows, schema=declared)
    except (
        pa.ArrowException,
        TypeError,
        ValueError,
        OverflowError,
        AttributeError,
        RecursionError,
    ):
        try:  # let Arrow choose the types
            table = pa.Table.from_pylist(rows)
        except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError,
                RecursionError):  # fmt: skip
            table = pa.Table.from_pylist(_tables()[0][1], schema=pa.schema(_tables()[0][0]))
    try:
        pq.write_table(table, stream, row_group_size=1, compression="none")
    except (pa.ArrowException, UnicodeEncodeError, ValueError):
        stream = io.BytesIO()
        pq.write_table(pa.table({"event_id": ["x"]}), stream)
    data = stream.getvalue()
    if random.random() < 0.25:
        for _ in range(rounds(random)):
            data = changed_bytes(random, data)
    return data


def _changed_schema(random: Random, schema: list[Any]) -> list[Any]:
    """Columns, one of them now and then of another type, left out, or of another name."""
    import pyarrow as pa

    if random.random() < 0.6:
        return schema
    types = (
        *(pa.string(), pa.large_string(), pa.int8(), pa.int64(), pa.uint64(), pa.float32()),
        *(pa.float16(), pa.bool_(), pa.null(), pa.binary(), pa.dictionary(pa.int32(), pa.string())),
        *(pa.timestamp("s"), pa.decimal128(9, 2), pa.list_(pa.int32()), pa.large_list(pa.string())),
    )
    schema = list(schema)
    at = int(random.random() * len(schema))
    name, kind = schema[at]
    if pa.types.is_list(kind) and random.random() < 0.8:
        fields = [(f.name, f.type) for f in kind.value_type]
        inner = int(random.random() * len(fields))
        if random.random() < 0.8:
            fields[inner] = (fields[inner][0], pick(random, types))
        else:
            del fields[inner]
        schema[at] = (name, pa.list_(pa.struct(fields)))
    elif random.random() < 0.8:
        schema[at] = (name, pick(random, types))
    else:
        del schema[at]
    return schema


def read_parquet(data: bytes, folder: Path) -> None:
    """The loader of the four schemas."""
    path = folder / "events.parquet"
    path.write_bytes(data)
    read_all(path, folder)


TARGETS = (
    Target("jsonl", "events as JSON Lines", make_jsonl, read_jsonl, 0.025),
    Target(
        "rumdect", "events in the rumdect layout", make_rumdect, read_rumdect, 0.02, packed=True
    ),
    Target("parquet", "events as Parquet", make_parquet, read_parquet, 0.002),
)
