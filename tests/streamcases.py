"""What the tests of `tailrace.streams` share: a stand-in upstream, an archive of it, and both flavours of the API.

A test is written once, against a `Flavour`; `Blocking` and `Asyncio` do the same with the two modules. `Place` is one
run upstream, which can be archived as far as a test wants.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from uuid import uuid4

import psycopg
import sqlalchemy as sa
from psycopg import sql
from werkzeug.serving import make_server

import tailrace.runs
import tailrace.runs.aio
import tailrace.streams
import tailrace.streams.aio
from tailrace.devtools.servers.postgres import Postgres
from tailrace.ingest.order import Order, order_for
from tailrace.model import Checkpoint, Outcome, StreamState, Verdict, Wire
from tailrace.serve.app import DEFAULT_KEY
from tailrace.serve.entries import LineJoiner
from tailrace.serve.records import Draft, batch_event, data_draft
from tailrace.serve.timing import Timing as UpstreamTiming
from tailrace.store.commit import Committer, Flush
from tailrace.store.engine import create_engine
from tailrace.store.leases import Leases, WorkerRow
from tailrace.streams import Client, Timing
from tailrace.wire.events import Framer
from tailrace.wire.v1 import V1Decoder
from tailrace.wire.v2 import V2Decoder
from tests.leaks import lasting
from tests.upstream import RunningServer, create_app, running
from tests.upstream.drafts import control_draft, fence_draft
from tests.upstream.live import LiveStore

TIMING = UpstreamTiming().scaled(0.005)
"""Upstream two hundred times as fast: v1 looks at its clocks every 25 ms, 60 s of waiting are 0.3 s."""

PACE = Timing(
    hold_s=0.015,
    look_after_s=0.02,
    look_every_s=0.05,
    settle_s=0.01,
    reconnect_s=0.01,
    retry_base_s=0.005,
    retry_cap_s=0.02,
    over_after_s=0.3,
)
"""Reads as fast as that. The hold time is shorter than upstream's shortest silence before it closes, as in reality."""

LONG_S = 30.0
"""A wait that is over only when something is broken."""

SOURCES = ("upstream", "archive", "auto")
FLAVOURS = ("blocking", "aio")


# --- flavours


class Flavour:
    """One of the two APIs, called without await. ``streams`` and ``runs`` are its modules."""

    name: str
    streams: ModuleType
    runs: ModuleType

    def start(self) -> None:
        """Get ready."""

    def stop(self) -> None:
        """Undo `start`."""

    def call(self, answer: Any) -> Any:
        """Return what a function of the API returned, once it is there."""
        raise NotImplementedError

    def next(self, reader: Any) -> Any:
        """Return the next; raises StopIteration at the end."""
        raise NotImplementedError

    def close(self, reader: Any) -> None:
        raise NotImplementedError

    def all(self, reader: Any) -> list[Any]:
        """Return all that is left."""
        return list(self.each(reader))

    def each(self, iterable: Any) -> Iterator[Any]:
        """Return one after another."""
        iterator = self.begin(iterable)
        while True:
            try:
                yield self.next(iterator)
            except StopIteration:
                return

    def begin(self, iterable: Any) -> Any:
        raise NotImplementedError

    def in_background(self, reader: Any) -> Background:
        """Take all of a reader while the test goes on."""
        return Background(lambda: self.all(reader))


class Blocking(Flavour):
    name = "blocking"
    streams = tailrace.streams
    runs = tailrace.runs

    def call(self, answer: Any) -> Any:
        return answer

    def begin(self, iterable: Any) -> Any:
        return iter(iterable)

    def next(self, reader: Any) -> Any:
        return next(reader)

    def close(self, reader: Any) -> None:
        reader.close()


class Asyncio(Flavour):
    """Runs a loop in a thread of its own."""

    name = "aio"
    streams = tailrace.streams.aio
    runs = tailrace.runs.aio

    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.call(_settle())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LONG_S)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def call(self, answer: Any) -> Any:
        if not asyncio.iscoroutine(answer):
            return answer
        return asyncio.run_coroutine_threadsafe(answer, self.loop).result(LONG_S)

    def begin(self, iterable: Any) -> Any:
        return aiter(iterable)

    def next(self, reader: Any) -> Any:
        try:
            return self.call(_next(reader))
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self, reader: Any) -> None:
        self.call(_close(reader))


async def _next(reader: Any) -> Any:
    return await anext(reader)


async def _close(reader: Any) -> None:
    await reader.aclose()


async def _settle() -> None:
    """Wait for whatever is still leaving."""
    ours = asyncio.current_task()
    rest = [task for task in asyncio.all_tasks() if task is not ours]
    if rest:
        _, pending = await asyncio.wait(rest, timeout=LONG_S)
        assert not pending, pending


