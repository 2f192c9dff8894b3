"""The run feed: messages → what is known of a run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import MalformedRecord, SourceUnavailable
from tailrace.model import RunView
from tailrace.serve.feed import array_literal as written
from tailrace.wire import feed
from tailrace.wire.feed import FeedRows, array_literal, run_view
from tailrace.wire.run_fields import timestamp
from tailrace.wire.statuses import API_STATUS, RUNNING, TERMINAL, api_status, database_status
from tests.wirecases import load_steps

UP_TO_DATE = {"headers": {"control": "up-to-date"}}


def take(rows: FeedRows, messages: Iterable[Any]) -> None:
    """Take in one answer."""
    rows.begin()
    for each in messages:
        rows.merge(each)
    rows.end()


KEY = '"public"."TaskRun"/"cm1"'


def row(**columns: Any) -> dict[str, Any]:
    return {"friendlyId": "run_1", "status": "EXECUTING", **columns}


def message(operation: str = "insert", key: str = KEY, **value: Any) -> dict[str, Any]:
    return {"key": key, "value": value, "headers": {"operation": operation}}


# protocol §3: database name, API name, terminal.
STATUSES = [
    ("COMPLETED_SUCCESSFULLY", "COMPLETED", True),
    ("COMPLETED_WITH_ERRORS", "FAILED", True),
    ("INTERRUPTED", "FAILED", True),
    ("CANCELED", "CANCELED", True),
    ("CRASHED", "CRASHED", True),
    ("SYSTEM_FAILURE", "SYSTEM_FAILURE", True),
    ("EXPIRED", "EXPIRED", True),
    ("TIMED_OUT", "TIMED_OUT", True),
    ("PENDING", "QUEUED", False),
    ("WAITING_FOR_DEPLOY", "PENDING_VERSION", False),
    ("PENDING_VERSION", "PENDING_VERSION", False),
    ("PAUSED", "WAITING", False),
    ("WAITING_TO_RESUME", "WAITING", False),
    ("RETRYING_AFTER_FAILURE", "EXECUTING", False),
    ("DEQUEUED", "DEQUEUED", False),
    ("DELAYED", "DELAYED", False),
    ("EXECUTING", "EXECUTING", False),
]


@pytest.mark.trap(17)
@pytest.mark.trap(18)
@pytest.mark.parametrize(("database", "api", "terminal"), STATUSES)
def test_a_status_is_mapped_as_upstream_maps_it(database: str, api: str, terminal: bool) -> None:
    view = run_view(row(status=database))
    assert (view.status, view.terminal) == (api, terminal)
    # The API's own name means the same, whoever says it.
    assert api_status(api) == api
    assert run_view(row(status=api)).terminal == terminal


@pytest.mark.parametrize("api", sorted({*TERMINAL, *RUNNING, *API_STATUS.values()}))
def test_a_name_of_the_database_is_shown_by_the_api_as_the_name_it_was_made_from(api: str) -> None:
    assert api_status(database_status(api)) == api


@pytest.mark.parametrize("unknown", ["ARCHIVED", "completed", "", "COMPLETED_SOMEHOW"])
def test_a_status_nobody_has_heard_of_is_not_terminal(unknown: str) -> None:
    view = run_view(row(status=unknown))
    assert (view.status, view.terminal) == (unknown, False)


@pytest.mark.trap(28)
@pytest.mark.parametrize(
    ("literal", "items"),
    [
        ("{}", []),
        ("{ai}", ["ai"]),
        ('{"ai"}', ["ai"]),
        ('{ai,"odd \\"key\\""}', ["ai", 'odd "key"']),
        ('{"a,b","{c}","d\\\\e"}', ["a,b", "{c}", "d\\e"]),
        ("{ai,ai}", ["ai", "ai"]),
        ('{NULL,"NULL",null}', ["NULL"]),
        ('{"",x}', ["", "x"]),
        ("{ä,\U0001f600}", ["ä", "\U0001f600"]),
        (r"{a\,b}", ["a,b"]),
    ],
)
def test_an_array_literal_is_read_as_postgres_writes_it(literal: str, items: list[str]) -> None:
    assert array_literal(literal) == items


@given(st.lists(st.text()))
def test_every_list_survives_as_a_literal(items: list[str]) -> None:
    assert array_literal(written(items)) == items


@given(st.text(max_size=40))
def test_any_literal_is_a_list_or_malformed(text: str) -> None:
    try:
        array_literal("{" + text + "}")
    except MalformedRecord:
        assert '"' in text or "\\" in text


@pytest.mark.parametrize("bad", ["", "{", "}", "ai", '{"ai}', '{"a\\"}', "[ai]"])
def test_what_is_no_literal_is_malformed(bad: str) -> None:
    with pytest.raises(MalformedRecord):
        array_literal(bad)


@pytest.mark.trap(28)
@pytest.mark.parametrize(
    ("columns", "keys"),
    [
        ({}, ()),
        ({"realtimeStreams": None}, ()),
        ({"realtimeStreams": "{ai,log,ai}"}, ("ai", "log")),
        ({"realtimeStreams": "{}", "metadata": '{"$$streams":["old","older"]}'}, ("old", "older")),
        ({"realtimeStreams": "{ai}", "metadata": '{"$$streams":["old","ai"]}'}, ("ai", "old")),
        ({"metadata": '{"$$streams":["a\\u0000b","",7,null,"\\ud800","ok"]}'}, ("ok",)),
        ({"metadata": '{"$$streams":"ai"}'}, ()),
        ({"metadata": "not json"}, ()),
        ({"metadata": "[1]"}, ()),
        ({"metadata": "[" * 100_000}, ()),
        ({"metadata": {"$$streams": ["ai"]}}, ()),
    ],
)
def test_the_keys_are_those_of_the_column_and_of_old_metadata(columns: dict[str, Any], keys: tuple[str, ...]) -> None:
    assert run_view(row(**columns)).stream_keys == keys


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (None, None),
        ("", None),
        ("2026-11-22T05:00:00.123", datetime(2026, 11, 22, 5, 0, 0, 123_000, tzinfo=UTC)),
        ("2026-11-22 05:00:00.123", datetime(2026, 11, 22, 5, 0, 0, 123_000, tzinfo=UTC)),
        ("2026-11-22 05:00:00", datetime(2026, 11, 22, 5, tzinfo=UTC)),
        ("2026-11-22T05:00:00Z", datetime(2026, 11, 22, 5, tzinfo=UTC)),
        ("2026-11-22 06:00:00+01", datetime(2026, 11, 22, 5, tzinfo=UTC)),
    ],
)
def test_times_are_utc(text: str | None, moment: datetime | None) -> None:
    assert timestamp(text) == moment


@pytest.mark.trap(43)
def test_updates_are_merged_into_the_row() -> None:
    """In the Electric format an update has only what changed: the row keeps the rest, its stream keys above all."""
    rows = FeedRows()
    take(
        rows,
        [
            message(**row(realtimeStreams="{ai}", createdAt="2026-11-22 05:00:00")),
            message("update", id="cm1", status="COMPLETED_SUCCESSFULLY"),
            message("update", id="cm1", completedAt="2026-11-22 06:00:00"),
            UP_TO_DATE,
        ],
    )
    created, finished = datetime(2026, 11, 22, 5, tzinfo=UTC), datetime(2026, 11, 22, 6, tzinfo=UTC)
    assert rows.up_to_date
    assert rows.runs() == [
        RunView("run_1", "COMPLETED", True, ("ai",), created_at=created, finished_at=finished),
    ]


def test_answers_are_merged_until_up_to_date() -> None:
    rows = FeedRows()
    take(rows, [message(**row())])
    assert not rows.up_to_date
    take(rows, [message("update", realtimeStreams="{ai}"), UP_TO_DATE])
    assert rows.up_to_date
    assert rows.runs()[0].stream_keys == ("ai",)


def test_of_a_row_only_what_is_read_is_kept() -> None:
    """Metadata can be 256 kB a run, and upstream names runs that nobody asked for."""
    rows = FeedRows()
    big = json.dumps({"note": "x" * 100_000, "$$streams": ["old"]})
    for number in range(100):
        value = {"friendlyId": f"run_{number}", "status": "EXECUTING", "metadata": big, "seedMetadata": "y" * 100_000}
        take(rows, [{"key": f"k{number}", "value": value, "headers": {"operation": "insert"}}])
    assert [view.stream_keys for view in rows.runs()] == [("old",)] * 100
    assert len(pickle.dumps(rows)) < 100_000


def test_a_row_is_read_again_when_it_changes_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(feed, "run_view", lambda row: read.append(row["friendlyId"]) or run_view(row))
    rows = FeedRows()
    for number in range(3):
        value = {"friendlyId": f"run_{number}", "status": "EXECUTING"}
        take(rows, [{"key": f"k{number}", "value": value, "headers": {"operation": "insert"}}])
    rows.runs()
    take(rows, [{"key": "k1", "value": {"status": "COMPLETED_SUCCESSFULLY"}, "headers": {"operation": "update"}}])
    take(rows, [{"key": "k0", "headers": {"operation": "delete"}}])
    assert [(view.run_id, view.terminal) for view in rows.runs()] == [("run_1", True), ("run_2", False)]
    assert read == ["run_0", "run_1", "run_2", "run_1"]


def ids(found: tuple[list[RunView], list[Any]]) -> list[str]:
    return [view.run_id for view in found[0]]


def named(number: int, status: str = "EXECUTING", operation: str = "insert") -> dict[str, Any]:
    value = {"friendlyId": f"run_{number}", "status": status}
    return {"key": f"k{number}", "value": value, "headers": {"operation": operation}}


def test_what_has_not_changed_is_told_once_whichever_backend_answers() -> None:
    """The native one sends whole answers again and again."""
    rows = FeedRows()
    take(rows, [named(1), named(2)])
    assert ids(rows.changes()) == ["run_1", "run_2"]
    take(rows, [named(1), named(2, "WAITING_TO_RESUME")])
    assert ids(rows.changes()) == ["run_2"]
    take(rows, [{"key": "k1", "value": {"status": "PENDING"}, "headers": {"operation": "update"}}])
    assert ids(rows.changes()) == ["run_1"]
    assert ids(rows.changes()) == []


def test_a_whole_answer_is_all_that_there_is() -> None:
    """The native backend shows the newest thousand: who is not among them any more is not told of."""
    rows = FeedRows()
    take(rows, [named(1), named(2), UP_TO_DATE])
    rows.changes()
    take(rows, [named(2), named(3), UP_TO_DATE])
    assert ids(rows.changes()) == ["run_3"]
    assert set(rows.told_of) == {"run_2", "run_3"}


def test_what_changed_is_not_all_that_there_is() -> None:
    rows = FeedRows()
    take(rows, [named(1), named(2), UP_TO_DATE])
    take(
        rows, [named(3), {"key": "k1", "value": {"status": "PENDING"}, "headers": {"operation": "update"}}, UP_TO_DATE]
    )
    rows.changes()
    assert set(rows.told_of) == {"run_1", "run_2", "run_3"}
    assert rows.view("run_1").status == "QUEUED"


def test_of_runs_that_are_over_those_are_kept_that_somebody_wants() -> None:
    rows = FeedRows(wanted=lambda run_id: run_id in ("run_1", "run_2"))
    over = "COMPLETED_SUCCESSFULLY"
    take(rows, [named(1, over), named(2), named(3, over), named(4)])
    assert ids(rows.changes()) == ["run_1", "run_2", "run_4"]
    take(
        rows,
        [{"key": f"k{number}", "value": {"status": over}, "headers": {"operation": "update"}} for number in (2, 4)],
    )
    assert ids(rows.changes()) == ["run_2", "run_4"], "its end is told"
    assert set(rows.told_of) == {"run_1", "run_2"}


def test_an_update_of_what_was_let_go_is_none() -> None:
    """It does not say which run it is of."""
    rows = FeedRows(wanted=lambda run_id: False)
    take(rows, [named(1, "COMPLETED_SUCCESSFULLY")])
    take(rows, [{"key": "k1", "value": {"metadata": "{}"}, "headers": {"operation": "update"}}])
    assert rows.changes() == ([], [])


def test_a_hundred_thousand_runs_that_are_over_take_no_room() -> None:
    rows = FeedRows(wanted=lambda run_id: False)
    take(rows, [named(number, "COMPLETED_SUCCESSFULLY") for number in range(100_000)])
    rows.changes()
    assert sum(len(each) for each in (rows._rows, rows._read, rows._changed, rows._named)) == 0


def test_a_row_that_was_deleted_or_has_no_name_is_no_run() -> None:
    rows = FeedRows()
    take(rows, [message(**row()), message(key="b", id="cm2"), UP_TO_DATE])
    assert [run.run_id for run in rows.runs()] == ["run_1"]
    take(rows, [message("delete"), UP_TO_DATE])
    assert rows.runs() == []


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ("x", "message"),
        (None, "message"),
        (5, "message"),
        ([], "message"),
        ({"headers": 5}, "headers"),
        ({"headers": None}, "headers"),
        ({"key": "a", "value": 5}, "value"),
        ({"value": {}}, "value"),
        ({"key": 5, "value": {}}, "value"),
    ],
)
def test_a_message_that_is_none_keeps_no_row_from_being_read(bad: Any, field: str) -> None:
    rows = FeedRows()
    take(rows, [bad, message(**row()), bad, UP_TO_DATE])
    runs, malformed = rows.read()
    assert rows.up_to_date
    assert [run.run_id for run in runs] == ["run_1"]
    assert [(each.run_id, each.field) for each in malformed] == [(None, field)] * 2
    assert rows.read() == (runs, []), "told once"


def test_a_row_whose_update_is_lost_is_looked_for_elsewhere() -> None:
    """What it said is not known: its end, perhaps."""
    rows = FeedRows()
    take(rows, [message(**row()), UP_TO_DATE])
    take(rows, [{"key": KEY, "value": "spoilt", "headers": {}}, UP_TO_DATE])
    runs, malformed = rows.read()
    assert runs == []
    assert [(each.run_id, each.field) for each in malformed] == [("run_1", "value")]


BAD_FIELDS: list[tuple[str, Any]] = [
    *(("friendlyId", bad) for bad in (None, 5, "", "a\0b", "\ud800", "x" * 2_001, ["run_1"])),
    *(("status", bad) for bad in (None, 5, [], "X" * 101)),
    *(("realtimeStreams", bad) for bad in (["ai"], "ai", 5, '{"ai')),
    *(("runTags", bad) for bad in ({}, "red", 5)),
    *(("taskIdentifier", bad) for bad in (5, {}, "x" * 20_001)),
    *(
        (column, bad)
        for column in ("createdAt", "startedAt", "completedAt")
        for bad in (5, "yesterday", [], "0001-01-01T00:00:00+23:59", "2026-13-01 00:00:00", "\0", "9" * 5_000)
    ),
]


@pytest.mark.parametrize(("field", "bad"), BAD_FIELDS, ids=lambda each: repr(each)[:30])
def test_a_row_that_is_wrong_is_told_and_keeps_no_other_from_being_read(field: str, bad: Any) -> None:
    rows = FeedRows()
    take(rows, [message(key="a", **row(**{field: bad})), message(key="b", **row(friendlyId="run_2")), UP_TO_DATE])
    runs, malformed = rows.read()
    assert [run.run_id for run in runs] == ["run_2"]
    assert [each.field for each in malformed] == [field]
    assert malformed[0].run_id == (None if field == "friendlyId" else "run_1")
    assert len(malformed[0].reason) < 300


@pytest.mark.parametrize("missing", ["friendlyId", "status"])
def test_a_row_without_what_is_needed_is_told(missing: str) -> None:
    rows = FeedRows()
    value = row()
    del value[missing]
    take(rows, [message(**value), UP_TO_DATE])
    assert [(run, [each.field for each in malformed]) for run, malformed in [rows.read()]] == [([], [missing])]


@pytest.mark.parametrize("tag", ["x" * 2_001, "ä" * 1_001])
def test_a_tag_that_no_index_takes_is_left_out(tag: str) -> None:
    assert run_view(row(runTags=written([tag, "red"]))).tags == ("red",)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, categories=None), max_size=8)
    | st.sampled_from(["\0", "\ud800", "x" * 30_000, "{", '{"', "{a", "2026-01-01T00:00:00+01:00:00.5", "0001-01-01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
COLUMNS = [
    "friendlyId",
    "status",
    "realtimeStreams",
    "metadata",
    "runTags",
    "taskIdentifier",
    "createdAt",
    "completedAt",
]


@given(st.lists(st.dictionaries(st.sampled_from(COLUMNS), ANYTHING, max_size=3) | ANYTHING, max_size=8), st.randoms())
def test_good_rows_come_through_whatever_stands_beside_them(mutations: list[Any], random: Any) -> None:
    """And what comes through can be stored: texts that a database takes, within the size of an index."""
    good = [message(key=f"good {n}", **row(friendlyId=f"run_good_{n}")) for n in range(3)]
    bad = [
        message(key=f"bad {n}", **row(**{"friendlyId": f"run_bad_{n}"} | each))
        if isinstance(each, dict) and random.random() < 0.8
        else each
        for n, each in enumerate(mutations)
    ]
    messages = [*good, *bad]
    random.shuffle(messages)
    rows = FeedRows()
    take(rows, [*messages, UP_TO_DATE])
    runs, malformed = rows.read()
    assert rows.up_to_date
    assert {f"run_good_{n}" for n in range(3)} <= {run.run_id for run in runs}
    assert all(len(each.reason) < 500 for each in malformed)
    for run in runs:
        texts = [run.run_id, run.status, run.task_identifier or "", *run.tags, *run.stream_keys]
        assert all("\0" not in text and len(text.encode()) <= 80_000 for text in texts)
        assert all(len(text.encode()) <= 2_000 for text in (run.run_id, *run.tags, *run.stream_keys))
        assert all(moment is None or moment.utcoffset() == timedelta(0) for moment in (run.created_at, run.finished_at))


MESSAGES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["key", "value", "headers", "operation", "control", "friendlyId", "status", "realtimeStreams"]
            ),
            inner,
        )
    ),
    max_leaves=15,
)


@given(MESSAGES)
def test_any_json_can_be_a_message(messages: Any) -> None:
    rows = FeedRows()
    take(rows, messages if isinstance(messages, list) else [messages])
    rows.runs()


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever upstream sends: neither what is no message nor runs without number fill the memory."""
    monkeypatch.setattr(feed, "STRAYS_MAX", 3)
    monkeypatch.setattr(feed, "ROWS_MAX", 2)
    rows = FeedRows()
    take(rows, [1] * 10)
    assert len(rows.read()[1]) == 3
    with pytest.raises(SourceUnavailable, match="more than 2 runs"):
        take(rows, [message(key=f"k{number}", **row(friendlyId=f"run_{number}")) for number in range(3)])


def test_the_recorded_native_feed() -> None:
    rows = FeedRows()
    seen = []
    for step in load_steps("run_feed_native")["steps"]:
        take(rows, json.loads(step["body"]))
        (view,) = rows.runs()
        seen.append((view.status, view.terminal, view.stream_keys, view.finished_at is not None))
    odd = 'odd "key", {x} \\ y'
    assert [each[:2] for each in seen] == [("EXECUTING", False)] * 3 + [("COMPLETED", True)] * 2
    assert [each[2] for each in seen][:3] == [(), ("ai",), ("ai",)]
    assert seen[3][2] == seen[4][2] == ("ai", odd)
    assert [each[3] for each in seen] == [False, False, False, True, True]


@pytest.mark.trap(43)
def test_the_synthesised_electric_feed() -> None:
    first, update, _ = load_steps("run_feed_electric_synthesised")["steps"]
    rows = FeedRows()
    take(rows, json.loads(first["body"]))
    assert rows.runs()[0].stream_keys == ()
    take(rows, json.loads(update["body"]))
    (view,) = rows.runs()
    assert (view.run_id, view.status, view.stream_keys) == ("run_1", "EXECUTING", ("ai", 'odd "key"'))
