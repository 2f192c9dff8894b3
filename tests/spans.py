"""Spans that a test keeps, and spans that a test receives over OTLP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tailrace.service.spans import Spans
from tailrace.tracing import Traces, send_to

Number = tuple[int, int]
"""A trace and a span of it."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A span as a test looks at it. ``parent``: the number of its parent; None: it has none."""

    name: str
    kind: str
    number: Number
    parent: Number | None
    links: tuple[Number, ...]
    attributes: dict[str, Any]
    failed: bool
    service: str
    said: str
    """All that is in it, as text."""

    @property
    def trace(self) -> int:
        return self.number[0]


class Kept:
    """The spans of this process, in the order in which they ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()  # type: ignore[no-untyped-call]
        self.traces = Spans(SimpleSpanProcessor(self._exporter), Resource({"service.name": "test"}))

    def all(self, name: str | None = None) -> list[Seen]:
        found = [_of_the_sdk(span) for span in self._exporter.get_finished_spans()]
        return [span for span in found if name in (None, span.name)]

    def one(self, name: str) -> Seen:
        (found,) = self.all(name)
        return found


@contextmanager
def kept() -> Iterator[Kept]:
    """Have what this process does kept as spans."""
    spans = Kept()
    send_to(spans.traces)
    try:
        yield spans
    finally:
        send_to(Traces())
        spans.traces.stop(5.0)


def _of_the_sdk(span: ReadableSpan) -> Seen:
    assert span.context is not None
    parent = span.parent
    return Seen(
        name=span.name,
        kind=span.kind.name,
        number=(span.context.trace_id, span.context.span_id),
        parent=None if parent is None else (parent.trace_id, parent.span_id),
        links=tuple((link.context.trace_id, link.context.span_id) for link in span.links),
        attributes=dict(span.attributes or {}),
        failed=not span.status.is_ok and span.status.status_code.name == "ERROR",
        service=str(span.resource.attributes["service.name"]),
        said=span.to_json(),  # type: ignore[no-untyped-call]
    )


class Collector:
    """Receives spans over OTLP/HTTP. ``headers``: of each request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[Seen] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        """What it answers."""

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        with self._lock:
            self.headers.append(headers)
            if path == "/v1/traces" and self.status == 200:
                self._seen += _of_the_wire(ExportTraceServiceRequest.FromString(body))
            return self.status

    def all(self, name: str | None = None) -> list[Seen]:
        with self._lock:
            return [span for span in self._seen if name in (None, span.name)]


def _of_the_wire(request: ExportTraceServiceRequest) -> Iterator[Seen]:
    for resource in request.resource_spans:
        of_all = {each.key: each.value.string_value for each in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                trace = int.from_bytes(span.trace_id, "big")
                parent = int.from_bytes(span.parent_span_id, "big")
                yield Seen(
                    name=span.name,
                    kind=span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    number=(trace, int.from_bytes(span.span_id, "big")),
                    parent=(trace, parent) if parent else None,
                    links=tuple(
                        (int.from_bytes(link.trace_id, "big"), int.from_bytes(link.span_id, "big"))
                        for link in span.links
                    ),
                    attributes={
                        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes
                    },
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    service=of_all["service.name"],
                    said=f"{resource.resource}{span}",
                )


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """Listen on this machine; give the collector and its URL."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = collector.take(self.path, dict(self.headers.items()), body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="collector")
        thread.start()
        try:
            yield collector, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
