"""The archive behind the routes: a client gets of a stream what upstream would give it, however it is archived meanwhile."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx
import pytest
import sqlalchemy as sa

from tailrace.devtools.servers.postgres import Postgres
from tailrace.model import Kind, Wire
from tailrace.serve.app import DEFAULT_KEY, create_app
from tailrace.serve.archive import Archive, ArchiveStore, follower
from tailrace.serve.archive.follower import EVERY_S
from tailrace.serve.archive.numbers import V1_SEQ
from tailrace.serve.body import BrokenOff
from tailrace.serve.entries import BEGINNING, V1Id
from tailrace.serve.read_v2 import read_v2
from tailrace.serve.recording import body_id
from tailrace.serve.runs import Run, RunPlace, RunQuery, find_runs, place_of
from tailrace.serve.store import StreamRemoved
from tailrace.serve.timing import Timing
from tailrace.store.serving import PART_BYTES
from tailrace.wire.events import Framer
from tailrace.wire.v1 import V1Decoder
from tailrace.wire.v2 import V2Decoder
from tests.integration.schema_rows import EPOCH_MS, Json
from tests.integration.schema_rows import Archive as Rows
from tests.leaks import lasting
from tests.streamcases import LONG_S, TIMING, Place, World, running_world, write_v1, write_v2
from tests.upstream import RunningServer, running

pytestmark = pytest.mark.unbalanced


@pytest.fixture(scope="module")
def world(postgres_server: Postgres, template_database: str) -> Iterator[World]:
    with running_world(postgres_server, template_database) as world:
        yield world


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[RunningServer]:
    """The archive of the world, with waits as short as its upstream's."""
    archive = Archive(world.archiver.url)
    app = create_app(ArchiveStore(archive, "default"), timing=TIMING)
    with lasting("thread tailrace-archive"):
        with running(app) as server:
            yield server
        archive.let_go()


@pytest.fixture
def rows(database_url: str) -> Iterator[Rows]:
    rows = Rows(database_url)
    with rows.connection:
        yield rows


@asynccontextmanager
async def archive_of(url: str) -> AsyncIterator[Archive]:
    archive = Archive(url)
    try:
        yield archive
    finally:
        await archive.close()


def show(rows: Rows, run_id: str = "run_1") -> None:
    """Have upstream shown the run."""
    rows.run("UPDATE tailrace.runs SET status = 'EXECUTING', created_at = now() WHERE run_id = %s", run_id)


# --- what a client gets


def read(server: RunningServer, place: Place, after: str | None = None) -> list[tuple[str | int, int, bytes | str]]:
    """Read the whole stream from a server: id, time and text of all that a client is given of it."""
    headers = {"authorization": f"Bearer {DEFAULT_KEY}", "timeout-seconds": "1", "accept-encoding": "identity"}
    if after is not None:
        headers["last-event-id"] = after
    url = f"{server.url}/realtime/v1/streams/{place.run_id}/ai"
    answer = httpx.get(url, headers=headers, trust_env=False, timeout=LONG_S)
    assert answer.status_code == 200
    assert answer.headers.get("x-stream-version") == ("v2" if place.wire is Wire.V2 else None)
    events = Framer(1 << 26).feed(answer.text)
    if place.wire is Wire.V1:
        lines = [record for arrival in V1Decoder().decode(events) for record in arrival.records]
        return [(f"{line.ms}-{line.seq}", line.ms, line.text) for line in lines]
    records = [record for arrival in V2Decoder().decode(events) for record in arrival.records]
    assert events[-1].data == "[DONE]"
    found: list[tuple[str | int, int, bytes | str]] = []
    seen = set()
    for record in records:
        # The official client drops what a writer's retry repeats, and what is no chunk; it knows a repeat by its id.
        if record.kind in (Kind.DATA, Kind.ODD) and (not record.body_id or record.body_id not in seen):
            found.append((record.seq_num, record.timestamp_ms, record.text or record.body))
            seen.add(record.body_id)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_v2_from_the_archive_is_what_upstream_gives(world: World, served: RunningServer, seed: int) -> None:
    """Numbers, times, texts, and what is no chunk: from the beginning and from any place."""
    place = world.place(Wire.V2)
    place.store.open_stream(place.run_id, "ai")
    write_v2(place, random.Random(seed))
    count = place.archive("ai", sealed=True)
    shown(world, place)
    whole = read(world.server, place)
    assert [(number, text) for number, _, text in read(served, place)] == [(number, text) for number, _, text in whole]
    times = {number: at for number, at, _ in whole}
    assert all(times[number] == at for number, at, text in read(served, place) if isinstance(text, bytes))
    for number in range(1, count):
        # A repeat of what stood before the place is told from nothing by upstream's client; it is no chunk here.
        later = [each[0] for each in whole if int(each[0]) > number]
        assert [each[0] for each in read(served, place, str(number))] == later


