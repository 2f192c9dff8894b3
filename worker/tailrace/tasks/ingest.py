"""The tasks. They only connect messages with the runtime; what they do is in `tailrace.service.runtime`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from tailrace.errors import TransientError, UnknownEnvironment
from tailrace.tasks.app import app
from tailrace.tasks.current import current

UNKNOWN_TRIES = 60
"""How often a request for an environment that nobody serves is tried: for ten minutes."""
LIMITS = ("batch_max_chunks", "batch_max_bytes", "batch_max_age_ms")


@app.task(name="tailrace.ingest_run", bind=True, max_retries=None)
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
    ``environment`` names the run's; only where workers serve several it has to be told.
    """
    given = zip(LIMITS, (batch_max_chunks, batch_max_bytes, batch_max_age_ms), strict=True)
    options = {name: value for name, value in given if value is not None}
    process = current()
    try:
        run = process.runtime.request(run_id, streams, options, then=then, environment=environment)
    except TransientError as error:
        # Without a row there is only the message, and a task that fails has used it up.
        raise self.retry(exc=error, countdown=2) from error
    except UnknownEnvironment as error:
        # It may be new in the file with the keys, which takes a while to reach every machine.
        raise self.retry(exc=error, countdown=10, max_retries=UNKNOWN_TRIES) from error
    with contextlib.suppress(TransientError):  # it is a row: the control loop will see to it
        process.ingest_soon(run)


@app.task(name="tailrace.cancel_run", bind=True, max_retries=None)
def cancel_run(self: Any, run_id: str, *, environment: str | None = None) -> None:
    """Stop a run: its readers leave within seconds, what is stored stays. An unknown run is no error."""
    try:
        current().runtime.cancel(run_id, environment)
    except TransientError as error:
        raise self.retry(exc=error, countdown=2) from error


@app.task(name="tailrace.ingest_stream", acks_late=False)
def ingest_stream(stream_id: int) -> None:
    """Read one stream for a slice of time. A hint: lost, repeated or late, it does no harm."""
    # acks_late would keep thousands of messages unacknowledged for as long as their streams live, and buy nothing: the
    # lease in Postgres says who reads, and when it runs out the control loop hints again.
    current().runtime.ingest_stream(stream_id)
