"""Models of streams upstream, of both wires: what is written becomes visible as time passes; connections break anywhere."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tailrace.errors import NotFound, RequestRefused, SourceUnavailable
from tailrace.model import Arrival, Kind, V2Record, Wire
from tailrace.serve.entries import BEGINNING, Entry, LineJoiner, V1Id
from tailrace.source.connection import Connection
from tailrace.wire.events import Framer
from tailrace.wire.v1 import V1Decoder, parse_id

if TYPE_CHECKING:
    from tests.simulation.core import World
    from tests.simulation.process import SimWorker


class SimUpstream:
    """A stream upstream: what is written becomes visible as time passes; connections break anywhere."""

    def __init__(self, world: World, texts: list[bytes], pieces: int) -> None:
        self.world = world
        self.texts = texts
        self.lies = False  # the last connection to it said what is not so
        self.lied = 0  # how many in a row did
        self.written_at = sorted(world.dice.uniform(0, 14) for _ in range(pieces))

    def visible(self) -> int:
        """How many of its pieces are written by now."""
        return bisect_right(self.written_at, self.world.now)

    def tail_for(self, worker: SimWorker) -> SimTail:
        raise NotImplementedError


class SimV2(SimUpstream):
    """A piece is a record."""

    def __init__(self, world: World, texts: list[bytes]) -> None:
        super().__init__(world, texts, len(texts))

    def tail_for(self, worker: SimWorker) -> SimTail:
        return SimV2Tail(self, worker)


class SimV1(SimUpstream):
    """A piece is an entry: a line, or half of one."""

    def __init__(self, world: World, texts: list[bytes]) -> None:
        pieces: list[bytes] = []
        for text in texts:
            middle = world.dice.choice((0, 0, len(text) // 2))
            pieces += [text[:middle], text[middle:] + b"\n"] if middle else [text + b"\n"]
        super().__init__(world, texts, len(pieces))
        # Two entries a millisecond: ids are compared as pairs.
        self.entries = [Entry(V1Id(1_000 + number // 2, number % 2), piece) for number, piece in enumerate(pieces)]

    def tail_for(self, worker: SimWorker) -> SimTail:
        return SimV1Tail(self, worker)


class SimTail:
    """Fits `ingest.reader.Connector`."""

    wire: Wire

    def __init__(self, upstream: SimUpstream, worker: SimWorker) -> None:
        self.upstream = upstream
        self.worker = worker
        self.world = worker.world

    @contextmanager
    def connect(self, last_event_id: str | None, wait_s: int) -> Iterator[Connection]:
        self.worker.maybe_die()
        self.worker.wait(0.02)
        if self.world.dice.random() < self.world.p_refused:
            raise self.world.dice.choice(
                (SourceUnavailable("refused", status=503), RequestRefused("who are you", status=400), NotFound("what"))
            )
        yield Connection(self.wire, None, self.arrivals(last_event_id, wait_s))

    def interrupt(self) -> None:
        pass

    def maybe_cut(self) -> None:
        self.worker.maybe_die()
        if self.world.dice.random() < self.world.p_cut:
            raise SourceUnavailable("cut")

    def arrivals(self, last_event_id: str | None, wait_s: int) -> Iterator[Arrival]:
        raise NotImplementedError


class SimV2Tail(SimTail):
    wire = Wire.V2

    def arrivals(self, last_event_id: str | None, wait_s: int) -> Iterator[Arrival]:
        world, texts = self.world, self.upstream.texts
        at = 0 if last_event_id is None else int(last_event_id) + 1
        world.begin_lies(self.upstream)
        if world.lies(self.upstream):
            at = 0  # something on the way drops the header
        idle_until = world.now + wait_s
        while True:
            self.worker.maybe_die()
            tail = self.upstream.visible()
            if tail and world.lies(self.upstream):
                yield Arrival([], tail=world.dice.randrange(tail), alive_after=True)  # an old word
            if at < tail:
                end = min(tail, at + world.dice.randint(1, 4))
                records = [
                    V2Record(n, 1_000 + n, Kind.DATA, texts[n], f"id{n:05}", texts[n].decode()) for n in range(at, end)
                ]
                at, idle_until = end, world.now + wait_s
                if world.lies(self.upstream):  # it is another one, or lost on the way, or comes twice
                    lie = world.dice.choice((self.garbled(records, last_event_id), [], records))
                    yield Arrival(lie, tail=None, alive_after=True)
                    if lie != records:
                        continue
                yield Arrival(records, tail=tail if end == tail else None, alive_after=True)
                self.maybe_cut()
                continue
            if world.now >= idle_until:
                yield Arrival([], tail=tail)
                return
            yield Arrival([], tail=tail, alive_after=True)
            self.worker.wait(0.2)

    def garbled(self, records: list[V2Record], last_event_id: str | None) -> list[V2Record]:
        """Return another record under a number that is held, but the first: that one would prove a new stream."""
        held = int(last_event_id or 0)
        return [records[0]._replace(seq_num=held)] if 0 < held < records[0].seq_num else []


class SimV1Tail(SimTail):
    """Its last event is certain only when something follows: the body may end with half a line as if it were whole."""

    wire = Wire.V1
    upstream: SimV1

    def arrivals(self, last_event_id: str | None, wait_s: int) -> Iterator[Arrival]:
        world, decoder, framer, joiner = self.world, V1Decoder(), Framer(1 << 20), LineJoiner()
        after = V1Id(*parse_id(last_event_id)) if last_event_id else BEGINNING
        idle_until = world.now + wait_s
        while True:
            self.worker.maybe_die()
            entries = [each for each in self.upstream.entries[: self.upstream.visible()] if each.id > after]
            if entries:
                entries = entries[: world.dice.randint(1, 4)]
                after, idle_until = entries[-1].id, world.now + wait_s
                if events := framer.feed(joiner.add(entries).decode()):
                    yield from decoder.decode(events)
                self.maybe_cut()
                continue
            if world.now >= idle_until:
                break
            if world.dice.random() < 0.1:
                yield Arrival([], alive_after=True)
            self.worker.wait(0.2)
        if last := framer.feed(joiner.close().decode()):
            yield from decoder.decode(last)
            self.worker.wait(world.dice.choice((0.01, 0.3)))  # the end comes in another packet
            self.maybe_cut()
