"""Asking again for a sealed run reads again; what was known stays known when upstream has forgotten."""

from __future__ import annotations

import threading

import psycopg
import pytest

from tailrace.model import Wire
from tests.ingestion import Ingestion, ingesting, numbered, store_with
from tests.upstream import LiveStore

RUN = "run_1"
DAY = 86_400.0
REQUEST = "SELECT tailrace.request_ingest(%s, p_streams => %s, p_priority => %s)"


def sealed(ingestion: Ingestion, *runs: str) -> None:
    for run in runs or (RUN,):
        ingestion.request(run)
    ingestion.until_sealed()


def checked(ingestion: Ingestion) -> None:
    """Let the late check be made that finds nothing."""
    ingestion.pass_time(6 * 3_600)
    assert ingestion.runtime.environments.default.check_late(10) == 1
    assert ingestion.value("SELECT late_check_at = sealed_at FROM tailrace.runs")


@pytest.mark.parametrize("wire", list(Wire))
def test_what_was_written_after_the_late_check_is_archived_when_somebody_asks(wire: Wire, database_url: str) -> None:
    store = store_with(wire, numbered(3))
    with ingesting(database_url, store) as (ingestion, _):
        sealed(ingestion)
        checked(ingestion)
        store.append_chunk(RUN, "ai", '"latest"')
        store.append_chunk(RUN, "new key", '"new"')
        ingestion.request(RUN)
        assert (ingestion.state(RUN), ingestion.verdict(RUN)) == ("active", "open")
        ingestion.until_sealed()
        assert ingestion.texts(RUN)[3:] == [b'"latest"']
        assert ingestion.texts(RUN, "new key") == [b'"new"']
        assert ingestion.verdict(RUN) == "complete"
        events = [event for (event,) in ingestion.rows("SELECT event FROM tailrace.outbox ORDER BY id")]
        assert events == ["sealed", "reopened", "sealed"]
        # And it is looked at once more, as one that is sealed for the first time.
        checked(ingestion)


@pytest.mark.parametrize("wire", list(Wire))
def test_asking_again_asks_upstream_even_if_there_is_nothing_new(wire: Wire, database_url: str) -> None:
    with ingesting(database_url, store_with(wire, numbered(3))) as (ingestion, server):
        sealed(ingestion)
        asked = len(server.traffic.requests("/realtime/v1/streams/"))
        before = ingestion.value("SELECT sealed_at FROM tailrace.runs")
        ingestion.request(RUN)
        ingestion.until_sealed()
        assert len(server.traffic.requests("/realtime/v1/streams/")) > asked
        assert ingestion.value("SELECT sealed_at > %s FROM tailrace.runs", before)
        assert ingestion.texts(RUN) == [text.encode() for text in numbered(3)]
        assert ingestion.verdict(RUN) == "complete"
        assert ingestion.rows("SELECT known_verdict, known_rows FROM tailrace.streams") == [(None, None)]


def test_only_the_streams_that_are_asked_for_are_read_again(database_url: str) -> None:
    store = store_with(Wire.V2, ['"a"'], key="a", over=False)
    store.append_chunk(RUN, "b", '"b"')
    store.finish_run(RUN)
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request(RUN, "a", "b")
        ingestion.until_sealed()
        ingestion.request(RUN, "b")
        assert (ingestion.state(RUN, "a"), ingestion.state(RUN, "b")) == ("sealed", "active")


def test_asking_for_an_open_run_changes_nothing(database_url: str) -> None:
    """One stream of it is sealed already, and stays so."""
    store = store_with(Wire.V2, numbered(3))
    with ingesting(database_url, store) as (ingestion, _):
        sealed(ingestion)
        ingestion.run("UPDATE tailrace.runs SET state = 'watched'")
        ingestion.request(RUN)
        assert ingestion.state(RUN) == "sealed"


def test_a_backfill_leaves_what_is_sealed(database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, server):
        sealed(ingestion)
        checked(ingestion)
        asked = len(server.traffic.requests("/realtime/v1/streams/"))
        ingestion.rows(REQUEST, RUN, None, 1)
        assert ingestion.rows("SELECT * FROM tailrace.request_listed('default', %s)", f'[{{"run_id": "{RUN}"}}]') == []
        ingestion.until_sealed()
        assert len(server.traffic.requests("/realtime/v1/streams/")) == asked
        assert ingestion.value("SELECT late_check_at < sealed_at FROM tailrace.runs")


