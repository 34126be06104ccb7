"""Events from Parquet: one row an event, its posts in a list column.

Four schemas are told apart by their columns:

==========  ==========================  ====  ================================================
schema      told by                     lang  columns of ``posts`` that it needs
==========  ==========================  ====  ================================================
weibo       none of the others          zh    t_offset, user, parent, text, kind
rumoureval  ``users``                   en    t_offset, user, parent, text, stance
pheme       ``threads``                 en    those of rumoureval, and thread
pheme-rnr   ``posts.in_rumour_thread``  en    t_offset, user, text, stance, in_rumour_thread
==========  ==========================  ====  ================================================

All need ``event_id``, ``source``, ``label``, ``domain`` and ``topic``. Columns of the author's
profile may be missing. Row groups are converted one after the other and by column, so a file
needs little more memory than its events.

A pheme event keeps its threads in ``meta["threads"]`` (``rumoureval_id``, ``topic``, ``story``,
``label``) and the thread of each post in ``meta["posts"]["thread"]``. In pheme-rnr the parents
are not known: every post but the first hangs on the first, as "parent not kept".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mfenv.errors import DataError, MfenvError
from mfenv.events.checks import (
    GENDERS,
    MAX_TEXT_BYTES,
    Draft,
    Fault,
    Intake,
    choice_problem,
    show,
    show_name,
    text_problem,
)
from mfenv.events.event import Event, EventHead, Profile
from mfenv.events.quarantine import describe_os_error

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["iter_parquet", "iter_parquet_heads", "parquet_kind"]

T = TypeVar("T")

_HEAD = ("event_id", "source", "label", "domain", "topic", "posts")
_BATCH = 64  # events converted at a time


@dataclass(frozen=True, slots=True)
class _Schema:
    name: str
    language: str
    posts: tuple[str, ...]
    meta: tuple[str, ...]
    post_meta: tuple[str, ...] = ()
    users: bool = False
    one_source: bool = True


_WEIBO = _Schema(
    "weibo",
    "zh",
    ("t_offset", "user", "parent", "text", "kind"),
    ("topic_group", "source_month", "domain_source", "in_rumdect", "paper_split", "n_posts_raw"),
)
_RUMOUREVAL = _Schema(
    "rumoureval",
    "en",
    ("t_offset", "user", "parent", "text", "stance"),
    ("event", "story"),
    users=True,
)
_PHEME = _Schema(
    "pheme",
    "en",
    ("t_offset", "user", "parent", "text", "stance", "thread"),
    ("event", "threads"),
    ("thread",),
    users=True,
    one_source=False,
)
_PHEME_RNR = _Schema(
    "pheme-rnr",
    "en",
    ("t_offset", "user", "text", "stance", "in_rumour_thread"),
    ("event",),
    ("in_rumour_thread",),
)

# Column of the file -> field of Profile. Columns of `posts` belong to the post's author at that
# post; columns of `users` to the author.
_POST_PROFILE = {
    "location": "location",
    "description": "description",
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
_USER_PROFILE = {
    "location": "location",
    "description": "description",
    "friends_count": "friends",
    "followers_count": "followers",
    "verified": "verified",
}
_POST_COUNTS = {"favorite_count": "likes", "retweet_count": "reposts"}
_TYPES = {
    "t_offset": "number",
    "user": "integer",
    "parent": "integer",
    "thread": "integer",
    "in_rumour_thread": "boolean",
    "verified": "boolean",
    **{name: "integer" for name in (*_POST_PROFILE, *_POST_COUNTS) if name.endswith("_count")},
    "verified_type": "integer",
}


def iter_parquet(path: Path, intake: Intake, event_ids: frozenset[str] | None) -> Iterator[Event]:
    """Yield the events of a Parquet file in the order of its rows.

    With ``event_ids`` only the row groups that hold one of them are read. Raises ``DataError``
    for a file that is no Parquet, is cut off, or lacks columns.
    """
    with _opened(path) as file:
        schema = _detect(path, file.schema_arrow)
        columns = [c for c in file.schema_arrow.names if c in (*_HEAD, *schema.meta, "users")]
        yield from _converted(
            path,
            file,
            columns,
            intake,
            event_ids,
            lambda batch, row: _events(path, schema, batch, row, intake, event_ids),
        )


def iter_parquet_heads(path: Path, intake: Intake) -> Iterator[EventHead]:
    """Yield ids and numbers of posts in the order of the rows; of posts one column is decoded.

    Raises ``DataError`` as :func:`iter_parquet` does, but for what stands in the other columns.
    """
    with _opened(path) as file:
        schema = _detect(path, file.schema_arrow)
        leaves = [file.schema.column(i).path for i in range(len(file.schema))]
        size = next(x for x in leaves if x.startswith("posts.") and x.endswith(".user"))
        yield from _converted(
            path,
            file,
            ["event_id", size],
            intake,
            None,
            lambda batch, row: _heads(path, schema, batch, row, intake),
        )


def parquet_kind(path: Path) -> str | None:
    """The schema that a file follows, by name; ``None`` for a table that holds no posts at all.

    Raises ``DataError`` as :func:`iter_parquet` does.
    """
    with _opened(path) as file:
        return _detect(path, file.schema_arrow).name if "posts" in file.schema_arrow.names else None


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as e:
        if isinstance(e, OSError) and e.errno is not None:
            raise MfenvError(f"{path}: cannot read ({describe_os_error(e)})") from e
        problem = f"no complete Parquet file, it may be cut off ({_first_line(e)})"
        raise DataError(str(path), "file", "footer", problem) from e
    with file:
        yield file


def _converted(
    path: Path,
    file: pq.ParquetFile,
    columns: Sequence[str],
    intake: Intake,
    event_ids: frozenset[str] | None,
    convert: Callable[[pa.RecordBatch, int], Iterator[T]],
) -> Iterator[T]:
    """The row groups that hold one of the events (``None``: all), some rows at a time.

    ``convert`` takes rows and the number of the first one; a row group that cannot be read goes
    to ``intake``.
    """
    import pyarrow as pa

    row = 0
    for group in range(file.num_row_groups):
        n_rows = file.metadata.row_group(group).num_rows
        start = row
        try:
            if event_ids is None or _holds(file, group, event_ids):
                for batch in file.iter_batches(_BATCH, row_groups=[group], columns=columns):
                    yield from convert(batch, start)
                    start += batch.num_rows
        except (pa.ArrowException, OSError) as e:
            problem = f"cannot be read, the file may be damaged ({_first_line(e)})"
            record = f"rows {row} to {row + n_rows - 1}"
            intake.reject(str(path), record, ("row group", problem), lambda: None)
        row += n_rows


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _holds(file: pq.ParquetFile, group: int, event_ids: frozenset[str]) -> bool:
    """Whether a row group has one of the events; an id that is no UTF-8 matches none."""
    import pyarrow as pa

    ids = file.read_row_group(group, columns=["event_id"]).column(0).cast(pa.binary())
    return not event_ids.isdisjoint(
        v.decode(errors="replace") for v in ids.to_pylist() if v is not None
    )


def _detect(path: Path, arrow: pa.Schema) -> _Schema:
    """Tell the schema by its columns and check that they are there and of the right type."""
    import pyarrow as pa

    def fail(field: str, problem: str) -> DataError:
        return DataError(str(path), "schema", field, problem)

    def check(prefix: str, have: dict[str, pa.DataType], need: Sequence[str]) -> None:
        for name in need:
            if name not in have:
                found = ", ".join(show_name(h) for h in have)
                raise fail(prefix + name, f"the column is missing; there are: {found}")

    def check_type(prefix: str, name: str, found: pa.DataType, want: str) -> None:
        t = pa.types
        found = found.value_type if t.is_dictionary(found) else found
        ok = {
            "string": t.is_string(found) or t.is_large_string(found),
            "integer": t.is_integer(found) or t.is_floating(found),  # pandas writes such
            "number": t.is_integer(found) or t.is_floating(found),
            "boolean": t.is_boolean(found),
        }[want]
        if not ok and not t.is_null(found):
            raise fail(prefix + name, f"the column is {found}; it must be of type {want}")

    head = {f.name: f.type for f in arrow}
    check("", head, _HEAD)
    for name in _HEAD[:-1]:
        check_type("", name, head[name], "string")
    posts = _struct_fields(head["posts"])
    if posts is None:
        raise fail("posts", f"the column is {head['posts']}; it must be a list of structs")
    if "threads" in head:
        schema = _PHEME
    elif "in_rumour_thread" in posts:
        schema = _PHEME_RNR
    elif "users" in head:
        schema = _RUMOUREVAL
    else:
        schema = _WEIBO
    check("posts.", posts, schema.posts)
    profile = _POST_COUNTS if schema.users else _POST_PROFILE
    for name in (*schema.posts, *(p for p in profile if p in posts)):
        check_type("posts.", name, posts[name], _TYPES.get(name, "string"))
    if schema.users:
        check("", head, ["users"])
        users = _struct_fields(head["users"])
        if users is None:
            raise fail("users", f"the column is {head['users']}; it must be a list of structs")
        for name in (p for p in _USER_PROFILE if p in users):
            check_type("users.", name, users[name], _TYPES.get(name, "string"))
    return schema


def _struct_fields(type_: pa.DataType) -> dict[str, pa.DataType] | None:
    import pyarrow as pa

    if not (pa.types.is_list(type_) or pa.types.is_large_list(type_)):
        return None
    if not pa.types.is_struct(type_.value_type):
        return None
    return {f.name: f.type for f in type_.value_type}


@dataclass(slots=True)
class _Columns:
    """The posts of a batch of events, one after the other."""

    n: int
    offsets: NDArray[np.float64]
    authors: NDArray[np.int64]
    parents: NDArray[np.int64]
    texts: list[str | None]
    kinds: list[str | None] | None
    stances: list[str | None] | None
    profiles: list[Profile | None] | None
    post_meta: dict[str, list[Any]]
    likes: list[int | None] | None
    reposts: list[int | None] | None
    faults: dict[int, Fault]


def _heads(
    path: Path, schema: _Schema, batch: pa.RecordBatch, first_row: int, intake: Intake
) -> Iterator[EventHead]:
    ids, bad = _strings(batch.column("event_id"), limit=False)
    lengths = batch.column("posts").value_lengths().fill_null(0).to_pylist()
    for i, (event_id, posts) in enumerate(zip(ids, lengths, strict=True)):
        fault = ("event_id", bad[i]) if i in bad else intake.head_fault(event_id, posts)
        if fault is not None:
            intake.reject(str(path), _record(event_id, first_row + i), fault, _raw(batch, i))
        else:
            yield EventHead(str(event_id), schema.language, posts)


def _events(
    path: Path,
    schema: _Schema,
    batch: pa.RecordBatch,
    first_row: int,
    intake: Intake,
    event_ids: frozenset[str] | None,
) -> Iterator[Event]:
    import pyarrow as pa

    rows = np.arange(first_row, first_row + batch.num_rows)
    ids, id_faults = _strings(batch.column("event_id"), limit=False)
    if event_ids is not None:
        index = [i for i, v in enumerate(ids) if v in event_ids]
        if not index:
            return
        batch, rows = batch.take(pa.array(index)), rows[index]
        ids, id_faults = _strings(batch.column("event_id"), limit=False)
    heads: dict[str, list[Any]] = {"event_id": ids}
    head_faults: dict[int, Fault] = {i: ("event_id", p) for i, p in id_faults.items()}
    for name in ("source", "label", "domain", "topic"):
        heads[name], bad = _strings(batch.column(name))
        for i, problem in bad.items():
            head_faults.setdefault(i, (name, problem))
    meta_columns = {
        name: _pylist(batch.column(name)) for name in schema.meta if name in batch.schema.names
    }
    lists = batch.column("posts")
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    structs = lists.flatten()
    columns = _columns(schema, structs)
    users = batch.column("users") if schema.users else None

    for k in range(batch.num_rows):
        a, b = int(bounds[k]), int(bounds[k + 1])
        event_id = ids[k]
        draft = Draft(
            file=str(path),
            record=_record(event_id, int(rows[k])),
            event_id=event_id,
            topic=heads["topic"][k],
            language=schema.language,
            domain=heads["domain"][k],
            label=heads["label"][k],
            source=heads["source"][k] or schema.name,
            offsets=columns.offsets[a:b],
            authors=columns.authors[a:b],
            parents=columns.parents[a:b].copy(),
            texts=columns.texts[a:b],
            kinds=columns.kinds and columns.kinds[a:b],
            stances=columns.stances and columns.stances[a:b],
            profiles=columns.profiles and columns.profiles[a:b],
            meta={m: v[k] for m, v in meta_columns.items() if v[k] is not None},
            post_meta={m: v[a:b] for m, v in columns.post_meta.items()},
            fault=head_faults.get(k),
            faults={i - a: columns.faults[i] for i in columns.faults if a <= i < b},
            one_source=schema.one_source,
            raw_event=_raw(batch, k),
            raw_post=lambda i, a=a: _raw(structs, a + i)(),  # type: ignore[misc]
        )
        if schema is _PHEME_RNR and b > a:
            draft.parents[0] = -1
        if schema is _PHEME:
            _slim_threads(draft)
        if users is not None:
            _add_user_profiles(draft, users[k].values, columns, a, b)
        event = intake.accept(draft)
        if event is not None:
            yield event


def _record(event_id: str | None, row: int) -> str:
    """How to find an event in the file: by its id where that can be shown, else by its row."""
    plain = event_id is not None and 0 < len(event_id) <= 80 and event_id.isprintable()
    return f"event {event_id}" if plain else f"row {row}"


def _columns(schema: _Schema, structs: pa.StructArray) -> _Columns:
    """Convert the posts of a batch by column."""
    import pyarrow as pa

    n = len(structs)
    names = [f.name for f in structs.type]
    faults: dict[int, Fault] = {}

    def column(name: str) -> pa.Array:
        values = structs.field(names.index(name))
        return pa.nulls(n, pa.string()) if pa.types.is_null(values.type) else values

    def nulls(values: pa.Array) -> list[int]:
        if values.null_count == 0:
            return []
        return np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)).tolist()

    def integers(name: str, fill: int, *, null: bool = False) -> NDArray[np.int64]:
        values, bad = _integers(column(name))
        for i, problem in bad.items():
            faults.setdefault(i, (name, problem))
        if not null:
            for i in nulls(values):
                faults.setdefault(i, (name, "must be an integer, is null"))
        values = values.fill_null(fill)
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.int64)

    def strings(name: str) -> list[str | None]:
        values, bad = _strings(column(name))
        for i, problem in bad.items():
            faults.setdefault(i, (name, problem))
        return values

    def counts(name: str) -> list[int | None] | None:
        if name not in names:
            return None
        values, bad = _integers(column(name))
        for i, problem in bad.items():
            faults.setdefault(i, (name, problem))
        out: list[int | None] = values.to_pylist()
        return out

    for i in nulls(structs):
        faults[i] = ("posts", "the post is null")
    texts = strings("text")
    times = column("t_offset")
    for i in nulls(times):
        faults.setdefault(i, ("t_offset", "must be a number of seconds, is null"))
    offsets = times.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy(zero_copy_only=False)
    authors = integers("user", 0)
    if "parent" in schema.posts:
        parents = integers("parent", -1, null=True)
        written = integers("parent", 0, null=True)  # -1 written out is no null
        for i in np.flatnonzero(written < 0).tolist():
            faults.setdefault(i, ("parent", f"unknown parent {written[i]}"))
    else:
        parents = np.zeros(n, dtype=np.int64)
    return _Columns(
        n=n,
        offsets=offsets,
        authors=authors,
        parents=parents,
        texts=texts,
        kinds=strings("kind") if "kind" in schema.posts else None,
        stances=strings("stance") if "stance" in schema.posts else None,
        profiles=None if schema.users else _post_profiles(structs, names, faults),
        post_meta={
            m: (_integers(column(m))[0] if _TYPES[m] == "integer" else column(m)).to_pylist()
            for m in schema.post_meta
        },
        likes=counts("favorite_count"),
        reposts=counts("retweet_count"),
        faults=faults,
    )


def _strings(values: pa.Array, *, limit: bool = True) -> tuple[list[str | None], dict[int, str]]:
    """Return the strings and, by index, what is wrong with those that cannot be used (``None``)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    bad: dict[int, str] = {}
    if pa.types.is_null(values.type):
        return [None] * len(values), bad
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if limit and (pc.max(pc.binary_length(values)).as_py() or 0) > MAX_TEXT_BYTES:
        sizes = pc.binary_length(values).fill_null(0).to_numpy(zero_copy_only=False)
        for i in np.flatnonzero(sizes > MAX_TEXT_BYTES).tolist():
            bad[i] = f"is {sizes[i]:,} bytes long; at most {MAX_TEXT_BYTES:,} are allowed"
    try:
        out = values.to_pylist()
    except UnicodeDecodeError:
        out = []
        for i, raw in enumerate(values.cast(pa.binary()).to_pylist()):
            try:
                out.append(None if raw is None else raw.decode())
            except UnicodeDecodeError as e:
                out.append(None)
                bad.setdefault(i, f"is no UTF-8 (byte {e.start})")
    for i in bad:
        out[i] = None
    return out, bad