class Background:
    """Something that goes on in a thread."""

    def __init__(self, work: Any) -> None:
        self._result: Any = None
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._result = work()
            except BaseException as error:  # noqa: BLE001  raised again by `result`
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def result(self) -> Any:
        self._thread.join(LONG_S)
        assert not self._thread.is_alive(), "it does not end"
        if self._error is not None:
            raise self._error
        return self._result


# --- upstream and its archive


class Archiver:
    """Puts what the stand-in upstream holds into an archive, as a worker does, as far as it is told to."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = create_engine(url)
        worker = WorkerRow(uuid4(), "here", 1, "local", 1)
        self._committer = Committer(self.engine, worker.id)
        self._leases = Leases(self.engine, worker, LONG_S)
        self._leases.renew()
        self._ids: dict[tuple[str, str], int] = {}
        self._sequences: dict[tuple[str, str], Order] = {}
        self._done: dict[tuple[str, str], int] = {}

    def close(self) -> None:
        self.engine.dispose()

    def know(self, run_id: str, key: str | None = None, environment: str = "default") -> None:
        """Make the rows, with nothing in them."""
        with self.engine.begin() as connection:
            run = connection.execute(
                sa.text("SELECT tailrace.request_ingest(:run_id, NULL, :environment)"),
                {"run_id": run_id, "environment": environment},
            ).scalar_one()
            if key is not None and (run_id, key) not in self._ids:
                self._ids[run_id, key] = connection.execute(
                    sa.text("INSERT INTO tailrace.streams (run, stream_key) VALUES (:run, :key) RETURNING id"),
                    {"run": run, "key": key},
                ).scalar_one()

    def archive(
        self, store: LiveStore, run_id: str, key: str, wire: Wire, upto: int | None = None, *, sealed: bool = False
    ) -> int:
        """Archive the first ``upto`` records (lines on v1) of a stream, or all; return how many there are."""
        self.know(run_id, key)
        ref = (run_id, key)
        records = records_of(store, run_id, key, wire)
        done = self._done.get(ref, 0)
        upto = len(records) if upto is None else upto
        sequence = self._sequences.setdefault(ref, order_for(wire, Checkpoint(), []))
        (stream,) = self._leases.acquire([self._ids[ref]])
        batches = [sequence.admit(records[done:upto])] if upto > done else []
        while sequence.doubt is not None:  # what was trimmed has to be shown by several connections
            sequence.resume()
            batches = [sequence.admit(records[done:upto])]
        checkpoint = batches[-1].checkpoint if batches else stream.checkpoint
        state = StreamState.SEALED if sealed else StreamState.PARKED
        outcome = Outcome(state, verdict=Verdict.COMPLETE if sealed else None)
        flush = Flush(stream.id, stream.token, stream.rev, wire, checkpoint, batches, outcome, max_chunks=7)
        assert self._committer.commit([flush]) == {stream.id}
        self._done[ref] = max(upto, done)
        return len(records)


def records_of(store: LiveStore, run_id: str, key: str, wire: Wire) -> list[Any]:
    """What a reader would get of a stream."""
    framer = Framer(1 << 26)
    if wire is Wire.V1:
        events = framer.feed(LineJoiner().add(store.entries(run_id, key)).decode())
        return [record for arrival in V1Decoder().decode(events) for record in arrival.records]
    kept = store.records(run_id, key)
    text = "".join(batch_event(kept[at : at + 1000], 1, 1, None).decode() for at in range(0, len(kept), 1000))
    return [record for arrival in V2Decoder().decode(framer.feed(text)) for record in arrival.records]


class World:
    """The stand-in upstream of a whole test session, and an archive of it."""

    def __init__(self, server: RunningServer, store: LiveStore, archiver: Archiver) -> None:
        self.server = server
        self.store = store
        self.archiver = archiver
        self.client = Client(DEFAULT_KEY, api_url=server.url, database_url=archiver.url, timing=PACE)
        self._numbers = itertools.count(1)

    def place(self, wire: Wire, source: str = "upstream", **run: Any) -> Place:
        """Make a run."""
        run_id = f"run_{next(self._numbers)}"
        self.store.create_run(run_id, wire, **run)
        return Place(self, run_id, wire, source)


class Place:
    """One run. ``source`` is where `options` has it read from; `settle` archives what that needs."""

    def __init__(self, world: World, run_id: str, wire: Wire, source: str) -> None:
        self.world = world
        self.store = world.store
        self.run_id = run_id
        self.wire = wire
        self.source = source

    @property
    def options(self) -> dict[str, Any]:
        return {"client": self.world.client, "source": self.source}

    @property
    def faults(self) -> Any:
        return self.world.server.faults

    def write(self, key: str, texts: Iterable[str | bytes]) -> None:
        self.store.append_chunks(self.run_id, key, texts)

    def finish(self, status: str = "COMPLETED_SUCCESSFULLY") -> None:
        self.store.finish_run(self.run_id, status)

    def archive(self, key: str, upto: int | None = None, *, sealed: bool = False) -> int:
        return self.world.archiver.archive(self.store, self.run_id, key, self.wire, upto, sealed=sealed)

    def settle(self, *keys: str) -> None:
        """Archive all of these streams for a read from the archive, half of each for one that goes on upstream."""
        for key in keys:
            if self.source == "archive":
                self.archive(key, sealed=True)
            elif self.source == "auto":
                count = len(records_of(self.store, self.run_id, key, self.wire))
                self.archive(key, count // 2)

    def begun(self, key: str, readers: int = 1) -> bool:
        """Wait until the stream is being read."""
        return self.world.server.traffic.wait_until(
            lambda: self.world.server.traffic.reading(self.run_id, key) == readers, LONG_S
        )

    def left(self, key: str, timeout_s: float = LONG_S) -> bool:
        """Wait until nobody reads the stream any more."""
        traffic = self.world.server.traffic
        return traffic.wait_until(lambda: traffic.reading(self.run_id, key) == 0, timeout_s)

    def requests(self, key: str) -> list[Any]:
        return self.world.server.traffic.requests(f"/realtime/v1/streams/{self.run_id}/{key}")

    def looks(self) -> int:
        """How often somebody has asked whether the run is over."""
        return len(self.world.server.traffic.requests(f"/realtime/v1/runs/{self.run_id}"))


def write_v1(place: Place, dice: random.Random) -> list[Any]:
    """Lines in entries of any shape; return what a reader must get, with what is no JSON as its text."""
    lines = [dice.choice(("%d", '{"n":%d}', '"w%d"', "oops%d")) % number for number in range(14)]
    text = "".join(line + "\n" for line in lines)
    while text:
        size = dice.choice((1, 3, 8, 20, text.index("\n") + 1))
        place.store.append_entry(place.run_id, "ai", text[:size])
        text = text[size:]
    return [line if line.startswith("oops") else json.loads(line) for line in lines]


def write_v2(place: Place, dice: random.Random) -> list[Any]:
    """Records of every kind; the same."""
    expected: list[Any] = []
    for number in range(14):
        kind = dice.choice(("data", "data", "data", "repeat", "command", "control", "odd"))
        if kind == "repeat" and number:
            draft = place.store.records(place.run_id, "ai")[-1]
            if draft.headers or not draft.body.startswith(b'{"data"'):
                kind = "command"
            else:
                place.store.repeat_record(place.run_id, "ai", draft.seq_num)
                continue
        match kind:
            case "command":
                drafts = [fence_draft("x")]
            case "control":
                drafts = [control_draft("turn-complete")]
            case "odd":
                drafts = [Draft(b"oops%d" % number)]
                expected.append(f"oops{number}")
            case _:
                drafts = [data_draft(str(number), f"id{number}")]
                expected.append(number)
        place.store.append_records(place.run_id, "ai", drafts)
    return expected


@contextmanager
def database(server: Postgres, template: str) -> Iterator[str]:
    """A migrated database for many tests."""
    name = f"streams_{uuid4().hex[:12]}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
    try:
        yield server.url(name)
    finally:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def numbers(count: int, first: int = 0) -> list[str]:
    """Give chunks that say which they are: ``{"n": 0}`` and so on."""
    return [json.dumps({"n": number}) for number in range(first, first + count)]


@contextmanager
def running_wsgi(app: Any) -> Iterator[str]:
    """Serve a WSGI application, a thread a request; return its URL."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(LONG_S)
        server.server_close()


# --- what the fixtures are made of


@contextmanager
def running_world(server: Postgres, template: str) -> Iterator[World]:
    """A stand-in upstream and an archive, for all tests of a module."""
    store = LiveStore()
    with database(server, template) as url, running(create_app(store, timing=TIMING)) as upstream:
        archiver = Archiver(url)
        world = World(upstream, store, archiver)
        with lasting(f"{server.url().rpartition('@')[2].partition('/')[0]}", upstream.url.removeprefix("http://")):
            yield world
        world.client.close()
        archiver.close()


@contextmanager
def running_flavour(name: str) -> Iterator[Flavour]:
    """The API of this name."""
    flavour: Flavour = Blocking() if name == Blocking.name else Asyncio()
    flavour.start()
    try:
        with lasting("thread asyncio_"):  # what its loop runs beside itself
            yield flavour
    finally:
        flavour.stop()
