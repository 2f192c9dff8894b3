"""Make operate/grafana/tailrace.json: what an operator asks, as panels. A test compares the file with this.

    python tools/dashboard.py

`ROWS` is all there is to it; tools/dashboard_picture.py draws the same panels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parents[1] / "operate" / "grafana" / "tailrace.json"
WIDTH: Final = 24
"""Grafana's own: columns of its grid."""
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
GREEN, ORANGE, RED = "green", "orange", "red"


@dataclass(frozen=True)
class Query:
    """One question to Prometheus. ``legend`` names its series, with labels in double braces."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One question of an operator. ``unit`` is Grafana's word for it.

    ``stat``: one number instead of curves. ``steps``: from which values on it has which colour, beginning with the
    colour below all. ``none``: what an empty answer means.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    stat: bool = False
    steps: tuple[tuple[float | None, str], ...] = ((None, GREEN),)
    none: str = "none"
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    """Panels that answer one question together."""

    title: str
    panels: tuple[Panel, ...]
    height: int = 8
    columns: int = 3


def of(expr: str, legend: str = "") -> tuple[Query, ...]:
    """Return one query."""
    return (Query(expr, legend),)


ZERO_IS_GOOD: Final = ((None, GREEN), (1.0, RED))

LOSS: Final = Row(
    "Is anything being lost?",
    (
        Panel(
            "Upstream may forget in",
            "Until upstream may forget what was not read, of the worst stream that is not being read as it should. "
            "Negative: it may have. Nothing: every stream is being read.",
            of("min(tailrace_archive_forgotten_in_seconds)"),
            unit="s",
            stat=True,
            steps=((None, GREEN), (-1e12, RED), (4 * 3600.0, ORANGE), (12 * 3600.0, GREEN)),  # the first: no answer
            none="nothing in danger",
        ),
        Panel(
            "Losses in the last hour",
            "Times that upstream no longer had records when they were to be read. View tailrace.gaps has each.",
            of("ceil(sum(tailrace:gaps:increase1h)) or vector(0)"),
            stat=True,
            steps=ZERO_IS_GOOD,
        ),
        Panel(
            "Waiting for Postgres",
            "Streams whose chunks wait longer than they should.",
            of("sum(tailrace_uncommitted_streams)"),
            stat=True,
            steps=ZERO_IS_GOOD,
            none="no worker is scraped",
        ),
        Panel(
            "Stuck",
            "Streams of which nothing comes although upstream says that there is more.",
            of("sum(tailrace_archive_stuck_streams) or vector(0)"),
            stat=True,
            steps=((None, GREEN), (1.0, ORANGE)),
        ),
        Panel(
            "Keys refused",
            "Environments whose key upstream refuses: nothing of them is read.",
            of("count(tailrace_archive_halted_seconds > 0) or vector(0)"),
            stat=True,
            steps=ZERO_IS_GOOD,
        ),
        Panel(
            "Workers alive",
            "As the archive knows them. Without one nothing is read.",
            of("max(tailrace_archive_workers)"),
            stat=True,
            steps=((None, RED), (1.0, GREEN)),
            none="the archive is not read",
        ),
        Panel(
            "Archive readable",
            "Whether the exporter could read the archive when it was last asked. 0: Postgres is most likely away.",
            of("min(tailrace_archive_up)"),
            stat=True,
            steps=((None, RED), (1.0, GREEN)),
            none="no exporter",
        ),
        Panel(
            "Alerts",
            "Alerts of Tailrace that fire now.",
            of('count(ALERTS{alertname=~"Tailrace.*", alertstate="firing"}) or vector(0)'),
            stat=True,
            steps=ZERO_IS_GOOD,
        ),
    ),
    height=4,
    columns=8,
)

READ: Final = Row(
    "Is everything being read?",
    (
        Panel(
            "Open streams",
            "Streams that are not closed, by state. Pending: they wait for a reader; parked: silent, or backing off.",
            of("sum by (state) (tailrace_archive_open_streams)", "{{state}}"),
            stacked=True,
        ),
        Panel(
            "Slots taken",
            "Streams that are being read, and how many could be. At the limit they take turns.",
            (
                Query("sum(tailrace_archive_leased_streams)", "read"),
                Query("max(tailrace_archive_worker_slots)", "slots"),
            ),
        ),
        Panel(
            "Behind, in seconds",
            "For how long the worst stream has been behind upstream's tail (v2; v1 tells no tail).",
            of("max by (environment) (tailrace_archive_lag_seconds)", "{{environment}}"),
            unit="s",
        ),
        Panel(
            "Behind, in records",
            "How many records the worst stream is behind upstream's tail (v2).",
            of("max by (environment) (tailrace_archive_lag_records)", "{{environment}}"),
        ),
        Panel(
            "Oldest open stream",
            "Age of the oldest stream that is not closed: an agent that waits for a person may wait for days.",
            of("max by (environment) (tailrace_archive_oldest_open_stream_seconds)", "{{environment}}"),
            unit="s",
        ),
        Panel(
            "In trouble",
            "Streams whose last attempt failed, and those that are stuck.",
            (
                Query(
                    "sum by (environment) (tailrace_archive_troubled_streams)", "{{environment}}: last attempt failed"
                ),
                Query("sum by (environment) (tailrace_archive_stuck_streams)", "{{environment}}: stuck"),
            ),
        ),
        Panel(
            "Open runs",
            "Runs that are asked for or watched.",
            of("sum by (state) (tailrace_archive_open_runs)", "{{state}}"),
            stacked=True,
        ),
        Panel(
            "Connections in use",
            "Connections that read streams, of TAILRACE_MAX_CONNECTIONS where it is set.",
            (
                Query("sum(tailrace_reading_streams)", "in use"),
                Query("max(tailrace_connections_limit) > 0", "limit"),
            ),
        ),
        Panel(
            "Gone from upstream",
            "Losses by reason, of the last hour: trimmed (v1 keeps about 1 000 entries), expired, recreated, missing.",
            of("tailrace:gaps:increase1h", "{{reason}}"),
        ),
    ),
)

STORED: Final = Row(
    "Is it being stored?",
    (
        Panel(
            "Chunks committed",
            "Chunks that became durable, a second.",
            of("tailrace:committed_chunks:rate5m", "chunks"),
            unit="cps",
        ),
        Panel(
            "Bytes committed",
            "JSON text of the chunks that became durable, a second, uncompressed.",
            of("tailrace:committed_bytes:rate5m", "bytes"),
            unit="Bps",
        ),
        Panel(
            "Commits",
            "How long a group commit takes. Usually milliseconds.",
            (
                Query("tailrace:commit_seconds:p50_5m", "half are faster"),
                Query("tailrace:commit_seconds:p99_5m", "99 % are faster"),
            ),
            unit="s",
        ),
        Panel(
            "Why batches are flushed",
            "age: live streams. count, bytes: catching up. pressure: the buffer is full, Postgres is too slow.",
            of("sum by (reason) (rate(tailrace_flushes_total[5m]))", "{{reason}}"),
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Chunks of a batch",
            "On average. Small batches make more rows.",
            of("sum(rate(tailrace_flush_chunks_sum[5m])) / (sum(rate(tailrace_flush_chunks_count[5m])) > 0)", "chunks"),
        ),
        Panel(
            "Age of a batch",
            "How long the oldest chunk of a batch had waited when it was handed to the database, on average.",
            of(
                "sum(rate(tailrace_flush_age_seconds_sum[5m])) / (sum(rate(tailrace_flush_age_seconds_count[5m])) > 0)",
                "age",
            ),
            unit="s",
        ),
        Panel(
            "Held in memory",
            "What upstream sent and Postgres has not taken yet, by worker. The limit is TAILRACE_BUFFER_MAX_BYTES.",
            of("tailrace_buffer_bytes", "{{instance}}"),
            unit="bytes",
        ),
        Panel(
            "Waiting for Postgres",
            "Streams whose chunks wait longer than they should, by worker.",
            of("tailrace_uncommitted_streams", "{{instance}}"),
        ),
        Panel(
            "Postgres sessions",
            "Sessions of the server, everybody's, and its limit.",
            (
                Query("max(tailrace_archive_postgres_sessions)", "in use"),
                Query("max(tailrace_archive_postgres_sessions_limit)", "limit"),
            ),
        ),
    ),
)

UPSTREAM: Final = Row(
    "How is upstream?",
    (
        Panel(
            "Answers",
            "By status. none: it did not answer.",
            of("sum by (code) (tailrace:upstream_answers:rate5m)", "{{code}}"),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Failures",
            "Share of 5xx, 429 and no answer.",
            of("tailrace:upstream_failures:ratio5m", "{{environment}}"),
            unit="percentunit",
        ),
        Panel(
            "Connections opened again",
            "By why the one before ended.",
            of("sum by (reason) (rate(tailrace_reconnects_total[5m]))", "{{reason}}"),
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Read again and dropped",
            "Records at or before the checkpoint: what reconnects and takeovers cost. Not stored twice.",
            of("sum(rate(tailrace_duplicate_records_total[5m]))", "records"),
            unit="cps",
        ),
        Panel(
            "Quarantined",
            "Records of the last hour that can't be chunks, kept raw, by what is wrong.",
            of("tailrace:quarantined_records:increase1h", "{{reason}}"),
        ),
        Panel(
            "Rows that can't be read",
            "Of feeds and lists of runs, in the last hour. Upstream may have changed what it sends.",
            of("tailrace:malformed_rows:increase1h", "{{kind}}"),
        ),
    ),
)

FLEET: Final = Row(
    "How is the fleet?",
    (
        Panel(
            "Workers",
            "As the archive knows them, and as Prometheus reaches them.",
            (
                Query("max(tailrace_archive_workers)", "alive"),
                Query('sum(up{job=~"(.+/)?tailrace-worker"})', "scraped"),
            ),
        ),
        Panel(
            "Last sign of life",
            "Since any worker renewed its leases.",
            of("min(tailrace_archive_beat_age_seconds)", "age"),
            unit="s",
        ),
        Panel(
            "Streams read by each worker",
            "They share them by their slots.",
            of("sum by (instance) (tailrace_reading_streams)", "{{instance}}"),
        ),
        Panel(
            "Taken over",
            "Streams whose last reader did not leave in order, and streams that readers lost to another worker. A "
            "deploy makes none.",
            (
                Query("sum(rate(tailrace_takeovers_total[5m]))", "taken over"),
                Query("sum(rate(tailrace_lease_losses_total[5m]))", "lost to another"),
            ),
            unit="ops",
        ),
        Panel(
            "CPU",
            "One worker under gevent has one core at most. Not shown under prefork.",
            of("rate(process_cpu_seconds_total[5m]) and on (instance) tailrace_slots", "{{instance}}"),
            unit="percentunit",
        ),
        Panel(
            "Memory",
            "About 47 kB a stream. Not shown under prefork.",
            of("process_resident_memory_bytes and on (instance) tailrace_slots", "{{instance}}"),
            unit="bytes",
        ),
        Panel(
            "Messages refused",
            "From the queue, in the last hour, that could not be tasks.",
            of("tailrace:refused_messages:increase1h", "{{kind}}"),
        ),
        Panel(
            "Versions",
            "Workers by the version that they run.",
            of("count by (version) (tailrace_build_info)", "{{version}}"),
            stacked=True,
        ),
        Panel(
            "Cost of asking",
            "How long the exporter takes to read the archive.",
            of("max(tailrace_archive_scrape_seconds)", "seconds"),
            unit="s",
        ),
    ),
)

KEPT: Final = Row(
    "Is it found and kept?",
    (
        Panel(
            "New runs found up to",
            "How long ago. It grows between two readings of the list (TAILRACE_DISCOVER_SCAN_SECONDS).",
            of("max by (environment) (tailrace_archive_discovery_lag_seconds)", "{{environment}}"),
            unit="s",
        ),
        Panel(
            "Backfills",
            "Those that are not over, those that fail, and the runs that they have asked for.",
            (
                Query("sum(tailrace_archive_backfills)", "not over"),
                Query("sum(tailrace_archive_failing_backfills)", "failing"),
                Query("sum(tailrace_archive_backfill_seen_runs)", "runs listed"),
                Query("sum(tailrace_archive_backfill_requested_runs)", "runs asked for"),
            ),
        ),
        Panel(
            "Closed streams",
            "By verdict: what the archive knows of their completeness.",
            of("sum by (verdict) (tailrace_archive_closed_streams)", "{{verdict}}"),
            stacked=True,
        ),
        Panel(
            "Chunks in the archive",
            "All of them.",
            of("sum by (environment) (tailrace_archive_chunks)", "{{environment}}"),
        ),
        Panel(
            "Size",
            "Tables and indexes, as Postgres last counted them, beside the JSON text that they hold.",
            (
                Query("max(tailrace_archive_size_bytes)", "on disk"),
                Query("sum(tailrace_archive_json_bytes)", "JSON text"),
            ),
            unit="bytes",
        ),
        Panel(
            "Losses and quarantine in the archive",
            "Of streams that are closed.",
            (
                Query("sum(tailrace_archive_losses)", "losses"),
                Query("sum(tailrace_archive_quarantined_records)", "quarantined"),
            ),
        ),
        Panel(
            "Waiting for maintenance",
            "Sealed streams to be compacted or made searchable, and messages about settled runs to be sent.",
            (
                Query("max(tailrace_archive_uncompacted_streams)", "to be compacted"),
                Query("max(tailrace_archive_unsent_messages)", "messages"),
                Query("max(tailrace_archive_oldest_unsent_message_seconds)", "oldest message, seconds"),
            ),
        ),
        Panel(
            "Counted and verified",
            "Since the archive was last counted, and since all of it was verified; within how long that is promised.",
            (
                Query("max(tailrace_archive_tally_age_seconds)", "counted"),
                Query("max(tailrace_archive_verified_age_seconds)", "verified"),
                Query("max(tailrace_scrub_within_seconds) > 0", "to be verified within"),
            ),
            unit="s",
        ),
        Panel(
            "Room for new streams",
            "For how long there are partitions. Workers make them, two weeks ahead.",
            of("min(tailrace_archive_partitions_ahead_seconds)", "ahead"),
            unit="s",
        ),
        Panel(
            "Not as stored",
            "Streams with which something was wrong when they were last verified, and days that never were.",
            (
                Query("max(tailrace_archive_mismatched_streams)", "streams"),
                Query("max(tailrace_archive_never_verified)", "days never verified"),
            ),
        ),
    ),
)

SERVED: Final = Row(
    "Who reads from tailrace serve?",
    (
        Panel(
            "Readers",
            "Streams that are being read, by their wire. upstream: passed on from there (--fallback).",
            of("sum by (wire) (tailrace_serve_readers)", "{{wire}}"),
            stacked=True,
            none="no server is scraped",
        ),
        Panel(
            "Answers to readers",
            "By status. 500: the database is away, or a fault of Tailrace; clients ask again.",
            of('sum by (code) (rate(tailrace_serve_answers_total{route!="healthcheck"}[5m]))', "{{code}}"),
            unit="reqps",
            stacked=True,
            none="no server is scraped",
        ),
        Panel(
            "Credentials refused",
            "wrong: somebody guesses, or reads with an old key. other: a token that is over, an unknown environment.",
            of("sum by (reason) (rate(tailrace_serve_refused_requests_total[5m]))", "{{reason}}"),
            unit="reqps",
            stacked=True,
            none="no server is scraped",
        ),
        Panel(
            "Sent to readers",
            "Bodies of answers.",
            of("sum(rate(tailrace_serve_sent_bytes_total[5m]))", "bytes"),
            unit="Bps",
            none="no server is scraped",
        ),
        Panel(
            "Looks at what was committed",
            "How long one takes, for all readers of a server. With 0.05 s more, readers are so late.",
            (
                Query(
                    "sum(rate(tailrace_serve_look_seconds_sum[5m]))"
                    " / (sum(rate(tailrace_serve_look_seconds_count[5m])) > 0)",
                    "on average",
                ),
                Query(
                    "histogram_quantile(0.99, sum by (le) (rate(tailrace_serve_look_seconds_bucket[5m])))",
                    "99 % are faster",
                ),
            ),
            unit="s",
            none="nobody reads",
        ),
        Panel(
            "Looks that failed",
            "streams, runs: who waits for them does not see what is new.",
            of("sum by (kind) (rate(tailrace_serve_failed_looks_total[5m]))", "{{kind}}"),
            unit="ops",
            none="no server is scraped",
        ),
        Panel(
            "Connections of a server",
            "To Postgres, in use when it was asked, and its limit.",
            (
                Query("max by (instance) (tailrace_serve_postgres_connections)", "{{instance}}"),
                Query("max(tailrace_serve_postgres_connections_limit)", "limit"),
            ),
            none="no server is scraped",
        ),
        Panel(
            "CPU of a server",
            "One has one core at most.",
            of("rate(process_cpu_seconds_total[5m]) and on (instance) tailrace_serve_build_info", "{{instance}}"),
            unit="percentunit",
            none="no server is scraped",
        ),
        Panel(
            "Memory of a server",
            "About 27 kB a reader that waits, and what was read last.",
            of("process_resident_memory_bytes and on (instance) tailrace_serve_build_info", "{{instance}}"),
            unit="bytes",
            none="no server is scraped",
        ),
    ),
)

WATCHED: Final = (LOSS, READ, STORED, UPSTREAM, FLEET, KEPT)
"""Those of what `make watch` starts, which it draws."""
ROWS: Final = (*WATCHED, SERVED)


def panels(rows: Sequence[Row] = ROWS) -> Iterator[tuple[Row, Panel]]:
    """Return every panel with its row."""
    for row in rows:
        for panel in row.panels:
            yield row, panel


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    shown: list[dict[str, Any]] = []
    top = 0
    for row in ROWS:
        shown.append(_at(top, 0, WIDTH, 1) | {"id": len(shown) + 1, "type": "row", "title": row.title, "panels": []})
        top += 1
        width = WIDTH // row.columns
        for index, panel in enumerate(row.panels):
            line, column = divmod(index, row.columns)
            place = _at(top + line * row.height, column * width, width, row.height)
            shown.append(place | {"id": len(shown) + 1} | _panel(panel))
        top += row.height * -(-len(row.panels) // row.columns)
    return {
        "uid": "tailrace",
        "title": "Tailrace",
        "description": "Made by tools/dashboard.py. Alerts and what to do about them: docs/runbooks.",
        "tags": ["tailrace"],
        "timezone": "browser",
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                    "refresh": 1,
                }
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "datasource": SOURCE,
                    "enable": True,
                    "iconColor": RED,
                    "expr": 'ALERTS{alertname=~"Tailrace.*", alertstate="firing"}',
                    "titleFormat": "{{alertname}}",
                }
            ]
        },
        "panels": shown,
    }


def _at(y: int, x: int, width: int, height: int) -> dict[str, Any]:
    return {"gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _panel(panel: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
    if panel.stacked:
        custom |= {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 30}
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "noValue": panel.none,
        "thresholds": {"mode": "absolute", "steps": [{"value": at, "color": color} for at, color in panel.steps]},
    }
    options: dict[str, Any] = (
        {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background", "graphMode": "none"}
        if panel.stat
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    )
    if not panel.stat:
        defaults |= {"min": 0, "custom": custom}
    return {
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "instant": panel.stat,
                "range": not panel.stat,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """Return the file's text."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
