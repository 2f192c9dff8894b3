"""The recorded wire cases of ``tests/data/wire``, and a server that answers with their bytes.

`load_case` gives a case as values; `running_case` serves it. The first GET of the case's stream gets the recorded
status, headers and body, byte for byte, and ends as the recording ended. Everything after it is answered by the
stand-in upstream, which holds what the body held: a reader that reconnects is told what a real server would tell it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.model import StreamRef, Wire
from tailrace.serve.app import DEFAULT_KEY, upstream_of
from tailrace.serve.body import BrokenOff, StreamBody
from tailrace.serve.entries import V1Id
from tailrace.serve.records import Draft
from tailrace.serve.store import INPUT_PREFIX
from tailrace.serve.timing import Timing
from tailrace.serve.upstream import Target
from tailrace.wire.statuses import is_terminal
from tests.upstream import RunningServer, create_app, half_of, running
from tests.upstream.live import LiveStore

WIRE = Path(__file__).parent / "data" / "wire"

QUICK = Timing().scaled(0.002)
"""A 1 s limit is 2 ms long, a v1 block 10 ms: what a reader meets after the recorded answer does not take long."""

_LONG_AGO = datetime(2026, 1, 2, tzinfo=UTC)
_OF_THE_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date"})


@dataclass(frozen=True, slots=True)
class WireCase:
    """One recorded response.

    ``ref`` has the stored key (``$trigger.input:…`` for an input stream). ``request_headers`` are without the key.
    ``headers`` are the response's, without those of the connection itself. ``expected_chunks`` are decoded JSON
    values, None where the case shows a wrong read. ``expected_texts`` are the chunks as text where the recording has
    them, else None. ``clean`` says that the body ended and did not break off. ``timeline`` is when how many bytes
    came, and may cover less than the body. ``info`` is all of the case's JSON.
    """

    name: str
    wire: Wire
    ref: StreamRef
    path: str
    request_headers: dict[str, str]
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    expected_chunks: list[Any] | None
    expected_texts: list[bytes] | None
    clean: bool
    timeline: list[tuple[int, int]]
    info: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CaseServer:
    """A case being served. ``store`` is what later requests read: change the run there, or write more."""

    case: WireCase
    server: RunningServer
    store: LiveStore

    @property
    def url(self) -> str:
        return self.server.url


def plain_client(url: str, key: str | None = DEFAULT_KEY) -> httpx.Client:
    """A client that knows nothing: it sends the key, wants no compression and follows nothing."""
    headers = {"Accept-Encoding": "identity"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    # Plain HTTP only: loading the certificates would take longer than most tests.
    return httpx.Client(base_url=url, headers=headers, timeout=10, trust_env=False, verify=False)


def case_names() -> list[str]:
    """Every case that has a body: all but the run feed's and the table of status codes."""
    return sorted(path.stem for path in WIRE.glob("*.sse"))


def load_steps(name: str) -> dict[str, Any]:
    """The JSON of a case without a body of its own: ``run_feed_…``, ``v1_k_status_codes``."""
    steps: dict[str, Any] = json.loads((WIRE / f"{name}.json").read_text(encoding="utf-8"))
    return steps


def load_case(name: str) -> WireCase:
    """The case of this name."""
    info = load_steps(name)
    request, response = info["request"], info["response"]
    _, _, _, _, run_id, *rest = request["path"].split("/")
    key = INPUT_PREFIX + unquote(rest[1]) if rest[0] == "input" else unquote(rest[0])
    return WireCase(
        name=name,
        wire=Wire(name[:2]),
        ref=StreamRef(unquote(run_id), key),
        path=request["path"],
        request_headers={name: value for name, value in request["headers"].items() if name != "Authorization"},
        status=response["status"],
        headers=[(name, value) for name, value in response["headers"] if name.lower() not in _OF_THE_CONNECTION],
        body=(WIRE / f"{name}.sse").read_bytes(),
        expected_chunks=info["expected_chunks"],
        expected_texts=_texts(info),
        clean=response["closed"] == "clean",
        timeline=[(ms, size) for ms, size in info["timeline_ms_bytes"]],
        info=info,
    )