def test_two_who_ask_at_once_open_it_once(database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, _):
        sealed(ingestion)
        with psycopg.connect(database_url) as one, psycopg.connect(database_url) as two:
            one.execute(REQUEST, (RUN, None, 0))
            other = threading.Thread(target=lambda: two.execute(REQUEST, (RUN, None, 0)))
            other.start()
            while not ingestion.value(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s", two.info.backend_pid
            ):
                assert other.is_alive()
            one.execute("UPDATE tailrace.streams SET state = 'sealed', verdict = 'complete'")  # read meanwhile
            one.commit()
            other.join(10)
            two.commit()
        assert (ingestion.value("SELECT state FROM tailrace.runs"), ingestion.state(RUN)) == ("watched", "sealed")
        assert ingestion.value("SELECT count(*) FROM tailrace.outbox WHERE event = 'reopened'") == 1
        ingestion.until_sealed()


# --- upstream has forgotten


def forget(store: LiveStore, how: str) -> None:
    if how == "run":
        store.delete_run(RUN)
    else:
        store.delete_stream(RUN, "ai")


@pytest.mark.parametrize(
    ("wire", "how"), [(Wire.V1, "stream"), (Wire.V2, "stream"), (Wire.V1, "run"), (Wire.V2, "run")]
)
def test_what_upstream_has_forgotten_keeps_its_verdict(wire: Wire, how: str, database_url: str) -> None:
    """v1: as if nothing had ever been written. v2: 404."""
    store = store_with(wire, numbered(3))
    store._create_on_read = False
    with ingesting(database_url, store, unknown_run_seconds=120.0) as (ingestion, _):
        sealed(ingestion)
        ingestion.pass_time(2 * DAY)
        forget(store, how)
        ingestion.request(RUN)
        assert ingestion.verdict(RUN) == "open"
        ingestion.until_sealed(turns=40)
        assert (ingestion.state(RUN), ingestion.verdict(RUN)) == ("sealed", "complete")
        assert ingestion.value("SELECT verdict FROM tailrace.run_overview") == "complete"
        assert ingestion.texts(RUN) == [text.encode() for text in numbered(3)]
        assert ingestion.holes() == []


def test_one_404_is_not_believed_of_a_run_that_was_known(database_url: str) -> None:
    store = store_with(Wire.V2, numbered(3))
    with ingesting(database_url, store) as (ingestion, server):
        sealed(ingestion)
        store.append_chunk(RUN, "new key", '"new"')
        ingestion.pass_time(DAY)
        ingestion.request(RUN)
        server.faults.feed(RUN).answer(404)
        ingestion.watch()
        assert ingestion.value("SELECT state FROM tailrace.runs") == "watched"
        ingestion.until_sealed()
        assert ingestion.texts(RUN, "new key") == [b'"new"']


def test_what_is_lost_by_then_is_told(database_url: str) -> None:
    """Something new came, and not all of it: the earlier verdict says nothing of that."""
    store = store_with(Wire.V2, numbered(3))
    with ingesting(database_url, store) as (ingestion, _):
        sealed(ingestion)
        store.append_chunks(RUN, "ai", ['"3"', '"4"', '"5"'])
        store.trim_records(RUN, "ai", 5)
        ingestion.request(RUN)
        ingestion.until_sealed()
        assert ingestion.verdict(RUN) == "complete_with_gaps"
        assert ingestion.texts(RUN)[3:] == [b'"5"']


@pytest.mark.parametrize(
    ("known", "says", "news", "expected"),
    [
        ("complete", ("sealed", "possibly_truncated"), 0, ("sealed", "complete")),
        ("complete", ("sealed", "possibly_truncated"), 1, ("sealed", "possibly_truncated")),
        ("complete", ("failed", "possibly_truncated"), 0, ("sealed", "complete")),
        ("complete", ("failed", "possibly_truncated"), 1, ("failed", "possibly_truncated")),
        ("complete", ("failed", "failed"), 0, ("failed", "complete")),
        ("complete", ("failed", "failed"), 1, ("failed", "failed")),
        ("complete_with_gaps", ("sealed", "possibly_truncated"), 0, ("sealed", "complete_with_gaps")),
        ("possibly_truncated", ("sealed", "complete"), 0, ("sealed", "complete")),
        ("complete", ("sealed", "complete_with_gaps"), 0, ("sealed", "complete_with_gaps")),
    ],
)
def test_the_verdict_that_was_known_stays_if_nothing_new_came(
    known: str, says: tuple[str, str], news: int, expected: tuple[str, str], database_url: str
) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, _):
        sealed(ingestion)
        ingestion.run(f"UPDATE tailrace.streams SET verdict = '{known}', doubt = 'old'")
        ingestion.request(RUN)
        ingestion.run(
            f"""UPDATE tailrace.streams SET state = '{says[0]}', verdict = '{says[1]}', doubt = 'unserved',
                hole_count = hole_count + {news}"""
        )
        assert (ingestion.state(RUN), ingestion.verdict(RUN)) == expected
        stays = expected != says and expected[1] == known
        assert ingestion.value("SELECT doubt FROM tailrace.streams") == ("old" if stays else "unserved")
        ingestion.run(f"UPDATE tailrace.streams SET hole_count = hole_count - {news}")
