"""What the spans say, on the SDK itself: parents, links, and what is in none of them."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from tailrace import tracing
from tailrace.config.settings import Settings
from tailrace.errors import BadSettings, LeaseLost, SourceUnavailable, StoreUnavailable
from tailrace.model import LeasedStream, Outcome, StreamRef, StreamState, Verdict, Wire
from tailrace.redaction import redact, remember
from tailrace.service import trace_export
from tailrace.service.otlp import Told, resource_of
from tailrace.service.spans import BEGIN, COMMIT, CONNECT, LEASE, PROCESS, SEAL, SETTLE, SPANS, Spans
from tailrace.tracecontext import parsed
from tests.simulation.script import leased
from tests.spans import Kept, kept

ROOT = Path(__file__).parents[3]
ASKED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RUN = (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
API_URL = "http://127.0.0.1:8080"


@pytest.fixture
def spans() -> Iterator[Kept]:
    with kept() as found:
        yield found


@dataclass
class Flight:
    follows: bool = True
    chunks: int = 3
    bytes: int = 30


@dataclass
class Sink:
    lease: tracing.Lease


@dataclass
class Run:
    run_id: str
    traceparent: str | None


def stream(number: int = 1, token: int = 1, traceparent: str | None = ASKED) -> LeasedStream:
    return replace(leased(), id=number, token=token, traceparent=traceparent)


def test_a_message_is_a_span_within_the_callers_trace_and_the_run_goes_on_in_it(spans: Kept) -> None:
    with tracing.traces().taken(ASKED, "tailrace.ingest_run", "some-id", "run_1") as given:
        pass
    span = spans.one(PROCESS)
    assert (span.kind, span.parent) == ("CONSUMER", RUN)
    assert given is not None
    found = parsed(given)
    assert found is not None
    assert (found.trace_id, found.span_id) == span.number
    assert span.attributes["messaging.message.id"] == "some-id"


def test_a_message_without_a_trace_begins_one(spans: Kept) -> None:
    with tracing.traces().taken(None, "tailrace.ingest_run", "some-id", "run_1") as given:
        assert parsed(given)
    assert spans.one(PROCESS).parent is None


def test_a_lease_its_connections_and_its_end_are_one_family(spans: Kept) -> None:
    lease = tracing.traces().lease(stream())
    with lease.connecting(API_URL, None) as connecting:
        connecting.answered(Wire.V2)
    with lease.settling(Outcome(StreamState.SEALED, verdict=Verdict.COMPLETE)):
        pass
    lease.lost()
    first, connection, end = spans.all()
    assert [first.name, connection.name, end.name] == [LEASE, CONNECT, SETTLE], "what is settled is not lost too"
    assert first.parent == RUN
    assert connection.parent == end.parent == first.number
    assert connection.attributes["http.response.status_code"] == 200
    assert (connection.attributes["server.address"], connection.attributes["server.port"]) == ("127.0.0.1", 8080)
    assert (end.attributes["tailrace.state"], end.attributes["tailrace.verdict"]) == ("sealed", "complete")
    assert end.attributes["tailrace.connections"] == 1
    assert not any(span.failed for span in spans.all())


def bringing(lease: tracing.Lease) -> None:
    with tracing.traces().commit(flights((lease, Flight()))):
        pass


def test_a_later_lease_that_finds_nothing_is_not_told_of(spans: Kept) -> None:
    """A silent stream is leased, looked at and parked every few seconds."""
    lease = tracing.traces().lease(stream(token=2))
    with lease.connecting(API_URL, "7") as connecting:
        connecting.answered(Wire.V2)
    with tracing.traces().commit(flights((lease, Flight(chunks=0)))):
        pass
    with lease.settling(Outcome(StreamState.PARKED)):
        pass
    assert spans.all() == []


@pytest.mark.parametrize(
    "outcome", [Outcome(StreamState.PARKED, error="refused"), Outcome(StreamState.ACTIVE), Outcome(StreamState.SEALED)]
)
def test_a_later_lease_with_another_end_is_told_of_whole(spans: Kept, outcome: Outcome) -> None:
    lease = tracing.traces().lease(stream(token=2))
    with lease.connecting(API_URL, "7") as connecting:
        connecting.answered(Wire.V2)
    assert spans.all() == []
    with lease.settling(outcome):
        pass
    assert [span.name for span in spans.all()] == [LEASE, CONNECT, SETTLE]
    assert "refused" not in "".join(span.said for span in spans.all())


def test_a_later_lease_that_brings_chunks_is_told_of_as_it_was(spans: Kept) -> None:
    lease = tracing.traces().lease(stream(token=2))
    bringing(lease)
    with lease.connecting(API_URL, None) as connecting:
        connecting.answered(Wire.V2)
    with lease.settling(Outcome(StreamState.PARKED)):
        pass
    assert [span.name for span in spans.all()] == [LEASE, COMMIT, CONNECT, SETTLE]


def test_a_later_lease_that_cannot_connect_is_told_of(spans: Kept) -> None:
    lease = tracing.traces().lease(stream(token=2))
    with pytest.raises(SourceUnavailable), lease.connecting(API_URL, None):
        raise SourceUnavailable(status=502)
    assert [span.name for span in spans.all()] == [LEASE, CONNECT]


def test_the_next_lease_links_to_the_one_before_without_being_told(spans: Kept) -> None:
    with kept() as elsewhere:
        bringing(tracing.traces().lease(stream(token=4)))
    tracing.send_to(spans.traces)
    bringing(tracing.traces().lease(stream(token=5)))
    bringing(tracing.traces().lease(stream(number=2, token=1)))
    second, other = spans.all(LEASE)
    assert second.links == (elsewhere.one(LEASE).number,)
    assert other.links == ()


def test_a_lost_lease_is_a_failed_end(spans: Kept) -> None:
    tracing.traces().lease(stream()).lost()
    end = spans.one(SETTLE)
    assert end.failed
    assert end.attributes["error.type"] == "LeaseLost"
    assert "tailrace.state" not in end.attributes


def test_a_lease_that_is_lost_while_it_settles_ends_once(spans: Kept) -> None:
    lease = tracing.traces().lease(stream())
    with pytest.raises(LeaseLost), lease.settling(Outcome(StreamState.PARKED)):
        raise LeaseLost
    lease.lost()
    assert spans.one(SETTLE).attributes["error.type"] == "LeaseLost"


def test_a_failure_has_its_kind_and_status_and_never_its_words(spans: Kept) -> None:
    lease = tracing.traces().lease(stream())
    with pytest.raises(SourceUnavailable), lease.connecting(API_URL, "7"):
        raise SourceUnavailable('upstream said {"chunk": "content"}', status=502)
    span = spans.one(CONNECT)
    assert span.failed
    assert (span.attributes["error.type"], span.attributes["http.response.status_code"]) == ("SourceUnavailable", 502)
    assert span.attributes["tailrace.resumed"] is True
    assert "content" not in span.said


def test_a_run_in_no_trace_gets_one_that_its_row_keeps(spans: Kept) -> None:
    """Streams of one run are one, whoever leases them; of two workers who begin one, the row decides."""
    rows: dict[int, str] = {}

    def begin(given: Mapping[int, str]) -> dict[int, str]:
        (mine,) = given.values()
        return dict.fromkeys(given, rows.setdefault(1, mine))

    traces = tracing.traces()
    untraced = [stream(1, traceparent=None), stream(2, traceparent=None)]
    for each in (*traces.placed(untraced, begin), *traces.placed([stream(3, traceparent=None)], begin)):
        traces.lease(each)
    begun = spans.one(BEGIN)
    assert begun.parent is None
    assert [span.parent for span in spans.all(LEASE)] == [begun.number] * 3


def test_a_run_in_a_trace_is_left_there(spans: Kept) -> None:
    def never(_: Mapping[int, str]) -> dict[int, str]:
        raise AssertionError("nothing is to be begun")

    streams = [stream()]
    assert tracing.traces().placed(streams, never) is streams
    assert spans.all() == []


def test_a_database_that_is_away_costs_a_trace_and_no_stream(spans: Kept) -> None:
    def away(_: Mapping[int, str]) -> dict[int, str]:
        raise StoreUnavailable

    (placed,) = tracing.traces().placed([stream(traceparent=None)], away)
    tracing.traces().lease(placed)
    assert spans.one(LEASE).parent == spans.one(BEGIN).number


def flights(*pairs: tuple[tracing.Lease, Flight]) -> list[tuple[Sink, Flight]]:
    return [(Sink(lease), flight) for lease, flight in pairs]


def commit(*pairs: tuple[tracing.Lease, Flight]) -> None:
    with tracing.traces().commit(flights(*pairs)):
        pass


def test_a_commit_of_one_stream_is_within_its_lease(spans: Kept) -> None:
    commit((tracing.traces().lease(stream()), Flight()))
    span = spans.one(COMMIT)
    assert (span.kind, span.parent, span.links) == ("CLIENT", spans.one(LEASE).number, ())
    assert span.attributes["db.system.name"] == "postgresql"
    assert (span.attributes["tailrace.chunks"], span.attributes["tailrace.bytes"]) == (3, 30)


def test_a_commit_of_several_streams_links_to_the_lease_of_each(spans: Kept) -> None:
    """Of one run it is in the run's trace, of several in one of its own."""
    traces = tracing.traces()
    ours = [traces.lease(stream(number)) for number in (1, 2)]
    theirs = traces.lease(stream(3, traceparent=ASKED.replace("0af", "1af")))
    commit((ours[0], Flight()), (ours[1], Flight()))
    commit((ours[0], Flight()), (theirs, Flight()))
    together, apart = spans.all(COMMIT)
    first, second, other = (span.number for span in spans.all(LEASE))
    assert (together.parent, together.links) == (RUN, (first, second))
    assert (apart.parent, apart.links) == (None, (first, other))
    assert apart.trace not in (first[0], other[0])