@pytest.mark.parametrize("seed", range(3))
def test_v1_from_the_archive_is_what_upstream_gives(world: World, served: RunningServer, seed: int) -> None:
    """Each line has an id of its own here, from which any reader goes on exactly where it was."""
    place = world.place(Wire.V1)
    place.store.open_stream(place.run_id, "ai")
    write_v1(place, random.Random(seed))
    place.archive("ai", sealed=True)
    shown(world, place)
    upstream = read(world.server, place)
    found = read(served, place)
    assert [text for _, _, text in found] == [text for _, _, text in upstream]
    ids = [each[0] for each in found]
    assert len(set(ids)) == len(ids)
    for at, (line_id, _, _) in enumerate(found):
        assert read(served, place, str(line_id)) == found[at + 1 :]
    # After an id of upstream's own nothing is missed, and nothing comes again but what has the same millisecond.
    for at, (line_id, ms, _) in enumerate(upstream):
        again = read(served, place, str(line_id))
        repeated = len(again) - len(found[at + 1 :])
        assert again[repeated:] == found[at + 1 :]
        assert all(other == ms for _, other, text in again[:repeated] if not str(text).startswith("oops"))


def shown(world: World, place: Place) -> None:
    with world.archiver.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE tailrace.runs SET status = 'COMPLETED', created_at = now() WHERE run_id = :run_id"),
            {"run_id": place.run_id},
        )


@pytest.mark.parametrize("wire", list(Wire), ids=str)
def test_whoever_comes_from_upstream_ahead_of_the_archive_gets_only_what_is_new(
    rows: Rows, database_url: str, wire: Wire
) -> None:
    """A live stream is a moment behind here: what was read there is not sent again when it comes."""
    stream = rows.stream()
    rows.run("UPDATE tailrace.streams SET wire = %s WHERE id = %s", wire, stream)
    show(rows)
    _segment(0, 0, ['"0"', '"1"'], [0, 1])(rows, stream)

    async def v2(store: ArchiveStore) -> list[int]:
        events = read_v2(
            await store.v2_stream("run_1", "ai"), 4, LONG_S, Timing(), lambda: 0, random.Random(), ahead=100
        )
        assert (await anext(events)).startswith(b"event: ping")
        await write_both()
        found: list[int] = []
        async for event in events:
            found += map(int, re.findall(rb'"seq_num":(\d+),"timestamp":\d+,"body"', event))
            if found:
                return found
        return found

    async def write_both() -> None:
        _segment(0, 2, ['"2"', '"3"'], [0, 1])(rows, stream)
        await asyncio.sleep(EVERY_S * 2)
        _segment(0, 4, ['"4"', '"5"'], [0, 1])(rows, stream)

    async def v1(store: ArchiveStore) -> list[int]:
        reader = await store.v1_stream("run_1", "ai")
        cursor = V1Id(EPOCH_MS + 4, 0)  # of a line that upstream gave out
        waiting = asyncio.create_task(reader.after(cursor, LONG_S))
        await asyncio.sleep(EVERY_S)
        await write_both()
        return [entry.id.seq - V1_SEQ for entry in await waiting]

    async def go() -> None:
        async with archive_of(database_url) as archive:
            store = ArchiveStore(archive, "default")
            assert await (v1 if wire is Wire.V1 else v2)(store) == [4, 5]

    asyncio.run(go())


