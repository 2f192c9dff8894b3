"""What a person looks at in one stream, and the fleet worker by worker."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from tailrace.store.figures import Figures
from tailrace.store.fleet import FleetView
from tailrace.store.viewing import Viewing
from tests.integration.schema_rows import EPOCH_MS, Archive
from tests.integration.test_overview import behind, worker


@pytest.fixture
def viewing(engine: sa.Engine) -> Viewing:
    return Viewing(engine)


@pytest.fixture
def view(engine: sa.Engine) -> FleetView:
    return FleetView(engine)


@pytest.mark.unbalanced
def test_chunks_come_in_pages_from_an_index_on_over_segments_and_holes(viewing: Viewing, archive: Archive) -> None:
    stream = archive.stream()
    archive.segment(stream, ['"a"', '"b"', '"c"'])
    archive.segment(stream, ['"d"', '{"type":"text-delta","delta":"long text"}'], first=10, offsets=[0, 3])
    archive.hole(stream, 3, 9, "missing")
    archive.hole(stream, 11, 12, "command")
    archive.hole(stream, 20, None, "trimmed")
    archive.quarantine(stream, 11, b"{half")
    pages = {
        first: [each.chunk_index for each in viewing.chunks(stream, 0, first, 2, 100)] for first in (0, 2, 5, 13, 14)
    }
    assert pages == {0: [0, 1], 2: [2, 10], 5: [10, 13], 13: [13], 14: []}
    assert viewing.chunks(stream, 1, 0, 2, 100) == []
    (last,) = viewing.chunks(stream, 0, 13, 5, 8)
    assert (last.type, last.text_delta, last.data_text, last.size_bytes) == ("text-delta", "long tex", '{"type":', 41)
    holes = viewing.holes(stream, 0)
    assert [(each.first_index, each.last_index, each.reason, each.lost) for each in holes] == [
        (3, 9, "missing", True),
        (11, 12, "command", False),
        (20, None, "trimmed", True),
    ]
    assert viewing.quarantined(stream, 0, 10, 3) == [(11, "not JSON", b"{ha", 5)]


def test_texts_and_parts_are_those_of_the_views_cut(viewing: Viewing, archive: Archive) -> None:
    said = [
        {"type": "start"},
        {"type": "text-start", "id": "1"},
        {"type": "text-delta", "id": "1", "delta": "hello "},
        {"type": "text-delta", "id": "1", "delta": "world"},
        {"type": "tool-input-available", "toolCallId": "c", "toolName": "look", "input": {"a": 1}},
    ]
    stream = archive.whole_stream([json.dumps(each) for each in said])
    assert viewing.texts(stream, 7) == [(0, "hello w", 11)]
    text, tool = viewing.parts(stream, 0, 0, 10, 5)
    assert (text.kind, text.text, text.first_index, text.last_index, text.characters) == ("text", "hello", 1, 3, 11)
    assert (tool.kind, tool.tool_name, tool.input, tool.characters) == ("tool", "look", '{"a":', 8)
    assert [each.kind for each in viewing.parts(stream, 0, 2, 10, 5)] == ["tool"]
    assert viewing.parts(stream, 1, 0, 10, 5) == []


def test_arrivals_are_counted_in_equal_spans_and_the_longest_pauses_named(viewing: Viewing, archive: Archive) -> None:
    ms = [EPOCH_MS + each for each in (0, 100, 200, 5_200, 5_300, 9_999)]
    stream = archive.whole_stream([str(each) for each in range(6)], emitted_ms=ms)
    found = viewing.arrivals(stream, 0, 10)
    assert found is not None
    assert (found.chunks, found.first_ms, found.last_ms) == (6, ms[0], ms[-1])
    assert found.counts == [3, 0, 0, 0, 0, 2, 0, 0, 0, 1]
    assert found.stalls == [(ms[2], ms[3], 3), (ms[4], ms[5], 5)]
    assert viewing.arrivals(stream, 1, 10) is None
    one = viewing.arrivals(archive.whole_stream(["1"], "run_2"), 0, 3)
    assert one is not None
    assert (one.counts, one.stalls) == ([1, 0, 0], [])


@pytest.mark.unbalanced
def test_workers_are_told_one_by_one_and_streams_that_are_behind(view: FleetView, archive: Archive) -> None:
    alive = worker(archive, heard_s=1, slots=7)
    worker(archive, heard_s=60)
    near, far = archive.stream("run_1", "near"), archive.stream("run_1", "far")
    behind(archive, near, 3, emitted_s=10)
    behind(archive, far, 300, emitted_s=10)
    archive.run("UPDATE tailrace.streams SET worker_id = %s WHERE id = %s", alive, far)
    first, second = view.workers()
    assert (first.alive, first.slots, first.reading, second.alive, second.reading) == (True, 7, 1, False, 0)
    assert [(each.stream_key, each.lag) for each in view.behind(None, 5)] == [("far", 300), ("near", 3)]
    assert [each.stream_key for each in view.behind("default", 1)] == ["far"]
    assert view.behind("other", 5) == []


@pytest.mark.unbalanced
def test_chunks_are_counted_when_they_were_committed_compacted_or_not(
    view: FleetView, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = archive.whole_stream(["1", "2", "3"])
    archive.segment(stream, ["4", "5"], first=3)
    archive.run("UPDATE tailrace.segments SET committed_at = now() - interval '95 s' WHERE first_index = 0")
    archive.run(
        "UPDATE tailrace.segments SET committed = ARRAY[now() - interval '65 s', now() - interval '5 s'] WHERE first_index = 3"
    )
    assert view.committed(None, 30, 4).counts == [3, 1, 0, 1]
    assert view.committed("default", 30, 2).counts == [0, 1]
    assert view.committed("other", 30, 2).counts == [0, 0]
    monkeypatch.setattr("tailrace.store.fleet.SEGMENTS_LOOKED_AT", 2)
    assert view.committed(None, 30, 5).counts == [None, None, 1, 0, 1]


@pytest.mark.unbalanced
def test_what_upstream_forgets_next_is_what_is_not_read_as_it_should(engine: sa.Engine, archive: Archive) -> None:
    well, ill, worse = (archive.stream("run_1", key) for key in ("well", "ill", "worse"))
    for stream, lag in ((well, 0), (ill, 5), (worse, 5)):
        behind(archive, stream, lag, emitted_s=10)
    archive.run(
        "UPDATE tailrace.streams SET attempt = 2, wire = 'v1', last_error = 'no' WHERE id IN (%s, %s)", ill, worse
    )
    archive.run("UPDATE tailrace.streams SET last_chunk_at = now() - interval '23 h' WHERE id = %s", worse)
    found = Figures(engine).forgotten_next(5)
    assert [each.stream_key for each in found] == ["worse", "ill"]
    assert 3_000 < found[0].forgotten_in_s <= 3_600
    assert found[0].last_error == "no"
    assert Figures(engine).forgotten_next(5, "other") == []
