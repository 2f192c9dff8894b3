"""What the two formats of the run feed share: questions, rows and headers (protocol §5). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from tailrace.serve.runs import Run
from tailrace.serve.statuses import CURRENT_API_VERSION
from tailrace.serve.store import INPUT_PREFIX

UP_TO_DATE = {"headers": {"control": "up-to-date"}}

_COLUMNS: dict[str, tuple[str, int]] = {  # name → type and array dimensions, in the order of the wire
    "id": ("text", 0),
    "taskIdentifier": ("text", 0),
    "createdAt": ("timestamp", 0),
    "updatedAt": ("timestamp", 0),
    "startedAt": ("timestamp", 0),
    "delayUntil": ("timestamp", 0),
    "queuedAt": ("timestamp", 0),
    "expiredAt": ("timestamp", 0),
    "completedAt": ("timestamp", 0),
    "friendlyId": ("text", 0),
    "number": ("int4", 0),
    "isTest": ("bool", 0),
    "status": ("text", 0),
    "usageDurationMs": ("int4", 0),
    "costInCents": ("float8", 0),
    "baseCostInCents": ("float8", 0),
    "ttl": ("text", 0),
    "payload": ("text", 0),
    "payloadType": ("text", 0),
    "metadata": ("text", 0),
    "metadataType": ("text", 0),
    "output": ("text", 0),
    "outputType": ("text", 0),
    "runTags": ("text", 1),
    "error": ("jsonb", 0),
    "realtimeStreams": ("text", 1),
}
_NOT_SKIPPABLE = frozenset({"id", "taskIdentifier", "friendlyId", "status", "createdAt"})


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """The query and headers of a feed request, as far as they matter."""

    offset: str
    handle: str
    live: bool
    skip: frozenset[str]
    modern_headers: bool
    current_api: bool


@dataclass(frozen=True, slots=True)
class FeedAnswer:
    """A feed response."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


def feed_request(
    query: Mapping[str, str], headers: Mapping[str, str], skip: frozenset[str] = frozenset()
) -> FeedRequest:
    """Read a request; header names are in lower case. ``skip``: columns that are left out whatever it says."""
    modern = "x-trigger-electric-version" in headers
    skipped = frozenset(query.get("skipColumns", "").split(","))
    return FeedRequest(
        offset=query.get("offset", "-1"),
        handle=query.get("handle" if modern else "shape_id", ""),
        live=query.get("live") == "true",
        skip=(skipped | skip) - _NOT_SKIPPABLE,
        modern_headers=modern,
        current_api=headers.get("x-trigger-api-version") == CURRENT_API_VERSION,
    )


def row_key(run: Run) -> str:
    """The key under which a reader merges the messages of a run."""
    return f'"public"."TaskRun"/"{run.row_id}"'


def row_value(run: Run, request: FeedRequest, date_separator: str) -> dict[str, str | None]:
    """A run's columns: every value is a string or null."""

    def at(moment: datetime | None) -> str | None:
        if moment is None:
            return None
        return moment.astimezone(UTC).replace(tzinfo=None).isoformat(date_separator, "milliseconds")

    status = run.status if request.current_api or run.status != "DEQUEUED" else "EXECUTING"
    columns: dict[str, str | None] = {
        **dict.fromkeys(_COLUMNS),
        "id": run.row_id,
        "taskIdentifier": run.task_identifier,
        "createdAt": at(run.created_at),
        "updatedAt": at(run.updated_at),
        "startedAt": at(run.started_at),
        "queuedAt": at(run.created_at),
        "completedAt": at(run.finished_at),
        "friendlyId": run.run_id,
        "number": "0",
        "isTest": "f",
        "status": status,
        "usageDurationMs": "0",
        "costInCents": "0",
        "baseCostInCents": "0",
        "payload": "{}",
        "payloadType": "application/json",
        "metadata": run.metadata,
        "metadataType": "application/json",
        "outputType": "application/json",
        "runTags": array_literal(run.tags) if run.tags else None,  # that column has no default, so empty is null
        "realtimeStreams": array_literal([key for key in run.stream_keys if not key.startswith(INPUT_PREFIX)]),
    }
    return {name: columns[name] for name in _COLUMNS if name not in request.skip}


def array_literal(values: tuple[str, ...] | list[str]) -> str:
    """A Postgres array literal with every element quoted, as the built-in backend writes it."""
    quoted = ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    return "{" + ",".join(quoted) + "}"


def schema_header(skip: frozenset[str]) -> str:
    """The column types, as JSON."""
    schema: dict[str, dict[str, Any]] = {
        name: {"type": kind, "dims": dims} if dims else {"type": kind}
        for name, (kind, dims) in _COLUMNS.items()
        if name not in skip
    }
    return msgspec.json.encode(schema).decode()


def feed_headers(tokens: Mapping[str, str], request: FeedRequest) -> dict[str, str]:
    """The response headers, under the old names for a client that does not name its version."""
    names = {"handle": "electric-handle", "offset": "electric-offset"}
    if not request.modern_headers:
        names = {"handle": "electric-shape-id", "offset": "electric-chunk-last-offset"}
    return {
        "access-control-allow-origin": "*",
        "access-control-expose-headers": "*",
        "cache-control": "no-store",
        "content-type": "application/json",
        **{names.get(name, f"electric-{name}"): value for name, value in tokens.items()},
    }
