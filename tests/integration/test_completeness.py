"""When a stream is called complete: only on proof, and never too early (protocol §3)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from tailrace.model import Wire
from tailrace.serve import FeedFormat
from tests.ingestion import Ingestion, ingesting, numbered, store_with
from tests.upstream import LiveStore

DAY = timedelta(days=1)
RUN = "run_1"


def born(wire: Wire, ago: timedelta, *, over: bool = False) -> LiveStore:
    """A run that was triggered some time ago."""
    store = LiveStore()
    store.create_run(RUN, wire, created_at=datetime.now(UTC) - ago)
    if over:
        store.finish_run(RUN, finished_at=datetime.now(UTC) - ago / 2)
    return store


# --- verdicts


def whole(store: LiveStore) -> None:
    store.append_chunks(RUN, "ai", numbered(5))


def much(store: LiveStore) -> None:
    store.append_chunks(RUN, "ai", numbered(950))


def trimmed(store: LiveStore) -> None:
    for _ in range(4):
        store.append_chunks(RUN, "ai", numbered(600))
    if store._runs[RUN].wire is Wire.V2:
        store.trim_records(RUN, "ai", 1_000)


def opened(store: LiveStore) -> None:
    store.open_stream(RUN, "ai")


def expired(store: LiveStore) -> None:
    store.append_chunks(RUN, "ai", numbered(5))
    store.expire_stream(RUN, "ai")


def written_again(store: LiveStore) -> None:
    expired(store)
    store.append_chunks(RUN, "ai", numbered(2))


MINUTE = timedelta(minutes=1)
VERDICTS: list[tuple[Wire, Callable[[LiveStore], None], timedelta, str, str | None]] = [
    (Wire.V1, whole, MINUTE, "complete", None),
    (Wire.V1, opened, MINUTE, "complete", None),
    (Wire.V1, much, MINUTE, "possibly_truncated", "before 900 were waiting"),
    (Wire.V1, trimmed, MINUTE, "possibly_truncated", "before 900 were waiting"),
    (Wire.V1, whole, DAY, "possibly_truncated", "within 23 hours"),
    (Wire.V1, opened, DAY, "possibly_truncated", "within 23 hours"),
    (Wire.V1, expired, DAY, "possibly_truncated", "within 23 hours"),
    (Wire.V1, written_again, DAY, "possibly_truncated", "within 23 hours"),
    (Wire.V2, whole, 5 * DAY, "complete", None),
    (Wire.V2, opened, 5 * DAY, "complete", None),
    (Wire.V2, much, 5 * DAY, "complete", None),
    (Wire.V2, trimmed, 5 * DAY, "complete_with_gaps", "(1 gap)"),
    (Wire.V2, expired, 5 * DAY, "complete_with_gaps", "(1 gap)"),
    (Wire.V2, written_again, 5 * DAY, "complete_with_gaps", "(1 gap)"),
]


def reason(ingestion: Ingestion) -> str | None:
    """Why the verdict is what it is, of the only stream; the run says the same of it."""
    ((of_stream, of_run),) = ingestion.rows(
        "SELECT s.verdict_reason, r.verdict_reason"
        " FROM tailrace.stream_stats s JOIN tailrace.run_overview r USING (environment, run_id)"
    )
    assert of_run == (None if of_stream is None else f"ai: {of_stream}")
    return of_stream  # type: ignore[no-any-return]


@pytest.mark.trap(21)
@pytest.mark.trap(22)
@pytest.mark.trap(25)
@pytest.mark.parametrize(("wire", "write", "age", "verdict", "why"), VERDICTS)
def test_a_stream_found_after_its_run(
    wire: Wire, write: Callable[[LiveStore], None], age: timedelta, verdict: str, why: str | None, database_url: str
) -> None:
    store = born(wire, age)
    write(store)
    store.finish_run(RUN, finished_at=datetime.now(UTC) - age / 2)
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.until_sealed()
        assert ingestion.verdict(RUN) == verdict
        assert reason(ingestion) is None if why is None else why in (reason(ingestion) or "")
        kept = store.entries(RUN, "ai") if wire is Wire.V1 else store.records(RUN, "ai")
        assert len(ingestion.texts(RUN)) == len(kept)


def test_a_burst_that_is_followed_from_the_start_is_complete(database_url: str) -> None:
    """5 000 v1 chunks, 100 at a time, each read before the next: upstream never had more than it keeps."""
    store = born(Wire.V1, MINUTE)
    store.open_stream(RUN, "ai")
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.turn()
        for _ in range(15):
            store.append_chunks(RUN, "ai", numbered(100))
            ingestion.turn()
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert len(ingestion.texts(RUN)) == 1_500
        assert ingestion.verdict(RUN) == "complete"


@pytest.mark.trap(21)
def test_a_burst_between_two_looks_is_a_gap(database_url: str) -> None:
    store = born(Wire.V1, MINUTE)
    store.append_chunks(RUN, "ai", numbered(3))
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.turn()
        for _ in range(3):
            store.append_chunks(RUN, "ai", numbered(700))
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert ingestion.holes() == [(0, 3, None, "trimmed")]
        assert ingestion.verdict(RUN) == "complete_with_gaps"


@pytest.mark.trap(21)
def test_a_stream_emptied_after_its_last_line_was_archived_has_no_gap(database_url: str) -> None:
    """``XTRIM`` to nothing, then another worker reads on: what comes follows by its number. Was there more? A doubt."""
    store = born(Wire.V1, MINUTE)
    chunks, at = numbered(250), int(datetime.now(UTC).timestamp() * 1000)
    write = partial(store.append_entry, RUN, "ai")
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        for n in range(200):
            write(chunks[n] + "\n", f"{at}-{n}")
        ingestion.turn()
        store.trim_entries(RUN, "ai", 0)
        assert store.entries(RUN, "ai") == []
        ingestion.restart()
        for n in range(200, 250):
            write(chunks[n] + "\n", f"{at}-{n}")
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert ingestion.texts(RUN) == [chunk.encode() for chunk in chunks]
        assert ingestion.holes() == []
        assert ingestion.verdict(RUN) == "possibly_truncated"
        assert "had that line been there at every reconnect" in (reason(ingestion) or "")


@pytest.mark.trap(21)
def test_a_burst_before_the_first_chunk_that_we_see_is_a_doubt(database_url: str) -> None:
    """The stream was empty when we looked first: that look proves nothing about what came before the next."""
    store = born(Wire.V1, MINUTE)
    store.open_stream(RUN, "ai")
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.turn()
        for _ in range(3):
            store.append_chunks(RUN, "ai", numbered(700))
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert ingestion.verdict(RUN) == "possibly_truncated"


@pytest.mark.trap(25)
def test_a_stream_that_expired_while_nobody_looked_is_a_doubt(database_url: str) -> None:
    """Half of it is held; the fleet was down for two days; what was written then is gone, and nothing says so."""
    store = born(Wire.V1, MINUTE)
    store.append_chunks(RUN, "ai", numbered(3))
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.turn()
        store.append_chunks(RUN, "ai", numbered(3))
        store.expire_stream(RUN, "ai")
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert len(ingestion.texts(RUN)) == 3
        assert ingestion.verdict(RUN) == "possibly_truncated"
        assert "The last sweeps did not bring back the newest chunk" in (reason(ingestion) or "")


def test_a_key_that_appears_late_is_young_however_old_its_run(database_url: str) -> None:
    """A run that waits two days for an approval, watched all the while: its stream can't have expired before."""
    store = born(Wire.V1, 2 * DAY)
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.watch()
        store.append_chunks(RUN, "ai", numbered(3))
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert ingestion.verdict(RUN) == "complete"


