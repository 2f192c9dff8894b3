"""The tasks, each with the rule of what it may be asked for.

They only connect messages with the runtime; what they do is in `tailrace.service.runtime`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from tailrace.arguments import checked_environment, checked_id, checked_name, run_request
from tailrace.errors import TransientError, UnknownEnvironment
from tailrace.tasks.app import app
from tailrace.tasks.carrying import carried
from tailrace.tasks.current import current
from tailrace.tracing import traces

UNKNOWN_TRIES = 60
"""How often a request for an environment that nobody serves is tried: for ten minutes."""


def _a_run(run_id: object, *, environment: object = None) -> None:
    checked_name("run_id", run_id)
    if environment is not None:
        checked_environment("environment", environment)


def _a_stream(stream_id: object) -> None:
    checked_id("stream_id", stream_id)


@app.task(name="tailrace.ingest_run", bind=True, max_retries=None, rule=staticmethod(run_request))
def ingest_run(
    self: Any,
    run_id: str,
    streams: Sequence[str] | None = None,
    *,
    batch_max_chunks: int | None = None,
    batch_max_bytes: int | None = None,
    batch_max_age_ms: int | None = None,
    then: str | None = None,
    environment: str | None = None,
) -> None:
    """Ingest a run: every stream it has or will have, or only ``streams``, until each is sealed.

    Returns when the run is a row; the readers are tasks of their own. Asking twice is harmless; a run that is sealed is
    read again, for what was written to it since, and sealed anew. The limits are those of
    the settings of the same names, for this run. ``then`` names a Celery task (``task@queue``) that is called, at least
    once, when the run is sealed, fails or is opened again, with run_id, event, environment and verdicts.
    ``environment`` names the run's; only where workers serve several it has to be told. ``.delay`` and ``.apply_async``
    raise `BadArgument` in the caller for what can't be meant.
    """
    asked = run_request(
        run_id,
        streams,
        batch_max_chunks=batch_max_chunks,
        batch_max_bytes=batch_max_bytes,
        batch_max_age_ms=batch_max_age_ms,
        then=then,
        environment=environment,
    )
    process = current()
    try:
        with traces().taken(carried(self.request), self.name, str(self.request.id), asked.run_id) as traceparent:
            run = process.runtime.request(
                asked.run_id,
                asked.streams,
                asked.options,
                then=asked.then,
                environment=asked.environment,
                traceparent=traceparent,
            )
    except TransientError as error:
        # Without a row there is only the message, and a task that fails has used it up.
        raise self.retry(exc=error, countdown=2) from error
    except UnknownEnvironment as error:
        # It may be new in the file with the keys, which takes a while to reach every machine.
        raise self.retry(exc=error, countdown=10, max_retries=UNKNOWN_TRIES) from error
    with contextlib.suppress(TransientError):  # it is a row: the control loop will see to it
        process.ingest_soon(run, asked.run_id, asked.environment)


@app.task(name="tailrace.cancel_run", bind=True, max_retries=None, rule=staticmethod(_a_run))
def cancel_run(self: Any, run_id: str, *, environment: str | None = None) -> None:
    """Stop a run: its readers leave within seconds, what is stored stays. An unknown run is no error."""
    try:
        current().runtime.cancel(run_id, environment)
    except TransientError as error:
        raise self.retry(exc=error, countdown=2) from error


@app.task(name="tailrace.ingest_stream", acks_late=False, rule=staticmethod(_a_stream))
def ingest_stream(stream_id: int) -> None:
    """Read one stream for a slice of time. A hint: lost, repeated or late, it does no harm."""
    # acks_late would keep thousands of messages unacknowledged for as long as their streams live, and buy nothing: the
    # lease in Postgres says who reads, and when it runs out the control loop hints again.
    current().runtime.ingest_stream(stream_id)
