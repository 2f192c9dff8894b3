"""The two servers that the client has to find alike: recordings, and an archive that was made of them by Tailrace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tailrace.config.origins import ANY_ORIGIN
from tailrace.devtools.servers.postgres import Postgres
from tailrace.serve.app import create_app_of, make_upstream
from tailrace.serve.archive import Archive, ArchiveStore
from tailrace.serve.archive_access import archive_access
from tailrace.serve.connections import Connections
from tailrace.serve.listing import Index
from tailrace.serve.recorded import RecordedStore
from tailrace.serve.timing import Timing
from tests.ingestion import Ingestion
from tests.leaks import lasting
from tests.streamcases import database
from tests.upstream import RunningServer, create_app, running
from tests.witness.recorded import NOW, WAITING, recordings

KEY = "tr_prod_" + "k" * 32
"""The environment's secret key: one of upstream's is good for an archive too."""

TIMING = Timing().scaled(0.02)
"""A second that the client asks for is 20 ms long; what it can't ask for shrinks with it."""

_SERVED: dict[str, Any] = {
    "timing": TIMING,
    "now_ms": lambda: int(NOW.timestamp() * 1000),
    "index": Index(by_status=True),
}


@contextmanager
def recordings_served() -> Iterator[RunningServer]:
    """Serve every recording, all there at once."""
    app = create_app(RecordedStore(recordings(), speed=0), api_key=KEY, **_SERVED)
    with running(app) as server, lasting(server.url.removeprefix("http://")):
        yield server


@contextmanager
def archive_served(postgres: Postgres, template: str, upstream: RunningServer) -> Iterator[RunningServer]:
    """Ingest what ``upstream`` serves, and serve the archive as `tailrace serve` does, but for its waits."""
    with database(postgres, template) as url:
        ingestion = Ingestion(url, upstream.url, secret_key=KEY)
        try:
            runs = [recording.run_id for recording in recordings()]
            for run_id in runs:
                ingestion.request(run_id)
            ingestion.until_sealed(*(run_id for run_id in runs if run_id != WAITING))
        finally:
            ingestion.close()
        archive = Archive(url)
        address = postgres.url().rpartition("@")[2].partition("/")[0]
        with lasting("thread tailrace-archive", address):
            connections = Connections()
            parts = make_upstream(ArchiveStore(archive, "default"), connections, **_SERVED)
            access = archive_access(ingestion.settings, archive.engine)
            app = create_app_of(access, {"default": parts}.__getitem__, connections, origins=[ANY_ORIGIN])
            with running(app) as server, lasting(server.url.removeprefix("http://")):
                yield server
            archive.let_go()