def test_a_commit_that_only_adds_chunks_is_no_span(spans: Kept) -> None:
    lease = tracing.traces().lease(stream())
    commit((lease, Flight(follows=False)))
    commit((tracing.NO_LEASE, Flight()))
    assert spans.all(COMMIT) == []
    commit((lease, Flight()), (tracing.NO_LEASE, Flight(follows=False)))
    assert spans.one(COMMIT).attributes["tailrace.streams"] == 2


def test_a_commit_that_fails_says_so_and_raises(spans: Kept) -> None:
    lease = tracing.traces().lease(stream())
    with pytest.raises(StoreUnavailable), tracing.traces().commit(flights((lease, Flight()))):
        raise StoreUnavailable("secret words")
    assert spans.one(COMMIT).failed
    assert "secret words" not in spans.one(COMMIT).said


def test_a_sealed_run_ends_its_trace_and_one_without_a_trace_has_none(spans: Kept) -> None:
    tracing.traces().sealed("default", [Run("run_1", ASKED), Run("run_2", None)])
    assert spans.one(SEAL).parent == RUN
    assert spans.one(SEAL).attributes["tailrace.run_id"] == "run_1"


def test_what_is_not_sampled_is_not_kept_by_anybody(spans: Kept) -> None:
    unsampled = ASKED[:-2] + "00"
    traces = tracing.traces()
    with traces.taken(unsampled, "tailrace.ingest_run", "some-id", "run_1") as given:
        assert given is not None
        assert given.endswith("-00")
    lease = traces.lease(stream(traceparent=given))
    commit((lease, Flight()))
    with lease.settling(Outcome(StreamState.PARKED)):
        pass
    traces.sealed("default", [Run("run_1", given)])
    assert spans.all() == []


