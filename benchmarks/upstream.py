"""The stand-in upstream in a process of its own: ``python -m benchmarks.upstream [native|electric]``.

Commands come as JSON objects, one a line, on standard input; each is answered by one line on standard output. The
first line of output is the URL.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.texts import chunks
from tailrace.model import Wire
from tailrace.serve import FeedFormat
from tailrace.serve.entries import V1Id
from tailrace.serve.logs import RecordLog
from tailrace.serve.records import data_draft
from tailrace.serve.server import allow_many_connections, connections_of
from tailrace.serve.store import Page
from tests.upstream import LiveStore, RunningServer, create_app, running

SMALLEST_BATCH, LARGEST_BATCH = 20, 1_000
FILL_PIECE = 10_000


class ChoppedLog(RecordLog):
    """Gives its records in batches of between 20 and 1 000, whatever would fit; the same ones to every reader."""

    def __init__(self) -> None:
        super().__init__()
        self._chance = random.Random(2)
        self._cuts: dict[int, int] = {}

    def since(self, seq_num: int, upto: int | None = None) -> Page:
        page = super().since(seq_num, upto)
        drawn = SMALLEST_BATCH * (LARGEST_BATCH / SMALLEST_BATCH) ** self._chance.random()
        size = self._cuts.setdefault(seq_num, round(drawn))
        return Page(page.records[:size], page.tail, True) if len(page.records) > size else page


class Upstream:
    """What the commands do. Each method is a command; its arguments are those of the JSON object."""

    def __init__(self) -> None:
        self.store = LiveStore(v1_max_entries=None)
        self._written: dict[str, Any] = {}

    def fill(self, wire: str, count: int, runs: list[str], key: str = "default", start: int = 0) -> int:
        """Make runs that all have the same stream of ``count`` chunks; returns the bytes of their texts."""
        store, first = self.store, runs[0]
        store.create_run(first, Wire(wire))
        store.open_stream(first, key)
        if wire == "v2":
            store._v2[first, key].log = ChoppedLog()
        size = 0
        for begin in range(0, count, FILL_PIECE):
            piece = list(chunks(min(FILL_PIECE, count - begin), start + begin))
            size += sum(map(len, piece))
            store.append_chunks(first, key, piece)
        streams: Any = store._v1 if wire == "v1" else store._v2
        for run in runs[1:]:
            store.create_run(run, Wire(wire))
            streams[run, key] = streams[first, key]
            store.set_stream_keys(run, [key])
        return size

    def fill_each(self, wire: str, runs: list[str], keys: int, count: int, apart_ms: int = 0) -> int:
        """Make runs with ``keys`` streams of ``count`` chunks each, all different.

        ``apart_ms``: as if the chunks had been written so far apart, on average, up to now; 0: all at once.
        """
        for number, run in enumerate(runs):
            self.store.create_run(run, Wire(wire))
            for key in range(keys):
                name = f"s{key}" if keys > 1 else "default"
                self.store.open_stream(run, name)
                if count and apart_ms:
                    self._spread(run, name, list(chunks(count, (number * keys + key) * 977)), apart_ms)
                elif count:
                    self.store.append_chunks(run, name, list(chunks(count, (number * keys + key) * 977)))
        return len(runs) * keys

    def _spread(self, run: str, key: str, texts: list[bytes], apart_ms: int) -> None:
        chance = random.Random(run)
        at_ms = time.time() * 1000 - 2 * apart_ms * len(texts)
        v1 = self.store._runs[run].wire is Wire.V1
        drafts = []
        for text in texts:
            at_ms += 1 + chance.expovariate(1 / apart_ms)
            if v1:
                self.store.append_entry(run, key, text + b"\n", V1Id(int(at_ms), 0))
            else:
                drafts.append(data_draft(text, self.store._nanoid(), int(at_ms)))
        if drafts:
            self.store.append_records(run, key, drafts)

    def finish(self, runs: list[str], ago_s: float = 0.0) -> None:
        """Have runs end, as if they had ``ago_s`` ago, and begun a minute before."""
        ended = datetime.now(UTC) - timedelta(seconds=ago_s)
        for run in runs:
            if ago_s:
                self.store._change_run(run, lambda run: replace(run, created_at=ended - timedelta(minutes=1)))
            self.store.finish_run(run, finished_at=ended)

    def requests(self) -> int:
        """How many requests were ever made."""
        return self.server.traffic.total

    def away(self) -> None:
        """Drop every connection, and answer 503 to whatever is asked."""
        assert self.loop is not None
        self.server.faults.everything().answer(503, times=1_000_000)
        self.loop.call_soon_threadsafe(connections_of(self.server.app).abort_all)

    def back(self) -> None:
        """Undo `away`."""
        self.server.faults.clear()

    def read(self) -> int:
        """How many streams are being read."""
        return self.server.traffic.streams_read()

    def open_streams(self, runs: list[str], key: str) -> None:
        """Give each of these runs one more stream, with a chunk."""
        for run in runs:
            self.store.open_stream(run, key)
            self.store.append_chunks(run, key, list(chunks(1)))

    def metadata(self, runs: list[str], size: int) -> None:
        """Give each of these runs that many bytes of metadata."""
        for number, run in enumerate(runs):
            text = json.dumps({"note": f"{number:08d}" * (size // 8)})
            self.store._change_run(run, lambda run, text=text: replace(run, metadata=text))  # type: ignore[misc]

    def append(self, run: str, count: int = 1, key: str = "default") -> int:
        """Append chunks now; returns the time of it in ms since 1970."""
        now_ms = time.time_ns() // 1_000_000
        self.store.append_chunks(run, key, list(chunks(count)))
        return now_ms

    def live(
        self, runs: list[str], every_s: float, records: int, for_s: float, together: int = 1, key: str = "default"
    ) -> None:
        """Have a batch of ``records`` appended to each stream every ``every_s``, in the background.

        Evenly spread in time, but ``together`` streams at the same moment.
        """
        assert self.loop is not None
        texts = list(chunks(10_000))
        self._written = {"batches": 0, "chunks": 0, "late_s": 0.0, "done": False}
        asyncio.run_coroutine_threadsafe(self._write(runs, every_s, records, for_s, together, key, texts), self.loop)

    def written(self) -> dict[str, Any]:
        """What `live` has written so far; ``late_s``: by how much it was behind its own plan at most."""
        return self._written

    async def _write(
        self, runs: list[str], every_s: float, records: int, for_s: float, together: int, key: str, texts: list[bytes]
    ) -> None:
        written, store = self._written, self.store
        begin = time.monotonic()
        gap_s = every_s / len(runs)
        number = 0
        while (at := number // together * together * gap_s) < for_s:
            late_s = time.monotonic() - begin - at
            if late_s < 0:
                await asyncio.sleep(-late_s)
                continue
            written["late_s"] = max(written["late_s"], late_s)
            first = number * records % (len(texts) - records)
            store.append_chunks(runs[number % len(runs)], key, texts[first : first + records])
            number += 1
            written["batches"], written["chunks"] = number, number * records
            if number % 8 == 0:
                await asyncio.sleep(0)
        written["done"] = True

    loop: asyncio.AbstractEventLoop | None = None
    server: RunningServer


def main() -> None:
    """Serve until standard input ends."""
    allow_many_connections()
    upstream = Upstream()
    # Collecting garbage among millions of objects that all stay would only be seen as pauses.
    import gc

    gc.disable()
    found = threading.Event()
    app = create_app(upstream.store, feed=FeedFormat(sys.argv[1]) if len(sys.argv) > 1 else FeedFormat.NATIVE)
    answer = app.router.default

    async def remember_loop(scope: Any, receive: Any, send: Any) -> None:
        upstream.loop = asyncio.get_running_loop()
        found.set()
        app.router.default = answer
        await answer(scope, receive, send)

    app.router.default = remember_loop
    with running(app) as server:
        upstream.server = server
        _knock(server.url)
        found.wait(10)
        _say(server.url)
        for line in sys.stdin:
            command = json.loads(line)
            _say(getattr(upstream, command.pop("do"))(**command))


def _knock(url: str) -> None:
    import httpx

    httpx.get(url, trust_env=False)


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
