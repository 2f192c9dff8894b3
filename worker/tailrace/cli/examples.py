"""What each command is used for, as one would type it. Shown at the end of its help."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EXAMPLES", "Example", "epilog"]


class Example(NamedTuple):
    """A command line, and what it does."""

    line: str
    does: str


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "demo": (Example("tailrace demo", "see all of it on two recorded runs, in less than a minute"),),
    "up": (Example("tailrace up", "start a Postgres and a Valkey in this folder, and migrate"),),
    "down": (Example("tailrace down", "stop them; what they hold stays"),),
    "migrate": (Example("tailrace migrate", "make the tables, or bring them up to date"),),
    "roles": (
        Example("tailrace roles", "make tailrace_runtime for workers and tailrace_reader for who only reads"),
        Example("tailrace roles --print", "print the SQL, for somebody who may run it"),
    ),
    "doctor": (
        Example("tailrace doctor", "look at everything, and say what to do"),
        Example("tailrace doctor --json", "the same for programs; the exit code says what is wrong"),
    ),
    "ingest": (
        Example("tailrace ingest run_abc123 --wait", "ask for a run, and wait until it is sealed"),
        Example(
            "tailrace ingest run_abc123 --stream ai-output --local", "read one stream of it here, without a worker"
        ),
    ),
    "cancel": (Example("tailrace cancel run_abc123", "stop ingesting a run; what is archived stays"),),
    "retry": (Example("tailrace retry run_abc123", "try again what failed or was cancelled"),),
    "backfill": (
        Example("tailrace backfill --since 7d --dry-run", "count the runs of the last week that are not archived"),
        Example("tailrace backfill --since 2d --task summarize --tag eval", "archive some of those of two days"),
    ),
    "worker": (
        Example("tailrace worker", "run a worker until SIGTERM or Ctrl-C"),
        Example("tailrace worker --pool threads --slots 50", "read 50 streams at once, without gevent"),
        Example("tailrace worker --metrics-port 9464", "answer /metrics, /live and /ready on a port"),
    ),
    "exporter": (Example("tailrace exporter --port 9460", "show the archive's figures to Prometheus"),),
    "health": (
        Example("tailrace health --live", "for a probe that restarts what does not live"),
        Example("tailrace health --ready", "for one that only wants to know"),
    ),
    "replay": (
        Example("tailrace replay --port 8790 --speed 0", "serve the recorded runs, all there at once"),
        Example("tailrace replay --port 8790 --key tr_dev_mine", "as they came, to clients with this key"),
    ),
    "serve": (
        Example("tailrace serve --port 8787", "serve what is archived to clients of Trigger.dev on this machine"),
        Example("tailrace serve --host 0.0.0.0 --fallback", "to others too, and pass on what is not archived"),
    ),
    "status": (
        Example("tailrace status --limit 10", "the ten runs that were asked for last"),
        Example("tailrace status run_abc123", "the streams of one run: how far each is, and who reads it"),
    ),
    "chunks": (
        Example("tailrace chunks run_abc123 --stream ai-output", "all chunks of a stream, one a line"),
        Example("tailrace chunks run_abc123 --from 100 --to 199 --json", "some of them, with their indices"),
    ),
    "text": (Example("tailrace text run_abc123 --stream ai-output", "an answer as one text"),),
    "sql": (
        Example("tailrace sql 'SELECT * FROM tailrace.run_overview LIMIT 5' --expanded", "a line for each column"),
        Example("tailrace sql 'SELECT type, count(*) FROM tailrace.chunks GROUP BY 1' --csv", "for a spreadsheet"),
        Example("tailrace sql - --json --timeout 300", "a statement from stdin, one JSON object a row"),
    ),
    "verify": (
        Example("tailrace verify", "check every stream of the archive"),
        Example("tailrace verify run_abc123", "check those of one run"),
    ),
    "export": (
        Example("tailrace export --to ./archive", "Parquet files of the days that are over; again: only what is new"),
        Example("tailrace export --to s3://bucket/archive --format jsonl --since 7d", "a week as JSON lines"),
    ),
    "prune": (
        Example("tailrace prune --days 90 --dry-run", "say which days would go"),
        Example("tailrace prune --days 90", "drop them"),
    ),
    "forget": (
        Example("tailrace forget run_abc123 --yes", "delete a run for good, and keep it from coming back"),
        Example("tailrace forget --tag user_42", "every run with this tag, after a question"),
    ),
    "key": (
        Example("tailrace key add web-frontend --environment production", "make a key that reads one environment"),
        Example("tailrace key list", "see who may read, and which keys nobody uses any more"),
        Example("tailrace key revoke web-frontend", "take a key back"),
    ),
    "compact": (Example("tailrace compact --retry", "compact all that waits for it, also what failed before"),),
}
"""By command. A test looks that each command has one, and that each can be parsed."""


def epilog(command: str) -> str:
    """Return the end of a command's help. A blank line between two lines keeps them apart there."""
    lines = [
        part for line, does in EXAMPLES.get(command, ()) for part in (f"{does[0].upper()}{does[1:]}:", f"`{line}`")
    ]
    return "\n\n".join(["Examples", *lines]) if lines else ""