def test_a_key_that_was_not_asked_for_before_is_as_old_as_its_run(database_url: str) -> None:
    """It may have been there all the time: nobody looked for it."""
    store = born(Wire.V1, 2 * DAY)
    store.append_chunks(RUN, "log", numbered(1))
    store.append_chunks(RUN, "ai", numbered(3))
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN, "log")
        ingestion.watch()
        ingestion.request(RUN)
        ingestion.watch()
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert ingestion.verdict(RUN) == "possibly_truncated"


# --- the end of a run


@pytest.mark.trap(19)
@pytest.mark.parametrize("feed", list(FeedFormat))
@pytest.mark.parametrize("wire", list(Wire))
def test_a_key_that_appears_at_the_very_end(wire: Wire, feed: FeedFormat, database_url: str) -> None:
    store = born(wire, MINUTE)
    store.append_chunks(RUN, "ai", numbered(2))
    with ingesting(database_url, store, app={"feed": feed}) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.turn()
        store.append_chunks(RUN, "last words", ['"bye"'])
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert ingestion.texts(RUN, "last words") == [b'"bye"']
        assert ingestion.verdict(RUN, "last words") == "complete"


@pytest.mark.trap(16)
@pytest.mark.parametrize("wire", list(Wire))
def test_writers_that_go_on_after_the_end(wire: Wire, database_url: str) -> None:
    """A cancelled run: the status comes first, then more data, then the end, then a child writes on for two minutes."""
    store = born(wire, MINUTE)
    store.append_chunks(RUN, "ai", ['"0"'])
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.turn()
        store.set_status(RUN, "CANCELED")
        for n in range(1, 4):
            store.append_chunk(RUN, "ai", f'"{n}"')
            ingestion.turn()
            assert ingestion.state(RUN) != "sealed"
        store.finish_run(RUN, "CANCELED")
        for n in range(4, 7):
            store.append_chunk(RUN, "ai", f'"{n}"')
            ingestion.turn()
            assert ingestion.state(RUN) != "sealed"
        ingestion.until_sealed()
        assert ingestion.texts(RUN) == [f'"{n}"'.encode() for n in range(7)]
        assert ingestion.verdict(RUN) == "complete"


