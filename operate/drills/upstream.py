"""The stand-in for Trigger.dev, and all that can go wrong with it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec
from starlette.responses import Response

from drills.written import WrittenRun, WrittenStore
from tailrace.serve import answers
from tailrace.serve.app import create_app, wall_clock_ms
from tailrace.serve.body import StreamBody
from tailrace.serve.records import Tail, ping_event
from tailrace.serve.server import Server, connections_of, listen, url_of
from tailrace.serve.timing import Timing
from tailrace.serve.upstream import RUN_LIST, RUNS_FEED, Target

FEEDS = frozenset({RUNS_FEED.kind, "feed"})
ENDS_AFTER = 8
"""So many blocks an upstream gives on one connection that fails now and then: of a drill's run two seconds."""
OLD_KEY, NEW_KEY = "tr_dev_drill_before", "tr_dev_drill_after"


class Upstream:
    """Serves runs. It can be away, take another key, and answer other than it should.

    ``fails_each``: of so many requests one is answered 500, and streams end early; 0: none. ``refuses_list``: the list
    of runs is answered 500. ``refused``: the streams of these runs are answered 400. ``misdated``: in the feeds stands
    a date that is none for this run.
    """

    def __init__(self, runs: Sequence[WrittenRun]) -> None:
        self.store = WrittenStore(runs)
        self.refuses_list = self._withholds = False
        self.fails_each = self._asked = 0
        self.refused: set[str] = set()
        self.misdated: str | None = None
        self._key = OLD_KEY
        self._port = 0
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Answer, on the port that it had."""
        timing = Timing(s2_ping_min_s=1, s2_ping_max_s=2, live_poll_s=2)
        app = create_app(self.store, api_key=self._key, timing=timing, around=self._around)
        listener = listen("127.0.0.1", self._port)
        self._port = int(url_of(listener).rpartition(":")[2])
        server = self._server = Server(app, connections_of(app))
        self._thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Be away."""
        if self._server is not None and self._thread is not None:
            self._server.stop()
            self._thread.join(20)
            self._server = self._thread = None

    def take(self, key: str) -> None:
        """Take this key and no other."""
        self.stop()
        self._key = key
        self.start()

    def withhold(self, withholds: bool) -> None:
        """Tell the tail in pings and give no record, or give everything again: on connections from now on."""
        self._withholds = withholds
        self.take(self._key)

    async def _around(self, target: Target, answer: Callable[[], Awaitable[Response]]) -> Response:
        self._asked += 1
        if (target == RUN_LIST and self.refuses_list) or (self.fails_each and self._asked % self.fails_each == 0):
            return answers.failed()
        if target.kind == "stream" and target.run_id in self.refused:
            return answers.refused("Invalid stream")
        response = await answer()
        if isinstance(response, StreamBody):
            response.blocks = self._altered(target.run_id, response.blocks)
        elif target.kind in FEEDS and self.misdated and response.status_code == 200:
            return _misdated(response, self.misdated)
        return response

    async def _altered(self, run_id: str, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        withholds, run = self._withholds, self.store.written[run_id]
        given = 0
        async for block in blocks:
            if self.fails_each and (given := given + 1) > ENDS_AFTER:
                return
            is_batch = block.startswith(b"event: batch\n")
            if not (is_batch and withholds):
                yield block
            if is_batch and (withholds or self.store.slow):
                yield ping_event(wall_clock_ms(), Tail(*run.tail))


def _misdated(response: Response, run_id: str) -> Response:
    messages = msgspec.json.decode(bytes(response.body))
    for message in messages:
        if "value" in message and message["value"]["friendlyId"] == run_id:
            message["value"]["createdAt"] = "the day before yesterday"
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return Response(msgspec.json.encode(messages), 200, headers)
