"""`tailrace serve`: the archive over Trigger.dev's own HTTP surface."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tailrace.cli import servers
from tailrace.cli.arguments import metrics_host_option, port_option

HOST, DEFAULT_PORT = "127.0.0.1", 8787


def serve(
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_535, metavar="N", help="Which port; 0: a free one.")
    ] = DEFAULT_PORT,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="On which address.")] = HOST,
    fallback: Annotated[
        bool,
        typer.Option(
            "--fallback", help="Ask Trigger.dev for what is not archived, with the key by which it is archived."
        ),
    ] = False,
    metrics_port: Annotated[
        int | None,
        port_option("--metrics-port", "Answer /metrics, /live and /ready on this port.", "TAILRACE_METRICS_PORT"),
    ] = None,
    metrics_host: Annotated[str | None, metrics_host_option("--metrics-host")] = None,
) -> None:
    """Serve the archive as Trigger.dev serves its runs, until SIGTERM or Ctrl-C: clients change their base URL only.

    It takes the keys of `tailrace key`, the secret keys of the environments that are set here, and the public access
    tokens that those signed. The URL is the first line of output; there, a console shows the archive to people.
    """
    from tailrace.config.settings import load
    from tailrace.serve.archive.process import serve_archive
    from tailrace.serve.metrics import registry
    from tailrace.serve.probes import Probes
    from tailrace.service.endpoint import Endpoint
    from tailrace.telemetry import configure

    settings = load(os.environ)
    configure(settings.log_format, settings.log_level)
    database_url, probes = servers.database(), Probes()
    asked = metrics_port or settings.metrics_port
    endpoint = (
        None
        if asked is None
        else Endpoint(metrics_host or settings.metrics_host, asked, registry, probes.live, probes.ready)
    )
    try:
        if endpoint is not None:
            endpoint.start()
        serve_archive(settings, database_url, host, port, fallback=fallback, probes=probes)
    finally:
        if endpoint is not None:
            endpoint.stop()
