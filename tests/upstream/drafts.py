"""Records that a recording has no words for: what writers, Trigger.dev and S2 put into a v2 stream besides chunks."""

from __future__ import annotations

import json

from tailrace.serve.records import Draft, Headers


def undefined_draft(body_id: str, timestamp_ms: int | None = None) -> Draft:
    """A JavaScript writer's ``undefined``: an envelope without ``data``."""
    return Draft(b'{"id":%b}' % json.dumps(body_id).encode(), (), timestamp_ms)


def control_draft(kind: str, headers: Headers = (), timestamp_ms: int | None = None) -> Draft:
    """Trigger.dev's control record, such as ``turn-complete``: headers and no body."""
    return Draft(b"", (("trigger-control", kind), *headers), timestamp_ms)


def fence_draft(token: str, timestamp_ms: int | None = None) -> Draft:
    """The command that sets a fencing token."""
    return Draft(token.encode(), (("", "fence"),), timestamp_ms)


def trim_draft(first_kept: int, timestamp_ms: int | None = None) -> Draft:
    """The command that drops everything before ``first_kept``: its body is 8 raw bytes."""
    return Draft(first_kept.to_bytes(8, "big"), (("", "trim"),), timestamp_ms)
