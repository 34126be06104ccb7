"""Every kind of malformed record, in every format: named when strict, put aside with skip_bad."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mfenv.cli import main
from mfenv.errors import DataError, MfenvError
from mfenv.events import iter_events, iter_heads, load_events

Record = dict[str, Any]


# One small event in each format: a source and three replies, 3 answers 2 answers 1.


def jsonl_event(event_id: str = "e1") -> Record:
    return {
        "event_id": event_id,
        "topic": "A bridge is closed",
        "language": "en",
        "domain": "News",
        "label": "false",
        "posts": [
            {"t": 0, "author": 0, "parent": None, "text": "A bridge is closed"},
            {"t": 5, "author": 1, "parent": 0, "text": "really?", "profile": {"followers": 3}},
            {"t": 9.5, "author": 2, "parent": 1, "text": "no"},
            {"t": 12, "author": 1, "parent": 2, "text": ""},
        ],
    }


def rumdect_event() -> list[Record]:
    def post(mid: str, uid: int, t: int, text: str, parent: str | None) -> Record:
        return {
            "mid": mid,
            "uid": uid,
            "t": 1_300_000_000 + t,
            "text": text,
            "original_text": text,
            "parent": parent,
            "gender": "f",
            "verified": False,
            "followers_count": 7,
            "user_description": "",
        }

    return [
        post("m0", 10, 0, "桥封了", None),
        post("m1", 11, 5, "真的吗", "m0"),
        post("m2", 12, 9, "假的", "m1"),
        post("m3", 11, 12, "", "m2"),
    ]


WEIBO_POST = pa.struct(
    [
        ("t_offset", pa.float64()),
        ("kind", pa.string()),
        ("user", pa.int32()),
        ("parent", pa.int32()),
        ("text", pa.string()),
        ("gender", pa.string()),
        ("followers_count", pa.int32()),
    ]
)
WEIBO = pa.schema(
    [
        *((name, pa.string()) for name in ("event_id", "source", "label", "domain", "topic")),
        ("posts", pa.list_(WEIBO_POST)),
    ]
)


def weibo_event(event_id: str = "e1") -> Record:
    posts = [
        (0.0, "source", 0, None, "桥封了", "f", 7),
        (5.0, "repost", 1, 0, "真的吗", None, None),
        (9.0, "comment", 2, 1, "假的", None, None),
        (12.0, None, 1, 2, "", "m", 0),
    ]
    names = [f.name for f in WEIBO_POST]
    return {
        "event_id": event_id,
        "source": "ced",
        "label": "rumor",
        "domain": "News",
        "topic": "桥封了",
        "posts": [dict(zip(names, p, strict=True)) for p in posts],
    }


def write_parquet(path: Path, rows: list[Record], schema: pa.Schema = WEIBO) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=2)
    return path


def write_lines(path: Path, records: list[Any]) -> Path:
    lines = (r if isinstance(r, bytes) else json.dumps(r).encode() for r in records)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def write_folder(path: Path, events: dict[str, Any], labels: str | None = None) -> Path:
    path.mkdir()
    for eid, posts in events.items():
        data = posts if isinstance(posts, bytes) else json.dumps(posts).encode()
        (path / f"{eid}.json").write_bytes(data)
    if labels is not None:
        (path / "Weibo.txt").write_text(labels, encoding="utf-8")
    return path


def read_quarantine(path: Path) -> list[Record]:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not strict JSON")

    data = (path.with_name(path.name + ".quarantine.jsonl")).read_text(encoding="ascii")
    return [json.loads(line, parse_constant=refuse) for line in data.splitlines()]


def check_strict(path: Path, field: str, problem: str) -> DataError:
    with pytest.raises(DataError) as caught:
        load_events(path)
    error = caught.value
    assert error.file.startswith(str(path))
    assert error.record
    assert error.field == field
    assert problem in error.problem
    assert "\n" not in str(error)
    assert len(str(error)) < 600
    return error


# Faults of one reply (index 2): the field, its value, words of the problem.
BIG = "x" * 10_000_000
POST_FAULTS: list[tuple[str, Any, str]] = [
    ("text", None, "no text"),
    ("text", 7, "must be a string"),
    ("text", BIG, "10,000,000 bytes"),
    ("text", "\ud800", "lone surrogate"),
    ("t", "soon", "must be a number"),
    ("t", True, "must be a number"),
    ("t", None, "must be a number"),
    ("t", math.nan, "finite"),
    ("t", math.inf, "finite"),
    ("t", -3, "negative"),
    ("t", 2, "order of time"),
    ("t", 10**400, "too large"),
    ("author", "bob", "integer"),
    ("author", True, "integer"),
    ("author", -1, "at least 0"),
    ("author", 2**40, "too large"),
    ("parent", 2, "allowed: 0 to 1"),
    ("parent", 3, "allowed: 0 to 1"),
    ("parent", 99, "allowed: 0 to 1"),
    ("parent", -1, "at least 0"),
    ("parent", 1.0, "integer"),
    ("kind", "like", "source, repost, comment"),
    ("stance", "agree", "support, deny, query, comment"),
    ("profile", [], "must be an object"),
    ("extra", 1, "unknown field"),
]


@pytest.mark.parametrize(("field", "value", "problem"), POST_FAULTS)
def test_jsonl_bad_reply(tmp_path: Path, field: str, value: Any, problem: str) -> None:
    event = jsonl_event()
    event["posts"][2][field] = value
    path = write_lines(tmp_path / "a.jsonl", [event, jsonl_event("e2")])
    error = check_strict(path, field, problem)
    assert error.record == "line 1, post 2"

    reader = iter_events(path, skip_bad=True)
    events = list(reader)
    assert [e.event_id for e in events] == ["e1", "e2"]
    assert events[0].posts.texts == ["A bridge is closed", "really?", ""]
    # The reply to the post put aside hangs on the source now; the others are as they were.
    assert events[0].posts.parents.tolist() == [-1, 0, 0]
    assert events[1].posts.parents.tolist() == [-1, 0, 1, 2]
    report = reader.report
    assert (report.events, report.posts) == (2, 7)
    assert (report.quarantined, report.reparented) == (1, 1)
    (bad,) = read_quarantine(path)
    assert (bad["file"], bad["record"], bad["field"]) == (str(path), error.record, field)
    assert problem in bad["reason"]
    assert set(bad["raw"]) >= {"t", "author", "parent", "text"}
    if field == "text":
        assert bad["raw"]["text"] == value


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("followers", -1, "at least 0"),
        ("followers", True, "integer"),
        ("followers", "3", "integer"),
        ("gender", "x", "allowed: m, f"),
        ("verified", 1, "true or false"),
        ("location", 3, "string"),
        ("age", 3, "unknown field"),
    ],
)
def test_jsonl_bad_profile(tmp_path: Path, name: str, value: Any, problem: str) -> None:
    event = jsonl_event()
    event["posts"][1]["profile"][name] = value
    path = write_lines(tmp_path / "a.jsonl", [event])
    check_strict(path, f"profile.{name}", problem)
    (kept,) = load_events(path, skip_bad=True)
    assert len(kept.posts) == 3


@pytest.mark.parametrize(
    ("code", "problem"), [(None, "all posts"), ("sczcnbs", "8 letters"), ("qczcnbsp", "'q'")]
)
def test_jsonl_bad_labels(tmp_path: Path, code: str | None, problem: str) -> None:
    event = jsonl_event()
    for post in event["posts"]:
        post["labels"] = "sczcnbsp"
    event["posts"][1]["labels"] = code
    path = write_lines(tmp_path / "a.jsonl", [event])
    check_strict(path, "labels", problem)
    (kept,) = load_events(path, skip_bad=True)
    assert kept.labels is not None
    assert kept.labels.shape == (3, 8)


@pytest.mark.parametrize("missing", ["t", "author", "parent", "text"])
def test_jsonl_missing_field(tmp_path: Path, missing: str) -> None:
    event = jsonl_event()
    del event["posts"][1][missing]
    path = write_lines(tmp_path / "a.jsonl", [event])
    check_strict(path, missing, "no text" if missing == "text" else "missing")


EVENT_FAULTS: list[tuple[str, Any, str]] = [
    ("event_id", None, "missing"),
    ("event_id", 5, "string"),
    ("event_id", "", "empty"),
    ("event_id", "e2", "duplicate id 'e2'"),
    ("topic", None, "no text"),
    ("topic", " ", "empty"),
    ("language", "fr", "allowed: en, zh"),
    ("domain", "Weather", "Crime, Culture, Health, News, Politics, Sports, Technology"),
    ("label", "rumour", "rumor, non-rumor, true, false, unverified"),
    ("label", True, "unknown value"),
    ("posts", None, "list"),
    ("posts", [], "at least one post"),
    ("meta", 3, "object"),
    ("colour", 3, "unknown field"),
]


@pytest.mark.parametrize(("field", "value", "problem"), EVENT_FAULTS)
def test_jsonl_bad_event(tmp_path: Path, field: str, value: Any, problem: str) -> None:
    event = jsonl_event() | {field: value}
    path = write_lines(tmp_path / "a.jsonl", [jsonl_event("e2"), event, jsonl_event("e3")])
    error = check_strict(path, field, problem)
    assert error.record == "line 2"
    reader = iter_events(path, skip_bad=True)
    assert [e.event_id for e in reader] == ["e2", "e3"]
    (bad,) = read_quarantine(path)
    assert bad["raw"] == event
    assert reader.report.quarantined == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"event_id": "x",', "not JSON"),
        (b"\xff\xfe{}", "not UTF-8 (byte 0)"),
        ('{"event_id": "微博"}'.encode("gb18030"), "not UTF-8"),
        (b"[1, 2]", "JSON object"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_jsonl_bad_line(tmp_path: Path, line: bytes, problem: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [jsonl_event(), line, jsonl_event("e2")])
    error = check_strict(path, "line", problem)
    assert error.record == "line 2"
    assert len(load_events(path, skip_bad=True)) == 2
    (bad,) = read_quarantine(path)
    if problem.startswith("not UTF-8"):
        import base64

        assert base64.b64decode(bad["raw"]["$base64"]) == line + b"\n"
    else:
        assert bad["raw"] == line.decode() + "\n"


def test_bad_source_takes_the_event_along(tmp_path: Path) -> None:
    event = jsonl_event()
    event["posts"][0]["text"] = ""
    path = write_lines(tmp_path / "a.jsonl", [event, jsonl_event("e2")])
    error = check_strict(path, "text", "empty")
    assert error.record == "line 1, post 0"
    reader = iter_events(path, skip_bad=True)
    assert [e.event_id for e in reader] == ["e2"]
    assert read_quarantine(path)[0]["raw"] == event


def test_one_wrong_clock_costs_one_post(tmp_path: Path) -> None:
    event = jsonl_event()
    event["posts"][1]["t"] = 1e9
    path = write_lines(tmp_path / "a.jsonl", [event])
    (kept,) = load_events(path, skip_bad=True)
    assert kept.posts.offsets.tolist() == [0, 9.5, 12]
    assert kept.posts.parents.tolist() == [-1, 0, 1]


def test_quarantine_is_atomic_and_repeatable(tmp_path: Path) -> None:
    events = [jsonl_event(f"e{i}") for i in range(4)]
    events[1]["posts"][3]["t"] = math.nan
    events[2]["label"] = "?"
    path = write_lines(tmp_path / "a.jsonl", events)
    target = tmp_path / "aside.jsonl"
    load_events(path, skip_bad=target)
    first = target.read_bytes()
    load_events(path, skip_bad=target)
    assert target.read_bytes() == first
    lines = [json.loads(line) for line in first.splitlines()]
    assert [b["record"] for b in lines] == ["line 2, post 3", "line 3"]
    assert lines[0]["raw"]["t"] == {"$float": "nan"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "aside.jsonl"]
    # Stopping early keeps what was put aside so far and leaves no part behind.
    stream = iter(iter_events(path, skip_bad=target))
    next(stream), next(stream)
    stream.close()
    assert target.read_bytes() == first.splitlines(keepends=True)[0]
    # Once nothing is bad any more the old file does not linger.
    load_events(write_lines(path, [jsonl_event()]), skip_bad=target)
    assert target.read_bytes() == b""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "aside.jsonl"]


def test_quarantine_that_cannot_be_written(tmp_path: Path) -> None:
    event = jsonl_event()
    event["posts"][1]["t"] = -1
    path = write_lines(tmp_path / "a.jsonl", [event])
    with pytest.raises(MfenvError, match="cannot write the quarantine file"):
        load_events(path, skip_bad=tmp_path / "absent" / "q.jsonl")
    with pytest.raises(MfenvError, match="must be a new file"):
        load_events(path, skip_bad=path)
    assert load_events(write_lines(path, [jsonl_event()]), skip_bad=True)


# rumdect


RUMDECT_FAULTS: list[tuple[str, Any, str]] = [
    ("text", None, "no text"),
    ("text", BIG, "10,000,000 bytes"),
    ("t", "soon", "must be a number"),
    ("t", True, "must be a number"),
    ("t", math.nan, "finite"),
    ("t", 1_200_000_000, "negative"),
    ("mid", "m1", "duplicate id 'm1'"),
    ("mid", None, "must be an id"),
    ("uid", None, "must be an id"),
    ("uid", 1.5, "must be an id"),
    ("parent", "m9", "unknown parent 'm9'"),
    ("parent", "m2", "unknown parent 'm2'"),
    ("parent", "m3", "unknown parent 'm3'"),
    ("parent", None, "only the first post"),
    ("parent", 1.5, "mid or null"),
    ("gender", "x", "allowed: m, f"),
    ("followers_count", -2, "at least 0"),
    ("followers_count", "7", "integer"),
    ("verified", "yes", "true or false"),
    ("user_description", 3, "string"),
]


@pytest.mark.parametrize(("field", "value", "problem"), RUMDECT_FAULTS)
def test_rumdect_bad_reply(tmp_path: Path, field: str, value: Any, problem: str) -> None:
    posts = rumdect_event()
    posts[2][field] = value
    folder = write_folder(tmp_path / "set", {"7": posts, "8": rumdect_event()})
    error = check_strict(folder, field, problem)
    assert error.file == str(folder / "7.json")
    assert error.record == "post 2"
    reader = iter_events(folder, skip_bad=True)
    first, second = reader
    assert len(second.posts) == 4
    lost_mid = field == "mid"  # then the reply to it has an unknown parent too
    assert first.posts.texts == ["桥封了", "真的吗"] + ([] if lost_mid else [""])
    assert first.posts.parents.tolist() == [-1, 0] + ([] if lost_mid else [0])
    assert reader.report.quarantined == 1 + lost_mid
    bad = read_quarantine(folder)[0]
    assert (bad["record"], bad["field"]) == ("post 2", field)
    assert bad["raw"]["uid"] == posts[2]["uid"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"[{", "not JSON"),
        (json.dumps(rumdect_event(), ensure_ascii=False).encode("gb18030"), "not UTF-8"),
        (json.dumps(rumdect_event()).encode("utf-16"), "not UTF-8"),
        (b'{"a": 1}', "list of posts"),
    ],
)
def test_rumdect_bad_file(tmp_path: Path, data: bytes, problem: str) -> None:
    folder = write_folder(tmp_path / "set", {"7": data, "8": rumdect_event()})
    error = check_strict(folder, "JSON", problem)
    assert error.file == str(folder / "7.json")
    assert [e.event_id for e in load_events(folder, skip_bad=True)] == ["8"]
    (bad,) = read_quarantine(folder)
    assert bad["file"] == str(folder / "7.json")


@pytest.mark.parametrize("posts", [[], [3], [rumdect_event()[1]]])
def test_rumdect_without_source(tmp_path: Path, posts: list[Any]) -> None:
    folder = write_folder(tmp_path / "set", {"7": posts, "8": rumdect_event()})
    with pytest.raises(DataError):
        load_events(folder)
    reader = iter_events(folder, skip_bad=True)
    assert [e.event_id for e in reader] == ["8"]
    assert read_quarantine(folder)[0]["raw"] == posts
    assert reader.report.quarantined == len(read_quarantine(folder))


def test_rumdect_reads_labels_profiles_and_order(tmp_path: Path) -> None:
    posts = rumdect_event()
    shuffled = [posts[3], posts[0], posts[2], posts[1]]
    folder = write_folder(
        tmp_path / "set",
        {"7": shuffled, "8": rumdect_event(), "9": rumdect_event()},
        "eid:7\tlabel:1\tm0 m1\neid:8\tlabel:0\tm0\n",
    )
    seven, eight, nine = load_events(folder)
    assert [seven.label, eight.label, nine.label] == ["rumor", "non-rumor", None]
    assert [seven.truth, eight.truth, nine.truth] == [False, True, None]
    assert seven.posts.texts == ["桥封了", "真的吗", "假的", ""]
    assert seven.posts.offsets.tolist() == [0, 5, 9, 12]
    assert seven.posts.parents.tolist() == [-1, 0, 1, 2]
    assert seven.posts.authors.tolist() == [0, 1, 2, 1]
    assert (seven.topic, seven.language) == ("桥封了", "zh")
    profile = seven.posts[1].profile
    assert (profile.gender, profile.followers, profile.description) == ("f", 7, "")
    assert [e.event_id for e in load_events(folder, event_ids=["8"])] == ["8"]
    assert [e.event_id for e in load_events(folder.parent)] == ["7", "8", "9"]


@pytest.mark.parametrize(
    ("line", "field"),
    [("eid:7\tlabel:2", "label"), ("label:1", "eid"), ("eid:8\tlabel:0", "eid"), ("?", "eid")],
)
def test_rumdect_bad_label_line(tmp_path: Path, line: str, field: str) -> None:
    folder = write_folder(
        tmp_path / "set", {"7": rumdect_event()}, f"eid:8\tlabel:1\tx\n{line}\tx\n"
    )
    error = check_strict(folder, field, "")
    assert error.record == "line 2"
    assert error.file.endswith("Weibo.txt")
    assert [e.label for e in load_events(folder, skip_bad=True)] == [None]
    assert read_quarantine(folder)[0]["raw"] == f"{line}\tx"


# Parquet


PARQUET_FAULTS: list[tuple[str, Any, str]] = [
    ("text", None, "no text"),
    ("text", BIG, "10,000,000 bytes"),
    ("t_offset", None, "null"),
    ("t_offset", math.nan, "finite"),
    ("t_offset", -1.0, "negative"),
    ("t_offset", 2.0, "order of time"),
    ("user", None, "null"),
    ("user", -1, "unknown user -1"),
    ("parent", 2, "allowed: 0 to 1"),
    ("parent", 50, "allowed: 0 to 1"),
    ("parent", -1, "unknown parent -1"),
    ("parent", None, "only the first post"),
    ("kind", "like", "source, repost, comment"),
    ("gender", "x", "allowed: m, f"),
    ("followers_count", -5, "at least 0"),
]


@pytest.mark.parametrize(("field", "value", "problem"), PARQUET_FAULTS)
def test_parquet_bad_reply(tmp_path: Path, field: str, value: Any, problem: str) -> None:
    event = weibo_event()
    event["posts"][2][field] = value
    rows = [weibo_event("e0"), event, weibo_event("e2")]
    path = write_parquet(tmp_path / "a.parquet", rows)
    error = check_strict(path, field, problem)
    assert error.record == "event e1, post 2"
    reader = iter_events(path, skip_bad=True)
    events = list(reader)
    assert [len(e.posts) for e in events] == [4, 3, 4]
    assert events[1].posts.texts == ["桥封了", "真的吗", ""]
    assert events[1].posts.parents.tolist() == [-1, 0, 0]
    assert events[1].posts.kinds == ["source", "repost", None]
    assert [p.profile is None for p in events[1].posts] == [False, True, False]
    assert (reader.report.quarantined, reader.report.reparented) == (1, 1)
    (bad,) = read_quarantine(path)
    assert bad["record"] == "event e1, post 2"
    if isinstance(value, float) and math.isnan(value):
        value = {"$float": "nan"}
    assert bad["raw"] == event["posts"][2] | {field: value}


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("event_id", None, "missing"),
        ("event_id", "e0", "duplicate id 'e0'"),
        ("topic", None, "no text"),
        ("topic", "", "empty"),
        ("domain", "Weather", "Crime, Culture"),
        ("label", "?", "rumor, non-rumor"),
        ("posts", None, "at least one post"),
        ("posts", [], "at least one post"),
    ],
)
def test_parquet_bad_event(tmp_path: Path, field: str, value: Any, problem: str) -> None:
    event = weibo_event() | {field: value}
    rows = [weibo_event("e0"), event, weibo_event("e2")]
    path = write_parquet(tmp_path / "a.parquet", rows)
    check_strict(path, field, problem)
    assert [e.event_id for e in load_events(path, skip_bad=True)] == ["e0", "e2"]
    (bad,) = read_quarantine(path)
    assert bad["raw"] == event


def test_parquet_text_that_is_no_utf8(tmp_path: Path) -> None:
    raw_post = pa.struct(
        [pa.field(f.name, pa.binary() if f.name == "text" else f.type) for f in WEIBO_POST]
    )
    event = weibo_event()
    for post in event["posts"]:
        post["text"] = post["text"].encode()
    event["posts"][2]["text"] = "假的".encode("gb18030")
    table = pa.Table.from_pylist(
        [event], schema=WEIBO.set(5, pa.field("posts", pa.list_(raw_post)))
    )
    # The bytes of a binary column, declared to be text without a check.
    lists = table.column("posts").combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.chunk(0)
    structs = lists.flatten()
    fields = [structs.field(i) for i in range(structs.type.num_fields)]
    k = WEIBO_POST.get_field_index("text")
    fields[k] = pa.Array.from_buffers(pa.string(), len(fields[k]), fields[k].buffers())
    texts = pa.StructArray.from_arrays(fields, fields=list(WEIBO_POST))
    table = table.set_column(5, "posts", pa.ListArray.from_arrays(lists.offsets, texts))
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    check_strict(path, "text", "no UTF-8 (byte 0)")
    (kept,) = load_events(path, skip_bad=True)
    assert kept.posts.texts == ["桥封了", "真的吗", ""]
    (bad,) = read_quarantine(path)
    assert set(bad["raw"]["text"]) == {"$base64"}


def test_parquet_cut_off_or_damaged(tmp_path: Path) -> None:
    rows = [weibo_event(f"e{i}") for i in range(6)]
    path = write_parquet(tmp_path / "a.parquet", rows)
    data = path.read_bytes()
    for size in (0, 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        check_strict(path, "footer", "cut off")
        with pytest.raises(DataError):  # nothing can be read, so nothing can be skipped
            load_events(path, skip_bad=True)
    # Damage inside one row group costs that group and no other.
    meta = pq.ParquetFile(pa.BufferReader(data)).metadata
    column = meta.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    broken = bytearray(data)
    broken[start : start + 16] = b"\xff" * 16
    path.write_bytes(broken)
    check_strict(path, "row group", "damaged")
    reader = iter_events(path, skip_bad=True)
    assert [e.event_id for e in reader] == ["e0", "e1", "e4", "e5"]
    assert read_quarantine(path)[0]["record"] == "rows 2 to 3"


@pytest.mark.parametrize("name", ["event_id", "topic", "label", "domain", "posts"])
def test_parquet_lacks_a_column(tmp_path: Path, name: str) -> None:
    schema = WEIBO.remove(WEIBO.get_field_index(name))
    path = write_parquet(tmp_path / "a.parquet", [weibo_event()], schema)
    check_strict(path, name, "missing")


@pytest.mark.parametrize("name", ["t_offset", "user", "parent", "text", "kind"])
def test_parquet_lacks_a_column_of_posts(tmp_path: Path, name: str) -> None:
    def posts(change: Callable[[pa.Field], pa.Field | None]) -> pa.Schema:
        fields = [g for f in WEIBO_POST if (g := change(f)) is not None]
        return WEIBO.set(5, pa.field("posts", pa.list_(pa.struct(fields))))

    schema = posts(lambda f: None if f.name == name else f)
    path = write_parquet(tmp_path / "a.parquet", [weibo_event()], schema)
    check_strict(path, f"posts.{name}", "missing")
    event = weibo_event()
    for post in event["posts"]:
        post[name] = True
    schema = posts(lambda f: pa.field(name, pa.bool_()) if f.name == name else f)
    path = write_parquet(tmp_path / "a.parquet", [event], schema)
    check_strict(path, f"posts.{name}", "must be of type")


def test_parquet_takes_whole_numbers_that_were_stored_as_floats(tmp_path: Path) -> None:
    """As pandas writes integers with gaps; what is no whole number is named."""
    stored = ("user", "parent", "followers_count")
    fields = [pa.field(f.name, pa.float64() if f.name in stored else f.type) for f in WEIBO_POST]
    schema = WEIBO.set(5, pa.field("posts", pa.list_(pa.struct(fields))))
    event = weibo_event()
    event["posts"][0]["parent"] = math.nan
    (loaded,) = load_events(write_parquet(tmp_path / "a.parquet", [event], schema))
    assert loaded.posts.parents.tolist() == [-1, 0, 1, 2]
    assert loaded.posts.authors.tolist() == [0, 1, 2, 1]
    assert [p.profile and p.profile.followers for p in loaded.posts] == [7, None, None, 0]
    for name, value in (("parent", 0.5), ("user", math.inf), ("followers_count", 1e300)):
        event = weibo_event()
        event["posts"][2][name] = value
        path = write_parquet(tmp_path / "b.parquet", [event], schema)
        check_strict(path, name, "must be an integer")


def test_parquet_one_event_does_not_check_the_others(tmp_path: Path) -> None:
    bad = weibo_event("e1")
    bad["posts"][2]["t_offset"] = -1.0
    path = write_parquet(tmp_path / "a.parquet", [weibo_event("e0"), bad, weibo_event("e2")])
    assert [e.event_id for e in load_events(path, event_ids=["e2", "e0"])] == ["e0", "e2"]
    with pytest.raises(MfenvError, match=r"no event 'e7'.*it has 3, for example e"):
        load_events(path, event_ids=["e7"])


@pytest.mark.parametrize(
    ("field", "value"),
    [("event_id", None), ("event_id", ""), ("event_id", "e0"), ("posts", None), ("posts", [])],
)
def test_parquet_heads_name_the_same_fault(tmp_path: Path, field: str, value: Any) -> None:
    event = weibo_event() | {field: value}
    rows = [weibo_event("e0"), weibo_event("e2"), event]
    path = write_parquet(tmp_path / "a.parquet", rows)
    with pytest.raises(DataError) as whole:
        load_events(path)
    with pytest.raises(DataError) as heads:
        list(iter_heads(path))
    assert heads.value == whole.value
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="cut off"):
        list(iter_heads(path))


def test_heads_of_other_formats_are_checked_whole(tmp_path: Path) -> None:
    event = jsonl_event()
    event["posts"][1]["t"] = -1
    with pytest.raises(DataError, match="line 2, post 1"):
        list(iter_heads(write_lines(tmp_path / "a.jsonl", [jsonl_event("e0"), event])))
    posts = rumdect_event()
    posts[1]["t"] = "soon"
    with pytest.raises(DataError, match=r"e1\.json.*post 1"):
        list(iter_heads(write_folder(tmp_path / "events", {"e0": rumdect_event(), "e1": posts})))
    for name in ("absent.parquet", "absent.jsonl"):
        with pytest.raises(MfenvError, match="no such file"):
            list(iter_heads(tmp_path / name))


# Paths and the command line: one line, exit code 2, no traceback.


def run_cli(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["data", *args])
    out, err = capsys.readouterr()
    return code, out, err


def test_paths_that_hold_no_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("absent.parquet", "notes.txt", "empty"):
        for action in ("describe", "validate"):
            code, out, err = run_cli(capsys, action, str(tmp_path / name))
            assert (code, out) == (2, "")
            assert len(err.splitlines()) == 1
            assert name in err
            assert "json" in err


def test_cli_validate_lists_every_bad_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [jsonl_event(f"e{i}") for i in range(5)]
    events[0]["posts"][1]["t"] = "x"
    events[0]["posts"][3]["text"] = None
    events[2]["domain"] = "?"
    path = write_lines(tmp_path / "a.jsonl", [*events, b"{"])
    code, out, _ = run_cli(capsys, "validate", str(path))
    lines = out.splitlines()
    assert code == 1
    assert [line.split(": record ")[1].split(":")[0] for line in lines[:-1]] == [
        "line 1, post 1",
        "line 1, post 3",
        "line 3",
        "line 6",
    ]
    assert "4 bad records" in lines[-1]
    code, out, _ = run_cli(capsys, "validate", str(path), "--max", "1")
    assert code == 1
    assert "3 more" in out.splitlines()[1]
    code, out, _ = run_cli(capsys, "validate", str(path), "--json")
    assert (code, json.loads(out)["bad"]) == (1, 4)
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]  # a validation writes nothing
    code, out, _ = run_cli(capsys, "validate", str(write_lines(path, [jsonl_event()])))
    assert code == 0
    assert "no bad records" in out


def test_cli_skip_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event = jsonl_event()
    event["posts"][2]["parent"] = 77
    path = write_lines(tmp_path / "a.jsonl", [event])
    for action in (("describe",), ("convert", str(tmp_path / "b.jsonl"))):
        args = [action[0], str(path), *action[1:]]
        code, out, err = run_cli(capsys, *args)
        assert (code, out) == (2, "")
        assert "line 1, post 2" in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "b.jsonl").exists()
        code, out, _ = run_cli(capsys, *args, "--skip-bad")
        assert code == 0
        assert "a.jsonl.quarantine.jsonl" in out
    code, out, _ = run_cli(
        capsys, "describe", str(path), "--json", "--quarantine", str(tmp_path / "q")
    )
    described = json.loads(out)
    assert (described["posts"], described["quarantined"], described["reparented"]) == (3, 1, 1)
    assert (tmp_path / "q").read_text().count("\n") == 1
