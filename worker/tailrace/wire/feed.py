"""Decode the run feed: what upstream says of a run, its status and its stream keys.

Facts (protocol §3, §5): every value is a string or null; ``status`` is a *database* name; ``realtimeStreams`` is a
Postgres array literal that can name a key twice; runs from before 4.1 keep their keys in ``metadata``'s ``$$streams``;
in the Electric format an update carries only the columns that changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from tailrace.errors import MalformedRecord
from tailrace.model import RunView
from tailrace.wire.statuses import api_status, is_terminal

KEY_MAX_BYTES = 2_000
"""A longer key fits into no index of the archive (2 704 bytes), and hardly into a URL."""

_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")


class FeedRows:
    """The rows of a run feed, merged as they come."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        self.up_to_date = False

    def feed(self, messages: Any) -> None:
        """Merge one response's messages, in order.

        Raises:
            MalformedRecord: not the documented shape.
        """
        if not isinstance(messages, list):
            raise MalformedRecord("the run feed is not a list of messages")
        self.up_to_date = False
        for message in messages:
            if not isinstance(message, dict) or not isinstance(message.get("headers", {}), dict):
                raise MalformedRecord("a message of the run feed is not the documented shape")
            headers, key, value = message.get("headers", {}), message.get("key"), message.get("value")
            if headers.get("control") == "up-to-date":
                self.up_to_date = True
            elif headers.get("operation") == "delete":
                self._rows.pop(str(key), None)
            elif isinstance(key, str) and isinstance(value, dict):
                self._rows.setdefault(key, {}).update(value)
            elif value is not None:
                raise MalformedRecord("a row of the run feed is not the documented shape")

    def runs(self) -> list[RunView]:
        """Return the runs that have all that is needed, in the order in which upstream named them first."""
        return [run_view(row) for row in self._rows.values() if "friendlyId" in row and "status" in row]


def run_view(row: dict[str, Any]) -> RunView:
    """Read one feed row.

    Raises:
        MalformedRecord: not the documented shape.
    """
    for column in ("realtimeStreams", "runTags", "taskIdentifier", "createdAt", "startedAt", "completedAt"):
        if not isinstance(row.get(column), str | None):
            raise MalformedRecord(f"{column} in the run feed is no text")
    status = api_status(str(row["status"]))
    keys = [*array_literal(row.get("realtimeStreams") or "{}"), *_keys_of_old_runs(row.get("metadata"))]
    return RunView(
        run_id=storable(str(row["friendlyId"])),
        status=storable(status),
        terminal=is_terminal(status),
        stream_keys=tuple(dict.fromkeys(filter(_is_key, keys))),
        task_identifier=None if row.get("taskIdentifier") is None else storable(row["taskIdentifier"]),
        tags=tuple(storable(tag) for tag in array_literal(row.get("runTags") or "{}")),
        created_at=timestamp(row.get("createdAt")),
        started_at=timestamp(row.get("startedAt")),
        finished_at=timestamp(row.get("completedAt")),
    )


def storable(text: str) -> str:
    """Return a name of upstream's with U+FFFD for what no database takes in text: NUL, halves of surrogate pairs."""
    return _NOT_STORABLE.sub("\ufffd", text)


def array_literal(text: str) -> list[str]:
    """Read a one-dimensional Postgres array literal such as ``{ai,"odd \\"key\\""}``. Null elements are left out.

    Raises:
        MalformedRecord: not such a literal.
    """
    if len(text) < 2 or text[0] != "{" or text[-1] != "}":
        raise MalformedRecord(f"not an array literal: {text[:100]!r}")
    items: list[str] = []
    item: list[str] = []
    quoted = in_quotes = False
    inner = iter(text[1:-1])
    for char in inner:
        if char == "\\":
            item.append(next(inner, ""))
            quoted = True
        elif char == '"':
            in_quotes = not in_quotes
            quoted = True
        elif char == "," and not in_quotes:
            _close(items, item, quoted)
            item, quoted = [], False
        else:
            item.append(char)
    if in_quotes:
        raise MalformedRecord(f"not an array literal: {text[:100]!r}")
    if item or quoted:
        _close(items, item, quoted)
    return items


def _close(items: list[str], item: list[str], quoted: bool) -> None:
    word = "".join(item)
    if quoted or word.upper() != "NULL":
        items.append(word)


def timestamp(text: str | None) -> datetime | None:
    """Read a feed timestamp: UTC without a zone, ``T`` or a blank between date and time."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedRecord(f"not a timestamp: {text[:40]!r}") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _keys_of_old_runs(metadata: Any) -> Iterable[Any]:
    if not metadata or not isinstance(metadata, str):
        return []
    try:
        decoded = json.loads(metadata)
    except (ValueError, RecursionError):  # the run's own metadata: whatever is in it must not stop us
        return []
    keys = decoded.get("$$streams") if isinstance(decoded, dict) else None
    return keys if isinstance(keys, list) else []


def _is_key(value: Any) -> bool:
    """Return whether this can be a stream's key: text that a database holds and indexes. Upstream's comes from one."""
    return isinstance(value, str) and value != "" and storable(value) == value and len(value.encode()) <= KEY_MAX_BYTES
