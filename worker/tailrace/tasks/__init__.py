"""What others call: ``from tailrace.tasks import ingest_run; ingest_run.delay("run_...")``."""

from tailrace.tasks.app import app
from tailrace.tasks.ingest import cancel_run, ingest_run, ingest_stream
from tailrace.tasks.maintenance import backfill

__all__ = ["app", "backfill", "cancel_run", "ingest_run", "ingest_stream"]
