"""Send spans by OTLP over HTTP, to where OpenTelemetry's own variables say."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Final
from urllib.parse import unquote

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from tailrace.errors import BadSettings
from tailrace.redaction import remember
from tailrace.service.spans import Spans
from tailrace.telemetry import Failing

__all__ = ["over_http"]

HEADERS_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
SERVICE: Final = "tailrace"


class _SpansLost(Exception):
    """Where spans go, they were not taken."""


class Told(SpanExporter):
    """An exporter whose failures are one line when they begin and one when they are over; the SDK's is one each."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = Failing("traces_export", traced=False)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._failing:
            if self._exporter.export(spans) is SpanExportResult.SUCCESS:
                return SpanExportResult.SUCCESS
            raise _SpansLost("where OTEL_EXPORTER_OTLP_ENDPOINT points, spans are not taken: they are dropped")
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._exporter.shutdown()


def over_http(worker: str, environ: Mapping[str, str]) -> Spans:
    """Return what sends spans by OTLP over HTTP, to where the OTEL_ variables say. It has a thread.

    Raises:
        BadSettings: one of the variables can't be meant.
    """
    for variable in HEADERS_VARIABLES:
        for pair in environ.get(variable, "").split(","):
            remember(unquote(pair.partition("=")[2].strip()))
    try:
        processor = BatchSpanProcessor(Told(OTLPSpanExporter()))
    except ValueError as error:
        raise BadSettings(f"OTEL_ variables: {error}") from error
    logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)
    return Spans(processor, resource_of(worker))


def resource_of(worker: str) -> Resource:
    """What sends the spans. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before what we say."""
    ours = {"service.name": SERVICE, "service.version": version("tailrace"), "service.instance.id": worker}
    return Resource.create(ours).merge(OTELResourceDetector().detect())
