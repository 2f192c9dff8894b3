"""A reader counts what it holds of an event, waits when there is no room, and frees it however it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tailrace.errors import SourceUnavailable
from tailrace.model import Arrival
from tailrace.room import PROGRESS_S, Room
from tailrace.source.connection import Tail
from tests.decoding import EVENT_STREAM, V2_STREAM, Blocks

MIB = 1 << 20
LIMIT = 4 * MIB
WAIT_S = 10.0
BLOCK = b"x" * 65_536
BEGUN = [b'id: 5-0\ndata: "', *[BLOCK] * 16]


class Source:
    """Answers with these blocks. ``interrupted`` is what wakes its reader."""

    def __init__(self, blocks: Iterator[bytes], headers: dict[str, str]) -> None:
        self._response = httpx.Response(200, headers=headers, stream=Blocks(blocks))
        self.interrupted = threading.Event()

    @contextmanager
    def open(self, last_event_id: str | None, wait_s: int, start: str | None = None) -> Iterator[httpx.Response]:
        yield self._response

    def interrupt(self) -> None:
        self.interrupted.set()


def tail_of(room: Room, *blocks: bytes, headers: dict[str, str] = EVENT_STREAM) -> Tail:
    return Tail(Source(iter(blocks), headers), LIMIT, room.share())  # type: ignore[arg-type]


def held(room: Room, *blocks: bytes) -> list[tuple[int, Arrival]]:
    """What is counted at each arrival."""
    with tail_of(room, *blocks).connect(None, 1) as connection:
        return [(room.unfinished_bytes, arrival) for arrival in connection.arrivals]


def test_an_event_is_counted_until_it_has_been_taken() -> None:
    room = Room(64 * MIB)
    seen = held(room, *BEGUN, b'"\n\n', b": ping\n\n")
    sizes = [size for size, _ in seen]
    assert sizes[:2] == [0, 0]  # the first 64 kB are free
    assert sizes[:-1] == sorted(sizes[:-1])
    assert seen[-2][1].records
    assert MIB < seen[-2][0] < MIB + 4_000
    assert room.held_bytes == 0


def test_text_that_takes_four_bytes_a_character_is_counted_with_four() -> None:
    room = Room(64 * MIB)
    wide = "😀".encode() * 16_384
    assert held(room, b"id: 5-0\ndata: ", *[wide] * 16)[-1][0] > 15 * len(wide)


def test_a_last_line_is_counted_while_nothing_follows_it() -> None:
    room = Room(64 * MIB)
    with tail_of(room, *BEGUN, b'"\n\n', b"id: 6-0\n", b"data: 1\n\n").connect(None, 1) as connection:
        arrivals = connection.arrivals
        assert any(arrival.records for arrival in arrivals)
        assert next(arrivals).alive_after  # the beginning of the next event
        assert room.unfinished_bytes > MIB
        next(arrivals)
        assert room.unfinished_bytes == 0


def test_a_reader_without_room_does_not_read_on_and_can_be_told_to_leave() -> None:
    room = Room(2 * MIB)
    with room.changed:
        others, over = room.share(), room.share()
        room.grow(others, MIB)
        room.grow(over, MIB)
    read: list[int] = []

    def blocks() -> Iterator[bytes]:
        for number, block in enumerate(BEGUN):
            read.append(number)
            yield block

    tail = Tail(Source(blocks(), EVENT_STREAM), LIMIT, room.share())  # type: ignore[arg-type]
    ended: list[int] = []

    def follow() -> None:
        with tail.connect(None, 1) as connection:
            ended.append(len(list(connection.arrivals)))

    thread = threading.Thread(target=follow)
    thread.start()
    with room.changed:
        assert waits(room)
    tail.interrupt()
    thread.join(WAIT_S)
    assert (ended, read) == ([2], [0, 1])
    assert room.held_bytes == 2 * MIB


def waits(room: Room) -> bool:
    for _ in range(int(WAIT_S * 1_000)):
        if room._growing:
            return True
        room.changed.wait(0.001)
    return False


def test_a_connection_that_is_cut_for_room_is_no_clean_end() -> None:
    now = [0.0]
    room = Room(MIB, clock=lambda: now[0])
    with room.changed:
        room.grow(room.share(), MIB // 2)
    with tail_of(room, *BEGUN).connect(None, 1) as connection:
        for _ in range(12):
            next(connection.arrivals)
        now[0] = PROGRESS_S
        with room.changed:
            room.cut_idle()
        with pytest.raises(SourceUnavailable, match="took the room of others"):
            list(connection.arrivals)
    assert room.held_bytes == MIB // 2


@pytest.mark.parametrize("headers", [EVENT_STREAM, V2_STREAM])
def test_however_a_connection_ends_it_holds_nothing(headers: dict[str, str]) -> None:
    room = Room(64 * MIB)
    with tail_of(room, *BEGUN, headers=headers).connect(None, 1) as connection:
        for number, _ in enumerate(connection.arrivals):
            if number == 8:
                assert room.held_bytes > 0
                break
    assert room.held_bytes == 0