@contextmanager
def running_case(
    case: WireCase,
    *,
    pace: float = 0.0,
    status: str = "COMPLETED_SUCCESSFULLY",
    timing: Timing = QUICK,
) -> Iterator[CaseServer]:
    """Serve a case. ``pace`` 1 sends its body as slowly as it was recorded, 0 at once.

    The run exists with the case's key listed and the database status ``status``; a terminal one ended long ago.
    ``timing`` is for the requests after the first.
    """
    store = LiveStore(v1_max_entries=None)
    fill(store, case, status)
    app = create_app(store, timing=timing)
    app.router.default = _first_recorded(case, pace, app.router.default, app)
    with running(app) as server:
        yield CaseServer(case, server, store)


def fill(store: LiveStore, case: WireCase, status: str = "EXECUTING") -> None:
    """Put the run and what the case's body holds into ``store``."""
    run_id, key = case.ref
    store.create_run(run_id, case.wire, status=status, created_at=datetime(2026, 1, 1, tzinfo=UTC))
    if is_terminal(status):
        store.finish_run(run_id, status, finished_at=_LONG_AGO)
    store.open_stream(run_id, key)
    if case.wire is Wire.V1:
        for entry_id, text in body_entries(case.body):
            store.append_entry(run_id, key, text, entry_id)
        return
    records = body_records(case.body)
    first = records[0][0] if records else 0
    # What the case did not show is made up, and trimmed away again, so that the numbers are right.
    store.append_records(run_id, key, [Draft(b"not in this case", (), 0) for _ in range(first)])
    store.trim_records(run_id, key, first)
    store.append_records(run_id, key, [draft for _, draft in records])


def body_entries(body: bytes) -> list[tuple[V1Id, bytes]]:
    """One entry per id of a v1 body, with the lines that came under it."""
    entries: dict[V1Id, bytes] = {}
    for event in body.split(b"\n\n"):
        if event.startswith(b"id: "):
            id_line, _, data = event.partition(b"\ndata: ")
            ms, _, seq = id_line[4:].partition(b"-")
            entry_id = V1Id(int(ms), int(seq))
            entries[entry_id] = entries.get(entry_id, b"") + data + b"\n"
    return list(entries.items())


def body_records(body: bytes) -> list[tuple[int, Draft]]:
    """The records of a v2 body with their numbers."""
    records = []
    for event in body.split(b"\n\n"):
        if event.startswith(b"event: batch\n"):
            for record in msgspec.json.decode(event.partition(b"\ndata: ")[2])["records"]:
                headers = tuple((name, value) for name, value in record.get("headers", []))
                draft = Draft(record.get("body", "").encode(), headers, record["timestamp"])
                records.append((record["seq_num"], draft))
    return records


def _texts(info: dict[str, Any]) -> list[bytes] | None:
    if "lines_on_the_wire" in info:
        return [line.encode() for line in info["lines_on_the_wire"]]
    if "events" in info:
        return [event["line"].encode() for event in info["events"]]
    return None


def _first_recorded(case: WireCase, pace: float, later: ASGIApp, app: Any) -> ASGIApp:
    connections, traffic = upstream_of(app).connections, half_of(app).traffic
    answered = False

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal answered
        if answered or scope["raw_path"].decode() != case.path:
            await later(scope, receive, send)
            return
        answered = True
        body = StreamBody(_recorded(case, pace), connections, status=case.status, headers=case.headers)
        await traffic.counted(Target("stream", *case.ref), body)(scope, receive, send)

    return answer


async def _recorded(case: WireCase, pace: float) -> AsyncIterator[bytes]:
    time = asyncio.get_running_loop().time
    began = time()
    sent = 0
    if pace:
        for at_ms, size in case.timeline:
            await asyncio.sleep(max(0.0, began + at_ms / 1000 * pace - time()))
            yield case.body[sent : sent + size]
            sent += size
    if sent < len(case.body):
        yield case.body[sent:]
    if pace:
        await asyncio.sleep(max(0.0, began + case.info["response"]["total_ms"] / 1000 * pace - time()))
    if not case.clean:
        raise BrokenOff
