"""How values are printed."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tailrace.cli.output import ago, shown, size, to_json
from tailrace.cli.sql import _distinct, _finite, _one_line, _plain

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@dataclass
class Thing:
    at: datetime
    names: list[str]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_300_000, "1.3 MB"),
        (2_000_000_000, "2.0 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=-3), "0 s ago"),
        (timedelta(seconds=119), "119 s ago"),
        (timedelta(minutes=5), "5 min ago"),
        (timedelta(hours=5), "5 h ago"),
        (timedelta(days=3), "3 days ago"),
    ],
)
def test_times_are_told_by_their_age(passed: timedelta, text: str) -> None:
    assert ago(NOW - passed, NOW) == text


def test_a_time_that_never_was_is_nothing() -> None:
    assert ago(None, NOW) == ""


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert shown("a\x1b[31m\nb\x9bc\u202ed ü💧") == "a\\x1b[31m\\nb\\x9bc\\u202ed ü💧"


def test_dataclasses_and_times_become_json() -> None:
    text = to_json({"thing": Thing(NOW, ["ü"]), "n": Decimal("1.10"), "raw": b"\x00x"})
    assert json.loads(text) == {
        "thing": {"at": "2026-11-22T12:00:00+00:00", "names": ["ü"]},
        "n": "1.10",
        "raw": "\\x0078",
    }
    assert "\n" not in text


def test_columns_of_the_same_name_stay_apart() -> None:
    assert _distinct(["count", "a", "count", "count"]) == ["count", "a", "count_2", "count_3"]


def test_json_spread_over_lines_means_the_same_on_one() -> None:
    text = '{"a":\r\n [1,\n2], "b": "\\n"}'
    assert "\n" not in _one_line(text)
    assert json.loads(_one_line(text)) == json.loads(text)


def test_numbers_that_json_does_not_have_become_strings() -> None:
    assert _finite([1.5, float("nan"), [float("inf")]]) == [1.5, "nan", ["inf"]]


@pytest.mark.parametrize(
    ("value", "cell"), [(True, "true"), ([1, "a"], '[1, "a"]'), (NOW, NOW.isoformat()), ("x", "x")]
)
def test_a_cell_holds_plain_text(value: object, cell: str) -> None:
    assert _plain(value) == cell


def test_a_terminal_is_not_given_what_it_would_obey() -> None:
    """A chunk may hold what renames the window or types for whoever looks at it; a pipe gets it as it is."""
    code = "from tailrace.cli.output import write; write('a\\tb\\n\\x1b]0;evil\\x07\\x9b31m\\x7f \u00e4 \U0001f600')"
    ours, theirs = os.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True)
    os.close(theirs)
    seen = os.read(ours, 1_000).decode().replace("\r\n", "\n")
    os.close(ours)
    assert seen == "a\tb\n\\x1b]0;evil\\x07\\x9b31m\\x7f \u00e4 \U0001f600\n"
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode()
    assert piped == "a\tb\n\x1b]0;evil\x07\x9b31m\x7f \u00e4 \U0001f600\n"