def test_a_stream_that_upstream_trimmed_is_whole_here(world: World, served: RunningServer) -> None:
    place = world.place(Wire.V2)
    place.write("ai", [str(number) for number in range(20)])
    place.archive("ai", sealed=True)
    shown(world, place)
    whole = read(world.server, place)
    place.store.trim_records(place.run_id, "ai", 9)
    assert read(world.server, place) == whole[9:]
    assert read(served, place) == whole


def test_what_upstream_had_trimmed_is_a_jump_of_the_numbers_here_too(world: World, served: RunningServer) -> None:
    place = world.place(Wire.V2)
    place.write("ai", [str(number) for number in range(20)])
    place.store.trim_records(place.run_id, "ai", 9)
    place.archive("ai", sealed=True)
    shown(world, place)
    assert read(served, place) == read(world.server, place)


# --- seams


class Step(NamedTuple):
    """A commit, and what a reader gets of it: number and text of each record."""

    write: Callable[[Rows, int], None]
    gives: list[tuple[int, bytes]]


def steps_of(dice: random.Random) -> list[Step]:
    """Commits as the Writer makes them: with and without the stream's row, holes, quarantine and generations."""
    steps: list[Step] = []
    generation, index, start = 0, 0, 0
    for _ in range(14):
        writes: list[Callable[[Rows, int], None]] = []
        gives: list[tuple[int, bytes]] = []
        follows = False
        for kind in dice.choices(("chunks", "offsets", "trimmed", "odd", "large", "anew"), (8, 2, 1, 1, 1, 1), k=2):
            texts = [f'"{start + index + at}"' for at in range(dice.randint(1, 4))]
            if kind == "large":
                texts = [f'"{"x" * 70_000}"']
            if kind in ("chunks", "large", "offsets"):
                gap = 2 if kind == "offsets" else 1
                offsets = [at * gap for at in range(len(texts))]
                writes.append(_segment(generation, index, texts, offsets))
                gives += [(start + index + at, text.encode()) for at, text in zip(offsets, texts, strict=True)]
                index += offsets[-1] + 1
                follows = follows or kind == "offsets"
            elif kind == "trimmed":
                writes.append(_hole(generation, index, index + 4, "trimmed"))
                index, follows = index + 5, True
            elif kind == "odd":
                writes.append(_quarantined(generation, index))
                gives.append((start + index, b"oops"))
                index, follows = index + 1, True
            elif index:
                writes.append(_hole(generation, index, None, "recreated"))
                generation, index, start, follows = generation + 1, 0, start + index, True
        if follows or dice.random() < 0.3:
            writes.append(_row(generation, index - 1))
        steps.append(Step(_all(writes), gives))
    return steps


def _segment(generation: int, first: int, texts: list[str], offsets: list[int]) -> Callable[[Rows, int], None]:
    def write(rows: Rows, stream: int) -> None:
        unbroken = offsets[-1] == len(texts) - 1
        rows.run(
            """INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data,
                                              emitted_ms, index_offsets, cursor)
               VALUES (%s, %s, %s, %s, %s, %b, %s::bigint[], %s::int[], '{}')""",
            *(stream, generation, first, first + offsets[-1], len(texts), Json(f"[{','.join(texts)}]")),
            *([EPOCH_MS + first] * len(texts), None if unbroken else offsets),
        )

    return write


def _hole(generation: int, first: int, last: int | None, reason: str) -> Callable[[Rows, int], None]:
    return lambda rows, stream: rows.hole(stream, first, last, reason, generation)


