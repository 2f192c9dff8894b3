"""`tailrace status` in 100 columns: one line for each run or stream, and nothing that is needed is lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tailrace.cli.columns import Column, Cut, cells, cut_middle, fitted
from tailrace.cli.status_lines import fleet_lines, runs_lines, streams_lines
from tailrace.store.overview import Behind, Fleet, RunProgress, StreamProgress

WIDTH = 100
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
HOST = "tailrace-worker-7d9f8b6c5-x2x9z.eu-central-1.compute.internal:31337"
ERROR = "Upstream answered 502 to GET /realtime/v2/streams/…: <html><head><title>502 Bad Gateway</title></head> " * 5


def run(**facts: Any) -> RunProgress:
    known: dict[str, Any] = {
        **dict.fromkeys(RunProgress.__dataclass_fields__),
        "environment": "default",
        "run_id": "run_cm3x9k2l80001qwer5tyu8iop",
        "state": "watched",
        "verdict": "open",
        "streams": 3,
        "sealed_streams": 1,
        "failed_streams": 0,
        "chunks": 941,
        "gaps": 0,
        "quarantined": 0,
        "workers": [],
    }
    return RunProgress(**(known | facts))


def stream(**facts: Any) -> StreamProgress:
    known: dict[str, Any] = {
        **dict.fromkeys(StreamProgress.__dataclass_fields__),
        "stream_key": "ai-output",
        "state": "active",
        "verdict": "open",
        "chunks": 941,
        "gaps": 0,
        "quarantined": 0,
        "attempt": 0,
        "next_attempt_s": 0.0,
        "chunks_per_s": 0.0,
    }
    return StreamProgress(**(known | facts))


WORST: dict[str, Any] = {
    "chunks": 987_654_321,
    "chunks_per_s": 123_456.7,
    "lag": 98_765_432,
    "lag_s": 86_400 * 99.0,
    "last_chunk_s": 7_100.0,
    "gaps": 1_234,
    "quarantined": 56_789,
    "last_error": ERROR,
    "stuck_s": 86_400 * 12.0,
}
"""Each number as wide as it gets in years."""

FLEET = Fleet(NOW, 12, 1.2, 0, 3_000, 1_200, 400, 1_200, 30_000, 0, 0, 0, 0, 14_500, 2_700.0, Behind("a", "b", "c"))


def test_a_run_with_all_there_is_to_tell_is_one_line_and_its_id_is_whole() -> None:
    runs = [run(**WORST, workers=[HOST]), run(verdict="possibly_truncated", state="sealed")]
    lines = runs_lines(runs, WIDTH).lines
    assert [cells(line) <= WIDTH for line in lines] == [True] * 3
    for part in ("run_cm3x9k2l80001qwer5tyu8iop", "open 1/3", "988M", "123.5k/s", "98.8M/99d", "118m", "STUCK 12d"):
        assert part in lines[1], part
    assert "truncated" in lines[2]


@pytest.mark.parametrize("environments", [("default", "default"), ("production-eu-central", "staging")])
def test_what_one_usually_sees_of_a_run_is_not_cut(environments: tuple[str, str]) -> None:
    reading = run(environment=environments[0], chunks_per_s=85.0, lag=145, lag_s=45.0, workers=["web-1:812"])
    failing = run(environment=environments[1], chunks_per_s=0.0, last_error="upstream answered 502")
    fitted_ = runs_lines([reading, failing], WIDTH)
    assert all(cells(line) <= WIDTH for line in fitted_.lines)
    assert "145/45s" in fitted_.lines[1]
    assert fitted_.lines[1].endswith("web-1:812")
    if environments[0] == environments[1]:
        assert fitted_.cut == {}
        assert fitted_.lines[2].endswith("upstream answered 502")


def test_streams_with_long_names_are_one_line_each_and_are_told_apart() -> None:
    keys = [
        "a" * 300,
        "a" * 150 + "b" + "a" * 149,  # the same where it is cut
        "模型输出" * 60,
        "tools\n\x1b[31m",
        "ai",
    ]
    streams = [stream(stream_key=key, **WORST, worker=HOST, attempt=17) for key in keys]
    table = streams_lines(streams, WIDTH)
    assert len(table.lines) == 1 + len(keys)
    assert all(cells(line) <= WIDTH for line in table.lines), [cells(line) for line in table.lines]
    assert all(line.isprintable() for line in table.lines)
    names = [line.partition("  ")[0] for line in table.lines[1:]]
    assert len(set(names)) == len(keys)
    note = "worker, last error"  # whoever prints adds in full what was cut
    assert table.cut == {0: ["stream", note], 1: ["stream", note], 2: ["stream", note], 3: [note], 4: [note]}
    for line in table.lines[1:]:
        for part in ("active", "988M", "123.5k/s", "98.8M/99d", "118m", "STUCK 12d"):
            assert part in line, part


def test_nothing_is_cut_where_there_is_room() -> None:
    long = stream(stream_key="a" * 300, **WORST, worker=HOST, attempt=17)
    table = streams_lines([long], 10_000)
    assert table.cut == {}
    for part in ("a" * 300, HOST, "1234 gaps", "56789 quarantined", "attempt 17", ERROR.strip()):
        assert part in table.lines[1]


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        ({"state": "sealed", "verdict": "complete_with_gaps", "gaps": 1, "chunks_per_s": None, "lag": 0}, "gaps 1 gap"),
        ({"worker": "web-1:812", "lag": 0}, "active 0 0 web-1:812"),
        ({"state": "parked", "next_attempt_s": 12.4, "attempt": 3, "last_error": "no"}, "0 next 12s · attempt 3 · no"),
        ({"state": "failed", "chunks_per_s": None, "last_error": "gone"}, "failed gone"),
        ({"stuck_s": 95.0, "worker": "w:1"}, "STUCK 95s · w:1"),
    ],
)
def test_what_is_said_of_a_stream(facts: dict[str, Any], shown: str) -> None:
    line = " ".join(streams_lines([stream(**facts)], WIDTH).lines[1].replace(" 941 ", " ").split())
    assert line.endswith(shown), line


def test_the_fleet_is_one_line() -> None:
    assert fleet_lines(FLEET, WIDTH, 1_000) == [
        "12 workers, beat 1s · slots 1200/3000 · 400 pending, 1200 active, 30.0k parked · lag 14.5k/45m"
    ]


def test_a_fleet_in_which_everything_is_wrong_loses_nothing_of_it() -> None:
    wrong = replace(FLEET, lost_workers=2, stuck=3, halted=1, failed_runs=7, failed_streams=1_000)
    lines = fleet_lines(wrong, WIDTH, 1_000)
    assert all(cells(line) <= WIDTH for line in lines)
    for part in ("2 lost", "3 STUCK", "1 HALTED", "failed: 7 runs, 1000+ streams", "lag 14.5k/45m"):
        assert part in " ".join(lines)


def test_the_example_in_the_documentation_is_what_is_shown() -> None:
    facts: dict[str, Any] = {"beat_s": 1.0, "reading": 12, "slots": 600, "pending": 2, "active": 12, "parked": 30}
    fleet = replace(FLEET, workers=3, lag=145, lag_s=45.0, failed_streams=1, **facts)
    reading = stream(chunks=12_300, chunks_per_s=85.0, lag=145, lag_s=45.0, last_chunk_s=0.3, worker="web-1:812")
    over = stream(stream_key="progress", state="sealed", verdict="complete_with_gaps", chunks=11, chunks_per_s=None)
    failing = stream(stream_key="tools", state="parked", chunks=4, lag=0, lag_s=0.0, last_chunk_s=40.0, attempt=3)
    failing = replace(failing, next_attempt_s=12.0, last_error="upstream answered 502")
    table = streams_lines([reading, replace(over, last_chunk_s=185.0, gaps=1), failing], WIDTH)
    example = "\n".join([*fleet_lines(fleet, WIDTH, 1_000), "", *table.lines])
    assert f"```\n{example}\n```" in (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")


def test_no_worker_is_said_first() -> None:
    gone = replace(FLEET, workers=0, slots=0, reading=0, beat_s=8_000.0)
    assert fleet_lines(gone, WIDTH, 1_000)[0].startswith("NO WORKER for 2h · 400 pending")
    assert fleet_lines(replace(gone, beat_s=None), WIDTH, 1_000)[0].startswith("NO WORKER · 400 pending")


def test_a_name_is_cut_in_the_middle_by_what_the_terminal_shows() -> None:
    assert cut_middle("abcdefghij", 10) == "abcdefghij"
    assert cut_middle("abcdefghijk", 7) == "abc…ijk"
    for width in range(1, 12):
        assert cells(cut_middle("模型输出" * 3, width)) <= width


def test_sentences_are_cut_before_names() -> None:
    columns = (Column("name", Cut.MIDDLE, least=4), Column("n", right=True), Column("why", Cut.END, least=3))
    row = [["a_long_name", "12", "because of that"]]
    assert fitted(columns, row, 30).lines[1] == "a_long_name  12  because of t…"
    assert fitted(columns, row, 20).lines[1] == "a_long_name  12  be…"
    assert fitted(columns, row, 15).lines[1] == "a_l…me  12  be…"
    assert fitted(columns, row, 5).lines[1] == "a_…e  12  be…"  # no narrower than this
