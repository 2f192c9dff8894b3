"""The runs that the official client is asked to read: what comes with Tailrace, and some that are made for it.

All are over but `WAITING`, and have their times from the recording: whoever serves them, they are the same.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from tailrace.devtools.recordings import bundled_recordings
from tailrace.model import Wire
from tailrace.serve.recording import Recording, parse_recording, read_recording
from tailrace.serve.records import Draft

AI, REPORT = "run_demo_ai", "run_demo_report"
NUMBERS, WAITING, ODD, OTHER = "run_numbers", "run_waiting", "run_odd", "run_other"
BROKEN, BROKEN_LINES = "run_broken", "run_broken_lines"
NAMED = {
    **{"ai": AI, "report": REPORT, "numbers": NUMBERS, "waiting": WAITING, "odd": ODD, "other": OTHER},
    **{"broken": BROKEN, "brokenLines": BROKEN_LINES},
}

CREATED = datetime(2026, 11, 1, 9, 10, tzinfo=UTC)
NOW = datetime(2026, 11, 1, 10, tzinfo=UTC)
"""Upstream's clock for the windows of its lists: it stands still, and all of the runs are young."""

ODD_CHUNKS: list[Any] = [
    *(None, "", 0, False, [], {}, -1.5e300, "two\nlines\r\n", "\u2028\u2029\u0085", "a\u0000b", "🜁 ünï 🜁"),
    *({"data": {"id": "x"}}, '{"text": "of JSON"}', "data: [DONE]\n\n", "x" * 70_000),
]
BROKEN_V2 = [1, {"$undefined": True}, {"$undefined": True}, {"$undefined": True}, 2, 3]
"""What the client makes of `run_broken`: of an envelope without data, of a body that is none, and of one that is no JSON."""
BROKEN_V1 = ["a", "undefined", "not json at all", "<<CLOSE_STREAM>>", {"b": 1}]

PAGES = [f"run_page_{n:02}" for n in range(12)]

EVEN = [NUMBERS, *PAGES[::2]]
"""The runs that have this tag."""

_STATUSES = ("COMPLETED_SUCCESSFULLY", "COMPLETED_WITH_ERRORS", "CANCELED", "CRASHED")


def recordings() -> list[Recording]:
    """Every run."""
    return [
        *sorted(map(read_recording, bundled_recordings()), key=lambda recording: recording.run_id),
        _run(NUMBERS, 0, [("default", n) for n in range(10)], tags=["even"]),
        _run(WAITING, 1, [("slow", "first"), ("slow", "second")], status=None),
        _run(
            ODD, 2, [("odd", chunk) for chunk in ODD_CHUNKS], status="COMPLETED_WITH_ERRORS", metadata={"a": [1, None]}
        ),
        _run(OTHER, 3, [("text", "not for everybody")], wire="v1", status="CANCELED"),
        _recording(BROKEN, 20, _BROKEN_V2),
        _recording(BROKEN_LINES, 21, _BROKEN_V1, wire="v1"),
        *(_page(n) for n in range(len(PAGES))),
    ]


def chunks(run_id: str, key: str) -> list[Any]:
    """What was written to a stream."""
    (recording,) = (each for each in recordings() if each.run_id == run_id)
    contents = [moment.content for moment in recording.moments if moment.key == key]
    if recording.wire is Wire.V2:
        return [json.loads(content.body)["data"] for content in contents if isinstance(content, Draft)]
    lines = b"".join(content for content in contents if isinstance(content, bytes)).split(b"\n")
    return [json.loads(line) for line in lines if line.strip()]


def _page(n: int) -> Recording:
    tags = [tag for tag, every in (("even", 2), ("third", 3)) if n % every == 0]
    status = _STATUSES[n % len(_STATUSES)]
    written = [("text", n)] if n < 2 else []  # one of each wire; of the others there is only what they are
    return _run(PAGES[n], 4 + n, written, tags=tags, status=status, wire="v2" if n % 2 else "v1")


def _run(run_id: str, second: int, written: list[tuple[str, Any]], **about: Any) -> Recording:
    return _recording(run_id, second, [{"stream": key, "chunk": chunk} for key, chunk in written], **about)


def _recording(
    run_id: str,
    second: int,
    written: list[dict[str, Any]],
    *,
    wire: str = "v2",
    tags: list[str] | None = None,
    status: str | None = "COMPLETED_SUCCESSFULLY",
    metadata: Any = None,
) -> Recording:
    created = CREATED + timedelta(seconds=second)
    header = {"tailrace_recording": 1, "run_id": run_id, "wire": wire, "task_identifier": "count", "tags": tags or []}
    lines: list[dict[str, Any]] = [{**header, "created_at": created.isoformat(), "metadata": metadata or {}}]
    lines += [{"at_ms": n * 10, **each} for n, each in enumerate(written)]
    if status is not None:
        lines.append({"at_ms": 10 * len(written), "status": status})
    return parse_recording("\n".join(map(json.dumps, lines)).encode(), run_id)


_BROKEN_V2: list[dict[str, Any]] = [
    {"stream": "odd", "chunk": 1},
    {"stream": "odd", "body": '{"id":"abcdefg"}'},
    {"stream": "odd", "body": "[1]"},
    {"stream": "odd", "body": "no JSON"},
    {"stream": "odd", "chunk": 2, "id": "zyxwvut"},
    {"stream": "odd", "headers": [["", "fence"]], "body": "token"},
    {"stream": "odd", "chunk": 2, "id": "zyxwvut"},  # a writer's retry
    {"stream": "odd", "chunk": 3},
]
_BROKEN_V1: list[dict[str, Any]] = [
    {"stream": "odd", "entry": entry}
    for entry in ('"a"\nundefined\n', "<<CLOSE_STREAM>>", "not json", " at all\n", "<<CLOSE_STREAM>>\n", '{"b":1}\n')
]
