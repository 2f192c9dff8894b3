"""Incidents of those who read over HTTP."""

from __future__ import annotations

from drills.drill import Drill, healthy
from drills.figures import Figures, Share, Still
from drills.fleet import SERVER, Fleet

ASK_S = 0.2


def _lock_out(fleet: Fleet) -> None:
    fleet.start_server()
    fleet.again(ASK_S, fleet.read)
    fleet.until_answered()
    fleet.execute(f"ALTER ROLE {SERVER} NOLOGIN")
    fleet.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", SERVER)


_no_more = Still("serve_answers_failed", 10)


def _over(figures: Figures) -> bool:
    return _no_more(figures) and healthy(figures)


DRILLS = {
    "serve-failing": Drill(
        says=f"The account {SERVER}, with which a server for readers reads the archive, may not log in any more.",
        alerts=("TailraceServeFailing",),
        strike=_lock_out,
        shown=("serve_answers_failed", "serve_answers_total", "archive_leased_streams"),
        seen=Share("serve_answers_failed", "serve_answers_total", above=0.05),
        todo=("tailrace doctor", f"psql \"$DATABASE_URL\" --command 'ALTER ROLE {SERVER} LOGIN'"),
        mend=lambda fleet: fleet.execute(f"ALTER ROLE {SERVER} LOGIN"),
        over=_over,
    ),
}
