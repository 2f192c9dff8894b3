"""`tailrace exporter`: show the archive's figures to Prometheus, from Postgres alone."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

from tailrace.cli import servers
from tailrace.cli.arguments import metrics_host_option, port_option
from tailrace.cli.output import say

DEFAULT_PORT = 9464
"""What OpenTelemetry's exporters for Prometheus take."""


def exporter(
    port: Annotated[
        int | None, port_option("--port", "Which port.", f"TAILRACE_METRICS_PORT, else {DEFAULT_PORT}")
    ] = None,
    host: Annotated[str | None, metrics_host_option("--host")] = None,
) -> None:
    """Answer `/metrics` with the archive's figures, read from Postgres alone: they are there when no worker is.

    Needs neither key nor broker, and a role that may read. Runs until SIGTERM or Ctrl-C.
    """
    from tailrace.config.settings import load
    from tailrace.service.endpoint import Endpoint
    from tailrace.service.exporter import ArchiveCollector, registry_of
    from tailrace.store.engine import create_engine, end
    from tailrace.store.figures import Figures
    from tailrace.telemetry import configure

    settings = load(os.environ)
    configure(settings.log_format, settings.log_level)
    engine = create_engine(servers.database(), pool_size=1, max_overflow=0, application_name="tailrace exporter")
    collector = ArchiveCollector(Figures(engine))

    def not_ready() -> list[str]:
        list(collector.collect())
        return [] if collector.wrong is None else [f"the archive can't be read: {collector.wrong}"]

    endpoint = Endpoint(
        host or settings.metrics_host,
        port or settings.metrics_port or DEFAULT_PORT,
        registry_of(collector),
        lambda: [],
        not_ready,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    say(f"tailrace: the archive's figures are on port {endpoint.port}")
    try:
        endpoint.serve()
    finally:
        end(engine)
