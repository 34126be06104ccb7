"""Tables of posts (.csv, .tsv): the events they become, and every malformed row by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mfenv.cli import main
from mfenv.errors import DataError, MfenvError
from mfenv.events import load_events, write_jsonl

HEADER = "event,id,parent,author,time,text,followers,verified,topic,label\n"
ROWS = [
    'bridge,p1,,ann,2026-03-01 18:00:00,The bridge is closed,12,yes,"A bridge, closed",false\n',
    "bridge,p3,p2,ann,2026-03-01 18:01:30,No,,,,\n",
    'bridge,p2,p1,bob,2026-03-01 18:00:40,"Who ""says"" so,\nand why?",,no,,\n',
    "bridge,p4,,cy,2026-03-01 18:02:00,,,,,\n",
]


def table(path, *rows, header=HEADER):
    path.write_text(header + "".join(rows), encoding="utf-8")
    return path


def test_an_event_as_it_is_meant(tmp_path):
    (event,) = load_events(table(tmp_path / "posts.csv", *ROWS))
    assert (event.event_id, event.topic, event.label, event.language) == (
        "bridge",
        "A bridge, closed",
        "false",
        "en",
    )
    posts = event.posts
    assert posts.offsets.tolist() == [0, 40, 90, 120]  # in order of time, from the source
    assert posts.parents.tolist() == [-1, 0, 1, 0]  # p2 → p1, p3 → p2, p4 → the source
    assert posts.authors.tolist() == [0, 1, 0, 2]  # ann, bob, ann, cy
    assert posts.texts[1:] == ['Who "says" so,\nand why?', "No", ""]
    assert posts[0].profile.followers == 12
    assert posts[0].profile.verified is True
    assert posts[1].profile.verified is False
    assert posts[2].profile is None


def test_the_same_events_from_every_form_of_the_table(tmp_path):
    plain = "event,author,time,text\ne,a,10,Closed\ne,b,12.5,Really\n"
    forms = {
        "plain.csv": plain.encode(),
        "tabs.tsv": plain.replace(",", "\t").encode(),
        "semicolons.csv": plain.replace(",", ";").encode(),
        "excel.csv": b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode(),
        "gaps.csv": plain.replace("\n", "\n\n").encode(),
    }
    written = set()
    for name, data in forms.items():
        (tmp_path / name).write_bytes(data)
        target = tmp_path / "out.jsonl"
        assert main(["data", "convert", str(tmp_path / name), str(target)]) == 0
        written.add(target.read_bytes())
    assert len(written) == 1
    record = json.loads(written.pop())
    assert record["topic"] == "Closed"
    assert [(p["t"], p["author"], p["parent"]) for p in record["posts"]] == [
        (0, 0, None),
        (2.5, 1, 0),
    ]


def test_events_may_be_mixed_and_come_out_in_the_order_they_begin(tmp_path):
    rows = ["b,x,5,one\n", "a,x,7,uno\n", "b,y,6,two\n", "a,z,7,due\n"]
    path = table(tmp_path / "p.csv", *rows, header="event,author,time,text\n")
    assert [(e.event_id, e.posts.texts) for e in load_events(path)] == [
        ("b", ["one", "two"]),
        ("a", ["uno", "due"]),
    ]
    assert [e.event_id for e in load_events(path, event_ids=["a"])] == ["a"]
    with pytest.raises(MfenvError, match="has no event 'c'"):
        load_events(path, event_ids=["c"])


def test_language_labels_zones_and_what_is_only_kept(tmp_path):
    header = "event,author,time,text,labels,meta.city\n"
    rows = [
        "e,甲,2026-03-01T18:00:00+01:00,桥封了,sczcnbso,Wien\n",
        "e,乙,2026-03-01T17:00:30Z,真的吗,sczrnbop,\n",
    ]
    (event,) = load_events(table(tmp_path / "p.csv", *rows, header=header))
    assert event.language == "zh"
    assert event.posts.offsets.tolist() == [0, 30]
    assert event.labels.shape == (2, 8)
    assert event.meta["posts"] == {"city": ["Wien", ""]}
    again = tmp_path / "again.jsonl"
    write_jsonl([event], again)
    (read,) = load_events(again)
    assert np.array_equal(read.labels, event.labels)
    assert read.meta == event.meta


ROW = "e,{id},{parent},{author},{time},{text},{followers},{verified},{topic},{label}\n"
GOOD = {"id": "q", "parent": "", "author": "bo", "time": "5", "text": "Hm", "followers": ""}
GOOD |= {"verified": "", "topic": "", "label": ""}
SOURCE = ROW.format(**GOOD | {"id": "s", "time": "0", "author": "ann"})


@pytest.mark.parametrize(
    ("changed", "field", "says"),
    [
        ({"author": ""}, "author", "missing"),
        ({"time": ""}, "time", "missing"),
        ({"time": "yesterday"}, "time", "'yesterday' is no time; allowed: a number of seconds"),
        ({"time": "nan"}, "time", "is no time"),
        ({"time": "2026-03-01"}, "time", "is a date without a time zone, the event's first one"),
        ({"id": "s"}, "id", "duplicate id 's'"),
        ({"parent": "nobody"}, "parent", "unknown parent 'nobody'; no earlier post has this id"),
        ({"parent": "q"}, "parent", "unknown parent"),
        ({"followers": "many"}, "followers", "must be a whole number, is 'many'"),
        ({"followers": "-3"}, "followers", "at least 0"),
        ({"verified": "perhaps"}, "verified", "allowed: true, yes, 1, false, no, 0"),
    ],
)
def test_a_bad_row_is_named_or_put_aside(tmp_path, changed, field, says):
    answer = ROW.format(**GOOD | {"id": "r", "parent": "q" if "id" not in changed else ""})
    bad = ROW.format(**GOOD | changed)
    path = table(tmp_path / "p.csv", SOURCE, bad, answer)
    with pytest.raises(DataError) as caught:
        load_events(path)
    assert (caught.value.field, caught.value.record) == (field, "event 'e', line 3")
    assert says in caught.value.problem
    (event,) = load_events(path, skip_bad=True)
    assert len(event.posts) == 2
    assert event.posts.parents.tolist() == [-1, 0]  # the answer hangs on the source
    aside = [json.loads(x) for x in (tmp_path / "p.csv.quarantine.jsonl").read_text().splitlines()]
    assert [a["field"] for a in aside] == [field]
    assert aside[0]["raw"]["author"] == (GOOD | changed)["author"]


@pytest.mark.parametrize(
    ("content", "where", "says"),
    [
        (b"", "line 1", "has no column event, author, time, text"),
        (b"user,when,text\n", "line 1", "the first line names 'user', 'when', 'text'"),
        (b"event,author,time,text,mood\n", "line 1", "unknown column 'mood'"),
        (b"event,author,time,text,text\n", "line 1", "names the column 'text' twice"),
        (b"event,author,time,text,parent\n", "line 1", "no column id"),
        (b'event,author,time,text\ne,a,0,"open\n', "line 2", "is no table"),
        (b"event,author,time,text\ne,a,0,\xff\n", "file", "is not UTF-8"),
        (b"event,author,time,text\ne,a,0,x,y\n", "line 2", "has 5 cells where the header has 4"),
        (b"event,author,time,text\n,a,0,x\n", "line 2", "missing; every post belongs to an event"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, capsys, content, where, says):
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    assert main(["data", "convert", str(path), str(tmp_path / "out.jsonl")]) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert where in said
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()
    assert main(["data", "validate", str(path)]) == 1


def test_rows_that_contradict_each_other_are_no_event(tmp_path):
    rows = [SOURCE, ROW.format(**GOOD | {"label": "true"}), ROW.format(**GOOD | {"label": "false"})]
    with pytest.raises(DataError, match="differs between the event's rows"):
        load_events(table(tmp_path / "p.csv", *rows))