def _quarantined(generation: int, index: int) -> Callable[[Rows, int], None]:
    def write(rows: Rows, stream: int) -> None:
        rows.hole(stream, index, index, "quarantined", generation)
        rows.quarantine(stream, index, b"oops", generation)

    return write


def _row(generation: int, last: int) -> Callable[[Rows, int], None]:
    return lambda rows, stream: rows.settle(stream, last, generation=generation)


def _all(writes: list[Callable[[Rows, int], None]]) -> Callable[[Rows, int], None]:
    def write(rows: Rows, stream: int) -> None:
        with rows.connection.transaction():
            for each in writes:
                each(rows, stream)

    return write


def as_given(number: int, text: bytes) -> tuple[int, bytes]:
    """What a v2 reader gets for it."""
    return number, text if text == b"oops" else b'{"data":%b,"id":"%b"}' % (text, body_id(number).encode())


async def read_v2_from(store: ArchiveStore, number: int, upto: int) -> list[tuple[int, bytes]]:
    stream = await store.v2_stream("run_1", "ai")
    found: list[tuple[int, bytes]] = []
    while number <= upto:
        page = await stream.since(number, LONG_S)
        assert page.records, "nothing came"
        assert [record.seq_num for record in page.records] == sorted({record.seq_num for record in page.records})
        found += [(record.seq_num, record.body) for record in page.records]
        number = found[-1][0] + 1
        assert page.tail.seq_num >= number
    return found


async def read_v1_from(store: ArchiveStore, cursor: V1Id, upto: int) -> list[tuple[int, bytes]]:
    stream = await store.v1_stream("run_1", "ai")
    found: list[tuple[int, bytes]] = []
    while not found or found[-1][0] < upto:
        entries = await stream.after(cursor, LONG_S)
        assert entries, "nothing came"
        found += [(entry.id.seq - V1_SEQ, entry.data) for entry in entries]
        cursor = entries[-1].id
    return found


