"""A run that upstream refuses to show: believed only when it is refused again and again; then its streams are settled."""

from __future__ import annotations

import threading

import pytest

from tailrace.errors import MalformedRecord, NotFound, RequestRefused, SourceUnavailable, StreamStalled, Unauthorized
from tailrace.model import Wire
from tailrace.retry import PATIENCE
from tailrace.service.trouble import refuses
from tests.ingestion import Ingestion, ingesting, numbered, store_with
from tests.upstream import RunningServer

RUN = "run_1"
STATE = "SELECT state, troubled_at IS NOT NULL, refusals, last_error IS NOT NULL FROM tailrace.runs"


def refuse(ingestion: Ingestion, server: RunningServer, times: int, status: int = 400) -> None:
    """Look at the run so often, and have it refused each time."""
    for _ in range(times):
        server.faults.feed(RUN).answer(status)
        ingestion.watch()


def long_ago(ingestion: Ingestion) -> None:
    ingestion.run(f"UPDATE tailrace.runs SET troubled_at = troubled_at - interval '{PATIENCE.over_s} seconds'")


@pytest.mark.parametrize("status", [400, 402, 410, 422, 451])
def test_one_refusal_fails_no_run(status: int, database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, server):
        ingestion.request(RUN)
        refuse(ingestion, server, 1, status)
        assert ingestion.rows(STATE) == [("requested", True, 1, True)]
        ingestion.watch()
        assert ingestion.rows(STATE) == [("watched", False, 0, False)]
        refuse(ingestion, server, 1, status)
        ingestion.until_sealed()
        assert len(ingestion.texts(RUN)) == 3


def test_a_refusal_is_believed_after_many_over_ten_minutes(database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3), over=False)) as (ingestion, server):
        ingestion.request(RUN)
        ingestion.watch()
        refuse(ingestion, server, PATIENCE.attempts + 3)
        assert ingestion.value("SELECT state FROM tailrace.runs") == "watched", "all of them within a minute"
        long_ago(ingestion)
        refuse(ingestion, server, 1)
        assert ingestion.value("SELECT state FROM tailrace.runs") == "failed"
        assert (ingestion.state(RUN), ingestion.verdict(RUN)) == ("failed", "failed")
        said = ingestion.value("SELECT last_error FROM tailrace.runs")
        assert "refused 24 times in 60" in said
        assert ingestion.value("SELECT last_error FROM tailrace.streams") == said


def test_few_refusals_are_not_believed_however_long_ago_the_first_was(database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, server):
        ingestion.request(RUN)
        refuse(ingestion, server, PATIENCE.attempts - 2)
        long_ago(ingestion)
        refuse(ingestion, server, 1)
        assert ingestion.value("SELECT state FROM tailrace.runs") == "requested"
        refuse(ingestion, server, 1)
        assert ingestion.value("SELECT state FROM tailrace.runs") == "failed"


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_says_later_is_no_refusal(status: int, database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, server):
        ingestion.request(RUN)
        refuse(ingestion, server, PATIENCE.attempts + 3, status)
        ingestion.run("UPDATE tailrace.runs SET troubled_at = now() - interval '1 day'")
        refuse(ingestion, server, 1, status)
        refuse(ingestion, server, 1, 400)
        assert ingestion.rows(STATE) == [("requested", True, 1, True)]


def test_asking_again_begins_the_count_anew(database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, server):
        ingestion.request(RUN)
        refuse(ingestion, server, PATIENCE.attempts)
        long_ago(ingestion)
        refuse(ingestion, server, 1)
        assert ingestion.value("SELECT state FROM tailrace.runs") == "failed"
        ingestion.request(RUN)
        assert ingestion.rows(STATE) == [("requested", False, 0, False)]
        ingestion.until_sealed()
        assert len(ingestion.texts(RUN)) == 3


def test_a_feed_of_many_runs_that_is_refused_fails_none(database_url: str) -> None:
    store = store_with(Wire.V2, numbered(3))
    for number in range(2, 6):
        store.create_run(f"run_{number}")
    with ingesting(database_url, store) as (ingestion, server):
        for number in range(1, 6):
            ingestion.request(f"run_{number}")
        for _ in range(PATIENCE.attempts + 3):
            server.faults.runs_feed().answer(400)
            ingestion.watch()
        assert ingestion.rows("SELECT DISTINCT state, troubled_at IS NULL FROM tailrace.runs") == [("watched", True)]


@pytest.mark.parametrize("again", ["request", "retry"])
def test_the_readers_of_a_run_that_fails_leave_and_its_streams_can_be_taken_up_again(
    again: str, database_url: str
) -> None:
    store = store_with(Wire.V2, numbered(3), over=False)
    with ingesting(database_url, store) as (ingestion, server):
        ingestion.request(RUN)
        ingestion.watch()
        (stream,) = ingestion.runtime.claim(1)
        reading = threading.Thread(target=ingestion.runtime.ingest_stream, args=(stream,), daemon=True)
        reading.start()
        assert server.traffic.wait_until(lambda: server.traffic.streams_read() == 1, 10)
        token, rev = ingestion.rows("SELECT token, rev FROM tailrace.streams")[0]
        refuse(ingestion, server, PATIENCE.attempts)
        long_ago(ingestion)
        refuse(ingestion, server, 1)
        assert ingestion.rows(
            "SELECT state, verdict, worker_id, token > %s, rev > %s FROM tailrace.streams", token, rev
        ) == [("failed", "failed", None, True, True)]
        ingestion.runtime._keeper.call_readers()
        reading.join(10)
        assert not reading.is_alive()
        assert server.traffic.wait_until(lambda: server.traffic.streams_read() == 0, 10)
        if again == "request":
            ingestion.request(RUN)
        else:
            assert ingestion.value("SELECT tailrace.retry_run(%s)", RUN) == 1
        store.finish_run(RUN)
        ingestion.until_sealed()
        assert ingestion.texts(RUN) == [text.encode() for text in numbered(3)]
        assert ingestion.verdict(RUN) == "complete"


def test_nothing_but_a_4xx_without_a_meaning_of_its_own_is_a_refusal() -> None:
    assert refuses(RequestRefused("no", status=422))
    assert refuses(SourceUnavailable("no", status=418))
    others = [SourceUnavailable("cut"), StreamStalled(), MalformedRecord(), NotFound(), Unauthorized()]
    assert not any(map(refuses, others))
