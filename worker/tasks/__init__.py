"""What others call: ``from worker.tasks import ingest_run; ingest_run.delay("run_...")``."""

from worker.tasks.app import app
from worker.tasks.ingest import cancel_run, ingest_run, ingest_stream
from worker.tasks.upkeep import backfill

__all__ = ["app", "backfill", "cancel_run", "ingest_run", "ingest_stream"]
