"""Which trace a request belongs to: what is one, whose it is, and how a lease's span is numbered."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.context import attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from tailrace.tasks.carrying import carried, carry
from tailrace.tasks.signing import sign
from tailrace.tracecontext import Context, current, parsed

TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BAD = [
    "",
    "00",
    GOOD.upper(),
    GOOD + "-00",
    GOOD + "\n",
    "01" + GOOD[2:],
    GOOD.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
    GOOD.replace("b7ad6b7169203331", "0" * 16),
    GOOD.replace("-01", "-1"),
]


@pytest.fixture
def in_a_span() -> Any:
    span = NonRecordingSpan(SpanContext(TRACE, SPAN, False, TraceFlags(1)))
    token = attach(set_span_in_context(span))
    yield
    detach(token)


def test_a_traceparent_is_read_and_written() -> None:
    assert parsed(GOOD) == Context(TRACE, SPAN, True)
    assert str(Context(TRACE, SPAN, True)) == GOOD
    assert parsed(GOOD[:-2] + "00") == Context(TRACE, SPAN, False)


@pytest.mark.parametrize("given", [*BAD, None, 1, [GOOD], GOOD.encode()])
def test_what_is_none_is_none(given: object) -> None:
    assert parsed(given) is None


def test_the_caller_is_in_a_span_or_in_none(in_a_span: None) -> None:
    assert current() == GOOD


def test_who_traces_nothing_sends_nothing_and_imports_nothing() -> None:
    script = (
        "import sys; from tailrace.tasks import ingest_run; from tailrace.tasks.carrying import carry;"
        "headers = {}; carry('tailrace.ingest_run', headers); import tailrace.requests;"
        "print(headers, [name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{} []"


def test_a_message_that_asks_for_a_run_carries_the_trace_and_others_do_not(in_a_span: None) -> None:
    headers: dict[str, Any] = {}
    carry("app.other", headers)
    carry("tailrace.ingest_stream", headers)
    assert headers == {}
    carry("tailrace.ingest_run", headers)
    assert headers == {"traceparent": GOOD}
    carry("tailrace.ingest_run", theirs := {"traceparent": "of an instrumentation"})
    assert theirs == {"traceparent": "of an instrumentation"}


def test_the_signature_covers_what_is_carried(in_a_span: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which Celery calls them: what is added after the signature is taken away by whoever checks."""
    from celery.signals import before_task_publish

    monkeypatch.setenv("TAILRACE_SIGN_KEY", "a-key-of-more-than-thirty-two-characters")
    headers: dict[str, Any] = {"id": "1", "task": "tailrace.ingest_run"}
    before_task_publish.send(
        "tailrace.ingest_run", body=[[], {}, {}], exchange="", routing_key="tailrace", headers=headers
    )
    assert "traceparent" in headers["tailrace_signature"]["headers"]
    assert sign in [receiver for _, receiver in before_task_publish.receivers]


@pytest.mark.parametrize("given", BAD)
def test_a_header_that_is_none_is_not_taken(given: str) -> None:
    assert carried({"traceparent": given}) is None
    assert carried({"traceparent": GOOD}) == GOOD
    assert carried({}) is None


def test_each_lease_of_each_stream_has_a_number_that_all_know() -> None:
    run = Context(TRACE, SPAN, True)
    numbers = {run.of_lease(stream, token).span_id for stream in (1, 2) for token in (1, 2, 12)}
    assert len(numbers | {SPAN, 0}) == 8
    assert run.of_lease(1, 12).trace_id == TRACE
    assert run.of_lease(1, 12) == run._replace(span_id=1).of_lease(1, 12)
