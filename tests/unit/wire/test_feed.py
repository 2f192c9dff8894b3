"""The run feed: messages → what is known of a run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import MalformedRecord
from tailrace.model import RunView
from tailrace.serve.feed import array_literal as written
from tailrace.wire.feed import FeedRows, api_status, array_literal, run_view, timestamp
from tests.wirecases import load_steps

UP_TO_DATE = {"headers": {"control": "up-to-date"}}
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
    rows.feed(
        [
            message(**row(realtimeStreams="{ai}", createdAt="2026-11-22 05:00:00")),
            message("update", id="cm1", status="COMPLETED_SUCCESSFULLY"),
            message("update", id="cm1", completedAt="2026-11-22 06:00:00"),
            UP_TO_DATE,
        ]
    )
    created, finished = datetime(2026, 11, 22, 5, tzinfo=UTC), datetime(2026, 11, 22, 6, tzinfo=UTC)
    assert rows.up_to_date
    assert rows.runs() == [
        RunView("run_1", "COMPLETED", True, ("ai",), created_at=created, finished_at=finished),
    ]


def test_answers_are_merged_until_up_to_date() -> None:
    rows = FeedRows()
    rows.feed([message(**row())])
    assert not rows.up_to_date
    rows.feed([message("update", realtimeStreams="{ai}"), UP_TO_DATE])
    assert rows.up_to_date
    assert rows.runs()[0].stream_keys == ("ai",)


def test_a_row_that_was_deleted_or_has_no_name_is_no_run() -> None:
    rows = FeedRows()
    rows.feed([message(**row()), message(key="b", id="cm2"), UP_TO_DATE])
    assert [run.run_id for run in rows.runs()] == ["run_1"]
    rows.feed([message("delete"), UP_TO_DATE])
    assert rows.runs() == []


@pytest.mark.parametrize(
    "bad",
    [
        None,
        {},
        "x",
        5,
        ["x"],
        [5],
        [[]],
        [{"headers": 5}],
        [{"key": "a", "value": 5}],
        [{"value": {}}],
        [{"key": 5, "value": {}}],
    ],
)
def test_what_is_no_feed_is_malformed(bad: Any) -> None:
    with pytest.raises(MalformedRecord):
        FeedRows().feed(bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"realtimeStreams": ["ai"]},
        {"realtimeStreams": "ai"},
        {"createdAt": 5},
        {"createdAt": "yesterday"},
        {"runTags": {}},
    ],
)
def test_a_row_of_another_shape_is_malformed(bad: dict[str, Any]) -> None:
    with pytest.raises(MalformedRecord):
        run_view(row(**bad))


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
def test_any_json_is_a_feed_or_malformed(messages: Any) -> None:
    rows = FeedRows()
    try:
        rows.feed(messages)
        rows.runs()
    except MalformedRecord:
        pass


def test_the_recorded_native_feed() -> None:
    rows = FeedRows()
    seen = []
    for step in load_steps("run_feed_native")["steps"]:
        rows.feed(json.loads(step["body"]))
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
    rows.feed(json.loads(first["body"]))
    assert rows.runs()[0].stream_keys == ()
    rows.feed(json.loads(update["body"]))
    (view,) = rows.runs()
    assert (view.run_id, view.status, view.stream_keys) == ("run_1", "EXECUTING", ("ai", 'odd "key"'))
