"""`tailrace worker`: become a Celery worker with our defaults."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated
from uuid import uuid4

import typer

from tailrace.cli import servers
from tailrace.cli.arguments import metrics_host_option, port_option
from tailrace.cli.output import say
from tailrace.errors import BadSettings

SPARE_FILES = 256
"""Besides one socket for each stream: Postgres, Redis, logs, the libraries' own."""
FEW_SLOTS = 4
"""Of threads or processes, which cost more than greenlets: a default that any machine bears."""


class Pool(StrEnum):
    """Celery's pools that can read streams."""

    GEVENT = "gevent"
    THREADS = "threads"
    PREFORK = "prefork"
    SOLO = "solo"


class LogLevel(StrEnum):
    """As in TAILRACE_LOG_LEVEL."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def worker(
    pool: Annotated[Pool, typer.Option("--pool", "-P", help="How streams are read side by side.")] = Pool.GEVENT,
    slots: Annotated[
        int | None,
        typer.Option(
            "--slots",
            min=1,
            max=20_000,
            metavar="N",
            help="Streams read at once by this process.",
            show_default=f"TAILRACE_SLOTS; with prefork {FEW_SLOTS}, with solo 1",
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        port_option("--metrics-port", "Answer /metrics, /live and /ready on this port.", "TAILRACE_METRICS_PORT"),
    ] = None,
    metrics_host: Annotated[str | None, metrics_host_option("--metrics-host")] = None,
    loglevel: Annotated[
        LogLevel | None, typer.Option("--loglevel", "-l", help="Overrides TAILRACE_LOG_LEVEL.", show_default=False)
    ] = None,
) -> None:
    """Run a worker: it takes requests, reads streams and writes them to Postgres, until SIGTERM or Ctrl-C.

    Run as many as you like. gevent reads thousands of streams in one process; the other pools run the same code.
    """
    from tailrace.config.keys import accesses
    from tailrace.config.settings import load

    refuse_hidden_package(Path.cwd())
    settings = load(os.environ)
    accesses(settings)
    servers.database()
    servers.broker()
    for name, given in (
        ("TAILRACE_LOG_LEVEL", loglevel),
        ("TAILRACE_METRICS_PORT", metrics_port),
        ("TAILRACE_METRICS_HOST", metrics_host),
    ):
        if given is not None:
            os.environ[name] = str(given)
    if pool is Pool.PREFORK and (metrics_port or settings.metrics_port):
        from tailrace.metrics import FOLDER_PREFIX

        # The numbers of all its processes, in files that they share.
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", mkdtemp(prefix=FOLDER_PREFIX))
    wanted = slots or {Pool.SOLO: 1, Pool.PREFORK: FEW_SLOTS}.get(pool, settings.slots)
    raise_file_limit(wanted + SPARE_FILES)
    command = celery_command(pool, wanted, settings.reserve_slots, loglevel or LogLevel(settings.log_level))
    # A new program image: gevent must patch the process before anything else is imported.
    sys.stdout.flush()
    os.execv(sys.executable, command)


def refuse_hidden_package(folder: Path) -> None:
    """Celery looks for its app in the current folder first: another `tailrace` there would be run instead of ours.

    Raises:
        BadSettings: there is one.
    """
    import tailrace as ours

    package = Path(ours.__file__ or "").resolve().parent
    for name in ("tailrace", "tailrace.py"):
        found = (folder / name).resolve()
        if found.exists() and found != package and (found.is_file() or (found / "__init__.py").exists()):
            raise BadSettings(f"{found} hides Tailrace's own package: run this command in another folder.")


def celery_command(pool: Pool, slots: int, reserve: int, loglevel: LogLevel) -> list[str]:
    """Return the command line of the Celery worker.

    The reserve is kept free for requests. A process takes at most half of its slots for it, so more would be readers'.
    """
    concurrency = 1 if pool is Pool.SOLO else slots + min(reserve, slots)
    return [
        sys.executable,
        *("-m", "celery", "-A", "tailrace.tasks", "--quiet", "worker"),
        *("-P", pool.value, "-c", str(concurrency)),
        *("-n", f"tailrace-{uuid4().hex[:8]}@%h", "-Q", "tailrace", "-l", loglevel.value.upper()),
        # What Celery's workers tell each other is of no use here, and costs messages.
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


def raise_file_limit(wanted: int) -> None:
    """Allow this process, and what it becomes, as many open files as it needs, as far as the system lets it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        say(f"tailrace: only {allowed} open files are allowed and {wanted} may be needed: raise the limit (ulimit -Hn)")
