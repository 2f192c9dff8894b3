"""Incidents of processes: workers, their room, and the exporter."""

from __future__ import annotations

from drills.drill import Drill, healthy
from drills.figures import Figures, Still
from drills.fleet import RUNS, Fleet

FLEET = ("archive_workers", "archive_worker_slots", "archive_leased_streams", "archive_troubled_streams")


def _die_and_come_again(fleet: Fleet) -> None:
    def once() -> None:
        fleet.kill_workers()
        fleet.start_worker()

    fleet.again(20, once)


def _unseen(fleet: Fleet) -> None:
    fleet.stop_workers()
    fleet.start_worker(seen=False)
    fleet.until_row("SELECT 1 FROM tailrace.workers WHERE expires_at > now()")


def _seen(fleet: Fleet) -> None:
    fleet.stop_workers()
    fleet.start_worker()


def _idle(figures: Figures) -> bool:
    return figures.get("archive_open_streams", 0) == 0 and figures.get("archive_open_runs", 0) == 0


def _allow_more(fleet: Fleet) -> None:
    fleet.stop_workers()
    fleet.start_worker(TAILRACE_MAX_CONNECTIONS="50")


def _some_slots(figures: Figures) -> bool:
    return 0 < figures.get("archive_worker_slots", 0) <= figures.get("archive_leased_streams", 0) < RUNS


def _all_connections(figures: Figures) -> bool:
    return figures.get("reading_streams", 0) >= figures.get("connections_limit", 0) > 0


DRILLS = {
    "no-worker": Drill(
        says="The only worker is killed.",
        alerts=("TailraceNoWorker",),
        strike=Fleet.kill_workers,
        shown=FLEET,
        seen=lambda figures: figures.get("archive_workers") == 0 and figures.get("archive_open_streams", 0) > 0,
        todo=("tailrace doctor", "tailrace worker"),
        mend=Fleet.start_worker,
        over=healthy,
    ),
    "no-worker-idle": Drill(
        says="The only worker is killed while the archive knows of nothing to read.",
        alerts=("TailraceNoWorkerIdle",),
        strike=Fleet.kill_workers,
        shown=("archive_workers", "archive_worker_slots", "archive_beat_age_seconds"),
        seen=lambda figures: figures.get("archive_workers") == 0 and _idle(figures),
        todo=("tailrace doctor", "tailrace worker"),
        mend=Fleet.start_worker,
        over=lambda figures: figures.get("archive_workers", 0) > 0,
        page="no-worker",
        idle=True,
        ready=lambda figures: figures.get("archive_workers", 0) > 0 and figures.get("up_workers", 0) > 0,
    ),
    "workers-dying": Drill(
        says="Every 20 seconds the worker is killed, as a machine without memory does, and another comes.",
        alerts=("TailraceWorkersDying",),
        strike=_die_and_come_again,
        shown=("takeovers_total", *FLEET),
        seen=lambda figures: figures.get("takeovers_total", 0) > 0,
        todo=("tailrace status", "Give it more memory."),
        mend=Fleet.calm,
        over=Still("takeovers_total", 30),
        theirs=True,
    ),
    "worker-not-scraped": Drill(
        says="The worker was started again, without its metrics port.",
        alerts=("TailraceWorkerNotScraped",),
        strike=_unseen,
        shown=("up_workers", *FLEET),
        seen=lambda figures: figures.get("up_workers") == 0 and figures.get("archive_workers", 0) > 0,
        todo=("tailrace health --live", "tailrace worker"),
        mend=_seen,
        over=lambda figures: figures.get("up_workers", 0) > 0,
    ),
    "exporter-away": Drill(
        says="The exporter is killed.",
        alerts=("TailraceExporterAway",),
        strike=Fleet.kill_exporter,
        shown=("up_exporter", "archive_up", "up_workers"),
        seen=lambda figures: figures.get("up_exporter") == 0,
        todo=("tailrace status", "tailrace exporter --port {exporter}"),
        mend=Fleet.start_exporter,
        over=lambda figures: figures.get("archive_up") == 1,
    ),
    "slots-full": Drill(
        says="Eight streams, and a worker with four slots.",
        alerts=("TailraceSlotsFull",),
        strike=lambda fleet: None,
        shown=FLEET,
        seen=_some_slots,
        todo=("tailrace status", "tailrace worker --slots 50"),
        mend=Fleet.start_worker,
        over=healthy,
        slots=4,
        ready=_some_slots,
    ),
    "connections-full": Drill(
        says="Eight streams, and TAILRACE_MAX_CONNECTIONS allows to read four.",
        alerts=("TailraceConnectionsFull",),
        strike=lambda fleet: None,
        shown=("reading_streams", "connections_limit", *FLEET),
        seen=_all_connections,
        todo=("tailrace status", "TAILRACE_MAX_CONNECTIONS=50 tailrace worker"),
        mend=_allow_more,
        over=healthy,
        page="slots-full",
        settings={"TAILRACE_MAX_CONNECTIONS": "4"},
        ready=_all_connections,
    ),
}
