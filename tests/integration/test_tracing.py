"""A run is one trace from its request to its seal, whoever asks, whoever reads and however often it is handed on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tailrace.model import Wire
from tailrace.requests import request_ingest
from tailrace.service.spans import BEGIN, COMMIT, CONNECT, LEASE, SEAL, SETTLE
from tests.ingestion import ingesting, numbered, store_with
from tests.spans import Kept, kept
from tests.unit.test_tracecontext import BAD, GOOD, SPAN, TRACE, in_a_span
from tests.upstream import LiveStore

__all__ = ["in_a_span"]

RUN = (TRACE, SPAN)
OTHER = GOOD.replace("0af", "1af")


@pytest.fixture
def spans() -> Iterator[Kept]:
    with kept() as found:
        yield found


def test_a_run_is_one_trace_to_its_seal(spans: Kept, database_url: str) -> None:
    store = store_with(Wire.V2, numbered(3))
    store.append_chunk("run_1", "progress", '"half"')
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.runtime.request("run_1", None, {}, traceparent=GOOD)
        ingestion.until_sealed()
    assert {span.trace for span in spans.all()} == {TRACE}
    leases = {span.attributes["tailrace.stream_key"]: span for span in spans.all(LEASE) if not span.links}
    assert set(leases) == {"ai", "progress"}
    assert all(span.parent == RUN for span in (*spans.all(LEASE), spans.one(SEAL)))
    numbers = {span.number for span in spans.all(LEASE)}
    assert {span.parent for span in spans.all(CONNECT)} <= numbers
    assert {span.parent for span in spans.all(SETTLE)} <= numbers
    assert all(span.parent in numbers | {RUN} for span in spans.all(COMMIT))
    sealed = [span for span in spans.all(SETTLE) if span.attributes["tailrace.state"] == "sealed"]
    assert {span.attributes["tailrace.stream_key"] for span in sealed} == {"ai", "progress"}
    assert {span.attributes["tailrace.verdict"] for span in sealed} == {"complete"}
    assert not any(span.failed for span in spans.all())
    assert not any('"half"' in span.said or '"n"' in span.said for span in spans.all()), "a chunk is in no span"


def test_a_stream_that_is_handed_on_links_to_its_lease_before(spans: Kept, database_url: str) -> None:
    store = store_with(Wire.V2, numbered(3), over=False)
    with ingesting(database_url, store, slice_seconds=1.0, park_after_seconds=60.0) as (ingestion, _):
        ingestion.runtime.request("run_1", None, {}, traceparent=GOOD)
        ingestion.watch()
        ingestion.read()
        ingestion.restart()
        store.append_chunk("run_1", "ai", '"more"')
        ingestion.read()
    first, second = spans.all(LEASE)
    assert [span.attributes["tailrace.lease_token"] for span in (first, second)] == [1, 2]
    assert second.links == (first.number,)
    assert second.attributes["tailrace.position"] == 2
    assert [span.attributes["tailrace.state"] for span in spans.all(SETTLE)] == ["active", "active"]
    begun = [span for span in spans.all(CONNECT) if not span.attributes["tailrace.resumed"]]
    assert [span.parent for span in begun] == [first.number], "and whatever was opened later went on from there"


def test_a_silent_stream_is_looked_at_without_a_span(spans: Kept, database_url: str) -> None:
    store = store_with(Wire.V2, numbered(3), over=False)
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.runtime.request("run_1", None, {}, traceparent=GOOD)
        ingestion.turn()
        seen = len(spans.all())
        for _ in range(3):
            ingestion.turn()
        assert ingestion.value("SELECT token FROM tailrace.streams") == 4
        assert len(spans.all()) == seen
        store.append_chunk("run_1", "ai", '"more"')
        ingestion.turn()
    assert [span.attributes["tailrace.lease_token"] for span in spans.all(LEASE)] == [1, 5]


def test_a_run_that_nobody_traces_gets_a_trace_of_its_own(spans: Kept, database_url: str) -> None:
    store = store_with(Wire.V1, numbered(3))
    store.append_chunk("run_1", "progress", '"half"')
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.run("SELECT tailrace.request_ingest('run_1')")
        ingestion.until_sealed()
        kept_as = ingestion.value("SELECT traceparent FROM tailrace.runs")
    begun = spans.one(BEGIN)
    assert kept_as == f"00-{begun.number[0]:032x}-{begun.number[1]:016x}-01"
    assert {span.parent for span in (*spans.all(LEASE), *spans.all(SEAL))} == {begun.number}


def test_commits_of_several_runs_link_to_their_leases(spans: Kept, database_url: str) -> None:
    store = LiveStore()
    for run in ("run_1", "run_2"):
        store.create_run(run, Wire.V2)
        store.append_chunks(run, "ai", numbered(2))
        store.finish_run(run)
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.runtime.request("run_1", None, {}, traceparent=GOOD)
        ingestion.runtime.request("run_2", None, {}, traceparent=OTHER)
        ingestion.until_sealed()
    assert len(spans.all(SEAL)) == 2
    traces = {int(given[3:35], 16) for given in (GOOD, OTHER)}
    assert {span.trace for span in spans.all(LEASE)} == traces
    for span in spans.all(COMMIT):
        leases = {number for number in (span.parent, *span.links) if number is not None}
        assert leases <= {lease.number for lease in spans.all(LEASE)}


def test_a_request_in_a_transaction_is_in_the_trace_of_who_asks(
    engine: sa.Engine, in_a_span: None, database_url: str
) -> None:
    with engine.begin() as connection:
        run = request_ingest(connection, "run_1")
        kept_as = connection.execute(sa.text("SELECT traceparent FROM tailrace.runs WHERE id = :id"), {"id": run})
        assert kept_as.scalar_one() == GOOD


def test_what_is_no_traceparent_costs_no_request(engine: sa.Engine) -> None:
    """The same cases as `tailrace.tracecontext.parsed`: SQL has the rule for itself."""
    ask = sa.text("SELECT tailrace.request_ingest(:run_id, p_traceparent => :given)")
    with engine.begin() as connection:
        for number, given in enumerate(BAD):
            connection.execute(ask, {"run_id": f"run_{number}", "given": given})
        found = connection.execute(sa.text("SELECT count(*), count(traceparent) FROM tailrace.runs"))
        assert found.one() == (len(BAD), 0)


def test_an_open_run_stays_in_its_trace_and_one_opened_again_gets_anothers(engine: sa.Engine) -> None:
    ask = sa.text("SELECT tailrace.request_ingest('run_1', p_traceparent => :given)")
    read = sa.text("SELECT traceparent FROM tailrace.runs")
    with engine.begin() as connection:
        for given, then in ((None, None), (GOOD, GOOD), (OTHER, GOOD), (None, GOOD)):
            connection.execute(ask, {"given": given})
            assert connection.execute(read).scalar_one() == then
        connection.execute(sa.text("UPDATE tailrace.runs SET state = 'cancelled'"))
        connection.execute(ask, {"given": OTHER})
        assert connection.execute(read).scalar_one() == OTHER
        connection.execute(sa.text("UPDATE tailrace.runs SET state = 'cancelled'"))
        connection.execute(ask, {"given": None})
        assert connection.execute(read).scalar_one() is None
