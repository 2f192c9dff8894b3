"""What a page is asked for in its address."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tailrace.serve.console.questions import BadQuestion, moment, number, wanted
from tailrace.serve.console.same_origin import from_elsewhere, from_our_page
from tailrace.store.search import Wanted

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def test_an_id_is_looked_up_and_other_words_are_looked_for_in_the_text() -> None:
    assert wanted({"q": " run_1 "}, None, NOW) == Wanted(run_id="run_1")
    assert wanted({"q": "run_1 was late"}, None, NOW) == Wanted(text="run_1 was late")
    assert wanted({"q": "", "tag": "", "before": ""}, None, NOW) == Wanted()


def test_every_field_narrows_and_the_only_environment_that_is_seen_stays_so() -> None:
    asked = {
        "tag": "a",
        "task": "b",
        "status": "c",
        "verdict": "d",
        "environment": "other",
        "before": "7",
        "since": "2h",
    }
    said = Wanted(tag="a", task="b", status="c", verdict="d", before=7, since=NOW - timedelta(hours=2))
    assert wanted(asked, "mine", NOW) == Wanted(**{**_fields(said), "environment": "mine"})
    assert wanted(asked, None, NOW).environment == "other"


def _fields(said: Wanted) -> dict[str, object]:
    return {name: getattr(said, name) for name in Wanted.__dataclass_fields__}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("7d", NOW - timedelta(days=7)),
        ("2026-11-28", datetime(2026, 11, 28, tzinfo=UTC)),
        ("2026-11-28 14:30", datetime(2026, 11, 28, 14, 30, tzinfo=UTC)),
        ("2026-11-28T14:30+02:00", datetime(2026, 11, 28, 12, 30, tzinfo=UTC)),
    ],
)
def test_a_moment_is_one_or_how_long_ago(given: str, meant: datetime) -> None:
    assert moment("since", given, NOW) == meant


@pytest.mark.parametrize(
    "given", ["yesterday", "2026-13-01", "999999d", "0001-01-01", "9999-12-31T23:59:59-12:00", "٣d", "h"]
)
def test_what_is_no_moment_is_refused_by_name(given: str) -> None:
    with pytest.raises(BadQuestion, match="since"):
        moment("since", given, NOW)


@pytest.mark.parametrize("given", ["-1", "1e3", "٣", "9" * 20, str(1 << 63), " 1"])
def test_what_is_no_number_is_refused_by_name(given: str) -> None:
    with pytest.raises(BadQuestion, match="from"):
        number("from", given, 0)


@pytest.mark.parametrize("given", ["a" * 501, "a\0b"])
def test_what_no_row_can_hold_is_not_asked_for(given: str) -> None:
    with pytest.raises(BadQuestion, match="tag"):
        wanted({"tag": given}, None, NOW)


def test_only_a_page_of_ours_changes_something() -> None:
    assert from_our_page({"sec-fetch-site": "same-origin", "host": "a"})
    assert from_our_page({"origin": "https://a:8", "host": "a:8"})
    for headers in (
        {"sec-fetch-site": "cross-site", "origin": "https://a", "host": "a"},
        {"sec-fetch-site": "same-site", "host": "a"},
        {"sec-fetch-site": "none", "host": "a"},
        {"origin": "https://b", "host": "a"},
        {"origin": "null", "host": ""},
        {"host": "a"},
        {},
    ):
        assert not from_our_page(headers)


def test_a_link_that_somebody_follows_from_elsewhere_is_known() -> None:
    assert from_elsewhere({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})
    assert not from_elsewhere({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"})
    assert not from_elsewhere({"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"})
