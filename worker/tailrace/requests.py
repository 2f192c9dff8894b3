"""Ask for a run in your own transaction: it is archived if, and only if, that transaction commits.

::

    with Session(engine) as session, session.begin():
        session.add(order)
        request_ingest(session, run.id)

Needs SQLAlchemy and nothing else of Tailrace: no broker, no setting. A worker finds the row within seconds of the
commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tailrace.tracecontext import current

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, scoped_session

__all__ = ["request_ingest"]

_REQUEST = sa.text(
    "SELECT tailrace.request_ingest(:run_id, :streams, :environment, :priority, :then, p_traceparent => :traceparent)"
).bindparams(sa.bindparam("streams", type_=sa.ARRAY(sa.Text)))


def request_ingest(
    session_or_connection: Session | scoped_session[Session] | sa.Connection,
    run_id: str,
    streams: Sequence[str] | None = None,
    *,
    environment: str = "default",
    backfill: bool = False,
    then: str | None = None,
) -> int:
    """Ask for a run to be archived, in the transaction that the session or connection is in; commit is the caller's.

    Args:
        session_or_connection: SQLAlchemy's, on the database of the archive. An async session goes through
            ``await session.run_sync(request_ingest, run_id)``.
        streams: only these stream keys; None: every stream that the run has or will have.
        environment: the name under which the archive knows the run's Trigger.dev environment.
        backfill: live runs go first, and what is sealed stays so.
        then: a Celery task (``task@queue``) to call, at least once, when the run is sealed, fails or is opened again.

    Returns:
        ``tailrace.runs.id``.

    Raises:
        sqlalchemy.exc.DBAPIError: the database refuses, for instance an environment that it does not know.

    Asking again is harmless: it widens the selection, and takes up again what had failed or was cancelled. A sealed run
    is read again, those of its streams that are asked for: what was written to them since is archived, and the run is
    sealed anew.

    Whoever traces with OpenTelemetry is in a span when it asks: what workers do for the run is in the same trace.
    """
    values = {
        "run_id": run_id,
        "streams": None if streams is None else list(streams),
        "environment": environment,
        "priority": 1 if backfill else 0,
        "then": then,
        "traceparent": current(),
    }
    return int(session_or_connection.execute(_REQUEST, values).scalar_one())
