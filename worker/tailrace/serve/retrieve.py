"""A run as ``GET /api/v3/runs/{run}`` and the list show it (protocol §4).

Names are those of the API; there are no stream keys and no streams version.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from tailrace.serve.runs import Run
from tailrace.serve.statuses import api_flags, api_status

SHOWN_VERSION = "20261101.1"
"""What every run here says that it was deployed as."""


def run_body(run: Run, api_version: str | None) -> bytes:
    """The run as the retrieve route shows it. Fields without a value are absent, as JSON.stringify leaves them out."""
    fields = _fields(run, api_version)
    fields |= {
        "payload": {},
        "attemptCount": 1 if run.started_at else 0,
        "attempts": [],
        "relatedRuns": {"children": []},
    }
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


def listed_run(run: Run, api_version: str | None) -> dict[str, Any]:
    """The run as the list shows it: without payload and relations; ``finishedAt`` falls back to ``updatedAt``."""
    fields = _fields(run, api_version)
    if fields["finishedAt"] is None and fields["isCompleted"]:
        fields["finishedAt"] = fields["updatedAt"]
    fields |= {"env": {"id": "env_1", "name": "dev", "user": "someone"}, "taskKind": "STANDARD"}
    return {name: value for name, value in fields.items() if value is not None}


def _fields(run: Run, api_version: str | None) -> dict[str, Any]:
    status = api_status(run.status, api_version)
    return {
        "id": run.run_id,
        "taskIdentifier": run.task_identifier,
        "version": SHOWN_VERSION,
        "status": status,
        "createdAt": _at(run.created_at),
        "startedAt": _at(run.started_at),
        "updatedAt": _at(run.updated_at),
        "finishedAt": _at(run.finished_at),
        "expiredAt": _at(run.finished_at) if run.status == "EXPIRED" else None,
        "costInCents": 0,
        "baseCostInCents": 0,
        "durationMs": 0,
        "isTest": False,
        "depth": 0,
        "tags": sorted(run.tags),
        **api_flags(status),
        "triggerFunction": "trigger",
        "metadata": msgspec.Raw(run.metadata.encode()) if run.metadata else None,
    }


def _at(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
