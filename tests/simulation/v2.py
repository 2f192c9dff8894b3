"""A model of a v2 stream upstream: records, retries of writers, trims, re-creation; connections cut anywhere."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tailrace.errors import SourceUnavailable
from tailrace.model import Arrival, Wire
from tailrace.source.connection import Connection
from tailrace.wire.events import Framer
from tailrace.wire.v2 import V2Decoder
from tests.simulation.archive import Archive


@dataclass(frozen=True)
class Record:
    """One record as the model keeps it.

    ``chunk`` is what the archive must show for it, None when nothing. ``repeats`` is the record that a writer sent
    again as this one: when that one is lost, this one is the first that anybody sees.
    """

    seq_num: int
    fields: dict[str, object]
    chunk: bytes | None
    repeats: int | None = None


class V2Upstream:
    """Serves records by number; more of them become visible as connections go on. Fits `ingest.reader.Connector`.

    ``lives`` are the streams that existed one after another under the key: each begins again at 0. ``lie``: how often a
    connection says something that is not so; after two that did, one does not.
    """

    def __init__(
        self, lives: list[list[Record]], archive: Archive, dice: random.Random, trim: bool, lie: float = 0.0
    ) -> None:
        self._lives = lives
        self._archive = archive
        self._dice = dice
        self._trim = trim
        self.life = 0
        self.visible = 0
        self.kept_from = 0
        self._lie = lie
        self._lied = self._lying = 0  # in a row; on this connection

    @property
    def records(self) -> list[Record]:
        return self._lives[self.life][: self.visible]

    @contextmanager
    def connect(self, last_event_id: str | None, wait_s: int) -> Iterator[Connection]:
        dice = self._dice
        if self.life + 1 == len(self._lives) and self.visible == len(self._lives[-1]) and dice.random() < 0.3:
            self._archive.over = True
        if dice.random() < 0.1:
            raise SourceUnavailable("refused", status=500)
        if self._trim and dice.random() < 0.1:
            self.kept_from = max(self.kept_from, dice.randint(0, self.visible))
        self._lied = self._lied + 1 if self._lying else 0
        self._lying = 0
        start = self._start(None if self.lies() else last_event_id)
        yield Connection(Wire.V2, None, self._deliveries(start))

    def lies(self) -> bool:
        """Whether something on the way says what is not so, this time."""
        lie = self._lied < 2 and self._dice.random() < self._lie
        self._lying += lie
        return lie

    def interrupt(self) -> None:
        pass

    def _start(self, last_event_id: str | None) -> int:
        """Upstream's own rule, accidents included: a start beyond the tail is clamped to the tail."""
        if last_event_id is None:
            return self.kept_from
        assert last_event_id.isdecimal()
        return max(self.kept_from, min(int(last_event_id) + 1, self.visible))

    def _deliveries(self, start: int) -> Iterator[Arrival]:
        decoder, framer = V2Decoder(), Framer(1 << 20)
        for block in self._body(start):
            events = framer.feed(block)
            if events:
                yield from decoder.decode(events)
        decoder.finish()

    def _body(self, at: int) -> Iterator[str]:
        dice = self._dice
        while True:
            if self.visible and self.lies():
                old = dice.randrange(self.visible)
                yield f'event: ping\ndata: {{"timestamp":1,"tail":{{"seq_num":{old},"timestamp":1}}}}\n\n'
            while at < self.visible:
                size = dice.randint(1, 5)
                records = self._lives[self.life][at : min(at + size, self.visible)]
                body: dict[str, object] = {"records": [record.fields for record in records]}
                at += len(records)
                ends_early = at < self.visible and dice.random() < 0.1
                if ends_early or (at == self.visible and dice.random() < 0.5):
                    body["tail"] = {"seq_num": self.visible, "timestamp": 1}
                text = f"event: batch\nid: {at - 1},1,1\ndata: {json.dumps(body)}\n\n"
                if dice.random() < 0.15:
                    yield text[: dice.randint(0, len(text))]
                    if dice.random() < 0.5:
                        raise SourceUnavailable("cut")
                    return  # looks like a clean end, but [DONE] is missing
                if self.lies():
                    if dice.random() < 0.5:
                        continue  # it is lost
                    yield text  # it comes twice
                yield text
                if ends_early:  # cleanly, in the middle of catching up: a slow proxy, or upstream that is restarted
                    yield "data: [DONE]\n\n"
                    return
                if dice.random() < 0.05:
                    yield 'event: error\ndata: {"code":"unavailable","message":"x"}\n\n'
                    return
            yield f'event: ping\ndata: {{"timestamp":1,"tail":{{"seq_num":{self.visible},"timestamp":1}}}}\n\n'
            if self.visible < len(self._lives[self.life]) and dice.random() < 0.6:
                self.visible = min(len(self._lives[self.life]), self.visible + dice.randint(1, 4))
                continue
            if self.life + 1 < len(self._lives) and self.visible == len(self._lives[self.life]) and dice.random() < 0.3:
                # Made anew under an open connection, which goes on where it was; only its pings tell.
                self.life, self.visible, self.kept_from = self.life + 1, 0, 0
                continue
            break
        yield "data: [DONE]\n\n"
        if self.visible < len(self._lives[self.life]):
            self.visible += 1
        elif self.life + 1 < len(self._lives) and dice.random() < 0.5:
            self.life, self.visible, self.kept_from = self.life + 1, 0, 0


def life_of(dice: random.Random, number: int) -> list[Record]:
    """Make one stream: data, a writer's retries, commands, control records, bodies that are no envelope."""
    records: list[Record] = []
    data: list[tuple[int, str, bytes]] = []
    for seq_num in range(dice.randint(1, 15)):
        fields: dict[str, object] = {"seq_num": seq_num, "timestamp": 1_795_000_000_000 + 1_000_000 * number + seq_num}
        what = dice.random()
        chunk: bytes | None = None
        repeats: int | None = None
        if what < 0.08:
            fields |= {"headers": [["", "fence"]]}
        elif what < 0.14:
            fields |= {"headers": [["trigger-control", "turn-complete"], ["public-access-token", "eyJsecret"]]}
        elif what < 0.2:
            fields |= {"body": dice.choice(("not json", '{"id":"x"}', "[1]", '{"data":1}'))}
        elif what < 0.24:
            pass  # neither headers nor body
        elif what < 0.36 and data:
            repeats, identity, text = dice.choice(data)
            fields |= {"body": f'{{"data":{text.decode()},"id":"{identity}"}}'}
        else:
            text = dice.choice((b"%d", b'{"n":%d}', b'"\\ud83d%d"', b"[%d,1.10]")) % dice.choice((seq_num, 1))
            # A stream that is made anew can be written again with the same ids.
            identity = f"w{dice.choice((number, 0))}-{seq_num:05}"
            data.append((seq_num, identity, text))
            fields |= {"body": f'{{"data":{text.decode()},"id":"{identity}"}}'}
            chunk = text
        records.append(Record(seq_num, fields, chunk, repeats))
    return records