def test_a_status_without_a_time_is_believed_after_ten_minutes(database_url: str) -> None:
    store = born(Wire.V2, MINUTE)
    store.append_chunks(RUN, "ai", ['"0"'])
    store.set_status(RUN, "CRASHED")
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        for _ in range(8):
            ingestion.turn()
            assert ingestion.state(RUN) != "sealed"
        ingestion.pass_time(200)
        ingestion.until_sealed()
        assert ingestion.verdict(RUN) == "complete"


@pytest.mark.trap(17)
@pytest.mark.trap(18)
@pytest.mark.parametrize("status", ["EXPIRED", "TIMED_OUT", "COMPLETED_WITH_ERRORS", "SYSTEM_FAILURE", "INTERRUPTED"])
def test_every_terminal_status_ends_a_run(status: str, database_url: str) -> None:
    store = born(Wire.V2, MINUTE)
    store.append_chunks(RUN, "ai", ['"0"'])
    store.finish_run(RUN, status)
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.until_sealed()
        assert ingestion.verdict(RUN) == "complete"


@pytest.mark.trap(12)
@pytest.mark.parametrize("wire", list(Wire))
def test_no_chunk_and_no_silence_ends_a_run(wire: Wire, database_url: str) -> None:
    store = born(wire, MINUTE)
    store.append_chunks(RUN, "ai", ['{"type":"finish"}', '"[DONE]"', '"<<CLOSE_STREAM>>"'])
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        for _ in range(5):
            ingestion.turn()
            ingestion.pass_time(7_200)
        assert ingestion.state(RUN) == "parked"
        assert ingestion.verdict(RUN) == "open"


@pytest.mark.trap(20)
@pytest.mark.parametrize("wire", list(Wire))
def test_a_run_that_waits_for_hours_holds_no_connection(wire: Wire, database_url: str) -> None:
    store = born(wire, MINUTE)
    store.append_chunks(RUN, "ai", ['"please approve"'])
    with ingesting(database_url, store) as (ingestion, server):
        ingestion.request(RUN)
        ingestion.turn()
        store.set_status(RUN, "WAITING_TO_RESUME")
        for _ in range(4):
            ingestion.pass_time(3_600)
            ingestion.watch()
            before = len(server.traffic.requests("/realtime/v1/streams/"))
            ingestion.read()
            seen = server.traffic.requests("/realtime/v1/streams/")[before:]
            assert [each.headers["timeout-seconds"] for each in seen] == ["1"]  # one short look
            assert ingestion.state(RUN) == "parked"
            assert server.traffic.wait_until(lambda: server.traffic.streams_read() == 0)
        store.append_chunk(RUN, "ai", '"approved"')
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert ingestion.texts(RUN) == [b'"please approve"', b'"approved"']
        assert ingestion.verdict(RUN) == "complete"


@pytest.mark.trap(32)
@pytest.mark.parametrize("wire", list(Wire))
def test_a_retried_attempt_writes_into_the_same_stream(wire: Wire, database_url: str) -> None:
    """Everything is kept; the text is that of the last attempt."""

    def attempt(text: str) -> list[str]:
        chunk = {"type": "text-delta", "id": "t", "delta": text}
        return [json.dumps(each) for each in ({"type": "start", "messageId": "m"}, chunk, {"type": "finish"})]

    store = born(wire, MINUTE)
    store.append_chunks(RUN, "ai", attempt("Once upon")[:2])
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.turn()
        store.set_status(RUN, "RETRYING_AFTER_FAILURE")
        ingestion.turn()
        store.append_chunks(RUN, "ai", attempt("Once upon a time"))
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert len(ingestion.texts(RUN)) == 5
        assert ingestion.value("SELECT text FROM tailrace.stream_text") == "Once upon a time"


