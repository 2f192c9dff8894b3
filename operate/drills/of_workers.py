"""Incidents of processes: workers, their room, the exporter, what workers do besides reading."""

from __future__ import annotations

from drills.drill import Drill, Still, healthy
from drills.fleet import RUNS, Figures, Fleet
from drills.sessions import END, FORGOTTEN, end_forgotten

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


def _maintenance_waits(fleet: Fleet) -> None:
    # In one transaction with the lock: nothing is counted in between.
    fleet.until_row("SELECT 1 FROM tailrace.tallied WHERE taken_at > now() - interval '1 hour'")
    fleet.execute(
        "UPDATE tailrace.tallied SET taken_at = now() - interval '2 hours' WHERE taken_at > now() - interval '1 hour'"
    )
    fleet.open_session(FORGOTTEN, "LOCK TABLE tailrace.tallied IN SHARE MODE")


def _some_slots(figures: Figures) -> bool:
    return 0 < figures.get("archive_worker_slots", 0) <= figures.get("archive_leased_streams", 0) < RUNS


DRILLS = {
    "no-worker": Drill(
        says="The only worker is killed.",
        alert="TailraceNoWorker",
        strike=Fleet.kill_workers,
        shown=FLEET,
        seen=lambda figures: figures.get("archive_workers") == 0 and figures.get("archive_open_streams", 0) > 0,
        todo=("tailrace doctor", "tailrace worker"),
        mend=Fleet.start_worker,
        over=healthy,
    ),
    "workers-dying": Drill(
        says="Every 20 seconds the worker is killed, as a machine without memory does, and another comes.",
        alert="TailraceWorkersDying",
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
        alert="TailraceWorkerNotScraped",
        strike=_unseen,
        shown=("up_workers", *FLEET),
        seen=lambda figures: figures.get("up_workers") == 0 and figures.get("archive_workers", 0) > 0,
        todo=("tailrace health --live", "tailrace worker"),
        mend=_seen,
        over=lambda figures: figures.get("up_workers", 0) > 0,
    ),
    "exporter-away": Drill(
        says="The exporter is killed.",
        alert="TailraceExporterAway",
        strike=Fleet.kill_exporter,
        shown=("up_exporter", "archive_up", "up_workers"),
        seen=lambda figures: figures.get("up_exporter") == 0,
        todo=("tailrace status", "tailrace exporter --port {exporter}"),
        mend=Fleet.start_exporter,
        over=lambda figures: figures.get("archive_up") == 1,
    ),
    "slots-full": Drill(
        says="Eight streams, and a worker with four slots.",
        alert="TailraceSlotsFull",
        strike=lambda fleet: None,
        shown=FLEET,
        seen=_some_slots,
        todo=("tailrace status", "tailrace worker --slots 50"),
        mend=Fleet.start_worker,
        over=healthy,
        slots=4,
    ),
    "maintenance-behind": Drill(
        says="Somebody's open transaction keeps the archive from being counted. The last count is made two hours\n"
        "older in SQL: else you would wait for an hour.",
        alert="TailraceTalliesStale",
        strike=_maintenance_waits,
        shown=("archive_tally_age_seconds", "archive_uncompacted_streams"),
        seen=lambda figures: figures.get("archive_tally_age_seconds", 0) > 3600,
        todo=("tailrace status", END),
        mend=end_forgotten,
        over=lambda figures: figures.get("archive_tally_age_seconds", 1e9) < 180,
    ),
}
