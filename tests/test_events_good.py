"""Loading, storing and describing well-formed events; the order of time as an invariant."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mfenv.cli import main
from mfenv.errors import MfenvError
from mfenv.events import Event, Posts, Profile, iter_heads, load_events, write_jsonl
from mfenv.events.event import Post
from mfenv.labels import encode_code

DATA = Path(os.environ.get("MFENV_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))


def data_file(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is absent; set MFENV_DATA to the data folder")
    return DATA / name


def assert_same(a: Event, b: Event) -> None:
    for name in ("event_id", "topic", "language", "domain", "label", "source"):
        assert getattr(a, name) == getattr(b, name)
    assert dict(a.meta) == dict(b.meta)
    for name in ("offsets", "authors", "parents"):
        x, y = getattr(a.posts, name), getattr(b.posts, name)
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
    for name in ("texts", "kinds", "stances", "profiles"):
        x, y = getattr(a.posts, name), getattr(b.posts, name)
        assert (x is None) == (y is None)
        assert x is None or list(x) == list(y)
    assert (a.labels is None) == (b.labels is None)
    if a.labels is not None:
        assert a.labels.dtype == b.labels.dtype
        np.testing.assert_array_equal(a.labels, b.labels)


def full_event() -> Event:
    """An event that uses every field, and texts that are hard to store."""
    return Event(
        event_id='id "1"\t/..',
        topic="line one\nline two \u2028 \u0000 <b>&amp;</b> 微博 👩‍👩‍👧",
        language="en",
        domain="Health",
        label="unverified",
        source="made",
        labels=np.array([encode_code(c) for c in ("sczcnbsp", "cfnrodoq", "sapcnbso")]),
        meta={"nested": {"a": [1, 2.5, None, True]}, "posts": {"thread": [0, 1, None]}},
        posts=Posts(
            offsets=np.array([0.0, 0.1 + 0.2, 1e15 + 0.125]),
            authors=np.array([0, 2**31 - 1, 0], dtype=np.int32),
            parents=np.array([-1, -1, 0], dtype=np.int32),
            texts=["\u2028\r\n", "x", ""],
            kinds=["source", None, "repost"],
            stances=[None, "deny", None],
            profiles=[
                None,
                Profile(),
                Profile("北京", "", "f", 0, 1, 2, False, -1, 3, 4, 2**40),
            ],
        ),
    )


def bare_event() -> Event:
    posts = Posts(
        offsets=np.zeros(1),
        authors=np.zeros(1, dtype=np.int32),
        parents=np.full(1, -1, dtype=np.int32),
        texts=["x"],
    )
    return Event("bare", "x", posts, "zh")


def test_jsonl_round_trip_is_exact(tmp_path: Path) -> None:
    path, again = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    # A source needs words, and these have none; white space around words is kept as it is.
    event = full_event()
    event.posts.texts[0] = "\u2028 word \r\n"  # type: ignore[index]
    assert write_jsonl([event, bare_event()], path) == 2
    loaded = load_events(path)
    assert_same(event, loaded[0])
    assert_same(bare_event(), loaded[1])
    write_jsonl(loaded, again)
    assert path.read_bytes() == again.read_bytes()
    assert loaded[0].posts[2] == Post(
        1e15 + 0.125,
        0,
        0,
        "",
        "repost",
        None,
        Profile("北京", "", "f", 0, 1, 2, False, -1, 3, 4, 2**40),
    )


def test_write_jsonl_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl([bare_event()], path)
    before = path.read_bytes()

    def events() -> Any:
        yield full_event()
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_jsonl(events(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(MfenvError, match="cannot write"):
        write_jsonl([bare_event()], tmp_path / "absent" / "a.jsonl")


def thread_row(**changes: Any) -> dict[str, Any]:
    posts = [
        {"t_offset": 0, "user": 0, "parent": None, "text": "it rains", "stance": "support"},
        {"t_offset": 60, "user": 1, "parent": 0, "text": "where?", "stance": "query"},
    ]
    counts = [{"favorite_count": 4, "retweet_count": 9}, {"favorite_count": 0, "retweet_count": 0}]
    user = {"description": "d", "location": None, "friends_count": 5, "followers_count": 6}
    return {
        "event_id": "r1",
        "source": "twitter",
        "label": "true",
        "event": "rain",
        "domain": None,
        "topic": "it rains",
        "posts": [p | c for p, c in zip(posts, counts, strict=True)],
        "users": [user | {"verified": True}, dict.fromkeys([*user, "verified"])],
    } | changes


def test_rumoureval_profiles_and_stances(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([thread_row()]), path)
    (event,) = load_events(path)
    assert (event.language, event.label, event.domain, event.truth) == ("en", "true", None, True)
    assert event.posts.stances == ["support", "query"]
    first = Profile(description="d", friends=5, followers=6, verified=True, likes=4, reposts=9)
    # Nothing is known of the second author, and a score alone makes no profile.
    assert event.posts.profiles == [first, None]
    assert event.meta == {"event": "rain"}


def test_user_out_of_range_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    row = thread_row()
    row["posts"][1]["user"] = 2
    pq.write_table(pa.Table.from_pylist([row]), path)
    with pytest.raises(MfenvError, match="post 1: field user: unknown user 2; the event has 2"):
        load_events(path)


def test_pheme_replies_fall_back_to_their_own_thread(tmp_path: Path) -> None:
    names = ("t_offset", "user", "parent", "text", "stance", "thread")
    posts = [
        (0, 0, None, "first", "support", 0),
        (1, 0, None, "second", "support", 1),
        (2, 1, 1, "a", "agree", 1),  # no known stance: put aside
        (3, 1, 2, "b", "deny", 1),
        (4, 1, 0, "c", None, 0),
        (5, 1, 4, "d", None, 7),  # no such thread: put aside
    ]
    thread = {"rumoureval_id": "r", "story": None, "label": "true", "source_post": 0}
    row = thread_row(
        label=None,
        posts=[dict(zip(names, p, strict=True)) for p in posts],
        threads=[thread | {"topic": "first"}, thread | {"topic": "second", "label": None}],
    )
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    (event,) = load_events(path, skip_bad=True)
    assert event.posts.texts == ["first", "second", "b", "c"]
    assert event.posts.parents.tolist() == [-1, -1, 1, 0]
    assert event.meta["posts"] == {"thread": [0, 1, 1, 0]}
    assert [t["topic"] for t in event.meta["threads"]] == ["first", "second"]
    json.dumps(dict(event.meta), allow_nan=False)
    # The same through our own format.
    write_jsonl([event], tmp_path / "a.jsonl")
    assert_same(load_events(tmp_path / "a.jsonl")[0], event)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_is_in_order_and_nothing_is_lost(tmp_path: Path, seed: int) -> None:
    """Times at random: kept and put aside together are all posts; the kept are a longest run."""
    rng = random.Random(seed)
    n = 40
    times = [0.0, *(rng.choice([rng.uniform(-5, 50), float(rng.randrange(50))]) for _ in range(n))]
    event = {
        "event_id": "e",
        "topic": "x",
        "language": "en",
        "posts": [
            {"t": t, "author": i, "parent": rng.randrange(i) if i else None, "text": f"p{i}"}
            for i, t in enumerate(times)
        ],
    }
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(event) + "\n")
    (kept,) = load_events(path, skip_bad=True)
    aside = (tmp_path / "a.jsonl.quarantine.jsonl").read_text().splitlines()
    names = {json.loads(line)["raw"]["text"] for line in aside}
    assert names.isdisjoint(kept.posts.texts)
    assert len(names) + len(kept.posts) == n + 1
    assert (np.diff(kept.posts.offsets) >= 0).all()
    assert (kept.posts.parents < np.arange(len(kept.posts))).all()
    good = [t for t in times if t >= 0]
    longest = [1] * len(good)  # by the quadratic recursion
    for i in range(len(good)):
        longest[i] = 1 + max((longest[j] for j in range(i) if good[j] <= good[i]), default=0)
    assert len(kept.posts) == max(longest)
    # A reply whose parent was kept still answers it; any other answers the source.
    index = {text: i for i, text in enumerate(kept.posts.texts)}
    for i, text in enumerate(kept.posts.texts[1:], 1):
        parent = event["posts"][int(text[1:])]["parent"]  # type: ignore[index]
        assert kept.posts.parents[i] == index.get(f"p{parent}", 0)


def test_convert_and_describe_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    src, dst = tmp_path / "a.parquet", tmp_path / "b.jsonl"
    rows = [thread_row(), thread_row(event_id="r2", domain="Health", label="false")]
    pq.write_table(pa.Table.from_pylist(rows), src)
    assert main(["data", "convert", str(src), str(dst)]) == 0
    capsys.readouterr()
    described = []
    for path in (src, dst):
        assert main(["data", "describe", str(path), "--json"]) == 0
        described.append(json.loads(capsys.readouterr().out))
    assert described[0] == described[1]
    assert described[0] == {
        "events": 2,
        "posts": 4,
        "users": 4,
        "labels": {"false": 1, "true": 1},
        "domains": {"Health": 1, "unknown": 1},
        "languages": {"en": 2},
        "sources": {"twitter": 2},
        "stances": {"query": 2, "support": 2},
        "posts_per_event": [2.0] * 5,
        "hours": [0.02] * 5,
        "silent_share": 0.0,
        "profile_share": 0.5,
        "quarantined": 0,
        "reparented": 0,
    }
    for a, b in zip(load_events(src), load_events(dst), strict=True):
        assert_same(a, b)
    for path in (src, dst):
        assert list(iter_heads(path)) == [e.head for e in load_events(path)]
    assert main(["data", "convert", str(src), str(tmp_path / "b.csv")]) == 2
    assert main(["data", "convert", str(dst), str(dst)]) == 2
    assert len(load_events(dst)) == 2


# Real data: the figures of the data cards.


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "events", "posts", "language"),
    [
        ("weibo/validation.parquet", 369, 122_346, "zh"),
        ("weibo/test.parquet", 154, 61_311, "zh"),
        ("rumoureval/train.parquet", 290, 4_821, "en"),
        ("rumoureval/validation.parquet", 34, 1_376, "en"),
        ("rumoureval/test.parquet", 41, 854, "en"),
        ("pheme/streams.parquet", 6, 4_633, "en"),
        ("pheme/streams_rnr.parquet", 3, 59_686, "en"),
    ],
)
def test_real_counts(name: str, events: int, posts: int, language: str) -> None:
    loaded = load_events(data_file(name))
    assert len(loaded) == events
    assert list(iter_heads(data_file(name))) == [e.head for e in loaded]
    assert sum(len(e.posts) for e in loaded) == posts
    assert {e.language for e in loaded} == {language}
    for event in loaded:
        assert event.posts.texts[0] == event.topic
        assert event.posts.parents[0] == -1
        assert (np.diff(event.posts.offsets) >= 0).all()


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["weibo/test.parquet", "pheme/streams.parquet"])
def test_real_round_trip(name: str, tmp_path: Path) -> None:
    events = load_events(data_file(name))
    write_jsonl(events, tmp_path / "a.jsonl")
    for a, b in zip(events, load_events(tmp_path / "a.jsonl"), strict=True):
        assert_same(a, b)


@pytest.mark.realdata
def test_the_paper_event_loads_alone_and_fast() -> None:
    path = data_file("weibo/test.parquet")
    load_events(path, event_ids=["3533780360431082"])  # imports pyarrow
    import time

    start = time.perf_counter()
    (event,) = load_events(path, event_ids=["3533780360431082"])
    assert time.perf_counter() - start < 0.5
    assert (len(event.posts), event.label, event.domain) == (331, "rumor", "News")


_MEASURE = """
import resource, sys, time
start = time.perf_counter()
from mfenv.events import load_events
events = load_events(sys.argv[1])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(len(events), sum(len(e.posts) for e in events), seconds, peak)
"""


@pytest.mark.realdata
def test_the_whole_weibo_train_split_loads_within_its_bounds() -> None:
    path = data_file("weibo/train.parquet")
    out = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert (int(out[0]), int(out[1])) == (2_973, 1_069_570)
    assert float(out[2]) < 15, "seconds"
    assert float(out[3]) < 2048, "MiB"
