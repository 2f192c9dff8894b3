"""The demonstration finds what is wrong: a check that can't fail proves nothing."""

import json
from pathlib import Path

import pytest

from tailrace.devtools.demo.comparison import Differences, compare, total
from tailrace.devtools.demo.recordings import chunks_of, prepare
from tailrace.devtools.demo.script import Result
from tailrace.devtools.recordings import bundled_recordings
from tailrace.model import Wire
from tailrace.serve.recording import read_recording
from tailrace.serve.records import Draft

SENT = [b"a", b"b", b"a", b"c"]


@pytest.mark.parametrize(
    ("archived", "found"),
    [
        (SENT, Differences(0, 0, 0)),
        ([b"a", b"b", b"a"], Differences(1, 0, 0)),
        ([b"b", b"a", b"c"], Differences(1, 0, 0)),
        ([b"a", b"b", b"a", b"c", b"c"], Differences(0, 1, 0)),
        ([b"a", b"b", b"a", b"c", b"x"], Differences(0, 1, 0)),
        ([b"b", b"a", b"a", b"c"], Differences(0, 0, 1)),
        ([b"A", b"b", b"a", b"c"], Differences(1, 1, 0)),
        ([], Differences(4, 0, 0)),
    ],
)
def test_each_kind_of_difference_is_counted(archived: list[bytes], found: Differences) -> None:
    assert compare(SENT, archived) == found


def test_the_differences_of_all_streams_add_up() -> None:
    assert total([Differences(1, 0, 2), Differences(1, 1, 0)]) == Differences(2, 1, 2)
    assert total([]) == Differences(0, 0, 0)


@pytest.mark.parametrize(
    "change", [{"lost": 1}, {"duplicated": 1}, {"out_of_order": 1}, {"sealed": 2}, {"chunks": 9}, {"resumed_at": 0}]
)
def test_one_wrong_figure_makes_the_result_bad(change: dict[str, int]) -> None:
    good = {"runs": 2, "streams": 3, "chunks": 10, "lost": 0, "duplicated": 0, "out_of_order": 0}
    good |= {"resumed_at": 4, "sealed": 3}
    assert Result("demo", **good, expected=(2, 3, 10)).good
    assert not Result("demo", **{**good, **change}, expected=(2, 3, 10)).good


def test_the_recordings_hold_what_the_demonstration_promises(tmp_path: Path) -> None:
    runs = {run.run_id: run for run in prepare(bundled_recordings(), tmp_path, "_7")}
    assert sorted(runs) == ["run_demo_ai_7", "run_demo_report_7"]
    answer = runs["run_demo_ai_7"]
    assert len(answer.chunks["ai-output"]) >= 600
    assert set(answer.chunks) == {"ai-output", "progress"}
    assert {read_recording(run.path).wire for run in runs.values()} == {Wire.V1, Wire.V2}
    assert all(read_recording(run.path).created_at is None for run in runs.values())


@pytest.mark.parametrize("path", bundled_recordings(), ids=lambda path: path.stem)
def test_what_is_expected_is_what_the_server_would_serve(path: Path) -> None:
    recording = read_recording(path)
    served: dict[str, bytes] = {}
    for arrival in recording.moments:
        if isinstance(arrival.content, Draft):
            start = len(b'{"data":')
            body = arrival.content.body
            assert body.startswith(b'{"data":')
            served[arrival.key] = served.get(arrival.key, b"") + body[start : body.rindex(b',"id":')] + b"\n"
        elif arrival.content is not None:
            served[arrival.key] = served.get(arrival.key, b"") + arrival.content
    expected = chunks_of(path.read_bytes())
    assert {key: b"".join(text + b"\n" for text in texts) for key, texts in expected.items()} == served


def test_chunks_are_read_as_they_are_written() -> None:
    lines = [
        {"tailrace_recording": 1, "run_id": "r", "wire": "v1"},
        {"at_ms": 0, "stream": "s"},
        {"at_ms": 0, "stream": "s", "text": '"\\ud800"'},
        {"at_ms": 0, "stream": "s", "entry": '{"a":'},
        {"at_ms": 1, "stream": "s", "entry": "1}\n2\n"},
        {"at_ms": 2, "status": "COMPLETED_SUCCESSFULLY"},
    ]
    recording = b"\n".join(
        [*(json.dumps(line).encode() for line in lines), b'{"at_ms":3,"stream":"s","chunk":{"x":  1.10}}']
    )
    assert chunks_of(recording) == {"s": [b'"\\ud800"', b'{"a":1}', b"2", b'{"x":  1.10}']}
