"""Spans of what a worker does for a run, by OpenTelemetry's SDK. `service.otlp` sends them.

They go through a provider of Tailrace's own: what a host or a library traces is neither changed nor sent by it. No
attribute has a chunk, a text of an error or an answer in it; what others have named is redacted and cut.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import replace
from importlib.metadata import version
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.context import Context as Around
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from tailrace.errors import LeaseLost, TransientError
from tailrace.model import LeasedStream, Outcome, StreamState, Wire
from tailrace.redaction import excerpt
from tailrace.tracecontext import Context, parsed
from tailrace.tracing import NO_LEASE, Connecting, Flight, Lease, Leased, SealedRun, Traces

__all__ = ["SPANS", "Spans"]

PROCESS: Final = "process tailrace"
BEGIN: Final = "tailrace.begin"
LEASE: Final = "tailrace.lease"
CONNECT: Final = "GET /realtime/v1/streams/{run_id}/{stream_key}"
COMMIT: Final = "commit tailrace.segments"
SETTLE: Final = "tailrace.settle"
SEAL: Final = "tailrace.seal"

_OF_A_STREAM: Final = ("tailrace.environment", "tailrace.run_id", "tailrace.stream_key", "tailrace.lease_token")
SPANS: Final[Mapping[str, tuple[str, ...]]] = {
    PROCESS: (
        *("messaging.system", "messaging.operation.name", "messaging.operation.type"),
        *("messaging.destination.name", "messaging.message.id", "tailrace.task", "tailrace.run_id", "error.type"),
    ),
    BEGIN: ("tailrace.environment", "tailrace.run_id"),
    LEASE: (*_OF_A_STREAM, "tailrace.position", "tailrace.attempt"),
    CONNECT: (
        *("http.request.method", "url.template", "server.address", "server.port", "http.response.status_code"),
        *(*_OF_A_STREAM, "tailrace.resumed", "tailrace.wire", "error.type"),
    ),
    COMMIT: (
        *("db.system.name", "db.query.summary", "tailrace.streams", "tailrace.chunks", "tailrace.bytes"),
        "error.type",
    ),
    SETTLE: (*_OF_A_STREAM, "tailrace.state", "tailrace.verdict", "tailrace.connections", "error.type"),
    SEAL: ("tailrace.environment", "tailrace.run_id"),
}
"""Every span that there is, and what its attributes can be; docs/tracing.md says what they mean."""

FIRST_TOKEN: Final = 1
MOST_HELD: Final = 100
"""Spans of a lease that has brought nothing yet: some ten connections are usual in its ten minutes."""
LONGEST: Final = 200
"""Characters of a name that others have chosen. Run ids have up to 1 000."""

Attributes = dict[str, str | int | bool]


class Spans(Traces):
    """Makes spans and hands those that have ended to ``processor``. Thread-safe."""

    def __init__(self, processor: SpanProcessor, resource: Resource) -> None:
        self._numbers = _Numbers()
        # Its end is ours to choose: at the interpreter's, threads can't be waited for under gevent.
        self._provider = TracerProvider(resource=resource, id_generator=self._numbers, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("tailrace", version("tailrace"))

    def taken(self, parent: str | None, task: str, message_id: str, run_id: str) -> AbstractContextManager[str | None]:
        return self._taken(parsed(parent), task, message_id, run_id)

    @contextmanager
    def _taken(self, parent: Context | None, task: str, message_id: str, run_id: str) -> Iterator[str]:
        attributes: Attributes = {
            "messaging.system": "celery",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "tailrace",
            "messaging.message.id": _shown(message_id),
            "tailrace.task": task,
            "tailrace.run_id": _shown(run_id),
        }
        # The current one, so that a retry's message carries it.
        with self._tracer.start_as_current_span(
            PROCESS,
            _inside(parent) if parent else None,
            SpanKind.CONSUMER,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield str(_of(span))
            except BaseException as error:
                _failed(span, error)
                raise

    def placed(
        self, streams: list[LeasedStream], begin: Callable[[Mapping[int, str]], Mapping[int, str]]
    ) -> list[LeasedStream]:
        begun: dict[tuple[str, str], tuple[LeasedStream, Span]] = {}  # by environment and run
        for stream in streams:
            run = (stream.environment, stream.ref.run_id)
            if stream.traceparent is None and run not in begun:
                attributes = {"tailrace.environment": _shown(run[0]), "tailrace.run_id": _shown(run[1])}
                begun[run] = stream, self._tracer.start_span(BEGIN, Around(), attributes=attributes)
        if not begun:
            return streams
        mine = {run: str(_of(span)) for run, (_, span) in begun.items()}
        found: Mapping[int, str] = {}
        with suppress(TransientError):  # no trace is worth a stream
            found = begin({stream.id: mine[run] for run, (stream, _) in begun.items()})
        for run, (stream, span) in begun.items():
            kept = found.get(stream.id, mine[run])
            if kept == mine[run]:
                span.end()  # else another has begun one at this moment: this never ends, and nobody hears of it
            mine[run] = kept
        return [
            stream
            if stream.traceparent is not None
            else replace(stream, traceparent=mine[stream.environment, stream.ref.run_id])
            for stream in streams
        ]

    def lease(self, stream: LeasedStream) -> Lease:
        run = parsed(stream.traceparent)
        if run is None:
            return NO_LEASE
        attributes: Attributes = {
            "tailrace.environment": _shown(stream.environment),
            "tailrace.run_id": _shown(stream.ref.run_id),
            "tailrace.stream_key": _shown(stream.ref.stream_key),
            "tailrace.lease_token": stream.token,
        }
        more: Attributes = {"tailrace.position": stream.checkpoint.last_index, "tailrace.attempt": stream.attempt}
        before = [_link(run.of_lease(stream.id, stream.token - 1))] if stream.token > 1 else []
        with self._numbers.next_is(run.of_lease(stream.id, stream.token).span_id):
            span = self._tracer.start_span(LEASE, _inside(run), attributes=attributes | more, links=before)
        lease = _Lease(self, run, _of(span), attributes, told=stream.token == FIRST_TOKEN)
        lease.end(span)
        return lease

    def commit(self, flights: Iterable[tuple[Leased, Flight]]) -> AbstractContextManager[None]:
        return self._commit(list(flights))

    @contextmanager
    def _commit(self, flights: Sequence[tuple[Leased, Flight]]) -> Iterator[None]:
        leases = [
            sink.lease
            for sink, flight in flights
            if isinstance(sink.lease, _Lease) and sink.lease.context.sampled and sink.lease.brings(flight)
        ]
        if not leases:
            yield
            return
        attributes: Attributes = {
            "db.system.name": "postgresql",
            "db.query.summary": COMMIT,
            "tailrace.streams": len(flights),
            "tailrace.chunks": sum(flight.chunks for _, flight in flights),
            "tailrace.bytes": sum(flight.bytes for _, flight in flights),
        }
        alone = len(leases) == 1
        traces = {lease.run for lease in leases}
        within = leases[0].context if alone else traces.pop() if len(traces) == 1 else None
        span = self._tracer.start_span(
            COMMIT,
            Around() if within is None else _inside(within),
            SpanKind.CLIENT,
            attributes,
            [] if alone else [_link(lease.context) for lease in leases],
        )
        with _ending(span):
            yield

    def sealed(self, environment: str, runs: Iterable[SealedRun]) -> None:
        for run in runs:
            context = parsed(run.traceparent)
            if context is not None:
                attributes = {"tailrace.environment": _shown(environment), "tailrace.run_id": _shown(run.run_id)}
                self._tracer.start_span(SEAL, _inside(context), attributes=attributes).end()

    def span(self, name: str, parent: Context, kind: SpanKind, attributes: Mapping[str, str | int | bool]) -> Span:
        """Begin a span that a lease ends."""
        return self._tracer.start_span(name, _inside(parent), kind, attributes)

    def stop(self, timeout_s: float) -> None:
        # The SDK waits for up to 30 s, and for the collector as long as that takes: in a thread that may be left alone.
        ending = threading.Thread(target=self._provider.shutdown, name="tailrace-spans", daemon=True)
        ending.start()
        ending.join(timeout_s)


class _Lease(Lease):
    """``run``: what the run's trace begins with; ``context``: the lease's own span, which has ended.

    Its spans are kept back until it brings something or goes wrong, unless it is the stream's first: a silent stream is
    leased, looked at and parked every few seconds for as long as its run lives.
    """

    __slots__ = ("_attributes", "_connections", "_held", "_left", "_lock", "_spans", "context", "run")

    def __init__(self, spans: Spans, run: Context, context: Context, attributes: Attributes, *, told: bool) -> None:
        self._spans = spans
        self._attributes = attributes
        self._connections = 0
        self._left = False
        self._lock = threading.Lock()  # its reader ends spans, and the Writer says that it brings something
        self._held: list[tuple[Span, int]] | None = None if told else []
        self.run = run
        self.context = context

    def end(self, span: Span) -> None:
        """End a span of it, now or as of now."""
        with self._lock:
            if self._held is None:
                span.end()
            elif len(self._held) < MOST_HELD:
                self._held.append((span, time.time_ns()))

    def tell(self) -> None:
        """Keep nothing back any more."""
        with self._lock:
            held, self._held = self._held or [], None
        for span, ended_at in held:
            span.end(ended_at)

    def brings(self, flight: Flight) -> bool:
        """Whether a commit is worth a span for this lease's sake."""
        if not flight.follows:
            return False
        if flight.chunks:
            self.tell()
        return self._held is None

    def connecting(self, api_url: str, last_event_id: str | None) -> AbstractContextManager[Connecting]:
        return self._connecting(api_url, last_event_id)

    @contextmanager
    def _connecting(self, api_url: str, last_event_id: str | None) -> Iterator[Connecting]:
        self._connections += 1
        address = urlsplit(api_url)
        attributes: Attributes = {
            "http.request.method": "GET",
            "url.template": CONNECT.removeprefix("GET "),
            "server.address": address.hostname or "",
            "server.port": address.port or (443 if address.scheme == "https" else 80),
            "tailrace.resumed": last_event_id is not None,
            **self._attributes,
        }
        span = self._spans.span(CONNECT, self.context, SpanKind.CLIENT, attributes)
        try:
            yield _Connecting(span)
        except BaseException as error:
            _failed(span, error)
            self.tell()
            raise
        finally:
            self.end(span)

    def settling(self, outcome: Outcome) -> AbstractContextManager[None]:
        self._left = True
        if self._held is not None and outcome.state is StreamState.PARKED and outcome.error is None:
            return nullcontext()
        self.tell()
        attributes: Attributes = {"tailrace.state": outcome.state.value}
        if outcome.verdict is not None:
            attributes["tailrace.verdict"] = outcome.verdict.value
        return _ending(self._settle(attributes))

    def lost(self) -> None:
        if not self._left:
            self.tell()
            span = self._settle({})
            _failed(span, LeaseLost())
            span.end()

    def _settle(self, attributes: Attributes) -> Span:
        told = {**self._attributes, "tailrace.connections": self._connections, **attributes}
        return self._spans.span(SETTLE, self.context, SpanKind.INTERNAL, told)