@pytest.mark.parametrize("wire", list(Wire), ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_no_seam_loses_or_doubles_anything(rows: Rows, database_url: str, wire: Wire, seed: int) -> None:
    """Readers from every place begin after every commit, and each gets all that is to come, once, in order."""
    dice = random.Random(seed)
    steps = steps_of(dice)
    expected = [each for step in steps for each in step.gives]
    last = expected[-1][0]
    stream = rows.stream()
    rows.run("UPDATE tailrace.streams SET wire = %s WHERE id = %s", wire, stream)
    show(rows)

    async def go() -> None:
        async with archive_of(database_url) as archive:
            store = ArchiveStore(archive, "default")
            readers: list[tuple[int, asyncio.Task[list[tuple[int, bytes]]]]] = []
            given: list[tuple[int, bytes]] = []
            for step in steps:
                starts = range(given[-1][0] + 2) if given else (0,)
                for number in dice.sample(list(starts), min(len(starts), 6)):
                    if number > last:
                        continue
                    if wire is Wire.V2:
                        reading = read_v2_from(store, number, last)
                    else:
                        cursor = V1Id(EPOCH_MS, V1_SEQ + number - 1) if number else BEGINNING
                        reading = read_v1_from(store, cursor, last)
                    readers.append((number, asyncio.create_task(reading)))
                await asyncio.sleep(dice.choice((0, 0, EVERY_S / 2, EVERY_S * 1.2)))
                await asyncio.to_thread(step.write, rows, stream)
                given += step.gives
            for number, task in readers:
                found = await asyncio.wait_for(task, LONG_S)
                wanted = [each for each in expected if each[0] >= number]
                if wire is Wire.V2:
                    assert found == [as_given(*each) for each in wanted]
                else:
                    assert found == [(at, text + b"\n") for at, text in wanted]

    asyncio.run(go())


def test_what_is_more_than_a_segment_is_shown_as_soon(
    rows: Rows, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holes, quarantine and a new generation come with a segment, which tells of them: nobody waits for the rows."""
    monkeypatch.setattr(follower, "ROWS_EVERY_S", 10 * LONG_S)
    stream = rows.whole_stream(["0"])
    rows.run("UPDATE tailrace.streams SET wire = 'v2' WHERE id = %s", stream)
    show(rows)
    steps = [
        ([_hole(0, 1, 4, "trimmed"), _segment(0, 5, ["5"], [0]), _row(0, 5)], [5]),
        ([_quarantined(0, 6), _segment(0, 7, ["7"], [0]), _row(0, 7)], [6, 7]),
        ([_hole(0, 8, None, "recreated"), _segment(1, 0, ["8"], [0]), _row(1, 0)], [8]),
        ([_segment(1, 1, ["9", "11"], [0, 2]), _hole(1, 2, 2, "command"), _row(1, 3)], [9, 11]),
    ]

    async def go() -> None:
        async with archive_of(database_url) as archive:
            reader = await ArchiveStore(archive, "default").v2_stream("run_1", "ai")
            number = 1
            for writes, wanted in steps:
                waiting = asyncio.create_task(reader.since(number, LONG_S))
                await asyncio.sleep(EVERY_S)
                _all(writes)(rows, stream)
                found = [record.seq_num for record in (await waiting).records]
                while len(found) < len(wanted):
                    found += [record.seq_num for record in (await reader.since(found[-1] + 1, LONG_S)).records]
                assert found == wanted
                number = found[-1] + 1

    asyncio.run(go())


def test_what_commits_late_is_not_passed_over(rows: Rows, database_url: str) -> None:
    """A transaction that began before others and ends after them, and one that stays open all the time."""
    first, second = rows.stream(key="ai"), rows.stream(key="other")
    rows.run("UPDATE tailrace.streams SET wire = 'v2'")
    show(rows)
    late, idle = Rows(database_url), Rows(database_url)

    async def go() -> None:
        async with archive_of(database_url) as archive:
            store = ArchiveStore(archive, "default")
            one, other = await store.v2_stream("run_1", "ai"), await store.v2_stream("run_1", "other")
            for number in range(5):
                late.connection.autocommit = False
                _segment(0, number, [f'"late {number}"'], [0])(late, second)
                _segment(0, number, [f'"{number}"'], [0])(rows, first)
                assert [each.seq_num for each in (await one.since(number, LONG_S)).records] == [number]
                assert not (await other.since(number, EVERY_S * 2)).records
                late.connection.commit()
                assert [each.seq_num for each in (await other.since(number, LONG_S)).records] == [number]

    with idle.connection.transaction(), late.connection:
        idle.run("SELECT pg_current_xact_id()")
        asyncio.run(go())
    idle.connection.close()


def test_many_readers_ask_no_more_than_one(rows: Rows, database_url: str) -> None:
    """Two hundred readers wait for a second: the database is asked as often as its one follower looks."""
    stream = rows.whole_stream(["1", "2"])
    rows.run("UPDATE tailrace.streams SET wire = 'v2' WHERE id = %s", stream)
    show(rows)

    async def go() -> None:
        async with archive_of(database_url) as archive:
            asked: list[str] = []
            sa.event.listen(archive.engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
            store = ArchiveStore(archive, "default")
            readers = [await store.v2_stream("run_1", "ai") for _ in range(200)]
            for each in readers:
                assert len((await each.since(0, LONG_S)).records) == 2
            loop = asyncio.get_running_loop()
            asked.clear()
            began = loop.time()
            waiting = [asyncio.create_task(each.since(2, LONG_S)) for each in readers]
            await asyncio.sleep(1.0)
            looks = (loop.time() - began) / EVERY_S + 1
            assert 0 < len(asked) <= 2 * looks
            _segment(0, 2, ['"3"'], [0])(rows, stream)
            for page in await asyncio.gather(*waiting):
                assert [record.seq_num for record in page.records] == [2]

    asyncio.run(go())


def test_readers_that_lag_behind_read_the_archive(rows: Rows, database_url: str) -> None:
    """Whoever comes back after what was kept for followers is gone misses nothing."""
    stream = rows.stream()
    rows.run("UPDATE tailrace.streams SET wire = 'v2' WHERE id = %s", stream)
    show(rows)

    async def go() -> None:
        async with archive_of(database_url) as archive:
            store = ArchiveStore(archive, "default")
            quick, slow = await store.v2_stream("run_1", "ai"), await store.v2_stream("run_1", "ai")
            for number in range(12):
                _segment(0, number, [f'"{"y" * 60_000}"'], [0])(rows, stream)
                assert [each.seq_num for each in (await quick.since(number, LONG_S)).records] == [number]
            (followed,) = archive.follower._followed.values()
            assert followed.kept_from > 0, "all of it is at hand still"
            found: list[int] = []
            while len(found) < 12:
                found += [each.seq_num for each in (await slow.since(len(found), LONG_S)).records]
            assert found == list(range(12))

    asyncio.run(go())


def test_whoever_waits_goes_on_when_the_database_is_back(rows: Rows, database_url: str) -> None:
    """What was committed meanwhile comes too, once."""
    stream = rows.whole_stream(["1"])
    rows.run("UPDATE tailrace.streams SET wire = 'v2' WHERE id = %s", stream)
    show(rows)
    ours = "FROM pg_stat_activity WHERE application_name = 'tailrace serve' AND datname = current_database()"

    async def go() -> None:
        async with archive_of(database_url) as archive:
            store = ArchiveStore(archive, "default")
            reader = await store.v2_stream("run_1", "ai")
            assert len((await reader.since(0, LONG_S)).records) == 1
            waiting = asyncio.create_task(reader.since(1, LONG_S))
            rows.rows(f"SELECT pg_terminate_backend(pid) {ours}")
            _segment(0, 1, ['"meanwhile"'], [0])(rows, stream)
            found = [record.seq_num for record in (await waiting).records]
            _segment(0, 2, ['"after"'], [0])(rows, stream)
            while len(found) < 2:
                found += [record.seq_num for record in (await reader.since(found[-1] + 1, LONG_S)).records]
            assert found == [1, 2]

    asyncio.run(go())


def test_a_reader_holds_a_small_part_however_much_there_is(rows: Rows, database_url: str) -> None:
    """Of what is stored and of what comes while it waits; a larger chunk comes alone."""
    texts = [f'"{"z" * 50_000}"', f'"{"z" * 300_000}"', *[f'"{"z" * 1_000}"'] * 400]
    stream = rows.stream()
    rows.run("UPDATE tailrace.streams SET wire = 'v2' WHERE id = %s", stream)
    show(rows)

    async def go() -> None:
        async with archive_of(database_url) as archive:
            store = ArchiveStore(archive, "default")
            live = await store.v2_stream("run_1", "ai")
            _segment(0, 0, texts, list(range(len(texts))))(rows, stream)
            for first in range(len(texts), len(texts) + 400, 50):
                _segment(0, first, texts[2:52], list(range(50)))(rows, stream)
            for reader in (live, await store.v2_stream("run_1", "ai")):
                found: list[int] = []
                while len(found) < len(texts) + 400:
                    records = (await reader.since(len(found), LONG_S)).records
                    assert sum(record.metered for record in records[:-1]) <= PART_BYTES
                    found += [record.seq_num for record in records]
                assert found == list(range(len(texts) + 400))

    asyncio.run(go())


# --- streams that come and go


def test_a_stream_that_is_found_later_is_read_then(rows: Rows, database_url: str) -> None:
    rows.stream(key="first")
    show(rows)

    async def go() -> None:
        async with archive_of(database_url) as archive:
            stream = await ArchiveStore(archive, "default").v2_stream("run_1", "ai")
            assert (await stream.tail()).seq_num == 0
            waiting = asyncio.create_task(stream.since(0, LONG_S))
            await asyncio.sleep(0)
            made = rows.stream()
            rows.run("UPDATE tailrace.streams SET wire = 'v2' WHERE id = %s", made)
            _segment(0, 0, ['"x"'], [0])(rows, made)
            assert [record.seq_num for record in (await waiting).records] == [0]

    asyncio.run(go())


def test_whoever_comes_before_a_run_was_read_waits_for_its_wire(rows: Rows, database_url: str) -> None:
    """Which of the two formats it is shows the first answer of upstream; of a run that is over and has none, nothing."""
    rows.stream()
    show(rows)

    async def go() -> None:
        async with archive_of(database_url) as archive:
            store = ArchiveStore(archive, "default")
            run = await store.run("run_1")
            assert run is not None
            waiting = asyncio.create_task(store.wire(run, "ai"))
            await asyncio.sleep(EVERY_S)
            assert not waiting.done()
            rows.run("UPDATE tailrace.streams SET wire = 'v1'")
            assert await waiting is Wire.V1
            rows.run("UPDATE tailrace.streams SET wire = NULL")
            rows.run("UPDATE tailrace.runs SET status = 'COMPLETED', terminal_at = now(), finished_at = now()")
            assert await store.wire(run, "ai") is Wire.V2

    asyncio.run(go())


def test_whoever_reads_a_forgotten_stream_is_cut_off(rows: Rows, database_url: str) -> None:
    """On v2 as upstream tells of a stream that was deleted; v1 has no word for it, and the body breaks off."""
    stream = rows.whole_stream(["1"])
    rows.run("UPDATE tailrace.streams SET wire = 'v2' WHERE id = %s", stream)
    show(rows)

    async def go() -> None:
        async with archive_of(database_url) as archive:
            store = ArchiveStore(archive, "default")
            reader, older = await store.v2_stream("run_1", "ai"), await store.v1_stream("run_1", "ai")
            assert (await reader.since(0, 0)).records
            (entry,) = await older.after(BEGINNING, 0)
            waiting = asyncio.create_task(reader.since(1, LONG_S))
            waiting_too = asyncio.create_task(older.after(entry.id, LONG_S))
            await asyncio.sleep(0)
            rows.rows("SELECT tailrace.forget_run('default', 'run_1')")
            with pytest.raises(StreamRemoved):
                await waiting
            with pytest.raises(BrokenOff):
                await waiting_too
            assert await store.run("run_1") is None
            assert await store.is_forgotten("run_1")
            assert not archive._parts

    asyncio.run(go())


# --- runs


def test_a_run_is_shown_as_upstream_has_it(rows: Rows, database_url: str) -> None:
    rows.whole_stream(["1"], key="b")
    rows.whole_stream(["1"], key="a")
    store_of: Callable[[Archive], ArchiveStore] = lambda archive: ArchiveStore(archive, "default")  # noqa: E731

    async def go() -> None:
        async with archive_of(database_url) as archive:
            store = store_of(archive)
            assert await store.run("run_1") is None, "upstream has not shown it yet"
            rows.run(
                """UPDATE tailrace.runs SET status = 'QUEUED', task_identifier = 'chat', tags = '{y,x}',
                   created_at = '2026-11-01T09:00:00.123Z', keys_read_at = '2026-11-01T09:00:01Z'"""
            )
            run = await store.run("run_1")
            assert run is not None
            assert (run.status, run.task_identifier, run.tags, run.stream_keys) == (
                "PENDING",
                "chat",
                ("y", "x"),
                ("b", "a"),
            )
            assert run.created_at == datetime(2026, 11, 1, 9, 0, 0, 123_000, UTC)
            changing = asyncio.create_task(store.run_changed("run_1", run.updated_at, LONG_S))
            await asyncio.sleep(0)
            rows.run("UPDATE tailrace.runs SET status = 'FAILED', keys_read_at = now(), finished_at = now()")
            changed = await changing
            assert changed is not None
            assert changed.status == "COMPLETED_WITH_ERRORS"
            assert changed.updated_at > run.updated_at
            assert await store.run_changed("run_1", changed.updated_at, 0.01) is None
            assert await ArchiveStore(archive, "another").run("run_1") is None

    asyncio.run(go())


def test_whoever_waits_for_any_run_is_told_of_those_that_changed(rows: Rows, database_url: str) -> None:
    for number in range(3):
        rows.stream(f"run_{number}")
        show(rows, f"run_{number}")
    rows.run("UPDATE tailrace.runs SET keys_read_at = now() - interval '1 hour', created_at = now() - interval '1 day'")

    async def go() -> None:
        async with archive_of(database_url) as archive:
            store = ArchiveStore(archive, "default")
            since = datetime.now(UTC) - timedelta(minutes=30)
            assert await store.runs_changed(since, 0.01) == []
            waiting = [asyncio.create_task(store.runs_changed(since, LONG_S)) for _ in range(3)]
            while len(archive.run_watch._environments) == 0:
                await asyncio.sleep(0)
            rows.run("UPDATE tailrace.runs SET status = 'COMPLETED', keys_read_at = now() WHERE run_id = 'run_1'")
            for found in await asyncio.gather(*waiting):
                assert [(run.run_id, run.status) for run in found] == [("run_1", "COMPLETED_SUCCESSFULLY")]
            assert [run.run_id for run in await store.runs_changed(since, 0)] == ["run_1"]
            assert not archive.run_watch._environments

    asyncio.run(go())


def test_runs_are_found_by_the_rule_of_stores_in_memory(rows: Rows, database_url: str) -> None:
    """Whatever is asked, and wherever a page is cut; several runs have the same time."""
    dice = random.Random(1)
    began = datetime(2026, 11, 1, tzinfo=UTC)
    for number in range(40):
        rows.run(
            """INSERT INTO tailrace.runs (environment_id, run_id, status, task_identifier, tags, created_at)
               VALUES ((SELECT id FROM tailrace.environments), %s, %s, %s, %s, %s)""",
            *(f"run_{dice.choice('aBzÄ_')}{number}", dice.choice(("QUEUED", "FAILED")), dice.choice("pq")),
            *(dice.sample(["x", "y", "z"], dice.randint(0, 3)), began + timedelta(seconds=dice.randint(0, 8))),
        )

    async def go() -> None:
        async with archive_of(database_url) as archive:
            store = ArchiveStore(archive, "default")
            everything = await store.runs(RunQuery())
            assert len(everything.runs) == 40
            for _ in range(120):
                query = any_query(dice, began, list(everything.runs))
                assert await store.runs(query) == find_runs(everything.runs, query), query

    asyncio.run(go())


def any_query(dice: random.Random, began: datetime, runs: list[Run]) -> RunQuery:
    def maybe(value: Any) -> Any:
        return value if dice.random() < 0.3 else None

    place: RunPlace = place_of(dice.choice(runs))
    way = dice.choice(("older_than", "newer_than", None))
    return RunQuery(
        since=maybe(began + timedelta(seconds=dice.randint(0, 8))),
        until=maybe(began + timedelta(seconds=dice.randint(0, 8))),
        tasks=maybe(frozenset("p")),
        any_tag=maybe(frozenset(dice.sample(["x", "y", "no"], 2))),
        all_tags=maybe(frozenset(dice.sample(["x", "y"], dice.randint(1, 2)))) or frozenset(),
        statuses=maybe(frozenset({"FAILED"})),
        limit=dice.choice((1, 3, 10, None)),
        **({way: place} if way else {}),
    )