# --- a half line


@pytest.mark.trap(4)
def test_a_half_line_is_no_chunk_while_it_can_grow(database_url: str) -> None:
    store = born(Wire.V1, MINUTE)
    store.append_chunks(RUN, "ai", ['"whole"'])
    store.append_entry(RUN, "ai", '{"half":')
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        for _ in range(3):
            ingestion.turn()
            assert ingestion.texts(RUN) == [b'"whole"']
        store.append_entry(RUN, "ai", "1}\n")
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert ingestion.texts(RUN) == [b'"whole"', b'{"half":1}']
        assert ingestion.quarantine() == []


@pytest.mark.trap(4)
@pytest.mark.parametrize(("line", "chunks"), [('{"half":', 1), ('"all but its line feed"', 2)])
def test_a_line_that_never_ends_is_kept_and_marked(line: str, chunks: int, database_url: str) -> None:
    store = born(Wire.V1, MINUTE)
    store.append_chunks(RUN, "ai", ['"whole"'])
    store.append_entry(RUN, "ai", line)
    store.finish_run(RUN)
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.until_sealed()
        assert len(ingestion.texts(RUN)) == chunks
        assert ingestion.quarantine()[-1] == ("unterminated", line.encode())


# --- the late check


def sealed(ingestion: Ingestion) -> None:
    ingestion.request(RUN)
    ingestion.until_sealed()


@pytest.mark.trap(16)
@pytest.mark.parametrize("wire", list(Wire))
def test_a_late_check_reopens_what_has_more(wire: Wire, database_url: str) -> None:
    store = store_with(wire, numbered(3))
    with ingesting(database_url, store) as (ingestion, _):
        sealed(ingestion)
        store.append_chunk(RUN, "ai", '"late"')
        store.append_chunk(RUN, "late key", '"later"')
        assert ingestion.runtime.environments.default.check_late(10) == 0  # not yet
        ingestion.pass_time(6 * 3_600)
        assert ingestion.runtime.environments.default.check_late(10) == 1
        assert ingestion.value("SELECT state FROM tailrace.runs") == "watched"
        assert (ingestion.state(RUN), ingestion.verdict(RUN)) == ("active", "open")
        ingestion.until_sealed()
        assert ingestion.texts(RUN)[-1] == b'"late"'
        assert ingestion.texts(RUN, "late key") == [b'"later"']
        assert {ingestion.verdict(RUN), ingestion.verdict(RUN, "late key")} == {"complete"}
        # Whoever wrote late may write again; a check that finds nothing is the last.
        store.append_chunk(RUN, "ai", '"latest"')
        ingestion.pass_time(6 * 3_600)
        assert ingestion.runtime.environments.default.check_late(10) == 1
        ingestion.until_sealed()
        assert ingestion.texts(RUN)[-1] == b'"latest"'
        for checked in (1, 0):
            ingestion.pass_time(6 * 3_600)
            assert ingestion.runtime.environments.default.check_late(10) == checked
            assert ingestion.value("SELECT state FROM tailrace.runs") == "sealed"


@pytest.mark.parametrize("wire", list(Wire))
def test_a_late_check_that_finds_nothing_changes_nothing(wire: Wire, database_url: str) -> None:
    with ingesting(database_url, store_with(wire, numbered(3))) as (ingestion, server):
        sealed(ingestion)
        before = ingestion.rows("SELECT * FROM tailrace.streams"), ingestion.rows("SELECT state FROM tailrace.runs")
        told = ingestion.value("SELECT count(*) FROM tailrace.outbox")
        ingestion.pass_time(6 * 3_600)
        moved = ingestion.rows("SELECT * FROM tailrace.streams")
        asked = len(server.traffic.requests("/realtime/v1/streams/"))
        assert ingestion.runtime.environments.default.check_late(10) == 1
        assert ingestion.rows("SELECT * FROM tailrace.streams") == moved
        assert (moved[0][:3], ingestion.rows("SELECT state FROM tailrace.runs")) == (before[0][0][:3], before[1])
        assert len(server.traffic.requests("/realtime/v1/streams/")) == asked + 1
        assert ingestion.value("SELECT count(*) FROM tailrace.outbox") == told
        assert ingestion.runtime.environments.default.check_late(10) == 0