class _Connecting(Connecting):
    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def answered(self, wire: Wire) -> None:
        self._span.set_attribute("http.response.status_code", 200)  # no other is a stream
        self._span.set_attribute("tailrace.wire", wire.value)


class _Numbers(RandomIdGenerator):
    """Spans' numbers by chance, but for one that is chosen."""

    def __init__(self) -> None:
        self._next: ContextVar[int | None] = ContextVar("next", default=None)

    @contextmanager
    def next_is(self, number: int) -> Iterator[None]:
        """Give the span that is made within, by this thread or greenlet, this number."""
        token = self._next.set(number)
        try:
            yield
        finally:
            self._next.reset(token)

    def generate_span_id(self) -> int:
        return self._next.get() or super().generate_span_id()


@contextmanager
def _ending(span: Span) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        _failed(span, error)
        raise
    finally:
        span.end()


def _failed(span: Span, error: BaseException) -> None:
    """Not the error's text: it may quote what upstream or Postgres said, and those a chunk."""
    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", type(error).__name__)
    status = getattr(error, "status", None)
    if isinstance(status, int):
        span.set_attribute("http.response.status_code", status)


def _shown(name: str) -> str:
    return excerpt(name, LONGEST)


def _of(span: Span) -> Context:
    found = span.get_span_context()
    return Context(found.trace_id, found.span_id, found.trace_flags.sampled)


def _outside(context: Context) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return SpanContext(context.trace_id, context.span_id, True, flags)


def _inside(context: Context) -> Around:
    return set_span_in_context(NonRecordingSpan(_outside(context)), Around())


def _link(context: Context) -> Link:
    return Link(_outside(context))