def test_secrets_are_hidden_and_long_names_cut(spans: Kept) -> None:
    remember("hunter2hunter2")
    named = StreamRef("run_hunter2hunter2", "k" * 1_000)
    tracing.traces().lease(replace(stream(), ref=named))
    span = spans.one(LEASE)
    assert "hunter2" not in span.said
    assert len(span.attributes["tailrace.stream_key"]) == 200


def test_nobody_has_attributes_that_the_table_does_not_name(spans: Kept) -> None:
    traces = tracing.traces()
    with pytest.raises(StoreUnavailable), traces.taken(ASKED, "tailrace.ingest_run", "some-id", "run_1"):
        raise StoreUnavailable
    lease = traces.lease(*traces.placed([stream(traceparent=None)], dict))
    with lease.connecting(API_URL, None) as connecting:
        connecting.answered(Wire.V1)
    with pytest.raises(SourceUnavailable), lease.connecting("https://upstream.example", None):
        raise SourceUnavailable(status=500)
    with pytest.raises(StoreUnavailable), traces.commit(flights((lease, Flight()))):
        raise StoreUnavailable
    with lease.settling(Outcome(StreamState.SEALED, verdict=Verdict.COMPLETE)):
        pass
    traces.lease(stream()).lost()
    traces.sealed("default", [Run("run_1", ASKED)])
    found: dict[str, set[str]] = {}
    for span in spans.all():
        found.setdefault(span.name, set()).update(span.attributes)
    assert found == {name: set(attributes) for name, attributes in SPANS.items()}


