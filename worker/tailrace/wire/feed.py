"""Decode the run feed: what upstream says of a run, its status and its stream keys.

Facts (protocol §3, §5): every value is a string or null; ``status`` is a *database* name; ``realtimeStreams`` is a
Postgres array literal that can name a key twice; runs from before 4.1 keep their keys in ``metadata``'s ``$$streams``;
in the Electric format an update carries only the columns that changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from tailrace.errors import MalformedRecord
from tailrace.model import RunView
from tailrace.redaction import excerpt
from tailrace.wire.run_fields import BadRow, bad_row, is_key, moment, run_id, status, tags, text
from tailrace.wire.statuses import api_status, is_terminal

OLD_KEYS = "$$streams"

_COLUMNS = (
    *("friendlyId", "status", "realtimeStreams", "metadata", "taskIdentifier", "runTags"),
    *("createdAt", "startedAt", "completedAt"),
)
"""Of a row nothing else is kept: upstream names all of an environment's runs, most of which nobody asked for."""


class FeedRows:
    """The rows of a run feed, merged as they come. One that can't be read keeps no other from being read.

    A row is read once for each change of it, not once for each look at all of them.
    """

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        self._read: dict[str, RunView | BadRow] = {}  # what became of those that have not changed since
        self._strays: list[BadRow] = []  # messages that are no part of any row
        self.up_to_date = False

    def feed(self, messages: Any) -> None:
        """Merge one response's messages, in order.

        Raises:
            MalformedRecord: they are no list.
        """
        if not isinstance(messages, list):
            raise MalformedRecord("the run feed is not a list of messages")
        self.up_to_date = False
        for message in messages:
            try:
                self._merge(message)
            except MalformedRecord as error:
                self._strays.append(bad_row(self._forget_row(message), "friendlyId", error))

    def _merge(self, message: Any) -> None:
        if not isinstance(message, dict):
            raise MalformedRecord("a message of the run feed is no object", field="message")
        headers, key, value = message.get("headers", {}), message.get("key"), message.get("value")
        if not isinstance(headers, dict):
            raise MalformedRecord("a message of the run feed has no headers", field="headers")
        if headers.get("control") == "up-to-date":
            self.up_to_date = True
        elif headers.get("operation") == "delete":
            self._rows.pop(str(key), None)
            self._read.pop(str(key), None)
        elif isinstance(key, str) and isinstance(value, dict):
            self._rows.setdefault(key, {}).update(_needed(value))
            self._read.pop(key, None)
        elif value is not None:
            raise MalformedRecord("a message of the run feed is no row of a run", field="value")

    def _forget_row(self, message: Any) -> Any:
        """Drop the row that a message was for, and return it: what it said of it is lost."""
        key = message.get("key") if isinstance(message, dict) else None
        if not isinstance(key, str):
            return None
        self._read.pop(key, None)
        return self._rows.pop(key, None)

    def runs(self) -> list[RunView]:
        """Return the runs that can be read, in the order in which upstream named them first."""
        return self.read()[0]

    def read(self) -> tuple[list[RunView], list[BadRow]]:
        """Return the runs that can be read, and what can't: rows that are wrong, messages since that were none."""
        for key, row in self._rows.items():
            if key not in self._read:
                self._read[key] = _read_row(row, "friendlyId", run_view)
        found = [self._read[key] for key in self._rows]
        strays, self._strays = self._strays, []
        return (
            [each for each in found if isinstance(each, RunView)],
            [*(each for each in found if isinstance(each, BadRow)), *strays],
        )


def _needed(value: dict[str, Any]) -> dict[str, Any]:
    """Return those columns of a row, or of a change of it, that are read. Metadata can be 256 kB a run."""
    kept = {name: value[name] for name in _COLUMNS if name in value}
    if isinstance(kept.get("metadata"), str):
        keys = _keys_of_old_runs(kept["metadata"])
        kept["metadata"] = json.dumps({OLD_KEYS: keys}) if keys else None
    return kept


def readable(
    rows: Iterable[Any], id_field: str, view: Callable[[dict[str, Any]], RunView]
) -> tuple[list[RunView], list[BadRow]]:
    """Read each row by itself; return those that can be read, in order, and what is wrong with the others."""
    read = [_read_row(row, id_field, view) for row in rows]
    return [row for row in read if isinstance(row, RunView)], [row for row in read if isinstance(row, BadRow)]


def _read_row(row: Any, id_field: str, view: Callable[[dict[str, Any]], RunView]) -> RunView | BadRow:
    try:
        if not isinstance(row, dict):
            raise MalformedRecord("a row is no object", field="row")
        return view(row)
    except MalformedRecord as error:
        return bad_row(row, id_field, error)


def run_view(row: dict[str, Any]) -> RunView:
    """Read one feed row.

    Raises:
        MalformedRecord: not the documented shape.
    """
    named = api_status(status(row, "status"))
    keys = [*_array(row, "realtimeStreams"), *_keys_of_old_runs(row.get("metadata"))]
    return RunView(
        run_id=run_id(row, "friendlyId"),
        status=named,
        terminal=is_terminal(named),
        stream_keys=tuple(dict.fromkeys(filter(is_key, keys))),
        task_identifier=text(row, "taskIdentifier"),
        tags=tags(_array(row, "runTags"), "runTags"),
        created_at=moment(row, "createdAt"),
        started_at=moment(row, "startedAt"),
        finished_at=moment(row, "completedAt"),
    )


def _array(row: dict[str, Any], field: str) -> list[str]:
    value = row.get(field)
    if not isinstance(value, str | None):
        raise MalformedRecord(f"{field} is no text: {excerpt(repr(value), 100)}", field=field)
    try:
        return array_literal(value or "{}")
    except MalformedRecord as error:
        raise MalformedRecord(f"{field}: {error}", field=field) from None


def array_literal(text: str) -> list[str]:
    """Read a one-dimensional Postgres array literal such as ``{ai,"odd \\"key\\""}``. Null elements are left out.

    Raises:
        MalformedRecord: not such a literal.
    """
    if len(text) < 2 or text[0] != "{" or text[-1] != "}":
        raise MalformedRecord(f"not an array literal: {excerpt(text, 100)!r}")
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
        raise MalformedRecord(f"not an array literal: {excerpt(text, 100)!r}")
    if item or quoted:
        _close(items, item, quoted)
    return items


def _close(items: list[str], item: list[str], quoted: bool) -> None:
    word = "".join(item)
    if quoted or word.upper() != "NULL":
        items.append(word)


def _keys_of_old_runs(metadata: Any) -> list[Any]:
    if not metadata or not isinstance(metadata, str):
        return []
    try:
        decoded = json.loads(metadata)
    except (ValueError, RecursionError):  # the run's own metadata: whatever is in it must not stop us
        return []
    keys = decoded.get(OLD_KEYS) if isinstance(decoded, dict) else None
    return keys if isinstance(keys, list) else []
