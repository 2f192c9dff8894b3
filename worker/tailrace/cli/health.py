"""`tailrace health`: ask the worker or exporter on this machine whether it lives, or is ready; for probes."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tailrace.cli.arguments import port_option
from tailrace.cli.exits import Exit
from tailrace.cli.output import say, shown
from tailrace.errors import BadSettings

ANSWER_S = 5.0
ANSWER_MAX_BYTES = 65_536


def health(
    live: Annotated[bool, typer.Option("--live", help="Ask whether it lives: if not, restart it.")] = False,
    ready: Annotated[bool, typer.Option("--ready", help="Ask whether it can read and store at present.")] = False,
    port: Annotated[int | None, port_option("--port", "Where.", "TAILRACE_METRICS_PORT")] = None,
) -> None:
    """Ask the worker on this machine whether it lives (`--live`) or is ready (`--ready`), by its metrics port.

    Ends with 0 when it is, with 1 and the reasons when not, with 5 when nobody answers.
    """
    from tailrace.config.settings import load

    if live is ready:
        raise typer.BadParameter("give one of --live and --ready")
    settings = load(os.environ)
    port = port or settings.metrics_port
    if port is None:
        raise BadSettings("No port: give --port, or TAILRACE_METRICS_PORT as the worker has it.")
    # A worker that listens everywhere listens here too.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.metrics_host, settings.metrics_host)
    status, said = _asked(host, port, "/live" if live else "/ready")
    for line in said.splitlines():
        say(f"tailrace: {shown(line)}")
    raise typer.Exit({200: Exit.OK, 503: Exit.FAILED}.get(status, Exit.UNREACHABLE))


def _asked(host: str, port: int, path: str) -> tuple[int, str]:
    """Return status and text of the answer; the status is 0 when there is none."""
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_MAX_BYTES).decode(errors="replace")
    except (OSError, HTTPException) as error:
        return 0, f"nobody answers on port {port} of {host}: {error or type(error).__name__}"
    finally:
        connection.close()
