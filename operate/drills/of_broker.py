"""Incidents of the broker."""

from __future__ import annotations

from drills.drill import Drill, healthy
from drills.figures import Still
from drills.fleet import SHORT, Fleet
from drills.sessions import SEALS_SOON


def _settle_unheard(fleet: Fleet) -> None:
    fleet.stop_broker()
    fleet.execute("SELECT tailrace.request_ingest(%s, p_then => 'app.tasks.archived')", SHORT)


DRILLS = {
    "refused-messages": Drill(
        says="A stranger pushes what is no task into the workers' queue, every two seconds.",
        alerts=("TailraceRefusedMessages",),
        strike=lambda fleet: fleet.again(2, lambda: fleet.push(b"garbage")),
        shown=("refused_messages_total",),
        seen=lambda figures: figures.get("refused_messages_total", 0) > 0,
        todo=("tailrace doctor", "Find the kind and the reason in the worker's log, worker.log in $TAILRACE_HOME."),
        mend=Fleet.calm,
        over=Still("refused_messages_total", 10),
        theirs=True,
    ),
    "messages-unsent": Drill(
        says="The broker is stopped, and a run is settled of which somebody wants to be told.",
        alerts=("TailraceMessagesUnsent",),
        strike=_settle_unheard,
        shown=("archive_unsent_messages", "archive_oldest_unsent_message_seconds", "archive_closed_streams_sealed"),
        seen=lambda figures: figures.get("archive_oldest_unsent_message_seconds", 0) > 0,
        todo=("tailrace doctor", "tailrace up"),
        mend=Fleet.start_servers,
        over=lambda figures: figures.get("archive_unsent_messages") == 0 and healthy(figures),
        settings=SEALS_SOON,
    ),
}