def test_a_late_check_that_fails_is_made_again(database_url: str) -> None:
    store = store_with(Wire.V2, numbered(3))
    with ingesting(database_url, store) as (ingestion, server):
        sealed(ingestion)
        store.append_chunk(RUN, "ai", '"late"')
        ingestion.pass_time(6 * 3_600)
        server.faults.stream(RUN, "ai").answer(503)
        assert ingestion.runtime.environments.default.check_late(10) == 1
        assert ingestion.state(RUN) == "sealed"
        assert ingestion.runtime.environments.default.check_late(10) == 0
        ingestion.pass_time(3_600)
        assert ingestion.runtime.environments.default.check_late(10) == 1
        ingestion.until_sealed()
        assert ingestion.texts(RUN)[-1] == b'"late"'


def test_a_late_check_that_has_failed_for_a_day_is_given_up(database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, server):
        sealed(ingestion)
        server.faults.stream(RUN, "ai").answer(503, times=9)
        late = ingestion.runtime.environments.default
        for hours, looks in ((6, 1), (23, 1), (2, 1), (2, 0)):
            ingestion.pass_time(hours * 3_600)
            assert late.check_late(10) == looks
        assert ingestion.state(RUN) == "sealed"


@pytest.mark.parametrize(("wire", "looks"), [(Wire.V1, 0), (Wire.V2, 1)])
def test_v1_is_not_looked_at_when_its_day_is_over(wire: Wire, looks: int, database_url: str) -> None:
    store = born(wire, MINUTE)
    whole(store)
    store.finish_run(RUN, finished_at=datetime.now(UTC) - DAY)
    with ingesting(database_url, store) as (ingestion, server):
        sealed(ingestion)
        asked = len(server.traffic.requests("/realtime/v1/streams/"))
        ingestion.pass_time(6 * 3_600)
        assert ingestion.runtime.environments.default.check_late(10) == 1
        assert len(server.traffic.requests("/realtime/v1/streams/")) == asked + looks


def test_no_late_check_when_it_is_turned_off(database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3)), late_check_seconds=0) as (ingestion, _):
        sealed(ingestion)
        ingestion.pass_time(30 * 86_400)
        assert ingestion.runtime.environments.default.check_late(10) == 0


def test_two_processes_do_not_check_the_same_run(database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, _):
        sealed(ingestion)
        ingestion.pass_time(6 * 3_600)
        claims = [0, 0]

        def claim(which: int) -> None:
            claims[which] = len(ingestion.runtime.environments.default.late.claim(10, 3_600))

        threads = [threading.Thread(target=claim, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(claims) == [0, 1]


# --- the run feed


@pytest.mark.trap(28)
@pytest.mark.trap(43)
@pytest.mark.parametrize("feed", list(FeedFormat))
def test_keys_are_found_whatever_the_feed_looks_like(feed: FeedFormat, database_url: str) -> None:
    """Keys with quotes, commas and slashes, keys that are listed twice, keys of old runs; and a shape that rotates."""
    store = LiveStore()
    store.create_run(RUN, Wire.V2, metadata='{"$$streams":["old"]}')
    keys = ["ai", 'odd "key", {x} \\ y', "a/b?c#d", "ümläut 😀", "old"]
    for key in keys:
        store.append_chunk(RUN, key, json.dumps(key, ensure_ascii=False))
    store.set_stream_keys(RUN, ["ai", *keys[:-1], "ai"])
    with ingesting(database_url, store, app={"feed": feed, "electric_page_messages": 1}) as (ingestion, server):
        ingestion.request(RUN)
        ingestion.watch()
        if feed is FeedFormat.ELECTRIC:
            server.upstream.feed.rotate(RUN)  # type: ignore[attr-defined]
        store.finish_run(RUN)
        ingestion.until_sealed()
        for key in keys:
            assert ingestion.texts(RUN, key) == [json.dumps(key, ensure_ascii=False).encode()]
        assert ingestion.value("SELECT count(*) FROM tailrace.streams") == len(keys)


@pytest.mark.trap(42)
def test_a_run_that_upstream_does_not_know_yet_is_waited_for(database_url: str) -> None:
    store = LiveStore()
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        ingestion.turn()
        assert ingestion.value("SELECT state FROM tailrace.runs") == "requested"
        store.create_run(RUN, Wire.V2)
        store.append_chunk(RUN, "ai", "1")
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert ingestion.texts(RUN) == [b"1"]


def test_an_unknown_status_ends_nothing(database_url: str) -> None:
    store = born(Wire.V2, MINUTE)
    store.append_chunk(RUN, "ai", "1")
    store.finish_run(RUN, "COMPLETED_SOMEHOW")
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN)
        for _ in range(15):
            ingestion.turn()
        assert ingestion.verdict(RUN) == "open"
        store.finish_run(RUN)
        ingestion.until_sealed()
