"""Send the caller's trace along with what is asked of Tailrace's tasks, by whichever Celery app of this process.

Whoever traces with OpenTelemetry is in a span when it calls ``.delay``; whoever does not has nothing to send, and
nothing of OpenTelemetry is imported. Callers of ``.delay`` import this.
"""

from __future__ import annotations

from typing import Any, Final

from celery import signals

from tailrace.tracecontext import HEADER, current, parsed

__all__ = ["carried", "carry"]

TASK: Final = "tailrace.ingest_run"
"""What a run's trace begins with. Other messages are of no run, or only hints: the run's row has the trace."""


@signals.before_task_publish.connect(weak=False)
def carry(sender: object = None, headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Add the traceparent of the span that the caller is in, unless somebody has added one."""
    if sender == TASK and headers is not None and HEADER not in headers:
        traceparent = current()
        if traceparent is not None:
            headers[HEADER] = traceparent


def carried(request: Any) -> str | None:
    """Return the traceparent that came with a message; None for what is none. ``request``: Celery's, of a task."""
    found = parsed(request.get(HEADER))
    return None if found is None else str(found)