def _integers(values: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    """Return 64-bit integers and, by index, what is wrong with those that are none (null).

    Whole numbers stored as floats are taken, and NaN as null: pandas writes integers with gaps so.
    """
    import pyarrow as pa

    if pa.types.is_null(values.type) or pa.types.is_string(values.type):
        return pa.nulls(len(values), pa.int64()), {}
    if not pa.types.is_floating(values.type):
        # An unsigned number that does not fit wraps to a negative one, which no check lets pass.
        return values.cast(pa.int64(), safe=False), {}
    floats = values.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
    fits = (np.abs(floats) < 2.0**53) & (np.trunc(floats) == floats)
    wrong = ~fits & ~np.isnan(floats)
    bad = {i: f"must be an integer, is {floats[i]:g}" for i in np.flatnonzero(wrong).tolist()}
    return pa.array(np.where(fits, floats, 0).astype(np.int64), mask=~fits), bad


def _pylist(values: pa.Array) -> list[Any]:
    return [_scalar(v) for v in values] if _has_strings(values.type) else values.to_pylist()


def _has_strings(type_: pa.DataType) -> bool:
    return "string" in str(type_)


def _scalar(value: Any) -> Any:
    """Convert one Arrow scalar; a string that is no UTF-8 becomes bytes."""
    import pyarrow as pa

    if not value.is_valid:
        return None
    if isinstance(value, pa.StructScalar):
        return {name: _scalar(value[name]) for name in value}
    if isinstance(value, pa.ListScalar):
        return [_scalar(v) for v in value.values]
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return bytes(value.as_buffer())


def _raw(values: pa.RecordBatch | pa.Array, i: int) -> Callable[[], Any]:
    import pyarrow as pa

    if isinstance(values, pa.RecordBatch):
        return lambda: {name: _scalar(values.column(name)[i]) for name in values.schema.names}
    return lambda: _scalar(values[i])


def _known_rows(columns: dict[str, pa.Array], n: int) -> NDArray[np.intp]:
    """The rows that have a value in at least one column."""
    known = np.zeros(n, dtype=bool)
    for values in columns.values():
        if values.null_count < n:
            known |= values.is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(known)


def _profiles(
    columns: dict[str, pa.Array], n: int, fields: dict[str, str], prefix: str = ""
) -> tuple[list[Profile | None], dict[int, Fault]]:
    """Build the profiles of the rows that have any field; the others are ``None``."""
    import pyarrow as pa

    out: list[Profile | None] = [None] * n
    faults: dict[int, Fault] = {}
    rows = _known_rows(columns, n)
    if len(rows) == 0:
        return out, faults
    take = pa.array(rows)
    values: dict[str, list[Any]] = {}
    for name, column in columns.items():
        part = column.take(take)
        if pa.types.is_string(part.type) or pa.types.is_large_string(part.type):
            values[fields[name]], bad = _strings(part)
        elif not pa.types.is_boolean(part.type):
            whole, bad = _integers(part)
            values[fields[name]] = whole.to_pylist()
        else:
            values[fields[name]], bad = part.to_pylist(), {}
        if name == "gender":
            for j, v in enumerate(values["gender"]):
                if (problem := choice_problem(v, GENDERS)) is not None:
                    bad.setdefault(j, problem)
        elif name.endswith("_count"):
            for j, v in enumerate(values[fields[name]]):
                if v is not None and v < 0:
                    bad.setdefault(j, f"must be at least 0, is {v}")
        for j, problem in bad.items():
            faults.setdefault(int(rows[j]), (prefix + name, problem))
    names = list(values)
    for i, row in zip(rows.tolist(), zip(*values.values(), strict=True), strict=True):
        out[i] = Profile(**dict(zip(names, row, strict=True)))
    return out, faults


def _post_profiles(
    structs: pa.StructArray, names: list[str], faults: dict[int, Fault]
) -> list[Profile | None]:
    import pyarrow as pa

    columns = {m: structs.field(names.index(m)) for m in _POST_PROFILE if m in names}
    columns = {m: v for m, v in columns.items() if not pa.types.is_null(v.type)}
    out, bad = _profiles(columns, len(structs), _POST_PROFILE)
    for i, fault in bad.items():
        faults.setdefault(i, fault)
    return out


def _add_user_profiles(
    draft: Draft, users: pa.StructArray | None, columns: _Columns, a: int, b: int
) -> None:
    """Give each post its author's profile with the post's own counts.

    Where nothing is known of the authors (Reddit) a post's score makes no profile.
    """
    n = 0 if users is None else len(users)
    for i in np.flatnonzero(draft.authors >= n).tolist():
        draft.faults.setdefault(
            i, ("user", f"unknown user {draft.authors[i]}; the event has {n} (from 0)")
        )
    if users is None or n == 0:
        return
    names = [f.name for f in users.type]
    known, bad = _profiles(
        {m: users.field(names.index(m)) for m in _USER_PROFILE if m in names},
        n,
        _USER_PROFILE,
        "users.",
    )
    profiles: list[Profile | None] = []
    for i in range(b - a):
        author = int(draft.authors[i])
        profile = known[author] if 0 <= author < n else None
        if author in bad:
            draft.faults.setdefault(i, bad[author])
        if profile is not None:
            counts: dict[str, int | None] = {}
            for name, column in (("likes", columns.likes), ("reposts", columns.reposts)):
                counts[name] = None if column is None else column[a + i]
                if (counts[name] or 0) < 0:
                    file_name = {v: k for k, v in _POST_COUNTS.items()}[name]
                    problem = f"must be at least 0, is {counts[name]}"
                    draft.faults.setdefault(i, (file_name, problem))
            profile = replace(profile, likes=counts["likes"], reposts=counts["reposts"])
        profiles.append(profile)
    draft.profiles = profiles


def _slim_threads(draft: Draft) -> None:
    """Keep of the threads what says what they are about, and check the posts' thread numbers."""
    threads = draft.meta.get("threads") or []
    keep = ("rumoureval_id", "topic", "story", "label")
    slim = []
    for i, thread in enumerate(threads):
        thread = thread or {}
        label = thread.get("label")
        if (problem := choice_problem(label, ("true", "false", "unverified"))) is not None:
            draft.fault = draft.fault or (f"threads[{i}].label", problem)
        if (problem := text_problem(thread.get("topic"), empty=False)) is not None:
            draft.fault = draft.fault or (f"threads[{i}].topic", problem)
        slim.append({k: thread.get(k) for k in keep})
    draft.meta = {**draft.meta, "threads": slim}
    for i, number in enumerate(draft.post_meta["thread"]):
        if number is None or not 0 <= number < len(threads):
            problem = f"unknown thread {show(number)}; the event has {len(threads)} (from 0)"
            draft.faults.setdefault(i, ("thread", problem))
