"""`tailrace serve`: one process, with all environments of an archive."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from dataclasses import dataclass

import httpx

from tailrace.config.keys import Access as Reached
from tailrace.config.settings import Settings
from tailrace.errors import StoreUnavailable
from tailrace.serve import metrics
from tailrace.serve.app import create_app_of, make_upstream
from tailrace.serve.archive.archive import CONNECTIONS, Archive
from tailrace.serve.archive.store import ArchiveStore
from tailrace.serve.archive.to_upstream import ToUpstream, upstream_client
from tailrace.serve.archive_access import KEPT_S, EnvironmentKeys, archive_access
from tailrace.serve.connections import Connections
from tailrace.serve.console.app import add_console, make_console
from tailrace.serve.draining import serve_until_told
from tailrace.serve.fresh import Fresh
from tailrace.serve.listing import Index
from tailrace.serve.probes import Probes
from tailrace.serve.upstream import Upstream

GC_OBJECTS = 50_000
"""New objects alive before cycles are looked for."""
AHEAD = 1_000_000
"""Upstream's numbers are the archive's, which is some of them behind: who has read so far there is not sent them again.
What is further ahead is no number of this stream."""


def serve_archive(
    settings: Settings, database_url: str, host: str, port: int, *, fallback: bool, probes: Probes
) -> None:
    """Serve until SIGTERM or SIGINT. The URL is the first line of output; port 0 takes a free one.

    ``fallback``: what is not archived is asked of upstream. ``probes`` are told when it begins, and stops, to serve.

    Raises:
        BadSettings: the database, the keys, the address or the port can't be used.
        NotMigrated: the database has no archive.
    """
    asyncio.run(_serve(settings, database_url, host, port, fallback=fallback, probes=probes))


async def _serve(
    settings: Settings, database_url: str, host: str, port: int, *, fallback: bool, probes: Probes
) -> None:
    # While it is looked for cycles through all that thousands of readers hold, nobody is served: the slowest of 2,000
    # then had a chunk 0.3 to 0.7 s after its commit, and has it after 0.12 s so.
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 20)
    archive = Archive(database_url)
    metrics.connections.set_function(archive.connections_in_use)
    metrics.connections_limit.set(CONNECTIONS)
    with suppress(StoreUnavailable):  # it may come back while nobody reads yet
        archive.serving.check()
    client = upstream_client(settings.connect_timeout_seconds, settings.read_timeout_seconds) if fallback else None
    parts = _Parts(archive, Connections(), client, Fresh(EnvironmentKeys(settings).look))
    origins = [] if settings.serve_origins is None else settings.serve_origins.split(",")
    database = Fresh(archive.serving.now)  # one look a second, however many ask

    async def healthy() -> object:
        return await database.at_most(1.0)

    admission = archive_access(settings, archive.engine)
    app = create_app_of(admission, parts.of, parts.connections, origins=origins, healthy=healthy)
    console = make_console(settings, database_url, admission)
    add_console(app, console)

    async def close() -> None:
        if client is not None:
            await client.aclose()
        console.close()
        await archive.close()

    def stop_waiting() -> None:
        probes.end()
        archive.stop_waiting()

    probes.begin(healthy)
    await serve_until_told(app, host, port, stop_waiting, close)


@dataclass(frozen=True, slots=True)
class _Parts:
    archive: Archive
    connections: Connections
    client: httpx.AsyncClient | None
    reached: Fresh[tuple[Reached, ...]]

    def of(self, environment: str) -> Upstream:
        """Make the parts of an environment."""
        store = ArchiveStore(self.archive, environment)

        async def reached() -> Reached | None:
            known = await self.reached.at_most(KEPT_S)
            return next((each for each in known if each.name == environment), None)

        return make_upstream(
            store,
            self.connections,
            index=Index(by_status=True),
            ahead=AHEAD,
            fallback=None if self.client is None else ToUpstream(environment, store, self.client, reached),
        )