def test_the_page_has_each_span_and_each_of_its_attributes() -> None:
    page = (ROOT / "docs" / "tracing.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    told = {cells[0].strip("`"): tuple(cells[3].replace("`", "").split(", ")) for cells in rows if len(cells) == 4}
    assert told == dict(SPANS)
    explained = {cells[0].strip("`") for cells in rows if len(cells) == 2}
    assert {name for names in SPANS.values() for name in names} <= explained


class Exporter(SpanExporter):
    def __init__(self, *results: SpanExportResult) -> None:
        self._results = list(results)

    def export(self, spans: Any) -> SpanExportResult:
        return self._results.pop(0)


def test_a_collector_that_is_away_is_told_of_once() -> None:
    lost, taken = SpanExportResult.FAILURE, SpanExportResult.SUCCESS
    told = Told(Exporter(lost, lost, taken))
    with capture_logs() as lines:
        results = [told.export([]) for _ in range(3)]
    assert results == [lost, lost, taken]
    assert [line["event"] for line in lines] == ["traces_export_failed"]


def test_a_collector_that_hangs_does_not_hold_up_the_end() -> None:
    hangs = threading.Event()

    class Hanging(Exporter):
        def shutdown(self) -> None:
            hangs.wait(30)

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    spans = Spans(SimpleSpanProcessor(Hanging()), Resource({}))
    spans.stop(0.01)
    assert not hangs.is_set(), "nobody has waited for it"
    hangs.set()


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "tailrace"),
        ({"OTEL_SERVICE_NAME": "ours"}, "ours"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs,team=x"}, "theirs"),
    ],
)
def test_the_service_is_named_as_opentelemetry_names_it(
    variables: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    attributes = resource_of("worker-1").attributes
    assert (attributes["service.name"], attributes["service.instance.id"]) == (name, "worker-1")
    assert attributes.get("team") == ("x" if "team" in str(variables) else None)


# --- switched on, or not

PROBE = """
import sys
{before}
from tailrace.service import trace_export
import tailrace.tasks.process, tailrace.tasks.signals, tailrace.service.runtime, tailrace.service.local, tailrace.cli.app
begun = None
try:
    begun = trace_export.start({wanted!r}, "worker-1", {{}})
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
print(sorted({{name.partition(".")[0] for name in sys.modules}} & {{"opentelemetry", "google", "requests"}}))
trace_export.stop(begun, 1.0)
"""


def probed(wanted: str, before: str = "") -> list[str]:
    script = PROBE.format(wanted=wanted, before=before)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_worker_that_makes_no_spans_imports_nothing_of_it() -> None:
    assert probed("none") == ["[]"]


def test_a_worker_that_makes_spans_imports_it() -> None:
    assert probed("otlp") == ["['google', 'opentelemetry', 'requests']"]


def test_without_the_sdk_it_is_said_what_to_install() -> None:
    away = (
        "import importlib.abc\n"
        "class Away(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'opentelemetry': raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Away())\n"
    )
    (said, imported) = probed("otlp", away)
    assert said == (
        "BadSettings: TAILRACE_TRACES is otlp, but OpenTelemetry's SDK is not installed: pip install 'tailrace[traces]'"
    )
    assert imported == "[]"


def test_the_sdks_own_switch_is_heeded() -> None:
    assert trace_export.start("otlp", "worker-1", {"OTEL_SDK_DISABLED": "TRUE"}) is None
    assert type(tracing.traces()) is tracing.Traces


def test_a_variable_that_cannot_be_meant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(BadSettings, match="OTEL_"):
        trace_export.start("otlp", "worker-1", {})
    assert type(tracing.traces()) is tracing.Traces


def test_what_the_collector_wants_to_see_is_a_secret() -> None:
    given = {"OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=abcdefgh%20ijk,other=1"}
    level = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter").level
    begun = trace_export.start("otlp", "worker-1", given)
    assert tracing.traces() is begun
    trace_export.stop(begun, 5.0)
    assert type(tracing.traces()) is tracing.Traces
    logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter").setLevel(level)
    assert redact("said: abcdefgh ijk") == "said: ***"
    assert redact("said: abcdefgh%20ijk") == "said: ***"


def test_the_setting_is_off_by_default() -> None:
    assert Settings().traces == "none"
    assert Settings(traces="OTLP").traces == "otlp"  # type: ignore[arg-type]
